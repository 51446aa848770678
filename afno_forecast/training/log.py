"""What a training tells: `events.jsonl` (one line an event), `metrics.csv` (one line an update), and progress on the terminal."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

COLUMNS = ("train_step", "rollout", "loss", "gradient_norm", "learning_rate")
_PLAIN_SECONDS = 15.0


class RunLog:
    """The log files of a run folder and its progress display.

    Args:
        folder: run folder.
        train_step: updates already done; lines of later ones (from before an interruption) are dropped.
        echo: prints a line.
        writes: False on the processes of a training that leave the telling to the first.
    """

    def __init__(self, folder: Path, *, train_step: int, echo: Callable[[str], None], writes: bool = True) -> None:
        self.echo = echo
        self._metrics_path = folder / "metrics.csv" if writes else Path(os.devnull)
        if writes:
            kept = self._kept_lines(train_step)
            temporary = self._metrics_path.with_suffix(".csv.partial")
            temporary.write_text("".join(kept))
            temporary.replace(self._metrics_path)
        self._metrics = self._metrics_path.open("a", newline="")
        self._events = (folder / "events.jsonl" if writes else Path(os.devnull)).open("a")
        self._writer = csv.writer(self._metrics, lineterminator="\n")
        bar_format = "{l_bar}{bar}| {elapsed}<{remaining} {postfix}"
        self._bar = tqdm(total=100, unit="%", bar_format=bar_format) if writes and sys.stderr.isatty() else None
        self._last_plain = time.monotonic()

    def _kept_lines(self, train_step: int) -> list[str]:
        header = ",".join(COLUMNS) + "\n"
        if not self._metrics_path.exists():
            return [header]
        lines = self._metrics_path.read_text().splitlines(keepends=True)[1:]
        return [header, *(line for line in lines if line.endswith("\n") and int(line.split(",")[0]) <= train_step)]

    def update(self, train_step: int, rollout: int, loss: float, gradient_norm: float, learning_rate: float) -> None:
        """One line of `metrics.csv`, digits enough to compare runs bit by bit."""
        self._writer.writerow((train_step, rollout, repr(loss), repr(gradient_norm), repr(learning_rate)))

    def event(self, kind: str, **values: object) -> None:
        """One line of `events.jsonl`; a number that is not finite is null, which JSON has no other word for."""
        line = {"event": kind, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **values}
        self._events.write(json.dumps(_finite(line), allow_nan=False) + "\n")
        self._events.flush()

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
        """Push the metrics to the file."""
        self._metrics.flush()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._metrics.close()
        self._events.close()
        if self._bar is not None:
            self._bar.close()


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
