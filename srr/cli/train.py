"""`srr train`: train a network of the family on real data."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table


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
    flags = {
        "data.name": data,
        "model.preset": model,
        "trainer.max_epochs": epochs,
        "seed": seed,
        "trainer.device": device,
        "trainer.precision": precision,
    }
    words = [*(overrides or ()), *(f"{key}={value}" for key, value in flags.items() if value is not None)]
    _run(config, words, out, resume, Console(stderr=True))


def _run(config: str | None, words: list[str], out: str | None, resume: bool, console: Console) -> None:
    from srr.training import config as configs
    from srr.training.recipes import resolve_with_recipe
    from srr.training.run import check_free, load_run_config
    from srr.training.run import train as run_training

    if resume:
        if out is None:
            raise ValueError("--resume needs --out RUN, the run to continue")
        if config is not None:
            raise ValueError("--resume takes the config of the run; lay changes over it as section.key=value")
        chosen = load_run_config(out, words)
    else:
        values = configs.read_config(config) if config else {}
        named = {"out": out} if out else {}
        chosen = resolve_with_recipe({**configs.merge(values, configs.parse_overrides(words)), **named})
        check_free(Path(chosen.out))
    console.print(Syntax(configs.dump_config(chosen), "yaml", background_color="default"))
    result = run_training(chosen, resume=resume, console=console)
    if result:
        Console().print(_table(result, chosen.out))


def _table(result: dict[str, Any], out: str) -> Any:
    if "stopped" in result:
        return f"{result['stopped']} at step {result['step']}; continue with: srr train --resume --out {out}"
    table = Table(title=f"run {out}", show_header=False)
    for name, value in result.items():
        if name == "baseline_nearest_subspace" and value:
            table.add_row("nearest subspace on raw pixels", f"{value['accuracy']:.4f} (rank {value['rank']})")
        elif name == "skipped_images":
            for image, count in value.items():
                table.add_row("skipped image", f"{image}, {count} time(s)")
        elif value is not None:
            table.add_row(name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else str(value))
    return table
