"""Halves of a layer given back as what they are steps on: a problem, a solver, where it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from srr._array.checks import check_positive
from srr.nn.alternatives import CBSA, TSSA, OvercompleteISTA, ProxMM
from srr.nn.descent import Descending, EnergyAttention, FeasibleISTA, RateCompression, within
from srr.nn.layers import ISTA, MSSA
from srr.penalties import CenteredSpheres, NonnegativeL1, Penalty, Ridge
from srr.problems import Problem, SoftmaxEnergy, SparseCoding, SparseRateReduction, SubspaceCompression
from srr.solvers.layers import MajorizedSparsification, ResidualAttention
from srr.solvers.proximal import FixedStep, ProximalGradient

if TYPE_CHECKING:
    from srr.nn.blocks import Block

__all__ = ["HalfProblem"]


class HalfProblem(NamedTuple):
    """One half of a layer as steps of a solver on a problem.

    Args:
        problem: what is minimized, with the weights of the layer.
        solver: the method, or the half-step of :class:`srr.Alternating` that stands for it.
        start: first iterate.
        steps: how many steps the half takes.
    """

    problem: Problem[Penalty]
    solver: ProximalGradient | ResidualAttention | MajorizedSparsification
    start: Tensor
    steps: int = 1

    def run(self) -> Tensor:
        """Where the solver is after its steps."""
        problem: Any = self.problem
        Z: Any = self.start
        for _ in range(self.steps):
            if isinstance(self.solver, ProximalGradient):
                Z = self.solver.layer(problem, Z)[0]
            else:
                Z = self.solver(problem, Z)
        return Z


def half_problem(block: Block, Z: Tensor, half: str = "compress", *, eps: float = 0.5) -> HalfProblem:
    """The problem and the solver whose steps a half of a layer takes, with its weights as they are.

    Args:
        block: the layer.
        Z: tokens (..., n, d) that enter the half: Z^ℓ for ``compress``, Z^{ℓ+1/2} for ``sparsify``.
        half: ``compress`` or ``sparsify``.
        eps: distortion ε of the compression rate, for layers that have none of their own.

    Raises:
        ValueError: the half is a step on no objective, or one that no solver of srr takes.
    """
    if half not in block.objective:
        raise ValueError(f"half must be one of {sorted(block.objective)}; got {half!r}")
    check_positive(eps, "eps")
    stated, found = block.objective[half], None
    with torch.no_grad():
        if stated.function is not None and half == "compress":
            found = compression_problem(block.attention, block.attention_norm, Z, block.variant.sign, eps)
        elif stated.function is not None and block.dictionary is not None:
            found = coding_problem(block.dictionary, block.dictionary_norm(Z), block.attention.U)
    if found is None:
        why = "a step on no objective" if stated.function is None else f"no step of a solver on {stated.function}"
        raise ValueError(f"{half} of this layer is {why}: {stated.note}")
    return found


@torch.no_grad()
def half_step(block: Block, Z: Tensor, half: str = "compress") -> Tensor:
    """A half of a layer taken by the solver of its problem, decoded and added where the layer does.

    The same as the layer's own half up to rounding; same arguments.
    """
    found = half_problem(block, Z, half, eps=1.0).run()  # no step depends on the ε that the problem is measured with
    if half == "compress":
        return found
    if isinstance(block.dictionary, OvercompleteISTA):
        found = found @ block.dictionary.D1.mT
    return Z + found if block.variant.residual else found


def compression_problem(attention: nn.Module, norm: nn.Module, Z: Tensor, sign: int, eps: float) -> HalfProblem | None:
    """The compressing half from the tokens before the layer; None where no solver of srr takes its step."""
    if isinstance(attention, Descending):
        return _descending_problem(attention, norm(Z))
    if not isinstance(attention, MSSA) or isinstance(attention, TSSA | CBSA) or attention.causal:
        return None
    out = attention.out if attention.lifted else torch.eye(attention.dim, dtype=Z.dtype, device=Z.device)[None]
    bias = attention.bias
    solver = ResidualAttention(attention.scale, norm, sign * out, None if bias is None else sign * bias)
    return HalfProblem(SubspaceCompression(attention.U.detach(), eps, Ridge()), solver, Z)


def _descending_problem(attention: Descending, H: Tensor) -> HalfProblem | None:
    """A projected gradient step among centered tokens with the norms of H."""
    spheres = CenteredSpheres(torch.linalg.vector_norm(H, dim=-1, keepdim=True))
    problem: Problem[Penalty]
    if isinstance(attention, RateCompression):
        problem = SubspaceCompression(attention.U.detach(), attention.distortion(H, None), spheres)
    elif isinstance(attention, EnergyAttention):
        keys, seen = attention.coordinates(H), attention.seen(H, None, None)
        problem = SoftmaxEnergy(
            attention.U.detach(), keys, attention.sigma.detach(), within(attention.log_scale).exp(), spheres, seen
        )
    else:
        return None
    steps = attention.steps if isinstance(attention, RateCompression) else 1
    return HalfProblem(problem, ProximalGradient(FixedStep(attention.length(H))), H, steps)


def coding_problem(coder: nn.Module | None, X: Tensor, U: Tensor) -> HalfProblem | None:
    """The sparsifying half from the normalized tokens between the halves; None where no solver takes its step."""
    if isinstance(coder, ProxMM):
        alpha = 1.0 / (coder.curvature * coder.step)
        eps = (X.shape[-1] / (X.shape[-2] * alpha)) ** 0.5
        problem = SparseRateReduction(U.detach(), eps, NonnegativeL1(coder.lam))
        return HalfProblem(problem, MajorizedSparsification(coder.lam, coder.D.detach(), coder.curvature), X)
    if not isinstance(coder, ISTA | FeasibleISTA | OvercompleteISTA):
        return None
    lasso = SparseCoding(X, coder.D.detach(), NonnegativeL1(coder.lam))
    if isinstance(coder, OvercompleteISTA):
        zero = X.new_zeros(*X.shape[:-1], coder.D.shape[-1])
        return HalfProblem(lasso, ProximalGradient(FixedStep(coder.step)), zero, 2)
    if isinstance(coder, FeasibleISTA):
        return HalfProblem(lasso, ProximalGradient(FixedStep(coder.length())), coder.first(X), coder.steps)
    return HalfProblem(lasso, ProximalGradient(FixedStep(coder.step)), X)
