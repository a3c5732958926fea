"""Optimizers and the learning-rate schedule: AdamW of torch, Lion and Muon written from their update rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from srr.training.config import OptimConfig

Groups = list[dict[str, Any]]


class Lion(Optimizer):
    r"""Sign of an interpolated momentum, with decoupled weight decay.

    .. math::

        x \leftarrow (1 - \gamma\omega)\,x - \gamma\,\mathrm{sign}(\beta_1 m + (1 - \beta_1) g), \qquad
        m \leftarrow \beta_2 m + (1 - \beta_2) g

    Args:
        params: parameters or groups of them.
        lr: γ.
        betas: β₁ of the update and β₂ of the momentum.
        weight_decay: ω.

    Source: Chen et al. 2023 (arXiv 2302.06675), algorithm 2; the optimizer of [CRATE]'s pre-training.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = _evaluate(closure)
        for group, x, g, state in _with_gradient(self):
            fast, slow = group["betas"]
            momentum = state.setdefault("momentum", torch.zeros_like(x))
            x.mul_(1 - group["lr"] * group["weight_decay"])
            x.add_(torch.lerp(g, momentum, fast).sign_(), alpha=-group["lr"])
            momentum.lerp_(g, 1 - slow)
        return loss


class Muon(Optimizer):
    r"""Orthogonalized momentum for the matrices of the layers, AdamW for everything else.

    .. math::

        m \leftarrow \mu m + g, \qquad
        X \leftarrow (1 - \gamma\omega)\,X - 0.2\,\gamma\sqrt{\max(r, c)}\;\mathrm{orth}(g + \mu m)

    ``orth`` replaces the singular values of an r × c matrix by ones, approximately, by ``orthogonal_factor``; the
    factor gives its entries the root mean square of an AdamW update, so one learning rate and one decay serve
    both kinds.

    Args:
        params: groups; one with ``orthogonal=True`` holds matrices only.
        lr: γ.
        momentum: μ.
        betas: those of the AdamW half.
        weight_decay: ω.

    Source: Jordan et al. 2024 (Muon), with the scale of Liu et al. 2025 (arXiv 2502.16982).
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay, "orthogonal": False}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = _evaluate(closure)
        for group, x, g, state in _with_gradient(self):
            x.mul_(1 - group["lr"] * group["weight_decay"])
            update = _muon_update if group["orthogonal"] else _adam_update
            x.add_(update(g, state, group), alpha=-group["lr"])
        return loss


def _muon_update(g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    momentum = state.setdefault("momentum", torch.zeros_like(g))
    momentum.mul_(group["momentum"]).add_(g)
    direction: Tensor = orthogonal_factor(g.add(momentum, alpha=group["momentum"]))
    return direction.mul(0.2 * math.sqrt(max(g.shape[-2:])))


def _adam_update(g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    if not state:
        state.update(step=torch.zeros(()), mean=torch.zeros_like(g), square=torch.zeros_like(g))
    fast, slow = group["betas"]
    state["step"] += 1
    t = float(state["step"])
    state["mean"].lerp_(g, 1 - fast)
    state["square"].mul_(slow).addcmul_(g, g, value=1 - slow)
    root = (state["square"] / (1 - slow**t)).sqrt_().add_(1e-8)
    update: Tensor = state["mean"] / (1 - fast**t) / root
    return update


def orthogonal_factor(G: Tensor, *, steps: int = 5) -> Tensor:
    r"""Approximate polar factor of matrices by a quintic Newton-Schulz iteration.

    .. math:: X \leftarrow a X + b\,(X X^\top) X + c\,(X X^\top)^2 X

    Args:
        G: (..., r, c).
        steps: iterations; five bring singular values above 1e-3 of the largest into [0.7, 1.2].

    Returns:
        (..., r, c), with the singular vectors of G.

    Source: Jordan et al. 2024, with their coefficients a, b, c = 3.4445, −4.7750, 2.0315.
    """
    X = G.to(torch.float32)
    wide = X.shape[-2] <= X.shape[-1]
    X = X if wide else X.mT
    X = X / (torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True) + 1e-12)
    for _ in range(steps):
        A = X @ X.mT
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
    result: Tensor = X if wide else X.mT
    return result.to(G.dtype)


def _evaluate(closure: Callable[[], Any] | None) -> Any:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _with_gradient(optimizer: Optimizer) -> Iterator[tuple[dict[str, Any], Tensor, Tensor, dict[str, Any]]]:
    for group in optimizer.param_groups:
        for x in group["params"]:
            if x.grad is not None:
                yield group, x, x.grad, optimizer.state[x]


def parameter_groups(model: nn.Module, *, weight_decay: float) -> Groups:
    """Three groups: matrices of the layers, other matrices, and what is never decayed (vectors, positions, tokens).

    Args:
        model: the network.
        weight_decay: decay of the first two groups.

    Returns:
        Groups for an optimizer, empty ones left out; ``orthogonal`` marks the first.
    """
    kinds: dict[str, list[nn.Parameter]] = {"layer": [], "other": [], "plain": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kinds[_kind(name, parameter)].append(parameter)
    settings = {"layer": (weight_decay, True), "other": (weight_decay, False), "plain": (0.0, False)}
    return [
        {"params": found, "weight_decay": settings[kind][0], "orthogonal": settings[kind][1]}
        for kind, found in kinds.items()
        if found
    ]


def _kind(name: str, parameter: nn.Parameter) -> str:
    last = name.rsplit(".", 1)[-1]
    if parameter.ndim < 2 or any(word in last for word in ("position", "token", "bias")):
        return "plain"
    return "layer" if "blocks." in name else "other"


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """The optimizer a config names, over :func:`parameter_groups` of a model.

    Raises:
        ValueError: an unknown name, or betas that are not two numbers.
    """
    if config.betas and len(config.betas) != 2:
        raise ValueError(f"optim.betas must be two numbers; got {list(config.betas)}")
    betas: Any = config.betas
    known: dict[str, Callable[..., Optimizer]] = {
        "adamw": partial(AdamW, betas=betas or (0.9, 0.999)),
        "lion": partial(Lion, betas=betas or (0.9, 0.99)),
        "muon": partial(Muon, betas=betas or (0.9, 0.999), momentum=config.momentum),
    }
    if config.name not in known:
        raise ValueError(f"optim.name must be one of {', '.join(known)}; got {config.name!r}")
    groups = parameter_groups(model, weight_decay=config.weight_decay)
    return known[config.name](groups, lr=config.lr, weight_decay=config.weight_decay)


def warmup_cosine(optimizer: Optimizer, *, warmup: int, total: int, floor: float = 0.0) -> LambdaLR:
    """Learning rate rising linearly for ``warmup`` steps, then half a cosine to ``floor`` of its peak at ``total``."""
    return LambdaLR(optimizer, partial(_factor, warmup, total, floor))


def _factor(warmup: int, total: int, floor: float, step: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
