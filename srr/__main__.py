"""`python -m srr` and the `srr` program."""

import sys

from srr._array.extras import need


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        need("typer", "rich", by="the command line")
    except ModuleNotFoundError as missing:
        sys.exit(str(missing))
    try:
        from srr.cli.app import main as run

        status = run()
    except KeyboardInterrupt:  # while the program was still being loaded
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
    sys.exit(status)


if __name__ == "__main__":
    main()
