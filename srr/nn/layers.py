"""The two halves of a CRATE layer as modules that own their arrays: subspace attention, and the sparsifying step.

A module holds parameters and calls the formula of one operator of :mod:`srr.ops`, which has the mathematics. Sizes are
checked when a module is made and at the wall of the model, not in every layer again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from srr._array.checks import check_count, check_nonnegative, check_positive
from srr._array.namespace import namespace
from srr.nn.kept import Kept
from srr.ops.attention import attention_weights, bare_ssa, bare_ssa_newest
from srr.ops.sparse import bare_folded_ista_step, bare_ista_step
from srr.ops.subspaces import bare_lift, bare_project

__all__ = ["ISTA", "MSSA"]

TORCH = namespace(torch.empty(0))
"""Namespace of every array here: layers call the bare formulas, which look up and check nothing."""


class Heads(nn.Module):
    """K subspaces of one projection, and whether tokens see later ones: what every compressing half has."""

    projection: Tensor

    def __init__(self, dim: int, heads: int, head_dim: int, *, causal: bool) -> None:
        super().__init__()
        for name, count in {"dim": dim, "heads": heads, "head_dim": head_dim}.items():
            check_count(count, name)
        self.dim, self.heads, self.head_dim, self.causal = dim, heads, head_dim, causal

    @property
    def U(self) -> Tensor:
        """Bases of the subspaces, shape (K, d, p), as a view of the projection."""
        return self.projection.view(self.heads, self.head_dim, self.dim).mT  # (K p, d) -> (K, d, p)

    def extend(self, Z: Tensor, past: Tensor | None = None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Refused: the tokens before would have to change with those that follow."""
        raise ValueError("only a causal layer can be extended; this one lets tokens see later ones")

    def attention_map(self, Z: Tensor) -> Tensor:
        """Refused: there is no matrix of tokens by tokens."""
        raise ValueError(f"{type(self).__name__} has no pairwise attention map: no token attends to another by itself")

    def extra_repr(self) -> str:
        """Sizes shown by ``print(layer)``."""
        return f"dim={self.dim}, heads={self.heads}, head_dim={self.head_dim}, causal={self.causal}"


