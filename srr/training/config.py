"""What a run is made of: frozen sections with their ranges, read from YAML or TOML, overridden by dotted words."""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

# msgspec converts and checks; OmegaConf was weighed against it: no ranges, no tuples, no limit on aliases, and values
# that read the environment of whoever opens the file.
import msgspec
import yaml
from msgspec import Meta

CONFIG = "config.yaml"
LARGEST_FILE = 2**18
DEEPEST = 8

Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Natural = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0, le=1e9)]
NonNegative = Annotated[float, Meta(ge=0, le=1e9)]
OpenShare = Annotated[float, Meta(gt=0, lt=1)]
BelowOne = Annotated[float, Meta(ge=0, lt=1)]


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from and how they are batched.

    ``name`` is ``digits``, ``mnist``, ``fashion-mnist``, ``mixture``, ``folder:PATH``, ``hf:NAME`` or ``text:FILE``;
    ``root`` is the folder of idx files, ``corrupt_labels`` the fraction of training labels redrawn at random.
    """

    name: str = "digits"
    root: str | None = None
    batch_size: Count = 64
    eval_batch_size: Count = 256
    workers: Annotated[int, Meta(ge=0, le=1024)] = 0
    held_out: OpenShare = 0.2
    image_size: Annotated[int, Meta(ge=1, le=4096)] | None = None
    limit: Count | None = None
    corrupt_labels: Share = 0.0
    tokenizer: Literal["bytes", "bpe"] = "bytes"
    vocab_size: Annotated[int, Meta(ge=256, le=2**20)] = 512
    context: Annotated[int, Meta(ge=1, le=2**20)] = 128
    classes: Annotated[int, Meta(ge=2, le=4096)] = 4
    samples: Annotated[int, Meta(ge=2, le=10**7)] = 1000
    tokens: Annotated[int, Meta(ge=1, le=2**16)] = 32
    token_dim: Annotated[int, Meta(ge=2, le=4096)] = 32
    noise: NonNegative = 0.3


@dataclass(frozen=True)
class ModelSection:
    """A preset of :func:`srr.nn.create_model`; every further key is one of its overrides.

    ``pretrained`` is what a run begins from: a run, a saved model, a checkpoint, a file of weights or ``owner/name`` on
    the Hub. Its sizes are read with it.
    """

    preset: str = "crate_micro"
    pretrained: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimized: a name, plus λ·SRR on layers.

    ``views`` is the number of views of an image, ``views_weight`` the weight of their rate (null: from the batch,
    the width and ε). ``local_views`` more are cropped to ``local_scale`` of the area. ``projection`` names the widths
    of a perceptron between features and loss, ``teacher`` the decay of an averaged network whose features of the first
    ``views`` are the targets (0: their mean is), ``patches_weight`` the weight of ``patches_hidden`` of the patches,
    hidden from the student. ``gamma1`` and ``gamma2`` are those of MCR². In closed-loop transcription, ``ctrl``,
    ``ctrl_classes`` chooses the form with a subspace for each class, ``pixel_weight`` adds the error of the decoded
    pixels to what the decoder lowers.
    ``srr_scope`` is ``image`` (the tokens of one image form one set) or ``batch`` (one set across all ranks).
    """

    name: Literal["cross_entropy", "mcr2", "views", "manifold", "nmce", "ctrl", "masked", "next_token"] = (
        "cross_entropy"
    )
    label_smoothing: BelowOne = 0.0
    eps: Positive = 0.5
    views: Annotated[int, Meta(ge=2, le=256)] = 2
    views_weight: NonNegative | None = None
    local_views: Annotated[int, Meta(ge=0, le=256)] = 0
    local_scale: tuple[Share, ...] = (0.1, 0.4)
    projection: tuple[Annotated[int, Meta(ge=1, le=2**16)], ...] = ()
    teacher: BelowOne = 0.0
    patches_weight: NonNegative = 0.0
    patches_hidden: OpenShare = 0.3
    gamma1: Positive = 1.0
    gamma2: NonNegative = 1.0
    ctrl_classes: bool = True
    pixel_weight: NonNegative = 0.0
    srr_weight: NonNegative = 0.0
    srr_layers: tuple[Annotated[int, Meta(ge=-1024, le=1023)], ...] = (-1,)
    srr_scope: Literal["image", "batch"] = "image"
    srr_lam: NonNegative = 0.1


