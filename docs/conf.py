"""How Sphinx makes the site of all pages: run `make docs`.

The source folder is the whole checkout, so that a relative link leads to the same page in the site
and in the repository. Nothing that a page of the site needs is loaded from another host.
"""

from importlib.metadata import version as installed_version

project = "Activity tracker"
author = "The activity tracker's authors"
project_copyright = author
version = release = installed_version("activity-tracker")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
root_doc = "docs/index"
include_patterns = [
    "*.md",
    "docs/**.md",
    "api/monitoring/*.md",
    "api/page/vendor/README.md",
    "benchmarks/**.md",
]
exclude_patterns = ["**/.*", ".*", "site", "build", "dist", "tests"]

# Anchors as code hosts make them, for headings that pages link to.
myst_heading_anchors = 4
suppress_warnings = [
    # `$job` and the like in PromQL are filled in by the reader.
    "misc.highlighting_failure",
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "Activity tracker"
html_copy_source = False
html_show_sourcelink = False
html_extra_path = ["site_root"]
html_theme_options = {"top_of_page_buttons": []}
