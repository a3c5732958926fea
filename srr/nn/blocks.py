"""One layer of the family, and the table of its variants: a compressing half-step, then a sparsifying half-step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from srr.nn import halves
from srr.nn.alternatives import CBSA, TSSA, OvercompleteISTA, Perceptron, ProxMM
from srr.nn.descent import Descending, Descent, EnergyAttention, FeasibleISTA, RateCompression
from srr.nn.halves import HalfObjective
from srr.nn.layers import ISTA, MSSA, Heads
from srr.nn.steps import half_problem, half_step

__all__ = ["BLOCKS", "Block", "Variant", "keep_orthonormal"]


@dataclass(frozen=True)
class Variant:
    """One row of :data:`BLOCKS`: how a layer is put together and what its halves are steps on.

    Args:
        attention: makes the compressing half from ``(dim, heads, head_dim, causal=...)``.
        sparsifier: makes the other half from ``(dim, step=..., lam=...)``; None leaves the tokens as they are.
        source: where the layer is published.
        compresses: what the first half is a step on.
        sparsifies: what the second half is a step on.
        sign: the tokens move by sign times what attention returns.
        residual: whether the tokens are added to what the sparsifier returns.
        moves: whether the first half returns the tokens themselves, moved on the sphere of a plain layer norm, and not
            what is added to them.
    """

    attention: Callable[..., Heads]
    sparsifier: Callable[..., nn.Module] | None
    source: str
    compresses: HalfObjective
    sparsifies: HalfObjective
    sign: int = 1
    residual: bool = False
    moves: bool = False


tied, transposed, frozen = (partial(MSSA, **{how: True}) for how in ("tied", "transposed", "frozen"))

BLOCKS: dict[str, Variant] = {
    "crate": Variant(MSSA, ISTA, "[CRATE] (17)-(18)", halves.FREE, halves.SPARSE),
    "crate_c": Variant(tied, ISTA, "CRATE-C of [INDEPTH]", halves.TIED, halves.SPARSE),
    "crate_n": Variant(tied, ISTA, "CRATE-N of [INDEPTH]", halves.NEGATED, halves.SPARSE, sign=-1),
    "crate_t": Variant(transposed, ISTA, "CRATE-T of [INDEPTH]", halves.TRANSPOSED, halves.SPARSE),
    "crate_fix": Variant(frozen, ISTA, "CRATE-Fix of [INDEPTH]: U is never trained", halves.FREE, halves.SPARSE),
    "crate_strict": Variant(
        partial(MSSA, tied=True, scale=1.0), ISTA, "[CRATE] (11)-(12) in (18)", halves.STRICT, halves.SPARSE
    ),
    "crate_prox_mm": Variant(MSSA, ProxMM, "[CRATE] appendix A.3, (92)", halves.FREE, halves.MAJORIZE),
    "alpha": Variant(
        partial(MSSA, bias=False), OvercompleteISTA, "[ALPHA]", halves.FREE, halves.TWO_STEPS, residual=True
    ),
    "attention_only": Variant(MSSA, None, "[AOT]", halves.DENOISE, halves.NOTHING),
    "tssa": Variant(
        TSSA, ISTA, "[TOST] for the first half, [CRATE] (17) for the second", halves.STATISTICS, halves.SPARSE
    ),
    "tost": Variant(TSSA, Perceptron, "[TOST]", halves.STATISTICS, halves.PERCEPTRON, residual=True),
    "crate_descent": Variant(
        RateCompression, FeasibleISTA, "[CRATE] (9) and (17), exact", halves.COMPRESS, halves.FEASIBLE, moves=True
    ),
    "crate_descent_zero": Variant(
        RateCompression,
        partial(FeasibleISTA, start="zero"),
        "[CRATE] (9) and (17), exact, codes from zero",
        halves.COMPRESS,
        halves.FROM_ZERO,
        moves=True,
    ),
    "crate_energy": Variant(
        EnergyAttention, FeasibleISTA, "[CRATE] (11) with frozen keys, (17)", halves.ATTEND, halves.FEASIBLE, moves=True
    ),
    "cbsa": Variant(
        CBSA, ISTA, "[CBSA] for the first half, [CRATE] (17) for the second", halves.CONTRACT, halves.SPARSE
    ),
}
"""Kinds of layers, by the name a config gives them."""


class Block(nn.Module):
    r"""One layer: compress against the subspaces, then sparsify in the dictionary.

    .. math::

        Z^{\ell+1/2} = Z^\ell \pm \mathrm{attention}(\mathrm{LN}\, Z^\ell), \qquad
        Z^{\ell+1} = [Z^{\ell+1/2} +]\ \mathrm{sparsifier}(\mathrm{LN}\, Z^{\ell+1/2})

    The sign, the residual in brackets and the two halves are those of the variant; ``objective`` says what they are
    steps on.

    Args:
        variant: a name in :data:`srr.nn.BLOCKS`, or a row of one's own.
        dim: width d of a token.
        heads: number K of subspaces.
        head_dim: dimension p of each.
        step: step η of the sparsifying half.
        lam: sparsity weight λ.
        norm_eps: variance floor of the layer norms.
        causal: whether a token sees only those before it and itself.
        bias: whether norms and linear maps have biases.
        layer_scale: initial value of a factor for each coordinate of what a half adds; None for no factors.
        **options: further options of the compressing half, such as ``context`` or ``grid``.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``; ``mask`` is ``(..., n)``, True at real tokens.

    Raises:
        ValueError: an unknown variant, a size that does not fit it, or an option that it does not have.

    Source: [CRATE] (18) and (17).

    Example:
        >>> import torch
        >>> block = Block("crate", dim=8, heads=2, head_dim=4)
        >>> block(torch.zeros(3, 5, 8)).shape, block.objective["compress"].function
        (torch.Size([3, 5, 8]), 'R^c(Z; U)')
    """

    def __init__(
        self,
        variant: str | Variant,
        dim: int,
        heads: int,
        head_dim: int,
        *,
        step: float = 0.1,
        lam: float = 0.1,
        norm_eps: float = 1e-5,
        causal: bool = False,
        bias: bool = True,
        layer_scale: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(variant, str):
            if variant not in BLOCKS:
                raise ValueError(f"block must be one of {sorted(BLOCKS)}; got {variant!r}")
            variant = BLOCKS[variant]
        if unknown := sorted(options.keys() - signature(variant.attention).parameters.keys()):
            raise ValueError(f"{unknown} are no options of this kind of layer ({variant.source})")
        self.variant = variant
        biases = {} if bias else {"bias": False}
        self.attention_norm = nn.LayerNorm(dim, eps=norm_eps, elementwise_affine=not variant.moves, **biases)
        here = biases if "bias" in signature(variant.attention).parameters else {}
        self.attention = variant.attention(dim, heads, head_dim, causal=causal, **here, **options)
        self.dictionary: nn.Module | None = None
        if variant.sparsifier is not None:
            self.dictionary_norm = nn.LayerNorm(dim, eps=norm_eps, **biases)
            here = biases if "bias" in signature(variant.sparsifier).parameters else {}
            self.dictionary = variant.sparsifier(dim, step=step, lam=lam, **here)
        if layer_scale is not None and variant.moves:
            raise ValueError("layer_scale has no place in a layer that moves tokens on a sphere")
        scales = (None, None) if layer_scale is None else (torch.full((dim,), float(layer_scale)) for _ in range(2))
        self.attention_scale, self.dictionary_scale = (None if s is None else nn.Parameter(s) for s in scales)

    @property
    def objective(self) -> dict[str, HalfObjective]:
        """What ``compress`` and ``sparsify`` are steps on, and whether descent is proved."""
        return {"compress": self.variant.compresses, "sparsify": self.variant.sparsifies}

    def forward(self, Z: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """Both halves; only the first ``rows`` tokens after the layer where that is a number."""
        return self.sparsify(self.compress(Z, mask, rows))

    def compress(self, Z: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """First half: Z^{ℓ+1/2}."""
        attended: Tensor = self.attention(self.attention_norm(Z), mask, rows)
        return self._moved(Z[..., :rows, :], attended)

    def _moved(self, Z: Tensor, attended: Tensor) -> Tensor:
        if self.variant.moves:
            return attended
        if self.attention_scale is not None:
            attended = self.attention_scale * attended
        return Z + attended if self.variant.sign > 0 else Z - attended

    def sparsify(self, Z: Tensor) -> Tensor:
        """Second half: Z^{ℓ+1} from Z^{ℓ+1/2}."""
        if self.dictionary is None:
            return Z
        codes: Tensor = self.dictionary(self.dictionary_norm(Z))
        if self.dictionary_scale is not None:
            codes = self.dictionary_scale * codes
        return Z + codes if self.variant.residual else codes

    def descents(self, Z: Tensor, mask: Tensor | None = None) -> dict[str, Descent | None]:
        """What ``compress`` and ``sparsify`` did to the objective each provably descends; None where nothing is proved.

        Args:
            Z: tokens (..., n, d) before the layer; every item of the batch gives one number.
            mask: (..., n), True at real tokens.
        """
        found: dict[str, Descent | None] = {"compress": None, "sparsify": None}
        if isinstance(self.attention, Descending):
            found["compress"] = self.attention.descent(self.attention_norm(Z), mask)
        if isinstance(self.dictionary, FeasibleISTA):
            found["sparsify"] = self.dictionary.descent(self.dictionary_norm(self.compress(Z, mask)))
        return found

    problem, step = half_problem, half_step

    def extend(self, Z: Tensor, past: Tensor | None = None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both halves for the newest tokens of a causal sequence, and all coordinates; see :meth:`MSSA.extend`."""
        attended, coordinates = self.attention.extend(self.attention_norm(Z), past, mask)
        return self.sparsify(self._moved(Z, attended)), coordinates


def keep_orthonormal(block: nn.Module) -> nn.Module:
    """Keep the bases of all heads of a layer orthonormal and orthogonal to each other during training.

    Args:
        block: a layer whose ``attention.projection`` is a parameter with heads·head_dim ≤ dim.

    Returns:
        The same layer, its projection parametrized on the Stiefel manifold.

    Raises:
        ValueError: the bases do not fit in the token space.

    Example:
        >>> import torch
        >>> U = keep_orthonormal(Block("crate", dim=8, heads=2, head_dim=4)).attention.projection
        >>> torch.allclose(U @ U.T, torch.eye(8), atol=1e-5)
        True
    """
    attention = block.get_submodule("attention")
    projection = attention.projection
    if not isinstance(projection, nn.Parameter):
        return block  # fixed bases stay as they are
    rows, columns = projection.shape
    if rows > columns:
        raise ValueError(f"orthonormal bases need heads * head_dim <= dim; got {rows} and {columns}")
    parametrizations.orthogonal(attention, "projection")
    return block
