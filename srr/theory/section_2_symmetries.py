"""§2 Symmetries: the operator on the transformed problem against the truth on the original one."""

from __future__ import annotations

from typing import Any

import numpy as np

from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Problem, statement


def _transformed(rng: np.random.Generator) -> Problem:
    p = draws.subspaces(rng)
    K, d, width = p.U.shape
    n = len(p.Z)
    return Problem(
        **vars(p),
        rows=rng.permutation(n),
        heads=rng.permutation(K),
        inner=np.stack([draws.orthonormal(rng, width, width) for _ in range(K)]),
        turn=draws.orthonormal(rng, d, d),
        mix=draws.orthonormal(rng, n, n),
    )


def _objective(p: Problem) -> float:
    return float(truth.rate(p.Z, p.eps) - truth.subspace_rate(p.Z, p.U, p.eps))


def _change(lab: Lab, p: Problem, Z: Any, U: Any) -> float:
    """Change of R − R^c under a transformation, relative to the sizes of both."""
    got = lab.ops.sparse_rate_reduction(np.ascontiguousarray(Z), np.ascontiguousarray(U), eps=p.eps, lam=0.0)
    return float(abs(got - _objective(p)) / float(truth.rate(p.Z, p.eps) + truth.subspace_rate(p.Z, p.U, p.eps)))


@statement(
    label="symmetry-tokens",
    item="8",
    section=2,
    title="The order of tokens does not matter",
    formula=r"(R - R^c)(PZ; U) = (R - R^c)(Z; U), \quad P \;\mathrm{a\;permutation}",
    source="CRATE (7)-(8)",
    kind="identity",
    assumes="None.",
    rounding=1e5,
    inside=_transformed,
    quantity="change, relative to R + R^c",
)
def token_permutation(lab: Lab, p: Problem) -> float:
    """(PZ)ᵀPZ = ZᵀZ; the gradient moves with the rows."""
    want = truth.gradient(lambda Z: truth.subspace_rate(Z, p.U, p.eps), p.Z)[p.rows]
    moved = lab.ops.subspace_coding_rate_grad(p.Z[p.rows], p.U, eps=p.eps)
    return max(_change(lab, p, p.Z[p.rows], p.U), truth.error(moved, want))


@statement(
    label="symmetry-heads",
    item="8b",
    section=2,
    title="The order of heads does not matter",
    formula=r"R^c(Z; U_{\pi(1)}, \ldots, U_{\pi(K)}) = R^c(Z; U_1, \ldots, U_K)",
    source="CRATE (8)",
    kind="identity",
    assumes="None.",
    inside=_transformed,
    quantity="change, relative to R + R^c",
)
def head_permutation(lab: Lab, p: Problem) -> float:
    """A sum over heads."""
    return _change(lab, p, p.Z, p.U[p.heads])


def _sheared(rng: np.random.Generator) -> Problem:
    p = _transformed(rng)
    return Problem(**vars(p) | {"inner": 2.0 * p.inner})


@statement(
    label="symmetry-within-head",
    item="8c",
    section=2,
    title="Only the subspace matters, not its basis",
    formula=r"R^c(Z; U_k Q_k) = R^c(Z; U_k), \quad Q_k^\top Q_k = I_p",
    source="CRATE (8)",
    kind="identity",
    assumes="Q_k orthogonal.",
    inside=_transformed,
    outside=_sheared,
    breaks="a change of basis that is not orthogonal",
    quantity="change, relative to R + R^c",
)
def within_head(lab: Lab, p: Problem) -> float:
    """det(I + βQᵀVᵀVQ) = det(Qᵀ(I + βVᵀV)Q)."""
    return _change(lab, p, p.Z, p.U @ p.inner)


@statement(
    label="symmetry-rotation",
    item="8d",
    section=2,
    title="Tokens and bases may be rotated together",
    formula=r"(R - R^c)(ZQ; Q^\top U) = (R - R^c)(Z; U), \quad \Vert ZQ \cdot Q^\top D\Vert_1 = \Vert ZD \Vert_1",
    source="CRATE (7)-(8)",
    kind="identity",
    assumes="The sparse frame D is rotated too.",
    inside=lambda rng: Problem(**vars(_transformed(rng)) | {"frame": True}),
    outside=lambda rng: Problem(**vars(_transformed(rng)) | {"frame": False}),
    breaks="the ℓ1 norm measured in the standard basis, which does not turn along",
    quantity="change, relative to the objective's terms",
)
def rotation(lab: Lab, p: Problem) -> float:
    """V_k = ZQ·QᵀU_k is unchanged, det(I + αQᵀZᵀZQ) too; the ℓ1 norm is invariant only with its frame."""
    Z, U = p.Z @ p.turn, p.turn.T @ p.U
    if p.frame:
        return _change(lab, p, Z, U)
    got = lab.ops.sparse_rate_reduction(Z, np.ascontiguousarray(U), eps=p.eps, lam=0.1)
    sparse = 0.1 * np.abs(p.Z).sum()
    return float(abs(got - (_objective(p) - sparse)) / float(truth.rate(p.Z, p.eps) + sparse))
