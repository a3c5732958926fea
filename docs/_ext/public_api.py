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

# The order of the reference: along the chain. Modules not named here follow in alphabetical order.
CHAIN = (
    "srr", "srr.ops", "srr.penalties", "srr.problems", "srr.solvers", "srr.mixtures", "srr.estimators",
    "srr.diagnostics", "srr.plots", "srr.testing", "srr.theory", "srr.nn", "srr.training",
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
    """Every module directly below `srr` that has an ``__all__``, and `srr` itself."""
    names = {f"srr.{info.name}" for info in pkgutil.iter_modules(srr.__path__) if not info.name.startswith("_")}
    ordered = sorted((names | {"srr"}) - NOT_FOR_USERS, key=lambda name: (_rank(name), name))
    modules = [importlib.import_module(name) for name in ordered]
    return [module for module in modules if hasattr(module, "__all__")]


def _rank(module: str) -> int:
    return CHAIN.index(module) if module in CHAIN else len(CHAIN)


def public_names() -> Iterator[PublicName]:
    """Each public object once, under the first module of the chain that offers it."""
    seen: set[int] = set()
    for module in public_modules():
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.ismodule(value) or name.startswith("__"):
                continue
            if id(value) in seen and (inspect.isclass(value) or inspect.isroutine(value)):
                continue
            seen.add(id(value))
            yield PublicName(module.__name__, name, _source(module.__name__, name, value), value)


def _source(module: str, name: str, value: Any) -> str:
    """Module that defines a value; for a constant, the one that assigns it."""
    source = getattr(value, "__module__", None)
    if isinstance(source, str) and source.startswith("srr"):
        return source
    below = [key for key in sorted(sys.modules) if key.startswith(f"{module}.") and name in vars(sys.modules[key])]
    assigns = re.compile(rf"^{name}\b.*=", re.MULTILINE)
    return next((key for key in below if assigns.search(inspect.getsource(sys.modules[key]))), module)