OF_VIEWS = frozenset({"views", "manifold", "nmce"})
"""Objectives that see several changed copies of an image, and no label."""


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training images, made on the device; zero or false leaves one out."""

    crop_scale: tuple[Share, ...] = ()
    shift: Annotated[int, Meta(ge=0, le=4096)] = 0
    flip: bool = False
    randaugment_ops: Annotated[int, Meta(ge=0, le=100)] = 0
    randaugment_magnitude: Annotated[float, Meta(ge=0, le=30)] = 9.0
    erasing: Share = 0.0
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0


@dataclass(frozen=True)
class OptimConfig:
    """``adamw``, ``lion`` or ``muon``; linear warm-up and then a cosine down to ``min_lr_ratio`` of ``lr``.

    ``decay`` says which parameters decay: ``matrices`` (not biases, norms, positions and tokens) or ``all``;
    ``schedule`` whether the rate changes after each ``step`` or after each ``epoch``.
    """

    name: Literal["adamw", "lion", "muon"] = "adamw"
    lr: Annotated[float, Meta(ge=0, le=1e3)] = 1e-3
    weight_decay: Annotated[float, Meta(ge=0, le=1e3)] = 0.05
    betas: tuple[BelowOne, ...] = ()
    momentum: BelowOne = 0.95
    warmup_epochs: NonNegative = 2.0
    min_lr_ratio: Share = 0.0
    decay: Literal["matrices", "all"] = "matrices"
    schedule: Literal["step", "epoch"] = "step"


@dataclass(frozen=True)
class TrainerConfig:
    """How long, on what and how carefully.

    ``max_steps`` (−1: no limit) ends a run before ``max_epochs``; ``ema`` is the decay of the averaged weights
    (0: none); a checkpoint is written every ``checkpoint_every`` optimizer steps (0: only after each epoch).
    """

    max_epochs: Count = 40
    max_steps: Annotated[int, Meta(ge=-1, le=2**62)] = -1
    accumulate: Count = 1
    clip_norm: NonNegative = 0.0
    ema: BelowOne = 0.0
    precision: Literal["32", "64", "bf16", "16"] = "32"
    device: Annotated[str, Meta(pattern=r"^(auto|cpu|gpu|mps|(cuda|gpu)(:\d{1,4})?)$")] = "auto"
    devices: Annotated[int, Meta(ge=1, le=4096)] = 1
    nodes: Annotated[int, Meta(ge=1, le=65536)] = 1
    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    compile: bool = False
    check_finite: bool = True
    checkpoint_every: Natural = 0
    log_every: Count = 10
    trace_every: Natural = 0
    progress: Literal["auto", "bar", "lines", "none"] = "auto"


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run; equal configs on one machine give equal weights.

    Args:
        data: which data, and how they are read.
        model: preset and its overrides, or a folder of weights to begin from.
        objective: what is minimized.
        augment: what happens to training images.
        optim: optimizer and schedule.
        trainer: how long, on what and how carefully.
        seed: seed of weights, order and augmentation.
        out: folder of the run.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelSection = field(default_factory=ModelSection)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    out: str = "runs/run"


RESUMABLE = frozenset(
    {"data.workers", "data.eval_batch_size", "optim.lr", "optim.min_lr_ratio"}
    | {f"trainer.{name}" for name in ("max_epochs", "max_steps", "device", "compile", "check_finite")}
    | {f"trainer.{name}" for name in ("checkpoint_every", "log_every", "trace_every", "progress")}
)
"""Keys that a resumed run may change; any other would make it another run."""


@cache
def keys() -> dict[str, tuple[Any, Any]]:
    """Every dotted key with the annotation of its field and the default."""
    found: dict[str, tuple[Any, Any]] = {}
    sections = get_type_hints(RunConfig, include_extras=True)
    for entry in fields(RunConfig):
        kind: Any = sections[entry.name]
        if kind in (int, str) or get_origin(kind) is Annotated:
            found[entry.name] = (kind, entry.default)
            continue
        hints = get_type_hints(kind, include_extras=True)
        default: Any = kind()
        found |= {f"{entry.name}.{f.name}": (hints[f.name], getattr(default, f.name)) for f in fields(kind)}
    del found["model.overrides"]
    return found


MEANINGS = {
    "data.name": "`digits`, `mnist`, `fashion-mnist`, `mixture`, `folder:PATH`, `hf:NAME` or `text:FILE`",
    "data.root": "folder of the idx files of mnist and fashion-mnist",
    "data.batch_size": "samples of a step, over all processes",
    "data.eval_batch_size": "samples measured at once; changes memory, not results",
    "data.workers": "processes that read images beside the one that trains",
    "data.held_out": "share kept for validation where the data have no part of their own for it",
    "data.image_size": "side that images are brought to; 224 for folders",
    "data.limit": "training samples taken, the first ones",
    "data.corrupt_labels": "share of training labels drawn again at random",
    "data.tokenizer": "symbols of a text: its bytes, or pairs learned from the training part",
    "data.vocab_size": "symbols of a `bpe` vocabulary",
    "data.context": "symbols that a text model sees at once",
    "data.classes": "subspaces of `mixture`",
    "data.samples": "token sets of `mixture`",
    "data.tokens": "tokens of a set of `mixture`",
    "data.token_dim": "coordinates of a token of `mixture`",
    "data.noise": "size of the noise of `mixture`",
    "model.preset": "a name of `srr.nn.PRESETS`",
    "model.pretrained": "what to begin from: a run, a saved model, a checkpoint, a file of weights, or"
    " `owner/name` on the Hub",
    "objective.name": "what is minimized",
    "objective.label_smoothing": "share of the target that is spread over all classes",
    "objective.eps": "distortion ε of every rate",
    "objective.views": "changed copies of an image, for `views`",
    "objective.views_weight": "weight of their rate; null: from batch, width and ε",
    "objective.gamma1": "weight γ₁ of the expansion in MCR²",
    "objective.gamma2": "weight γ₂ of the compression in MCR²",
    "objective.ctrl_classes": "closed loop with a subspace for each class (LDR-multi), or one for all (LDR-binary)",
    "objective.pixel_weight": "weight of the squared error of decoded pixels in a closed loop, for the decoder alone",
    "objective.teacher": "decay of the averaged teacher of the views; 0: none",
    "objective.local_views": "small crops beside the views",
    "objective.local_scale": "smallest and largest share of an image that a small crop takes",
    "objective.projection": "widths of the projection after the features; empty: none",
    "objective.patches_weight": "weight of the loss of hidden patches",
    "objective.patches_hidden": "share of patches that are hidden",
    "objective.srr_weight": "weight of the sparse rate reduction added to the loss",
    "objective.srr_layers": "layers whose tokens it is taken of",
    "objective.srr_scope": "tokens of one image are one set, or those of the whole batch",
    "objective.srr_lam": "λ of the sparse rate reduction",
    "augment.crop_scale": "smallest and largest share of an image that a random crop takes; empty: none",
    "augment.shift": "largest shift in pixels",
    "augment.flip": "mirror half of the images",
    "augment.randaugment_ops": "random changes made to an image",
    "augment.randaugment_magnitude": "their strength",
    "augment.erasing": "chance that a rectangle is erased",
    "augment.mixup": "Beta parameter of mixing two images; 0: none",
    "augment.cutmix": "Beta parameter of pasting a part of another image; 0: none",
    "optim.name": "optimizer",
    "optim.lr": "largest learning rate",
    "optim.weight_decay": "decoupled weight decay",
    "optim.decay": "what decays: matrices (not biases, norms, positions and tokens), or all",
    "optim.schedule": "whether the rate changes after each step or after each epoch",
    "optim.betas": "two decays of moments; empty: those of the optimizer",
    "optim.momentum": "momentum of `muon`",
    "optim.warmup_epochs": "epochs of linear warm-up",
    "optim.min_lr_ratio": "where the cosine ends, as a share of `lr`",
    "trainer.max_epochs": "passes over the training data",
    "trainer.max_steps": "optimizer steps after which a run ends; −1: no limit",
    "trainer.accumulate": "batches whose gradients are added before a step",
    "trainer.clip_norm": "largest norm of the gradient; 0: no limit",
    "trainer.ema": "decay of the average of the weights; 0: none",
    "trainer.precision": "float32, float64, or autocast to 16 bits",
    "trainer.device": "where it runs",
    "trainer.devices": "devices of a node",
    "trainer.nodes": "machines",
    "trainer.strategy": "how several processes share the work",
    "trainer.compile": "compile the blocks",
    "trainer.check_finite": "stop at the first NaN or infinity",
    "trainer.checkpoint_every": "optimizer steps between two checkpoints; 0: after each epoch alone",
    "trainer.log_every": "steps between two rows of `metrics.csv`",
    "trainer.trace_every": "epochs between two measures of the layers; 0: none",
    "trainer.progress": "a live bar, a line an epoch, or nothing",
    "seed": "seed of weights, order and augmentation",
    "out": "folder of the run",
}
"""What each key decides, in a few words."""


def key_table() -> str:
    """Every key with what it decides, what it may be and its default, as Markdown: one table a section."""
    text, section = "", None
    for key, (kind, default) in keys().items():
        if (own := key.partition(".")[0] if "." in key else "the run") != section:
            section = own
            text += f"\n## {section}\n\n| key | meaning | allowed | default |\n|---|---|---|---|\n"
        text += f"| `{key}` | {MEANINGS[key]} | {allowed(kind)} | `{shown(default)}` |\n"
    return text


def shown(default: Any) -> str:
    """A default as one writes it in YAML."""
    return msgspec.json.encode(default).decode().strip('"')


def allowed(kind: Any) -> str:
    """What a field may be, in words: the range that its annotation states."""
    if get_origin(kind) is Annotated:
        base, meta = get_args(kind)[:2]
        signs = (("at least", meta.ge), ("above", meta.gt), ("at most", meta.le), ("below", meta.lt))
        bounds = [f"{word} {bound}" for word, bound in signs if bound is not None and abs(bound) < 10**9]
        words = _NAMES[base] if meta.pattern is None else "auto, cpu, cuda, cuda:N or mps"
        return words + (f" {' and '.join(bounds)}" if bounds else "")
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"list of: {allowed(get_args(kind)[0])}"
    if type(None) in get_args(kind):
        return f"{allowed(next(a for a in get_args(kind) if a is not type(None)))}, or null"
    return _NAMES[kind]


_NAMES: dict[Any, str] = {bool: "true or false", int: "an integer", float: "a number", str: "text"}


# --- reading


class _Loader(yaml.SafeLoader):
    """YAML as plain data, and only as much of YAML as a config needs.

    No anchors, so a small file cannot stand for a large one; no mapping that says a key twice, nor one that is merged
    into another; no deep nesting; and 1e-4 is a number, as in YAML 1.2.
    """

    level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("a config has no anchors and aliases")
        self.level += 1
        if self.level > DEEPEST:
            raise yaml.YAMLError(f"it is nested more than {DEEPEST} deep")
        node = super().compose_node(parent, index)
        self.level -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError(f"a config has no merge keys; got '<<' at line {node.start_mark.line + 1} or below")
        names = [key.value for key, _ in node.value]
        twice = sorted({name for name in names if isinstance(name, str) and names.count(name) > 1})
        if twice:
            raise yaml.YAMLError(f"it says {twice[0]!r} twice, at line {node.start_mark.line + 1} and below")
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Writes what :class:`_Loader` reads back."""


