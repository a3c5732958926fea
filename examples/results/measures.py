"""What is measured on a trained network beyond its held-out loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import srr
from srr.training.data.base import Source
from srr.training.module import TrainingModule

EPS = 0.1
PROBE_SAMPLES = 10_000


def layers(module: TrainingModule, untrained: nn.Module, source: Source) -> dict[str, Any]:
    """Layer traces of 256 held-out images, in the trained network and in the same one before training."""
    x = inputs(module, source.val, 256)
    traces = {"trained": module.model, "untrained": untrained.to(x.device)}
    return {
        name: {
            k: np.asarray(v).tolist() for k, v in srr.diagnostics.layer_trace(m.eval(), x, eps=EPS)._asdict().items()
        }
        for name, m in traces.items()
    }


def probe(module: TrainingModule, untrained: nn.Module, source: Source) -> dict[str, Any]:
    """Accuracy of logistic regression on mean encoder features, with a few reconstructions."""
    model: Any = module.model.eval()
    x = inputs(module, source.val, 8)
    with torch.no_grad():
        hidden = model.draw_mask(len(x), seed=0)
        made = model.reconstruct(x, hidden)
    scores = {}
    for name, encoder in (("trained", model), ("untrained", untrained.to(x.device).eval())):

        def mean_features(images: Tensor, encoder: Any = encoder) -> Tensor:
            return encoder.encode(images).mean(dim=1)

        train = features(module, mean_features, source.train, PROBE_SAMPLES)
        val = features(module, mean_features, source.val, len(source.val))
        reader = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(*train)
        scores[name] = float(reader.score(*val))
    pictures = {"original": x, "reconstruction": made, "hidden": hidden.to(x.dtype)}
    return {"probe": scores, "pictures": {k: v.float().cpu().numpy().round(4).tolist() for k, v in pictures.items()}}


def subspaces(module: TrainingModule, untrained: nn.Module, source: Source) -> dict[str, Any]:
    """Held-out accuracy of the nearest principal subspace of each (noisily labelled) class, in pooled features."""
    model: Any = module.model.eval()

    def pooled(images: Tensor) -> Tensor:
        found: list[Tensor] = []
        handle = model.head.register_forward_pre_hook(lambda _, given: found.append(given[0]))
        model(images)
        handle.remove()
        return nn.functional.normalize(found[0], dim=-1)

    train, y = features(module, pooled, source.train, PROBE_SAMPLES)
    val, truth = features(module, pooled, source.val, len(source.val))
    rank = max(1, train.shape[1] // source.spec.num_classes)
    U = srr.principal_bases(train.astype(np.float64), y, rank=rank)
    energy = (srr.project(val.astype(np.float64), U) ** 2).sum(axis=-1)  # (K, n)
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


MEASURES = {"layers": layers, "probe": probe, "subspaces": subspaces}
