"""Every docstring of the package has one form: `python .ci/docstrings.py [file ...]` prints what has another.

A section is a word of `BLOCKS` alone on its line, with indented text below; `Args` lists `name: meaning`. The source of
a formula is one line, or one paragraph, that begins `Source: `. What a name means begins in lower case.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

BLOCKS = ("Args", "Returns", "Yields", "Raises", "Attributes", "Shapes", "Example")
OTHER_FORMS = {
    "Arguments": "Args", "Parameters": "Args", "Params": "Args", "Return": "Returns", "Raise": "Raises",
    "Yield": "Yields", "Examples": "Example", "Sources": "Source", "Reference": "Source", "References": "Source",
    "Shape": "Shapes", "Note": "plain text", "Notes": "plain text",
}  # fmt: skip
LINE = re.compile(r"^(?P<indent> *)(?P<word>[A-Z][A-Za-z]+)::? *(?P<rest>.*)$")
CAPITAL = re.compile(r"^\*{0,2}[A-Za-z_]\w*(, \*{0,2}[A-Za-z_]\w*)*: (?!Dask|False|None|Pi|Python|True)[A-Z][a-z]+\b")
ENTRY = re.compile(r"^\*{0,2}[A-Za-z_]\w*(, \*{0,2}[A-Za-z_]\w*)*: \S")


def faults(doc: str) -> Iterator[tuple[int, str]]:
    """Line within a docstring, counted from 0, and what is wrong there."""
    lines = doc.split("\n")
    for at, text in enumerate(lines):
        found = LINE.match(text)
        if not found or found["indent"]:
            continue
        word, rest = found["word"], found["rest"]
        if word in OTHER_FORMS:
            yield at, f"'{word}:' is written '{OTHER_FORMS[word]}' here"
        elif word == "Source" and not rest:
            yield at, "the text of 'Source:' begins on the same line"
        elif word in BLOCKS:
            body = block(lines[at + 1 :])
            if rest or not body:
                yield at, f"'{word}:' stands alone on its line, with indented text below"
            elif word in ("Args", "Attributes", "Raises"):
                yield from ((at + 1 + k, f"begins in lower case: '{line}'") for k, line in entries(body, CAPITAL, True))
                if word == "Args":
                    wrong = entries(body, ENTRY, False)
                    yield from ((at + 1 + k, f"'name: meaning' expected in Args; got '{line}'") for k, line in wrong)


def block(lines: list[str]) -> list[str]:
    """The indented lines at the start, up to an empty one that ends them."""
    count = next((k for k, line in enumerate(lines) if not line.startswith(" ")), len(lines))
    return lines[:count]


def entries(body: list[str], form: re.Pattern[str], matching: bool) -> Iterator[tuple[int, str]]:
    """Lines of a block at its own indentation that have a form, or that have it not."""
    own = len(body[0]) - len(body[0].lstrip())
    for k, line in enumerate(body):
        if len(line) - len(line.lstrip()) == own and bool(form.match(line.strip())) is matching:
            yield k, line.strip()


def check(path: Path) -> Iterator[str]:
    """What is wrong in a file, as `file:line: sentence`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if doc := ast.get_docstring(node):
            first = node.body[0].lineno
            yield from (f"{path}:{first + at}: {sentence}" for at, sentence in faults(doc))


if __name__ == "__main__":
    files = [Path(name) for name in sys.argv[1:]] or sorted(Path("srr").rglob("*.py"))
    found = [line for path in files if path.suffix == ".py" for line in check(path)]
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