_NUMBER = re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?([eE][-+]?\d+)$")
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789"))


def plain_yaml(text: str, what: str) -> Any:
    """One YAML document as plain values.

    Raises:
        ValueError: it does not parse, repeats a key, uses aliases or is nested too deep; ``what`` names it.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{what} does not parse: {error}") from error


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Read a YAML or TOML file as plain dictionaries, lists, strings and numbers; nothing in it is executed.

    Args:
        path: an ordinary file of at most 256 KiB ending in .yaml, .yml or .toml.

    Returns:
        Nested plain values, one dictionary a section.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another ending, or a text that is too long, does not parse, or is not a mapping.
    """
    path = Path(path)
    text = read_text(path, "config", most=LARGEST_FILE)
    if path.suffix == ".toml":
        try:
            found: Any = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
            raise ValueError(f"config {path} does not parse: {error}") from error
    elif path.suffix in {".yaml", ".yml"}:
        found = plain_yaml(text, f"config {path}")
    else:
        raise ValueError(f"config must end in .yaml, .yml or .toml; got {path.name}")
    if not isinstance(found, dict):
        raise ValueError(f"config {path} must be a mapping of sections; got {type(found).__name__}")
    return found


def read_text(path: Path, what: str, *, most: int) -> str:
    """The text of an ordinary file that is not longer than ``most`` bytes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a folder, a device or a pipe, a file that is too long, or one that is not UTF-8.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {what} {path}")
    if not path.is_file():
        raise ValueError(f"{what} {path} must be an ordinary file")
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{what} {path} must have at most {most:,} bytes; it has {path.stat().st_size:,}")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} {path} must be UTF-8 text: {error}") from error


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Turn words like ``trainer.max_epochs=5`` into nested dictionaries.

    Args:
        words: dotted keys with their values; a value is a YAML scalar or list, and taken as it stands where the key
            wants text.

    Returns:
        The nested dictionaries.

    Raises:
        ValueError: a word without a key or ``=``, or a value that does not parse.

    Example:
        >>> parse_overrides(["trainer.max_epochs=5", "data.name=folder:images #2"])
        {'trainer': {'max_epochs': 5}, 'data': {'name': 'folder:images #2'}}
    """
    nested: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ValueError(f"an override must look like section.key=value; got {word!r}")
        kind = keys().get(key, (None, None))[0]
        as_it_stands = kind is str or (str in get_args(kind) and text != "null")
        value = text if as_it_stands else plain_yaml(text, f"the value of override {word!r}")
        _set(nested, key.split("."), value, word)
    return nested


