"""§5 Compression from second moments alone: the variational bound and token-statistics attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Problem, statement

CONCAVE: tuple[Callable[[Any], Any], ...] = (np.log1p, np.sqrt, np.tanh)


def _framed(rng: np.random.Generator) -> Problem:
    p = draws.tokens(rng)
    d = p.Z.shape[1]
    return Problem(Z=p.Z, scale=1 / p.eps, Q=draws.orthonormal(rng, d, d), convex=False)


def _convex(rng: np.random.Generator) -> Problem:
    return Problem(**vars(_framed(rng)) | {"convex": True})


@statement(
    label="vmcr2-bound",
    item="26",
    section=5,
    title="Diagonals in any frame bound the spectrum's cost from above",
    formula=r"\sum_i f(\lambda_i(M)) \leq \sum_i f((Q^\top M Q)_{ii}), \quad f \;\mathrm{concave}, \; Q^\top Q = I",
    source="VMCR2, Theorem 1; TOST (9)",
    kind="inequality",
    assumes="M positive semidefinite, f = log(1 + x), √x, tanh x; equality in an eigenbasis.",
    inside=_framed,
    outside=_convex,
    breaks="a convex f = x²: the inequality turns round",
    quantity="excess over the bound, or gap in an eigenbasis, relative",
    rounding=1e5,
)
def variational_bound(lab: Lab, p: Problem) -> float:
    """The diagonal of QᵀMQ is a doubly stochastic average of the eigenvalues (Schur), so Jensen's inequality applies.
    With f = log(1 + x) the left side is the operator's log-determinant.
    """
    M = p.scale * p.Z.T @ p.Z
    values, frame = np.linalg.eigh(M)
    functions = (np.square,) if p.convex else CONCAVE
    worst = -np.inf
    for f in functions:
        left = float(np.sum(f(np.maximum(values, 0.0))))
        turned, eigen = (float(np.sum(f(np.maximum(np.diag(Q.T @ M @ Q), 0.0)))) for Q in (p.Q, frame))
        worst = max(worst, left / turned - 1, (abs(eigen / left - 1) if f is not np.sqrt else 0.0))
    if p.convex:
        return worst
    return max(worst, float(lab.ops.gram_logdet(p.Z, p.scale)) / float(np.sum(np.log1p(np.maximum(values, 0)))) - 1)


def _heads(rng: np.random.Generator) -> Problem:
    p = draws.subspaces(rng)
    return Problem(Z=p.Z, U=p.U, eta=draws.spread(rng, 0.3, 3.0))


@statement(
    label="tost-step",
    item="26b",
    section=5,
    title="Token-statistics attention is the gradient of the bound",
    formula=r"-\frac{1}{n}\sum_k \mathrm{diag}(\pi_k) V_k D_k U_k^\top, \quad "
    r"D_k = \mathrm{diag}\, f^\prime\left(\frac{\pi_k^\top V_k^{\circ 2}}{\langle\pi_k, 1\rangle}\right)",
    source="TOST (13)-(14)",
    kind="identity",
    assumes="Membership π held fixed, f = log(1 + x), π = softmax over heads of ‖U_kᵀz‖²/(2η).",
    inside=_heads,
)
def token_statistics(lab: Lab, p: Problem) -> float:
    """Differentiate Σ_k ⟨π_k, 1⟩/(2n) Σ_i f of the weighted second moment of coordinate i: the ½ meets the square."""
    energy = np.sum((p.Z[None] @ p.U) ** 2, axis=-1).T / (2 * p.eta)
    share = np.stack([truth.softmax(row) for row in energy])

    def bound(Z: Any) -> Any:
        total = 0.0
        for weights, basis in zip(share.T, p.U, strict=True):
            moments = weights @ (Z @ basis) ** 2 / weights.sum()
            total = total + weights.sum() / (2 * len(Z)) * np.sum(np.log(1 + moments))
        return total

    return truth.error(lab.ops.tssa(p.Z, p.U, temperature=p.eta), -truth.gradient(bound, p.Z))


def _coordinates(rng: np.random.Generator) -> Problem:
    K, n, p = (int(size) for size in rng.integers(1, 5, size=3))
    return Problem(V=rng.standard_normal((K, n, p)), temperature=rng.uniform(0.5, 2.0, size=(K, 1)))


@statement(
    label="tost-released",
    item="26c",
    section=5,
    title="The released form normalizes over tokens and drops 1/n",
    formula=r"-\Pi \circ V \oslash (1 + m), \quad \Pi = \mathrm{softmax}_k\left(T_k \Vert \hat V_{ki}\Vert^2\right), "
    r"\; m_k = \frac{\sum_i \Pi_{ki} V_{ki}^{\circ 2}}{\sum_i \Pi_{ki}}",
    source="TOST, released vision networks",
    kind="identity",
    assumes="V̂ has every coordinate divided by its norm over tokens; 1e-8 guards the division by the mass.",
    inside=_coordinates,
    rounding=1e5,
)
def released_form(lab: Lab, p: Problem) -> float:
    """Definition, with loops over heads and tokens; the causal form must give token i what the first i tokens give
    their last.
    """
    plain = truth.error(lab.ops.tssa_heads(p.V, p.temperature), _released(p.V, p.temperature))
    causal = lab.ops.tssa_heads(p.V, p.temperature, causal=True)
    n = p.V.shape[1]
    growing = np.stack([_released_causal(p.V[:, : i + 1], p.temperature)[:, -1] for i in range(n)], axis=1)
    return max(plain, truth.error(causal, growing))


def _released(V: Any, temperature: Any) -> Any:
    """The whole-sequence form."""
    unit = V / np.sqrt(np.sum(V**2, axis=1, keepdims=True))
    return _weighted(V, np.sum(unit**2, axis=-1) * temperature)


def _released_causal(V: Any, temperature: Any) -> Any:
    """The form at the end of a sequence, where the memberships of earlier tokens were fixed in their own time."""
    running = np.stack([np.sum(V[:, : i + 1] ** 2, axis=1) for i in range(V.shape[1])], axis=1)
    return _weighted(V, np.sum(V**2 / running, axis=-1) * temperature)


def _weighted(V: Any, scores: Any) -> Any:
    share = np.stack([truth.softmax(column) for column in scores.T], axis=1)
    out = np.zeros_like(V)
    for k in range(len(V)):
        moment = share[k] @ V[k] ** 2 / (share[k].sum() + 1e-8)
        out[k] = -share[k][:, None] * V[k] / (1 + moment)
    return out
