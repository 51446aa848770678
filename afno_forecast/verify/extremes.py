"""Whether a forecast keeps the extremes: their size (quantile ratio) and their place (SEDI).

- `quantile_ratio_Q`: (q_f - m_o) / (q_o - m_o), where q_f and q_o are the area-weighted Q-quantiles of forecast and truth over a region,
  m_o the truth's median, numerator and denominator each the mean over inits. 1: extremes as large as the truth's, below: damped. Being
  measured from the median it does not depend on where a unit has its zero.
- `sedi_Q`: symmetric extremal dependence index (Ferro and Stephenson 2011) of the event "beyond the Q-quantile": above for Q > 0.5, else
  below. With hit rate H and false alarm rate F, areas added over inits: (ln F - ln H - ln(1-F) + ln(1-H)) / (ln F + ln H + ln(1-F) +
  ln(1-H)), H and F kept 1e-6 away from 0 and 1 as in WeatherBench-X. 1: perfect, 0: by chance.

The threshold at a cell is the climatology of the valid time plus the Q-quantile, over the training period, of the departure from
climatology there; of a long record on a fine grid from as many states, spread evenly over it, as take half a gigabyte. An ensemble's
scores are means over its members.
"""

# E member, C channel, H latitude row, W longitude column, Q quantile, R region

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..channels import ChannelSet
from .baselines import Analyses, climatology_states
from .regions import AreaMeans
from .sample import Float, Rows, Sample, Table

if TYPE_CHECKING:
    from ..data.climatology import Climatology

_RATE_FLOOR = 1e-6
_BLOCK_BYTES = 1 << 29
_READ_BYTES = 1 << 25  # of the record read at once


def percent(quantile: float) -> str:
    """A quantile as the ending of a metric's name: 0.95 -> `95`, 0.995 -> `99.5`."""
    return f"{100 * quantile:g}"


