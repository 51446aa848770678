"""The run folder while a training runs in it: made, held by one process alone, and gone again if nothing came of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from ..errors import ConfigError, ResourceError
from .log import ended

LOCK = "lock"


@contextlib.contextmanager
def run_folder(folder: Path, echo: Callable[[str], None]) -> Iterator[None]:
    """Hold a run folder. The lock goes with the process, however that ends; folders made here that are empty at the end are removed.

    Args:
        folder: made with its parents where it does not exist.
        echo: prints a line.

    Raises:
        ConfigError: another process trains in it; names host, pid and time.
        ResourceError: it cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        _require_writable(folder)
        with _locked(folder / LOCK, echo) as lock:
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    if os.fstat(lock.fileno()).st_ino == (folder / LOCK).stat().st_ino:
                        (folder / LOCK).unlink()
    finally:
        with contextlib.suppress(OSError):  # the first that is not empty
            for path in made:
                path.rmdir()


def require_new(folder: Path, *, resume: bool) -> None:
    """Raise ConfigError where the folder already holds a training and it is not to be resumed, or cannot be: its model would be replaced."""
    has_checkpoints, has_model = (folder / "checkpoints").exists(), (folder / "model").exists()
    if (has_checkpoints or has_model) and not resume:
        raise ConfigError("the run folder already holds a training", where=str(folder),
                          fix="add --resume to go on, or choose another with output=PATH")
    if has_model and not has_checkpoints and ended(folder):
        raise ConfigError("the training in the run folder has ended and its checkpoints are gone: it would begin anew and replace the model",
                          where=str(folder), fix="choose another folder with output=PATH, or put the checkpoints back")


def _locked(path: Path, echo: Callable[[str], None]) -> TextIO:
    """The lock file, open and locked. One that its holder removed between opening and locking is opened anew."""
    while True:
        lock = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip()
            lock.close()
            raise ConfigError(f"another process trains in this run folder{f': {holder}' if holder else ''}", where=str(path.parent),
                              fix="wait for it, or choose another folder with output=PATH") from error
        except OSError as error:
            echo(f"note: this file system has no locks ({error.strerror}); see to it that no other training uses {path.parent}")
        if path.exists() and os.fstat(lock.fileno()).st_ino == path.stat().st_ino:
            break
        lock.close()
    lock.truncate(0)
    lock.write(f"host {socket.gethostname()}, pid {os.getpid()}, since {datetime.now(UTC).isoformat(timespec='seconds')}\n")
    lock.flush()
    return lock


def _require_writable(folder: Path) -> None:
    """Make the run folder, or say before any data is loaded why not. Raises ResourceError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ResourceError(f"the output folder cannot be written: {error.strerror or error}", where=str(folder),
                            fix="choose another with output=PATH") from error
