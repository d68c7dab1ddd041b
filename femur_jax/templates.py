"""HTML templates, which lie beside the modules that fill them."""

from pathlib import Path

import jinja2


def template_environment(folder: Path) -> jinja2.Environment:
    """Finds templates in a folder; escapes what is filled in, and refuses unknown names."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
