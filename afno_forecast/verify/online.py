"""Scores of states as they come, from a file or from a model that runs: the same digits either way, nothing of the fields kept.

`evaluate` feeds the states of a forecast file to the same `OnlineScorer` that a rollout feeds, so both give the same score file.
"""

# B batch, E member, C channel, H latitude row, W longitude column

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ..channels import ChannelSet
from ..data.store import match_channels
from ..errors import DataError
from ..times import format_duration, format_instant
from .assemble import joined, per_lead, renamed, versus, with_rain
from .baselines import Analyses, Expected, OtherYears, Persistence, Rival, Truth, require_climatology_fits
from .derived import derive, with_derived
from .deterministic import Deterministic
from .ensemble import Ensemble
from .extremes import Extremes, departure_quantiles
from .precipitation import DAILY, DAY_PARTS, DailySums, Seeps, daily_sum, rain_climate, six_hourly
from .rows import load_rows, save_rows
from .sample import Family
from .score_names import name_scores
from .scores import Array, Scorer, to_numpy
from .settings import References, ScoreSettings
from .significance import FEWEST_BLOCKS, common_inits, compare, num_blocks
from .spectra import Spectra, make_bands

KEPT_ATTRIBUTES = ("title", "model", "source", "institution", "license")
"""Attributes of a forecast file that its score file repeats."""
_log = logging.getLogger(__name__)


