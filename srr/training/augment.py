"""Random changes of training images on the device they are on; the randomness is torch's own stream."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from srr.training.config import AugmentConfig
from srr.training.randaugment import randaugment, warp


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
        low, high = _range(config.crop_scale)
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


def _range(scale: tuple[float, ...]) -> tuple[float, float]:
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"augment.crop_scale must be two numbers 0 < low <= high <= 1; got {list(scale)}")
    return scale[0], scale[1]


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
