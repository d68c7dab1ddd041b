"""Further columns of the label table, such as age, sex and drug exposure, as numbers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from femur_jax.errors import UserError

_TOO_LARGE = 1e6
"""A date or a personal number would be no smaller."""


def as_numbers(labels: Path, column: str, cells: Sequence[tuple[int, str]]) -> list[float | None]:
    """One column's cells as numbers, None where a cell is empty.

    Numbers stay as they are. Two words, such as F and M or no and yes, become 0 and 1 in
    alphabetical order; upper and lower case are the same. The words themselves are not kept.

    Args:
        labels: The label table, for messages.
        column: Its name.
        cells: Line and text of each.

    Raises:
        UserError: The cells are neither numbers nor two words, or a number has more than six
            digits, as what names a patient has. The text names a line, never what is in it.
    """
    words = sorted({text.casefold() for _, text in cells if text})
    if len(words) == 2 and not any(_is_number(word) for word in words):
        return [float(words.index(text.casefold())) if text else None for _, text in cells]
    for line, text in cells:
        where = f"{labels}, line {line}: column {column!r}"
        if text and not _is_number(text):
            raise UserError(
                f"{where} holds no number, and the column has not just two words; write numbers, "
                "and leave a cell empty where nothing is known."
            )
        if text and abs(float(text)) >= _TOO_LARGE:
            raise UserError(
                f"{where} has more than six digits, which may name a patient; leave out dates "
                "and identifiers."
            )
    return [float(text) if text else None for _, text in cells]


def values_of(
    columns: Mapping[str, float | None], names: Sequence[str]
) -> Float32[np.ndarray, " columns"]:
    """Some columns' numbers in the order of the names, NaN where unknown."""
    return np.array([columns[name] for name in names], np.float32)  # None becomes NaN


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
