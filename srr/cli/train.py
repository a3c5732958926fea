"""`srr train`: train a network of the family on real data."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text


def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Dotted words laid over the config, such as trainer.max_epochs=5.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="A YAML or TOML file.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="digits, mnist, fashion-mnist, mixture, folder:PATH, hf:NAME or text:FILE."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="A preset of srr.nn, such as crate_micro.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder of the run; it must not exist yet.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and augmentation.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    precision: Annotated[str | None, typer.Option(help="32, 64, bf16 or 16.")] = None,
) -> None:
    """Train a network; leaves checkpoints, curves, weights and metrics.json in --out."""
    from srr.training.config import dump_config, merge, parse_overrides, read_config_file, resolve_with_recipe
    from srr.training.run import check_free, load_run_config
    from srr.training.run import train as run_training

    flags: dict[str, Any] = {
        "data": {"name": data},
        "model": {"preset": model},
        "trainer": {"max_epochs": epochs, "device": device, "precision": precision},
        "seed": seed,
        "out": out,
    }
    changes = merge(parse_overrides(overrides or ()), _given(flags))
    console = Console(stderr=True)
    if resume:
        if out is None:
            raise ValueError("--resume needs --out RUN, the run to continue")
        if config is not None:
            raise ValueError("--resume takes the config of the run; lay changes over it as section.key=value")
        chosen = load_run_config(out, changes)
    else:
        chosen = resolve_with_recipe(merge(read_config_file(config) if config else {}, changes))
        check_free(Path(chosen.out))
    console.print(Syntax(dump_config(chosen), "yaml", background_color="default"))
    result = run_training(chosen, resume=resume, console=console)
    if result:
        Console().print(_table(result, chosen.out))


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given; their words are taken as they stand, never read as YAML."""
    inner = {name: _given(value) if isinstance(value, dict) else value for name, value in flags.items()}
    return {name: value for name, value in inner.items() if value not in (None, {})}


def _table(result: dict[str, Any], out: str) -> Any:
    if "stopped" in result:
        return Text(f"{result['stopped']} at step {result['step']}; continue with: srr train --resume --out {out}")
    table = Table(title=Text(f"run {out}"), show_header=False)
    for name, value in result.items():
        if name == "baseline_nearest_subspace" and value:
            table.add_row("nearest subspace on raw pixels", f"{value['accuracy']:.4f} (rank {value['rank']})")
        elif name == "skipped_images":
            for image, count in value.items():
                table.add_row("skipped image", Text(f"{image}, {count} time(s)"))
        elif value is not None:
            table.add_row(name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else str(value))
    return table
