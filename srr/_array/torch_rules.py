"""The derivatives of `srr._array.derivatives` as torch functions: backward, forward, any order, and under ``vmap``."""

from __future__ import annotations

from typing import Any

import array_api_compat.torch as xp
import torch

from srr._array.derivatives import Options, change_of, logdet_slopes, solve_slopes, weighted


def _unbatched(info: Any, in_dims: tuple[Any, ...], inputs: tuple[Any, ...]) -> list[Any]:
    """Arguments of a batched program with the new axis in front of each array."""
    return [
        x
        if not isinstance(x, torch.Tensor)
        else (x.expand(info.batch_size, *x.shape) if at is None else x.movedim(at, 0))
        for x, at in zip(inputs, in_dims, strict=True)
    ]


def _apply(function: Any, *arguments: Any) -> Any:
    return function.apply(*arguments)


class _LogDet(torch.autograd.Function):
    @staticmethod
    def forward(A: Any, weights: Any, scale: Any, options: Options) -> Any:
        return options.factor(A, weights, scale, xp).logdet()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *arrays, ctx.options = inputs
        ctx.save_for_backward(*arrays)
        ctx.save_for_forward(*arrays)

    @staticmethod
    def backward(ctx: Any, cotangent: Any) -> tuple[Any, ...]:
        A, weights, scale = ctx.saved_tensors
        R, Q = _own_rows(A, weights, scale, ctx.options, ctx.needs_input_grad[1])
        slopes = logdet_slopes(A, weights, scale, R, Q)
        scaled = (None if x is None else _batch(cotangent, x) * x for x in slopes)
        return (*scaled, None)

    @staticmethod
    def jvp(ctx: Any, *moves: Any) -> Any:
        A, weights, scale = ctx.saved_tensors
        R, Q = _own_rows(A, weights, scale, ctx.options, moves[1] is not None)
        total: Any = torch.zeros_like(scale)
        for move, slope in zip(moves[:3], logdet_slopes(A, weights, scale, R, Q), strict=True):
            if move is not None:
                product = move * slope
                total = total + product.sum(tuple(range(scale.ndim, product.ndim)))
        return total

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, int]:
        return _apply(_LogDet, *_unbatched(info, in_dims, inputs)), 0


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(A: Any, weights: Any, scale: Any, X: Any, own: bool, options: Options) -> Any:
        factor = options.factor(A, weights, scale, xp)
        return factor.resolvent() if own else factor.apply(X)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *arrays, _, _, ctx.options = inputs
        ctx.save_for_backward(*arrays, output)
        ctx.save_for_forward(*arrays, output)

    @staticmethod
    def backward(ctx: Any, cotangent: Any) -> tuple[Any, ...]:
        A, weights, scale, Y = ctx.saved_tensors
        if torch.is_grad_enabled() or ctx.options.made is None:
            B = _apply(_Solve, A, weights, scale, cotangent, False, Options(ctx.options.rtol))
        else:
            B = ctx.options.made.apply(cotangent)
        slopes = solve_slopes(A, weights, scale, Y, B, ctx.needs_input_grad[:3])
        return (*slopes, B, None, None)

    @staticmethod
    def jvp(ctx: Any, *moves: Any) -> Any:
        A, weights, scale, Y = ctx.saved_tensors
        dX = 0.0 if moves[3] is None else moves[3]
        change = dX - change_of(Y, A, weights, scale, moves[:3])
        return _apply(_Solve, A, weights, scale, change, False, Options(ctx.options.rtol))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, int]:
        return _apply(_Solve, *_unbatched(info, in_dims, inputs)), 0


def _own_rows(A: Any, weights: Any, scale: Any, options: Options, both: bool) -> tuple[Any, Any]:
    """WAM⁻¹, and AM⁻¹ where the weights ask for it; from the factor of the value unless a graph is wanted."""
    if options.made is not None and not torch.is_grad_enabled():
        R = options.made.resolvent()
        return R, R if weights is None or not both else options.made.apply(A)
    again = Options(options.rtol)
    R = _apply(_Solve, A, weights, scale, weighted(A, weights), True, again)
    return R, R if weights is None or not both else _apply(_Solve, A, weights, scale, A, False, again)


def _batch(cotangent: Any, like: Any) -> Any:
    return cotangent.reshape((*cotangent.shape, *(1,) * (like.ndim - cotangent.ndim)))


def solve(A: Any, weights: Any, scale: Any, X: Any, own: bool, options: Options) -> Any:
    """X (I + s·AᵀWA)⁻¹; ``own`` promises X = WA."""
    batch = tuple(X.shape[:-2])
    if batch != tuple(scale.shape):
        A, scale, options = A.expand(*batch, *A.shape[-2:]), scale.expand(batch), Options(options.rtol)
        weights = None if weights is None else weights.expand(*batch, weights.shape[-1])
    return _apply(_Solve, A, weights, scale, X, own, options)


def logdet(A: Any, weights: Any, scale: Any, options: Options) -> Any:
    """Log-determinant (...) of I + s·AᵀWA."""
    return _apply(_LogDet, A, weights, scale, options)
