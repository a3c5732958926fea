"""`python -m srr` and the `srr` program."""

import sys

from srr._array.extras import need


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        need("typer", "rich", by="the command line")
    except ModuleNotFoundError as missing:
        sys.exit(str(missing))
    from srr.cli.app import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
