"""`srr predict`: the likeliest classes of one image."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def predict(
    run: Annotated[Path, typer.Argument(help="Training run, or folder with config.json and model.safetensors.")],
    image: Annotated[Path, typer.Argument(help="Image file.")],
    top: Annotated[int, typer.Option(help="Classes to print.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects instead of a table.")] = False,
) -> None:
    """Print the likeliest classes of an image under a trained classifier."""
    import torch

    from srr._array.checks import check_count
    from srr.cli._image import load_image_model, prepare
    from srr.nn import CRATE

    check_count(top, "--top")
    model = load_image_model(run)
    if not isinstance(model, CRATE):
        raise ValueError(f"{run} holds a {type(model).__name__}, which has no classes")
    _, batch, known = prepare(run, model, image)
    with torch.no_grad():
        chances = model(batch)[0].softmax(dim=-1)  # (classes,)
    best = chances.topk(min(top, len(chances)))
    names = known.classes if len(known.classes) == len(chances) else tuple(map(str, range(len(chances))))
    rows = [(int(i), names[int(i)], float(p)) for i, p in zip(best.indices, best.values, strict=True)]
    if as_json:
        typer.echo(json.dumps([{"class": i, "name": name, "probability": p} for i, name, p in rows]))
        return
    table = Table("class", "name", "probability")
    for i, name, p in rows:
        table.add_row(str(i), name, f"{p:.4f}")
    Console().print(table)
