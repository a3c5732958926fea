"""Sphinx extension: writes the page of the commands from the program, and that of the keys from the config's fields."""

import shutil
from pathlib import Path

import typer
from sphinx.application import Sphinx

from srr.cli import app as program
from srr.training.config import key_table


def command_page() -> str:
    """Every command by its group: what it is for, how it is called, its arguments and options."""
    commands = typer.main.get_command(program.app).commands
    text = "# Commands\n\n`srr COMMAND --help` says the same in the terminal. "
    text += "The exit status is 0, 1 for a failure, 2 for wrong usage and 130 after Ctrl-C.\n"
    for group, members in program.GROUPS.items():
        text += f"\n## {group}\n"
        for name in (member.__name__ for member in members):
            command = commands[name]
            context = typer.Context(command, info_name=name)
            usage = " ".join(["srr", name, *command.collect_usage_pieces(context)])
            text += f"\n### srr {name}\n\n{command.help}\n\n```text\n{usage}\n```\n\n"
            rows = [row for p in command.params if p.name != "help" and (row := parameter_row(p))]
            text += "| argument or option | meaning | default |\n|---|---|---|\n" + "".join(rows) if rows else ""
    return text


def parameter_row(parameter: object) -> str:
    """One argument or option as a row of a table."""
    names = getattr(parameter, "opts", [])
    shown = ", ".join(names) if names and names[0].startswith("-") else str(getattr(parameter, "name", "")).upper()
    default = getattr(parameter, "default", None)
    empty = default is None or default is False or default in ((), "") or callable(default)
    words = (getattr(parameter, "help", None) or "").replace("|", "\\|")
    needed = "required" if getattr(parameter, "required", False) else ""
    return f"| `{shown}` | {words} | {needed if empty else f'`{default}`'} |\n"


def config_page() -> str:
    """Every key of a config."""
    return (
        "# Keys of a config\n\nA key is written in a YAML or TOML file, or as a word: `srr train optim.lr=1e-3`.\n"
        + key_table()
    )


def write_pages(app: Sphinx) -> None:
    """Write docs/generated afresh."""
    folder = Path(app.srcdir) / "generated"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, text in (("commands", command_page()), ("config", config_page())):
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
