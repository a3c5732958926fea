"""`python -m srr` and the `srr` program."""

import importlib.util
import sys


def main() -> None:
    """Run the command line and exit with its status."""
    missing = [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"the command line needs {' and '.join(missing)}; install with: pip install 'srr[cli]'")
    try:
        from srr.cli.app import main as run

        status = run()
    except KeyboardInterrupt:  # while the program was still being loaded
        sys.exit(130)
    sys.exit(status)


if __name__ == "__main__":
    main()
