"""Configuration of the documentation; `make docs` builds it with warnings as errors."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
os.environ.setdefault("MPLBACKEND", "Agg")

import srr

project = "srr"
author = "The srr developers"
copyright = "2026, The srr developers"
release = version = srr.__version__

extensions = [
    "api_pages",
    "ledger",
    "myst_parser",
    "offline",
    "program_pages",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "**/README.md", "auto_examples/**/*.ipynb", "auto_examples/**/*.py"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
nitpicky = True
default_role = "code"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_type_aliases = {"Array": "Array", "Namespace": "Namespace", "DType": "DType"}
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source", "Shapes"]

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence", "fieldlist", "attrs_inline"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"plot_.*\.py",
    "ignore_pattern": r"/(vit|_\w*)\.py",
    "within_subsection_order": "gallery_order.example_order",
    "nested_sections": False,
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,  # its page fetches scripts from elsewhere
    "min_reported_time": 1,
    "remove_config_comments": True,
}
suppress_warnings = ["config.cache"]

html_theme = "furo"
html_title = "srr"
html_static_path = ["_static"]
html_css_files = ["srr.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5f8b", "color-brand-content": "#1f5f8b"},
    "dark_css_variables": {"color-brand-primary": "#7fb8de", "color-brand-content": "#7fb8de"},
}
