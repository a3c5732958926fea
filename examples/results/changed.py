"""Networks that are no row of `srr.nn.BLOCKS`: one without attention, the descending one with changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from srr.nn import BLOCKS, Block, Variant
from srr.nn.descent import FeasibleISTA, RateCompression, within
from srr.ops.rates import bare_rate_scale

DESCENT = BLOCKS["crate_descent"]


class Alone(Block):
    """A CRATE layer without its first half: every token goes its own way."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        del self.attention, self.attention_norm

    def compress(self, Z: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """The tokens as they are."""
        return Z[..., :rows, :]


class Expanding(RateCompression):
    """A step on R^c(Z; U) − γR(Z), with γ and the ε of R learned: its curvature is at most L + γα/8."""

    def __init__(self, dim: int, heads: int, head_dim: int, **options: Any) -> None:
        super().__init__(dim, heads, head_dim, **options)
        self.log_weight, self.log_whole_eps = (nn.Parameter(torch.zeros(())) for _ in range(2))

    def expansion(self, n: int) -> tuple[Tensor, Tensor]:
        """γ, and α = d/(n ε²)."""
        return within(self.log_weight).exp(), bare_rate_scale(n, self.dim, within(self.log_whole_eps).exp())

    def _scale(self, Z: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        scale, bound = super()._scale(Z, mask)
        weight, alpha = self.expansion(Z.shape[-2])
        return scale, bound + weight * alpha / 8

    def _moved(self, Z: Tensor, mask: Tensor | None, scale: Tensor, step: Tensor, rows: int | None) -> Tensor:
        weight, alpha = self.expansion(Z.shape[-2])
        apart = torch.eye(Z.shape[-2], dtype=Z.dtype, device=Z.device) + alpha * (Z @ Z.mT)  # (..., n, n)
        push = torch.linalg.solve(apart, Z)  # Z (I + α ZᵀZ)⁻¹ by the smaller Gram matrix
        wide = Z @ self.projection.mT
        V = wide.unflatten(-1, (self.heads, self.head_dim)).transpose(-3, -2)  # (..., K, n, p)
        inside = torch.eye(self.head_dim, dtype=Z.dtype, device=Z.device) + scale[..., None, None] * (V.mT @ V)
        pull = torch.linalg.solve(inside, V, left=False) * scale[..., None, None]  # βV (I + βVᵀV)⁻¹
        back = pull.transpose(-3, -2).flatten(-2) @ self.projection
        return self.onto_spheres(Z + step * (weight * alpha * push - back), Z)[..., :rows, :]


@dataclass(frozen=True)
class Changed:
    """A layer, and how wide its bases are together as a share of the token."""

    title: str
    variant: Variant
    block: Callable[..., Block] = Block
    share: float = 1.0
    lam: float | None = None


def descending(
    title: str,
    *,
    attention: Any = RateCompression,
    codes: int = 1,
    share: float = 1.0,
    lam: float | None = None,
    **options: Any,
) -> Changed:
    """The descending layer with options of its compressing half, and so many steps of the codes."""
    halves = {"attention": partial(attention, **options), "sparsifier": partial(FeasibleISTA, steps=codes)}
    return Changed(title, replace(DESCENT, **halves), share=share, lam=lam)


ATTEMPTS = {
    "crate_descent": "as it is",
    "crate_descent_zero": "codes from zero",
    "crate_energy": "softmax form",
}
CHANGED = {
    "no_attention": Changed("no attention", BLOCKS["crate"], Alone),
    "descent_2_steps": descending("2 exact steps with the same bases", steps=2),
    "descent_4_steps": descending("4 exact steps with the same bases", steps=4),
    "descent_2_codes": descending("2 steps of the codes", codes=2),
    "descent_4_codes": descending("4 steps of the codes", codes=4),
    "descent_2_both": descending("2 steps of both halves", steps=2, codes=2),
    "descent_expand": descending("a step on R^c − γR, γ learned", attention=Expanding),
    "descent_small_eps": descending("ε begins at 0.3 in place of 1", eps=0.3),
    "descent_large_eps": descending("ε begins at 3 in place of 1", eps=3.0),
    "descent_wide": descending("bases of twice the width together", share=2.0),
    "descent_narrow": descending("bases of half the width together", share=0.5),
    "descent_lam_0.02": descending("λ = 0.02 in place of 0.1", lam=0.02),
    "descent_lam_0.3": descending("λ = 0.3 in place of 0.1", lam=0.3),
}
ATTEMPTS |= {name: changed.title for name, changed in CHANGED.items() if name.startswith("descent_")}
"""What was tried to make the descending network better."""


def rebuilt(model: Any, changed: Changed) -> nn.Module:
    """A network with other layers, drawn from torch's stream."""
    config, causal = model.config, model.blocks[0].attention.causal
    fixed = {name: getattr(config, name) for name in ("norm_eps", "bias", "layer_scale")}
    lam = config.lam if changed.lam is None else changed.lam
    head_dim = max(1, round(changed.share * config.dim / config.heads))
    model.blocks = nn.ModuleList(
        changed.block(
            changed.variant, config.dim, config.heads, head_dim, causal=causal, step=config.step, lam=lam, **fixed
        )
        for _ in range(config.depth)
    )
    return model  # type: ignore[no-any-return]
