"""Which term of a failing statement is off, and by what: the common slips, tried one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from srr.theory import truth
from srr.theory.statement import Sample, Sides


def diagnose(found: Sequence[tuple[Sides, Sample]], allowed: float) -> str:
    """Name the correction that makes both sides agree on every problem.

    Args:
        found: the two sides with the problem they were measured on.
        allowed: the error up to which sides agree.

    Returns:
        A sentence, empty where no single correction explains the difference.
    """
    terms = found[0][0].named()
    for name in terms:
        for words, _ in _corrections(found[0][1]):
            if all(_corrected(sides, problem, name, words) <= allowed for sides, problem in found):
                whole = "the right side" if len(terms) == 1 else f"the term {name!r}"
                return f"{whole} fits {words}"
    return _common_factor(found, allowed)


def _corrected(sides: Sides, problem: Sample, name: str, words: str) -> float:
    """Error after one correction of one term; infinite where it does not apply."""
    terms, change = sides.named(), dict(_corrections(problem)).get(words)
    if change == "transpose":
        terms[name] = np.swapaxes(terms[name], -1, -2) if np.ndim(terms[name]) > 1 else np.nan * terms[name]
    elif change is None:
        return float("inf")
    else:
        terms[name] = change * terms[name]
    shapes = {np.shape(term) for term in terms.values()} | {np.shape(sides.left)}
    error = truth.error(sides.left, sum(terms.values())) if len(shapes) == 1 else float("inf")
    return error if error == error else float("inf")


def _corrections(p: Sample) -> Iterator[tuple[str, Any]]:
    """The slips of derivations by hand, as factors a problem gives a value to."""
    yield from (("with ½ before it", 0.5), ("with 2 before it", 2.0), ("with the other sign", -1.0))
    yield from (("with −½ before it", -0.5), ("with −2 before it", -2.0), ("transposed", "transpose"))
    if not hasattr(p, "Z"):
        return
    n, d = p.Z.shape[-2:]
    sizes = {"n": n, "d": d, "√n": n**0.5, "√d": d**0.5}
    if hasattr(p, "U"):
        sizes |= {"K": p.U.shape[-3], "p": p.U.shape[-1]}
    if hasattr(p, "eps"):
        sizes |= {"ε": p.eps, "ε²": p.eps**2, "α": d / (n * p.eps**2)}
        if hasattr(p, "U"):
            sizes |= {"β": p.U.shape[-1] / (n * p.eps**2)}
            yield from (("with α for β", d / p.U.shape[-1]), ("with β for α", p.U.shape[-1] / d))
    for name, value in sizes.items():
        yield from ((f"with a factor {name}", value), (f"divided by {name}", 1 / value))


def _common_factor(found: Sequence[tuple[Sides, Sample]], allowed: float) -> str:
    """A constant nobody has a name for, the same on every problem."""
    left = np.concatenate([np.ravel(sides.left) for sides, _ in found])
    right = np.concatenate([np.ravel(sum(sides.named().values())) for sides, _ in found])
    if left.shape != right.shape or not np.any(right):
        return ""
    factor = float(left @ right / (right @ right))
    fits = all(truth.error(s.left, factor * sum(s.named().values())) <= allowed for s, _ in found)
    return f"the right side fits with a factor {factor:.6g} on every problem" if fits else ""
