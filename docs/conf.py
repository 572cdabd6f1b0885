"""Sphinx configuration of the documentation site: uv run sphinx-build -W -q -c docs . site

Sources are read from the root of the repository, so that links work on the site and on GitHub.
"""

import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import download_reference, pending_xref

sys.path.insert(0, str(Path(__file__).parent))
import generated

project = "SegmentDreamer"
extensions = ["myst_nb", "sphinx_external_toc"]  # myst_nb loads myst_parser
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/**.md", "docs/*.ipynb"]
exclude_patterns = [".*", "runs", "site"]
external_toc_path = "docs/_toc.yml"

myst_heading_anchors = 6
nb_execution_mode = "off"  # docs/notebook.py executes
nb_merge_streams = True
smartquotes = False  # would turn the hyphens of --sweep into a dash
highlight_language = "text"
add_module_names = False
maximum_signature_line_length = generated.COLUMNS
python_use_unqualified_type_names = True
suppress_warnings = ["ref.python"]  # a one-word shape such as "num" is mistaken for a name

html_theme = "furo"
html_title = "SegmentDreamer"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
templates_path = ["_templates"]
html_additional_pages = {"index": "redirect.html"}


def filled(app, docname: str, source: list[str]) -> None:
    """Replace markers by generated Markdown, and links to folders by links to their README, as on GitHub."""
    text = re.sub(r"<!-- .*: commands -->", lambda _: generated.commands(), source[0])
    text = re.sub(r"<!-- .*: modules of (\w+) -->", lambda found: generated.modules(found[1]), text)
    source[0] = re.sub(r"\]\(([\w./-]+/)\)", r"](\1README.md)", text)


def modules_linked(app, doctree: nodes.document) -> None:
    """Link source files to their section of the reference, or to a copy if they have none."""
    for link in list(doctree.findall(download_reference)):
        path = (Path(app.srcdir) / app.env.docname).parent / link["reftarget"]
        module = ".".join(path.resolve().relative_to(app.srcdir).with_suffix("").parts)
        if path.suffix == ".py" and module in generated.documented():
            found = pending_xref("", *link.children, refdomain="py", reftype="mod", reftarget=module, refexplicit=True)
            link.replace_self(found)


def setup(app) -> None:
    app.connect("source-read", filled)
    app.connect("doctree-read", modules_linked, priority=100)  # before copies are collected
