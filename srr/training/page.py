"""One HTML page about a run, or about two on the same axes; it needs no network and runs no script."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor

from srr._array.files import printable, write_atomically
from srr.diagnostics import LayerTrace
from srr.nn import TSSA, patch_maps, patch_tokens, unpatchify
from srr.ops.subspaces import orthonormalize
from srr.plots.attention import plot_attention
from srr.plots.networks import (
    plot_atoms,
    plot_coherence,
    plot_confusion,
    plot_curves,
    plot_features,
    plot_reconstructions,
)
from srr.plots.traces import plot_layer_objective, plot_layer_trace
from srr.training.callbacks import curve, read_table
from srr.training.config import dump_config
from srr.training.features import feature_spread, features_of
from srr.training.module import TrainingModule
from srr.training.report import TrainedRun, held_out, open_run, scores, trace_run
from srr.training.run import METRICS, headline

STYLE = """
:root { color-scheme: light }
body { font: 16px/1.55 system-ui, sans-serif; margin: 0 auto; padding: 2rem 1.2rem; max-width: 80rem; color: #222;
  background: #fff }
h1 { font-size: 1.7rem; overflow-wrap: anywhere } h2 { font-size: 1.2rem; margin: 2.6rem 0 .2rem }
h3 { font-size: 1rem; margin: .6rem 0 .2rem; color: #1f5f8b; overflow-wrap: anywhere }
.says { color: #555; margin: 0 0 .8rem; max-width: 46rem }
.runs { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem }
.runs > div, .wide { min-width: 0; overflow-x: auto }
img { max-width: 100%; height: auto } pre { background: #f5f5f5; padding: 1rem; overflow: auto; font-size: 12px }
table { border-collapse: collapse } th { text-align: left; font-weight: 600 }
td, th { padding: .25rem 1.2rem .25rem 0; vertical-align: top; overflow-wrap: anywhere }
tr.first td { font-size: 1.5rem; font-weight: 600; color: #1f5f8b } tr + tr td { border-top: 1px solid #eee }
.wrong { display: flex; flex-wrap: wrap; gap: .8rem } .wrong figure { margin: 0; width: 7rem; font-size: 13px }
.wrong img { width: 7rem; image-rendering: pixelated } figcaption { overflow-wrap: anywhere }
summary { cursor: pointer; font-weight: 600; margin-top: 2.6rem } .none { color: #777 }
"""
LARGEST = 12
"""Wrong predictions that are shown."""


class Missing(Exception):
    """Why a section does not apply to a run."""


def write_report(runs: Sequence[str | Path], path: str | Path, *, eps: float = 0.1, count: int = 256) -> Path:
    """Write the page.

    Args:
        runs: one run folder, or two to be compared.
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
    names = _names(opened)
    traces = [trace_run(run, eps=eps, count=count) for run in opened]
    body = _section("Result", "", _result(opened, names))
    body += _section(
        "Curves",
        "A point of training is one batch as it was augmented, a point of validation all held-out samples; where the "
        "second turns while the first goes on, the network learns by heart.",
        _curves(opened, names),
    )
    body += _section(
        "Objective within each layer",
        "The sparse rate reduction R − R^c − λ·mean‖z‖₁ of unit tokens before, between and after the two halves of a "
        "layer, under that layer's own bases: a layer that does what it is derived from goes up. Between layers the "
        "bases change, so no line joins them.",
        _objectives(opened, traces, names),
    )
    parts: dict[str, tuple[str, Callable[[int, TrainedRun], str]]] = {
        "Wrong predictions": (
            "Held-out samples that the network is surest of and gets wrong: true class → predicted one, and its "
            "probability.",
            lambda _, run: _wrong(run),
        ),
        "Confusion": ("A row is a true class; what lies off the diagonal is wrong.", lambda _, run: _confusion(run)),
        "Reconstructions": (
            "Held-out images, and below each what the decoder makes of it: of its code, or of its visible patches.",
            lambda _, run: _reconstructions(run),
        ),
        "Spread of the features": (
            "How many directions the features use: an effective rank near 1 is a network that says one thing.",
            lambda _, run: _spread(run, count),
        ),
        "Layer trace, trained against untrained": (
            "Coding rates and non-zeros along the layers: training should lower R^c and the share of non-zeros more "
            "than the same network does untrained.",
            lambda at, run: _picture(plot_layer_trace(traces[at]), f"layer trace of {run.folder.name}"),
        ),
        "Features by class": (
            "Cosines between features of held-out samples, sorted by class: bright blocks on the diagonal are classes "
            "on subspaces of their own.",
            lambda _, run: _features(run, count),
        ),
        "Attention of the class token, or memberships": (
            "Where each head looks in the first held-out image, and its tokens as colors: alike colors are tokens near "
            "one another.",
            lambda _, run: _attention(run),
        ),
        "Dictionary atoms": (
            "What the first layer looks for in a patch: the atoms of its dictionary, brought back to pixels.",
            lambda _, run: _atoms(run),
        ),
        "Coherence of the subspaces": (
            "Largest cosine between the bases of any two heads: 0 if they are orthogonal, 1 if they share one.",
            lambda _, run: _coherence(run),
        ),
    }
    for title, (says, make) in parts.items():
        cells = [_named(names, at, _try(make, at, run)) for at, run in enumerate(opened)]
        body += _section(title, says, f'<div class="runs">{"".join(cells)}</div>')
    body += "<details><summary>Resolved config</summary>"
    configs = (f"<pre>{_lines(dump_config(run.config))}</pre>" for run in opened)
    body += f'<div class="runs">{"".join(_named(names, at, text) for at, text in enumerate(configs))}</div></details>'
    title = _escape(" and ".join(names))
    page = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    page += '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
    page += f"<style>{STYLE}</style></head><body><h1>{title}</h1>{body}</body></html>\n"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(page.encode()))
    return path


def _names(runs: Sequence[TrainedRun]) -> list[str]:
    """Names of the runs, told apart where two folders are called alike."""
    names = [run.folder.resolve().name for run in runs]
    if len(set(names)) == len(names):
        return names
    return [f"{name} ({letter})" for name, letter in zip(names, "ab", strict=False)]


def _escape(text: str) -> str:
    """Text for the page: no markup, no marks that turn the direction of writing, no bytes that are no UTF-8."""
    return html.escape(printable(text))


def _lines(text: str) -> str:
    return "\n".join(map(_escape, text.splitlines()))


def _label(text: str) -> str:
    """Text for a picture, which would read a formula between two dollar signs and has no room for a long name."""
    short = printable(text)
    return (short if len(short) <= 24 else short[:23] + "…").replace("$", r"\$")


def _try(make: Callable[[int, TrainedRun], str], at: int, run: TrainedRun) -> str:
    try:
        return make(at, run)
    except Missing as reason:
        return f'<p class="none">{_escape(str(reason))}</p>'


def _named(names: Sequence[str], at: int, cell: str) -> str:
    """A cell of the grid, under the name of its run where there are two."""
    return f"<div>{f'<h3>{_escape(names[at])}</h3>' if len(names) > 1 else ''}{cell}</div>"


def _section(title: str, says: str, content: str) -> str:
    return f'<h2>{title}</h2>{f"<p class=says>{says}</p>" if says else ""}<div class="wide">{content}</div>'


def _table(rows: Sequence[Sequence[str]], header: Sequence[str] = (), first: str = "") -> str:
    """A table of escaped cells; the first row may be set apart."""
    top = f"<tr>{''.join(f'<th>{_escape(cell)}</th>' for cell in header)}</tr>" if header else ""
    body = "".join(
        f"<tr{f' class={first}' if first and not at else ''}>{''.join(f'<td>{_escape(c)}</td>' for c in row)}</tr>"
        for at, row in enumerate(rows)
    )
    return f"<table>{top}{body}</table>"


def _picture(figure: Figure, text: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return _image(buffer.getvalue(), text)


def _image(content: bytes, text: str) -> str:
    data = base64.b64encode(content).decode("ascii")
    return f'<img alt="{_escape(text)}" src="data:image/png;base64,{data}">'


def _read_result(run: TrainedRun) -> dict[str, Any]:
    path = run.folder / METRICS
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it holds no table")
    return found


def _result(runs: Sequence[TrainedRun], names: Sequence[str]) -> str:
    """What came out beside what needs no network, in numbers one can read."""
    found = [_read_result(run) for run in runs]
    metric = headline(runs[0].config)[0]

    def cell(result: dict[str, Any], name: str, form: Callable[[Any], str]) -> str:
        value = result.get(name)
        try:
            return "–" if value is None else form(value)
        except (TypeError, ValueError, KeyError):
            return str(value)

    shares = {"val_accuracy": "held-out accuracy", "val_knn": "held-out accuracy of 20 neighbors"}
    what = {**shares, "val_pixel_error": "held-out squared error of a pixel"}.get(metric, "held-out loss")

    def number(value: Any) -> str:
        return f"{float(value):.1%}" if metric in shares else f"{float(value):.3g}"

    chosen: list[tuple[str, str, Callable[[Any], str]]] = [
        (what, metric, number),
        ("nearest subspace on pixels, no network", "baseline_nearest_subspace", lambda v: f"{v['accuracy']:.1%}"),
        ("best epoch by the held-out set, so optimistic", f"best_{metric}", number),
        ("number of that epoch", "best_epoch", str),
        ("epochs", "epochs", str),
        ("parameters", "parameters", lambda v: f"{int(v):,}"),
        ("training samples", "train_samples", lambda v: f"{int(v):,}"),
        ("held-out samples", "val_samples", lambda v: f"{int(v):,}"),
        ("seconds", "seconds", lambda v: f"{float(v):.0f}"),
        ("samples a second", "samples_per_second", lambda v: f"{float(v):,.0f}"),
        ("images that could not be read", "skipped_images", lambda v: f"{len(v)}" if v else "none"),
    ]
    rows = [[title, *(cell(result, name, form) for result in found)] for title, name, form in chosen]
    classes = [str(run.source.spec.num_classes) for run in runs]
    rows.insert(5, ["data, classes", *(f"{run.source.spec.name}, {k}" for run, k in zip(runs, classes, strict=True))])
    rows = [row for row in rows if any(value != "–" for value in row[1:])]
    table = _table(rows, ("", *names) if len(runs) > 1 else (), first="first")
    waiting = [name for name, result in zip(names, found, strict=True) if not result]
    return table + "".join(f'<p class="none">{_escape(name)}: the run is not finished</p>' for name in waiting)


def _curves(runs: Sequence[TrainedRun], names: Sequence[str]) -> str:
    """Each kind of number once, the runs on the same axes."""
    tables = [read_table(run.folder / "metrics.csv") for run in runs]
    columns = list(dict.fromkeys(c for rows in tables for row in rows for c in row if c.startswith(("train_", "val_"))))
    pictures = []
    for kind in dict.fromkeys(name.partition("_")[2] for name in columns):
        lines = {}
        for rows, name in zip(tables, names, strict=True):
            for column in (c for c in columns if c.partition("_")[2] == kind):
                points = curve(rows, column)
                which = "training, one batch" if column.startswith("train_") else "held out, all"
                if points[0]:
                    lines[f"{_label(name)}: {which}" if len(runs) > 1 else which] = points
        pictures.append(_picture(plot_curves(lines, title=kind.replace("_", " ")), f"curve of {kind}"))
    if not pictures:
        return '<p class="none">nothing was logged yet</p>'
    return f'<div class="runs">{"".join(f"<div>{picture}</div>" for picture in pictures)}</div>'


def _objectives(runs: Sequence[TrainedRun], traces: Sequence[dict[str, LayerTrace]], names: Sequence[str]) -> str:
    found, says = {}, []
    for run, pair, name in zip(runs, traces, names, strict=True):
        for kind, trace in pair.items():
            lam = run.config.objective.srr_lam
            values = trace.rate_normalized - trace.compression_normalized - lam * trace.l1_normalized
            found[f"{_label(name)}, {kind}" if len(runs) > 1 else kind] = values
            if kind == "trained":
                rising = f"{int((values[:, 2] > values[:, 0]).sum())} of {trace.depth} trained layers"
                says.append(f"{name}: it rises in {rising}." if len(runs) > 1 else f"It rises in {rising}.")
    sentence = " ".join(map(_escape, says))
    return _picture(plot_layer_objective(found), "objective within each layer") + f"<p>{sentence}</p>"


def _spread(run: TrainedRun, count: int) -> str:
    x, eps = held_out(run, count)[0], run.config.objective.eps
    models = {"untrained": run.untrained, "trained": run.model}
    found = {name: feature_spread(features_of(model, x).float(), eps=eps) for name, model in models.items()}
    rows = {
        f"effective rank, of {found['trained'].width}": [f"{s.effective_rank:.2f}" for s in found.values()],
        f"rate, nats a dimension at ε = {eps:g}": [f"{s.rate:.3f}" for s in found.values()],
        "share of dead features": [f"{s.dead:.3f}" for s in found.values()],
    }
    table = _table([[name, *values] for name, values in rows.items()], ("", *found))
    warning = found["trained"].warning
    return table + (f"<p>{_escape(warning.capitalize())}.</p>" if warning else "")


def _classified(run: TrainedRun) -> None:
    if not hasattr(run.model, "pool"):
        raise Missing("this model has no classes")


def _predictions(run: TrainedRun) -> tuple[Tensor, Tensor, Tensor]:
    """How the held-out samples look, their labels, and the probabilities of the classes."""
    x, shown, y = held_out(run, len(run.source.val))
    return shown, y, scores(run.model, x).softmax(-1)


def _wrong(run: TrainedRun) -> str:
    """Pictures of what the network is surest of and gets wrong."""
    from PIL import Image

    _classified(run)
    shown, y, chances = _predictions(run)
    sure, predicted = chances.max(-1)
    wrong = torch.nonzero(predicted != y)[:, 0]
    wrong = wrong[sure[wrong].argsort(descending=True)]
    total = f"<p>{len(wrong)} of {len(y)} held-out samples are wrong.</p>"
    if run.source.spec.shape[0] not in {1, 3} or run.source.spec.name == "mixture":
        return total
    figures = []
    for at in wrong[:LARGEST].tolist():
        pixels = (shown[at].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        grow = max(1, -(-96 // max(picture.size)))
        buffer = io.BytesIO()
        picture.resize((picture.width * grow, picture.height * grow), resample=0).save(buffer, "PNG")
        true, false = (run.source.spec.classes[int(k)] for k in (y[at], predicted[at]))
        text = f"{true} → {false}, {sure[at]:.0%}"
        figures.append(f"<figure>{_image(buffer.getvalue(), text)}<figcaption>{_escape(text)}</figcaption></figure>")
    return total + f'<div class="wrong">{"".join(figures)}</div>'


def _confusion(run: TrainedRun) -> str:
    _classified(run)
    _, y, chances = _predictions(run)
    names, K = run.source.spec.classes, run.source.spec.num_classes
    counts = torch.bincount(y * K + chances.argmax(-1), minlength=K * K).view(K, K)
    picture = _picture(plot_confusion(counts, tuple(map(_label, names))), f"confusion matrix of {run.folder.name}")
    off = counts.clone().fill_diagonal_(0)
    most = int(off.max())
    if not most:
        return picture + "<p>None is taken for another.</p>"
    true, false = divmod(int(off.argmax()), K)
    text = f"Most often {names[true]} is taken for {names[false]}: {most} of {int(counts[true].sum())}."
    return f"{picture}<p>{_escape(text)}</p>"


@torch.no_grad()
def _reconstructions(run: TrainedRun) -> str:
    model: Any = run.model
    if not hasattr(model, "decode"):
        raise Missing("this model decodes nothing")
    if model.config.normalize_targets:
        raise Missing("this model predicts standardized patches, not pixels")
    x, shown, _ = held_out(run, 24)
    sizes = model.config.image_size, model.config.patch_size
    decoded = (
        unpatchify(model(x), *sizes) if model.config.code else model.reconstruct(x, model.draw_mask(len(x), seed=0))
    )
    module = TrainingModule(run.model, run.source.spec, run.config)
    pictures = [y.permute(0, 2, 3, 1) for y in (shown, module.as_seen(decoded))]
    pictures = pictures if pictures[0].shape[-1] == 3 else [y[..., 0] for y in pictures]
    return _picture(plot_reconstructions(*pictures), f"reconstructions of {run.folder.name}")


def _features(run: TrainedRun, count: int) -> str:
    if not getattr(cast("Any", run.model).config, "code", 0):
        _classified(run)
    x, _, y = held_out(run, count)
    features = {"untrained": features_of(run.untrained, x), "trained": features_of(run.model, x)}
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
