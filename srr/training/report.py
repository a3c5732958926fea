"""Looking back at a run: its model against the same one untrained, and one HTML page about it."""

from __future__ import annotations

import base64
import html
import io
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from srr._array.files import printable, write_atomically
from srr.diagnostics import LayerTrace, layer_trace
from srr.nn import TSSA, patch_maps, patch_tokens
from srr.nn.losses import IGNORE
from srr.nn.probe import head_inputs
from srr.ops.subspaces import orthonormalize
from srr.plots.attention import plot_attention
from srr.plots.networks import plot_atoms, plot_coherence, plot_confusion, plot_curves, plot_features
from srr.plots.traces import plot_layer_trace
from srr.training.callbacks import curve, read_table
from srr.training.checkpoint import BEST, FOLDER, LAST, PREVIOUS, read_checkpoint
from srr.training.config import RunConfig, dump_config
from srr.training.features import feature_spread, features_of
from srr.training.module import TrainingModule
from srr.training.run import METRICS, MODEL, initial_model, load_run_config
from srr.training.sources import EvalOrder, Source, load_data, source_of
from srr.training.start import load_weights


class TrainedRun(NamedTuple):
    """A run read back.

    Args:
        folder: folder of the run.
        config: what it was made with.
        source: its data.
        model: the trained model, in evaluation mode.
        untrained: the same model at its start.
    """

    folder: Path
    config: RunConfig
    source: Source
    model: nn.Module
    untrained: nn.Module


def open_run(run: str | Path, *, data: Source | pl.LightningDataModule | None = None) -> TrainedRun:
    """Read a run back.

    Args:
        run: its folder.
        data: those that were given to :func:`srr.training.train`, where the run has data of its own.

    Returns:
        Config, data, the exported model (or that of the newest checkpoint while the run is not finished) in
        evaluation mode, and the untrained model from the same seed.

    Raises:
        FileNotFoundError: the folder is no run, or has no weights yet.
        ValueError: its files are damaged.
    """
    folder = Path(run)
    config = load_run_config(folder)
    source = load_data(config.data, seed=config.seed) if data is None else source_of(data)
    alone = replace(config.model, pretrained=None)
    try:
        untrained = initial_model(config.model, source.spec, seed=config.seed)
    except FileNotFoundError as error:
        warnings.warn(f"the start of {run} is drawn anew: {error}", stacklevel=2)
        untrained = initial_model(alone, source.spec, seed=config.seed)
    model = initial_model(alone, source.spec, seed=config.seed)
    if (folder / MODEL).is_dir():
        load_weights(model, str(folder / MODEL))
    else:
        _load_checkpoint(model, folder)
    return TrainedRun(folder, config, source, model.eval(), untrained.eval())


def _load_checkpoint(model: nn.Module, run: Path) -> None:
    paths = [p for name in (LAST, PREVIOUS, BEST) if (p := run / FOLDER / name).is_file()]
    if not paths:
        raise FileNotFoundError(f"run {run} has no weights yet: neither {MODEL}/ nor a checkpoint")
    state = read_checkpoint(paths[0])["state_dict"]
    model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})


