"""Label tables as spreadsheets write them: encoding, separator and decimal sign are detected.

Excel in Sweden writes semicolons and decimal commas in Windows-1252, and calls UTF-16 with tabs
"Unicode text". A table is read only where its bytes have one meaning, and is refused otherwise.
"""

import csv
import io
import itertools
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from femur_jax.errors import UserError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""Separators of cells with their names, the usual one first."""
_BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "UTF-8",
    b"\xff\xfe": "UTF-16-LE",
    b"\xfe\xff": "UTF-16-BE",
}


@dataclass(frozen=True)
class Table:
    """The content of a CSV file.

    Attributes:
        columns: The names of the columns in the header line.
        rows: Number of the line in an editor, and cells by column, of each row. A row whose cell
            spans several lines has the number of its last line.
        encoding: Encoding of the text: UTF-8, UTF-16-LE, UTF-16-BE or Windows-1252.
        separator: One of SEPARATORS.
    """

    columns: list[str]
    rows: list[tuple[int, dict[str, str]]]
    encoding: str
    separator: str

    @property
    def is_plain(self) -> bool:
        """Whether the file is UTF-8 with commas, so that nothing about it was detected."""
        return (self.encoding, self.separator) == ("UTF-8", ",")

    def decimal_sign(self, column: str) -> str:
        """The decimal sign of a column's numbers: ',' where it has such numbers, or else '.'.

        Only a table whose cells are not separated by commas has decimal commas: between commas,
        "1,234" may be a thousand.

        Raises:
            ValueError: The column has numbers of both kinds.
        """
        if self.separator == ",":
            return "."
        matches = (re.fullmatch(r"[+-]?\d*([.,])\d+", cells[column]) for _, cells in self.rows)
        signs = {match[1] for match in matches if match}
        if len(signs) > 1:
            raise ValueError(f"column {column!r} has both decimal signs")
        return signs.pop() if signs else "."


def read_table(path: Path, needed: Collection[str]) -> Table:
    """Reads a label table.

    The separator is the one that gives the header line most of the needed columns; Excel's line
    `sep=;` states it. Windows-1252 is assumed for text that is neither UTF-8 nor UTF-16.

    Args:
        path: Path of the file.
        needed: The names of columns to look for in the header line.

    Raises:
        UserError: The file cannot be read, is in another encoding, or is not a table. The message
            quotes neither a cell nor the path.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"The label table cannot be read ({error.strerror}); name a CSV file that you may read."
        ) from None
    text, encoding = _decode(data)
    separator, above = "", 0
    if match := re.match(r"sep=(.)\r?\n", text, re.IGNORECASE):
        text, separator, above = text[match.end() :], match[1], 1
    try:
        separator = separator or max(SEPARATORS, key=lambda s: len({*needed} & {*_header(text, s)}))
        columns = _header(text, separator)
        rows = []
        for line, values in itertools.islice(_rows(text, separator), 1, None):
            line += above
            if any(values[len(columns) :]):
                raise UserError(
                    f"The label table, line {line}: there are more cells than columns; put a cell "
                    f"that holds one of the {SEPARATORS.get(separator, 'separators')} between "
                    "quotes."
                )
            if any(values):
                padded = values + [""] * len(columns)
                rows.append((line, dict(zip(columns, padded, strict=False))))
    except csv.Error:
        raise UserError(
            "The label table is not a CSV file; save it as CSV UTF-8, separated by commas."
        ) from None
    named = [name for name in columns if name]
    if len(named) > len(set(named)):
        raise UserError(
            "The label table has two columns of one name; rename or delete one of them."
        )
    return Table(columns, rows, encoding, separator)


def _header(text: str, separator: str) -> list[str]:
    _, columns = next(_rows(text, separator), (0, []))
    return columns


def _rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The number of the last line, and the cells, of each row."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    for cells in reader:
        yield reader.line_num, [cell.strip() for cell in cells]


def _decode(data: bytes) -> tuple[str, str]:
    """The text without a byte order mark, and the name of its encoding."""
    mark = next((mark for mark in _BYTE_ORDER_MARKS if data.startswith(mark)), b"")
    encoding = _BYTE_ORDER_MARKS[mark] if mark else _encoding_of(data)
    try:
        if encoding == "Windows-1252" and re.search(rb"[\x80-\x9f]", data):
            # The letters of DOS and of old Macintoshes: reading them would exchange letters.
            raise ValueError
        return data[len(mark) :].decode(encoding), encoding
    except ValueError:
        raise UserError(
            "The label table is in none of the encodings UTF-8, UTF-16 and Windows-1252; save it "
            'as "CSV UTF-8".'
        ) from None


def _encoding_of(data: bytes) -> str:
    # The first letters of a header have high bytes of zero in UTF-16.
    if len(data) >= 4 and data[1] == data[3] == 0 and data[0] and data[2]:
        return "UTF-16-LE"
    if len(data) >= 4 and data[0] == data[2] == 0 and data[1] and data[3]:
        return "UTF-16-BE"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "Windows-1252"
    return "UTF-8"


def as_text(value: str) -> str:
    """A cell that no spreadsheet takes for a formula: an apostrophe precedes one that begins so.

    Source: OWASP, CSV Injection. The signs are =, +, -, @, the tabulator and the line breaks.
    """
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else value
