"""Whether a training store is sound: every chunk read, gaps, missing values, states unlike their neighbours, statistics recomputed."""

# N time, C channel, H latitude row, W longitude column

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..times import common_step, format_duration, format_instant, missing_instants
from .statistics import Float
from .store import Store

Kind = Literal["chunk", "gap", "missing values", "outlier", "repeated", "statistics"]
Progress = Callable[[int, int, str], None]
_SAMPLE = 64
_SIGMAS = 6.0
_OUTLIER_FACTOR = 4.0
_OUTLIER_MADS = 12.0
_MIN_NEIGHBOURS = 8
_OFTEN = 0.25  # of all states: fields that are renewed more rarely than the record has states, such as daily sea ice
_EXACT = 1e-6


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        kind: of what kind.
        text: what is wrong, in words.
        file: file inside the store; empty where it is no matter of one file.
        channels: channels concerned.
        dates: instants concerned, ISO; the first and last of many.
        chunk: chunk coordinates, `12.0.0.0`; empty where it is no matter of one chunk.
    """

    kind: Kind
    text: str
    file: str = ""
    channels: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    chunk: str = ""

    def __str__(self) -> str:
        place = ", ".join(p for p in (self.file, f"chunk {self.chunk}" if self.chunk else "", _few(self.channels), _few(self.dates)) if p)
        return f"{self.kind}: {self.text}" + (f" ({place})" if place else "")


@dataclass(frozen=True)
class Verification:
    """What was found in a store.

    Args:
        store: its path.
        num_states, num_chunks: how many there are, all of them read.
        findings: everything that is wrong, in the order of the checks.
        notes: what is as the store says it is, but worth knowing.
    """

    store: str
    num_states: int
    num_chunks: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "sound": self.sound}

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.store}: {self.num_states} states in {self.num_chunks} chunks read"
        yield from (f"  note  {note}" for note in self.notes)
        yield from (f"  BAD   {finding}" for finding in self.findings)
        yield "sound" if self.sound else f"{len(self.findings)} findings: restore the store from a copy, or delete it and build it again"


def verify(store: Store, progress: Progress | None = None, *, sample: int = _SAMPLE, seed: int = 0) -> Verification:
    """Read a whole store and say all that is wrong with it. Memory: four states.

    Outliers: for each channel, the area-weighted RMS distance of each state from the mean of its two neighbours in time is compared with the
    median of the record. Repeated: a field equal to the one before, unless it is constant in space, as precipitation is in a dry area, or more
    than a quarter of the channel's fields repeat: these are notes. Statistics: the area means and mean squares of a random sample of states of
    their period must agree with the stored mean and standard deviation within six standard errors, exactly where the sample is the whole period;
    every value of the period must lie between the stored extremes.

    Args:
        store: an open store.
        progress: called with states done, states in all, and what is being done.
        sample: states of which statistics are recomputed.
        seed: of the choice of these.
    """
    watch = _Watch(store, sample, seed)
    findings: list[Finding] = []
    for time in range(len(store.times)):
        state, bad = _read(store, time)
        findings += bad
        findings += watch.see(time, state, {store.channels.names.index(n) for f in bad for n in f.channels})
        if progress is not None:
            progress(time + 1, len(store.times), "states")
    findings = _merged(findings) + _other_chunks(store)
    notes, gaps = _gaps(store)
    more, repeated = watch.repeated()
    findings += [*gaps, *repeated, *watch.outliers(), *watch.statistics()]
    return Verification(str(store.path), len(store.times), math.prod(store.states.num_chunks), tuple(findings), notes + more)


def _read(store: Store, time: int) -> tuple[NDArray[np.float32], list[Finding]]:
    """One state, NaN where a chunk is bad, and what is bad."""
    state = np.full((len(store.channels), *store.grid.shape), np.nan, np.float32)
    findings = []
    for channels in store.channel_groups():
        part = np.empty((len(channels), *store.grid.shape), np.float32)
        try:
            store.read_into([time], [part], channel_index=channels)
            state[channels] = part
        except DataError as error:
            file = error.where.rpartition(", ")[2]
            text = error.what.partition(":")[0]
            findings.append(Finding("chunk", text, file, tuple(store.channels.names[c] for c in channels), (store.times.format(time),),
                                    error.what.rpartition("chunk ")[2]))
    return state, findings


def _merged(findings: list[Finding]) -> list[Finding]:
    """One finding for each chunk, though several states lie in it."""
    chunks: dict[tuple[str, str], Finding] = {}
    others = []
    for finding in findings:
        key = finding.file, finding.chunk
        if finding.kind != "chunk":
            others.append(finding)
        elif key in chunks:
            chunks[key] = Finding("chunk", finding.text, *key[:1], finding.channels, (chunks[key].dates[0], finding.dates[-1]), key[1])
        else:
            chunks[key] = finding
    return [*chunks.values(), *others]


def _other_chunks(store: Store) -> list[Finding]:
    return [Finding("chunk", f"a chunk of '{bad.file.relative_to(store.path).parts[0]}' {bad.reason}", str(bad.file.relative_to(store.path)),
                    chunk=".".join(map(str, bad.index))) for bad in store.other_bad_chunks()]


def _gaps(store: Store) -> tuple[tuple[str, ...], list[Finding]]:
    """(notes on gaps that the store knows of, findings of others)."""
    if len(store.times) < 2:
        return (), []
    calendar, step, runs = store.times.calendar, common_step(store.times.seconds), store.trajectories()
    odd = np.diff(store.times.seconds) % step != 0
    irregular = np.flatnonzero(odd if runs is None else odd & (np.diff(runs) == 0))
    missing = missing_instants(store.times.seconds, step, runs)
    stated = store.attrs.get("missing_times", {})
    known = stated.get("count") if isinstance(stated, dict) else None
    findings = [Finding("gap", f"{len(irregular)} times do not follow the one before by a multiple of {format_duration(step)}",
                        dates=tuple(store.times.format(int(i) + 1) for i in irregular))] if len(irregular) else []
    dates = tuple(format_instant(int(s), calendar) for s in missing)
    if len(missing) and known == len(missing):
        return (f"{len(missing)} times are missing, as the store says: {_few(dates)}",), findings
    if known is not None and known != len(missing):
        findings.append(Finding("gap", f"{len(missing)} times are missing at a step of {format_duration(step)}; the store says {known}", dates=dates))
    notes = (f"{len(missing)} times are missing: {_few(dates)}",) if len(missing) and known is None else ()
    return notes, findings


class _Watch:
    """What is gathered while states go by in order of time."""

    def __init__(self, store: Store, sample: int, seed: int) -> None:
        self._store = store
        self._names = store.channels.names
        self._constant = set(map(str, store.attrs.get("constant_channels", ())))
        self._area = store.grid.area_weights() / store.grid.area_weights().sum()
        self._recent: list[NDArray[np.float32]] = []
        self._same, self._flat = np.zeros((2, len(store.times), len(self._names)), bool)
        self._distance: Float = np.full((len(store.times), len(self._names)), np.nan)
        start, end = store.statistics.period
        self._inside = (store.times.seconds >= start) & (store.times.seconds <= end)
        within = np.flatnonzero(self._inside)
        self._chosen = set(np.random.default_rng(seed).permutation(within)[:sample].tolist())
        self._whole = len(within) <= sample
        self._means: list[Float] = []
        self._squares: list[Float] = []
        self._low: Float = np.full(len(self._names), np.inf)
        self._high: Float = np.full(len(self._names), -np.inf)

    def see(self, time: int, state: NDArray[np.float32], unread: set[int]) -> list[Finding]:
        """Take in a state; what is wrong with it on its own. `unread` channels are left out."""
        findings, date = [], (self._store.times.format(time),)
        for c, name in enumerate(self._names):
            missing = 0 if c in unread else int((~np.isfinite(state[c])).sum())
            if missing:
                findings.append(Finding("missing values", f"{missing} of {state[c].size} cells are missing or infinite", "", (name,), date))
        if self._recent:
            self._same[time] = [n not in self._constant and np.array_equal(a, b)
                                for n, a, b in zip(self._names, self._recent[-1], state, strict=True)]
            self._flat[time] = self._same[time] & (state.min((1, 2)) == state.max((1, 2)))
        self._recent = [*self._recent[-2:], state]
        steps = np.diff(self._store.times.seconds[max(0, time - 2):time + 1])
        if len(steps) == 2 and steps[0] == steps[1]:
            before, at, after = self._recent
            self._distance[time - 1] = np.sqrt(self._area_mean(np.square(at - 0.5 * (before + after), dtype=np.float64)))
        if self._inside[time]:
            self._low, self._high = np.fmin(self._low, state.min((1, 2))), np.fmax(self._high, state.max((1, 2)))
        if time in self._chosen and np.isfinite(state).all():
            wide = state.astype(np.float64)
            self._means.append(self._area_mean(wide))
            self._squares.append(self._area_mean(np.square(wide - self._store.statistics.mean[:, None, None])))
        return findings

    def _area_mean(self, values: NDArray[np.float64]) -> Float:
        return np.asarray(np.einsum("chw,hw->c", values, self._area))

    def repeated(self) -> tuple[tuple[str, ...], list[Finding]]:
        """(notes on channels that repeat for a reason, findings of fields that repeat the one before)."""
        varied = self._same & ~self._flat
        wrong = varied & (varied.mean(0) <= _OFTEN)
        known = (self._same & ~wrong).sum(0)
        notes = tuple(f"{self._names[c]} is the same as at the time before at {known[c]} of {len(self._same)} times" for c in np.flatnonzero(known))
        return notes, [Finding("repeated", "the same values as at the time before", "", tuple(self._names[c] for c in np.flatnonzero(wrong[time])),
                               (self._store.times.format(int(time)),)) for time in np.flatnonzero(wrong.any(1))]

    def outliers(self) -> list[Finding]:
        """Channels at instants where they are far from both neighbours in time, measured by what is usual in the record."""
        findings = []
        for c, name in enumerate(self._names):
            distance = self._distance[:, c]
            known = distance[np.isfinite(distance)]
            if len(known) < _MIN_NEIGHBOURS:
                continue
            usual = float(np.median(known))
            if usual == 0:  # most fields repeat: there is no usual distance
                continue
            limit = max(_OUTLIER_FACTOR * usual, usual + _OUTLIER_MADS * float(np.median(np.abs(known - usual))))
            padded = np.pad(np.nan_to_num(distance, nan=-1.0), 1, constant_values=-1.0)
            peaks = (padded[1:-1] > limit) & (padded[1:-1] >= padded[:-2]) & (padded[1:-1] >= padded[2:])
            findings += [Finding("outlier", f"{distance[i] / usual:.1f} times as far from both neighbours in time as is usual",
                                 "", (name,), (self._store.times.format(int(i)),)) for i in np.flatnonzero(peaks)]
        return findings

    def statistics(self) -> list[Finding]:
        """Where what was read contradicts the stored statistics."""
        stored, findings = self._store.statistics, []
        for c, name in enumerate(self._names):
            span = max(abs(stored.maximum[c]), abs(stored.minimum[c])) * 1e-6
            if self._low[c] < stored.minimum[c] - span or self._high[c] > stored.maximum[c] + span:
                findings.append(Finding("statistics", f"values from {self._low[c]:g} to {self._high[c]:g}; the store says {stored.minimum[c]:g} to "
                                        f"{stored.maximum[c]:g}", "", (name,)))
        if self._means:
            checks = (("mean", np.stack(self._means), stored.mean, stored.std), ("variance", np.stack(self._squares), stored.std**2, stored.std**2))
            for word, found, wanted, scale in checks:
                error = _SIGMAS * found.std(0, ddof=min(1, len(found) - 1)) / np.sqrt(len(found))
                if self._whole and len(found) == len(self._chosen):
                    error = np.zeros_like(wanted)
                far = np.abs(found.mean(0) - wanted) > error + _EXACT * (scale + np.abs(wanted))
                findings += [Finding("statistics", f"{word} {found.mean(0)[c]:g} in {len(found)} states; the store says {wanted[c]:g}", "",
                                     (self._names[c],)) for c in np.flatnonzero(far)]
        return findings


def _few(items: tuple[str, ...]) -> str:
    """Some of many, in words."""
    return ", ".join(items) if len(items) <= 3 else f"{items[0]} .. {items[-1]} ({len(items)})"
