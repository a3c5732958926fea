"""Random changes of training images on the device they are on; the randomness is torch's own stream."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from srr.training.config import AugmentConfig


def augment_images(x: Tensor, config: AugmentConfig) -> Tensor:
    """Crop, shift, flip, RandAugment and erasing of images (B, C, H, W) in [0, 1], each drawn per image."""
    if config.crop_scale or config.shift or config.flip:
        x = warp(x, crop_maps(len(x), x.shape[-2:], config, x.device))
    if config.randaugment_ops:
        x = randaugment(x.clamp(0, 1), ops=config.randaugment_ops, magnitude=config.randaugment_magnitude)
    if config.erasing:
        x = erase(x, probability=config.erasing)
    return x


def crop_maps(count: int, size: torch.Size, config: AugmentConfig, device: torch.device) -> Tensor:
    """Affine maps (B, 2, 3) that crop a random part and stretch it to the whole, shift by whole pixels and flip.

    A crop covers a fraction of the area drawn from ``crop_scale`` at an aspect ratio between 3/4 and 4/3,
    never more than the image in either direction.
    """
    height = torch.ones(count, device=device)
    width = torch.ones(count, device=device)
    if config.crop_scale:
        low, high = config.crop_scale
        area = torch.empty(count, device=device).uniform_(low, high)
        ratio = torch.exp(torch.empty(count, device=device).uniform_(math.log(3 / 4), math.log(4 / 3)))
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    x = (torch.rand(count, device=device) * 2 - 1) * (1 - width)
    y = (torch.rand(count, device=device) * 2 - 1) * (1 - height)
    if config.shift:
        pixels = torch.randint(-config.shift, config.shift + 1, (2, count), device=device)
        x, y = x + 2 * pixels[0] / size[1], y + 2 * pixels[1] / size[0]
    sign = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0) if config.flip else torch.ones_like(x)
    zero = torch.zeros_like(x)
    return torch.stack([sign * width, zero, x, zero, height, y], dim=-1).view(count, 2, 3)


def erase(x: Tensor, *, probability: float) -> Tensor:
    """Fill a random rectangle of 2-33 % of the area with noise, in each image with the given probability."""
    B, _, H, W = x.shape
    area = torch.empty(B, device=x.device).uniform_(0.02, 0.33)
    ratio = torch.exp(torch.empty(B, device=x.device).uniform_(math.log(0.3), math.log(1 / 0.3)))
    half = torch.stack([(area / ratio).sqrt() * H, (area * ratio).sqrt() * W]) / 2  # (2, B)
    center = torch.rand(2, B, device=x.device) * torch.tensor([[H], [W]], device=x.device)
    rows = (torch.arange(H, device=x.device)[None] + 0.5 - center[0][:, None]).abs() < half[0][:, None]
    columns = (torch.arange(W, device=x.device)[None] + 0.5 - center[1][:, None]).abs() < half[1][:, None]
    chosen = torch.rand(B, device=x.device) < probability
    inside = (rows[:, :, None] & columns[:, None, :] & chosen[:, None, None])[:, None]
    return torch.where(inside, torch.rand_like(x), x)


def mix_images(x: Tensor, y: Tensor, config: AugmentConfig, classes: int) -> tuple[Tensor, Tensor]:
    """Mixup or cutmix of a batch with its own reversal; labels become class probabilities (B, classes).

    When both are configured one of them is drawn for the batch. The mixing weight is drawn from Beta(a, a).
    """
    soft = functional.one_hot(y, classes).to(x.dtype)
    if not config.mixup and not config.cutmix:
        return x, soft
    cut = bool(config.cutmix) and (not config.mixup or bool(torch.rand(()) < 0.5))
    weight = _beta(config.cutmix if cut else config.mixup)
    other = x.flip(0)
    if cut:
        x, weight = _paste(x, other, weight)
    else:
        x = weight * x + (1 - weight) * other
    return x, weight * soft + (1 - weight) * soft.flip(0)


def _beta(a: float) -> float:
    """One draw of Beta(a, a) from torch's stream."""
    return float(torch.distributions.Beta(a, a).sample())


def _paste(x: Tensor, other: Tensor, weight: float) -> tuple[Tensor, float]:
    """Paste one rectangle of the other images; the weight returned is the share of the image that stayed."""
    H, W = x.shape[-2:]
    height, width = (round(side * math.sqrt(1 - weight)) for side in (H, W))
    top, left = (int(torch.randint(side - part + 1, ())) for side, part in ((H, height), (W, width)))
    x = x.clone()
    x[..., top : top + height, left : left + width] = other[..., top : top + height, left : left + width]
    return x, 1 - height * width / (H * W)


# kornia was weighed for what follows: its RandAugment draws one policy for a whole batch and wants three channels.
Change = Callable[[Tensor, Tensor], Tensor]
"""Images (B, C, H, W) in [0, 1] and signed strengths (B,) in [-1, 1] to images."""


