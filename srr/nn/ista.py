"""Sparsifying layers: one proximal step of sparse coding in a learned dictionary."""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from srr._array.checks import check_count, check_nonnegative, check_positive
from srr.ops.gram import gram
from srr.ops.sparse import folded_ista_step, ista_matrix, ista_step

__all__ = ["ISTA"]


class _Fold(NamedTuple):
    """A folded matrix and what it was folded from."""

    dictionary: weakref.ref[Tensor]
    stamp: tuple[Any, ...]
    matrix: Tensor


def _stamp(D: Tensor) -> tuple[Any, ...]:
    return D._version, D.data_ptr(), D.device, D.dtype


class _ColumnGram(torch.autograd.Function):
    """DᵀD with the gradient D (G + Gᵀ), one product where the product rule takes two."""

    generate_vmap_rule = True

    @staticmethod
    def forward(D: Tensor) -> Tensor:
        return gram(D)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> Tensor:
        (D,) = ctx.saved_tensors
        return D @ (G + G.mT).to(D.dtype)


class ISTA(nn.Module):
    r"""One non-negative ISTA step in a complete dictionary, started at the tokens themselves.

    .. math::

        A = \mathrm{ReLU}\big(Z + \eta\,(Z D - Z D^\top D) - \eta\lambda\big)
          = \mathrm{ReLU}(Z M - \eta\lambda), \qquad M = I + \eta\,(D - D^\top D)

    Three forms of the same step are used, equal up to rounding: the folded one-product form with M formed
    anew when there are more tokens than dimensions, the two-product residual form below that, and in
    evaluation the folded form with M kept. Where the product is taken in half precision the identity stays out
    of it, Z + Z (M − I), so that the tokens themselves are not rounded. A kept M is dropped as soon as D has
    another version, storage, device or dtype (``load_state_dict``, optimizers and ``train()`` included); after
    writing through ``D.data``, which torch does not count, call ``train()`` or ``eval()``.

    Args:
        dim: width d of a token; D is d × d.
        step: η > 0.
        lam: λ ≥ 0.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``, non-negative.

    Source: [CRATE] (17), from the warm start A = Z of the network.

    Example:
        >>> import torch
        >>> layer = ISTA(dim=8)
        >>> layer(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, *, step: float = 0.1, lam: float = 0.1) -> None:
        super().__init__()
        check_count(dim, "dim")
        check_positive(step, "step")
        check_nonnegative(lam, "lam")
        self.step, self.lam = step, lam
        self.D = nn.Parameter(torch.empty(dim, dim))
        nn.init.kaiming_uniform_(self.D)
        self._fold: _Fold | None = None

    def forward(self, Z: Tensor) -> Tensor:
        """Sparse codes of the tokens."""
        if self._may_keep():
            return self._folded_step(Z, self._kept_matrix(is_half(Z)))
        if Z.numel() // Z.shape[-1] > self.D.shape[0]:
            return self._folded_step(Z, self._matrix(Z))
        return ista_step(Z, Z, self.D, step=self.step, lam=self.lam)

    def _folded_step(self, Z: Tensor, M: Tensor) -> Tensor:
        """The step by M, or by M − I where the product is taken in half precision."""
        if is_half(Z):
            return (Z + Z @ M - self.step * self.lam).relu_()
        return folded_ista_step(Z, M, step=self.step, lam=self.lam)

    def _matrix(self, Z: Tensor) -> Tensor:
        """M, or M − I, of D in its own precision, whose backward pass costs one product in place of two."""
        D, half = self.D, is_half(Z)
        with torch.autocast(D.device.type, enabled=False):
            change = self.step * (D - _ColumnGram.apply(D))  # type: ignore[no-untyped-call]
            return change if half else change + identity_like(D)

    def _may_keep(self) -> bool:
        """Whether this is evaluation of a plain parameter outside autograd and outside a trace."""
        if self.training or torch.compiler.is_compiling():
            return False
        if torch.is_grad_enabled() and self.D.requires_grad:
            return False
        return isinstance(self.D, nn.Parameter) and not self.D.is_inference()

    def _kept_matrix(self, half: bool) -> Tensor:
        fold = self._fold
        stamp = (half, *_stamp(self.D))
        if fold is None or fold.dictionary() is not self.D or fold.stamp != stamp:
            fold = self._fold = _Fold(weakref.ref(self.D), stamp, self._new_matrix(half))
        return fold.matrix

    def _new_matrix(self, half: bool) -> Tensor:
        D = self.D.detach()
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(D.device.type, enabled=False):
            M = ista_matrix(D, step=self.step)
            return M - identity_like(D) if half else M

    def train(self, mode: bool = True) -> ISTA:
        """Set the mode and drop the kept matrix."""
        self._fold = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fold": None}

    def extra_repr(self) -> str:
        """Sizes shown by ``print(layer)``."""
        return f"dim={self.D.shape[0]}, step={self.step}, lam={self.lam}"


def is_half(Z: Tensor) -> bool:
    """Whether products of these tokens are taken in half precision."""
    return torch.is_autocast_enabled(Z.device.type) or Z.dtype in (torch.bfloat16, torch.float16)


def identity_like(D: Tensor) -> Tensor:
    """Identity of the size, dtype and device of D."""
    return torch.eye(D.shape[0], dtype=D.dtype, device=D.device)
