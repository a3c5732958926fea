"""Which layer and which operator made the first NaN or infinity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from srr.nn.probe import modules_entered


class _FirstBad(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the first operator whose output is not finite although its inputs are, and the module it ran in."""

    def __init__(self, inside: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inside = inside
        self.found: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.found is None and _bad(result) and not _bad([*args, *(kwargs or {}).values()]):
            place = f"layer {self.inside[-1]}" if self.inside else "the loss"
            self.found = f"operator {func.overloadpacket.__name__} in {place}"
        return result


def _bad(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point() and value.numel() > 0 and not bool(torch.isfinite(value).all())
    if isinstance(value, (list, tuple)):
        return any(_bad(v) for v in value)
    return False


def first_nonfinite(model: nn.Module, compute: Callable[[], Any]) -> str:
    """Run ``compute`` again under watch and say where the first NaN or infinity comes from.

    Args:
        model: the network ``compute`` runs.
        compute: the forward pass and the loss.

    Returns:
        A phrase such as ``operator log in layer blocks.2.attention``.
    """
    broken = next((name for name, p in model.named_parameters() if _bad(p.detach())), None)
    if broken:
        return f"parameter {broken}, already not finite before the step"
    with modules_entered(model) as inside, torch.enable_grad(), _FirstBad(inside) as watch:
        compute()
    return watch.found or "no operator of the forward pass, run again"


def gradients_finite(model: nn.Module) -> bool:
    """Whether every gradient on this rank is finite, read from one norm of all of them."""
    grads = [_local(p.grad) for p in model.parameters() if p.grad is not None]
    if not grads or bool(torch.isfinite(torch.nn.utils.get_total_norm(grads))):
        return True
    return not any(_bad(g) for g in grads)  # the norm alone may overflow


def first_bad_gradient(model: nn.Module) -> str | None:
    """Name of the first parameter, in forward order, whose gradient is not finite."""
    named = model.named_parameters()
    return next((name for name, p in named if p.grad is not None and _bad(_local(p.grad))), None)


def _local(x: Tensor) -> Tensor:
    return x.to_local() if hasattr(x, "to_local") else x