def _set(nested: dict[str, Any], path: list[str], value: Any, word: str) -> None:
    for name in path[:-1]:
        nested = nested.setdefault(name, {})
        if not isinstance(nested, dict):
            raise ValueError(f"override {word!r} goes inside a value that is not a section")
    nested[path[-1]] = value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested dictionary over another; sections merge, values replace.

    Args:
        base: what is below.
        over: what lies over it.

    Returns:
        A new dictionary.
    """
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


# --- resolving


def resolve(values: Mapping[str, Any]) -> RunConfig:
    """Build the config from nested plain values; a key that does not exist is refused with the closest one that does.

    Args:
        values: nested plain values.

    Returns:
        The config, defaults where nothing is named.

    Raises:
        ValueError: an unknown key, an option of the model said twice, a value of the wrong type or outside its range,
            named with its section.
    """
    plain = dict(values)
    model = plain.get("model")
    if isinstance(model, Mapping):
        own = {f.name for f in fields(ModelSection)}
        given = model.get("overrides", {})
        extra = {name: value for name, value in model.items() if name not in own}
        named = {name: model[name] for name in own & model.keys()}
        twice = [name for name in given if name in own or name in extra] if isinstance(given, Mapping) else []
        if twice:
            raise ValueError(f"config says 'model.{twice[0]}' and 'model.overrides.{twice[0]}'; only one can hold")
        plain["model"] = {**named, "overrides": {**given, **extra} if isinstance(given, Mapping) else given}
    precision = plain.get("trainer", {}).get("precision") if isinstance(plain.get("trainer"), Mapping) else None
    if isinstance(precision, int) and not isinstance(precision, bool):  # YAML reads 32 as a number
        plain["trainer"] = {**plain["trainer"], "precision": str(precision)}
    _refuse_unknown(plain)
    for key, value in _flat(plain):
        _check(key, value)
    config = msgspec.convert(plain, RunConfig)
    _check_together(config)
    return config


def _refuse_unknown(values: Mapping[str, Any]) -> None:
    known = {key.partition(".")[0] for key in keys()}
    for name, section in values.items():
        if name not in known:
            raise ValueError(f"config has no key {name!r}{_closest(str(name), known)}")
        if name in keys():
            continue
        if not isinstance(section, Mapping):
            raise ValueError(f"config section {name!r} must be a mapping; got {section!r}")
        inner = {key.partition(".")[2] for key in keys() if key.startswith(f"{name}.")}
        for key in section:
            if key not in inner and (name, key) != ("model", "overrides"):
                raise ValueError(f"config has no key '{name}.{key}'{_closest(str(key), inner)}")


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, section in values.items():
        if name in keys():
            yield name, section
        else:
            yield from ((f"{name}.{key}", value) for key, value in section.items())


def _check(key: str, value: Any) -> None:
    if key == "model.overrides":
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise ValueError(f"config {key} must be a mapping; got {value!r}")
        return
    if isinstance(value, str) and not _is_unicode(value):
        raise ValueError(f"config {key} must be Unicode text (a path in UTF-8); got {value!r}")
    kind = keys()[key][0]
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        wanted = allowed(kind)
        join = "be one of " if get_origin(kind) is Literal else "be a " if wanted.startswith("list") else "be "
        raise ValueError(f"config {key} must {join}{wanted}; got {value!r}") from error


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can write the text; Python stands in for the other bytes of a path with halves of characters."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _check_together(config: RunConfig) -> None:
    """What no single range can say."""
    scale, betas, data = config.augment.crop_scale, config.optim.betas, config.data
    if scale and (len(scale) != 2 or not 0 < scale[0] <= scale[1]):
        raise ValueError(f"config augment.crop_scale must be two numbers 0 < low <= high <= 1; got {list(scale)}")
    if betas and len(betas) != 2:
        raise ValueError(f"config optim.betas must be two numbers; got {list(betas)}")
    if data.name == "mixture" and data.classes > data.token_dim:
        raise ValueError(f"config data.classes must be in [2, token_dim={data.token_dim}]; got {data.classes}")
    if data.name == "mixture" and data.samples * data.tokens * data.token_dim > 2**29:
        raise ValueError("config data.samples × tokens × token_dim must be at most 2^29 numbers")
    _check_objective(config)


def _check_objective(config: RunConfig) -> None:
    objective, trainer = config.objective, config.trainer
    if objective.teacher and (objective.name != "views" or trainer.ema):
        raise ValueError("config objective.teacher needs objective.name=views, and trainer.ema=0: it is the average")
    if objective.patches_weight and not objective.teacher:
        raise ValueError("config objective.patches_weight needs objective.teacher, which sees what is hidden")
    if objective.projection and objective.name not in OF_VIEWS:
        raise ValueError(f"config objective.projection needs objective.name one of {', '.join(sorted(OF_VIEWS))}")
    if (objective.projection or objective.teacher) and trainer.strategy == "fsdp2":
        raise ValueError("config objective.projection and teacher need trainer.strategy auto or ddp; got fsdp2")
    if len(objective.local_scale) != 2 or not 0 < objective.local_scale[0] <= objective.local_scale[1]:
        raise ValueError("config objective.local_scale must be two numbers 0 < low <= high <= 1")
    if objective.name in OF_VIEWS:
        _check_views(config)
    if objective.name == "ctrl":
        _check_loop(config)
    elif objective.pixel_weight:
        raise ValueError("config objective.pixel_weight needs objective.name=ctrl")


def _check_loop(config: RunConfig) -> None:
    if config.trainer.strategy == "fsdp2":
        raise ValueError("config objective.name=ctrl needs trainer.strategy auto or ddp; got fsdp2")
    if config.objective.srr_weight:
        raise ValueError("config objective.srr_weight goes with one pass through the layers; ctrl makes two")
    if config.augment.mixup or config.augment.cutmix:
        raise ValueError("config objective.name=ctrl has no mixed labels; set augment.mixup and cutmix to 0")


def _check_views(config: RunConfig) -> None:
    objective, data, change = config.objective, config.data, config.augment
    if data.name.partition(":")[0] in {"mixture", "text"}:
        raise ValueError(f"config objective.name={objective.name} needs images; got data.name={data.name}")
    if change.mixup or change.cutmix:
        raise ValueError(
            f"config objective.name={objective.name} has no labels to mix; set augment.mixup and cutmix to 0"
        )
    if not (change.crop_scale or change.shift or change.flip or change.randaugment_ops or change.erasing):
        raise ValueError(f"config objective.name={objective.name} needs changes that make views; got none in augment")


def _closest(key: str, names: set[str]) -> str:
    found = difflib.get_close_matches(key, names, n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; there are {', '.join(sorted(names))}"


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain nested values of a config, ready for :func:`resolve` again."""
    plain: dict[str, Any] = msgspec.to_builtins(dataclasses.asdict(config))
    plain["model"] |= plain["model"].pop("overrides")
    return plain