class OnlineScorer:
    """Scores forecasts while they are made.

    Feed it each state once, in any order and batches; when the last member of a forecast at a lead time has come, its statistics are
    taken and the fields forgotten. Kept are a few kilobytes a forecast and lead time and, of an ensemble, the states whose other members
    are still to come: step all members of an init together, in one batch or in neighbouring ones, and that is one init's ensemble.

    ::

        # References and ScoreSettings: verify.settings; write_scores: verify.score_file
        scorer = OnlineScorer(states, forecaster.channels, inits, leads, num_members=50, references=References(climatology=...))
        for state in rollout(...):
            scorer.update(state_inits, state.lead_seconds, state.fields_BCHW, numbers=members_of_batch)
        write_scores(scorer.finalize(attrs), Path("scores.nc"))

    Several processes score their own inits and `merge` (or `save` and `load`) at the end: the result is the same to the last digit. `save`
    after each finished init, `load` at the next start, and an interrupted run goes on.

    Args:
        truth: analyses at init and valid times; what it lacks is not scored, and counted.
        channels: of the fields given to `update`, in their order, physical units of the truth; wind speeds are derived and scored too.
        init_seconds: all init times of the whole run, seconds since 1970 in the truth's calendar; shape (I,).
        lead_seconds: all lead times that are to be scored; shape (L,). States at others are ignored.
        num_members: members of each forecast.
        references: climatology, record, land fraction, rivals.
        settings: what is computed.

    Raises:
        DataError: no channel in common with the truth, other units, a climatology that does not fit. ConfigError: an unknown region.
    """

    def __init__(self, truth: Analyses, channels: ChannelSet, init_seconds: NDArray[np.int64], lead_seconds: NDArray[np.int64], *,
                 num_members: int = 1, references: References | None = None, settings: ScoreSettings | None = None) -> None:
        self.settings = settings or ScoreSettings()
        self.references = references or References()
        self.num_members = num_members
        self.given = channels
        offered, available = with_derived(channels), with_derived(truth.channels)
        self.channels = _common(offered, available)
        self.init_seconds = np.unique(np.asarray(init_seconds, dtype=np.int64))
        self.lead_seconds = np.unique(np.asarray(lead_seconds, dtype=np.int64))
        self.truth = Truth(truth, self.channels)
        self.calendar = truth.times.calendar
        self._left_out = [f"{c.short} (not in the truth)" for c in offered if c.name not in available.names]
        self._left_out += [f"{c.short} (not in the forecast)" for c in available if c.name not in offered.names and c.role in
                           ("prognostic", "diagnostic")]
        self._expected = self._make_expected()
        self._rivals = self._make_rivals()
        self._shared = self._make_shared()
        self._scorers = {name: self._make_scorer(name) for name in ("", *(r.name for r in self._rivals))}
        self._rain = self._make_rain()
        self._waiting: dict[tuple[int, int], tuple[NDArray[np.float32], set[int]]] = {}

    def _make_expected(self) -> Expected | None:
        climatology = self.references.climatology
        if climatology is None:
            return None
        require_climatology_fits(climatology, self.channels, self.truth.analyses.grid)
        return Expected(climatology, self.channels, self.calendar)

    def _make_rivals(self) -> tuple[Rival, ...]:
        rivals: list[Rival] = [Persistence(self.truth)]
        if self._expected is not None:
            rivals.append(self._expected)
        members = self.num_members if self.settings.climatology_members is None else self.settings.climatology_members
        record = self.references.record
        if members > 1 and record is not None and "ensemble" in self.settings.kinds:
            covered = with_derived(record.channels)
            if set(self.channels.names) <= set(covered.names):
                rivals.append(OtherYears(record, self.channels, members, self.settings.seed))
        return (*rivals, *self.references.rivals)

    def _make_shared(self) -> list[Family]:
        """Families that every forecast has, whatever its members."""
        families: list[Family] = [Deterministic()]
        grid, references = self.truth.analyses.grid, self.references
        if "spectra" in self.settings.kinds and make_bands(grid):
            families.append(Spectra(grid, self.settings.energy_ratio))
        if "extremes" in self.settings.kinds:
            departures = None
            if references.record is not None and references.climatology is not None:
                departures = departure_quantiles(references.record, references.climatology, self.channels, self.settings.quantiles)
            families.append(Extremes(self.settings.quantiles, departures))
        return families

    def _make_scorer(self, name: str) -> Scorer:
        """For the forecast, under the name "", or a rival."""
        baseline = name in (Persistence.name, Expected.name, OtherYears.name)
        families = [f for f in self._shared if isinstance(f, Deterministic) or (not baseline and not (name and isinstance(f, Spectra)))]
        if self._members_of(name) > 1 and "ensemble" in self.settings.kinds:
            families.append(Ensemble(self.settings.seed))
        return Scorer(self.channels, self.truth.analyses.grid, regions=self.settings.regions, calendar=self.calendar,
                      missing_ok=name == Expected.name, families=families, land_fraction=self.references.land_fraction, rival=name)

    def _members_of(self, name: str) -> int:
        return self.num_members if name == "" else next(r.num_members for r in self._rivals if r.name == name)

    def _make_rain(self) -> dict[str, tuple[DailySums, Scorer]]:
        """Sums and scores of 24 h precipitation, for the forecast and each rival; none without 6 h precipitation or its climate."""
        if "precipitation" not in self.settings.kinds or six_hourly(self.channels) is None or self.references.record is None:
            return {}
        climate = rain_climate(self.references.record)
        if climate is None:
            return {}
        names = ("", *(r.name for r in self._rivals if r.name != Expected.name))
        grid, settings = self.truth.analyses.grid, self.settings
        return {name: (DailySums(self.lead_seconds.tolist(), self.wants),
                       Scorer(ChannelSet((DAILY,)), grid, regions=settings.regions, calendar=self.calendar,
                              families=[Deterministic(), Seeps(climate)], land_fraction=self.references.land_fraction,
                              rival=name)) for name in names}

    def wants(self, init: int, lead: int) -> bool:
        """Whether a case is scored: asked for, with truth at init and valid time, and covered by every rival; seconds."""
        return (self.truth.has(init) and self.truth.has(init + lead) and lead in self.lead_seconds
                and all(r.covers(init, lead) for r in self.references.rivals))

    def update(self, init_seconds: NDArray[np.int64], lead_seconds: int, fields: Array, *,
               numbers: Sequence[int] | NDArray[np.int64] | None = None) -> None:
        """Add states of one lead time.

        Args:
            init_seconds: init time of each; shape (B,). Several members of one init may be in a batch.
            lead_seconds: lead time.
            fields: float32, channels as given to the constructor, latitude ascending; (B, C, H, W), a member each, or whole ensembles
                (B, E, C, H, W), their members in the order of their numbers.
            numbers: which member each is, from 1; shape (B,). Only with (B, C, H, W), and needed there when there are several members.

        Raises:
            DivergenceError: a state is not finite: channel, init and lead are named.
            DataError: a shape does not fit, a member or a case comes twice, the truth or a rival is not finite or cannot be read.
        """
        lead, states = int(lead_seconds), to_numpy(fields)
        for b, init in enumerate(int(s) for s in np.atleast_1d(init_seconds)):
            if not self.wants(init, lead):
                continue
            state = derive(states[b], self.given, self.channels)
            if state.ndim == 4:
                self.score(init, lead, state)
            elif self.num_members == 1:
                self.score(init, lead, state[None])
            else:
                self._gather(init, lead, state, None if numbers is None else int(numbers[b]))

    def _gather(self, init: int, lead: int, state_CHW: NDArray[np.float32], number: int | None) -> None:
        """Keep a member until the others have come."""
        if number is None or not 1 <= number <= self.num_members:
            raise DataError(f"member {number} of an ensemble of {self.num_members}", fix=f"give numbers from 1 to {self.num_members}")
        members, seen = self._waiting.setdefault((init, lead), (np.empty((self.num_members, *state_CHW.shape), state_CHW.dtype), set()))
        if number in seen:
            raise DataError(f"member {number} of {format_instant(init, self.calendar)} at lead {format_duration(lead)} is scored twice")
        members[number - 1] = state_CHW
        seen.add(number)
        if len(seen) == self.num_members:
            del self._waiting[init, lead]
            self.score(init, lead, members)

    def score(self, init: int, lead: int, members_ECHW: NDArray[np.float32]) -> None:
        """Add one whole case, already in the channels of the scorer (`channels`); (E, C, H, W). See `update`."""
        if len(members_ECHW) != self.num_members:
            raise DataError(f"{len(members_ECHW)} members given, {self.num_members} announced", fix="give whole ensembles")
        truth_CHW = self.truth.at(init + lead)
        self._add_rain("", init, lead, members_ECHW)
        expected_CHW = None if self._expected is None else self._expected.at(init + lead)
        key = np.asarray([init], dtype=np.int64)
        expected = None if expected_CHW is None else expected_CHW[None]
        self._scorers[""].update(key, lead, members_ECHW[None], truth_CHW[None], expected)
        for rival in self._rivals:
            if rival is self._expected:
                assert expected is not None
                self._scorers[rival.name].update(key, lead, expected, truth_CHW[None])
                continue
            members = rival.members(init, lead)
            if members is not None:
                self._scorers[rival.name].update(key, lead, members[None], truth_CHW[None], expected)
                self._add_rain(rival.name, init, lead, members, rival if isinstance(rival, OtherYears) else None)

    def _add_rain(self, name: str, init: int, lead: int, members_ECHW: NDArray[np.float32], past: OtherYears | None = None) -> None:
        """Add the 24 h sums that a state completes; those of past states, drawn anew for each valid time, are of whole past days instead."""
        at = six_hourly(self.channels)
        if name not in self._rain or at is None:
            return
        sums, scorer = self._rain[name]
        for end, amount_EHW in sums.add(init, lead, members_ECHW[:, at]):
            parts = [init + end - k for k in DAY_PARTS]
            if past is not None:
                found = past.parts(init + end, DAY_PARTS, slice(at, at + 1))
                if found is None:
                    continue
                amount_EHW = daily_sum(list(found[:, :, 0]))
            if all(self.truth.has(s) for s in parts):
                truth_HW = daily_sum([self.truth.at(s)[at] for s in parts])
                scorer.update(np.asarray([init], dtype=np.int64), end, amount_EHW[None, :, None], truth_HW[None, None])

    def _all_scorers(self) -> dict[str, Scorer]:
        """Every scorer by a name of its own, for merging and saving."""
        return self._scorers | {f"{name}/precipitation": scorer for name, (_, scorer) in self._rain.items()}

    def merge(self, other: OnlineScorer) -> None:
        """Add what another scorer of the same plan has. Raises DataError when they differ or a case comes twice."""
        theirs = other._all_scorers()
        if self._all_scorers().keys() != theirs.keys():
            raise DataError("two scorers with different rivals cannot be merged")
        for name, scorer in self._all_scorers().items():
            scorer.merge(theirs[name])

    def save(self, path: Path, *, inits: Sequence[int] | None = None) -> None:
        """Write what has been scored to a file (`.npz`) that appears whole; of some init times only, or of all. Raises ResourceError."""
        rows = {name: {k: v for k, v in s.rows.items() if inits is None or k[0] in inits} for name, s in self._all_scorers().items()}
        save_rows(path, rows, self.identity)

    def load(self, path: Path) -> int:
        """Add what `save` wrote for the same plan; returns how many cases. Raises DataError for another plan, or a case that is there already."""
        found = load_rows(path, self.identity)
        for name, scorer in self._all_scorers().items():
            scorer.add_rows(found.get(name, {}))
        return len(found.get("", {}))

    @property
    def identity(self) -> str:
        """Hash of what the statistics depend on besides the forecast; of truth and references, the files and what they say they hold."""
        climatology, record, land_HW = self.references.climatology, self.references.record, self.references.land_fraction
        plan = (self.channels.names, self._scorers[""].region_names, self.lead_seconds.tolist(), self.num_members, self.settings,
                sorted(self._all_scorers()), _extent(self.truth.analyses), None if record is None else _extent(record),
                None if climatology is None else (str(climatology.path), climatology.channels.names),
                None if land_HW is None else np.asarray(land_HW, dtype=np.float64).tobytes())
        return sha256(repr(plan).encode()).hexdigest()

    def finalize(self, attrs: Mapping[str, Any] | None = None) -> xr.Dataset:
        """The score file's contents: see the README of the package, "Score files".

        Args:
            attrs: attributes of the forecast; `title`, `model`, `source`, `institution` and `license` are kept.

        Raises:
            DataError: nothing was scored, or an ensemble is incomplete.
        """
        if self._waiting:
            (init, lead), (_, seen) = next(iter(sorted(self._waiting.items())))
            raise DataError(f"the ensemble from {format_instant(init, self.calendar)} at lead {format_duration(lead)} has {len(seen)} of "
                            f"{self.num_members} members", fix="give all of them before the scores are asked for")
        parts = [self._scorers[""].finalize()]
        for rival in self._rivals:
            if len(self._scorers[rival.name]):
                parts.append(renamed(self._scorers[rival.name].finalize(), rival.name, with_crps="crps" in parts[0]["metric"].values))
        scores = joined([*parts, *self._significance()])
        scores = with_rain(scores, {name: scorer for name, (_, scorer) in self._rain.items()})
        skipped = self._skipped(self._lacks_truth)
        scores["num_inits_skipped"] = per_lead(skipped, self.lead_seconds, scores, "forecasts not scored because the truth lacks their init or "
                                                "valid time")
        notes = [*self._notes(skipped), *(n for n in str(parts[0].attrs["notes"]).splitlines() if n)]
        scores.attrs = {"notes": "\n".join(notes), "num_forecasts": len(self.init_seconds), "num_members": self.num_members,
                        "seed": self.settings.seed, "rivals": " ".join(r.name for r in self._rivals if len(self._scorers[r.name]))}
        if self.settings.block_seconds is not None:
            scores.attrs |= {"block_seconds": self.settings.block_seconds, "replicates": self.settings.replicates}
        scores.attrs |= {key: attrs[key] for key in KEPT_ATTRIBUTES if attrs and key in attrs}
        return scores

    def _significance(self) -> list[xr.Dataset]:
        """Differences from each rival with their intervals, `<metric>_vs_<rival>`."""
        block = self.settings.block_seconds
        if block is None:
            return []
        ours, parts = self._scorers[""], []
        for rival in self._rivals:
            by_lead = [compare(ours, self._scorers[rival.name], lead, block_seconds=block, replicates=self.settings.replicates,
                               seed=self.settings.seed) for lead in ours.leads]
            shape = (len(ours.region_names), len(self.channels))
            names = dict.fromkeys(m for found in by_lead for m in found)
            if names:
                values = {versus(m, rival.name): np.stack([f.get(m, np.full(shape, np.nan)) for f in by_lead], axis=1) for m in names}
                parts.append(name_scores(values, self.channels, ours.region_names, ours.leads))
        return parts

    def _lacks_truth(self, init: int, lead: int) -> bool:
        return not (self.truth.has(init) and self.truth.has(init + lead))

    def _skipped(self, test: Callable[[int, int], bool]) -> NDArray[np.int64]:
        return np.asarray([sum(test(init, lead) for init in self.init_seconds.tolist()) for lead in self.lead_seconds.tolist()], dtype=np.int64)

    def _notes(self, skipped: NDArray[np.int64]) -> list[str]:
        notes = []
        if skipped.any():
            notes.append(f"truth lacks the init or valid time of some forecasts, which are not scored ({self._where(skipped)})")
        for rival in self.references.rivals:
            apart = self._skipped(lambda init, lead, rival=rival: not self._lacks_truth(init, lead) and not rival.covers(init, lead))  # type: ignore[misc]
            if apart.any():
                notes.append(f"cases that {rival.name} lacks are not scored ({self._where(apart)})")
        if self._left_out:
            notes.append(f"not scored: {', '.join(sorted(self._left_out))}")
        notes += self._not_possible() + self._not_tested()
        if self.references.climatology is None:
            notes.append("no climatology was given: no anomaly correlation, no climatology scores")
        for note in notes:
            _log.warning(note)
        return notes

    def _not_possible(self) -> list[str]:
        """Kinds of scores that the data do not allow."""
        kinds, record, notes = self.settings.kinds, self.references.record, []
        if "spectra" in kinds and not make_bands(self.truth.analyses.grid):
            notes.append("no spectra: the rows do not go round the globe")
        if "extremes" in kinds and self.references.climatology is not None and record is None:
            notes.append("no record of the climatology's period on this grid: no SEDI")
        if "precipitation" in kinds and six_hourly(self.channels) is not None and not any(len(s) for _, s in self._rain.values()):
            notes.append("no SEEPS: it takes the six-hourly amounts of a whole day in forecast and truth, and a record with a climate")
        if self.num_members > 1 and "ensemble" in kinds and self.settings.climatology_members != 0:
            past, cases = self._scorers.get(OtherYears.name), len(self._scorers[""])
            if past is None or len(past) < cases:
                notes.append(f"probabilistic climatology for {0 if past is None else len(past)} of {cases} cases: the record lacks other years")
        return notes

    def _not_tested(self) -> list[str]:
        """Init times too few for the test of significance."""
        block, ours = self.settings.block_seconds, self._scorers[""]
        if block is None:
            return []
        cases = [common_inits(ours, self._scorers[rival.name], lead) for rival in self._rivals for lead in ours.leads]
        few = {len(inits): num_blocks(inits, block) for inits in cases if inits and num_blocks(inits, block) < FEWEST_BLOCKS}
        if not few:
            return []
        num, held = max(few), few[max(few)]
        inits = f"{num} init time{'s' * (num != 1)}{' or fewer' * (len(few) > 1)} hold{'s' * (num == 1)}"
        return [f"{inits} {held} block{'s' * (held != 1)} of {format_duration(block)}: too few to test, {FEWEST_BLOCKS} are needed"]

    def _where(self, counts: NDArray[np.int64]) -> str:
        return ", ".join(f"{format_duration(int(s))}: {n}" for s, n in zip(self.lead_seconds, counts, strict=True) if n)


def _extent(record: Analyses) -> tuple[Any, ...]:
    """Where a record lies, and its times, channels and grid."""
    return record.where, record.times.calendar, record.times.seconds.tobytes(), record.channels.channels, record.grid.to_dict()


def _common(offered: ChannelSet, available: ChannelSet) -> ChannelSet:
    common = ChannelSet(tuple(c for c in available if c.name in offered.names))
    if not len(common):
        raise DataError(f"forecast ({', '.join(offered.shorts)}) and truth ({', '.join(available.shorts)}) have no channel in common",
                        fix="give truth with the forecast's variables")
    match_channels(common, offered, "the forecast")
    return common


