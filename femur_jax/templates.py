"""HTML templates, which lie next to the modules that fill them, and the base of all pages."""

from pathlib import Path

import jinja2


def template_environment(folder: Path) -> jinja2.Environment:
    """Environment that finds a folder's templates and base.html.j2.

    Values are escaped, and an unknown name is an error.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
