"""What a step minimizes: each objective is a frozen value, called with the model and one prepared batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from srr.nn.crate import patchify
from srr.nn.losses import reconstruction_loss
from srr.nn.probe import head_inputs, layer_states
from srr.ops.rates import coding_rate, subspace_coding_rate
from srr.ops.streaming import SecondMoment
from srr.training.config import ObjectiveConfig
from srr.training.data.base import IGNORE
from srr.training.distributed import sum_over_ranks

Losses = dict[str, Tensor]
"""``loss`` and whatever else is worth a curve."""


class Objective(Protocol):
    """A function of a model, inputs and targets (class numbers, class probabilities or symbols)."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Losses:
        """Losses of one batch."""


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of class scores, with label smoothing; targets are numbers (IGNORE left out) or probabilities."""

    label_smoothing: float = 0.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Losses:
        """Mean loss of the batch; accuracy when the targets are numbers."""
        logits = model(x)
        logits, y = (logits.flatten(0, -2), y.flatten()) if logits.ndim > 2 else (logits, y)
        smoothing = self.label_smoothing if model.training else 0.0
        loss = functional.cross_entropy(logits, y, label_smoothing=smoothing, ignore_index=IGNORE)
        return {"loss": loss, **accuracy(logits, y)}


def accuracy(logits: Tensor, y: Tensor) -> Losses:
    """Share of targets that have the highest score, empty when targets are probabilities."""
    if y.is_floating_point():
        return {}
    real = y != IGNORE
    return {"accuracy": ((logits.argmax(-1) == y) & real).sum() / real.sum().clamp(min=1)}


@dataclass(frozen=True)
class WithSparseRateReduction:
    r"""Another objective minus λ times the sparse rate reduction of the tokens after chosen layers.

    .. math:: \mathcal{L} - \frac{w}{|L|}\sum_{\ell\in L} \bigl(R(Z^\ell) - R^c(Z^\ell; U_\ell)
              - \lambda\,\mathrm{mean}_i \|z_i\|_1\bigr)

    Tokens are scaled to unit norm, so the term cannot be raised by scale alone. With ``scope="image"`` the
    tokens of each image are one set and the mean over images is taken; with ``scope="batch"`` all tokens of
    all ranks are one set, whose moments are summed over the ranks.

    Source: the regularizer of [INDEPTH], with ‖·‖₁ in place of ‖·‖₀.
    """

    base: Objective
    weight: float
    layers: tuple[int, ...]
    eps: float
    lam: float
    scope: str

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Losses:
        """The other losses, the regularizer as ``srr``, and their sum as ``loss``."""
        with layer_states(model, self.layers) as seen:
            losses = self.base(model, x, y)
        real = y != IGNORE if y.ndim == 1 else slice(None)
        terms = [self.measure(state.after[real], full_tensor(state.block.attention.U)) for state in seen.values()]
        srr = torch.stack(terms).mean()
        return {**losses, "loss": losses["loss"] - self.weight * srr, "srr": srr.detach()}

    def measure(self, Z: Tensor, U: Tensor) -> Tensor:
        """Sparse rate reduction of tokens (B, n, d) scaled to unit norm, in nats."""
        Z, U = functional.normalize(Z.float(), dim=-1, eps=1e-6), U.float()
        sparsity = self.lam * Z.abs().sum(-1).mean()
        if self.scope == "image":
            gain: Tensor = coding_rate(Z, eps=self.eps) - subspace_coding_rate(Z, U, eps=self.eps)
            return gain.mean() - sparsity
        moment = SecondMoment.zeros(Z.shape[-1], like=Z).update(Z.flatten(0, -2)).map(sum_over_ranks)
        rates: Tensor = moment.coding_rate(eps=self.eps) - moment.subspace_coding_rate(U, eps=self.eps)
        return rates.to(Z.dtype) - sparsity


@dataclass(frozen=True)
class RateReduction:
    r"""MCR²: minus the rate reduction ΔR of unit-norm features of all ranks, by class.

    The head learns from detached features by cross-entropy, so that an accuracy can be read while no label
    gradient but that of ΔR reaches the layers.

    Source: [MCR2] (11).
    """

    eps: float
    classes: int

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Losses:
        """−ΔR + head loss as ``loss``; ΔR in nats as ``rate_reduction``."""
        with head_inputs(model, detach=True) as pooled:
            read = CrossEntropy()(model, x, y)
        real = y != IGNORE
        Z = functional.normalize(pooled[0][real].float(), dim=-1, eps=1e-6)
        gain = self.rate_reduction(Z, y[real]) if bool(real.any()) else Z.sum()
        return {**read, "loss": read["loss"] - gain, "rate_reduction": gain.detach()}

    def rate_reduction(self, Z: Tensor, y: Tensor) -> Tensor:
        """ΔR of features (n, d) and labels (n,) of all ranks together, in nats."""
        moment = SecondMoment.zeros(Z.shape[-1], like=Z, classes=self.classes).update(Z, labels=y)
        return moment.map(sum_over_ranks).rate_reduction(eps=self.eps).to(Z.dtype)


@dataclass(frozen=True)
class MaskedAutoencoding:
    """Mean squared error of hidden patches, drawn from torch's stream in training and from a fixed one otherwise."""

    seed: int = 0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Losses:
        """Reconstruction loss of :class:`srr.nn.CrateMAE`."""
        seed = int(torch.randint(2**62, ())) if model.training else self.seed
        hidden = model.draw_mask(len(x), seed=seed)  # type: ignore[operator]
        config: Any = model.config
        targets = patchify(x, config.patch_size)
        if config.normalize_targets:
            variance, mean = torch.var_mean(targets, dim=-1, keepdim=True)
            targets = (targets - mean) / (variance + 1e-6).sqrt()
        return {"loss": reconstruction_loss(model(x, hidden), targets, hidden)}


@dataclass(frozen=True)
class NextToken:
    """Cross-entropy of the next symbol, in nats a symbol."""

    base: CrossEntropy = field(default_factory=CrossEntropy)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Losses:
        """Mean over all positions; bits a symbol beside it."""
        losses = self.base(model, x, y)
        return {**losses, "bits": losses["loss"].detach() / torch.log(torch.tensor(2.0))}


def full_tensor(x: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded over ranks."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def build_objective(config: ObjectiveConfig, classes: int) -> Objective:
    """The objective a config names, with the sparse rate reduction added when it has a weight.

    Raises:
        ValueError: an unknown name or scope.
    """
    known: dict[str, Objective] = {
        "cross_entropy": CrossEntropy(config.label_smoothing),
        "mcr2": RateReduction(config.eps, classes),
        "masked": MaskedAutoencoding(),
        "next_token": NextToken(CrossEntropy(config.label_smoothing)),
    }
    if config.name not in known:
        raise ValueError(f"objective.name must be one of {', '.join(known)}; got {config.name!r}")
    if config.srr_scope not in {"image", "batch"}:
        raise ValueError(f"objective.srr_scope must be 'image' or 'batch'; got {config.srr_scope!r}")
    base = known[config.name]
    if not config.srr_weight:
        return base
    return WithSparseRateReduction(
        base, config.srr_weight, config.srr_layers, config.eps, config.srr_lam, config.srr_scope
    )
