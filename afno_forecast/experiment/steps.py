"""What is wrong with the durations and time steps of an experiment, although each has its type; the values may be malformed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from ..documents import KeyPath
from ..errors import ConfigError
from ..times import format_duration, parse_duration

Problems = Iterator[tuple[KeyPath, str]]


def value_at(values: Any, *path: str) -> Any:
    """The value at a path of keys; None where there is none."""
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def wrong_steps(values: dict[str, Any]) -> Problems:
    """Durations that cannot be read, steps that no forecast can combine or that the model does not have, a validation of no whole number of steps."""
    for path, text in _durations(values):
        yield from _unreadable(path, text)
    base = _seconds(value_at(values, "data", "time_step"))
    steps = [(i, s) for i, t in enumerate(_items(value_at(values, "model", "time_steps"))) if (s := _seconds(t))]
    yield from _not_combined(base, steps)
    history = value_at(values, "model", "history")
    if len(steps) > 1 and isinstance(history, int) and history > 1:
        yield ("model", "history"), f"a model with several time steps reads one state, not {history} (write 1, or name one step in model.time_steps)"
    available = sorted({s for _, s in steps}) or ([base] if base else [])
    if available:
        yield from _not_of_the_model(values, available)
        lead, shortest = _seconds(value_at(values, "validation", "lead_time")), available[0]
        if lead and lead % shortest:
            key = "the shortest of model.time_steps" if steps else "data.time_step"
            longer = format_duration((lead // shortest + 1) * shortest)
            yield ("validation", "lead_time"), f"{format_duration(lead)} is not a multiple of {key}, {format_duration(shortest)} (use {longer})"


def _not_combined(base: int | None, steps: list[tuple[int, int]]) -> Problems:
    """Steps named twice, or no multiples of the data's step or of the shortest."""
    shortest = min((s for _, s in steps), default=0)
    seen: set[int] = set()
    for position, step in steps:
        path: KeyPath = ("model", "time_steps", position)
        text = format_duration(step)
        if step in seen:
            yield path, f"{text} is named twice (name each step once)"
        elif base and step % base:
            yield path, f"{text} is not a multiple of data.time_step, {format_duration(base)} (use {format_duration((step // base + 1) * base)})"
        elif step % shortest:
            yield path, (f"{text} is not a multiple of the shortest step, {format_duration(shortest)}: no forecast could combine them "
                         f"(use {format_duration((step // shortest + 1) * shortest)})")
        seen.add(step)


def _not_of_the_model(values: dict[str, Any], available: list[int]) -> Problems:
    """Steps that a stage is to train and the model does not have."""
    for number, stage in enumerate(_items(value_at(values, "training", "stages"))):
        for position, text in enumerate(_items(value_at(stage, "time_steps"))):
            step = _seconds(text)
            if step and step not in available:
                yield (("training", "stages", number, "time_steps", position),
                       f"{format_duration(step)} is not a step of the model (use {' or '.join(map(format_duration, available))})")


def _durations(values: dict[str, Any]) -> Iterator[tuple[KeyPath, Any]]:
    for key in (("data", "time_step"), ("validation", "lead_time"), ("diagnostic", "longest_lead"), ("diagnostic", "accumulation")):
        text = value_at(values, *key)
        if (key, text) != (("diagnostic", "accumulation"), "instant"):
            yield key, text
    for position, text in enumerate(_items(value_at(values, "model", "time_steps"))):
        yield ("model", "time_steps", position), text
    for number, stage in enumerate(_items(value_at(values, "training", "stages"))):
        for position, text in enumerate(_items(value_at(stage, "time_steps"))):
            yield ("training", "stages", number, "time_steps", position), text


def _unreadable(path: KeyPath, text: Any) -> Problems:
    if isinstance(text, str):
        try:
            parse_duration(text)
        except ConfigError as error:
            near = _nearest_duration(text)
            hint = f"did you mean '{near}'?" if near else error.fix
            yield path, f"{error.what} ({hint})"


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _seconds(text: Any) -> int | None:
    """Of a duration that can be read; None of anything else."""
    if isinstance(text, str):
        with contextlib.suppress(ConfigError):
            return parse_duration(text)
    return None


def _nearest_duration(text: str) -> str | None:
    """`6h` for `6 hours`; None where nothing is near."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)[\s_-]*(s|m|h|d|w)[a-z]*\s*", text.lower())
    return match[1] + match[2].replace("m", "min") if match else None
