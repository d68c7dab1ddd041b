"""Dates and personal numbers do not pass as numbers of a label table."""

import datetime

import pytest

from femur_jax.data.columns import column_numbers
from femur_jax.data.table_file import Table
from femur_jax.errors import UserError

DAYS = [datetime.date(1910, 1, 1) + datetime.timedelta(days=97 * n) for n in range(380)]
"""Birthdays up to the year 2010."""
FORMS = {
    "date": lambda day: f"{day:%Y%m%d}",
    "date without century": lambda day: f"{day:%y%m%d}",
    "date as decimals": lambda day: f"{day:%Y.%m%d}",
    "fraction": lambda day: f"0.{day:%Y%m%d}",
    "personal number": lambda day: f"{day:%y%m%d}1234",
    "personal number as a fraction": lambda day: f"0.{day:%Y%m%d}1234",
    "year": lambda day: f"{day:%Y}",
    "negative year": lambda day: f"-{day:%Y}",
    "year and month": lambda day: f"{day:%y%m}",
    "year with decimals": lambda day: f"{day.year + (day.month - 1) / 12:.2f}",
    "year in thousands": lambda day: f"{day.year / 1000:.3f}",
    "day of a spreadsheet": lambda day: str((day - datetime.date(1899, 12, 30)).days),
    "seconds since 1970": lambda day: str((day - datetime.date(1970, 1, 1)).days * 86400),
    "end of a personal number": lambda day: f"{day.toordinal() % 9000 + 1000}",
}


def _read(column, *cells, separator=","):
    rows = [(line, {column: cell}) for line, cell in enumerate(cells, start=2)]
    return column_numbers(Table([column], rows, "UTF-8", separator), column)


@pytest.mark.parametrize("form", FORMS)
def test_dates_and_personal_numbers_are_refused(form):
    for n in range(0, 120, 7):
        cells = [FORMS[form](day) for day in (DAYS[n], DAYS[n + 130], DAYS[n + 260])]
        with pytest.raises(UserError, match=r"column 'born' has .*round .*leave it") as e:
            _read("born", *cells)
        assert not any(cell in str(e.value) for cell in cells)


@pytest.mark.parametrize("cell", ["400317", "0.194003171234", "0317", "1e8", "1_2", "١٢", "inf"])
def test_other_ways_of_writing_many_digits_are_refused(cell):
    with pytest.raises(UserError, match="line 3: column 'x'"):
        _read("x", "1", cell, "2")


def test_decimal_commas_hide_no_digits():
    with pytest.raises(UserError, match="line 2: column 'x' has more than three digits"):
        _read("x", "0,194003171234", "0,5", separator=";")
    assert _read("x", "81,5", "", separator=";") == [81.5, None]


def test_measurements_are_kept():
    cells = ["81.5", "81.50", "172", "-2.25", "0.0305", ".5", "5.", "+3", "007", "0", "", "70.000"]
    numbers = [81.5, 81.5, 172, -2.25, 0.0305, 0.5, 5, 3, 7, 0, None, 70]
    assert _read("x", *cells) == numbers


@pytest.mark.parametrize(
    ("name", "greatest"),
    [
        *((n, 90.0) for n in ("age", "AGE", "patient_age", "AgeAtFracture", "ageYears2", "age.y")),
        *((n, 90.0) for n in ("ålder", "Ålder vid fraktur", "patientålder", "PatientÅlder")),
        *((n, 104.0) for n in ("dosage", "stage", "weight", "agent", "percentage")),
    ],
)
def test_ages_above_90_are_capped_as_those_of_headers(name, greatest):
    assert _read(name, "104", "90", "89.5", "") == [greatest, 90, 89.5, None]
