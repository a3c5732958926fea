"""Minus the sparse rate reduction between the layers of a model, as a term of its training loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from srr._array.checks import check_nonnegative, check_positive
from srr.nn.losses.rates import coding_rate, subspace_coding_rate

__all__ = ["srr_regularizer"]


@contextlib.contextmanager
def srr_regularizer(
    model: nn.Module,
    layers: Sequence[int] | None = None,
    *,
    eps: float = 0.5,
    lam: float = 0.1,
    normalize: bool = True,
    core_dtype: torch.dtype | None = None,
) -> Iterator[Callable[[], Tensor]]:
    r"""Minus the sparse rate reduction of the tokens that leave chosen layers, in nats.

    .. math::

        \frac{1}{|L|} \sum_{\ell \in L} R^c(Z^{\ell+1}; U_\ell) - R(Z^{\ell+1})
            + \lambda\, \tfrac1n \lVert Z^{\ell+1} \rVert_1

    Inside the context every forward pass of the model leaves its tokens with the layers; calling the yielded function
    gives the term of the latest pass, with gradients to everything that made the tokens and to the bases.

    Args:
        model: a network with ``blocks`` that have ``attention.U``.
        layers: their numbers, negative ones from the end; all of them by default.
        eps: distortion ε > 0.
        lam: sparsity weight λ ≥ 0 of the mean ℓ1 norm of a token.
        normalize: scale tokens to unit norm first, so that the term cannot be lowered by scale alone.
        core_dtype: dtype of the Gram matrices and their factors, float64 by default.

    Yields:
        A function of no arguments: the term, a scalar, mean over the images and the chosen layers.

    Raises:
        ValueError: a layer the model does not have or one without bases, no layer at all, eps not positive, lam
            negative; or the term asked for before any forward pass.

    Source: The regularizer of [INDEPTH], with ‖·‖₁ in place of ‖·‖₀.

    Example:
        >>> from srr.nn import create_model
        >>> model = create_model("crate_micro")
        >>> with srr_regularizer(model, layers=[-1]) as penalty:
        ...     loss = model(torch.zeros(2, 1, 8, 8)).square().mean() + 0.01 * penalty()
        >>> loss.backward()
        >>> model.blocks[-1].attention.projection.grad is not None
        True
    """
    check_positive(eps, "eps")
    check_nonnegative(lam, "lam")
    blocks = _blocks(model, layers)
    tokens: dict[int, Tensor] = {}
    measure = partial(_negative_srr, eps=eps, lam=lam, normalize=normalize, core_dtype=core_dtype)

    def penalty() -> Tensor:
        if len(tokens) < len(blocks):
            raise ValueError("penalty must be asked for after a forward pass of the model; got none")
        return torch.stack([measure(Z, blocks[i].attention.U) for i, Z in tokens.items()]).mean()

    def keep(place: int, block: nn.Module, inputs: Any, output: Tensor) -> None:
        tokens[place] = output

    hooks = [block.register_forward_hook(partial(keep, i)) for i, block in enumerate(blocks)]
    try:
        yield penalty
    finally:
        for hook in hooks:
            hook.remove()


def _blocks(model: nn.Module, layers: Sequence[int] | None) -> list[Any]:
    """The chosen blocks, each with bases."""
    blocks = list(getattr(model, "blocks", []))
    chosen = range(len(blocks)) if layers is None else layers
    if not chosen:
        raise ValueError(f"layers must name at least one of the {len(blocks)} blocks of the model; got none")
    for layer in chosen:
        if not -len(blocks) <= layer < len(blocks):
            raise ValueError(f"layers must be in [{-len(blocks)}, {len(blocks)}); got {layer}")
        if not hasattr(getattr(blocks[layer], "attention", None), "U"):
            raise ValueError(f"layers must have bases, attention.U; got layer {layer} without")
    return [blocks[layer] for layer in chosen]


def _negative_srr(
    Z: Tensor, U: Tensor, *, eps: float, lam: float, normalize: bool, core_dtype: torch.dtype | None
) -> Tensor:
    """R^c − R + λ·(mean ℓ1 norm of a token), mean over the batch axes of Z (..., n, d)."""
    Z = Z if Z.dtype in (torch.float32, torch.float64) else Z.float()
    Z = functional.normalize(Z, dim=-1) if normalize else Z
    compressed = subspace_coding_rate(Z, U, eps=eps, core_dtype=core_dtype)
    expanded = coding_rate(Z, eps=eps, core_dtype=core_dtype)
    return (compressed - expanded).mean() + lam * Z.abs().sum(-1).mean()