def flat_config(config: RunConfig) -> dict[str, Any]:
    """Every key of a config with its value; lists as text."""
    flat = dict(_flat(to_dict(config)))
    return {key: str(value) if isinstance(value, list | dict) else value for key, value in flat.items()}


def dump_config(config: RunConfig) -> str:
    """The config as YAML text.

    Args:
        config: a resolved config.

    Returns:
        Text that :func:`read_config_file` of a file with it gives back.
    """
    return str(yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def check_resumable(old: RunConfig, new: RunConfig) -> None:
    """Refuse to continue a run as another one.

    Raises:
        ValueError: a key outside :data:`RESUMABLE` differs; the first is named.
    """
    before, after = (dict(_flat(to_dict(config))) for config in (old, new))
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key) and key != "out"]
    for key in changed:
        if key not in RESUMABLE:
            raise ValueError(
                f"a resumed run keeps {key}={before.get(key)!r}; got {after.get(key)!r}, which would make it another "
                f"run (a resume may change {', '.join(sorted(RESUMABLE))})"
            )


# --- recipes

SMALL_IMAGES: dict[str, Any] = {
    "augment": {"shift": 1},
    "objective": {"label_smoothing": 0.1},
    "optim": {"lr": 3e-3},
    "trainer": {"max_epochs": 40},
}

