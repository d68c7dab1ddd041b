"""Files that are either whole or not there."""

from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file under another name first, and then gives it its own."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
