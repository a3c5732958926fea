"""The public names of the package, read from every ``__all__``; the reference and the tests share them."""

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from sphinx.pycode import ModuleAnalyzer

import srr

# The order of the reference: along the chain, by use. Modules not named here follow in alphabetical order.
CHAIN = (
    "srr", "srr.ops", "srr.penalties", "srr.problems", "srr.solvers", "srr.fits", "srr.estimators", "srr.mixtures",
    "srr.testing", "srr.derive", "srr.enclose", "srr.theory", "srr.diagnostics", "srr.plots", "srr.nn", "srr.training",
)  # fmt: skip
NOT_FOR_USERS = {"srr.cli", "srr.__main__"}


@dataclass(frozen=True)
class PublicName:
    """A public name under the shortest path a user can type."""

    module: str  # the public module that offers it
    name: str
    source: str  # the module whose file defines it
    value: Any

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def comment(self) -> str:
        """The string below the assignment of a constant; empty for functions and classes."""
        comments = ModuleAnalyzer.for_module(self.source).find_attr_docs()
        return "\n".join(comments.get(("", self.name), ()))

    @property
    def kind(self) -> str:
        if inspect.isclass(self.value):
            return "exception" if issubclass(self.value, BaseException) else "class"
        return "function" if callable(self.value) else "data"


def public_modules() -> list[ModuleType]:
    """`srr` and every module below it, at any depth, that has an ``__all__``; a package stands before what it holds."""
    found = [info.name for info in pkgutil.walk_packages(srr.__path__, "srr.") if for_users(info.name)]
    ordered = sorted(["srr", *found], key=lambda name: (_rank(name), name.count("."), name))
    return [module for module in map(importlib.import_module, ordered) if hasattr(module, "__all__")]


def for_users(module: str) -> bool:
    """Whether a user imports from a module: no part of its path is private, and it is not the command line."""
    hidden = any(part.startswith("_") for part in module.split("."))
    return not hidden and not any(module == name or module.startswith(f"{name}.") for name in NOT_FOR_USERS)


def _rank(module: str) -> int:
    first = ".".join(module.split(".")[:2])
    return CHAIN.index(first) if first in CHAIN else len(CHAIN)


def public_names() -> Iterator[PublicName]:
    """Each public object once, under the first module of the chain that offers it, in the order of ``__all__``."""
    seen: set[Any] = set()
    for module in public_modules():
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.ismodule(value) or name.startswith("__"):
                continue
            source = _source(module.__name__, name, value)
            key = id(value) if inspect.isclass(value) or inspect.isroutine(value) else (source, name)
            if key not in seen:
                seen.add(key)
                yield PublicName(module.__name__, name, source, value)


def _source(module: str, name: str, value: Any) -> str:
    """Module that defines a value; for a constant, the one that assigns it."""
    source = getattr(value, "__module__", None)
    if isinstance(source, str) and source.startswith("srr"):
        return source
    below = [
        key for key in sorted(sys.modules) if f"{key}.".startswith(f"{module}.") and name in vars(sys.modules[key])
    ]
    assigns = re.compile(rf"^{name}\b.*=", re.MULTILINE)
    return next((key for key in below if assigns.search(inspect.getsource(sys.modules[key]))), module)
