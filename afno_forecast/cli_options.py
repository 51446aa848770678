"""Kinds of option that several commands share, and options that belong together handed over as one object."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)


def gathered(**groups: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Hand a command options that belong together as one object.

    Args:
        groups: argument of the command -> dataclass whose fields are named like the options; they reach the command in it alone.
    """
    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def call(**given: Any) -> None:
            objects = {name: group(**{field.name: given.pop(field.name) for field in fields(group)}) for name, group in groups.items()}
            command(**given, **objects)

        return call

    return decorate


class NamesList(click.ParamType[tuple[str, ...]]):
    """Names separated by commas, `z500,t850` -> a tuple; repeated and empty names are refused."""

    name = "A,B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Split the text."""
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in str(value).split(","))
        if not all(names):
            self.fail(f"'{value}' holds an empty name; write names with single commas between", param, ctx)
        repeated = sorted({n for n in names if names.count(n) > 1})
        if repeated:
            self.fail(f"{', '.join(repeated)} is given twice", param, ctx)
        return names


class GridSize(click.ParamType[tuple[int, int]]):
    """Rows and columns of a grid, `720x1440` -> a tuple."""

    name = "ROWSxCOLUMNS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Split and read the numbers."""
        if isinstance(value, tuple):
            return value
        rows, x, columns = str(value).partition("x")
        if not (x and all(part.isascii() and part.isdecimal() and len(part) < 7 and int(part) > 1 for part in (rows, columns))):
            self.fail(f"'{value}' is not ROWSxCOLUMNS, for example 720x1440", param, ctx)
        return int(rows), int(columns)


class Place(click.ParamType[tuple[float, float]]):
    """Latitude and longitude, `52.5,13.4`, `-33.9,18.4` or `33.9S,18.4E` -> a tuple of degrees, north and east positive."""

    name = "LAT,LON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        """Split and read the numbers."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip().upper() for part in str(value).split(",")]
        degrees = [self._degrees(part, letters) for part, letters in zip(parts, ("NS", "EW"), strict=False)]
        if len(parts) != 2 or None in degrees or abs(degrees[0] or 0) > 90 or abs(degrees[1] or 0) > 360:
            self.fail(f"'{value}' is not LAT,LON, for example 52.5,13.4 or 33.9S,18.4E", param, ctx)
        return degrees[0] or 0.0, degrees[1] or 0.0

    @staticmethod
    def _degrees(text: str, letters: str) -> float | None:
        number, sign = (text[:-1], -1.0 if text[-1] == letters[1] else 1.0) if text[-1:] and text[-1] in letters else (text, 1.0)
        try:
            return sign * float(number) if number == number.strip() else None
        except ValueError:
            return None


class Numbers(click.ParamType[tuple[float, ...]]):
    """A fixed number of numbers separated by `/`, such as W/E/S/N in degrees -> a tuple of floats."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Split and read the numbers."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split("/")
        try:
            numbers = tuple(float(part) for part in parts)
        except ValueError:
            numbers = ()
        if len(numbers) != len(self.name.split("/")) or not all(abs(n) < 1e6 for n in numbers):
            self.fail(f"'{value}' is not {self.name}, for example {'/'.join(['-30', '60', '30', '75'][:len(self.name.split('/'))])}", param, ctx)
        return numbers
