"""§3 From the Gram matrix to the softmax: a heuristic without a bound, so its gap is measured."""

from __future__ import annotations

import numpy as np

from srr.theory.lab import Lab
from srr.theory.section_3_neumann import mixture
from srr.theory.statement import Problem, Series, statement


@statement(
    label="crate-10",
    item="11d",
    section=3,
    title="Replacing the Gram matrix by a softmax is a heuristic",
    formula=r"Z - \kappa\nabla R^c(Z; U) \approx (1 - \kappa\beta) Z + \kappa\beta\,\mathrm{MSSA}(Z), "
    r"\quad \kappa\beta = 1",
    source="CRATE (10)",
    kind="approximation",
    assumes="64 unit tokens near six subspaces that fill the space; ε from 3 down to 0.1, inside for ε ≥ 1. "
    "No bound is known; the gap is measured.",
    inside=mixture,
    quantity="difference of the steps, relative to the exact step",
    bound=0.3,
    parameter="distortion ε",
    breaks="for small ε the exact step stays small while the softmax step does not: the gap grows without limit",
    samples=3,
)
def softmax_heuristic(lab: Lab, p: Problem) -> Series:
    """For large ε the exact step is −Z and MSSA is nearly the mean token; for small ε the resolvent vanishes on every
    direction that holds energy, and the softmax knows nothing of it.
    """
    distortions, gaps = np.geomspace(0.1, 3.0, 12), []
    softmax_step = lab.ops.mssa(p.Z, p.U) - p.Z
    for eps in distortions:
        step = len(p.Z) * eps**2 / p.U.shape[2]
        exact = lab.ops.compression_step(p.Z, p.U, step=float(step), eps=float(eps)) - p.Z
        gaps.append(float(np.linalg.norm(softmax_step - exact) / np.linalg.norm(exact)))
    return Series(distortions, gaps, distortions >= 1)


@statement(
    label="crate-10-scale",
    item="11e",
    section=3,
    title="The softmax step and the scale of the tokens",
    formula=r"\Vert (\mathrm{MSSA}(sZ) - sZ) + \nabla R^c(sZ)/\beta \Vert \;\mathrm{relative\;to}\; "
    r"\Vert\nabla R^c(sZ)/\beta\Vert",
    source="measures CRATE (10)",
    kind="approximation",
    assumes="The mixture of (13) at ε = 1, tokens of norm s from 0.1 to 10; inside for s ≤ 1.",
    inside=mixture,
    quantity="difference of the steps, relative to the exact step",
    bound=0.4,
    parameter="norm of the tokens",
    breaks="long tokens attend to themselves only: MSSA(Z) − Z vanishes more slowly than the exact step",
    samples=3,
)
def heuristic_scale(lab: Lab, p: Problem) -> Series:
    """Short tokens attend to all alike and both steps are nearly −Z; for long ones the resolvent divides by β‖V‖²
    where the softmax knows only which token is nearest.
    """
    sizes, gaps = np.geomspace(0.1, 10.0, 9), []
    step = len(p.Z) / p.U.shape[2]
    for s in sizes:
        exact = lab.ops.compression_step(s * p.Z, p.U, step=step, eps=1.0) - s * p.Z
        heuristic = lab.ops.mssa(s * p.Z, p.U) - s * p.Z
        gaps.append(float(np.linalg.norm(heuristic - exact) / np.linalg.norm(exact)))
    return Series(sizes, gaps, sizes <= 1.001)


@statement(
    label="crate-10-depth",
    item="11f",
    section=3,
    title="Layer by layer the softmax network leaves the exact descent",
    formula=r"\Vert Z^\ell_{\mathrm{softmax}} - Z^\ell_{\mathrm{exact}} \Vert / \Vert Z^\ell_{\mathrm{exact}} \Vert, "
    r"\quad \kappa\beta = 0.2",
    source="measures CRATE (10)",
    kind="approximation",
    assumes="The mixture of (13) at ε = 1, 1 to 12 layers from the same tokens; inside up to three.",
    inside=mixture,
    quantity="distance of the two networks' tokens, relative",
    bound=0.25,
    parameter="depth",
    breaks="the gap grows with every layer and passes the size of the tokens near ten",
    samples=3,
)
def heuristic_depth(lab: Lab, p: Problem) -> Series:
    """Each layer adds its own error, and both networks shrink the tokens: the relative gap grows a little faster than
    the depth.
    """
    step = 0.2 * len(p.Z) / p.U.shape[2]
    exact = softmax = p.Z
    gaps = []
    for _ in range(12):
        exact = lab.ops.compression_step(exact, p.U, step=step, eps=1.0)
        softmax = 0.8 * softmax + 0.2 * lab.ops.mssa(softmax, p.U)
        gaps.append(float(np.linalg.norm(softmax - exact) / np.linalg.norm(exact)))
    depth = np.arange(1, 13)
    return Series(depth, gaps, depth <= 3)
