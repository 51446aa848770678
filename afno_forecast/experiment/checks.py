"""What is wrong with an experiment file although each value has its type, before anything is built; the values may be malformed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from .. import vocabulary
from ..data.store import Store, is_store
from ..documents import nearest
from ..errors import ConfigError
from ..times import any_date
from .steps import Problems, value_at, wrong_steps


def beyond_types(values: dict[str, Any]) -> Problems:
    """What is wrong although each value has its type: names, durations, periods, decay rates. The values may be malformed."""
    yield from _unknown_names(values)
    yield from wrong_steps(values)
    yield from _wrong_periods(value_at(values, "data"))


def _unknown_names(values: dict[str, Any]) -> Problems:
    """Channels and static fields that the store lacks; before it is built, channels that look like a misspelt name of the vocabulary."""
    path = Path(str(value_at(values, "data", "store") or ""))
    store = Store.open(path) if path.is_dir() and is_store(path) else None
    channels = list(store.channels.shorts if store else vocabulary.known_names())
    static = list(store.static_channels.shorts if store else (v.short for v in vocabulary.VARIABLES if v.constant))
    for kind, key, known in (("channel", ("data", "channels"), channels), ("channel", ("diagnostic", "channels"), channels),
                             ("static field", ("model", "static"), static)):
        names = value_at(values, *key)
        spellings = known if kind == "channel" else [*known, *(vocabulary.split_name(name)[0] for name in known)]
        for position, name in enumerate(names if isinstance(names, list) else ()):
            if isinstance(name, str) and _short(name) not in known:
                if store is None and kind == "channel" and nearest(name, spellings, 0.75) is None:
                    continue  # a quantity of its own, which only the store can know
                near = nearest(name, spellings, 0.5)
                hint = f" (did you mean '{near}'?)" if near else f"; there are {', '.join(known) or 'none'}"
                yield (*key, position), f"unknown {kind} '{name}'{hint}"


def _wrong_periods(data: Any) -> Problems:
    """Periods that end before they start, and validation inside training, as far as the dates can be read."""
    whole: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for part in ("train", "validation"):
        start, end = (_order(value_at(data, part, key)) for key in ("start", "end"))
        if start is None or end is None:
            continue
        if end <= start:
            yield ("data", part, "end"), f"the period ends before it has begun, at {value_at(data, part, 'start')}"
        else:
            whole.append((start, end))
    if len(whole) == 2:
        train, validation = whole
        if max(train[0], validation[0]) <= min(train[1], validation[1]):
            key = "start" if validation[0] >= train[0] else "end"
            yield ("data", "validation", key), f"overlaps the training period, {value_at(data, 'train', 'start')} to {value_at(data, 'train', 'end')}"


def _order(text: Any) -> tuple[int, ...] | None:
    """What orders dates of whatever calendar; None where it is no date."""
    with contextlib.suppress(ConfigError):
        return any_date(text) if isinstance(text, str) else None
    return None


def _short(name: str) -> str:
    return vocabulary.short_name(*vocabulary.split_name(name))
