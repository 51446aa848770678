"""What a training tells: `events.jsonl` (one line an event), `metrics.csv` (one line an update), `validation.csv` (one line a channel and lead
time of a validation), and progress on the terminal."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from ..errors import ResourceError
from .trackers import LogConfig, open_trackers

COLUMNS = ("train_step", "rollout", "loss", "gradient_norm", "learning_rate")
SCORE_COLUMNS = ("train_step", "channel", "lead_hours", "rmse_over_persistence", "rmse_over_climatology")
_PLAIN_SECONDS = 15.0
_TRACKED_SECONDS = 1.0  # between the updates that trackers get: a server must not hold up the training
_CHANNELS_SHOWN = 12


@dataclass(frozen=True)
class ScoreRow:
    """A channel's score at a lead time of a validation.

    Args:
        channel: short name.
        lead_hours: lead time.
        over: RMSE divided by that of a rival, by the rival's name.
    """

    channel: str
    lead_hours: float
    over: Mapping[str, float]


class RunLog:
    """The log files of a run folder and its progress display.

    Args:
        folder: run folder.
        train_step: updates already done; lines of later ones (from before an interruption) are dropped.
        echo: prints a line.
        writes: False on the processes of a training that leave the telling to the first.
        to: TensorBoard, MLflow; they get an update a second at most, and all validations.
    """

    def __init__(self, folder: Path, *, train_step: int, echo: Callable[[str], None], writes: bool = True, to: LogConfig | None = None) -> None:
        self.echo = echo
        nowhere = Path(os.devnull)
        self._metrics = (_continued(folder / "metrics.csv", COLUMNS, train_step) if writes else nowhere).open("a", newline="")
        self._scores = (_continued(folder / "validation.csv", SCORE_COLUMNS, train_step) if writes else nowhere).open("a", newline="")
        self._events = (folder / "events.jsonl" if writes else nowhere).open("a")
        self._writer = csv.writer(self._metrics, lineterminator="\n")
        bar_format = "{l_bar}{bar}| {elapsed}<{remaining} {postfix}"
        self._bar = tqdm(total=100, unit="%", bar_format=bar_format) if writes and sys.stderr.isatty() else None
        self._last_plain = time.monotonic()
        self._trackers = open_trackers(to, folder, train_step=train_step, echo=self.say) if writes and to else ()
        self._last_tracked = -math.inf

    def update(self, train_step: int, rollout: int, loss: float, gradient_norm: float, learning_rate: float) -> None:
        """One line of `metrics.csv`, digits enough to compare runs bit by bit."""
        self._writer.writerow((train_step, rollout, repr(loss), repr(gradient_norm), repr(learning_rate)))
        if self._trackers and time.monotonic() - self._last_tracked >= _TRACKED_SECONDS:
            self._last_tracked = time.monotonic()
            self._track(train_step, {"training/loss": loss, "training/gradient_norm": gradient_norm, "training/learning_rate": learning_rate})

    def _track(self, train_step: int, values: Mapping[str, float]) -> None:
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for tracker in self._trackers:
            tracker.scalars(train_step, finite)

    def event(self, kind: str, **values: object) -> None:
        """One line of `events.jsonl`; a number that is not finite is null, which JSON has no other word for."""
        line = {"event": kind, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **values}
        self._events.write(json.dumps(_finite(line), allow_nan=False) + "\n")
        self._events.flush()

    def validation(self, train_step: int, score: float, over_climatology: float, rows: Sequence[ScoreRow], *, best: bool) -> None:
        """A validation: an event, a line of `validation.csv` for each row, and two lines for a person."""
        by_channel: dict[str, dict[str, list[float]]] = {}
        for row in rows:
            of_channel = by_channel.setdefault(row.channel, {rival: [] for rival in row.over})
            for rival, value in row.over.items():
                of_channel[rival].append(round(value, 4))
        self.event("validation", train_step=train_step, rmse_over_persistence=score, rmse_over_climatology=over_climatology, best=best,
                   lead_hours=list(dict.fromkeys(row.lead_hours for row in rows)), channels=by_channel)
        csv.writer(self._scores, lineterminator="\n").writerows(
            (train_step, row.channel, f"{row.lead_hours:g}", *(repr(row.over[r]) if r in row.over else "" for r in ("persistence", "climatology")))
            for row in rows)
        self._scores.flush()
        self._track(train_step, {"validation/over_persistence": score, "validation/over_climatology": over_climatology,
                                 **{f"validation_{row.lead_hours:g}h/{row.channel}/over_{rival}": value
                                    for row in rows for rival, value in row.over.items()}})
        compared = "" if math.isnan(over_climatology) else f", / climatology {over_climatology:.4f}"
        self.say(f"validation at train step {train_step}: RMSE / persistence {score:.4f}{compared}{'  (best)' if best else ''}")
        if rows:
            self.say(_by_channel(rows))

    def progress(self, spent: float, text: str, seconds_left: float) -> None:
        """Show how far the training is: a bar on a terminal, now and then a plain line elsewhere."""
        if self._bar is not None:
            self._bar.n = round(100 * min(spent, 1.0), 1)
            self._bar.set_postfix_str(text)
        elif time.monotonic() - self._last_plain >= _PLAIN_SECONDS:
            self._last_plain = time.monotonic()
            self.echo(f"{100 * min(spent, 1.0):5.1f} %  {text}  {_clock(seconds_left)} left")

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.clear()
        self.echo(text)

    def flush(self) -> None:
        """Push the metrics to the file. Raises ResourceError."""
        try:
            self._metrics.flush()
        except OSError as error:
            raise ResourceError(f"the log cannot be written: {error.strerror}", where=self._metrics.name,
                                fix="free some space; the last checkpoint is intact, go on from it with --resume") from error

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in (self._metrics, self._scores, self._events):
            with contextlib.suppress(OSError) if error else contextlib.nullcontext():  # what cannot be written has been told
                file.close()
        for tracker in self._trackers:
            tracker.close(kind is None)
        if self._bar is not None:
            self._bar.close()


def ended(folder: Path) -> bool:
    """Whether the last event of a run folder is that its training was done."""
    path = folder / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return bool(lines) and lines[-1].startswith('{"event": "done"')


def _continued(path: Path, columns: Sequence[str], train_step: int) -> Path:
    """A file of comma-separated lines that begin with a train step, its heading written, without the lines of later steps."""
    lines = path.read_text().splitlines(keepends=True)[1:] if path.exists() else []
    temporary = path.with_suffix(".csv.partial")
    temporary.write_text("".join([",".join(columns) + "\n", *(x for x in lines if x.endswith("\n") and int(x.split(",")[0]) <= train_step)]))
    return temporary.replace(path)


def _by_channel(rows: Sequence[ScoreRow]) -> str:
    """The first channels' scores at the longest lead time."""
    longest = max(row.lead_hours for row in rows)
    last = [row for row in rows if row.lead_hours == longest]
    shown = [" / ".join([f"{row.channel} {row.over['persistence']:.3f}", *(f"{v:.3f}" for r, v in row.over.items() if r != "persistence")])
             for row in last[:_CHANNELS_SHOWN]]
    more = f", {len(last) - _CHANNELS_SHOWN} more in validation.csv" if len(last) > _CHANNELS_SHOWN else ""
    return f"  at {longest:g} h: {', '.join(shown)}{more}"


def _finite(value: object) -> object:
    """The value with None for every float in it that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
