"""§3 Subspace attention: what the operator is, and what it does to the rate."""

from __future__ import annotations

from typing import Any

import numpy as np

from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.section_3_neumann import mixture
from srr.theory.statement import Problem, Refutation, statement

SCALES = (1.0, 0.5, 0.1)  # the distortions at which network steps are measured


def _coordinates(rng: np.random.Generator) -> Problem:
    n, p = int(rng.integers(1, 7)), int(rng.integers(1, 5))
    return Problem(V=draws.spread(rng, 0.3, 3.0) * rng.standard_normal((n, p)), scale=draws.spread(rng, 0.2, 2.0))


def _naive_mssa(Z: Any, U: Any, *, scale: float = 1.0) -> Any:
    return sum(truth.attend(Z @ basis, scale=scale) @ basis.T for basis in U)


def _plain_mssa(Z: Any, U: Any) -> Any:
    """MSSA with explicit matrices, for tokens too many for the token-by-token truth."""
    total = np.zeros_like(Z)
    for basis in U:
        V = Z @ basis
        weights = np.exp(V @ V.T - np.max(V @ V.T, axis=1, keepdims=True))
        total += weights / weights.sum(axis=1, keepdims=True) @ V @ basis.T
    return total


@statement(
    label="crate-11",
    item="11",
    section=3,
    title="Subspace self-attention",
    formula=r"\mathrm{SSA}(V) = \mathrm{softmax}_{\mathrm{rows}}(s\, V V^\top) V",
    source="CRATE (11)",
    kind="identity",
    assumes="s = 1 in the theory, p^{-1/2} in the released networks.",
    inside=_coordinates,
)
def subspace_attention(lab: Lab, p: Problem) -> float:
    """Definition, token by token: the weights of a row sum to one, over the tokens it looks at."""
    return truth.error(lab.ops.ssa(p.V, scale=p.scale), truth.attend(p.V, scale=p.scale))


@statement(
    label="ssa-causal",
    item="11b",
    section=3,
    title="Causal attention: row i sees tokens j ≤ i",
    formula=r"\mathrm{SSA}_{\mathrm{causal}}(V)_i = \sum_{j \leq i} w_{ij} v_j, \quad w_{ij} \propto e^{s v_i "
    r"\cdot v_j}",
    source="CRATE (11), language form of LONG",
    kind="identity",
    assumes="Tokens in rows.",
    inside=_coordinates,
)
def causal_attention(lab: Lab, p: Problem) -> float:
    """Definition; the same through a boolean lower-triangular mask, where True means may be seen."""
    want = truth.attend(p.V, scale=p.scale, visible=lambda i, j: j <= i)
    lower = np.tril(np.ones((len(p.V), len(p.V)), dtype=bool))
    got = lab.ops.ssa(p.V, scale=p.scale, causal=True), lab.ops.ssa(p.V, scale=p.scale, mask=lower)
    return max(truth.error(value, want) for value in got)


def _small_heads(rng: np.random.Generator) -> Problem:
    p = draws.free_subspaces(rng)
    return Problem(Z=draws.unit_rows(p.Z), U=p.U / 2, out=rng.standard_normal(p.U.shape), bias=p.Z[0], scale=0.7)


@statement(
    label="crate-12",
    item="11c",
    section=3,
    title="Multi-head subspace self-attention",
    formula=r"\mathrm{MSSA}(Z) = \sum_k \mathrm{SSA}(Z U_k)\, U_k^\top",
    source="CRATE (12), without its factor β",
    kind="identity",
    assumes="Any bases; a free output map W and a bias replace U in released networks.",
    inside=_small_heads,
)
def multi_head(lab: Lab, p: Problem) -> float:
    """Definition, head by head; with the output map, heads are lifted by W_k instead of U_k."""
    heads = [truth.attend(p.Z @ basis, scale=p.scale) for basis in p.U]
    free = sum(head @ W.T for head, W in zip(heads, p.out, strict=True)) + p.bias
    return max(
        truth.error(lab.ops.mssa(p.Z, p.U), _naive_mssa(p.Z, p.U)),
        truth.error(lab.ops.mssa(p.Z, p.U, out=p.out, bias=p.bias, scale=p.scale), free),
    )


@statement(
    label="crate-10-falls",
    item="12",
    section=3,
    title="The step with its (1 − κβ) factor lowers the rate",
    formula=r"R^c((1 - \kappa\beta) Z + \kappa\beta\,\mathrm{MSSA}(Z)) \leq R^c(Z), \quad \kappa\beta = 1/2",
    source="CRATE (10)",
    kind="inequality",
    assumes="Unit tokens of the mixture in (13); ε = 1, 0.5, 0.1. An observation over this ensemble, without proof.",
    inside=mixture,
    quantity="largest change of R^c, in nats",
    samples=5,
)
def averaging_step(lab: Lab, p: Problem) -> float:
    """Averages of tokens have at most the tokens' norms, and half of each token is given up: the scale shrinks."""
    after = (p.Z + lab.ops.mssa(p.Z, p.U)) / 2
    return max(float(truth.subspace_rate(after, p.U, e) - truth.subspace_rate(p.Z, p.U, e)) for e in SCALES)


