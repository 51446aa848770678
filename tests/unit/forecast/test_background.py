"""Writing beside computing: in order, bounded, and no error of the writer, of whatever kind, leaves the forecast waiting for ever."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from afno_forecast.errors import ResourceError
from afno_forecast.forecast.background import BackgroundWriter

STATE = np.zeros((1, 2, 2), np.float32)


class Sink:
    """Keeps what it is given; fails with an error at one lead time, and waits while it is held."""

    def __init__(self, error: Exception | None = None, at: int = -1) -> None:
        self.error, self.at, self.taken, self.held = error, at, list[tuple[int, ...]](), threading.Event()
        self.held.set()

    def write(self, forecast: int, lead_index: int, state: np.ndarray) -> None:
        self.held.wait(30)
        if lead_index == self.at and self.error is not None:
            raise self.error
        self.taken.append((forecast, lead_index))

    def finish(self, forecast: int) -> None:
        self.taken.append((forecast,))


def fill(sink: Any, leads: int = 12) -> None:
    with BackgroundWriter(sink, 2) as writer:
        for lead in range(leads):
            writer.write(0, lead, STATE)
        writer.finish(0)
        writer.flush()


def test_everything_is_written_in_order() -> None:
    sink = Sink()
    fill(sink)
    assert sink.taken == [*((0, lead) for lead in range(12)), (0,)]


@pytest.mark.parametrize("error", [ResourceError("the disk is full"), RuntimeError("codec"), MemoryError()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("at", [0, 5, 11])
def test_an_error_of_any_kind_is_raised_and_nothing_follows_it(error: Exception, at: int) -> None:
    sink, raised = Sink(error, at), list[BaseException]()

    def attempt() -> None:
        try:
            fill(sink)
        except type(error) as found:
            raised.append(found)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "the forecast waits for a writer that is no more"
    assert raised == [error] and sink.taken == [(0, lead) for lead in range(at)]


def test_no_more_states_wait_than_there_is_room_for() -> None:
    sink, queued = Sink(), list[int]()
    sink.held.clear()

    def attempt() -> None:
        with BackgroundWriter(sink, 3) as writer:  # type: ignore[arg-type]
            for lead in range(12):
                writer.write(0, lead, STATE)
                queued.append(lead)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(1)
    before = len(queued)
    sink.held.set()
    thread.join(20)
    assert 3 <= before <= 4, "three wait, beside the one that is written"
    assert not thread.is_alive() and len(sink.taken) == 12
