"""`srr attention` and `srr predict`: what a trained network sees in one image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from srr.nn import CRATE, CrateMAE

Run = Annotated[Path, typer.Argument(help="Training run, or folder with config.json and model.safetensors.")]
ImageFile = Annotated[Path, typer.Argument(help="Image file.")]


def attention(
    run: Run,
    image: ImageFile,
    out: Annotated[Path, typer.Option(help="New picture.")] = Path("attention.png"),
    layer: Annotated[int, typer.Option(help="Layer, from the end when negative.")] = -1,
    size: Annotated[int | None, typer.Option(help="Image size for finer maps; positions are interpolated.")] = None,
) -> None:
    """Draw the class token's attention in every head over an image, and the tokens as colors."""
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another --out")
    from srr.nn import attention_maps, layer_tokens
    from srr.plots.attention import plot_attention

    model = load_image_model(run, size=size)
    picture, batch, _ = prepare(run, model, image)
    maps = attention_maps(model, batch, layer=layer)[0, :, 0, 1:]  # (1, K, 1 + n, 1 + n) -> (K, n)
    tokens = layer_tokens(model, batch)[layer % len(model.blocks) + 1][0, 1:]  # (1, 1 + n, d) -> (n, d)
    shown = picture.permute(1, 2, 0).squeeze(-1)  # (H, W, 3), or (H, W) for one channel
    figure = plot_attention(shown, maps, tokens, grid=model.config.grid)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    typer.echo(f"wrote {out}: {len(maps)} heads of layer {layer % len(model.blocks)}, {tokens.shape[0]} patches")


def predict(
    run: Run,
    image: ImageFile,
    top: Annotated[int, typer.Option(help="Classes to print.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects instead of a table.")] = False,
) -> None:
    """Print the likeliest classes of an image under a trained classifier."""
    import torch
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from srr._array.checks import check_count
    from srr._array.files import printable
    from srr.nn import CRATE

    check_count(top, "--top")
    model = load_image_model(run)
    if not isinstance(model, CRATE):
        raise ValueError(f"{run} holds a {type(model).__name__}, which has no classes")
    _, batch, known = prepare(run, model, image)
    with torch.no_grad():
        chances = model(batch)[0].softmax(dim=-1)  # (classes,)
    best = chances.topk(min(top, len(chances)))
    names = known if len(known) == len(chances) else tuple(map(str, range(len(chances))))
    rows = [(int(i), names[int(i)], float(p)) for i, p in zip(best.indices, best.values, strict=True)]
    if as_json:
        typer.echo(json.dumps([{"class": i, "name": name, "probability": p} for i, name, p in rows]))
        return
    table = Table("class", "name", "probability")
    for i, name, p in rows:
        table.add_row(str(i), Text(printable(name)), f"{p:.4f}")
    Console().print(table)


def load_image_model(run: Path, *, size: int | None = None) -> CRATE | CrateMAE:
    """Model of a run folder, for another image size if asked.

    Raises:
        FileNotFoundError: no saved model there.
        ValueError: a model that takes no images, or a size that is no whole number of patches.
    """
    from srr.nn import CRATE, CrateMAE, load_model

    if not run.is_dir():
        raise FileNotFoundError(f"there is no run folder {run}")
    model = load_model(run, **({} if size is None else {"image_size": size}))
    if not isinstance(model, (CRATE, CrateMAE)):
        raise ValueError(f"{run} holds a {type(model).__name__}, which takes no images")
    return model


def prepare(run: Path, model: CRATE | CrateMAE, path: Path) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Image in [0, 1] for the eye (C, H, W), the normalized batch of one for the model, and the names of the classes.

    Without ``data.json`` of a run, values in [0, 1] are centered at ½ with deviation ½.
    """
    import torch

    from srr.training.sources import read_image, read_spec

    config = model.config
    spec = read_spec(run)
    half = (0.5,) * config.channels
    mean, std, names = (half, half, ()) if spec is None else (spec.mean, spec.std, spec.classes)
    if len(mean) != config.channels or len(std) != config.channels:
        raise ValueError(f"data.json of {run} describes {len(mean)} channels; the model takes {config.channels}")
    size = config.image_size
    image = read_image(path, channels=config.channels, size=(size, size) if isinstance(size, int) else size)
    center, scale = (torch.tensor(v)[:, None, None] for v in (mean, std))
    return image, ((image - center) / scale)[None], names
