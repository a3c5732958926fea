"""`srr attention`: what every head of a layer looks at in one image."""

from pathlib import Path
from typing import Annotated

import typer


def attention(
    run: Annotated[Path, typer.Argument(help="Training run, or folder with config.json and model.safetensors.")],
    image: Annotated[Path, typer.Argument(help="Image file.")],
    out: Annotated[Path, typer.Option(help="New picture.")] = Path("attention.png"),
    layer: Annotated[int, typer.Option(help="Layer, from the end when negative.")] = -1,
    size: Annotated[int | None, typer.Option(help="Image size for finer maps; positions are interpolated.")] = None,
) -> None:
    """Draw the class token's attention in every head over an image, and the tokens as colors."""
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another --out")
    from srr.cli._image import load_image_model, prepare
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
