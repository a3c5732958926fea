"""What is measured on a trained network beyond its held-out loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from experiments import PROBE_SAMPLES
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import srr
from srr.nn import head_inputs, patchify, unpatchify
from srr.training.module import TrainingModule
from srr.training.sources import Source

EPS = 0.1


def layers(module: TrainingModule, untrained: nn.Module, source: Source) -> dict[str, Any]:
    """Layer traces of 256 held-out images, in the trained network and in the same one before training."""
    x = inputs(module, source.val, 256)
    traces = {"trained": module.model, "untrained": untrained.to(x.device)}
    return {
        name: {k: np.asarray(v).tolist() for k, v in srr.layer_trace(m.eval(), x, eps=EPS)._asdict().items()}
        for name, m in traces.items()
    }


def halves(module: TrainingModule, untrained: nn.Module, source: Source) -> dict[str, Any]:
    """Layer traces, and what every half of the trained network did to its own objective, in float64."""
    certificate = srr.certify(copy.deepcopy(module.model).eval(), inputs(module, source.val, 256))
    found = [
        {
            "layer": half.layer,
            "half": half.half,
            "proved": half.proved,
            "before": float(half.before.mean()),
            "after": float(half.after.mean()),
            "rises": half.rises,
            "violations": half.violations,
            "inputs": len(half.before),
        }
        for half in certificate.half_steps
    ]
    return {**layers(module, untrained, source), "halves": found}


def probe(module: TrainingModule, untrained: nn.Module, source: Source) -> dict[str, Any]:
    """Accuracy of logistic regression on mean encoder features and on pixels, with a few reconstructions."""
    model: Any = module.model.eval()
    readers: dict[str, Callable[[Tensor], Tensor]] = {
        "trained": mean_features(model),
        "untrained": mean_features(untrained.to(module.device).eval()),
        "pixels": lambda images: images.flatten(1),
    }
    scores = {}
    for name, read in readers.items():
        train = features(module, read, source.train, PROBE_SAMPLES)
        val = features(module, read, source.val, len(source.val))
        reader = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-3, max_iter=1000)).fit(*train)
        scores[name] = float(reader.score(*val))
    return {"probe": scores, "pictures": reconstructions(module, inputs(module, source.val, 8))}


def mean_features(model: Any) -> Callable[[Tensor], Tensor]:
    """The mean token of an encoder that sees everything."""
    return lambda images: model.encode(images).mean(dim=1)


def reconstructions(module: TrainingModule, x: Tensor) -> dict[str, Any]:
    """Images, what is left of them, and what the network makes of that, as gray values (B, H, W) from 0 to 255."""
    model: Any = module.model
    with torch.no_grad():
        hidden = model.draw_mask(len(x), seed=0)
        made = model.reconstruct(x, hidden)
        seen = unpatchify(
            patchify(torch.ones_like(x), model.config.patch_size) * ~hidden[..., None],
            model.config.image_size,
            model.config.patch_size,
        )
    gray = torch.full_like(x, 0.5)
    mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (module.spec.mean, module.spec.std))
    original, made = (image * std + mean for image in (x, made))
    parts = {"original": original, "masked": torch.where(seen > 0, original, gray), "reconstruction": made}
    return {k: (255 * v[:, 0]).round().clamp(0, 255).int().tolist() for k, v in parts.items()}


def subspaces(module: TrainingModule, untrained: nn.Module, source: Source) -> dict[str, Any]:
    """Held-out accuracy of the nearest principal subspace of each (noisily labeled) class, in pooled features."""
    model: Any = module.model.eval()

    def pooled(images: Tensor) -> Tensor:
        with head_inputs(model) as found:
            model(images)
        return nn.functional.normalize(found[0], dim=-1)

    train, y = features(module, pooled, source.train, PROBE_SAMPLES)
    val, truth = features(module, pooled, source.val, len(source.val))
    rank = max(1, train.shape[1] // source.spec.num_classes)
    U = srr.ops.principal_bases(train.astype(np.float64), y, rank=rank)
    energy = (srr.ops.project(val.astype(np.float64), U) ** 2).sum(axis=-1)  # (K, n)
    return {"nearest_subspace": float((energy.argmax(axis=0) == truth).mean())}


def features(
    module: TrainingModule, read: Callable[[Tensor], Tensor], samples: Any, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of the first samples, in batches."""
    found, labels = [], []
    for start in range(0, min(count, len(samples)), 500):
        at = list(range(start, min(start + 500, count, len(samples))))
        batch = samples.__getitems__(at)
        with torch.no_grad():
            images = module.normalize(module.prepare(batch["x"].to(module.device)))
            found.append(read(images).float().cpu().numpy())
        labels.append(batch["y"].numpy())
    return np.concatenate(found), np.concatenate(labels)


def inputs(module: TrainingModule, samples: Any, count: int) -> Tensor:
    """The first samples as the network takes them."""
    return module.normalize(module.prepare(samples.__getitems__(list(range(count)))["x"].to(module.device)))


MEASURES = {"layers": layers, "halves": halves, "probe": probe, "subspaces": subspaces}
