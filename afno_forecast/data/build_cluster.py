"""A store built by many processes: a local cluster, dask.distributed at an address, or SLURM through dask-jobqueue.

Each worker builds parts (runs of neighbouring shards) straight onto the disk it shares with the others; only their numbers travel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ..errors import ConfigError, ResourceError
from .build import BuildRecipe, Echo, Share, run_part, run_recipe
from .build_steps import Progress
from .build_workspace import check_target, work_folder
from .sources_remote import remote_address
from .store import Store

PARTS_PER_WORKER = 4
_LOOK_SECONDS = 0.5


def run_on_cluster(recipe: BuildRecipe, out: Path, *, scheduler: str, workers: int, allow_remote: Sequence[str] = (),
                   progress: Progress | None = None, echo: Echo | None = None) -> Store:
    """Build the store a recipe describes on a cluster; see `run_recipe`.

    Args:
        recipe: its sources lie where every worker sees them.
        out: the store's folder, on a disk that every worker sees.
        scheduler: `local`, `slurm` (queue, memory and time from dask's own configuration of `jobqueue.slurm`), or an address of
            dask.distributed such as `tcp://10.0.0.1:8786`.
        workers: processes or jobs; of a cluster at an address only the number of parts follows from it.
        allow_remote, progress, echo: see `run_recipe`; `echo` gets the link of the dashboard too.

    Raises:
        ConfigError: no such scheduler, or another build in the way.
        ResourceError: dask.distributed is not installed or cannot be reached.
        DataError, Stopped: as `run_recipe`; parts that are built are kept.
    """
    echo = echo or (lambda text: None)
    check_target(out)
    sources = tuple(remote_address(s, allow_remote) or str(Path(s).expanduser().absolute()) for s in recipe.sources)
    recipe = recipe.model_copy(update={"sources": sources})
    num_parts = _num_parts(out, workers)
    with _client(scheduler, workers) as client:
        if client.dashboard_link:
            echo(f"dashboard: {client.dashboard_link}")
        values = recipe.model_dump(mode="json")
        tasks = [client.submit(_part, values, str(out.absolute()), n, num_parts, tuple(allow_remote), pure=False) for n in range(1, num_parts + 1)]
        _wait(tasks, progress, work_folder(out))
    return run_recipe(recipe, out, allow_remote=allow_remote, progress=progress, echo=echo)


def _num_parts(out: Path, workers: int) -> int:
    """A few parts a worker; of an interrupted build what it was divided into."""
    if workers < 1:
        raise ConfigError(f"{workers} workers build nothing", fix="give --workers 2 or more")
    division = work_folder(out) / "parts"
    return int(division.read_text(encoding="utf-8")) if division.exists() else PARTS_PER_WORKER * workers


def _part(values: dict[str, Any], out: str, part: int, of: int, allow_remote: Sequence[str]) -> int:
    """On a worker: build a part."""
    run_part(BuildRecipe.model_validate(values), Path(out), Share(part, of), allow_remote=allow_remote)
    return part


def _wait(tasks: list[Any], progress: Progress | None, work: Path) -> None:
    """Until all are done; the first error ends it. Shards that appear on the disk are told as progress."""
    from distributed import wait

    pending = list(tasks)
    while pending:
        try:
            finished = wait(pending, timeout=_LOOK_SECONDS, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            finished = set()
        for task in finished:
            task.result()
        pending = [task for task in pending if task not in finished]
        if progress is not None:
            built = sum(1 for _ in work.glob("block-*.npz"))
            done = len(tasks) - len(pending)
            progress(built, max(built, math.ceil(built * len(tasks) / done) if done else built + 1), "reading the source")


@contextmanager
def _client(scheduler: str, workers: int) -> Iterator[Any]:
    """A client of the cluster; one that was started here ends with it."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ResourceError("building on a cluster needs the package distributed", where=f"--scheduler {scheduler}",
                            fix="pip install 'afno-forecast[dashboard]'") from error
    with ExitStack() as stack:
        if scheduler == "local":
            cluster = stack.enter_context(LocalCluster(n_workers=workers, threads_per_worker=1, processes=True))
            yield stack.enter_context(Client(cluster))
        elif scheduler == "slurm":
            yield stack.enter_context(Client(stack.enter_context(_slurm(workers))))
        elif "://" in scheduler:
            try:
                client = stack.enter_context(Client(scheduler, timeout=10))
            except (OSError, TimeoutError, ValueError) as error:
                raise ResourceError(f"no dask scheduler answers there ({str(error).splitlines()[0]})", where=f"--scheduler {scheduler}",
                                    fix="start one: dask scheduler, and workers: dask worker ADDRESS") from error
            yield client
        else:
            raise ConfigError(f"'{scheduler}' is no scheduler", where="--scheduler", fix="give local, slurm, or an address such as tcp://10.0.0.1:8786")


def _slurm(workers: int) -> Any:
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ResourceError("building on SLURM needs the package dask-jobqueue", where="--scheduler slurm",
                            fix="pip install 'afno-forecast[slurm]'") from error
    try:
        cluster = SLURMCluster()
    except (ValueError, OSError) as error:
        raise ConfigError(f"SLURM jobs cannot be described ({str(error).splitlines()[0]})", where="--scheduler slurm",
                          fix="set cores, memory, walltime and queue under jobqueue.slurm in ~/.config/dask/jobqueue.yaml") from error
    cluster.scale(jobs=workers)
    return cluster
