"""Optimizers, the learning-rate schedule and the moving average of the weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, cast, overload

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import ParamsT

from srr.training.config import OptimConfig, TrainerConfig

Groups = list[dict[str, Any]]


class _Stepping(Optimizer):
    """An optimizer whose step is ``update``."""

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._update()
        return loss

    def _update(self) -> None:
        """The update, without a closure."""
        raise NotImplementedError


class Lion(_Stepping):
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
        params: ParamsT,
        *,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def _update(self) -> None:
        for group, x, g, state in _with_gradient(self):
            fast, slow = group["betas"]
            momentum = state.setdefault("momentum", torch.zeros_like(x))
            x.mul_(1 - group["lr"] * group["weight_decay"])
            x.add_(torch.lerp(g, momentum, fast).sign_(), alpha=-group["lr"])
            momentum.lerp_(g, 1 - slow)


class MuonWithAdamW(_Stepping):
    r"""torch's Muon for the matrices of the layers, torch's AdamW for everything else, as one optimizer.

    .. math::

        m \leftarrow \mu m + (1 - \mu) g, \qquad
        X \leftarrow (1 - \gamma\omega)\,X - 0.2\,\gamma\sqrt{\max(r, c)}\;\mathrm{orth}\bigl((1 - \mu) g + \mu m\bigr)

    ``orth`` replaces the singular values of an r × c matrix by ones, approximately; the factor gives its entries the
    root mean square of an AdamW update, so one learning rate and one decay serve both kinds.

    Args:
        params: groups; those with ``orthogonal=True`` hold matrices only.
        lr: γ.
        momentum: μ.
        betas: those of the AdamW half.
        weight_decay: ω.

    Source: Jordan et al. 2024 (Muon), with the scale of Liu et al. 2025 (arXiv 2502.16982).
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "orthogonal": False})
        kinds: dict[bool, Callable[..., Optimizer]] = {
            True: partial(Muon, momentum=momentum, adjust_lr_fn="match_rms_adamw"),
            False: partial(AdamW, betas=betas),
        }
        chosen = {kind: [g for g in self.param_groups if g["orthogonal"] is kind] for kind in kinds}
        self.halves = {kind: make(chosen[kind], lr=lr) for kind, make in kinds.items() if chosen[kind]}

    def _update(self) -> None:
        for kind, half in self.halves.items():  # groups and state are those of this optimizer, which is what is saved
            half.param_groups = [group for group in self.param_groups if group["orthogonal"] is kind]
            half.state = self.state
            half.step()


def _with_gradient(optimizer: Optimizer) -> Iterator[tuple[dict[str, Any], Tensor, Tensor, dict[str, Any]]]:
    for group in optimizer.param_groups:
        for x in group["params"]:
            if x.grad is not None:
                yield group, x, x.grad, optimizer.state[x]


