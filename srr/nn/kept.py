"""What evaluation makes of weights and keeps: folded matrices, bounds of norms."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["Kept"]

T = TypeVar("T")


class Kept(Generic[T]):
    """What evaluation makes of weights, kept until one of them is another tensor or has other numbers.

    torch counts what is written into a tensor, but not what is written into its ``data``. On a CPU the numbers
    themselves are asked, by one product with a fixed vector, which a write can leave as it was only on purpose.
    Copies and pickles keep nothing.
    """

    value: T | None = None
    _weights: tuple[weakref.ref[Tensor], ...] = ()
    _stamp: Sequence[object] = ()
    _prints: tuple[Tensor, ...] = ()

    def __call__(self, make: Callable[[], T], *weights: Tensor, key: object = None, training: bool = False) -> T | None:
        """The value, made where need be; None in training, under autograd, in a trace, or where weights are no leaves.

        Args:
            make: makes the value from the weights.
            *weights: parameters it is made from.
            key: anything else that it depends on.
            training: whether the module is.
        """
        if training or torch.compiler.is_compiling() or not all(map(may_keep, weights)):
            return None
        stamp: list[object] = [key]
        same = len(weights) == len(self._weights)
        for i, W in enumerate(weights):  # a loop, and no generators: this runs in every layer
            stamp += (W._version, W.data_ptr(), W.device, W.dtype)
            same = same and self._weights[i]() is W
        prints = tuple(map(fingerprint, weights))
        if not (same and stamp == self._stamp and all(map(torch.equal, prints, self._prints))):
            with torch.inference_mode(False), torch.no_grad():
                self.value = make()
            self._weights, self._stamp, self._prints = tuple(map(weakref.ref, weights)), stamp, prints
        return self.value

    def __reduce__(self) -> tuple[type[Kept[T]], tuple[()]]:
        return Kept, ()


def may_keep(W: Tensor) -> bool:
    """Whether something made from this weight may be kept: it is a plain parameter outside autograd."""
    differentiates = torch.is_grad_enabled() and W.requires_grad
    return isinstance(W, nn.Parameter) and not differentiates and not W.is_inference() and not W.is_meta


def fingerprint(W: Tensor) -> Tensor:
    """A few numbers that change when the weight does; none off the CPU, where reading them would wait."""
    if W.device.type != "cpu":
        return torch.empty(0)
    with torch.inference_mode(False), torch.no_grad():
        rows = W.detach().reshape(-1, W.shape[-1] if W.ndim else 1)
        rows = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
        return rows @ _probe(rows.shape[-1], rows.dtype)


@cache
def _probe(size: int, dtype: torch.dtype) -> Tensor:
    return irregular(size, 1, torch.empty(0, dtype=dtype, device="cpu"))[:, 0].contiguous()


def irregular(rows: int, columns: int, like: Tensor) -> Tensor:
    """A matrix (rows, columns) of numbers in ±1 without a pattern, the same every time."""
    i, j = (torch.arange(1, count + 1, dtype=torch.float64, device=like.device) for count in (rows, columns))
    return torch.cos(0.7 * i[:, None].square() * j).to(like.dtype)
