"""One self-contained HTML page of a verified ledger: formulas and plots as inline SVG, nothing from the network."""

from __future__ import annotations

import datetime
import html
import io
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

import srr
from srr._array.extras import need
from srr.theory.lab import Lab
from srr.theory.results import Result
from srr.theory.statement import SECTIONS, approximation, counterexample, order

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1d2733;background:#fff}
h1,h2,h3{line-height:1.2} h3{margin:0 0 .3rem} code{font-size:.9em} table{border-collapse:collapse}
td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top} th{font-weight:600;color:#566}
section.statement{border-top:1px solid #d5dbe1;padding:1rem 0} .formula{overflow-x:auto;margin:.5rem 0}
.verdict{font-weight:600} .ok{color:#17713a} .approximate{color:#8a6100} .refuted{color:#7a2a86} .fails{color:#b00020}
@media(prefers-color-scheme:dark){body{background:#14181d;color:#dde3ea} .formula svg,.plot svg{filter:invert(.88)}
.ok{color:#6fce93} .approximate{color:#e0b64d} .refuted{color:#d493e0} .fails{color:#ff8a9a} th{color:#9ab}}
"""
_CLASSES = {"approximate": "approximate", "refuted as stated": "refuted", "fails": "fails"}


def render(results: Sequence[Result], lab: Lab) -> str:
    """The page as a string.

    Args:
        results: outcomes of :func:`srr.theory.verify`.
        lab: the laboratory they were measured in.

    Returns:
        A complete HTML document.

    Raises:
        ImportError: if matplotlib is missing; it draws formulas and plots.
    """
    body, section = [], None
    for result in results:
        if result.statement.section != section:
            section = result.statement.section
            body.append(f"<h2>§{section} {SECTIONS.get(section, '')}</h2>")
        body.append(_statement(result))
    today = datetime.date.today().isoformat()
    passed = sum(result.passed for result in results)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>srr verify</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>Sparse rate reduction, statement by statement</h1>"
        f"<p>{passed} of {len(results)} statements came out as the ledger expects. srr {html.escape(srr.__version__)}, "
        f"{lab.backend}, {lab.dtype}, {today}.</p>" + "\n".join(body) + "</body></html>\n"
    )


def _statement(result: Result) -> str:
    entry, verdict = result.statement, result.finding.verdict
    rows = [
        ("verdict", f'<span class="verdict {_CLASSES.get(verdict, "ok")}">{verdict}</span>'),
        ("source", html.escape(entry.source)),
        ("kind", entry.kind),
        ("assumptions", _prose(entry.assumes)),
        ("measured", _prose(f"{entry.quantity}: {measured_text(result)}")),
    ]
    if result.finding.note:
        rows.append(("finding", _prose(result.finding.note)))
    if result.proof is not None:
        steps = "".join(f"<li>{html.escape(str(step))}</li>" for step in result.proof.steps)
        rows.append(("proof", f"{html.escape(result.proof.summary)}<ol>{steps}</ol>"))
    corrected = f"<p>Corrected form:</p>{formula_svg(entry.corrected)}" if entry.corrected else ""
    table = "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in rows)
    return (
        f'<section class="statement" id="{entry.label}"><h3>({entry.item}) {_prose(entry.title)} '
        f"<code>{entry.label}</code></h3>{formula_svg(entry.formula)}{corrected}"
        f"<table>{table}</table><p>{_prose(entry.proof)}</p>{plot_svg(result)}</section>"
    )


def pieces(text: str) -> list[tuple[str, str]]:
    """Prose cut into plain text, subscripts, superscripts and code, for whoever typesets it.

    Args:
        text: prose with ``V_k``, ``e^{-x}`` and backticked names.

    Returns:
        Pairs of a kind (text, sub, sup or code) and its characters.

    Example:
        >>> pieces("V_k and e^{-x}")
        [('text', 'V'), ('sub', 'k'), ('text', ' and e'), ('sup', '-x')]
    """
    found: list[tuple[str, str]] = []
    marks = r"(`[^`]+`|_\{[^}]+\}|_[A-Za-z0-9](?![a-z]{2})|\^\{[^}]+\}|\^[A-Za-z0-9])"
    for part in re.split(marks, " ".join(text.split())):
        kind = {"`": "code", "_": "sub", "^": "sup"}.get(part[:1], "text") if len(part) > 1 else "text"
        if part:
            found.append((kind, part if kind == "text" else part[1:].strip("{}`")))
    return found


def _prose(text: str) -> str:
    tags = {"text": "", "sub": "sub", "sup": "sup", "code": "code"}
    return "".join(
        f"<{tags[kind]}>{html.escape(part)}</{tags[kind]}>" if tags[kind] else html.escape(part)
        for kind, part in pieces(text)
    )


def measured_text(result: Result) -> str:
    """The measured number with what it was held against, in one phrase.

    Args:
        result: an outcome.

    Returns:
        Text such as ``1.2e-14, bound 2.2e-12``.
    """
    found = result.finding
    if found.interval is not None and isinstance(found.bound, tuple):
        half = (found.interval[1] - found.interval[0]) / 2
        return f"{found.measured:.3f} ± {half:.3f} (95 %), within {found.bound[0]:g} … {found.bound[1]:g}"
    ends = found.bound if isinstance(found.bound, tuple) else (found.bound,)
    text = f"{found.measured:.2g}, bound {' … '.join(f'{end:.2g}' for end in ends)}"
    if found.outside is None:
        return text
    name = "form as stated" if isinstance(result.statement, counterexample) else "outside the assumptions"
    return f"{text}; {name}: {found.outside:.3g}"


def formula_svg(formula: str) -> str:
    """A formula as inline SVG, its LaTeX as the accessible label.

    Args:
        formula: LaTeX within what matplotlib's mathtext understands.

    Returns:
        A ``div`` element.

    Raises:
        ValueError: if mathtext does not understand the formula.
    """
    need("matplotlib", by="the page of the ledger")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.01, 0.01))
    figure.text(0, 0, f"${formula}$", fontsize=14, math_fontfamily="cm")
    return f'<div class="formula" role="img" aria-label="{html.escape(formula, quote=True)}">{_svg(figure)}</div>'


def plot_svg(result: Result) -> str:
    """Log-log plot of the series of an order or approximation statement; empty for the others.

    Args:
        result: an outcome.

    Returns:
        A ``div`` element, or an empty string.
    """
    found, entry = result.finding, result.statement
    if not found.series or not isinstance(entry, (order, approximation)):
        return ""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes: Any = figure.subplots()
    for x, y in found.series:
        axes.loglog(x, y, "o-", markersize=3, linewidth=1)
    if found.interval is not None:
        x, y = found.series[0]
        steps = np.geomspace(x[0], x[-1], 20)
        line = math.sqrt(y[0] * y[-1]) * (steps / math.sqrt(x[0] * x[-1])) ** found.measured
        axes.loglog(steps, line, "k--", linewidth=0.8)
    axes.set(xlabel=entry.parameter, ylabel=entry.quantity.split(",")[0] if found.interval is None else "gap")
    axes.grid(visible=True, which="major", alpha=0.3)
    return f'<div class="plot" role="img" aria-label="{html.escape(entry.title, quote=True)}">{_svg(figure)}</div>'


def _svg(figure: Any) -> str:
    """The figure as an SVG element, without the XML header and without anything that changes from run to run."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "srr", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", text[text.index("<svg") :])  # HTML needs no namespace
