"""Every loss on a batch, or on the part of it that a rank has; the parts are uneven, and one rank may have nothing."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from srr.nn import create_model
from srr.nn.losses import (
    cross_entropy,
    ctrl_loss,
    manifold_loss,
    mcr2_loss,
    nmce_loss,
    patch_loss,
    srr_regularizer,
    total_coding_rate_regularizer,
    views_loss,
)
from srr.training.config import ObjectiveConfig
from srr.training.objectives import build_objective

N = 14
PARTS = {0: slice(0, 4), 1: slice(4, N), None: slice(0, N)}


class Features(nn.Module):
    """A linear map, the smallest network with features (B, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Loop(nn.Module):
    """An autoencoder with a code, and the objective that closes its loop."""

    def __init__(self) -> None:
        super().__init__()
        self.model = create_model("crate_mae_micro", dim=8, heads=2, head_dim=4, depth=1, decoder_depth=1, code=6)
        self.objective = build_objective(ObjectiveConfig(name="ctrl", pixel_weight=2.0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.objective(self.model, x, y)["loss"]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


INPUTS = draw(N, 5, seed=0)
IMAGES = draw(N, 1, 8, 8, seed=1)
LABELS = torch.tensor([2, 0, 1, 1, 0, 2, 3, 3, 0, 1, 2, 0, 3, 1])  # class 3 is on the second rank alone
VIEWS = draw(3, N, 5, seed=4)
TEACHER = draw(5, 6, seed=5)
HIDDEN = draw(N, 16, seed=2) > 0.3
MEMBERS = torch.softmax(draw(N, 3, seed=3), -1)
IGNORED = torch.where(torch.arange(N) < 3, -100, LABELS)
ALL_ON_ONE = torch.where(torch.arange(N) < 4, -100, LABELS)  # no target on the first rank

Loss = Callable[[nn.Module, nn.Module, slice], Tensor]


def classifier(**options: Any) -> nn.Module:
    return create_model("crate_micro", dim=8, heads=2, head_dim=4, depth=2, **options)


def autoencoder() -> nn.Module:
    return create_model("crate_mae_micro", dim=8, heads=2, head_dim=4, depth=1, decoder_depth=1)


def regularized(scope: str) -> Loss:
    def loss(model: nn.Module, wrapped: nn.Module, part: slice) -> Tensor:
        with srr_regularizer(model, scope=scope, eps=0.5, lam=0.1) as penalty:
            scores = wrapped(IMAGES[part])
            return cross_entropy(scores, LABELS[part]) + 0.3 * penalty()

    return loss


def of_some(model: nn.Module, wrapped: nn.Module, part: slice) -> Tensor:
    """MCR² of samples that the first rank has none of."""
    keep = ALL_ON_ONE[part] != -100
    return mcr2_loss(wrapped(INPUTS[part])[keep], LABELS[part][keep], eps=0.5)


def closed_loop(model: nn.Module, wrapped: nn.Module, part: slice, *, labeled: bool) -> Tensor:
    """Codes, and codes of what a fixed map makes of them."""
    Z = wrapped(torch.stack((INPUTS[part], INPUTS[part].roll(1, -1))))
    return ctrl_loss(*Z, LABELS[part] if labeled else None, eps=0.5)


def clusters(model: nn.Module, wrapped: nn.Module, part: slice) -> Tensor:
    """Memberships that the features themselves decide, so that gradients reach them."""
    Z = wrapped(VIEWS[:, part])
    return nmce_loss(Z, torch.softmax(Z.mean(0)[:, :3], -1), eps=0.5, weight=0.3)


CASES: dict[str, tuple[Callable[[], nn.Module], Loss]] = {
    "cross_entropy": (Features, lambda m, w, part: cross_entropy(w(INPUTS[part]), IGNORED[part], label_smoothing=0.1)),
    "targets_on_one_rank": (Features, lambda m, w, part: cross_entropy(w(INPUTS[part]), ALL_ON_ONE[part])),
    "mixed": (Features, lambda m, w, part: cross_entropy(w(INPUTS[part])[:, :3], MEMBERS[part])),
    "mcr2_labels": (Features, lambda m, w, part: mcr2_loss(w(INPUTS[part]), LABELS[part], eps=0.5)),
    "mcr2_members": (Features, lambda m, w, part: mcr2_loss(w(INPUTS[part]), MEMBERS[part], eps=0.5, normalize=False)),
    "mcr2_empty_rank": (Features, of_some),
    "total_coding_rate": (Features, lambda m, w, part: total_coding_rate_regularizer(w(INPUTS[part]), eps=0.5)),
    "views": (Features, lambda m, w, part: views_loss(w(VIEWS[:, part]), eps=0.5)),
    "views_teacher": (
        Features,
        lambda m, w, part: views_loss(w(VIEWS[:, part]), teacher=VIEWS[:2, part] @ TEACHER, eps=0.3, weight=0.2),
    ),
    "views_empty_rank": (Features, lambda m, w, part: views_loss(w(VIEWS[:, part])[:, ALL_ON_ONE[part] != -100])),
    "mcr2_gammas": (
        Features,
        lambda m, w, part: mcr2_loss(w(INPUTS[part]), LABELS[part], eps=0.5, gamma1=4.0, gamma2=0.25),
    ),
    "manifold": (Features, lambda m, w, part: manifold_loss(w(VIEWS[:, part]), eps=0.5, gamma1=4.0, gamma2=0.25)),
    "manifold_empty_rank": (
        Features,
        lambda m, w, part: manifold_loss(w(VIEWS[:, part])[:, ALL_ON_ONE[part] != -100], eps=0.5),
    ),
    "patches": (
        Features,
        lambda m, w, part: patch_loss(
            w(VIEWS[:, part].transpose(0, 1)), VIEWS[:, part].transpose(0, 1) @ TEACHER, HIDDEN[part, :3], weight=0.1
        ),
    ),
    "nmce": (Features, clusters),
    "ctrl_binary": (Features, partial(closed_loop, labeled=False)),
    "ctrl_multi": (Features, partial(closed_loop, labeled=True)),
    "ctrl_objective": (Loop, lambda m, w, part: w(IMAGES[part], IGNORED[part])),
    "srr_image": (classifier, regularized("image")),
    "srr_batch": (classifier, regularized("batch")),
    "masked": (
        autoencoder,
        lambda m, w, part: m.loss(IMAGES[part], HIDDEN[part], predicted=w(IMAGES[part], HIDDEN[part])),
    ),
}


def gradients_and_value(name: str, rank: int | None, *, wrap: Callable[[nn.Module], nn.Module] = lambda m: m) -> Any:
    """Value and gradients of the parameters, of the whole batch when rank is None."""
    make, loss = CASES[name]
    torch.manual_seed(0)
    model = make().double()
    wrapped = wrap(model)  # held until the gradients are there
    value = loss(model, wrapped, PARTS[rank])
    value.backward()
    return value.detach(), [p.grad for p in model.parameters() if p.grad is not None]