def held_out(run: TrainedRun, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first held-out samples: as the model takes them (N, ...), as they look, in [0, 1], and their labels."""
    module = TrainingModule(run.model, run.source.spec, run.config)
    order = EvalOrder(min(count, len(run.source.val)), batch_size=256)
    batches = [run.source.val.__getitems__(indices) for indices in order]
    x = torch.cat([module.prepare(b["x"]) for b in batches])
    y = torch.cat([b["y"] for b in batches])
    keep = (y != IGNORE).flatten(1).any(1) if y.ndim > 1 else y != IGNORE
    return module.normalize(x)[keep], x[keep], y[keep]


def trace_run(run: TrainedRun, *, eps: float, count: int = 256) -> dict[str, LayerTrace]:
    """Traces of the trained and of the untrained model on held-out samples.

    Args:
        run: what :func:`open_run` returned.
        eps: distortion ε.
        count: number of samples.

    Returns:
        ``trained`` and ``untrained``.
    """
    x = held_out(run, count)[0]
    return {"trained": layer_trace(run.model, x, eps=eps), "untrained": layer_trace(run.untrained, x, eps=eps)}


@torch.no_grad()
def scores(model: nn.Module, x: Tensor, batch_size: int = 256) -> Tensor:
    """Class scores of prepared samples."""
    return torch.cat([model(part) for part in torch.split(x, batch_size)])


def head_input(model: nn.Module, x: Tensor) -> Tensor:
    """What reaches the head of a classifier: the pooled tokens (N, d)."""
    with head_inputs(model) as pooled:
        scores(model, x)
    return torch.cat(pooled)


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc }
.runs { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1.5rem }
img { max-width: 100%; height: auto } pre { background: #f5f5f5; padding: 1rem; overflow: auto; font-size: 12px }
table { border-collapse: collapse } td { padding: .15rem .8rem .15rem 0; vertical-align: top }
.none { color: #777 }
"""


class Missing(Exception):
    """Why a section does not apply to a run."""


def write_report(runs: Sequence[str | Path], path: str | Path, *, eps: float = 0.1, count: int = 256) -> Path:
    """Write the page.

    Args:
        runs: one run folder, or two to be shown side by side.
        path: the HTML file; one that exists is replaced.
        eps: distortion ε of the layer traces.
        count: held-out samples the traces and features are measured on.

    Returns:
        The path.

    Raises:
        FileNotFoundError: a folder that is no run.
        ValueError: no run, or more than two.
    """
    if not 1 <= len(runs) <= 2:
        raise ValueError(f"a report shows one run or two; got {len(runs)}")
    opened = [open_run(run) for run in runs]
    sections: dict[str, Callable[[TrainedRun], str]] = {
        "Result": _result,
        "Config": lambda run: f"<pre>{_escape(dump_config(run.config))}</pre>",
        "Curves": _curves,
        "Spread of the features": lambda run: _spread(run, count),
        "Confusion matrix": _confusion,
        "Layer trace, trained against untrained": lambda run: _picture(
            plot_layer_trace(trace_run(run, eps=eps, count=count)), f"layer trace of {run.folder.name}"
        ),
        "Features by class": lambda run: _features(run, count),
        "Attention of the class token, or memberships": _attention,
        "Dictionary atoms": _atoms,
        "Coherence of the subspaces": _coherence,
    }
    names = " and ".join(_escape(run.folder.name) for run in opened)
    body = "".join(_section(title, [_try(make, run) for run in opened]) for title, make in sections.items())
    page = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{names}</title>'
    page += f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body><h1>{names}</h1>{body}</body></html>\n'
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(page.encode()))
    return path


def _escape(text: str) -> str:
    """Text for the page; bytes of a file name that are no UTF-8 are shown as escapes."""
    return html.escape(text.encode("utf-8", "backslashreplace").decode())


def _try(make: Callable[[TrainedRun], str], run: TrainedRun) -> str:
    try:
        return make(run)
    except Missing as reason:
        return f'<p class="none">{_escape(str(reason))}</p>'


def _section(title: str, cells: list[str]) -> str:
    return f'<h2>{title}</h2><div class="runs">{"".join(f"<div>{cell}</div>" for cell in cells)}</div>'