class MSSA(Heads):
    r"""Multi-head subspace self-attention: the compressing half of a CRATE layer, without its residual.

    .. math::

        \mathrm{MSSA}(Z) = \sum_k \mathrm{softmax}(s\, V_k V_k^\top)\, V_k O_k^\top + b, \qquad V_k = Z U_k

    The projection is stored as one ``(heads * head_dim, dim)`` matrix, so that all heads cost one product;
    ``U`` is a view of it. The output map O is free; it is left out when there is one head of full width, as in the
    released network.

    Args:
        dim: width d of a token.
        heads: number K of subspaces.
        head_dim: dimension p of each.
        bias: whether a free output map has a bias.
        causal: whether row i sees the tokens up to i only.
        tied: the output map is U itself: tokens come back through the subspaces they were projected on.
        transposed: the output map is the matrix of U transposed, where heads · head_dim = dim.
        frozen: U is drawn once, uniformly among orthonormal frames (over all heads where they fit, else head by head),
            and is a buffer.
        scale: s of the softmax; p^{-1/2} when None, 1 in the theory.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``; ``mask`` is ``(..., n)``, True at real tokens.

    Raises:
        ValueError: a count below one, tied and transposed at once, sizes that do not fit.

    Source: [CRATE] (11)-(12); the free output map and p^{-1/2} are those of the released network.

    Example:
        >>> layer = MSSA(dim=8, heads=2, head_dim=4)
        >>> layer(torch.zeros(3, 5, 8)).shape, layer.U.shape
        (torch.Size([3, 5, 8]), torch.Size([2, 8, 4]))
    """

    always_lifted = False
    """Whether even one head of full width has an output map."""

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        *,
        bias: bool = True,
        causal: bool = False,
        tied: bool = False,
        transposed: bool = False,
        frozen: bool = False,
        scale: float | None = None,
    ) -> None:
        super().__init__(dim, heads, head_dim, causal=causal)
        if tied and transposed:
            raise ValueError("tied and transposed are two output maps; got both")
        if transposed and heads * head_dim != dim:
            raise ValueError(f"transposed needs heads * head_dim = dim; got {heads} * {head_dim} and {dim}")
        self.transposed = transposed
        self.scale = head_dim**-0.5 if scale is None else check_nonnegative(scale, "scale")
        width = heads * head_dim
        if frozen:
            self.register_buffer("projection", orthonormal_rows(heads, head_dim, dim))
        else:
            self.projection = nn.Parameter(uniform(width, dim, fan_in=dim))
        own = not (tied or transposed)
        self.lifted = self.always_lifted or not own or heads > 1 or head_dim != dim
        free = own and self.lifted
        self.output = nn.Parameter(uniform(dim, width, fan_in=width)) if free else None
        self.bias = nn.Parameter(uniform(dim, fan_in=width)) if free and bias else None

    @property
    def out(self) -> Tensor:
        """Output maps of shape (K, d, p), the free ones, U, or the transpose of its matrix."""
        if self.output is None and not self.transposed:
            return self.U
        weight = self.projection if self.output is None else self.output
        return weight.view(self.dim, self.heads, self.head_dim).transpose(0, 1)  # (d, K p) -> (K, d, p)

    def forward(self, Z: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """Attended tokens; only the first ``rows`` of them where that is a number."""
        check_mask(mask, Z.shape[-2])
        V = self.coordinates(Z)  # (..., n, d) -> (..., K, n, p)
        return self.restore(self.attend(V, mask, rows))  # (..., K, rows, p) -> (..., rows, d)

    def coordinates(self, Z: Tensor) -> Tensor:
        """Coordinates of tokens in every head: (..., n, d) to (..., K, n, p)."""
        return bare_project(Z, self.U, TORCH)

    def attend(self, V: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """Attention inside the heads: (..., K, n, p) to (..., K, rows, p)."""
        seen = None if mask is None else mask[..., None, None, :]  # (..., n) -> (..., 1, 1, n), of all heads and rows
        return bare_ssa(V, self.scale, self.causal, seen, rows, TORCH)

    def restore(self, V: Tensor) -> Tensor:
        """Tokens from attended coordinates: (..., K, n, p) to (..., n, d)."""
        if not self.lifted:
            return V.squeeze(-3)  # (..., 1, n, d) -> (..., n, d)
        Z = bare_lift(V, self.out, TORCH)
        return Z if self.bias is None else Z + self.bias

    def extend(self, Z: Tensor, past: Tensor | None = None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attended tokens for the newest of a causal sequence, and the coordinates of the whole of it.

        As queries, keys and values are one, one array per layer is all that has to be remembered.

        Args:
            Z: tokens (..., m, d) that follow those of ``past``.
            past: coordinates (..., K, t, p) of the tokens before, None at the start.
            mask: (..., t + m), True at real tokens; all are by default.

        Returns:
            Attended tokens (..., m, d) and coordinates (..., K, t + m, p).

        Raises:
            ValueError: the layer is not causal.
        """
        if not self.causal:
            return super().extend(Z, past, mask)
        V = self.coordinates(Z)  # (..., m, d) -> (..., K, m, p)
        V = V if past is None else torch.cat((past, V), dim=-2)  # (..., K, t + m, p)
        check_mask(mask, V.shape[-2])
        return self.restore(self.attend_newest(V, Z.shape[-2], mask)), V

    def attend_newest(self, V: Tensor, count: int, mask: Tensor | None = None) -> Tensor:
        """Attention of the last ``count`` tokens: (..., K, n, p) to (..., K, count, p)."""
        return bare_ssa_newest(V, count, self.scale, None if mask is None else mask[..., None, :], TORCH)

    def attention_map(self, Z: Tensor) -> Tensor:
        """What token i attends to, row i of (..., K, n, n)."""
        return attention_weights(self.coordinates(Z), scale=self.scale, causal=self.causal)


def check_mask(mask: Tensor | None, n: int) -> None:
    """Refuse anything but a boolean mask (..., n): numbers would be added to the scores."""
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be boolean, True at real tokens; got {mask.dtype}")
    if mask.shape[-1] != n:
        raise ValueError(f"mask must have shape (..., {n}), True at real tokens; got {tuple(mask.shape)}")


def uniform(*shape: int, fan_in: int) -> Tensor:
    """Tensor uniform in ±1/√fan_in, the initialization of linear maps in the released network."""
    bound = fan_in**-0.5
    return torch.empty(shape).uniform_(-bound, bound)


def orthonormal_rows(heads: int, head_dim: int, dim: int) -> Tensor:
    """Projection with orthonormal rows: over all heads where they fit, else head by head."""
    if head_dim > dim:
        raise ValueError(f"orthonormal bases need head_dim <= dim={dim}; got {head_dim}")
    if heads * head_dim <= dim:
        return nn.init.orthogonal_(torch.empty(heads * head_dim, dim))
    return torch.cat([nn.init.orthogonal_(torch.empty(head_dim, dim)) for _ in range(heads)])


class ISTA(nn.Module):
    r"""One non-negative ISTA step in a complete dictionary, started at the tokens themselves.

    .. math::

        A = \mathrm{ReLU}\big(Z + \eta\,(Z D - Z D^\top D) - \eta\lambda\big)
          = \mathrm{ReLU}(Z M - \eta\lambda), \qquad M = I + \eta\,(D - D^\top D)

    Three forms of the same step are used, equal up to rounding: the folded one-product form with M formed
    anew when there are more tokens than dimensions, the two-product residual form below that, and in
    evaluation the folded form with M kept. Where the product is taken in half precision the identity stays out
    of it, Z + Z (M − I), so that the tokens themselves are not rounded. A kept M is dropped as soon as D has
    another version, storage, device or dtype (``load_state_dict`` and optimizers included), and whenever the mode
    changes. A write into ``D.data``, which torch does not count, is seen on a CPU; on another device go through
    ``train()`` and back to ``eval()`` after it.

    Args:
        dim: width d of a token; D is d × d.
        step: η > 0.
        lam: λ ≥ 0.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``, non-negative.

    Source: [CRATE] (17), from the warm start A = Z of the network.

    Example:
        >>> ISTA(dim=8)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, *, step: float = 0.1, lam: float = 0.1) -> None:
        super().__init__()
        check_count(dim, "dim")
        self.step, self.lam = check_positive(step, "step"), check_nonnegative(lam, "lam")
        self.D = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(dim, dim)))
        self.kept: Kept[Tensor] = Kept()

    def forward(self, Z: Tensor) -> Tensor:
        """Sparse codes of the tokens."""
        half = is_half(Z)
        M = self.kept(partial(self._matrix, half), self.D, key=half, training=self.training)
        exported = torch.compiler.is_exporting()  # for any batch: no choice by the number of tokens
        if M is None and not exported and Z.numel() // Z.shape[-1] <= self.D.shape[0]:
            return bare_ista_step(Z, Z, self.D, self.step, self.lam, True, TORCH)
        M = self._matrix(half) if M is None else M
        if half:
            return (Z + Z @ M - self.step * self.lam).relu_()
        return bare_folded_ista_step(Z, M, self.step, self.lam, TORCH)

    def _matrix(self, half: bool) -> Tensor:
        """M, or M − I, in the precision of D; its backward pass costs one product in place of two."""
        with torch.autocast(self.D.device.type, enabled=False):
            change = self.step * (self.D - column_gram(self.D))
            return change if half else change + torch.eye(self.D.shape[0], dtype=self.D.dtype, device=self.D.device)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; the kept matrix is dropped where the mode changes."""
        if mode != self.training:
            self.kept = Kept()
        return super().train(mode)

    def extra_repr(self) -> str:
        """Sizes shown by ``print(layer)``."""
        return f"dim={self.D.shape[0]}, step={self.step}, lam={self.lam}"


class _ColumnGram(torch.autograd.Function):
    """AᵀA with the gradient A (G + Gᵀ), one product where the product rule takes two."""

    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor) -> Tensor:
        return A.mT @ A

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> Tensor:
        A: Tensor = ctx.saved_tensors[0]
        return A @ (G + G.mT).to(A.dtype)


column_gram: Callable[[Tensor], Tensor] = _ColumnGram.apply
"""Gram matrix of the columns, (..., n, d) to (..., d, d)."""


def add_product(Z: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Z + A B for Z (..., n, d), A (..., n, m) and B (m, d): one pass over the sum; half precision keeps it out."""
    if is_half(Z) or is_half(A) or B.ndim > 2:
        return Z + A @ B
    return torch.addmm(Z.reshape(-1, Z.shape[-1]), A.reshape(-1, A.shape[-1]), B).view(Z.shape)


def is_half(Z: Tensor) -> bool:
    """Whether products of these tokens are taken in half precision."""
    return torch.is_autocast_enabled(Z.device.type) or Z.dtype in (torch.bfloat16, torch.float16)
