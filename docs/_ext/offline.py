"""Sphinx extension: the built pages open from a file, formulas included, without a request to the outside.

MathJax comes from the package ``sphinx-mathjax-offline``; of its files the one that draws formulas as SVG and needs no
other is copied beside the pages. A page that would load anything from another address is a warning, and so fails the
build.
"""

import re
import shutil
from importlib.metadata import distribution
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

log = logging.getLogger(__name__)
SCRIPT = "mathjax/tex-svg-full.js"
FOREIGN = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["'](?:https?:)?//[^"']*"""
    r"""|<link\b(?=[^>]*\brel=["'](?:stylesheet|preload|preconnect|icon))[^>]*\bhref=["'](?:https?:)?//[^"']*"""
)


def bring_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Copy the one file that draws formulas, and look for what a page would fetch from elsewhere."""
    if error is not None or app.builder.format != "html":
        return
    package = distribution("sphinx-mathjax-offline")
    target = Path(app.outdir) / "_static" / SCRIPT
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(str(package.locate_file(f"sphinx-mathjax-offline/static/{SCRIPT}")), target)
    for page in sorted(Path(app.outdir).rglob("*.html")):
        for found in FOREIGN.findall(page.read_text(encoding="utf-8")):
            log.warning("%s would load something from elsewhere: %s", page.relative_to(app.outdir), found[:120])


def setup(app: Sphinx) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.mathjax")
    app.config.mathjax_path = SCRIPT
    app.connect("build-finished", bring_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
