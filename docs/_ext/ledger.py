"""Sphinx extension: the theory pages, filled from the ledger.

A page writes the story and places statements with ``{statement} label``; formula, source, assumptions, proof sketch,
measured numbers, plot and code come from the ledger, which runs once a build. A label no statement has, a statement
no page shows, and a statement that fails are warnings, and so fail the build.
"""

import hashlib
import html
import inspect
import json
from collections import Counter
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.util import logging

import srr
from srr.theory import Lab, Proof, Result, ledger, verify
from srr.theory.page import measured_text, pieces, plot_svg

log = logging.getLogger(__name__)
NODES = {"sub": nodes.subscript, "sup": nodes.superscript, "code": nodes.literal}
KEY = "srr_ledger_pages"


def prose(text: str) -> list[nodes.Node]:
    """Text with its subscripts, superscripts and names typeset."""
    return [NODES[kind]("", part) if kind in NODES else nodes.Text(part) for kind, part in pieces(text)]


def paragraph(*parts: str | nodes.Node) -> nodes.paragraph:
    found = nodes.paragraph()
    for part in parts:
        found += part if isinstance(part, nodes.Node) else prose(part)  # a text node is a str too
    return found


def lead(word: str) -> list[nodes.Node]:
    return [nodes.emphasis("", word), nodes.Text(" ")]


def formula(latex: str) -> nodes.math_block:
    return nodes.math_block("", latex, nowrap=False, number=None, label=None)


def source_digest() -> str:
    """Changes whenever the package does."""
    files = sorted(Path(srr.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def measure(app: Sphinx) -> None:
    """Run the ledger, or read what an earlier build of the same sources measured."""
    cache = Path(app.doctreedir) / "ledger.json"
    digest = source_digest()
    stored = json.loads(cache.read_text(encoding="utf-8")) if cache.exists() else {}
    if stored.get("digest") != digest:
        found = [result.as_dict() for result in verify(ledger(), Lab())]
        stored = {"digest": digest, "results": found}
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps(stored), encoding="utf-8")
    app.env.srr_found = {item["label"]: item for item in stored["results"]}
    for result in results(app.env):
        if not result.passed:
            log.warning("statement %s fails: %s", result.statement.label, result.finding.note)


def results(env) -> list[Result]:
    """All results in reading order; the environment is pickled and keeps the numbers only."""
    return [Result.of(entry, env.srr_found[entry.label]) for entry in ledger()]


class StatementDirective(Directive):
    """One statement, whole."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        env = self.state.document.settings.env
        label = self.arguments[0].strip()
        found = {result.statement.label: result for result in results(env)}
        if label not in found:
            raise self.error(f"no statement has the label {label!r}")
        getattr(env, KEY, None) or setattr(env, KEY, {})
        getattr(env, KEY).setdefault(env.docname, []).append(label)
        return [block(found[label])]


def block(result: Result) -> nodes.Element:
    entry, found = result.statement, result.finding
    box = nodes.container(classes=["statement"], ids=[entry.label])
    title = nodes.rubric(
        "", "", *prose(f"({entry.item}) {entry.title}"), nodes.Text(" "), nodes.literal("", entry.label)
    )
    box += [title, formula(entry.formula)]
    if entry.corrected:
        box += [paragraph("Corrected:"), formula(entry.corrected)]
    box += paragraph(
        nodes.strong("", found.verdict[0].upper() + found.verdict[1:]),
        nodes.Text(" "),
        f"· {entry.kind} · {entry.source}",
    )
    box += paragraph(*lead("Assumptions."), entry.assumes)
    box += paragraph(*lead("Why."), entry.proof)
    box += paragraph(*lead("Measured."), f"{entry.quantity}: {measured_text(result)}.")
    if found.note:
        box += paragraph(*lead("Outside." if found.note == entry.breaks else "Finding."), f"{found.note}.")
    if result.proof is not None:
        box += proof_steps(result.proof)
    if plot := plot_svg(result):
        box += nodes.raw("", plot, format="html")
    module = inspect.getmodule(entry.measure).__name__
    box += nodes.raw("", f"<details><summary>Source: <code>{html.escape(module)}</code></summary>", format="html")
    box += nodes.literal_block("", inspect.getsource(entry.measure), language="python")
    box += nodes.raw("", "</details>", format="html")
    return box


def proof_steps(proof: Proof) -> list[nodes.Node]:
    """What was decided by machine and what was done by hand, step by step."""
    listed = nodes.enumerated_list()
    for step in proof.steps:
        item = paragraph(*lead(f"{step.how[0].upper()}{step.how[1:]}."), f"{step.words.rstrip('.')}.")
        if step.claim:
            means = f"{step.boxes} boxes, {step.depth} halvings" if step.boxes > 1 else step.note
            item += [nodes.Text(" "), nodes.literal("", step.claim), nodes.Text(f" ({means}, {step.seconds:.2f} s)")]
        listed += nodes.list_item("", item)
    return [paragraph(*lead("Proof."), f"{proof.summary}."), listed]


class SummaryDirective(Directive):
    """How many statements of each kind came to which verdict, and a table of all of them."""

    def run(self) -> list[nodes.Node]:
        found = results(self.state.document.settings.env)
        count = Counter(result.finding.verdict for result in found)
        words = ", ".join(f"{number} {verdict}" for verdict, number in count.most_common())
        return [paragraph(f"{len(found)} statements: {words}."), self.table(found)]

    def table(self, found: list[Result]) -> nodes.table:
        head = ("", "statement", "label", "source", "verdict")
        group = nodes.tgroup("", *(nodes.colspec(colwidth=width) for width in (8, 44, 22, 26, 20)), cols=len(head))
        group += nodes.thead("", self.row(*(nodes.Text(text) for text in head)))
        group += nodes.tbody("", *(self.result_row(result) for result in found))
        return nodes.table("", group)

    def result_row(self, r: Result) -> nodes.row:
        entry = r.statement
        number, title = nodes.Text(f"§{entry.section}({entry.item})"), nodes.inline("", "", *prose(entry.title))
        verdict = nodes.Text(r.finding.verdict)
        return self.row(number, title, nodes.literal("", entry.label), nodes.Text(entry.source), verdict)

    @staticmethod
    def row(*cells: nodes.Node) -> nodes.row:
        return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells))


def forget(app: Sphinx, env, docname: str) -> None:
    getattr(env, KEY, {}).pop(docname, None)


def check(app: Sphinx, env) -> None:
    """Every statement is shown by exactly one page."""
    shown = Counter(label for labels in getattr(env, KEY, {}).values() for label in labels)
    for entry in ledger():
        if shown[entry.label] != 1:
            log.warning("statement %s is shown by %d pages, not by one", entry.label, shown[entry.label])


def setup(app: Sphinx) -> dict:
    app.connect("builder-inited", measure)
    app.connect("env-purge-doc", forget)
    app.connect("env-check-consistency", check)
    app.add_directive("statement", StatementDirective)
    app.add_directive("ledger-summary", SummaryDirective)
    return {"parallel_read_safe": False}