def parameter_groups(model: nn.Module, *, weight_decay: float, everything: bool = False) -> Groups:
    """Three groups: matrices of the layers, other matrices, and what is never decayed (vectors, positions, tokens).

    Args:
        model: the network.
        weight_decay: decay of the first two groups.
        everything: decay the third as well.

    Returns:
        Groups for an optimizer, empty ones left out; ``orthogonal`` marks the first.
    """
    kinds: dict[str, list[nn.Parameter]] = {"layer": [], "other": [], "plain": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kinds[_kind(name, parameter)].append(parameter)
    settings = {
        "layer": (weight_decay, True),
        "other": (weight_decay, False),
        "plain": (weight_decay * everything, False),
    }
    return [
        {"params": found, "weight_decay": settings[kind][0], "orthogonal": settings[kind][1]}
        for kind, found in kinds.items()
        if found
    ]


def _kind(name: str, parameter: nn.Parameter) -> str:
    last = name.rsplit(".", 1)[-1]
    if parameter.ndim < 2 or any(word in last for word in ("position", "token", "bias")):
        return "plain"
    return "layer" if "blocks." in name and parameter.ndim == 2 else "other"


def may_fuse(trainer: TrainerConfig) -> bool:
    """Whether AdamW may take its step in one kernel: Lightning clips no gradients for it under mixed precision."""
    return not (trainer.clip_norm and trainer.precision in ("bf16", "16"))


def build_optimizer(model: nn.Module, config: OptimConfig, *, fused: bool = False) -> Optimizer:
    """The optimizer a config names, over :func:`parameter_groups` of a model; AdamW in one kernel where fused."""
    betas = cast("tuple[float, float]", config.betas)
    known: dict[str, Callable[..., Optimizer]] = {
        "adamw": partial(AdamW, betas=betas or (0.9, 0.999), fused=fused),
        "lion": partial(Lion, betas=betas or (0.9, 0.99)),
        "muon": partial(MuonWithAdamW, betas=betas or (0.9, 0.999), momentum=config.momentum),
    }
    groups = parameter_groups(model, weight_decay=config.weight_decay, everything=config.decay == "all")
    return known[config.name](groups, lr=config.lr, weight_decay=config.weight_decay)


def warmup_cosine(optimizer: Optimizer, *, warmup: int, total: int, floor: float = 0.0, stairs: int = 0) -> LambdaLR:
    """Learning rate rising linearly for ``warmup`` steps, then half a cosine to ``floor`` of its peak at ``total``.

    With ``stairs`` the rate keeps the value it has at the start of each of as many equal parts, such as epochs.
    """
    return LambdaLR(optimizer, partial(_factor, warmup, total, floor, stairs))


def _factor(warmup: int, total: int, floor: float, stairs: int, step: int) -> float:
    place: float = step
    if stairs:
        place = step * stairs // max(1, total) * total / stairs
    if place < warmup:
        return (place + 1) / warmup
    progress = min(1.0, (place - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def move_average(average: Mapping[str, Tensor], model: nn.Module, *, decay: float, steps: int) -> None:
    """Move averaged parameters, by name, toward those of a model, after the optimizer's step number ``steps``."""
    decay = min(decay, (1 + steps) / (10 + steps))
    for name, p in model.named_parameters():
        average[name].lerp_(p.detach(), 1 - decay)


AVERAGE = "WeightAverage"


# Lightning's WeightAveraging copies the whole module before FSDP2 shards it, and saves the average as the weights.
class WeightAverage(pl.Callback):
    r"""Exponential moving average :math:`\bar w \leftarrow \delta \bar w + (1-\delta) w` after every optimizer step.

    The decay rises as (1 + t)/(10 + t) until it reaches the one asked for. The average is part of every checkpoint, and
    validation runs on it.

    Args:
        decay: δ in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"trainer.ema must be in (0, 1); got {decay}")
        self.decay = decay
        self.steps = 0
        self.average: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the weights themselves unless a checkpoint brought an average."""
        model = _model(pl_module)
        if not self.average:
            self.average = {name: p.detach().clone() for name, p in model.named_parameters()}
        devices = {name: p.device for name, p in model.named_parameters()}
        self.average = {name: value.to(devices[name]) for name, value in self.average.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        """Move the average once an optimizer step has been made."""
        if trainer.global_step == self.steps:
            return
        self.steps = trainer.global_step
        move_average(self.average, _model(pl_module), decay=self.decay, steps=self.steps)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in place of the weights."""
        if self.average and not trainer.sanity_checking:
            self._kept = _exchange(_model(pl_module), self.average)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the weights back."""
        if self._kept:
            _exchange(_model(pl_module), self._kept)
            self._kept = {}

    @contextlib.contextmanager
    def in_place(self, pl_module: pl.LightningModule) -> Iterator[None]:
        """The average in place of the weights while the block runs."""
        kept = _exchange(_model(pl_module), self.average) if self.average else {}
        try:
            yield
        finally:
            _exchange(_model(pl_module), kept)

    @property
    def state_key(self) -> str:
        """Name of this state in a checkpoint."""
        return AVERAGE

    def state_dict(self) -> dict[str, Any]:
        """Average and step count."""
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.steps, self.average = state_dict["steps"], dict(state_dict["average"])


def _model(pl_module: pl.LightningModule) -> nn.Module:
    return cast("nn.Module", pl_module.model)


@torch.no_grad()
def _exchange(model: nn.Module, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy values into the parameters and return what was there."""
    for module in model.modules():
        if hasattr(module, "reshard"):  # FSDP2 leaves the outermost parameters whole after a forward pass
            cast("Any", module).reshard()
    old = {}
    for name, p in model.named_parameters():
        if name in values:
            old[name] = p.detach().clone()
            p.copy_(values[name])
    return old
