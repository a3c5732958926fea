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
from srr.nn.probe import evaluating, head_inputs, layer_states
from srr.training.baseline import LARGEST, choose_subspaces
from srr.training.sources import EvalOrder, Samples, Source

if TYPE_CHECKING:
    from srr.training.module import TrainingModule

NEIGHBORS = 20
READS = ("head", "tokens")
"""What of a network's output is read: what its head sees, or its patches, each in its place."""
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


def features_of(model: nn.Module, x: Tensor, batch_size: int = 256, *, read: str = "head") -> Tensor:
    """What a network knows about samples, without a gradient.

    Args:
        model: a network with a head, whose input is taken (every position of a language model is a row), or an
            autoencoder, whose code is taken, or the mean of its encoded tokens where it has none.
        x: prepared samples (N, ...).
        batch_size: samples of one forward pass.
        read: ``"head"`` for that, or ``"tokens"`` for the patches after the last layer side by side: a mean does not
            say where in the image something is.

    Returns:
        Features (N, d), of width n · d where tokens are read.

    Raises:
        ValueError: another way to read.
    """
    if read not in READS:
        raise ValueError(f"read must be one of {READS}; got {read!r}")
    coded = bool(getattr(cast("Any", model).config, "code", 0))
    encode: Any = getattr(model, "encode", None)
    parts = torch.split(x, batch_size)
    with evaluating(model):
        if read == "tokens":
            return torch.cat([_tokens(model, part).flatten(1) for part in parts])
        if coded:
            return torch.cat([cast("Any", model).encode_one(part) for part in parts])
        if encode is not None:
            return torch.cat([encode(part).mean(1) for part in parts])
        with head_inputs(model) as found:
            for part in parts:
                model(part)
    return torch.cat([z.flatten(0, -2) for z in found])


def _tokens(model: nn.Module, x: Tensor) -> Tensor:
    """Patches (B, n, d) after the last layer, without the class token, through the norm of an autoencoder."""
    encode: Any = getattr(model, "encode", None)
    if encode is not None:
        return cast("Tensor", encode(x))[:, 1:]
    with layer_states(model, [-1]) as seen:
        model(x)
    late = bool(getattr(cast("Any", model).config, "class_layers", 0))
    return seen[-1].after if late else seen[-1].after[:, 1:]


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
    """Held-out accuracies of three read-outs of frozen features, and what of the network was read."""

    knn: float
    linear: float
    nearest_subspace: float
    read: str = ""


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
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x.double().numpy(), y.numpy())
    subspace = choose_subspaces(x, y, x_val, y_val, classes)
    return ReadOut(
        neighbors_accuracy(train, held_out, classes=classes),
        float(linear.score(x_val.double().numpy(), y_val.numpy())),
        subspace.accuracy,
    )


def neighbors_accuracy(bank: tuple[Tensor, Tensor], queries: tuple[Tensor, Tensor], *, classes: int) -> float:
    """Share of queries whose 20 nearest rows of the bank give their class."""
    near = nearest_neighbors(*bank, queries[0], classes=classes)
    return float((near == queries[1]).double().mean())


def choose_read(model: nn.Module, x: Tensor, y: Tensor, *, classes: int) -> tuple[str, Tensor]:
    """The way to read a network whose features find the classes of a part of the training samples from the others.

    Args:
        model: the network.
        x: prepared training samples (N, ...), of which every fifth is asked for.
        y: labels (N,).
        classes: number of classes.

    Returns:
        One of :data:`READS`, ``"head"`` among equals, and the features; tokens of more than 4,096 numbers are not
        tried.
    """
    asked = torch.arange(len(y)) % 5 == 0
    found = {"head": features_of(model, x)}
    if _tokens_of_one(model, x) <= LARGEST:
        found["tokens"] = features_of(model, x, read="tokens")
    scores = {
        read: neighbors_accuracy((Z[~asked], y[~asked]), (Z[asked], y[asked]), classes=classes)
        for read, Z in found.items()
    }
    best = max(scores, key=lambda read: scores[read])
    return best, found[best]


def _tokens_of_one(model: nn.Module, x: Tensor) -> int:
    with evaluating(model):
        return _tokens(model, x[:1]).numel()


def probe(
    module: TrainingModule, source: Source, models: dict[str, nn.Module], *, count: int, read: str = "best"
) -> dict[str, dict[str, float | str]]:
    """Read-outs of pixels and of the features of networks, on the same samples.

    Args:
        module: what prepares the samples.
        source: the data.
        models: networks by name.
        count: most training samples, and most held-out ones.
        read: one of :data:`READS`, or ``"best"``: for each network the one that :func:`choose_read` finds on its
            training samples alone.

    Returns:
        By name, ``pixels`` first: the fields of :class:`ReadOut`.

    Raises:
        ValueError: the data are no images with classes, or another way to read.
    """
    if source.spec.kind != "image":
        raise ValueError(f"a probe reads images with classes; got data of kind {source.spec.kind}")
    sets = [spaced_samples(samples, count) for samples in (source.train, source.val)]
    (x, y), (x_val, y_val) = [(module.prepare(x), y) for x, y in sets]
    classes = source.spec.num_classes
    found = {"pixels": read_out((x.flatten(1), y), (x_val.flatten(1), y_val), classes=classes)._replace(read="pixels")}
    x, x_val = module.normalize(x), module.normalize(x_val)
    for name, model in models.items():
        if read == "best":
            way, Z = choose_read(model, x, y, classes=classes)
        else:
            way, Z = read, features_of(model, x, read=read)
        pair = (Z, y), (features_of(model, x_val, read=way), y_val)
        found[name] = read_out(*pair, classes=classes)._replace(read=way)
    return {name: row._asdict() for name, row in found.items()}


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
            pair = (found[1], y.to(device)), (found[0], y_val.to(device))
            metrics["val_knn"] = neighbors_accuracy(*pair, classes=source.spec.num_classes)
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
