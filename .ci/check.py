"""The fast loop while editing: `make check FILE=srr/ops/rates.py` in half a minute.

Style, spelling and docstrings of the file; its types; its doctests; then the tests of its room, those named after the
file first and the others by how often they speak of its names. What half a minute does not reach is left to
`make test`, and said.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

SECONDS = 28.0  # so that all of it ends within thirty
BIN = Path(sys.executable).parent
ROOMS = {"_array": "ops", "penalties": "solvers", "problems": "solvers", "fits": "solvers", "mixtures": "solvers",
         "testing": "theory", "diagnostics": "training", "plots": "training", "cli": "."}  # fmt: skip


def tests_of(path: Path) -> list[Path]:
    """Test files for a file, the most telling first."""
    if path.parts[0] == "tests":
        return [path]
    if path.parts[0] != "srr":
        return [Path("tests/test_docs.py")]
    room, stem = Path(path.parts[1]).stem, path.stem
    folder = Path("tests") / ROOMS.get(room, room)
    found = sorted(folder.glob("test_*.py") if folder.is_dir() else Path("tests").glob("test_*.py"))
    names = re.findall(r"^(?:def|class) ([A-Za-z]\w*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    speaks = re.compile("|".join(rf"\b{name}\b" for name in names) or r"(?!)")
    texts = {test: test.read_text(encoding="utf-8") for test in found}
    weight = {test: len(speaks.findall(text)) / (1 + text.count("\n")) for test, text in texts.items()}
    chosen = [test for test in found if weight[test] or stem in test.stem]
    return sorted(chosen, key=lambda test: (stem not in test.stem, -weight[test]))


def start(*words: str | Path) -> subprocess.Popen[bytes]:
    """A tool in a process group of its own."""
    print("$", Path(words[0]).name, *words[1:], flush=True)
    return subprocess.Popen([str(word) for word in words], start_new_session=True)


def passed(process: subprocess.Popen[bytes], begun: float) -> bool:
    """Whether a tool succeeds in the time that is left; one that needs more is stopped, and has not failed."""
    try:
        return process.wait(timeout=max(0.1, begun + SECONDS - time.monotonic())) in (0, 5)  # 5: no test was found
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        tool = next(name for name in ("mypy", "pytest", "") if name in str(process.args))
        print(f"\n{tool} was stopped after {SECONDS:g} s; nothing had failed, `make types test` runs all of it.")
        return True


def main(name: str) -> int:
    """Check one file."""
    path, begun = Path(name), time.monotonic()
    if not path.is_file():
        print(f"there is no file {name!r}; for example: make check FILE=srr/ops/rates.py")
        return 2
    package, python = path.parts[0] == "srr", path.suffix == ".py"
    tools: list[tuple[str | Path, ...]] = [(BIN / "codespell", path)]
    if python:
        tools += [(BIN / "ruff", "check", path), (BIN / "ruff", "format", "--check", path)]
    if package:
        tools += [(sys.executable, ".ci/docstrings.py", path)]
    good = not [words for words in tools if not passed(start(*words), begun)]  # all run, whichever fails
    types = start(BIN / "mypy", "--strict", path) if package else None
    files = [*([path] if package else []), *tests_of(path)]
    good &= passed(start(sys.executable, "-m", "pytest", "-q", "-x", "-n0", *files), begun)
    good &= types is None or passed(types, begun)
    return not good


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
