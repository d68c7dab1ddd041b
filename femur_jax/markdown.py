"""Tables in Markdown, of cards and of plans."""

from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of a table.

    Args:
        head: Titles of the columns.
        rows: Cells of each line, which hold no vertical bar.
    """
    return [f"| {' | '.join(map(str, line))} |" for line in (head, ("---",) * len(head), *rows)]
