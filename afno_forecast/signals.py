"""Stop signals become a flag that a loop reads between two steps; outside such a loop they end the program as an interrupt."""

from __future__ import annotations

import signal
import threading
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def raise_interrupt(number: int, frame: FrameType | None) -> None:
    """Handler of a stop signal where nothing needs to be finished first. Raises KeyboardInterrupt with the signal's name."""
    raise KeyboardInterrupt(signal.Signals(number).name)


class StopFlag:
    """Context in which SIGTERM, SIGUSR1 and the first Ctrl-C only set `name`; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._old: dict[signal.Signals, object] = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.name is not None:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._receive) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
