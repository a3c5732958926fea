"""What a step minimizes: each objective is a frozen value, called with the model and one prepared batch."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

from srr.nn.losses import (
    IGNORE,
    cross_entropy,
    ctrl_loss,
    manifold_loss,
    mcr2_loss,
    nmce_loss,
    patch_loss,
    reconstruction_loss,
    srr_regularizer,
    views_loss,
)
from srr.nn.mae import unpatchify
from srr.nn.network import patchify
from srr.nn.probe import blocks_of, head_inputs, layer_states
from srr.training.config import ObjectiveConfig
from srr.training.optim import move_average

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
        return scored(model(x), y, smoothing=self.label_smoothing if model.training else 0.0)


def scored(logits: Tensor, y: Tensor, *, smoothing: float) -> Losses:
    """Cross-entropy of class scores, and accuracy."""
    return {"loss": cross_entropy(logits, y, label_smoothing=smoothing), **accuracy(logits, y)}


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
            real = (y != IGNORE).repeat(len(x) // len(y)) if y.ndim == 1 else None  # once for each view
            srr = -penalty(real)
        return {**losses, "loss": losses["loss"] - self.weight * srr, "srr": srr.detach()}


@dataclass(frozen=True)
class MCR2:
    r"""MCR²: minus the rate reduction ΔR of unit-norm features of all ranks, by class.

    The head learns from detached features by cross-entropy, so that an accuracy can be read while no label
    gradient but that of ΔR reaches the layers.

    Source: [MCR2] (11).
    """

    eps: float
    gamma1: float = 1.0
    gamma2: float = 1.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Losses:
        """−ΔR + head loss as ``loss``; ΔR in nats, with its γ, as ``rate_reduction``."""
        with head_inputs(model, detach=True) as pooled:
            read = CrossEntropy()(model, x, y)
        real = y != IGNORE
        gain = -mcr2_loss(pooled[0][real], y[real], eps=self.eps, gamma1=self.gamma1, gamma2=self.gamma2)
        return {**read, "loss": read["loss"] - gain, "rate_reduction": gain.detach()}


def build_projection(config: ObjectiveConfig, model: nn.Module) -> nn.Sequential | None:
    """The perceptron between features and loss: linear maps, layer norm and GELU between them; none without widths."""
    if not config.projection:
        return None
    widths = (int(cast("Any", model).config.dim), *config.projection)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.LayerNorm(before), nn.GELU()] if layers else []
        layers.append(nn.Linear(before, after))
    return nn.Sequential(*layers)


def projected(projection: nn.Module | None, Z: Tensor) -> Tensor:
    """Features as the loss sees them."""
    return Z if projection is None else projection(Z)


def by_view(Z: Tensor, views: int) -> Tensor:
    """Features (V B, c) of views one after the other as (V, B, c)."""
    return Z.reshape(views, -1, Z.shape[-1])


class Teacher(nn.Module):
    """A copy of network and projection whose weights are the moving average of theirs; no gradient reaches it.

    Args:
        model: the network.
        projection: what stands between its features and the loss.
    """

    def __init__(self, model: nn.Module, projection: nn.Module | None) -> None:
        super().__init__()
        self.model, self.projection = copy.deepcopy(model), copy.deepcopy(projection)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def follow(self, model: nn.Module, projection: nn.Module | None, *, decay: float, steps: int) -> None:
        """Move toward the student after its step number ``steps``; statistics that no gradient moves are copied."""
        for mine, other in ((self.model, model), (self.projection, projection)):
            if mine is not None and other is not None:
                move_average(dict(mine.named_parameters()), other, decay=decay, steps=steps)
                for kept, found in zip(mine.buffers(), other.buffers(), strict=True):
                    kept.copy_(found)

    @torch.no_grad()
    def forward(self, x: Tensor, *, patches: bool) -> tuple[Tensor, Tensor | None]:
        """Projected features (B, c) of images, and their projected patch tokens (B, n, c) where asked for."""
        pooled, tokens = pooled_and_patches(self.model, x, patches=patches)[:2]
        return projected(self.projection, pooled), None if tokens is None else projected(self.projection, tokens)


def pooled_and_patches(model: nn.Module, x: Tensor, *, patches: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    """What reaches the head (B, d), the patch tokens (B, n, d) after the last layer where asked for, and the scores.

    The head itself sees a copy that sends nothing back.
    """
    with contextlib.ExitStack() as stack:
        seen = stack.enter_context(layer_states(model, [-1])) if patches else {}
        pooled = stack.enter_context(head_inputs(model, detach=True))
        scores = model(x)
        return pooled[0], seen[-1].after[:, 1:] if patches else None, scores


def hide_patches(model: nn.Module, x: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) with a share of their patches at zero, the mean, and which: boolean (B, n)."""
    config: Any = model.config
    rows, columns = config.grid
    n = rows * columns
    hidden = torch.rand(len(x), n, device=x.device).argsort(1).argsort(1) < max(1, round(share * n))
    sides = (x.shape[-2] // rows, x.shape[-1] // columns)
    grid = hidden.view(-1, 1, rows, columns).repeat_interleave(sides[0], 2).repeat_interleave(sides[1], 3)
    return torch.where(grid, 0.0, x), hidden


@dataclass(frozen=True)
class Views:
    r"""Agreement of the views of an image, and the rate that keeps features apart; no label reaches the layers.

    As for :class:`MCR2`, the head learns from detached features, so that an accuracy can be read. With a teacher the
    targets are its features of the first ``count`` views; of these the student may have to do without some patches,
    which it is to fill in as the teacher sees them.

    Source: [EMPSSL], [SIMDINO]; see :func:`srr.nn.views_loss` and :func:`srr.nn.patch_loss`.
    """

    config: ObjectiveConfig
    projection: nn.Module | None = None
    teacher: Teacher | None = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Losses:
        """Loss of the views, which x holds one after the other, + head loss as ``loss``; the first as ``views``."""
        config, B, real = self.config, len(y), y != IGNORE
        count = config.views * B
        patches = self.teacher is not None and config.patches_weight > 0
        target, wanted = (None, None) if self.teacher is None else self.teacher(x[:count], patches=patches)
        if patches:
            part, hidden = hide_patches(model, x[:count], config.patches_hidden)
            x = torch.cat((part, x[count:]))
        pooled, tokens, scores = pooled_and_patches(model, x, patches=patches)
        V = len(x) // B
        read = scored(scores, y.repeat(V), smoothing=0.0)
        Z = by_view(projected(self.projection, pooled), V)[:, real]  # (V B, d) -> (V, real, c)
        target = None if target is None else by_view(target, config.views)[:, real]
        apart = views_loss(Z, teacher=target, eps=config.eps, weight=config.views_weight)
        losses = {**read, "loss": read["loss"] + apart, "views": apart.detach()}
        if tokens is None or wanted is None:
            return losses
        kept = hidden & real.repeat(config.views)[:, None]
        filled = patch_loss(projected(self.projection, tokens[:count]), wanted, kept, eps=config.eps)
        return {**losses, "loss": losses["loss"] + config.patches_weight * filled, "patches": filled.detach()}


@dataclass(frozen=True)
class Manifold:
    """MCR² with the views of an image as a class of their own; the head reads as for :class:`MCR2`.

    Source: [MCR2], self-supervised; see :func:`srr.nn.manifold_loss`.
    """

    config: ObjectiveConfig
    projection: nn.Module | None = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Losses:
        """Loss of the views + head loss as ``loss``; the first as ``views``."""
        config, B = self.config, len(y)
        pooled, _, scores = pooled_and_patches(model, x, patches=False)
        V = len(x) // B
        read = scored(scores, y.repeat(V), smoothing=0.0)
        Z = by_view(projected(self.projection, pooled), V)[:, y != IGNORE]
        apart = manifold_loss(Z, eps=config.eps, gamma1=config.gamma1, gamma2=config.gamma2)
        return {**read, "loss": read["loss"] + apart, "views": apart.detach()}


@dataclass(frozen=True)
class Clusters:
    """Views, and clusters by rates: the head's softmax, mean over the views, is the membership; no label is used.

    Source: [NMCE]; see :func:`srr.nn.nmce_loss`.
    """

    config: ObjectiveConfig
    projection: nn.Module | None = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Losses:
        """The loss, and the entropy of the mean membership as ``cluster_entropy``: log K where clusters are even."""
        config, B, real = self.config, len(y), y != IGNORE
        with head_inputs(model) as pooled:
            scores = model(x)
        V = len(x) // B
        Z = by_view(projected(self.projection, pooled[0]), V)[:, real]
        Pi = by_view(torch.softmax(scores, -1), V).mean(0)[real]  # (V B, K) -> (real, K)
        loss = nmce_loss(Z, Pi, eps=config.eps, weight=config.views_weight)
        return {"loss": loss, "cluster_entropy": torch.special.entr(Pi.detach().mean(0)).sum()}


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient changes its sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


@dataclass(frozen=True)
class ClosedLoop:
    r"""Closed-loop transcription: one step of the game in which the encoder descends a loss that the decoder climbs.

    .. math:: Z = f(X), \quad \hat X = g(\mathrm{const}\,Z), \quad \hat Z = f(\hat X)

    The encoder moves with the decoded images held fixed, the decoder with the codes held fixed: the gradient changes
    its sign on the way from :math:`\hat X` into g, so one optimizer moves both at once. The squared error of the pixels
    reaches the decoder alone.

    Source: [CTRL]; see :func:`srr.nn.ctrl_loss`.
    """

    config: ObjectiveConfig

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Losses:
        """Loss of the encoder + pixel error as ``loss``; what the encoder raises as ``utility``, in nats."""
        config, autoencoder, real = self.config, cast("CrateMAE", model), y != IGNORE
        sizes = autoencoder.config
        targets = patchify(x, sizes.patch_size)  # (B, C, H, W) -> (B, n, patch_dim)
        nothing = torch.zeros(targets.shape[:2], dtype=torch.bool, device=x.device)  # DDP wants the mask token in use
        Z = autoencoder.encode_one(x, nothing)
        patches = autoencoder.decode(Z.detach())
        error = reconstruction_loss(patches, targets, real[:, None] | nothing)
        reverse: Callable[[Tensor], Tensor] = _Reversed.apply
        decoded = autoencoder.encode_one(reverse(unpatchify(patches, sizes.image_size, sizes.patch_size)), nothing)
        loss = ctrl_loss(Z[real], decoded[real], y[real] if config.ctrl_classes else None, eps=config.eps)
        whole = loss + config.pixel_weight * error
        return {"loss": whole, "utility": -loss.detach(), "pixel_error": error.detach()}


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


def build_objective(
    config: ObjectiveConfig, projection: nn.Module | None = None, teacher: Teacher | None = None
) -> Objective:
    """The objective a config names, with the sparse rate reduction added when it has a weight.

    Args:
        config: the section.
        projection: from :func:`build_projection`, what a run keeps between features and loss.
        teacher: the averaged network.
    """
    known: dict[str, Objective] = {
        "cross_entropy": CrossEntropy(config.label_smoothing),
        "mcr2": MCR2(config.eps, config.gamma1, config.gamma2),
        "views": Views(config, projection, teacher),
        "manifold": Manifold(config, projection),
        "nmce": Clusters(config, projection),
        "ctrl": ClosedLoop(config),
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
    named = {"masked": "draw_mask", "ctrl": "draw_mask", "next_token": "head"}
    needs = named.get(config.name, "pool")
    if not hasattr(model, needs) or (config.name == "next_token" and hasattr(model, "pool")):
        raise ValueError(f"objective {config.name!r} does not go with a {type(model).__name__}")
    sizes = cast("Any", model).config
    if config.name == "ctrl" and (not sizes.code or sizes.normalize_targets):
        raise ValueError(
            "objective 'ctrl' needs one code between encoder and decoder, and pixels as they are: model.code=64 and "
            f"model.normalize_targets=false; got code={sizes.code}, normalize_targets={sizes.normalize_targets}"
        )
    if config.patches_weight and not hasattr(sizes, "grid"):
        raise ValueError(f"objective.patches_weight needs a network that sees patches; got a {type(model).__name__}")
    depth = len(blocks_of(model))
    for layer in config.srr_layers if config.srr_weight else ():
        if not -depth <= layer < depth:
            raise ValueError(f"objective.srr_layers must be in [{-depth}, {depth}); got {layer}")
