"""Formats of numbers on the report: as many digits as a reader needs, and words for what is nan."""

import math
from collections.abc import Sequence

from femur_jax.evaluation.statistics import Interval

NOT_COMPUTED = "not computed"

_MOST_DIGITS = 6


def interval_text(interval: Interval) -> str:
    """Value and ends of an area under the curve, or of a rate."""
    return _text(interval, references=(0.0, 0.5, 1.0), sign="")


def signed_text(interval: Interval) -> str:
    """Value and ends of a difference, with their signs."""
    return _text(interval, references=(0.0,), sign="+")


def _text(interval: Interval, references: Sequence[float], sign: str) -> str:
    """Value and ends, with two digits or so many that none is rounded to a reference."""
    if math.isnan(interval.value):
        return NOT_COMPUTED
    shown = [v for v in (interval.value, interval.low, interval.high) if not math.isnan(v)]
    digits = next(
        d
        for d in range(2, _MOST_DIGITS + 1)
        if d == _MOST_DIGITS
        or not any(round(v, d) == r and abs(v - r) > 1e-9 for v in shown for r in references)
    )
    value, low, high = (
        f"{v:{sign}.{digits}f}" for v in (interval.value, interval.low, interval.high)
    )
    if len(shown) < 3:
        return f"{value} (interval {NOT_COMPUTED})"
    return f"{value} [{low}, {high}]"


def percent_text(interval: Interval) -> str:
    """Value and ends of a share, in percent."""
    if math.isnan(interval.value):
        return NOT_COMPUTED
    return f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def p_text(p: float | None) -> str:
    """A p value with two digits, or a bound."""
    if p is None or math.isnan(p):
        return NOT_COMPUTED
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def number(value: float | None) -> str:
    """Three digits, or all digits before the point."""
    if value is None or math.isnan(value):
        return NOT_COMPUTED
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Duration in the one or two largest of hours, minutes and seconds."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {s} s" if minutes else f"{s} s"


def count(n: int, noun: str, words: Sequence[str] = ("no", "one", "two", "three")) -> str:
    """A number, in a word where it is small, and the noun, in the plural unless it is one."""
    return f"{words[n] if n < len(words) else n} {noun}{'' if n == 1 else 's'}"