def _picture(figure: Figure, text: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{_escape(text)}" src="data:image/png;base64,{data}">'


def _result(run: TrainedRun) -> str:
    path = run.folder / METRICS
    if not path.is_file():
        raise Missing("the run is not finished")
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = "".join(f"<tr><td>{_escape(k)}</td><td>{_escape(str(v))}</td></tr>" for k, v in found.items())
    return f"<p>{_escape(run.folder.name)}</p><table>{rows}</table>"


def _curves(run: TrainedRun) -> str:
    rows = read_table(run.folder / "metrics.csv")
    names = list(dict.fromkeys(name for row in rows for name in row if name.startswith(("train_", "val_"))))
    kinds = list(dict.fromkeys(name.partition("_")[2] for name in names))
    pictures = []
    for kind in kinds:
        lines = {name: curve(rows, name) for name in names if name.partition("_")[2] == kind}
        pictures.append(_picture(plot_curves(lines, title=kind.replace("_", " ")), f"curve of {kind}"))
    if not pictures:
        raise Missing("the run has logged nothing yet")
    return "".join(pictures)


def _spread(run: TrainedRun, count: int) -> str:
    x, eps = held_out(run, count)[0], run.config.objective.eps
    models = {"untrained": run.untrained, "trained": run.model}
    found = {name: feature_spread(features_of(model, x).float(), eps=eps) for name, model in models.items()}
    rows = {
        f"effective rank, of {found['trained'].width}": [f"{s.effective_rank:.2f}" for s in found.values()],
        f"rate, nats a dimension at ε = {eps:g}": [f"{s.rate:.3f}" for s in found.values()],
        "share of dead features": [f"{s.dead:.3f}" for s in found.values()],
    }
    cells = {"": list(found), **rows}
    table = "".join(
        f"<tr><td>{name}</td>{''.join(f'<td>{value}</td>' for value in values)}</tr>" for name, values in cells.items()
    )
    warning = found["trained"].warning
    return f"<table>{table}</table>" + (f"<p>{_escape(warning.capitalize())}.</p>" if warning else "")


def _classified(run: TrainedRun) -> None:
    if not hasattr(run.model, "pool"):
        raise Missing("this model has no classes")


def _confusion(run: TrainedRun) -> str:
    _classified(run)
    x, _, y = held_out(run, len(run.source.val))
    K = run.source.spec.num_classes
    predicted = scores(run.model, x).argmax(-1)
    counts = torch.bincount(y * K + predicted, minlength=K * K).view(K, K)
    return _picture(
        plot_confusion(counts, tuple(printable(name).replace("$", r"\$") for name in run.source.spec.classes)),
        f"confusion matrix of {run.folder.name}",
    )


def _features(run: TrainedRun, count: int) -> str:
    _classified(run)
    x, _, y = held_out(run, count)
    features = {"untrained": head_input(run.untrained, x), "trained": head_input(run.model, x)}
    return _picture(plot_features(features, y), f"cosines of features of {run.folder.name}")


@torch.no_grad()
def _attention(run: TrainedRun) -> str:
    model: Any = run.model
    if not hasattr(model.config, "grid"):
        raise Missing("this model sees no images")
    x, picture, _ = held_out(run, 1)
    try:
        maps = patch_maps(model, x)[0]
    except ValueError as reason:
        raise Missing(str(reason)) from reason
    tokens = patch_tokens(model, x, layer=max(-2, -len(model.blocks)))[0]
    image = picture[0].permute(1, 2, 0).clamp(0, 1)
    image = image[..., 0] if image.shape[-1] != 3 else image
    shares = isinstance(model.blocks[-1].attention, TSSA)
    figure = plot_attention(image, maps, tokens, grid=model.config.grid, memberships=shares)
    return _picture(figure, f"attention maps of {run.folder.name}")


@torch.no_grad()
def _atoms(run: TrainedRun) -> str:
    """Atoms of the first layer, brought to pixels by the adjoint of the patch embedding."""
    model: Any = run.model
    D = getattr(model.blocks[0].dictionary, "D", None)
    linear = getattr(getattr(model, "embed", model), "linear", None)
    if D is None or linear is None or not hasattr(model.config, "grid"):
        raise Missing("this model has no dictionary over patches")
    patch = model.config.patch_size
    p1, p2 = (patch, patch) if isinstance(patch, int) else patch
    atoms = (D.mT @ linear.weight).unflatten(-1, (p1, p2, -1))  # (m, p1, p2, C)
    atoms = atoms if atoms.shape[-1] == 3 else atoms.mean(-1)
    return _picture(plot_atoms(atoms, title="first layer, through the patch embedding"), f"atoms of {run.folder.name}")


@torch.no_grad()
def _coherence(run: TrainedRun) -> str:
    model: Any = run.model
    bases = torch.stack([orthonormalize(block.attention.U.double()) for block in model.blocks])  # (L, K, d, p)
    cosines = torch.linalg.svdvals(bases.mT[:, :, None] @ bases[:, None])[..., 0]  # (L, K, K)
    return _picture(plot_coherence(cosines), f"coherence of {run.folder.name}")
