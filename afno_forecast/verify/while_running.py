"""Scores of forecasts while they are made: no field is kept, and the result is that of `evaluate` on the file, to the last digit.

What is scored of a finished init time is kept in `SCORES.scores.partial/`, one file each, so that an interrupted run goes on and several processes
work on one score file; the last one to finish writes it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.states import Paths
from ..errors import DataError
from ..forecast.hooks import ForecastState
from ..forecast.progress import Share, gate, progress_path, remove_progress
from ..forecast.session import Session
from ..times import TimeAxis
from .online import OnlineScorer
from .score_file import write_scores
from .settings import ScoreSettings
from .truth import open_truth, require_truth_fits


class ScoreStates:
    """The hook that scores.

    Args:
        scorer: of the whole plan, empty.
        inits: init times, seconds; shape (I,).
        lead_seconds: lead times to score; shape (L,).
        out: score file, .nc.
        identity: of what makes the forecast; parts of another one, or of other leads, truth or settings, are not taken up.
        attrs: of the forecast.
        share: this process.
        echo: prints a line.
    """

    def __init__(self, scorer: OnlineScorer, inits: NDArray[np.int64], lead_seconds: NDArray[np.int64], out: Path, identity: str,
                 attrs: Mapping[str, str], share: Share, echo: Callable[[str], None]) -> None:
        self._scorer = scorer
        self._scored: set[int] = set()  # init times scored here and not read from a part
        self._inits = inits
        self._leads = frozenset(lead_seconds.tolist())
        self._out = out
        self._attrs = attrs
        self._share = share
        self._parts = out.with_name(f"{out.name}.scores.partial")  # not the name of an unfinished forecast's folder
        self._gate = progress_path(self._parts)
        self._prefix = sha256(f"{identity} {scorer.identity}".encode()).hexdigest()[:16]
        self._left: dict[int, int] = {}
        with gate(self._gate, share):
            # a process of a group may start after the others have finished everything, parts of an earlier run included
            self._finished = share.count > 1 and not self._parts.is_dir() and out.is_file() and out.stat().st_mtime >= share.since
            if not self._finished:
                self._parts.mkdir(exist_ok=True)
        others = [part for part in self._parts.glob("*.npz") if not part.name.startswith(f"{self._prefix}.")]
        if others:
            echo(f"note: {len(others)} init times in {self._parts} were scored for another forecast, other leads or another truth: not taken up")

    def is_done(self, init_index: int) -> bool:
        """Whether all forecasts from an init time are scored."""
        return self._finished or self._part(init_index).is_file()

    def on_state(self, state: ForecastState) -> None:
        """Score the states; when the last one of an init time has come, what it gave is kept."""
        if state.lead_seconds not in self._leads:
            return
        new = [row for row, i in enumerate(state.init_indices.tolist()) if i in self._left or not self.is_done(i)]
        if not new:
            return
        self._scorer.update(state.init_seconds[new], state.lead_seconds, state.fields_BCHW[new], numbers=state.members[new] + 1)
        for i in state.init_indices[new].tolist():
            self._left[i] = self._left.get(i, len(self._leads) * self._scorer.num_members) - 1
            if self._left[i] == 0:
                del self._left[i]
                self._scorer.save(self._part(i), inits=[int(self._inits[i])])
                self._scored.add(i)

    def finish(self) -> None:
        """Write the score file, unless other processes still score or have written it; then the parts go. Raises DataError for a damaged part."""
        with gate(self._gate, self._share):
            if self._parts.is_dir():
                if not all(self.is_done(i) for i in range(len(self._inits))):
                    return
                for i in range(len(self._inits)):
                    if i not in self._scored:
                        self._load(i)
                write_scores(self._scorer.finalize(self._attrs), self._out)
                shutil.rmtree(self._parts)
            remove_progress(self._gate)

    def _load(self, init_index: int) -> None:
        """Take up what was kept of an init time. Raises DataError where it lacks one of its cases."""
        init = int(self._inits[init_index])
        wanted = sum(self._scorer.wants(init, lead) for lead in self._leads)
        found = self._scorer.load(self._part(init_index))
        if found != wanted:
            raise DataError(f"the statistics of scores are of {found} of {wanted} lead times", where=str(self._part(init_index)),
                            fix="remove the file, and score again")

    def _part(self, init_index: int) -> Path:
        return self._parts / f"{self._prefix}.{int(self._inits[init_index])}.npz"


def score_session(session: Session, lead_seconds: NDArray[np.int64], truth: Paths, out: Path, *, settings: ScoreSettings | None = None,
                  share: Share | None = None, echo: Callable[[str], None] = lambda text: None) -> ScoreStates:
    """The hook that scores a session's forecasts against a truth, with its climatology when it is a training store.

    Raises DataError where truth and forecast do not fit: grid, calendar, channels, units, or no case that can be scored.
    """
    states, references = open_truth([truth] if isinstance(truth, str | Path) else list(truth), session.channels)
    require_truth_fits(states, session.forecaster.grid, TimeAxis(session.inits, session.forecaster.calendar))
    scorer = OnlineScorer(states, session.channels, session.inits, lead_seconds, num_members=session.num_members, references=references,
                          settings=settings)
    if not any(scorer.wants(init, lead) for init in scorer.init_seconds.tolist() for lead in scorer.lead_seconds.tolist()):
        raise DataError("no forecast can be scored: the truth has init and valid time of none", where=states.where,
                        fix="give a --truth that covers the forecasts, or leave --score-online out")
    return ScoreStates(scorer, session.inits, lead_seconds, out, session.identity, session.attrs, share or Share(), echo)
