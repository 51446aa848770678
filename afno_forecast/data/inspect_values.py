"""Minimum, maximum, mean and missing values of every channel, read block by block in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .inspect_text import VariableReport
from .sources import Finding, Source
from .sources_decode import Part
from .sources_files import READ_ERRORS

BUDGET_BYTES = 2 * 2**30  # read in full up to here; beyond it, evenly spaced times
_BLOCK_BYTES = 32 * 2**20


@dataclass
class _Sums:
    """Running minimum, maximum, sum and counts of one channel."""

    minimum: float = np.inf
    maximum: float = -np.inf
    total: float = 0.0
    num_finite: int = 0
    num_missing: int = 0
    num_values: int = 0

    def add(self, values: NDArray[Any]) -> None:
        finite = values[np.isfinite(values)].astype(np.float64)
        self.num_values += values.size
        self.num_missing += values.size - finite.size
        self.num_finite += finite.size
        if finite.size:
            self.minimum, self.maximum = min(self.minimum, float(finite.min())), max(self.maximum, float(finite.max()))
            self.total += float(finite.sum())

    def fill(self, row: VariableReport) -> VariableReport:
        if not self.num_finite:
            return replace(row, num_missing=self.num_missing, num_values=self.num_values)
        return replace(row, minimum=self.minimum, maximum=self.maximum, mean=self.total / self.num_finite, num_missing=self.num_missing,
                       num_values=self.num_values, constant=self.minimum == self.maximum and self.num_missing == 0)


def measure(parts: Sequence[Part], source: Source | None) -> tuple[list[VariableReport], str]:
    """Rows for channels in order, then for what is refused, with their numbers; and words on sampling. Memory stays bounded."""
    findings = [f for part in parts for f in part.findings]
    total = sum(f.array.nbytes for f in findings if f.array is not None)
    share = min(1.0, BUDGET_BYTES / max(total, 1))
    rows: list[VariableReport] = []
    if source is not None:
        for channel in (*source.channels, *source.static):
            finding = next((f for f in findings if f.variable == channel.variable and channel.level in (f.levels or (None,))), None)
            if finding is None:
                continue
            array = source.dataset[channel.variable]
            if channel.level is not None:
                array = array.sel(level=channel.level)
            row = _row(finding, channel.level, channel.units, "time" in array.dims)
            rows.append(_numbers(row, array, share))
    used = {r.variable for r in rows}
    leftover: dict[str, Finding] = {f.file_name: f for f in reversed(findings) if f.refused or f.variable not in used}
    for finding in reversed(leftover.values()):
        if finding.array is None:
            continue
        misfit = "does not fit the rest" if source is not None else ""
        row = replace(_row(finding, None, finding.units_from, True), problem=finding.refused or misfit)
        rows.append(_numbers(row, finding.array, share) if finding.array.dtype.kind in "fiub" else row)
    sampled = f"{total / 2**30:.3g} GiB: minimum, maximum, mean and missing values are of {share:.0%} of the times" if share < 1 else ""
    return rows, sampled


def _row(finding: Finding, level: int | None, units_to: str, changes: bool) -> VariableReport:
    return VariableReport(finding.file_name, finding.variable, level, finding.dims, finding.units_from, units_to, changes=changes)


def _numbers(row: VariableReport, array: xr.DataArray, share: float) -> VariableReport:
    sums = _Sums()
    try:
        for block in _blocks(array, share):
            with np.errstate(invalid="ignore"):  # damaged bits can be signalling NaNs
                sums.add(np.asarray(block.values, dtype=np.float64))
    except READ_ERRORS as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        problem = row.problem or f"values cannot be read{_when(block)}: {first}"
        return replace(sums.fill(row), problem=problem, unreadable=True)
    return sums.fill(row)


def _when(block: xr.DataArray) -> str:
    for coordinate in block.coords.values():
        if coordinate.ndim == 1 and coordinate.dtype.kind == "M":
            return f" in {str(coordinate.values[0])[:16]}..{str(coordinate.values[-1])[:16]}"
    return ""


def _blocks(array: xr.DataArray, share: float) -> list[xr.DataArray]:
    """Parts of an array along its first dimension, some 32 MB each in the array's own blocks; evenly spaced ones when `share` is below 1."""
    if array.ndim < 3 or not array.size:
        return [array]
    dim, length = array.dims[0], array.shape[0]
    chunk = int(array.chunks[0][0]) if array.chunks else 1
    rows = max(1, int(_BLOCK_BYTES / max(array.nbytes / length, 1)))
    rows = max(chunk, rows // chunk * chunk)
    starts = np.arange(0, length, rows)
    if share < 1:
        starts = starts[np.unique(np.linspace(0, len(starts) - 1, max(1, int(len(starts) * share))).astype(int))]
    return [array.isel({dim: slice(int(s), int(s) + rows)}) for s in starts]
