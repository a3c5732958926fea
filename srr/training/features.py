"""What frozen features are worth: how much of their space they use, and how well classes are read from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import lightning.pytorch as pl
import torch
from rich.console import Console
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from srr._array.checks import check_tokens
from srr._array.extras import need
from srr.nn.losses import IGNORE, fused_coding_rate, unit_rows
from srr.nn.probe import evaluating, head_inputs
from srr.training.baseline import choose_subspaces
from srr.training.sources import EvalOrder, Samples, Source

if TYPE_CHECKING:
    from srr.training.module import TrainingModule

NEIGHBORS = 20
COLLAPSED = 1.5
"""Effective rank below which all features are one direction and a remainder."""


class Spread(NamedTuple):
    """How much of their space features use.

    Args:
        effective_rank: exponential of the entropy of the singular values, from 1 to min(n, d).
        rate: coding rate of the unit-norm features over d, in nats a dimension.
        dead: share of coordinates whose standard deviation is below 0.001 of the root mean square of all entries.
        width: d.
    """

    effective_rank: float
    rate: float
    dead: float
    width: int

    @property
    def warning(self) -> str | None:
        """One sentence when the features have collapsed, None otherwise."""
        if self.effective_rank >= COLLAPSED:
            return None
        return (
            f"the features have collapsed: their effective rank is {self.effective_rank:.2f} of {self.width}, so all "
            "samples point one way; give the rate a larger weight, or the layers a smaller learning rate"
        )


def feature_spread(Z: Tensor, *, eps: float) -> Spread:
    r"""Effective rank, rate and dead coordinates of features.

    .. math:: \exp\Bigl(-\sum_i p_i \log p_i\Bigr),\quad p_i = \sigma_i / \textstyle\sum_j \sigma_j

    Args:
        Z: features (n, d).
        eps: distortion ε of the rate.

    Returns:
        The three numbers; an effective rank of 0 for features that are all zero.

    Raises:
        ValueError: NaN or infinity, eps not positive.

    Source: RankMe, arXiv 2210.02885, for the effective rank.
    """
    check_tokens(Z)
    Z = Z.double()
    sigma = torch.linalg.svdvals(Z)
    share = sigma / sigma.sum()
    rank = float(torch.special.entr(share).sum().exp()) if bool(sigma.sum() > 0) else 0.0
    deviation = Z.std(0, correction=0)
    dead = deviation <= 1e-3 * Z.square().mean().sqrt()
    rate = float(fused_coding_rate(unit_rows(Z), eps=eps)) / Z.shape[-1]
    return Spread(rank, rate, float(dead.double().mean()), Z.shape[-1])


def features_of(model: nn.Module, x: Tensor, batch_size: int = 256) -> Tensor:
    """What a network knows about samples, without a gradient.

    Args:
        model: a network with a head, whose input is taken (every position of a language model is a row), or an
            autoencoder, whose encoded tokens are averaged.
        x: prepared samples (N, ...).
        batch_size: samples of one forward pass.

    Returns:
        Features (N, d).
    """
    encode: Any = getattr(model, "encode", None)
    parts = torch.split(x, batch_size)
    with evaluating(model):
        if encode is not None:
            return torch.cat([encode(part).mean(1) for part in parts])
        with head_inputs(model) as found:
            for part in parts:
                model(part)
    return torch.cat([z.flatten(0, -2) for z in found])


def spaced_samples(samples: Samples, count: int) -> tuple[Tensor, Tensor]:
    """At most ``count`` samples, evenly spaced so that files sorted by class give every class, and their labels."""
    at = torch.linspace(0, len(samples) - 1, min(count, len(samples))).round().long().tolist()
    batches = [samples.__getitems__([at[i] for i in part if i >= 0]) for part in EvalOrder(len(at), batch_size=1024)]
    x, y = torch.cat([b["x"] for b in batches]), torch.cat([b["y"] for b in batches])
    return (x, y) if y.ndim > 1 else (x[y != IGNORE], y[y != IGNORE])


def nearest_neighbors(bank: Tensor, labels: Tensor, queries: Tensor, *, classes: int, k: int = NEIGHBORS) -> Tensor:
    """Class that most of the k nearest rows by cosine have; the smaller number among equals.

    Args:
        bank: features (N, d) with known labels.
        labels: integers (N,).
        queries: features (M, d).
        classes: number of classes.
        k: number of neighbors, at most N.

    Returns:
        Classes (M,).
    """
    reference = functional.normalize(bank, dim=-1)
    votes = []
    for part in torch.split(functional.normalize(queries, dim=-1), 1024):
        near = labels[(part @ reference.mT).topk(min(k, len(bank)), dim=-1).indices]  # (m, k)
        votes.append(functional.one_hot(near, classes).sum(1).argmax(-1))
    return torch.cat(votes)


def matched_accuracy(found: Tensor, labels: Tensor, *, classes: int) -> float:
    """Share of samples in the cluster that stands for their class, under the best one-to-one match of the two.

    Args:
        found: clusters (n,), integers.
        labels: classes (n,), integers.
        classes: number of classes.

    Returns:
        A number in [0, 1]; at least the share of the largest class in one cluster.
    """
    size = max(classes, int(found.max()) + 1)
    counts = torch.bincount(found * size + labels, minlength=size * size).view(size, size).cpu().numpy()
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return float(counts[rows, columns].sum() / len(labels))


class ReadOut(NamedTuple):
    """Held-out accuracies of three read-outs of frozen features."""

    knn: float
    linear: float
    nearest_subspace: float


def read_out(train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], *, classes: int) -> ReadOut:
    """Read classes from frozen features in three ways.

    Args:
        train: features (N, d) and labels (N,).
        held_out: features (M, d) and labels (M,).
        classes: number of classes.

    Returns:
        Accuracy of the 20 nearest neighbors by cosine, of logistic regression on standardized features, and of the
        nearest subspace, its rank chosen on a tenth of the training features.
    """
    need("sklearn", by="srr probe")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, y), (x_val, y_val) = train, held_out
    near = nearest_neighbors(x, y, x_val, classes=classes)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x.double().numpy(), y.numpy())
    subspace = choose_subspaces(x, y, x_val, y_val, classes)
    return ReadOut(
        float((near == y_val).double().mean()),
        float(linear.score(x_val.double().numpy(), y_val.numpy())),
        subspace.accuracy,
    )


def probe(
    module: TrainingModule, source: Source, models: dict[str, nn.Module], *, count: int
) -> dict[str, dict[str, float]]:
    """Read-outs of pixels and of the features of networks, on the same samples.

    Args:
        module: what prepares the samples.
        source: the data.
        models: networks by name.
        count: most training samples, and most held-out ones.

    Returns:
        By name, ``pixels`` first: the accuracies of :class:`ReadOut`.

    Raises:
        ValueError: the data are no images with classes.
    """
    if source.spec.kind != "image":
        raise ValueError(f"a probe reads images with classes; got data of kind {source.spec.kind}")
    sets = [spaced_samples(samples, count) for samples in (source.train, source.val)]
    seen = [(module.prepare(x), y) for x, y in sets]
    rows = {"pixels": [(x.flatten(1), y) for x, y in seen]}
    for name, model in models.items():
        rows[name] = [(features_of(model, module.normalize(x)), y) for x, y in seen]
    classes = source.spec.num_classes
    return {name: read_out(*pair, classes=classes)._asdict() for name, pair in rows.items()}


class WatchFeatures(pl.Callback):
    """Logs after each validation how held-out features spread, and says once when they have collapsed.

    The metrics are ``val_effective_rank``, ``val_rate_per_dimension`` and ``val_dead_features``; ``val_knn`` beside
    them, the accuracy of nearest neighbors, where features are learned without labels, and ``val_cluster_accuracy``
    where the head learns clusters (``nmce``), matched to the classes one to one. Every rank measures the same
    samples.

    Args:
        console: where the sentence goes.
        eps: distortion ε of the rate.
        neighbors: whether to measure ``val_knn``.
        samples: most held-out samples; at most four times as many training samples are neighbors.
    """

    def __init__(self, console: Console, *, eps: float, neighbors: bool, samples: int = 1024) -> None:
        self.console, self.eps, self.neighbors, self.samples = console, eps, neighbors, samples
        self._sets: list[tuple[Tensor, Tensor]] = []
        self._said = False

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure, log and warn."""
        module, source = cast("TrainingModule", pl_module), cast("Any", trainer).datamodule.source
        if not self._sets:
            counts = {"val": self.samples, **({"train": 4 * self.samples} if self.neighbors else {})}
            self._sets = [spaced_samples(getattr(source, name), count) for name, count in counts.items()]
        device = module.device
        found = [features_of(module.exported, module.normalize(module.prepare(x.to(device)))) for x, _ in self._sets]
        if not bool(torch.isfinite(found[0]).all()):
            return
        spread = feature_spread(found[0][:4096].float(), eps=self.eps)
        metrics = {
            "val_effective_rank": spread.effective_rank,
            "val_rate_per_dimension": spread.rate,
            "val_dead_features": spread.dead,
        }
        if self.neighbors:
            (_, y_val), (_, y) = self._sets
            near = nearest_neighbors(found[1], y.to(device), found[0], classes=source.spec.num_classes)
            metrics["val_knn"] = float((near == y_val.to(device)).double().mean())
        if module.config.objective.name == "nmce":
            with torch.no_grad():
                clusters = cast("Any", module.exported).head(found[0]).argmax(-1)
            labels = self._sets[0][1].to(device)
            metrics["val_cluster_accuracy"] = matched_accuracy(clusters, labels, classes=source.spec.num_classes)
        for name, value in metrics.items():
            pl_module.log(name, value, rank_zero_only=False)
        if spread.warning and not self._said and trainer.is_global_zero:
            self.console.print(spread.warning, style="yellow", highlight=False)
        self._said = spread.warning is not None
