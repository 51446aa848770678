"""From model folders and analyses to a forecast file: the loop over batches, and who looks on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, Stopped
from ..signals import StopFlag
from ..times import format_duration, format_instant
from .background import BackgroundWriter
from .hooks import Hook, WriteStates
from .initial import Data
from .metadata import WHOLE, make_layout
from .output import ForecastWriter, Format
from .perturb import Perturbation
from .progress import SINGLE, Share
from .selection import Selection, select_leads
from .session import Batch, Session, open_session

Echo = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What can be asked of a forecast besides where from, how far and where to.

    Args:
        members, perturbation, other_grid: see `open_session`.
        leads: lead times to keep, seconds; none for all.
        output_every: keep one state every so many seconds; None for every step.
        selection: variables, levels and region to keep.
        share: which of a group of processes this is; each forecasts a part into the same file.
        hooks: look at every state before it is written, in this order.
        scoring: makes the hook that scores, of the session and the lead times kept (seconds).
        raw: see `open_session`.
    """

    members: int | None = None
    perturbation: Perturbation | None = None
    other_grid: bool = False
    leads: tuple[int, ...] = ()
    output_every: int | None = None
    selection: Selection = WHOLE
    share: Share = SINGLE
    hooks: tuple[Hook, ...] = ()
    scoring: Callable[[Session, NDArray[np.int64]], Scoring] | None = None
    raw: bool = False


class Scoring(Hook, Protocol):
    """A hook that needs every member of an init time, and keeps what it has of the finished ones; it finishes after the forecast file."""

    def is_done(self, init_index: int) -> bool:
        """Whether all forecasts from an init time are scored."""


PLAIN = Options()


def produce_forecast(model: Path | Sequence[Path], data: Data, *, init: str, lead_time: int | None, out: Path | None, format: Format | None = None,
                     batch_size: int = 8, options: Options = PLAIN, echo: Echo = print) -> Path | None:
    """Roll models out from analyses and write the forecast while they run; an interrupted one is continued.

    Args:
        model, data, init, batch_size: see `open_session`.
        lead_time: seconds, a multiple of the model's time step; None for the longest of `options.leads`.
        out: forecast file, `.zarr` or `.nc`; None writes none, for hooks alone.
        format: overrides what the suffix of `out` says.
        options: members, what is kept, who looks on.
        echo: prints a line.

    Returns:
        `out`. In a group of processes it is complete when the last one has finished.

    Raises:
        DivergenceError: a state is not finite; what was written before can be read.
        Stopped: a signal came; every finished forecast is kept.
        CheckpointError, DataError, ConfigError, ResourceError: see errors.py.
    """
    farthest = max(options.leads, default=None) if lead_time is None else lead_time
    if farthest is None:
        raise ConfigError("no lead time is given", where="--lead-time", fix="add --lead-time 10d, or --leads 24h,72h,120h")
    session = open_session(model, data, init=init, lead_time=farthest, members=options.members, perturbation=options.perturbation,
                           batch_size=batch_size, other_grid=options.other_grid, raw=options.raw, echo=echo)
    if session.calibration is not None and options.hooks:
        raise ConfigError("hooks see calibrated states, which the model does not go on from", fix="forecast with raw=True")
    steps = select_leads(farthest, session.forecaster.time_step, leads=options.leads, every=options.output_every)
    hooks = list(options.hooks)
    scoring = None if options.scoring is None else options.scoring(session, np.asarray(steps, dtype=np.int64) * session.forecaster.time_step)
    with ExitStack() as stack:
        written: frozenset[int] | None = None
        if out is not None:
            writer = stack.enter_context(_open_writer(session, Path(out), format, steps, options))
            written = frozenset(i for i in range(writer.num_forecasts) if writer.is_done(i))
            if written:
                echo(f"{len(written)} of {writer.num_forecasts} forecasts are already in {out}")
            hooks.append(WriteStates(stack.enter_context(BackgroundWriter(writer, 2 * batch_size)), steps, session.num_members, written))
        stop = stack.enter_context(StopFlag())
        _run(session, _work_left(session, written, scoring, options.share), None if options.hooks else steps,
             [*hooks, *([] if scoring is None else [scoring])], stop, echo)
        for hook in hooks:
            hook.finish()
    if scoring is not None:
        scoring.finish()
    return out


def _run(session: Session, work: Sequence[Sequence[Batch]], leads: Sequence[int] | None, hooks: Sequence[Hook], stop: StopFlag, echo: Echo) -> None:
    """Step batches, those of one list together lead by lead, and show every state (at these leads, or at all) to every hook."""
    for number, together in enumerate(work, start=1):
        for states in zip(*(session.roll(batch, leads) for batch in together), strict=True):
            for state in states:
                for hook in hooks:
                    hook.on_state(state)
            if stop.name:
                raise Stopped(f"stopped by {stop.name} after {number - 1} of {len(work)} batches; what is finished is kept",
                              fix="run the same command again; it continues")
        last = session.inits[together[-1].forecasts[-1][0]]
        echo(f"{number} of {len(work)} batches of {format_duration(session.num_steps * session.forecaster.time_step)}, last from "
             f"{format_instant(int(last), session.states.times.calendar)}")


def _open_writer(session: Session, out: Path, format: Format | None, steps: tuple[int, ...], options: Options) -> ForecastWriter:
    forecaster, states = session.forecaster, session.states
    leads = np.asarray(steps, dtype=np.int64) * forecaster.time_step
    layout = make_layout(session.channels, states.orientation, session.inits, leads, states.times.calendar, session.attrs, members=session.members,
                         selection=options.selection)
    return ForecastWriter(out, layout, identity=session.identity, share=options.share, format=format)


def _work_left(session: Session, written: frozenset[int] | None, scoring: Scoring | None, share: Share) -> list[list[Batch]]:
    """This process's batches of which something is not finished; always whole, so that their bytes do not depend on what is.

    With scoring, all batches of an init time are stepped together, so that its ensemble is whole at each lead; without, one after another.
    """
    count = session.num_members

    def is_wanted(batch: Batch) -> bool:
        to_write = written is not None and any(i * count + m not in written for i, m in batch.forecasts)
        return to_write or (scoring is not None and not all(scoring.is_done(i) for i, _ in batch.forecasts)) or (written is None and scoring is None)

    clusters = session.clusters()
    work = clusters if scoring is not None else [[batch] for cluster in clusters for batch in cluster]
    return [together for together in work[share.rank::share.count] if any(is_wanted(batch) for batch in together)]