LARGER: dict[str, Any] = {
    "data": {"batch_size": 256},
    "optim": {"warmup_epochs": 0.5},
    "trainer": {"max_epochs": 5},
}

RECIPES: dict[str, dict[str, Any]] = {
    "digits": SMALL_IMAGES,
    "mnist": merge(SMALL_IMAGES, {"augment": {"shift": 2}, **LARGER}),
    "fashion-mnist": merge(SMALL_IMAGES, {"augment": {"flip": True}, **LARGER}),
    "mixture": {"optim": {"lr": 3e-3}, "trainer": {"max_epochs": 20}},
    "text": {
        "model": {"preset": "crate_causal_micro"},
        "objective": {"name": "next_token"},
        "optim": {"lr": 3e-3, "warmup_epochs": 0.1},
        "trainer": {"max_epochs": 1, "clip_norm": 1.0},
    },
}
"""By the part of ``data.name`` before a colon; other data begin from the defaults of the sections."""


def resolve_with_recipe(values: dict[str, Any]) -> RunConfig:
    """Resolve a config over the recipe of the data it names.

    Args:
        values: nested plain values from a file and from overrides.

    Returns:
        The config: defaults, then the recipe, then the values.

    Raises:
        ValueError: an unknown key or a value of the wrong type.
    """
    section = values.get("data")
    name = section.get("name", "digits") if isinstance(section, dict) else "digits"
    return resolve(merge(RECIPES.get(str(name).partition(":")[0], {}), values))
