"""Groups of radiographs in which a classifier is tested apart, such as hospitals and ages."""

from collections.abc import Callable, Sequence

from femur_jax.data.records import RadiographEntry

UNKNOWN = "unknown"

_MEGAPIXELS = (1, 2, 4, 8)
_YEARS = (60, 70, 80)
_MOST_VALUES = 5  # of a further column whose values are groups


def groups_of(entries: Sequence[RadiographEntry]) -> dict[str, list[str]]:
    """The group of each radiograph, by what they are grouped by.

    A further column of the label table groups radiographs where it has two to five values, as for
    an implant. What is known of no radiograph is left out.
    """
    texts: dict[str, Callable[[RadiographEntry], str]] = {
        "hospital": lambda entry: entry.hospital,
        "size": lambda entry: _range(entry.height * entry.width / 1e6, _MEGAPIXELS, "MP"),
        "sex": lambda entry: {"F": "women", "M": "men"}.get(entry.source.sex, UNKNOWN),
        "age": lambda entry: (
            _range(float(entry.source.age), _YEARS, "years") if entry.source.age else UNKNOWN
        ),
        "view": lambda entry: entry.view,
    }
    groups = {name: [text(entry) for entry in entries] for name, text in texts.items()}
    for column in sorted(set[str]().union(*(entry.columns for entry in entries))):
        values = [entry.columns.get(column) for entry in entries]
        if 2 <= len({value for value in values if value is not None}) <= _MOST_VALUES:
            groups[column] = [UNKNOWN if v is None else f"{column} {v:g}" for v in values]
    return {name: values for name, values in groups.items() if set(values) != {UNKNOWN}}


def _range(value: float, limits: Sequence[int], unit: str) -> str:
    """The range between two limits that holds a value, in words that sort by size."""
    above, below = ([n for n in (0, *limits) if n <= value], [n for n in limits if n > value])
    return f"{above[-1]} to {below[0]} {unit}" if below else f"over {above[-1]} {unit}"
