"""What leaves the program: every text, safe for a terminal; errors as words on stderr, and their exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from types import TracebackType

import click

from .errors import ForecastError, ResourceError, Stopped, is_out_of_memory, printable
from .signals import STOP_SIGNALS, raise_interrupt

BUG = 70
INTERRUPTED = 130
_BROKEN_PIPE = 141
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def explain(error: BaseException) -> tuple[int, str]:
    """(exit code, what to print) of an error."""
    if isinstance(error, ForecastError):
        return error.exit_code, str(error)
    if isinstance(error, click.Abort | KeyboardInterrupt):
        interrupt = error if isinstance(error, KeyboardInterrupt) else error.__cause__  # click hides the interrupt behind its Abort
        if interrupt is not None and interrupt.args:  # the name of the signal: the first one, and not within a loop that asked for a second
            return Stopped.exit_code, str(Stopped(f"stopped by {interrupt}", fix="run the same command again"))
        return INTERRUPTED, "interrupted"
    if isinstance(error, click.ClickException):
        return 2, _usage(error)
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return _BROKEN_PIPE, ""
    resource = _as_resource(error)
    if resource is not None:
        return resource.exit_code, str(resource)
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f"{os.path.basename(last[0].filename)}:{last[0].lineno}" if last else "unknown"  # noqa: PTH119
    first = str(error).partition("\n")[0][:200]
    what = f"this is our bug, not yours: {type(error).__name__}: {first}"
    return BUG, f"{what}\n  where: {where}\n  fix:   run it again with --debug and report what it prints"


def _usage(error: click.ClickException) -> str:
    text = error.format_message()
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return text
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{text}\n  fix:   see {context.command_path} --help" if context else text


def _as_resource(error: BaseException) -> ResourceError | None:
    """The operating system's and the allocator's refusals in our form."""
    if isinstance(error, OSError):
        where = " ".join(str(n) for n in (error.filename, error.filename2) if n is not None)
        if error.errno in _NO_SPACE:
            return ResourceError("the disk is full", where=where, fix="free some space, or write to another disk, and run the same command again")
        if error.errno in _FORBIDDEN:
            return ResourceError("not permitted to read or write", where=where, fix="choose a folder that is yours, or change its permissions")
        if error.errno in _ABSENT and where:
            return ResourceError(os.strerror(error.errno).lower(), where=where, fix="create it, or give another path")
    if is_out_of_memory(error):
        first = str(error).partition("\n")[0][:160]
        return ResourceError(f"out of memory{f': {first}' if first else ''}",
                             fix="use a smaller batch (training.batch_size=N or --batch-size N) or a coarser grid")
    return None


def say(text: str, *, err: bool = False, end: str = "\n") -> None:
    """Print a text, lines kept; whatever else would steer a terminal is written as escapes. The only way out for all commands."""
    click.echo(printable(text, keep_lines=True) + end, err=err, nl=False)


@contextlib.contextmanager
def together() -> Iterator[bool]:
    """Connect the processes that a launcher (torchrun, srun) started; gives whether this is the first, or the only one."""
    if not {"RANK", "SLURM_STEP_NUM_TASKS"} & set(os.environ):
        yield True
        return
    from .distributed import session

    with session() as place:
        yield place.rank == 0


def _first_to_tell() -> bool:
    """Whether no other process of this run has said why it ends."""
    distributed = sys.modules.get("afno_forecast.distributed")
    return distributed is None or bool(distributed.first_to_tell())


class Guard:
    """The outermost border: every error that reaches it is told and turned into an exit code."""

    def __init__(self, *, debug: bool = False) -> None:
        self._debug = debug
        self._old: dict[signal.Signals, object] = {}

    def __enter__(self) -> Guard:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # a terminal without Unicode shows escapes instead of failing
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, raise_interrupt) for number in STOP_SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if error is None or isinstance(error, SystemExit):
            return
        if isinstance(error, click.exceptions.Exit):
            raise SystemExit(error.exit_code)
        code, text = explain(error)
        if self._debug:
            traceback.print_exception(kind, error, trace)
        if code == _BROKEN_PIPE:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that flushing at exit does not fail again
        elif text and _first_to_tell():
            say(text, err=True)
        raise SystemExit(code) from None
