"""The `srr` program: its commands, and the one place where an error becomes a sentence and an exit status.

A command is a function whose parameters carry typer annotations; it imports what it needs inside, so that `srr --help`
loads no solver and no torch.
"""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from srr import __version__
from srr._array.extras import sentence
from srr._array.files import printable
from srr._array.interrupt import hand_over
from srr.cli.demo import demo
from srr.cli.encode import decode, encode
from srr.cli.images import attention, export, predict, segment
from srr.cli.runs import certify, probe, report, trace, train
from srr.cli.solve import solve
from srr.cli.verify import verify

USAGE, FAILURE, INTERRUPTED = 2, 1, 130
GROUPS = {
    "Begin": (demo,),
    "Check and solve": (verify, solve, encode, decode),
    "Train and look back": (train, report, trace, certify, probe),
    "Use a trained network": (predict, attention, segment, export),
}
"""The commands, by what one wants to do."""
COMMANDS = tuple(command for commands in GROUPS.values() for command in commands)


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


app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)
app.callback()(_options)
for _group, _commands in GROUPS.items():
    for _command in _commands:
        app.command(rich_help_panel=_group)(_command)


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
    console.print(Text(printable(text), style="bold red"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; the exit status is 0, 1 for a failure, 2 for wrong usage, 130 when interrupted.

    Args:
        arguments: the words after ``srr``; those of the process by default.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        hand_over()
        status = app(args=words, prog_name="srr", standalone_mode=False)
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
