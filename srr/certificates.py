"""Whether every half-step of a network lowered the objective it is a step on, input by input.

Measured in float64, or proved in ball arithmetic with tokens and weights read as exact binary numbers.

A half that descends for any weights is held to its guarantee. A half that is derived from an objective but descends
nothing provably, as in the released networks, is measured on that objective, and what rises is said.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from srr._array.balls import FIRST, Ball, ends_of, inner, load, matrix, rate_of, rate_slope, spectral_bound, total
from srr._array.checks import check_positive
from srr._array.namespace import Array
from srr.ops.rates import bare_subspace_coding_rate
from srr.ops.sparse import bare_lasso

if TYPE_CHECKING:
    from torch import Tensor, nn

Numbers = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["certify", "Certificate", "EnclosedHalf", "LayerHalf"]

ROUNDING = 1e-12  # of the objective: float64 sums over some thousand entries, and a guarantee computed from two of them
ENOUGH = 512  # bits at which a comparison that balls cannot decide is given up


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
        enclosed: what ball arithmetic says of it; None where that was not asked for, or nothing is proved.
    """

    layer: int
    half: str
    function: str
    proved: bool
    before: Numbers
    after: Numbers
    guaranteed: Numbers
    enclosed: EnclosedHalf | None = None

    @property
    def slack(self) -> Numbers:
        """What rounding may take from a comparison, per input."""
        return ROUNDING * (np.abs(self.before) + np.abs(self.after) + self.guaranteed)

    @property
    def violations(self) -> int:
        """Inputs for which a proved half fell by less than it must, zero, or the code is wrong."""
        if self.enclosed is not None:
            return self.enclosed.violations
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
        found: list[dict[str, float | int | str | bool]] = []
        rigorous = any(step.enclosed is not None for step in self.half_steps)
        for step in self.half_steps:
            row: dict[str, float | int | str | bool] = {
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
            found.append(row | (_columns(step.enclosed) if rigorous else {}))
        return found

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
        balls = [step.enclosed for step in self.half_steps if step.enclosed is not None]
        if balls:
            decided, shy, bits = (
                sum(e.proofs for e in balls),
                sum(e.undecided for e in balls),
                max(e.bits for e in balls),
            )
            said += f" In balls of up to {bits} bits {decided} fall by their guarantee, proved; {shy} are undecided."
        if self.without:
            said += f" {len(self.without)} halves of layers are a step on no objective and were not measured."
        return said


def _columns(found: EnclosedHalf | None) -> dict[str, float | int | str | bool]:
    """What the row of a half says in addition in a rigorous certificate."""
    if found is None:
        return {"enclosed": 0, "undecided": 0, "least_margin": float("nan"), "bits": 0}
    least = float(np.min(found.margin[:, 0], initial=np.inf))
    return {"enclosed": found.proofs, "undecided": found.undecided, "least_margin": least, "bits": found.bits}


def certify(model: nn.Module, inputs: Array, *, eps: float = 0.5, rigorous: bool = False) -> Certificate:
    r"""Objective before and after every half-step of a network, for every input, in float64.

    Halves of ``block="crate_descent"`` and ``block="crate_energy"`` are held to the decrease their theorem guarantees;
    the objective is each layer's own and is never compared across layers. The halves of other layers are measured on
    the objective they are derived from: R^c(Z; U) of the tokens as they are before and after, and
    ½‖X − A Dᵀ‖² + λ‖A‖₁ at A = X, from where the network starts, and at the codes.

    In float64 this is a measurement: a comparison within 1e-12 of the objective counts as kept. With ``rigorous`` every
    half of a descending layer is a theorem about these weights and these tokens: the tokens that enter a layer, all
    weights and the length of the step are read as exact binary numbers, layer norm, step, projection and objective run
    in ball arithmetic, and the decrease beyond the guarantee is enclosed, at raised precision until its sign is sure.

    Args:
        model: a network with ``blocks``; it is copied, not changed.
        inputs: what the network takes (images, symbols).
        eps: distortion ε for layers that have none of their own.
        rigorous: enclose every half of a descending layer as well; needs the extra ``verify``.

    Returns:
        A :class:`srr.certificates.Certificate`; ``print`` shows it.

    Raises:
        ValueError: a network without blocks, eps not positive.
        ImportError: a rigorous certificate without python-flint.

    Source: theory 5 and 15, and the majorization on the sphere of layer norm.

    Example:
        >>> import srr, torch
        >>> from srr.nn import create_model
        >>> model = create_model("crate_micro", block="crate_descent")
        >>> images = torch.randn(3, 1, 8, 8)
        >>> srr.certify(model, images).violations
        0
        >>> proof = srr.certify(model, images[:1], rigorous=True)
        >>> [half.enclosed.proofs for half in proof.half_steps]
        [1, 1, 1, 1, 1, 1, 1, 1]
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
                    balls = _enclosed(state.block, half, state.before) if rigorous and found[1] else None
                    steps.append(LayerHalf(layer, half, *found, balls))
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


# --- The same in ball arithmetic


class EnclosedHalf(NamedTuple):
    """What balls say of one half of one layer: lower and upper ends, one number per input.

    Args:
        before: objective at the tokens that entered, shape (inputs, 2).
        after: objective at the tokens that left, shape (inputs, 2).
        margin: before − after − guaranteed, shape (inputs, 2); a lower end of at least 0 is a proof.
        bits: largest precision that was needed.
    """

    before: Numbers
    after: Numbers
    margin: Numbers
    bits: int

    @property
    def proofs(self) -> int:
        """Inputs for which the half is proved to have fallen by what it must."""
        return int(np.sum(self.margin[:, 0] >= 0))

    @property
    def violations(self) -> int:
        """Inputs for which it is proved not to have."""
        return int(np.sum(self.margin[:, 1] < 0))

    @property
    def undecided(self) -> int:
        """Inputs that no precision up to 512 bits decides, such as a token that does not move at all."""
        return len(self.margin) - self.proofs - self.violations


def _enclosed(block: Any, half: str, Z: Tensor) -> EnclosedHalf | None:
    """The half on every input in real arithmetic, of exact binary tokens and weights; None where nothing is proved."""
    from srr.nn.descent import EnergyAttention, FeasibleISTA, RateCompression

    f = load()
    layer = block.attention if half == "compress" else block.dictionary
    attends = type(block.attention) in (RateCompression, EnergyAttention)
    if not attends or (half == "sparsify" and type(layer) is not FeasibleISTA):
        return None
    if getattr(block.attention, "steps", 1) > 1:
        return None  # enclosed for one step between the layer's tokens
    exact = _Layer(f, block)
    rows, bits = [], FIRST
    for tokens in Z.reshape(-1, *Z.shape[-2:]):
        used = FIRST
        while True:
            with f.ctx.workprec(used):
                moved, *compressed = exact.compress(tokens)
                before, after, margin = compressed if half == "compress" else exact.sparsify(moved)
                decided = margin >= 0 or margin < 0
                ends = [ends_of(f, ball) for ball in (before, after, margin)]
            if decided or used >= ENOUGH:
                break
            used *= 2
        rows.append(ends)
        bits = max(bits, used)
    before, after, margin = np.moveaxis(np.array(rows), 1, 0)
    return EnclosedHalf(before, after, margin, bits)


class _Layer:
    """A descending layer on matrices of balls: the formulas of :mod:`srr.nn.descent` in real arithmetic.

    The length of a step is the float64 number that the network uses, read as exact; what the theorem asks of it, that
    it is at most 1/L, is checked by a ball as well.
    """

    def __init__(self, f: Any, block: Any) -> None:
        self.f, self.block = f, block

    def numbers(self, x: Tensor) -> Any:
        """A tensor as an array of float64."""
        return x.detach().cpu().double().numpy()

    def norm(self, rows: list[list[Ball]], norm: Any) -> list[list[Ball]]:
        """Layer norm with its scale and shift."""
        f, offset = self.f, self.f.arb(float(norm.eps))
        weight, bias = (None if x is None else [f.arb(float(v)) for v in x] for x in (norm.weight, norm.bias))
        found = []
        for row in rows:
            centered, square = self.centered(row)
            scale = (square / len(row) + offset).rsqrt()
            row = [x * scale for x in centered]
            row = row if weight is None else [x * w for x, w in zip(row, weight, strict=True)]
            found.append(row if bias is None else [x + b for x, b in zip(row, bias, strict=True)])
        return found

    def centered(self, row: list[Ball]) -> tuple[list[Ball], Ball]:
        """A token without its mean, and its squared norm then."""
        mean = sum(row, self.f.arb(0)) / len(row)
        centered = [x - mean for x in row]
        return centered, sum((x * x for x in centered), self.f.arb(0))

    def onto_spheres(self, Y: Ball, H: Ball) -> Ball:
        """Every token of Y centered and put at the norm of its token of H."""
        rows = []
        for y, h in zip(Y.tolist(), H.tolist(), strict=True):
            centered, square = self.centered(y)
            radius = sum((x * x for x in h), self.f.arb(0))
            scale = radius if radius == 0 else (radius / square).sqrt()  # a token of norm zero stays at zero
            rows.append([x * scale for x in centered])
        return self.f.arb_mat(rows)

    def compress(self, tokens: Tensor) -> tuple[Ball, Ball, Ball, Ball]:
        """The tokens after the half, the objective before and after, and the decrease beyond the guaranteed one."""
        from srr.nn.descent import RateCompression

        f, block = self.f, self.block
        rows = [[f.arb(float(x)) for x in row] for row in self.numbers(tokens)]
        H = f.arb_mat(self.norm(rows, block.attention_norm))
        layer = block.attention
        bases = [matrix(f, B) for B in self.numbers(layer.U)]
        step = f.arb(float(layer.length(block.attention_norm(tokens))))
        if isinstance(layer, RateCompression):
            eps = [f.arb(min(max(float(x), -10.0), 10.0)).exp() for x in layer.log_eps]
            weights = [layer.head_dim / (H.nrows() * e * e) for e in eps]

            def value(X: Ball) -> Ball:
                return sum((rate_of(f, X * B, b) for B, b in zip(bases, weights, strict=True)), f.arb(0))

            slope = total(rate_slope(f, H * B, b) * B.transpose() for B, b in zip(bases, weights, strict=True))
        else:
            energy = _Energy(f, layer, H, bases)
            weights = [max(float(w), 0.0) * s * layer.head_dim for w, s in zip(layer.sigma, energy.scales, strict=True)]
            value, slope = energy.value, energy.slope()
        bound = spectral_bound(total(B * B.transpose() * w for B, w in zip(bases, weights, strict=True)))
        moved = self.onto_spheres(H - slope * step, H)
        change = moved - H
        before, after = value(H), value(moved)
        return (
            moved,
            before,
            after,
            self.margin(before, after, self.promised(1 / step, bound, inner(change, change)), change),
        )

    def margin(self, before: Ball, after: Ball, promised: Ball, change: Ball) -> Ball:
        """Before − after − promised; exactly zero where nothing moved."""
        still = all(x == 0 for row in change.tolist() for x in row)
        return self.f.arb(0) if still else before - after - promised

    def promised(self, inverse: Ball, bound: Ball, square: Ball) -> Ball:
        """(1/κ − L)/2 ‖ΔZ‖², not a number where κ may exceed 1/L and the theorem says nothing."""
        return (inverse - bound) / 2 * square if inverse >= bound else self.f.arb("nan")

    def sparsify(self, moved: Ball) -> tuple[Ball, Ball, Ball]:
        """The lasso at the feasible start and at the codes, and the decrease beyond that of the first step."""
        f, layer = self.f, self.block.dictionary
        X = f.arb_mat(self.norm(moved.tolist(), self.block.dictionary_norm))
        D, lam, step = matrix(f, self.numbers(layer.D)), f.arb(float(layer.lam)), f.arb(float(layer.length()))
        bound, inverse = spectral_bound(D.transpose() * D), 1 / step

        def relu(A: Ball, shift: Ball) -> Ball:
            return f.arb_mat([[(x - shift).max(0) for x in row] for row in A.tolist()])

        def value(A: Ball) -> Ball:
            rest = X - A * D.transpose()
            return inner(rest, rest) / 2 + lam * sum((x for row in A.tolist() for x in row), f.arb(0))

        path = [relu(X, f.arb(0)) if layer.start == "positive" else X * 0]
        for _ in range(layer.steps):
            A = path[-1]
            path.append(relu(A - (A * D.transpose() - X) * D * step, step * lam))
        change = path[1] - path[0]
        promised = (inverse - bound / 2) * inner(change, change) if inverse >= bound else f.arb("nan")
        before, after = value(path[0]), value(path[-1])
        return before, after, self.margin(before, after, promised, path[-1] - path[0])


class _Energy:
    """The softmax energy of a layer with keys frozen at H, and its gradient there."""

    def __init__(self, f: Any, layer: Any, H: Ball, bases: list[Ball]) -> None:
        import torch

        self.f, self.bases, self.H, self.causal = f, bases, H, layer.causal
        self.sigma = [f.arb(float(x)) for x in layer.sigma]
        self.scales = [f.arb(min(max(float(x), -10.0), 10.0)).exp() for x in layer.log_scale]
        floor, p = f.arb(torch.finfo(torch.float64).eps), layer.head_dim
        maps = layer.keys.detach().cpu().double().numpy().reshape(layer.heads, p, layer.dim)
        self.keys = []
        for W in maps:
            rows = (H * matrix(f, W).transpose()).tolist()
            sizes = [(sum((x * x for x in row), f.arb(0)) / p + floor).rsqrt() for row in rows]
            self.keys.append(f.arb_mat([[x * size for x in row] for row, size in zip(rows, sizes, strict=True)]))

    def heads(self, X: Ball) -> list[tuple[Ball, list[list[Ball]]]]:
        """For each head σ/s and the exponentials of the scores, those not seen left out."""
        found = []
        for B, Y, sigma, s in zip(self.bases, self.keys, self.sigma, self.scales, strict=True):
            scores = (X * B * Y.transpose() * s).tolist()
            seen = [row[: i + 1] if self.causal else row for i, row in enumerate(scores)]
            found.append((sigma / s, [[x.exp() for x in row] for row in seen]))
        return found

    def value(self, X: Ball) -> Ball:
        """E at X."""
        zero = self.f.arb(0)
        return sum((w * sum((sum(row, zero).log() for row in rows), zero) for w, rows in self.heads(X)), zero)

    def slope(self) -> Ball:
        """Attention to the keys, weighted by σ and lifted."""
        f, zero, parts, n = self.f, self.f.arb(0), [], self.H.nrows()
        for (_, rows), B, Y, sigma in zip(self.heads(self.H), self.bases, self.keys, self.sigma, strict=True):
            masses = [sum(row, zero) for row in rows]
            shares = [[x / m for x in row] + [zero] * (n - len(row)) for row, m in zip(rows, masses, strict=True)]
            parts.append(f.arb_mat(shares) * Y * B.transpose() * sigma)
        return total(parts)
