"""Whether every half-step of a network lowered the objective it is a step on, input by input, in float64.

A half that descends for any weights is held to its guarantee. A half that is derived from an objective but descends
nothing provably, as in the released networks, is measured on that objective, and what rises is said.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from srr._array.checks import check_positive
from srr._array.namespace import Array
from srr.ops.rates import bare_subspace_coding_rate
from srr.ops.sparse import bare_lasso

if TYPE_CHECKING:
    from torch import Tensor, nn

Numbers = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["certify", "Certificate", "LayerHalf"]

ROUNDING = 1e-12  # of the objective: float64 sums over some thousand entries, and a guarantee computed from two of them


class LayerHalf(NamedTuple):
    """What one half of one layer did, one number per input.

    Args:
        layer: number of the layer, from 0.
        half: ``compress`` or ``sparsify``.
        function: the objective that it is a step on, in words.
        proved: whether it descends for any weights.
        before: objective at the tokens that entered, in nats (compression) or squared units of a token (coding).
        after: objective at the tokens that left.
        guaranteed: how much it must have fallen; 0 where nothing is proved.
    """

    layer: int
    half: str
    function: str
    proved: bool
    before: Numbers
    after: Numbers
    guaranteed: Numbers

    @property
    def slack(self) -> Numbers:
        """What rounding may take from a comparison, per input."""
        return ROUNDING * (np.abs(self.before) + np.abs(self.after) + self.guaranteed)

    @property
    def violations(self) -> int:
        """Inputs for which a proved half fell by less than it must, zero, or the code is wrong."""
        kept = self.before - self.after >= self.guaranteed - self.slack  # not a number counts as broken
        return int(np.sum(~kept)) if self.proved else 0

    @property
    def rises(self) -> int:
        """Inputs for which the objective is higher after the half."""
        return int(np.sum(~(self.after <= self.before + self.slack)))


@dataclass(frozen=True)
class Certificate:
    """All half-steps of one forward pass.

    Args:
        half_steps: in the order of the network; halves without an objective are left out.
        without: the halves that are steps on nothing, as ``layer.half``.
    """

    half_steps: tuple[LayerHalf, ...]
    without: tuple[str, ...]

    @property
    def violations(self) -> int:
        """Inputs and half-steps that broke a guarantee."""
        return sum(step.violations for step in self.half_steps)

    @property
    def rises(self) -> int:
        """Inputs and half-steps that raised the objective."""
        return sum(step.rises for step in self.half_steps)

    def rows(self) -> list[dict[str, float | int | str | bool]]:
        """One dictionary a half-step, ready for a table or a CSV file; objectives are means over the inputs."""
        return [
            {
                "layer": step.layer,
                "half": step.half,
                "objective": step.function,
                "proved": step.proved,
                "before": float(step.before.mean()),
                "after": float(step.after.mean()),
                "guaranteed": float(step.guaranteed.mean()),
                "rises": step.rises,
                "largest_rise": float(np.max(step.after - step.before, initial=0.0)),
                "violations": step.violations,
                "inputs": len(step.before),
            }
            for step in self.half_steps
        ]

    def __str__(self) -> str:
        """A table and the verdict in one sentence."""
        numbers = "".join(f"{name:>13}" for name in ("before", "after", "guaranteed"))
        lines = [f"{'layer':>5} {'half':<9}{numbers}{'rises':>8}{'violations':>12}  objective"]
        for row in self.rows():
            guarantee = f"{row['guaranteed']:13.5g}" if row["proved"] else f"{'none':>13}"
            lines.append(
                f"{row['layer']:>5} {row['half']:<9}{row['before']:13.5g}{row['after']:13.5g}{guarantee}"
                f"{row['rises']:>8}{row['violations']:>12}  {row['objective']}"
            )
        return "\n".join([*lines, self.verdict])

    @property
    def verdict(self) -> str:
        """What was found, in one or two sentences."""
        total = sum(len(step.before) for step in self.half_steps)
        proved = sum(len(step.before) for step in self.half_steps if step.proved)
        said = f"{proved} of {total} half-steps are proved to descend: {self.violations} violations."
        if proved < total:
            risen = sum(step.rises for step in self.half_steps if not step.proved)
            said += f" Of the {total - proved} others {risen} raised the objective they are derived from."
        if self.without:
            said += f" {len(self.without)} halves of layers are a step on no objective and were not measured."
        return said


def certify(model: nn.Module, inputs: Array, *, eps: float = 0.5) -> Certificate:
    r"""Objective before and after every half-step of a network, for every input, in float64.

    Halves of ``block="crate_descent"`` and ``block="crate_energy"`` are held to the decrease their theorem guarantees;
    the objective is each layer's own and is never compared across layers. The halves of other layers are measured on
    the objective they are derived from: R^c(Z; U) of the tokens as they are before and after, and
    ½‖X − A Dᵀ‖² + λ‖A‖₁ at A = X, from where the network starts, and at the codes.

    A measurement in float64, not a proof about exact arithmetic: a comparison within 1e-12 of the objective counts as
    kept.

    Args:
        model: a network with ``blocks``; it is copied, not changed.
        inputs: what the network takes (images, symbols).
        eps: distortion ε for layers that have none of their own.

    Returns:
        A :class:`srr.certificates.Certificate`; ``print`` shows it.

    Raises:
        ValueError: a network without blocks, eps not positive.

    Source: theory 5 and 15, and the majorization on the sphere of layer norm.

    Example:
        >>> import srr, torch
        >>> from srr.nn import create_model
        >>> model = create_model("crate_micro", block="crate_descent")
        >>> srr.certify(model, torch.randn(3, 1, 8, 8)).violations
        0
    """
    import torch

    from srr.nn.probe import evaluating, layer_states

    check_positive(eps, "eps")
    model = copy.deepcopy(model).double()
    tokens: Any = inputs
    with torch.no_grad(), evaluating(model), layer_states(model) as seen:
        model(tokens.double() if tokens.is_floating_point() else tokens)
        steps, without = [], []
        for layer, state in seen.items():
            for half, found in _measured(state.block, state.before, eps).items():
                if found is None:
                    without.append(f"{layer}.{half}")
                else:
                    steps.append(LayerHalf(layer, half, *found))
    return Certificate(tuple(steps), tuple(without))


Found = tuple[str, bool, Numbers, Numbers, Numbers]


def _measured(block: Any, Z: Tensor, eps: float) -> dict[str, Found | None]:
    """For each half: its objective in words, whether it is proved, and the objective before and after."""
    halves: dict[str, Found | None] = {}
    descents = block.descents(Z)
    for half, stated in block.objective.items():
        found = descents[half]
        values = _derived(block, half, Z, eps) if found is None else found
        if stated.function is None or values is None:
            halves[half] = None
            continue
        before, after, guaranteed = (np.asarray(x.cpu().numpy(), dtype=np.float64) for x in values)
        halves[half] = (stated.function, found is not None, before, after, guaranteed)
    return halves


def _derived(block: Any, half: str, Z: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor] | None:
    """The objective that a half is derived from, before and after it, where nothing is proved; None without one."""
    import torch

    from srr.nn.halves import RATE
    from srr.nn.layers import ISTA, TORCH

    moved = block.compress(Z)
    if half == "compress" and block.objective[half].function == RATE:
        rtol = 64 * torch.finfo(Z.dtype).eps
        before, after = (bare_subspace_coding_rate(X, block.attention.U, eps, rtol, TORCH) for X in (Z, moved))
    elif half == "sparsify" and isinstance(block.dictionary, ISTA):
        coder, X = block.dictionary, block.dictionary_norm(moved)
        before, after = (bare_lasso(A, X, coder.D, coder.lam, TORCH) for A in (X, coder.forward(X)))
    else:
        return None
    return before, after, torch.zeros_like(before)
