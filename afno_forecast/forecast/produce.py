"""From model folders and analyses to a forecast file: the loop over batches, and who looks on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import __version__
from ..errors import ConfigError, Stopped
from ..signals import StopFlag
from ..times import format_duration, format_instant
from .background import BackgroundWriter
from .hooks import ForecastState, Hook, WriteStates
from .initial import Data
from .metadata import WHOLE
from .output import ForecastWriter, Format, Parts
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
    """

    members: int | None = None
    perturbation: Perturbation | None = None
    other_grid: bool = False
    leads: tuple[int, ...] = ()
    output_every: int | None = None
    selection: Selection = WHOLE
    share: Share = SINGLE


PLAIN = Options()


def produce_forecast(model: Path | Sequence[Path], data: Data, *, init: str, lead_time: int | None, out: Path, format: Format | None = None,
                     batch_size: int = 8, options: Options = PLAIN, hooks: Sequence[Hook] = (), echo: Echo = print) -> Path:
    """Roll models out from analyses and write the forecast while they run; an interrupted one is continued.

    Args:
        model, data, init, batch_size: see `open_session`.
        lead_time: seconds, a multiple of the model's time step; None for the longest of `options.leads`.
        out: forecast file, `.zarr` or `.nc`.
        format: overrides what the suffix of `out` says.
        options: members, what is kept, and the rest.
        hooks: look at every state before it is written, in this order.
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
    session = open_session(model, data, init=init, lead_time=farthest, members=options.members,
                           perturbation=options.perturbation, batch_size=batch_size, other_grid=options.other_grid, echo=echo)
    step = session.forecaster.time_step
    steps = select_leads(farthest, step, leads=options.leads, every=options.output_every)
    with _open_writer(session, Path(out), format, steps, options) as writer, StopFlag() as stop:
        finished = [i for i in range(writer.num_forecasts) if writer.is_done(i)]
        if finished:
            echo(f"{len(finished)} of {writer.num_forecasts} forecasts are already in {out}")
        todo = _batches_left(session, finished, options.share)
        with BackgroundWriter(writer, 2 * batch_size) as background:
            watching = (*hooks, WriteStates(background, steps, session.num_members, finished))
            for number, batch in enumerate(todo, start=1):
                _step_batch(session.roll(batch, None if hooks else steps), watching, stop, writer)
                last = session.inits[batch.forecasts[-1][0]]
                echo(f"{number} of {len(todo)} batches of {format_duration(session.num_steps * step)}, last from "
                     f"{format_instant(int(last), session.states.times.calendar)}")
            for hook in watching:
                hook.finish()
    return Path(out)


def _open_writer(session: Session, out: Path, format: Format | None, steps: tuple[int, ...], options: Options) -> ForecastWriter:
    forecaster, states = session.forecaster, session.states
    name = ", ".join(dict.fromkeys(session.names))
    attrs = {"title": f"Forecast of {name}", "source": f"afno_forecast {__version__}, model {name}", "model": name}
    attrs |= {key: str(states.attrs[key]) for key in ("institution", "license") if states.attrs.get(key)}
    attrs |= {} if session.perturbation is None else session.perturbation.describe(forecaster)
    parts = Parts(members=session.members, selection=options.selection, share=options.share)
    return ForecastWriter(out, channels=forecaster.channels, orientation=states.orientation, init_seconds=session.inits,
                          lead_seconds=np.asarray(steps, dtype=np.int64) * forecaster.time_step, calendar=states.times.calendar, attrs=attrs,
                          identity=session.identity, format=format, parts=parts)


def _batches_left(session: Session, finished: Iterable[int], share: Share) -> list[Batch]:
    """This process's batches with a forecast that is not in the file; always whole, so that their bytes do not depend on what is."""
    done, count = frozenset(finished), session.num_members
    batches = [batch for cluster in session.clusters() for batch in cluster]
    return [b for b in batches[share.rank::share.count] if any(i * count + m not in done for i, m in b.forecasts)]


def _step_batch(states: Iterator[ForecastState], hooks: Sequence[Hook], stop: StopFlag, writer: ForecastWriter) -> None:
    for state in states:
        for hook in hooks:
            hook.on_state(state)
        if stop.name:
            for hook in hooks[-1:]:
                hook.finish()  # the writer: all that was stepped is written
            raise Stopped(f"stopped by {stop.name} after {writer.num_done} of {writer.num_forecasts} forecasts; they are kept",
                          where=str(writer.path), fix="run the same command again; it continues")
