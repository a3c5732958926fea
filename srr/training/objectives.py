"""What a step minimizes: each objective is a frozen value, called with the model and one prepared batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn

from srr.nn.losses import IGNORE, cross_entropy, mcr2_loss, srr_regularizer, views_loss
from srr.nn.probe import blocks_of, head_inputs
from srr.training.config import ObjectiveConfig

if TYPE_CHECKING:
    from srr.nn import CrateMAE

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
        loss = cross_entropy(logits, y, label_smoothing=self.label_smoothing if model.training else 0.0)
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
        with srr_regularizer(model, self.layers, eps=self.eps, lam=self.lam, scope=self.scope) as penalty:
            losses = self.base(model, x, y)
            srr = -penalty(y != IGNORE if y.ndim == 1 else None)
        return {**losses, "loss": losses["loss"] - self.weight * srr, "srr": srr.detach()}


@dataclass(frozen=True)
class MCR2:
    r"""MCR²: minus the rate reduction ΔR of unit-norm features of all ranks, by class.

    The head learns from detached features by cross-entropy, so that an accuracy can be read while no label
    gradient but that of ΔR reaches the layers.

    Source: [MCR2] (11).
    """

    eps: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Losses:
        """−ΔR + head loss as ``loss``; ΔR in nats as ``rate_reduction``."""
        with head_inputs(model, detach=True) as pooled:
            read = CrossEntropy()(model, x, y)
        real = y != IGNORE
        gain = -mcr2_loss(pooled[0][real], y[real], eps=self.eps)
        return {**read, "loss": read["loss"] - gain, "rate_reduction": gain.detach()}


@dataclass(frozen=True)
class Views:
    r"""Agreement of the views of an image, and the rate that keeps features apart; no label reaches the layers.

    As for :class:`MCR2`, the head learns from detached features, so that an accuracy can be read.

    Source: [EMPSSL], [SIMDINO]; see :func:`srr.nn.views_loss`.
    """

    count: int
    eps: float
    weight: float | None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Losses:
        """Loss of the views, which x holds one after the other, + head loss as ``loss``; the first as ``views``."""
        with head_inputs(model, detach=True) as pooled:
            read = CrossEntropy()(model, x, y.repeat(self.count))
        Z = pooled[0].reshape(self.count, len(y), -1)[:, y != IGNORE]  # (V B, d) -> (V, real, d)
        apart = views_loss(Z, eps=self.eps, weight=self.weight)
        return {**read, "loss": read["loss"] + apart, "views": apart.detach()}


@dataclass(frozen=True)
class MaskedAutoencoding:
    """Mean squared error of hidden patches, drawn from torch's stream in training and from a fixed one otherwise."""

    seed: int = 0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Losses:
        """Reconstruction loss of :class:`srr.nn.CrateMAE`."""
        seed = int(torch.randint(2**62, ())) if model.training else self.seed
        autoencoder = cast("CrateMAE", model)
        return {"loss": autoencoder.loss(x, autoencoder.draw_mask(len(x), seed=seed))}


@dataclass(frozen=True)
class NextToken:
    """Cross-entropy of the next symbol, in nats a symbol."""

    base: CrossEntropy = field(default_factory=CrossEntropy)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Losses:
        """Mean over all positions; bits a symbol beside it."""
        losses = self.base(model, x, y)
        return {**losses, "bits": losses["loss"].detach() / torch.log(torch.tensor(2.0))}


def build_objective(config: ObjectiveConfig) -> Objective:
    """The objective a config names, with the sparse rate reduction added when it has a weight."""
    known: dict[str, Objective] = {
        "cross_entropy": CrossEntropy(config.label_smoothing),
        "mcr2": MCR2(config.eps),
        "views": Views(config.views, config.eps, config.views_weight),
        "masked": MaskedAutoencoding(),
        "next_token": NextToken(CrossEntropy(config.label_smoothing)),
    }
    base = known[config.name]
    if not config.srr_weight:
        return base
    return WithSparseRateReduction(
        base, config.srr_weight, config.srr_layers, config.eps, config.srr_lam, config.srr_scope
    )


def check_objective(config: ObjectiveConfig, model: nn.Module) -> None:
    """Refuse an objective that a model cannot have, before a run begins.

    Raises:
        ValueError: the model has no such output, or not so many layers.
    """
    named = {"masked": "draw_mask", "next_token": "head"}
    needs = named.get(config.name, "pool")
    if not hasattr(model, needs) or (config.name == "next_token" and hasattr(model, "pool")):
        raise ValueError(f"objective {config.name!r} does not go with a {type(model).__name__}")
    depth = len(blocks_of(model))
    for layer in config.srr_layers if config.srr_weight else ():
        if not -depth <= layer < depth:
            raise ValueError(f"objective.srr_layers must be in [{-depth}, {depth}); got {layer}")
