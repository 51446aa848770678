"""Marks of a time axis: whole days, hours, minutes or seconds in the file's own calendar."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import times

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_STEPS = (1, 2, 5, 10, 15, 30, *(60 * minutes for minutes in (1, 2, 5, 10, 15, 30)), 3600, 3 * 3600, 6 * 3600, 12 * 3600,
          *(86400 * days for days in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)))


def marks(seconds: NDArray[np.int64], calendar: str, most: int) -> list[tuple[int, str]]:
    """(instant, words) at round times between the first and the last instant, at most about `most`; `2 Jan`, `12 UTC`."""
    first, last = int(seconds.min()), int(seconds.max())
    step = next((s for s in _STEPS if (last - first) / s < most), _STEPS[-1])
    start = -(-first // step) * step if step <= 86400 else -(-first // 86400) * 86400
    instants = list(range(start, last + 1, step)) or [first]
    return [(instant, date_text(instant, calendar)) for instant in instants]


def date_text(instant: int, calendar: str) -> str:
    """`2 Jan` at midnight, `12 UTC` at other full hours, `12:30` or `12:30:05` else."""
    date, _, clock = times.format_instant(instant, calendar).partition("T")
    if instant % 3600:
        return clock.rstrip("Z")
    _, month, day = date.rsplit("-", 2)
    return f"{clock[:2]} UTC" if instant % 86400 else f"{int(day)} {_MONTHS[int(month) - 1]}"