def _changes(lab: Lab, p: Problem, sign: float = 1.0) -> tuple[list[float], list[float]]:
    """Change of R^c by Z ± MSSA(Z), raw and with tokens put back to unit norm, at the three distortions."""
    after = p.Z + sign * lab.ops.mssa(p.Z, p.U)
    before = [float(truth.subspace_rate(p.Z, p.U, eps)) for eps in SCALES]
    raw = [float(truth.subspace_rate(after, p.U, eps)) for eps in SCALES]
    unit = [float(truth.subspace_rate(draws.unit_rows(after), p.U, eps)) for eps in SCALES]
    return [a - b for a, b in zip(raw, before, strict=True)], [a - b for a, b in zip(unit, before, strict=True)]


def _listed(numbers: list[float]) -> str:
    return " / ".join(f"{number:+.3f}" for number in numbers)


@statement(
    label="crate-18-compresses",
    item="12b",
    section=3,
    title="The network's step Z + MSSA(Z) does not compress at raw scale",
    formula=r"R^c(Z + \mathrm{MSSA}(Z)) \leq R^c(Z)",
    corrected=r"R^c(\mathrm{norm}(Z + \mathrm{MSSA}(Z))) \leq R^c(Z), \quad \mathrm{unit\;tokens}",
    source="CRATE (18)",
    kind="counter-example",
    assumes="Unit tokens of the mixture in (13); smallest case: one token in one dimension, where MSSA(Z) = Z.",
    inside=mixture,
    margin=0.1,
    samples=5,
)
def network_step(lab: Lab, p: Problem) -> Refutation:
    """The factor (1 − κβ) is gone, so tokens grow, and R^c with them; directions do gather. Put back to unit norm the
    tokens cost less, and the negated step costs more: compression is a statement about directions.
    """
    raw, unit = _changes(lab, p)
    _, negated = _changes(lab, p, sign=-1.0)
    scalar = lab.ops.mssa(np.ones((1, 1)), np.ones((1, 1, 1)))[0, 0]
    witness = (
        f"Z = U = 1 gives Z + MSSA = {1 + scalar:g}; ε = 1 / 0.5 / 0.1: raw {_listed(raw)}, "
        f"normalized {_listed(unit)}, negated and normalized {_listed(negated)} nats"
    )
    worst = max(0.0, *unit, *(-change for change in negated))
    return Refutation(min(raw), worst, witness)


@statement(
    label="indepth-decompresses",
    item="12c",
    section=3,
    title="Nor does it decompress tokens of fixed norm",
    formula=r"R^c(\mathrm{norm}(Z + \mathrm{MSSA}(Z))) \geq R^c(Z)",
    corrected=r"R^c(Z + \mathrm{MSSA}(Z)) \geq R^c(Z) \;\mathrm{at\;raw\;scale}",
    source="INDEPTH, Section 4",
    kind="counter-example",
    assumes="Unit tokens of the mixture in (13).",
    inside=mixture,
    margin=0.1,
    samples=5,
)
def decompression(lab: Lab, p: Problem) -> Refutation:
    """The same numbers read the other way: both claims are right, on two measures. A trace must report both."""
    raw, unit = _changes(lab, p)
    witness = f"ε = 1 / 0.5 / 0.1: normalized {_listed(unit)}, raw {_listed(raw)} nats"
    return Refutation(-min(unit), max(0.0, -min(raw)), witness)


def _mixed(rng: np.random.Generator, lam: float) -> Problem:
    p = mixture(rng)
    Q = draws.orthonormal(rng, len(p.Z), len(p.Z))
    return Problem(Z=p.Z @ np.hstack(list(p.U)), U=np.stack(np.split(np.eye(48), 6, axis=1)), eps=0.5, Q=Q, lam=lam)


@statement(
    label="membership-blind",
    item="14",
    section=3,
    title="The rates do not see which token belongs where",
    formula=r"(R - R^c)(QZ; U) = (R - R^c)(Z; U), \quad Q^\top Q = I_n",
    source="this project",
    kind="identity",
    assumes="Q any rotation of the token axis, which mixes clusters into each other; the ℓ1 norm and the softmax "
    "do see it.",
    inside=lambda rng: _mixed(rng, 0.0),
    outside=lambda rng: _mixed(rng, 0.1),
    breaks="λ > 0: the ℓ1 term changes when clusters are mixed",
    quantity="change, relative to R + R^c",
)
def membership_blind(lab: Lab, p: Problem) -> float:
    """(QZ)ᵀQZ = ZᵀZ. An isotropic Z without any cluster reaches the bound ½ d log K (statement 7f)."""
    got = lab.ops.sparse_rate_reduction(p.Q @ p.Z, p.U, eps=p.eps, lam=p.lam)
    rates = truth.rate(p.Z, p.eps), truth.subspace_rate(p.Z, p.U, p.eps)
    want = rates[0] - rates[1] - p.lam * np.abs(p.Z).sum()
    return float(abs(got - want) / sum(rates))
