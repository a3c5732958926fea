"""The `srr` program: finds its commands by looking at the folder and imports only the one that is asked for.

A command is a file ``srr/cli/<command>.py`` with a function ``<command>`` whose parameters carry typer
annotations. Files that start with an underscore are helpers. The list of commands is read from the sources,
so ``srr --help`` imports no solver and no torch. An error becomes one sentence on the error stream and a
non-zero exit status.
"""

import ast
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from srr import __version__
from srr._array.extras import sentence

FOLDER = Path(__file__).parent
FIRST = ("verify", "solve", "train", "trace", "demo")
USAGE, FAILURE, INTERRUPTED = 2, 1, 130


def command_names() -> list[str]:
    """The commands there are, the five everyday ones first."""
    found = {path.stem for path in FOLDER.glob("*.py")} - {"app"}
    found = {name for name in found if not name.startswith("_")}
    return [name for name in FIRST if name in found] + sorted(found - set(FIRST))


def _summary(name: str) -> str:
    """First line of a command's docstring, read from its source without importing it."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    return (ast.get_docstring(function) or "").split("\n", 1)[0]


def _placeholder(name: str) -> Callable[[], None]:
    """Stand in the list of commands for one that is not asked for."""

    def placeholder() -> None:
        raise AssertionError(f"{name} was not loaded")  # pragma: no cover

    placeholder.__doc__ = _summary(name)
    return placeholder


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"srr {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")] = False,
) -> None:
    """Sparse rate reduction: verify the theory, solve the problem, train the networks."""


def build(wanted: str | None) -> typer.Typer:
    """The program with the wanted command imported and every other one listed."""
    app = typer.Typer(
        add_completion=False, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False
    )
    app.callback()(_options)
    for name in command_names():
        function: Callable[..., Any] = _placeholder(name)
        if name == wanted:
            function = getattr(importlib.import_module(f"srr.cli.{name}"), name)
        app.command(name)(function)
    return app


def _sentence(error: Exception) -> str:
    """One line for the user: what went wrong and, for an error nobody foresaw, how to see more."""
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    text = " ".join(text.split()) or type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        return text if "pip install" in text or error.name is None else sentence(error.name, "this command")
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, (ValueError, TypeError, OSError)) or hasattr(error, "format_message"):
        return text
    return f"{type(error).__name__}: {text} (run again with --debug for the traceback)"


def _report(text: str) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(Text(text, style="bold red"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; the exit status is 0, 1 for a failure, 2 for wrong usage, 130 when interrupted.

    Args:
        arguments: The words after ``srr``; those of the process by default.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    wanted = next((word for word in words if not word.startswith("-")), None)
    try:
        status = build(wanted)(args=words, prog_name="srr", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        _report("Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return FAILURE
    except Exception as error:  # the one place where every error becomes a sentence
        if debug:
            raise
        _report(_sentence(error))
        return USAGE if getattr(error, "exit_code", None) == USAGE else FAILURE
    if status == INTERRUPTED:
        _report("Interrupted.")
    return status if isinstance(status, int) else 0
