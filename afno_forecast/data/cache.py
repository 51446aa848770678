"""Memory that is used again: buffers on loan, and decoded states kept within a budget of bytes."""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

State = NDArray[np.float32]
Read = Callable[[Sequence[int], Sequence[State]], None]


class Buffers:
    """Arrays of one shape that come back by themselves when nobody holds what was lent: a fresh allocation halves the speed of decoding.

    Args:
        shape: of every array.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._free: list[State] = []

    def lend(self) -> State:
        """An array with anything in it. Keep the array itself, or what torch makes of it: numpy's views do not hold the loan."""
        try:
            owner = self._free.pop()
        except IndexError:
            owner = np.empty(self._shape, np.float32)
        loan = owner.view()
        weakref.finalize(loan, self._free.append, owner).atexit = False
        return loan


class Kept:
    """A state that is kept, and the read that brings it.

    Args:
        fill: the read, shared by all states of one chunk of the record.
        state: its memory, (C, H, W).
    """

    __slots__ = ("_fill", "_state")

    def __init__(self, fill: Fill, state: State) -> None:
        self._fill = fill
        self._state = state

    def get(self, read: Read) -> State:
        """The state, read now if nobody has before. Raises what `read` raises."""
        self._fill.ensure(read)
        return self._state


class Fill:
    """One read that brings several states; done once, by whichever thread comes first.

    Args:
        times: positions on the time axis.
        states: where they go.
    """

    def __init__(self, times: Sequence[int], states: Sequence[State]) -> None:
        self._pending: tuple[Sequence[int], Sequence[State]] | None = (times, states)
        self._lock = threading.Lock()

    def ensure(self, read: Read) -> None:
        """Read unless it is done. Raises what `read` raises."""
        with self._lock:
            if self._pending is not None:
                read(*self._pending)
                self._pending = None  # a state that is dropped from the cache is not held here


class StateCache:
    """Which states are kept, decided in one thread before anything is read.

    A state that will be used again is kept while there is room; room is made by dropping states that will not, oldest first.

    Args:
        cache_bytes: budget.
        shape: of a state, (C, H, W).
    """

    def __init__(self, cache_bytes: int, shape: tuple[int, ...]) -> None:
        self.capacity = cache_bytes // max(1, 4 * math.prod(shape))
        self._buffers = Buffers(shape)
        self._kept: dict[int, Kept] = {}
        self._spent: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Drop every state; memory that nobody reads any more is used again."""
        self._kept.clear()
        self._spent.clear()

    def plan(self, time: int, together: Sequence[int], uses_left: Mapping[int, int]) -> Kept | None:
        """Where a state is, or will be, kept; None where it is read for this one time.

        Args:
            time: position of the state.
            together: positions of the states that one read decodes anyway.
            uses_left: how often states will be used after this time, as far as is known.
        """
        if time not in self._kept and (not self.capacity or not self._keep(time, together, uses_left)):
            return None
        self._spent.pop(time, None)
        if not uses_left.get(time):
            self._spent[time] = None
        return self._kept[time]

    def _keep(self, time: int, together: Sequence[int], uses_left: Mapping[int, int]) -> bool:
        wanted = [time, *(t for t in together if t != time and t not in self._kept and uses_left.get(t))]
        chosen: list[int] = []
        for t in wanted:
            if len(self._kept) + len(chosen) >= self.capacity and not (uses_left.get(t) and self._drop_one(uses_left)):
                break
            chosen.append(t)
        if not chosen:
            return False
        states = [self._buffers.lend() for _ in chosen]
        fill = Fill(chosen, states)
        self._kept |= {t: Kept(fill, state) for t, state in zip(chosen, states, strict=True)}
        return True

    def _drop_one(self, uses_left: Mapping[int, int]) -> bool:
        while self._spent:
            time, _ = self._spent.popitem(last=False)
            if not uses_left.get(time):
                del self._kept[time]
                return True
        return False
