"""Progress of whatever takes longer than ten seconds: a bar on a terminal, lines in a log."""

import sys
from typing import Any

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 30.0
_SECONDS_BEFORE_A_BAR = 1.0  # whatever is faster shows none


class Progress(tqdm):
    """A progress bar of tqdm, which writes a line each half minute where stderr is not a terminal.

    A bar redraws itself many times a second, which fills the log of a batch job. A line of a log
    reads `train diffusion: 240 of 900, 3.1 step/s, 3:33 left, loss=0.12`.
    """

    def __init__(self, *args: Any, unit: str = "it", **kwargs: Any):
        """Takes tqdm's arguments; `disable=True` shows nothing, such as in all but one process."""
        self._is_log = not sys.stderr.isatty()
        if self._is_log:
            kwargs |= {
                "mininterval": _SECONDS_BETWEEN_LINES,
                "delay": _SECONDS_BETWEEN_LINES,
                "miniters": 1,
            }
        else:
            kwargs["delay"] = _SECONDS_BEFORE_A_BAR
        super().__init__(*args, unit=unit, **kwargs)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draws the bar, or prints a line."""
        if not self._is_log:
            super().display(msg, pos)
        else:
            print(self._line(), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the bar. A log gets a last line where it has had another."""
        if not self._is_log:
            super().close()
            return
        if not self.disable and self.last_print_t > self.start_t and self.n > self.last_print_n:
            print(self._line(), file=sys.stderr, flush=True)
        self.leave, self.disable = False, True

    def _line(self) -> str:
        rate = (self.n - self.initial) / max(self.format_dict["elapsed"], 1e-9)

        def size(number: int | float) -> str:
            return self.format_sizeof(number) if self.unit_scale else f"{number:.6g}"

        parts = [f"{size(self.n)} of {size(self.total)}" if self.total else size(self.n)]
        if rate:
            parts.append(
                f"{size(float(f'{rate:.3g}'))} {self.unit}/s"
                if rate >= 1
                else f"{1 / rate:.3g} s/{self.unit}"
            )
        if rate and self.total:
            parts.append(f"{self.format_interval((self.total - self.n) / rate)} left")
        if self.postfix:
            parts.append(str(self.postfix))
        return f"{self.desc.rstrip(': ')}: " + ", ".join(parts)
