"""Further columns of a label table, as numbers that can neither date nor identify a patient."""

import math
import re

from femur_jax.data.radiograph import GREATEST_AGE
from femur_jax.data.table_file import Table
from femur_jax.errors import UserError

_MOST_DIGITS = 3
"""Most digits of a value. A date with a year has four or more, as have a year and the last part of
a Swedish personal number."""


def column_numbers(table: Table, column: str) -> list[float | None]:
    """Reads a column as numbers, None where a cell is empty.

    Two words, such as F and M or no and yes, become 0 and 1 in alphabetical order, regardless of
    case. The words themselves are not kept. Ages, by the column's name, are at most GREATEST_AGE.

    Args:
        table: The label table.
        column: Name of the column.

    Raises:
        UserError: The cells are neither numbers nor two words, have both decimal signs, or have
            more digits than _MOST_DIGITS, so that they can be dates or personal numbers. The
            message names a line, never its content.
    """
    try:
        sign = table.decimal_sign(column)
    except ValueError:
        raise UserError(
            f"The label table has decimal commas and decimal points in column {column!r}; write "
            "all numbers of the column alike."
        ) from None
    cells = [(line, row[column]) for line, row in table.rows]
    if sign == ",":
        cells = [(line, text.replace(",", ".")) for line, text in cells]
    words = sorted({text.casefold() for _, text in cells if text})
    if len(words) == 2 and not any(_is_number(word) for word in words):
        return [float(words.index(text.casefold())) if text else None for _, text in cells]
    for line, text in cells:
        where = f"The label table, line {line}: column {column!r}"
        if text and not _is_number(text):
            raise UserError(
                f"{where} does not hold a number, nor does the column hold just two words; write "
                "numbers, and leave a cell empty where nothing is known."
            )
        if _digits(text) > _MOST_DIGITS:
            raise UserError(
                f"{where} has more than three digits, which can be a date or a personal number; "
                "round the column's numbers to three digits or write them in a larger unit, or "
                "leave it out of --columns."
            )
    most = float(GREATEST_AGE) if _is_age(column) else math.inf
    return [min(float(text), most) if text else None for _, text in cells]


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", text, re.ASCII) is not None


def _digits(text: str) -> int:
    """Number of digits, without zeros at the start of a fraction or at the end of the decimals."""
    whole, _, decimals = text.lstrip("+-").partition(".")
    digits = whole + decimals.rstrip("0")
    return len(digits.lstrip("0") if whole in ("", "0") else digits)


def _is_age(column: str) -> bool:
    """Whether a word of the column's name, also in camel case, is age or its Swedish name."""
    words = re.split(r"[\W\d_]+|(?<=[a-zåäö])(?=[A-ZÅÄÖ])", column)
    return any(word.casefold() == "age" or word.casefold().endswith("ålder") for word in words)
