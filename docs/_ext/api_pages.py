"""Sphinx extension: writes the reference, one page for each source file that has public names, by task."""

import importlib
import inspect
import re
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from textwrap import indent
from typing import Any

from docutils import nodes
from public_api import PublicName, public_modules, public_names
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import srr

# The chapters of the reference, in the order of use, and the modules that each shows.
ROOMS = (
    ("Operators", ("srr.ops",)),
    ("Penalties and problems", ("srr.penalties", "srr.problems")),
    ("Solvers", ("srr.solvers",)),
    ("Fitting data", ("srr.fits", "srr.estimators")),
    ("Data with known truth", ("srr.mixtures",)),
    ("Checking", ("srr.testing", "srr.derive", "srr.enclose", "srr.theory")),
    ("Seeing", ("srr.diagnostics", "srr.certificates", "srr.plots")),
    ("Networks", ("srr.nn",)),
    ("Training", ("srr.training",)),
)
# The operators again, on expressions and with proved ends: a bare name means the operator.
MIRRORS = ("srr.derive.", "srr.enclose.")
GROUP = re.compile(r'^    (?:# (?P<group>.+)|"(?P<name>\w+)",)$', re.MULTILINE)


def heading(text: str, mark: str) -> str:
    return f"{text}\n{mark * len(text)}\n\n"


def page(source: str, names: list[PublicName]) -> str:
    """A page: what the file is for, then its names in full, in the order of ``__all__``."""
    about = (importlib.import_module(source).__doc__ or "").strip()
    text = heading(source, "=") + about + "\n\n"
    for entry in names:
        text += f".. currentmodule:: {entry.module}\n\n"
        if entry.kind == "data":
            text += f".. py:data:: {entry.name}\n\n{indent(entry.comment, '   ')}\n\n"
        else:
            members = "   :members:\n   :show-inheritance:\n" if entry.kind == "class" else ""
            text += f".. auto{entry.kind}:: {entry.path}\n{members}\n"
    return text


def room_of(source: str) -> str:
    for title, roots in ROOMS:
        if any(source == root or source.startswith(root + ".") for root in roots):
            return title
    raise AssertionError(source)  # pragma: no cover


def short(source: str) -> str:
    """Name of a page in the sidebar: `rates` for `srr.ops.rates`."""
    return source.removeprefix("srr.").partition(".")[2] or source.removeprefix("srr.")


def slug(room: str) -> str:
    return room.lower().replace(" ", "-")


def line(entry: PublicName) -> str:
    """A name and the first sentence of its docstring, for a list."""
    doc = (entry.comment if entry.kind == "data" else entry.value.__doc__) or ""
    first = " ".join(doc.strip().split("\n\n")[0].split())
    return f"- :py:obj:`{entry.name} <{entry.path}>`: {first}\n"


def first_names() -> str:
    """The page of `srr` itself: its names in the groups and the order of ``__all__``."""
    by_name = {entry.name: entry for entry in public_names() if entry.module == "srr"}
    listing = inspect.getsource(srr).partition("__all__ = [")[2].partition("]")[0]
    text = heading("First names", "=") + (srr.__doc__ or "").strip() + "\n\n"
    for found in GROUP.finditer(listing):
        if found["group"]:
            text += f"\n.. rubric:: {found['group'][0].upper()}{found['group'][1:]}\n\n"
        elif found["name"] in by_name:
            text += line(by_name[found["name"]])
        else:
            text += f"- :py:mod:`srr.{found['name']}`\n"
    return text + "\n"


def room_page(title: str, modules: list[str], pages: dict[str, list[PublicName]]) -> str:
    """A chapter: its pages, and every name with its first sentence."""
    sources = [source for source in pages if room_of(source) == title]
    text = heading(title, "=") + "".join(f".. py:module:: {m}\n\n" for m in modules if room_of(m) == title)
    text += ".. toctree::\n   :hidden:\n\n" + "".join(f"   {short(s)} <{s}>\n" for s in sources) + "\n"
    for source in sources:
        text += f".. rubric:: :doc:`{short(source)} <{source}>`\n\n" + "".join(map(line, pages[source])) + "\n"
    return text


def write_pages(app: Sphinx) -> None:
    """Write docs/api/generated afresh: the first names, a page for each chapter and one for each file."""
    folder = Path(app.srcdir) / "api" / "generated"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pages: dict[str, list[PublicName]] = defaultdict(list)
    for entry in public_names():
        pages[entry.source].append(entry)
    written = {source: page(source, names) for source, names in pages.items()}
    modules = [module.__name__ for module in public_modules() if module is not srr]
    written |= {slug(title): room_page(title, modules, pages) for title, _ in ROOMS}
    written["first"] = ".. py:module:: srr\n\n" + first_names()
    for name, text in written.items():
        (folder / f"{name}.rst").write_text(text, encoding="utf-8")
    app.config.srr_aliases = {f"{e.source}.{getattr(e.value, '__qualname__', e.name)}": e.path for e in public_names()}


def resolve(app: Sphinx, env: BuildEnvironment, node: Any, contnode: nodes.Element) -> nodes.Element | None:
    """Send a name's defining path to its public path; let names of other libraries be plain text."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].lstrip(".")
    public = app.config.srr_aliases.get(target)
    if public is None and "." not in target:
        hits = [path for path in app.config.srr_aliases.values() if path.rsplit(".", 1)[-1] == target]
        hits = [path for path in hits if not path.startswith(MIRRORS)] or hits
        public = hits[0] if len(hits) == 1 else None
    if public is not None:
        domain = env.get_domain("py")
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, contnode)
    foreign = "." in target and not target.startswith("srr.")
    return contnode if foreign or in_signature(node) or known(target) or helper(target, node) else None


def helper(target: str, node: Any) -> bool:
    """Whether a type in a list of bases or fields is one that the package has and users never type.

    Type variables, aliases of types and private bases stay plain text; a name that is nowhere is still a fault.
    """
    if node.get("reftype") not in ("class", "obj"):
        return False
    name = target.rpartition(".")[2]
    return any(name in vars(module) for key, module in list(sys.modules.items()) if key.split(".")[0] == "srr")


def in_signature(node: nodes.Node) -> bool:
    """Whether a reference stands in a signature, where the types of protocols and states are named, too."""
    while node is not None:
        if isinstance(node, addnodes.desc_signature):
            return True
        node = node.parent
    return False


def known(target: str) -> bool:
    """Whether a bare word is a builtin or a typing name."""
    import builtins
    import collections.abc
    import typing

    return any(hasattr(module, target) for module in (builtins, typing, collections.abc))


def skip(app: Sphinx, what: str, name: str, value: Any, default: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, which only give a number, and methods that scikit-learn generates."""
    generated = re.fullmatch(r"set_\w+_request", name) is not None
    return True if generated or type(value).__name__ == "_tuplegetter" else None


def plain_aliases(app: Sphinx, what: str, name: str, value: Any, options: Any, arguments: Any, result: Any) -> Any:
    """Write an alias inside a union by its name."""
    clean = [re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text) if text else text for text in (arguments, result)]
    return tuple(clean)


def lift_source(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Show the ``Source: …`` line of a docstring as a labeled paragraph."""
    for index, line in enumerate(lines):
        if line.startswith("Source: "):
            lines[index] = "**Source.** " + line.removeprefix("Source: ")


def setup(app: Sphinx) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.autodoc")
    app.add_config_value("srr_aliases", {}, "")
    app.connect("builder-inited", write_pages)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-signature", plain_aliases)
    app.connect("autodoc-process-docstring", lift_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
