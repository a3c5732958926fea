"""Results as a table for a text: Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from srr.theory.page import measured_text
from srr.theory.results import Result

_ESCAPES = str.maketrans({c: "\\" + c for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}"})
_GREEK = dict(zip("αβεηκλΔΠ", ["alpha", "beta", "varepsilon", "eta", "kappa", "lambda", "Delta", "Pi"], strict=True))
_SIGNS = {"²": "^2", "½": r"\frac12", "≤": r"\leq", "≥": r"\geq", "−": "-", "√": r"\surd", "‖": r"\Vert", "ℓ": r"\ell"}
_LATEX = str.maketrans({c: rf"$\{name}$" for c, name in _GREEK.items()} | {c: f"${s}$" for c, s in _SIGNS.items()})


def markdown(results: Sequence[Result]) -> str:
    """A Markdown table with formula, source, measured value and verdict.

    Args:
        results: outcomes of :func:`srr.theory.verify`.

    Returns:
        The table; what is measured is the worst of the samples it names.
    """
    head = "| label | statement | formula | source | measured | samples | verdict |\n|---|---|---|---|---|---|---|\n"
    return head + "".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |\n" for row in _rows(results)
    )


def latex(results: Sequence[Result]) -> str:
    """The same as a LaTeX ``tabular``, for a paper.

    Args:
        results: outcomes of :func:`srr.theory.verify`.

    Returns:
        Lines that need no package beyond LaTeX itself.
    """
    lines = [r"\begin{tabular}{lllllrl}", r"\hline"]
    lines.append(r"label & statement & formula & source & measured & samples & verdict \\ \hline")
    for label, title, formula, *rest in _rows(results):
        texts = [cell.translate(_ESCAPES).translate(_LATEX) for cell in (label, title, *rest)]
        lines.append(" & ".join([*texts[:2], formula, *texts[2:]]) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"


def _rows(results: Sequence[Result]) -> Iterator[tuple[str, ...]]:
    for r in results:
        s, verdict = r.statement, r.finding.verdict
        if not r.passed and r.finding.note:
            verdict += f": {r.finding.note}"
        yield s.label, s.title, f"${s.formula}$", s.source, measured_text(r), str(r.samples), verdict
