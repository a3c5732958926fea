"""The Lightning module: a model, the data it saw, an objective and an optimizer; and who made the first NaN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from srr.nn.losses import IGNORE, sum_over_ranks, world_size
from srr.nn.probe import modules_entered
from srr.training.augment import augment_images, mix_images
from srr.training.config import OF_VIEWS, RunConfig
from srr.training.objectives import Losses, Teacher, build_objective, build_projection
from srr.training.optim import build_optimizer, may_fuse, warmup_cosine
from srr.training.sources import DataSpec, mix_seeds
from srr.training.start import NETWORK


class NonFiniteError(RuntimeError):
    """The loss or a gradient is NaN or infinite; the message names where it began."""


class TrainingModule(pl.LightningModule):
    """A model with its objective; every batch's randomness is a function of (seed, epoch, batch, rank).

    Args:
        model: the network.
        spec: what the data look like.
        config: the resolved config of the run.
    """

    def __init__(self, model: nn.Module, spec: DataSpec, config: RunConfig) -> None:
        super().__init__()
        self.model, self.spec, self.config = model, spec, config
        self.projection = build_projection(config.objective, model)
        self.teacher = Teacher(model, self.projection) if config.objective.teacher else None
        self.objective = build_objective(config.objective, self.projection, self.teacher)
        self.skipped: dict[str, int] = {}

    @property
    def exported(self) -> nn.Module:
        """The network that a run is about, which is the teacher where there is one."""
        return self.model if self.teacher is None else self.teacher.model

    def configure_model(self) -> None:
        """Shard the parameters over the ranks when the strategy is FSDP2."""
        if self.config.trainer.strategy == "fsdp2":
            from srr.training.checkpoint import shard

            shard(self.model, self.device_mesh)

    def prepare(self, x: Tensor) -> Tensor:
        """Images on the device, as numbers in [0, 1] before any change."""
        if self.spec.kind != "image":
            return x
        return x.to(self.dtype) / 255 if x.dtype == torch.uint8 else x.to(self.dtype)

    def normalize(self, x: Tensor) -> Tensor:
        """Images with the mean and standard deviation of the training set taken out, channel by channel."""
        if self.spec.kind != "image":
            return x
        mean, std = self._statistics(x)
        return (x - mean) / std

    def as_seen(self, x: Tensor) -> Tensor:
        """Images in [0, 1], or about that, from normalized ones."""
        mean, std = self._statistics(x)
        return x * std + mean

    def _statistics(self, like: Tensor) -> list[Tensor]:
        both = self.spec.mean, self.spec.std
        return [torch.tensor(v, dtype=like.dtype, device=like.device)[:, None, None] for v in both]

    def losses(self, batch: dict[str, Any], *, augment: bool) -> Losses:
        """Objective on a batch as it comes from the loader."""
        x, y = self.prepare(batch["x"]), batch["y"]
        change, objective = self.config.augment, self.config.objective
        if objective.name in OF_VIEWS:
            with torch.random.fork_rng(enabled=not augment):
                if not augment:  # the same views after each epoch
                    torch.manual_seed(self.config.seed)
                local = replace(change, crop_scale=objective.local_scale)
                changes = [change] * objective.views + [local] * objective.local_views
                x = torch.cat([augment_images(x, c) for c in changes])
                return self.objective(self.model, self.normalize(x), y)
        if augment and self.spec.kind == "image":
            x = augment_images(x, change)
            if change.mixup or change.cutmix:
                x, y = mix_images(x, y, change, self.spec.num_classes)
        return self.objective(self.model, self.normalize(x), y)

    def on_train_start(self) -> None:
        """Let the config, not the checkpoint, decide the learning rate: a resumed run may have been given another.

        Where it was not, these are the numbers that are there already.
        """
        for schedule in self.trainer.lr_scheduler_configs:
            scheduler: Any = schedule.scheduler
            scheduler.base_lrs = [self.config.optim.lr] * len(scheduler.base_lrs)
            for group, factor in zip(scheduler.optimizer.param_groups, scheduler.lr_lambdas, strict=True):
                group["lr"] = self.config.optim.lr * factor(scheduler.last_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what decides the last bits beside the config, and which network this is."""
        checkpoint["threads"] = torch.get_num_threads()
        if hasattr(self.model, "describe"):
            checkpoint[NETWORK] = cast("Any", self.model).describe()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Start the randomness of this batch anew."""
        torch.manual_seed(mix_seeds(self.config.seed, self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One forward pass; stops the run with a name when the loss is not finite."""
        self._note_skipped(batch)
        losses = self.losses(batch, augment=True)
        if self.config.trainer.check_finite:
            self._check_finite(losses["loss"], batch, batch_idx)
        many = world_size() > 1
        for name, value in losses.items():
            self.log(f"train_{name}", value, prog_bar=name in {"loss", "accuracy"}, on_step=True, sync_dist=many)
        return losses["loss"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Add the metrics of a held-out batch, weighted by its real samples (symbols, for text)."""
        self._note_skipped(batch)
        real = int((batch["y"] != IGNORE).sum())
        if real == 0 and world_size() == 1:
            return
        for name, value in self.losses(batch, augment=False).items():
            total = self._sums.setdefault(name, torch.zeros(2, dtype=torch.float64))
            if real:
                total += torch.tensor([float(value) * real, real], dtype=torch.float64)

    def on_validation_epoch_start(self) -> None:
        """Begin with empty sums."""
        self._sums: dict[str, Tensor] = {}

    def on_validation_epoch_end(self) -> None:
        """Log means over all samples of all ranks."""
        for name, total in self._sums.items():
            value, count = sum_over_ranks(total.to(self.device)).tolist()
            self.log(f"val_{name}", value / max(count, 1.0), prog_bar=name == "accuracy", rank_zero_only=False)

    def configure_optimizers(self) -> Any:
        """Optimizer and schedule, one schedule step an optimizer step."""
        trainer: Any = self.trainer
        total = trainer.datamodule.steps(self.config.trainer)
        epochs = max(1, self.config.trainer.max_epochs)
        share = min(self.config.optim.warmup_epochs / epochs, 1.0)
        learned = {"model": self.model, "projection": self.projection}
        whole = nn.ModuleDict({name: part for name, part in learned.items() if part is not None})
        optimizer = build_optimizer(whole, self.config.optim, fused=may_fuse(self.config.trainer))
        stairs = epochs if self.config.optim.schedule == "epoch" else 0
        floor = self.config.optim.min_lr_ratio
        schedule = warmup_cosine(optimizer, warmup=round(share * total), total=total, floor=floor, stairs=stairs)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        """One step; the teacher follows at once, so that no checkpoint falls between the two."""
        super().optimizer_step(*args, **options)
        if self.teacher is not None:
            steps = self.trainer.global_step + 1  # Lightning counts the step after this
            self.teacher.follow(self.model, self.projection, decay=self.config.objective.teacher, steps=steps)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Log learning rate and gradient norm; stop before a gradient that is not finite reaches the weights."""
        self.log("lr", float(optimizer.param_groups[0]["lr"]))
        self.log("grad_norm", gradient_norm(self.model))
        if not self.config.trainer.check_finite:
            return
        bad = not gradients_finite(self)
        if largest_of_ranks(bad, self.device):
            name = first_bad_gradient(self.model) or first_bad_gradient(self) or "a parameter on another rank"
            raise NonFiniteError(f"the gradient of {name} is not finite; no step was made")

    def _check_finite(self, loss: Tensor, batch: dict[str, Any], batch_idx: int) -> None:
        bad = not bool(torch.isfinite(loss.detach()))
        if not largest_of_ranks(bad, self.device):
            return
        if not bad:
            raise NonFiniteError("the loss is not finite on another rank")
        self.on_train_batch_start(batch, batch_idx)
        if not all(
            bool(torch.isfinite(v).all()) for v in batch.values() if isinstance(v, Tensor) and v.is_floating_point()
        ):
            raise NonFiniteError("the loss is not finite: the batch itself holds NaN or infinity")
        where = first_nonfinite(self.model, lambda: self.losses(batch, augment=True))
        raise NonFiniteError(f"the loss is {loss.item()}; first made by {where}")

    def _note_skipped(self, batch: dict[str, Any]) -> None:
        for name in batch.get("skipped", ()):
            self.skipped[name] = self.skipped.get(name, 0) + 1


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


def gradient_norm(model: nn.Module) -> Tensor:
    """2-norm of the whole gradient, before any clipping."""
    norm: Any = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    return cast("Tensor", norm.full_tensor() if hasattr(norm, "full_tensor") else norm).detach()


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


def largest_of_ranks(number: int, device: torch.device) -> int:
    """The largest of a number over all processes."""
    if world_size() == 1:
        return number
    found = torch.tensor([number], device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found.item())
