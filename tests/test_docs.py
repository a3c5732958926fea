"""The documentation tells the truth: names are documented, commands exist, links lead somewhere."""

import ast
import doctest
import importlib
import inspect
import re
import shlex
import textwrap
from pathlib import Path

import pytest
from public_api import public_names

import srr
from srr.cli import app
from srr.nn import BLOCKS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
BUILT = ("_build", "auto_examples", "generated")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *(page for page in sorted(DOCS.rglob("*.md")) if not set(BUILT) & set(page.relative_to(DOCS).parts)),
]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def label(page):
    return str(page.relative_to(ROOT))


def blocks(page, *languages):
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [textwrap.dedent(body) for _, language, body in found if language in languages]


def commands(page):
    for block in blocks(page, "", "bash", "console", "shell"):
        for line in block.splitlines():
            words = line.partition("#")[0].strip().removeprefix("$ ")
            if words:
                yield words


def make_targets():
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_commands_exist(page, capsys):
    """Every `make target` is one, and every `srr command --option` is known to the program."""
    for line in commands(page):
        words = shlex.split(line)
        if words[0] == "make":
            wanted = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            assert set(wanted) <= make_targets(), line
        if Path(words[0]).name == "srr" and len(words) > 1 and not words[1].startswith("-"):
            assert words[1] in {command.__name__ for command in app.COMMANDS}, line
            app.main([words[1], "--help"])
            shown = capsys.readouterr().out
            for option in (word.partition("=")[0] for word in words[2:] if word.startswith("--")):
                assert option in shown, line


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_relative_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href|srcset)="([^"]+)"', text)
    for link in links:
        target = link.partition("#")[0]
        if not target or re.match(r"[a-z]+:", target) or set(BUILT) & set(Path(target).parts):
            continue
        place = page.parent / target
        assert place.exists() or place.with_suffix(".md").exists(), f"{label(page)}: {link}"


RUNNING = [
    ROOT / "README.md",
    DOCS / "derive.md",
    DOCS / "descent.md",
    DOCS / "objective-to-network.md",
    DOCS / "training.md",
    *(p for f in ("start", "extend") for p in sorted((DOCS / f).glob("*.md"))),
]


@pytest.mark.parametrize("page", RUNNING, ids=label)
def test_python_snippets_run(page, tmp_path, monkeypatch):
    """The snippets of a page run one after the other, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    table, scope = dict(BLOCKS), {}
    try:
        for body in blocks(page, "python"):
            exec(compile(body, label(page), "exec"), scope)
    finally:  # a page may add a row of its own
        BLOCKS.clear()
        BLOCKS.update(table)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "pycon")], ids=label)
def test_sessions_print_what_they_show(page):
    found = doctest.DocTestParser().get_doctest("\n".join(blocks(page, "pycon")), {}, label(page), str(page), 0)
    assert found.examples
    assert doctest.DocTestRunner().run(found).failed == 0


def declared():
    """Every name in an ``__all__`` of a file that users import from, read from the text of the file."""
    for file in sorted((ROOT / "srr").rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if any(part.startswith("_") for part in module.split(".")) or module.startswith("srr.cli"):
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                yield from ((module, name) for name in ast.literal_eval(node.value))


def test_the_reference_misses_no_name():
    """The pages are compared with the files, which know nothing of the list the pages are made from."""
    from api_pages import page, room_of

    entries = list(public_names())
    paged = {id(entry.value) for entry in entries} | {entry.name for entry in entries if entry.kind == "data"}
    for module, name in declared():
        value = getattr(importlib.import_module(module), name)
        assert inspect.ismodule(value) or name.startswith("__") or {id(value), name} & paged, f"{module}.{name}"
    for entry in entries:
        assert entry.module == "srr" or room_of(entry.module)
        assert f":: {entry.name if entry.kind == 'data' else entry.path}\n" in page(entry.source, [entry])


def test_the_reference_keeps_the_order_of_use():
    """The first names appear in the order, and under the headings, of ``srr.__all__``."""
    from api_pages import first_names

    shown = re.findall(r"^- :py:\w+:`(?:srr\.)?(\w+)", first_names(), re.MULTILINE)
    assert shown == srr.__all__
    assert first_names().count(".. rubric::") >= 5


def test_reference_chapters_are_listed():
    from api_pages import ROOMS, slug

    index = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    assert re.findall(r"<generated/([\w-]+)>", index) == ["first", *(slug(title) for title, _ in ROOMS)]


def test_no_machine_is_named():
    """No absolute path of somebody's machine and no address of a registry in the sources."""
    private = re.compile(r"/(work|home|root|opt|Users)/|pypi\.org/simple|files\.pythonhosted")
    kinds = {".py", ".md", ".yaml", ".toml", ".rst", ""}
    for folder in ("srr", "tests", "docs", "examples", ".ci"):
        for file in (ROOT / folder).rglob("*"):
            built = {*BUILT, "__pycache__"} & set(file.parts)
            if file.is_file() and file.suffix in kinds and not built and file.name != Path(__file__).name:
                assert not private.search(file.read_text(encoding="utf-8")), file


def test_the_page_of_commands_has_every_command_and_option():
    from program_pages import command_page

    text = command_page()
    for command in app.COMMANDS:
        assert f"### srr {command.__name__}\n" in text
        for name, parameter in inspect.signature(command).parameters.items():
            hints = getattr(parameter.annotation, "__metadata__", ())
            said = [h.help for h in hints if getattr(h, "help", None)]
            assert all(words in text for words in said), name
    assert "`--json`" in text
    assert "| `IMAGES` | Image files, and folders of them. | required |" in text
