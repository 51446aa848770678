"""What of a forecast is finished: a list beside the file, shared by the processes that write it and locked against all others.

`PATH.progress.jsonl` has one line for each finished forecast. Its lock is held exclusively by a single process and shared by a group;
each process of a group holds `PATH.progress.jsonl.rankN` as well, and takes `PATH.progress.jsonl.gate` to begin and to end.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __started__
from ..distributed import place
from ..errors import ConfigError, ResourceError


@dataclass(frozen=True)
class Share:
    """Which part of the work is this process's: number `rank`, from 0, of `count`, at work `since` this time (seconds since 1970)."""

    rank: int = 0
    count: int = 1
    since: float = field(default_factory=time.time, compare=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Share:
        """What torchrun or srun says; a single process without them. Raises ConfigError when what they say is no process."""
        found = place(environment)
        if not 0 <= found.rank < found.world_size:
            raise ConfigError(f"rank {found.rank} of {found.world_size} does not describe a process", where="environment",
                              fix="unset RANK and WORLD_SIZE, or start with torchrun")
        return cls(found.rank, found.world_size, __started__)


SINGLE = Share()


def progress_path(path: Path) -> Path:
    """The list beside a forecast file."""
    return path.with_name(path.name + ".progress.jsonl")


def read_progress(path: Path) -> list[dict[str, Any]]:
    """The lines up to the first that a kill has torn; none when there is no list."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text().splitlines(keepends=True):
        try:
            line = json.loads(text) if text.endswith("\n") else None
        except json.JSONDecodeError:
            line = None
        if not isinstance(line, dict):
            break
        lines.append(line)
    return lines


def remove_progress(path: Path) -> None:
    """Remove the list of a finished forecast and its locks."""
    for leftover in (*path.parent.glob(f"{_escape(path.name)}.rank*"), path, _gate_path(path)):
        leftover.unlink(missing_ok=True)


@contextmanager
def gate(path: Path, share: Share) -> Iterator[None]:
    """One process of a group at a time; nothing to do for a single one. Raises ResourceError when the folder cannot be written."""
    if share.count == 1:
        yield
        return
    target = _gate_path(path)
    while True:
        file = _open(target, path.parent)
        _lock(file.fileno(), fcntl.LOCK_EX)
        try:
            current = target.stat().st_ino == os.fstat(file.fileno()).st_ino
        except FileNotFoundError:
            current = False
        if current:
            break
        file.close()  # the process before removed it: it is not the gate any more
    try:
        yield
    finally:
        file.close()


class Progress:
    """The list, locked while it is open.

    Args:
        path: of the list.
        target: the forecast file, for messages.
        share: this process.

    Raises:
        ConfigError: a process of another run is writing.
        ResourceError: the folder cannot be written.
    """

    def __init__(self, path: Path, target: Path, share: Share) -> None:
        self.path = path
        with ExitStack() as files:
            own = files.enter_context(_open(path, path.parent))
            self.first = free = _lock(own.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            if share.count > 1:
                rank = files.enter_context(_open(path.with_name(f"{path.name}.rank{share.rank}"), path.parent))
                free = _lock(own.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB) and _lock(rank.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not free:
                raise ConfigError("another process is writing this forecast", where=str(target), fix="wait, or choose another --out")
            self._file, self._files = own, files.pop_all()
        if self.first:
            self._cut_torn_line()

    def read(self) -> list[dict[str, Any]]:
        """The lines, those of the other processes as well."""
        return read_progress(self.path)

    def append(self, line: dict[str, Any]) -> None:
        """Add a line and flush it to the disk. Raises OSError."""
        text = (json.dumps(line) + "\n").encode()
        if self._file.write(text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Release the locks; an empty list is removed."""
        self._files.close()
        if self.path.exists() and self.path.stat().st_size == 0:
            self.path.unlink()

    def _cut_torn_line(self) -> None:
        text = self.path.read_bytes()
        if text and not text.endswith(b"\n"):
            self._file.truncate(text.rfind(b"\n") + 1)


def _gate_path(path: Path) -> Path:
    return path.with_name(path.name + ".gate")


def _open(path: Path, folder: Path) -> Any:
    try:
        return path.open("ab", buffering=0)  # one write a line: processes do not mix within it
    except OSError as error:
        raise ResourceError(f"cannot write into the output folder: {error.strerror}", where=str(folder),
                            fix="choose another --out, or make the folder writable") from error


def _lock(descriptor: int, kind: int) -> bool:
    """Whether the lock is ours; a file system without locks has to do without."""
    try:
        fcntl.flock(descriptor, kind)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def _escape(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
