"""`srr attention`, `srr segment`, `srr predict` and `srr export`: what a trained network sees, and its graph."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from srr.nn import CRATE, Classifier, CrateMAE

Run = Annotated[Path, typer.Argument(help="Training run, or folder with config.json and model.safetensors.")]
ImageFile = Annotated[Path, typer.Argument(help="Image file.")]


def attention(
    run: Run,
    image: ImageFile,
    out: Annotated[Path, typer.Option(help="New picture.")] = Path("attention.png"),
    layer: Annotated[int, typer.Option(help="Layer, from the end when negative.")] = -1,
    size: Annotated[int | None, typer.Option(help="Image size for finer maps; positions are interpolated.")] = None,
) -> None:
    """Draw the class token's attention, or the patches' memberships, in every head, and the tokens as colors."""
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another --out")
    from srr.nn import TSSA, patch_maps, patch_tokens
    from srr.plots.attention import plot_attention

    model = load_image_model(run, size=size)
    picture, batch = prepare(run, model, image)
    maps, tokens = patch_maps(model, batch, layer=layer)[0], patch_tokens(model, batch, layer=layer)[0]
    shown = picture.permute(1, 2, 0).squeeze(-1)  # (H, W, 3), or (H, W) for one channel
    shares = isinstance(model.blocks[layer].attention, TSSA)
    figure = plot_attention(shown, maps, tokens, grid=model.config.grid, memberships=shares)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    typer.echo(f"wrote {out}: {len(maps)} heads of layer {layer % len(model.blocks)}, {tokens.shape[0]} patches")


def segment(
    run: Run,
    image: ImageFile,
    out: Annotated[Path, typer.Option(help="New picture.")] = Path("segment.png"),
    layer: Annotated[int, typer.Option(help="Layer, from the end when negative.")] = -1,
    size: Annotated[int | None, typer.Option(help="Image size for finer masks; positions are interpolated.")] = None,
) -> None:
    """Draw masks of the object that a trained model finds though it never saw one: by attention, PCA and a cut."""
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another --out")
    from srr.nn import segment as masks_of
    from srr.plots import plot_masks

    model = load_image_model(run, size=size)
    picture, batch = prepare(run, model, image)
    masks = {name: mask[0] for name, mask in masks_of(model, batch, layer=layer).items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    plot_masks(picture.permute(1, 2, 0).squeeze(-1), masks).savefig(out, dpi=120)
    shares = ", ".join(f"{name} {mask.double().mean():.0%}" for name, mask in masks.items())
    typer.echo(f"wrote {out}: share of the image in each mask: {shares}")


def predict(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of them.")],
    top: Annotated[int | None, typer.Option(help="Classes to print: 5 for one image, 1 for each of many.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects instead of a table.")] = False,
) -> None:
    """Print the likeliest classes of images under a trained classifier.

    An image that cannot be read is named; the others are classified, and the exit status is 1.
    """
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from srr._array.checks import check_count
    from srr._array.files import printable
    from srr.nn import image_files, load_classifier

    if not run.is_dir():
        raise FileNotFoundError(f"there is no run folder {run}")
    if top is not None:
        check_count(top, "--top")
    classifier, files = load_classifier(run), image_files(images)
    count = min(top or (5 if len(files) == 1 else 1), len(classifier.classes))
    rows = list(_likeliest(classifier, files, count))
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        table = Table(Column("image", overflow="fold"), "class", Column("name", overflow="fold"), "probability")
        for row in rows:
            for place, found in enumerate(row.get("classes", ())):
                name = Text(printable(row["image"])) if place == 0 else ""
                table.add_row(name, str(found["class"]), Text(printable(found["name"])), f"{found['probability']:.4f}")
        if table.row_count:
            Console().print(table)
    errors = [row["error"] for row in rows if "error" in row]
    for error in errors:
        typer.echo(printable(error), err=True)
    if errors:
        raise typer.Exit(1)


def _likeliest(classifier: Classifier, files: list[Path], count: int, batch_size: int = 64) -> Iterator[dict[str, Any]]:
    """For every file its name with its likeliest classes, or with why it has none."""
    import torch

    for first in range(0, len(files), batch_size):
        rows: list[dict[str, Any]] = []
        read = []
        for path in files[first : first + batch_size]:
            rows.append({"image": str(path).encode("utf-8", "backslashreplace").decode()})
            try:
                read.append(classifier.read(path))
            except (ValueError, OSError) as error:
                rows[-1]["error"] = str(error)
        good = [row for row in rows if "error" not in row]
        for row, chances in zip(good, classifier.probabilities(torch.stack(read)) if read else (), strict=True):
            best = chances.topk(count)
            pairs = [(int(k), float(p)) for k, p in zip(best.indices, best.values, strict=True)]
            row["classes"] = [{"class": k, "name": classifier.classes[k], "probability": p} for k, p in pairs]
        yield from rows


def export(
    run: Run,
    out: Annotated[Path, typer.Argument(help="New file, .onnx or .pt2, or a new folder for transformers.")],
    tol: Annotated[float, typer.Option(help="Largest difference allowed between graph and model.")] = 1e-4,
) -> None:
    """Write a trained model for other programs: ONNX, a torch program, both checked for any batch, or transformers."""
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another name")
    from srr.nn import CRATE, export_model, load_model

    if not run.is_dir():
        raise FileNotFoundError(f"there is no run folder {run}")
    model = load_model(run)
    out.parent.mkdir(parents=True, exist_ok=True)
    if not out.suffix:
        from srr.nn.hf import save_for_transformers

        if not isinstance(model, CRATE):
            raise ValueError(f"{run} holds a {type(model).__name__}; transformers can read a classifier of images")
        save_for_transformers(model, out)
        typer.echo(f"wrote {out}: import srr.nn.hf, then transformers.pipeline('image-classification', model='{out}')")
        return
    error = export_model(model, out, tol=tol)
    typer.echo(f"wrote {out}: any batch; the graph gives the outputs of the model to {error:.0e}")


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


def prepare(run: Path, model: CRATE | CrateMAE, path: Path) -> tuple[Tensor, Tensor]:
    """Image in [0, 1] for the eye (C, H, W), and the normalized batch of one for the model.

    Raises:
        ValueError: the model does not say how its images are prepared, or no readable image.
    """
    from srr.nn import read_image
    from srr.nn.classify import known_preprocessing
    from srr.nn.network import pair

    known = known_preprocessing(model, run)
    image = read_image(path, channels=model.config.channels, size=pair(model.config.image_size))
    return image, known.normalize(image)[None]