def departure_quantiles(record: Analyses, climatology: Climatology, channels: ChannelSet, quantiles: Sequence[float]) -> NDArray[np.float32]:
    """Quantiles over a record of the departure from climatology at each cell; linear between order statistics.

    Args:
        record: analyses of the training period.
        climatology: of that period.
        channels: what to compute; NaN for those that record or climatology lack.
        quantiles: between 0 and 1.

    Returns:
        float32, shape (Q, C, H, W).
    """
    rows, columns = record.grid.shape
    out = np.full((len(quantiles), len(channels), rows, columns), np.nan, np.float32)
    known = ChannelSet(tuple(c for c in channels if c.name in record.channels.names and c.name in climatology.channels.names))
    if not len(known):
        return out
    limit = max(2, _BLOCK_BYTES // (4 * rows * columns))
    chosen = np.unique(np.linspace(0, len(record.times) - 1, min(limit, len(record.times))).round().astype(np.int64))
    group = max(1, limit // len(chosen))
    for first in range(0, len(known), group):
        part = ChannelSet(known.channels[first:first + group])
        index = [record.channels.names.index(n) for n in part.names]
        departures = np.empty((len(chosen), len(part), rows, columns), np.float32)
        together = max(1, _READ_BYTES // (4 * len(record.channels) * rows * columns))
        for n in range(0, len(chosen), together):
            at = chosen[n:n + together]
            expected = climatology_states(climatology, part, record.times.seconds[at], record.times.calendar)
            departures[n:n + together] = record.read(at)[:, index] - expected
        out[:, [channels.names.index(n) for n in part.names]] = np.quantile(departures, quantiles, axis=0)
    return out


class Extremes:
    """Quantile ratios and SEDI.

    Args:
        quantiles: between 0 and 1, not 0.5.
        departures: of the thresholds from climatology, (Q, C, H, W); None for no SEDI.
    """

    def __init__(self, quantiles: Sequence[float], departures: NDArray[np.float32] | None) -> None:
        self.quantiles = tuple(quantiles)
        self._departures = departures

    def reduce(self, sample: Sample, areas: AreaMeans) -> Rows:
        """`quantiles` (2, Q + 1, R, C): of forecast and truth, the median first; `events` (3, Q, R, C): hits, false alarms, misses."""
        levels = np.asarray((0.5, *self.quantiles))
        forecast = np.stack([_weighted_quantiles(m, levels, areas) for m in sample.members_ECHW]).sum(axis=0) / sample.num_members
        rows = {"quantiles": np.stack([forecast, _weighted_quantiles(sample.truth_CHW, levels, areas)])}
        if self._departures is not None and sample.climatology_CHW is not None:
            rows["events"] = np.stack([self._events(q, sample, areas) for q in range(len(self.quantiles))], axis=1)
        return rows

    def _events(self, q: int, sample: Sample, areas: AreaMeans) -> Float:
        """Areas of hits, false alarms and misses; (3, R, C). NaN where there is no threshold."""
        assert self._departures is not None and sample.climatology_CHW is not None
        sign = 1.0 if self.quantiles[q] > 0.5 else -1.0
        threshold_CHW = sign * np.add(sample.climatology_CHW, self._departures[q, sample.channels], dtype=np.float64)
        known = np.where(np.isnan(threshold_CHW), np.nan, 1.0)
        truth = sign * np.asarray(sample.truth_CHW, dtype=np.float64) > threshold_CHW
        totals = np.zeros((3, *truth.shape))
        for member_CHW in sample.members_ECHW:
            ours = sign * np.asarray(member_CHW, dtype=np.float64) > threshold_CHW
            totals += np.stack([ours & truth, ours & ~truth, ~ours & truth])
        parts = totals / sample.num_members * known
        return areas(parts.reshape(-1, *known.shape[1:])).reshape(len(areas.regions), 3, -1).swapaxes(0, 1)

    def scores(self, mean: Mapping[str, Float]) -> dict[str, Float]:
        """See the definitions at the top of the file."""
        result = {}
        forecast, truth = np.take(mean["quantiles"], 0, axis=-4), np.take(mean["quantiles"], 1, axis=-4)
        median = np.take(truth, 0, axis=-3)
        with np.errstate(invalid="ignore", divide="ignore"):
            for q, quantile in enumerate(self.quantiles):
                ours, theirs = np.take(forecast, q + 1, axis=-3), np.take(truth, q + 1, axis=-3)
                result[f"quantile_ratio_{percent(quantile)}"] = (ours - median) / (theirs - median)
            if "events" in mean:
                for q, quantile in enumerate(self.quantiles):
                    hits, false, missed = (np.take(np.take(mean["events"], k, axis=-4), q, axis=-3) for k in range(3))
                    result[f"sedi_{percent(quantile)}"] = sedi(hits, false, missed)
        return result

    def tables(self, mean: Mapping[str, Float]) -> tuple[Table, ...]:
        """None."""
        return ()


def sedi(hits: Float, false: Float, missed: Float) -> Float:
    """Symmetric extremal dependence index of parts of the area; NaN where the event, or its absence, never happened."""
    hit_rate = np.clip(hits / (hits + missed), _RATE_FLOOR, 1 - _RATE_FLOOR)
    false_rate = np.clip(false / (1 - hits - missed), _RATE_FLOOR, 1 - _RATE_FLOOR)
    h, f, no_h, no_f = np.log(hit_rate), np.log(false_rate), np.log(1 - hit_rate), np.log(1 - false_rate)
    return np.asarray((f - h - no_f + no_h) / (f + h + no_f + no_h))


def _weighted_quantiles(field_CHW: NDArray[np.floating], levels: Float, areas: AreaMeans) -> Float:
    """The smallest value up to which at least the level's part of the area lies; (C, H, W) -> (Q, R, C)."""
    flat_CN = np.asarray(field_CHW).reshape(len(field_CHW), -1)
    order_CN = _ascending(flat_CN)
    result = np.empty((len(levels), len(areas.regions), len(flat_CN)))
    for r, region in enumerate(areas.regions):
        weights_N = areas.weights(region).ravel()
        inside_N = weights_N > 0
        cells_CN = order_CN[inside_N[order_CN]].reshape(len(order_CN), -1)
        for c, share_N in enumerate(np.cumsum(weights_N[cells_CN], axis=1)):
            result[:, r, c] = flat_CN[c, cells_CN[c, share_N.searchsorted(levels * share_N[-1] * (1 - 1e-12))]]
    return result


def _ascending(values_CN: NDArray[np.floating]) -> NDArray[np.int64]:
    """Positions of ascending values, equal ones in their order; (C, N).

    Values of single precision are sorted as whole numbers, of which the high half rises with the value and the low half is the position:
    several times as fast as a sort of positions.
    """
    if values_CN.dtype != np.float32:
        return np.argsort(values_CN, axis=1, kind="stable")
    bits_CN = (values_CN + np.float32(0)).view(np.int32)  # the sum makes -0 a 0
    rising_CN = np.where(bits_CN < 0, bits_CN ^ np.int32(0x7FFFFFFF), bits_CN).astype(np.int64)
    return np.sort((rising_CN << 32) | np.arange(values_CN.shape[1]), axis=1) & 0xFFFFFFFF