def warp(x: Tensor, theta: Tensor) -> Tensor:
    """Images sampled bilinearly through affine maps (B, 2, 3) of output to input coordinates; zero outside."""
    grid = functional.affine_grid(theta.to(x.dtype), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _affine(entries: Callable[[Tensor], tuple[Tensor, ...]]) -> Change:
    def change(x: Tensor, s: Tensor) -> Tensor:
        return warp(x, torch.stack(entries(s), dim=-1).view(-1, 2, 3))

    return change


def _one(s: Tensor) -> Tensor:
    return torch.ones_like(s)


def _zero(s: Tensor) -> Tensor:
    return torch.zeros_like(s)


def _rotate(s: Tensor) -> tuple[Tensor, ...]:
    angle = s * math.radians(30)
    return torch.cos(angle), -torch.sin(angle), _zero(s), torch.sin(angle), torch.cos(angle), _zero(s)


def _blend(base: Callable[[Tensor], Tensor]) -> Change:
    """Mix with a degenerate image: strength 0 keeps the image, 1 and −1 move it 0.9 away from or toward the base."""

    def change(x: Tensor, s: Tensor) -> Tensor:
        other = base(x)
        return (other + (1 + 0.9 * s)[:, None, None, None] * (x - other)).clamp(0, 1)

    return change


def _gray(x: Tensor) -> Tensor:
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True).expand_as(x)
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype, device=x.device)
    return (x * weights[:, None, None]).sum(1, keepdim=True).expand_as(x)


def _mean_gray(x: Tensor) -> Tensor:
    return _gray(x).mean((1, 2, 3), keepdim=True).expand_as(x)


def _blurred(x: Tensor) -> Tensor:
    kernel = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=x.dtype, device=x.device) / 13
    weight = kernel.expand(x.shape[1], 1, 3, 3)
    padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(padded, weight, groups=x.shape[1])


def _posterize(x: Tensor, s: Tensor) -> Tensor:
    levels = torch.exp2(8 - torch.round(4 * s.abs()))[:, None, None, None]
    return torch.floor((x * 255 / 256) * levels) / levels * 256 / 255


def _solarize(x: Tensor, s: Tensor) -> Tensor:
    threshold = (1 - s.abs())[:, None, None, None]
    return torch.where(x < threshold, x, 1 - x)


def _autocontrast(x: Tensor, s: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp(min=1e-6), x)


def _equalize(x: Tensor, s: Tensor) -> Tensor:
    """Each channel through its own cumulative histogram of 256 levels."""
    levels = (x * 255).round().to(torch.int64).flatten(2)  # (B, C, N)
    counts = torch.zeros(*levels.shape[:2], 256, dtype=x.dtype, device=x.device)
    counts.scatter_add_(-1, levels, torch.ones_like(levels, dtype=x.dtype))
    total = counts.cumsum(-1)
    first = total.gather(-1, levels.amin(-1, keepdim=True))
    table = (total - first) / (total[..., -1:] - first).clamp(min=1)
    flat = (total[..., -1:] == first).expand_as(levels)
    return torch.where(flat, x.flatten(2), table.gather(-1, levels)).view_as(x)


OPERATIONS: dict[str, Change] = {
    "identity": lambda x, s: x,
    "rotate": _affine(_rotate),
    "shear_x": _affine(lambda s: (_one(s), 0.3 * s, _zero(s), _zero(s), _one(s), _zero(s))),
    "shear_y": _affine(lambda s: (_one(s), _zero(s), _zero(s), 0.3 * s, _one(s), _zero(s))),
    "translate_x": _affine(lambda s: (_one(s), _zero(s), 0.9 * s, _zero(s), _one(s), _zero(s))),
    "translate_y": _affine(lambda s: (_one(s), _zero(s), _zero(s), _zero(s), _one(s), 0.9 * s)),
    "brightness": _blend(torch.zeros_like),
    "contrast": _blend(_mean_gray),
    "color": _blend(_gray),
    "sharpness": _blend(_blurred),
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
"""The fourteen operations; at full strength a rotation is 30°, a shear 0.3, a shift 0.45 of the width."""


def randaugment(x: Tensor, *, ops: int, magnitude: float) -> Tensor:
    """Apply ``ops`` operations, drawn anew for every image, at strength ±magnitude/30.

    Args:
        x: images (B, C, H, W) in [0, 1].
        ops: operations an image gets, one after the other.
        magnitude: from 0 to 30.

    Returns:
        Images of the same shape in [0, 1].
    """
    for _ in range(ops):
        chosen = torch.randint(len(OPERATIONS), (len(x),), device=x.device)
        signs = torch.randint(2, (len(x),), device=x.device).to(x.dtype) * 2 - 1
        strength = signs * (magnitude / 30)
        result = x.clone()
        for index, change in enumerate(OPERATIONS.values()):
            at = (chosen == index).nonzero().flatten()
            if len(at):
                result[at] = change(x[at], strength[at]).clamp(0, 1)
        x = result
    return x
