"""Errors by cause, each with the exit code of its kind and the what / where / fix form.

Exit codes: 0 done, 2 usage or configuration, 3 input data, 4 checkpoint or model, 5 resources or environment,
6 numbers diverged, 70 our own bug, 75 stopped by a signal (run the same command again).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import ClassVar


def printable(text: str, *, keep_lines: bool = False) -> str:
    """The text with all that a terminal would obey or hide written as escapes: control characters, bidi marks, line and other separators.

    Args:
        text: of any origin.
        keep_lines: whether line feeds stay.
    """
    return "".join(c if c.isprintable() or (keep_lines and c == "\n") else c.encode("unicode_escape").decode("ascii") for c in text)


class ForecastError(Exception):
    """Base of every error a user can meet.

    Args:
        what: what is wrong, one sentence.
        where: file, variable, date, or key and line.
        fix: a command or an edit that works as written.
    """

    exit_code: ClassVar[int] = 70
    everywhere: bool = False
    """Whether every process of a training raises it at the same point, so that they can end together."""

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {printable(self.where)}")
        if self.fix:
            lines.append(f"  fix:   {printable(self.fix)}")
        return "\n".join(lines)


class ConfigError(ForecastError, ValueError):
    """A usage or configuration error."""

    exit_code = 2


class DataError(ForecastError, ValueError):
    """Input data that cannot be used as they are."""

    exit_code = 3


class CheckpointError(ForecastError, ValueError):
    """A checkpoint or model folder that is damaged, unsafe, or does not fit."""

    exit_code = 4


class ResourceError(ForecastError, RuntimeError):
    """Disk, memory, permissions or a missing optional package."""

    exit_code = 5


class DivergenceError(ForecastError, ArithmeticError):
    """A loss, gradient or forecast that is no longer finite."""

    exit_code = 6
    everywhere = True


class Stopped(ForecastError):  # noqa: N818 - not an error: everything is saved
    """Stopped by a signal after everything finished so far was saved; the same command goes on."""

    exit_code = 75
    everywhere = True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the allocator of Python, NumPy, or torch on any device refused."""
    refused = ("DefaultCPUAllocator", "std::bad_alloc")
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in refused))


@contextlib.contextmanager
def told_if_out_of_memory(what: str, fix: str) -> Iterator[None]:
    """Tell a refusal of memory within the context as what needed it and the smaller setting to try. Raises ResourceError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        asked = re.search(r"allocate ([\d.]+ (?:bytes|[KMGT]iB))", str(error))
        need = f" and needed {asked[1]} more" if asked else ""
        raise ResourceError(f"out of memory: {what}{need}", where=str(error).partition("\n")[0][:160], fix=fix) from error
