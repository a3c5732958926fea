"""Does a classifier find the object? Garments on made-up textures, CRATE beside a ViT, masks never shown.

    python examples/results/segmentation.py DIR/fashion-mnist segmentation.json

Both networks have the class token, patches, embedding, depth, schedule and data of each other. The layer is chosen on
one half of the held-out images and reported on the other.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from srr.nn import MASKS, ClassifierHead, PatchEmbedding, create_model, mean_iou, patch_maps, patch_tokens
from srr.training.config import DataConfig
from srr.training.sources import load_data

SIDE, PATCH, GRID = 40, 4, (10, 10)
SIZES = {"dim": 64, "heads": 4, "head_dim": 16, "depth": 4}
Looks = list[tuple[np.ndarray, np.ndarray]]


def compose(garments: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Garments (N, 28, 28) in [0, 1] at random places on waves and noise as bright as they: images in ±1, masks."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    images, masks = [], []
    for garment in garments.numpy():
        angle, wave, phase = random.uniform(0, np.pi), random.uniform(0.3, 1.5), random.uniform(0, 2 * np.pi)
        ground = 0.5 + 0.35 * np.sin(wave * (rows * np.cos(angle) + columns * np.sin(angle)) + phase)
        ground += 0.1 * random.normal(size=ground.shape)
        top, left = random.integers(0, SIDE - 28 + 1, size=2)
        place = np.zeros((SIDE, SIDE))
        place[top : top + 28, left : left + 28] = garment
        mask = place > 0.1
        images.append(np.where(mask, place, ground.clip(0, 1)))
        masks.append(mask)
    return torch.tensor(np.stack(images) * 2 - 1, dtype=torch.float32)[:, None], torch.tensor(np.stack(masks))


class ViT(nn.Module):
    """Embedding and head of CRATE, layers of torch: pre-norm, GELU, class token read."""

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        dim, heads = SIZES["dim"], SIZES["heads"]
        self.embed = PatchEmbedding(SIDE, PATCH, channels=1, dim=dim, position_std=0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, hidden, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(SIZES["depth"])
        )
        self.head = ClassifierHead(dim, 10)

    def forward(self, images: Tensor) -> Tensor:
        Z = self.embed(images)
        for layer in self.layers:
            Z = layer(Z)
        return self.head(Z[:, 0])

    def look(self, images: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
        """Attention of the class token (B, K, n) in a layer, and the patch tokens after it."""
        Z = self.embed(images)
        for number, layer in enumerate(self.layers):
            X: Any = layer.norm1(Z)
            if number == wanted:
                maps = layer.self_attn(X, X, X, average_attn_weights=False)[1][:, :, 0, 1:]
                return maps, layer(Z)[:, 1:]
            Z = layer(Z)
        raise IndexError(wanted)


def look_at(model: Any, images: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Attention of the class token and patch tokens of either network."""
    if isinstance(model, ViT):
        return model.look(images, layer)
    return patch_maps(model, images, layer=layer), patch_tokens(model, images, layer=layer)


def train(model: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    steps = epochs * (len(labels) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=generator)[: len(labels) // 64 * 64].view(-1, 64):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


@torch.no_grad()
def scores(look: Callable[[Tensor, int], tuple[Tensor, Tensor]], images: Tensor, truth: Tensor) -> dict[str, float]:
    """mIoU of every way on the second half of the images, at the layer that is best on the first."""
    half = len(images) // 2
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in MASKS}
    for layer in range(SIZES["depth"]):
        maps, tokens = look(images, layer)
        for name, make in MASKS.items():
            masks = [make(m, t, GRID) for m, t in zip(maps.double().numpy(), tokens.double().numpy(), strict=True)]
            full = torch.from_numpy(np.stack(masks)).view(-1, *GRID)
            full = full.repeat_interleave(PATCH, dim=1).repeat_interleave(PATCH, dim=2)
            found[name].append((mean_iou(full[:half], truth[:half]), mean_iou(full[half:], truth[half:])))
    return {name: max(pairs)[1] for name, pairs in found.items()}


def plain(images: Tensor, truth: Tensor) -> dict[str, float]:
    """What needs no network, on the same half: everything, the middle, and the cut and PCA of the pixels of patches."""
    half = len(images) // 2
    x, wanted = images[half:], truth[half:]
    middle = torch.zeros_like(wanted)
    middle[:, 8:32, 8:32] = True
    result = {"everything": mean_iou(torch.ones_like(wanted), wanted), "middle": mean_iou(middle, wanted)}
    pixels = nn.functional.unfold(x, PATCH, stride=PATCH).mT.double().numpy()
    for name in ("pca", "cut"):
        masks = torch.from_numpy(np.stack([MASKS[name](t, t, GRID) for t in pixels])).view(-1, *GRID)
        full = masks.repeat_interleave(PATCH, dim=1).repeat_interleave(PATCH, dim=2)
        result[f"{name} of pixels"] = mean_iou(full, wanted)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of the idx files")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--train", type=int, default=6000)
    parser.add_argument("--test", type=int, default=400)
    options = parser.parse_args()
    source: Any = load_data(DataConfig(name="fashion-mnist", root=options.data), seed=0)
    garments, labels = source.train.x[: options.train, 0] / 255, source.train.y[: options.train]
    images, _ = compose(garments, seed=0)
    held, truth = compose(source.val.x[: options.test, 0] / 255, seed=1)
    answers = source.val.y[: options.test]
    rows = [{"network": "none", **plain(held, truth)}]
    for seed in range(options.seeds):
        for name in ("CRATE", "ViT"):
            torch.manual_seed(seed)
            config = {**SIZES, "image_size": SIDE, "patch_size": PATCH, "pool": "cls"}
            model: Any = create_model("crate_micro", **config) if name == "CRATE" else ViT()
            look = partial(look_at, model)
            untrained = scores(look, held, truth) if seed == 0 else {}
            begun = time.perf_counter()
            train(model, images, labels, epochs=options.epochs, seed=seed)
            row: dict[str, Any] = {"network": name, "seed": seed, "seconds": time.perf_counter() - begun}
            row["parameters"] = sum(p.numel() for p in model.parameters())
            with torch.no_grad():
                row["accuracy"] = float((model(held).argmax(1) == answers).float().mean())
            row |= scores(look, held, truth)
            row |= {f"{key}, untrained": value for key, value in untrained.items()}
            rows.append(row)
            print(json.dumps(row), file=sys.stderr)
            options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
