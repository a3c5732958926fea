"""Plain values from YAML or TOML to the annotated type of a field, or one clear sentence."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin


def coerce(value: Any, kind: Any, name: str) -> Any:
    """Convert ``value`` to ``kind`` (bool, int, float, str, tuples of them, or one of them or None).

    Raises:
        ValueError: the value does not have that type and cannot be read as it without loss.
    """
    if get_origin(kind) in {Union, types.UnionType}:
        inner = next(a for a in get_args(kind) if a is not type(None))
        return None if value is None else coerce(value, inner, name)
    if get_origin(kind) is tuple:
        return _coerce_tuple(value, get_args(kind)[0], name)
    return _coerce_scalar(value, kind, name)


def _coerce_tuple(value: Any, item: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"config {name} must be a list; got {value!r}")
    return tuple(coerce(v, item, f"{name}[{i}]") for i, v in enumerate(value))


def _coerce_scalar(value: Any, kind: Any, name: str) -> Any:
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if kind is float and not isinstance(value, bool) and isinstance(value, (int, float, str)):
        try:
            return float(value)
        except ValueError:
            pass
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise ValueError(f"config {name} must be {_NAMES[kind]}; got {value!r}")


_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
