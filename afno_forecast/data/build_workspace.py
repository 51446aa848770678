"""The folder beside the output where a store is built: locked, of one recipe, shared by those who build parts of it."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .. import __version__
from ..errors import ConfigError, ResourceError
from . import layout as disk
from .plan import Plan
from .provenance import is_same_source
from .store import is_store


@dataclass(frozen=True)
class Share:
    """One of several parts of a build, from 1: a run of neighbouring shards that one process reads, while others read theirs.

    Args:
        part: from 1 to `of`.
        of: how many parts there are.
    """

    part: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.part <= self.of:
            raise ConfigError(f"part {self.part}/{self.of} is none of {self.of}", fix=f"count the parts from 1/{self.of} to {self.of}/{self.of}")

    def shards(self, num_shards: int) -> range:
        """Its shards; of as even length as can be."""
        return range((self.part - 1) * num_shards // self.of, self.part * num_shards // self.of)


def work_folder(out: Path) -> Path:
    """Where the store at `out` is built."""
    return out.absolute().with_name(out.name + ".partial")


def block_mark(work: Path, number: int) -> Path:
    """The file that says a shard is written: what it adds to the statistics."""
    return work / f"block-{number:06d}.npz"


def check_target(out: Path) -> None:
    """Say before any data are read that a store cannot be written there. Raises ResourceError."""
    parent = out.absolute().parent
    if not parent.is_dir():
        raise ResourceError(f"the folder '{parent}' does not exist", where=str(out), fix=f"mkdir -p '{parent}'")
    if out.exists() and not is_store(out):
        raise ResourceError("the output exists and is not a training store", where=str(out), fix="choose another name, or move it away")
    if not is_store(out) and not work_folder(out).is_dir():
        try:
            work_folder(out).mkdir()
            work_folder(out).rmdir()
        except OSError as error:
            raise ResourceError(f"cannot write into '{parent}' ({error.strerror})", where=str(out), fix="choose another folder") from error


def difference(old: Any, new: dict[str, Any]) -> str:
    """What sets two recipes apart, in words; empty when nothing does."""
    old = old if isinstance(old, dict) else {}
    before, now = old.get("sources", []), new["sources"]
    same_sources = len(before) == len(now) and all(map(is_same_source, before, now))
    keys = [key for key in {**new, **old} if not (same_sources if key == "sources" else old.get(key) == new.get(key))]
    return f"other {', '.join(keys)}" if keys else ""


@contextmanager
def workspace(out: Path, plan: Plan, share: Share | None = None) -> Iterator[Path]:
    """The work folder, of this recipe, with room for the rest; locked against everybody, or for a part against whoever builds the whole."""
    work = work_folder(out)
    work.mkdir(exist_ok=True)
    with (work / "lock").open("a") as lock:
        if share is None:
            _lock(lock, fcntl.LOCK_EX, "another process is building this store", work)
            _prepare(work, plan)
            for leftover in (work / "store").rglob("*.partial"):
                leftover.unlink()
            yield work
            return
        _lock(lock, fcntl.LOCK_SH, "another process is building the whole store", work)
        with (work / "preparing").open("a") as preparing, (work / f"part-{share.part:05d}").open("a") as mine:
            _lock(mine, fcntl.LOCK_EX, f"another process is building part {share.part}/{share.of} of this store", work)
            fcntl.flock(preparing, fcntl.LOCK_EX)
            _prepare(work, plan)
            _require_parts(work, share)
            fcntl.flock(preparing, fcntl.LOCK_UN)
            yield work


def _lock(file: IO[str], kind: int, what: str, work: Path) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(what, where=str(work), fix="wait for it") from error


def _prepare(work: Path, plan: Plan) -> None:
    mark = work / "recipe.json"
    recipe = {"version": __version__, **plan.recipe}
    if mark.exists():
        old = json.loads(mark.read_text(encoding="utf-8"))
        if other := difference(old, recipe):
            raise ConfigError(f"an unfinished build of another recipe is in the way ({other})", where=str(work),
                              fix=f"rm -r '{work}'")
    _check_room(work, plan)
    if not mark.exists():
        shutil.rmtree(work / "store", ignore_errors=True)
        (work / "store").mkdir()
        disk.create_states(work / "store", plan.layout, plan.grid.axes)
        if len(plan.hours):
            disk.create_climatology(work / "store", plan.layout, len(plan.hours), plan.grid.axes)
        disk.write_text(mark, json.dumps(recipe, indent=1))


def _require_parts(work: Path, share: Share) -> None:
    """Parts of two divisions would write the same shards. Raises ConfigError."""
    mark = work / "parts"
    if mark.exists() and mark.read_text(encoding="utf-8") != str(share.of):
        raise ConfigError(f"the build is divided into {mark.read_text(encoding='utf-8')} parts, not {share.of}", where=str(work),
                          fix=f"give a part of {mark.read_text(encoding='utf-8')}")
    if not mark.exists():
        disk.write_text(mark, str(share.of))


def _check_room(work: Path, plan: Plan) -> None:
    done = 0
    for path in work.rglob("*"):
        try:
            done += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue  # of another process, renamed meanwhile
    free = shutil.disk_usage(work).free
    if plan.need_bytes - done > free:
        raise ResourceError(f"the store needs up to {(plan.need_bytes - done) / 1e6:.0f} MB, {free / 1e6:.0f} MB are free", where=str(work.parent),
                            fix="free space, choose another disk, fewer channels, or `climatology: false`")
