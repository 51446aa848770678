"""The form of an inspection, and its readable text, safe for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import printable
from ..times import format_duration


@dataclass(frozen=True)
class VariableReport:
    """One channel, or one variable that would be refused.

    Args:
        file_name: name in the file.
        variable: canonical name; empty when refused.
        level: hPa, or None.
        dims: dimensions in the file, with sizes.
        units_from, units_to: units in the file, and canonical ones.
        minimum, maximum, mean: in canonical units (in the file's own when refused); NaN when nothing is finite.
        num_missing: values that are NaN or infinite.
        num_values: values looked at.
        constant: whether all values looked at are equal.
        changes: whether it has times.
        problem: why it would be refused or left out, or why its values could not be read; empty when fine.
        unreadable: whether the file is damaged where the values are.
    """

    file_name: str
    variable: str
    level: int | None
    dims: tuple[tuple[str, int], ...]
    units_from: str
    units_to: str
    minimum: float = np.nan
    maximum: float = np.nan
    mean: float = np.nan
    num_missing: int = 0
    num_values: int = 0
    constant: bool = False
    changes: bool = True
    problem: str = ""
    unreadable: bool = False


@dataclass(frozen=True)
class TimesReport:
    """The time axis: ISO text of first and last, counts, steps in seconds, instants that the common step misses."""

    first: str
    last: str
    count: int
    calendar: str
    step_seconds: int | None
    shortest_seconds: int | None
    longest_seconds: int | None
    num_missing: int
    missing: tuple[str, ...]
    num_repeated: int


@dataclass(frozen=True)
class Inspection:
    """What is in a source. `ready` says whether `data build` would take it.

    Args:
        kind: formats of the files.
        paths: the files.
        grid: one line on the grid and the file's own order; empty when there is none.
        times: the time axis, or None.
        variables: one row a channel or refused variable.
        notes, refused: remarks, and what would be refused, each with where.
        attrs: global attributes as text.
        sampled: words on what was not read; empty when all was.
        ready: whether a training store can be built from it.
        why_not: the reason when it is not ready.
    """

    kind: str
    paths: tuple[str, ...]
    grid: str
    times: TimesReport | None
    variables: tuple[VariableReport, ...]
    notes: tuple[str, ...]
    refused: tuple[str, ...]
    attrs: dict[str, str]
    sampled: str
    ready: bool
    why_not: str


def format_inspection(inspection: Inspection) -> str:
    """A readable account, safe for a terminal."""
    i = inspection
    names = ", ".join(i.paths[:3]) + (f" and {len(i.paths) - 3} more" if len(i.paths) > 3 else "")
    lines = [f"{names}", f"  kind    {i.kind}"]
    for key in ("title", "institution", "source"):
        if i.attrs.get(key):
            lines.append(f"  {key:<11} {_short(i.attrs[key])}")
    if i.grid:
        lines.append(f"  grid    {i.grid}")
    lines += _format_times(i)
    if i.variables:
        lines += ["", *_table(i.variables)]
    if i.sampled:
        lines.append(f"  ({i.sampled})")
    for title, items in (("notes", i.notes), ("would be refused", i.refused)):
        if items:
            lines += ["", f"  {title}:", *(f"    - {item}" for item in items)]
    lines += ["", "  ready   yes: 'data build' takes it" if i.ready else f"  ready   no: {i.why_not}"]
    return "\n".join(printable(line) for line in lines)


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:197] + "..."


def _format_times(i: Inspection) -> list[str]:
    t = i.times
    if t is None:
        return ["  times   none: nothing in it is dated"] if i.grid else []
    span = f"{t.first}..{t.last}, {t.count} times" if t.count > 1 else f"{t.first}, one time"
    lines = [f"  times   {span}, {t.calendar} calendar"]
    if t.step_seconds is not None and t.shortest_seconds is not None and t.longest_seconds is not None:
        if t.shortest_seconds == t.longest_seconds:
            lines.append(f"  step    {format_duration(t.step_seconds)}, none missing")
        elif t.num_missing:
            lines.append(f"  step    {format_duration(t.step_seconds)}, {t.num_missing} missing: {', '.join(t.missing)}"
                         + (", ..." if t.num_missing > len(t.missing) else ""))
        else:
            lines.append(f"  step    irregular, {format_duration(t.shortest_seconds)} to {format_duration(t.longest_seconds)}, "
                         f"most often {format_duration(t.step_seconds)}")
    if t.num_repeated:
        lines.append(f"  times   {t.num_repeated} repeated")
    return lines


def _table(rows: Sequence[VariableReport]) -> list[str]:
    header = ("in file", "variable", "level", "units", "minimum", "maximum", "mean", "missing", "dimensions", "")
    body = [_cells(row) for row in rows]
    widths = [max(len(header[c]), *(len(line[c]) for line in body)) for c in range(len(header))]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in (header, *body)]


def _cells(row: VariableReport) -> tuple[str, ...]:
    units = row.units_from if row.units_from == row.units_to else f"{row.units_from or 'none'} -> {row.units_to}"
    numbers = [f"{v:.5g}" if np.isfinite(v) else "-" for v in (row.minimum, row.maximum, row.mean)]
    missing = f"{row.num_missing} of {row.num_values}" if row.num_missing else "0" if row.num_values else "-"
    state = "UNREADABLE" if row.unreadable else "REFUSED" if row.problem and not row.variable else "LEFT OUT" if row.problem else ""
    remark = ", ".join(word for word, holds in ((state, state), ("constant", row.constant), ("no time", not row.changes)) if holds)
    cells = (row.file_name, row.variable or "-", f"{row.level} hPa" if row.level is not None else "", units or "none", *numbers, missing,
             " ".join(f"{d}={n}" for d, n in row.dims), remark)
    return tuple(printable(cell) for cell in cells)
