"""The commands `afno-forecast data ...`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_exit import say
from .cli_options import PATH, NamesList

if TYPE_CHECKING:
    from .data.build import BuildRecipe, StatisticsPeriod


@click.group()
def data() -> None:
    """Look into gridded files and make training stores of them."""


ALLOW_REMOTE = click.option("--allow-remote", multiple=True, metavar="SCHEME",
                            help="Open remote zarr stores of this scheme: gs, s3, https; repeatable.")


@data.command("inspect")
@click.argument("sources", nargs=-1, required=True, type=PATH)
@ALLOW_REMOTE
def inspect(sources: tuple[Path, ...], allow_remote: tuple[str, ...]) -> None:
    """Tell what is in any files, and what of it would be refused.

    Of a training store every chunk is read and checked. Exits with 3 when something is refused or damaged, or nothing gridded is found.
    """
    from .data.inspect import format_inspection
    from .data.inspect import inspect as look
    from .data.store import is_store

    stores = [path for path in sources if is_store(path)]
    others = [path for path in sources if path not in stores]
    sound = True
    if stores:
        from .cli_open import check_store

        for path in stores:
            text, whole = check_store(path)
            say(text)
            sound = sound and whole
    if others:
        found = look(others, allow_remote=allow_remote)
        say(format_inspection(found))
        sound = sound and not found.refused and bool(found.variables)
    if not sound:
        sys.exit(3)


class PartOption(click.ParamType[Any]):
    """`3/10` as two numbers."""

    name = "K/N"

    def convert(self, value: str | tuple[int, int], param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """See click."""
        if isinstance(value, tuple):
            return value
        part, _, of = value.partition("/")
        if not (part.isdecimal() and of.isdecimal() and 1 <= int(part) <= int(of)):
            self.fail(f"'{value}' is not K/N, for example 3/10", param, ctx)
        return int(part), int(of)


@data.command("build")
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="RECIPE.yaml|SOURCE... OUT.zarr")
@click.option("--channels", type=NamesList(), help="Channels to keep, in this order: z500,t850. [default: all that vary in time]")
@click.option("--static", type=NamesList(), help="Static fields to keep: orography,lsm. [default: all]")
@click.option("--statistics", metavar="START/END", help="Training period, which statistics and climatology describe. [default: the whole record]")
@click.option("--time-step", metavar="DURATION", help="Step of the model: 6h. [default: the record's]")
@click.option("--round-bits", type=click.IntRange(1, 23), help="Mantissa bits to keep; recorded in the store. [default: all]")
@click.option("--fill-absent", is_flag=True, help="Chunks that a zarr source lacks hold its fill value. [default: they are an error]")
@click.option("--boundary", type=click.Choice(["periodic", "open"]), help="How a box continues over its edges, where its files do not say.")
@click.option("--no-climatology", is_flag=True, help="Leave the climatology out.")
@click.option("--part", type=PartOption(), help="Build a part alone, such as 3/10, beside other processes; then --finish.")
@click.option("--finish", is_flag=True, help="Finish a store whose parts are built.")
@click.option("--append", is_flag=True, help="Add the sources' later dates to the finished store OUT.zarr.")
@ALLOW_REMOTE
@click.option("--scheduler", metavar="ADDRESS", help="Build on a cluster: local, slurm, or an address of dask.distributed.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes or jobs of --scheduler.")
@click.pass_context
def build(ctx: click.Context, /, paths: tuple[Path, ...], **options: Any) -> None:
    """Make a training store of files, or of a recipe. Interrupted, the same command continues it."""
    if len(paths) < 2:
        raise click.UsageError("give the sources and, last, the store to make: data build SOURCE... OUT.zarr", ctx)
    *sources, out = paths
    ways = [f"--{name}" for name in ("part", "finish", "append", "scheduler") if options[name]]
    if len(ways) > 1:
        raise click.UsageError(f"{' and '.join(ways)}: choose one", ctx)
    if "--workers" in _given(ctx) and not options["scheduler"]:
        raise click.UsageError("--workers does nothing without --scheduler (to build on this machine: --scheduler local)", ctx)
    if options["append"]:
        _append(ctx, out, sources)
        return
    recipe = _recipe(ctx, sources, options)
    from .data.build import Share, run_part, run_recipe

    if options["part"]:
        part, of = options["part"]
        run_part(recipe, out, Share(part, of), allow_remote=options["allow_remote"], progress=Progress(), echo=_note)
        say(f"{out}: part {part}/{of} is built; when all are: the same command with --finish instead")
        return
    if options["scheduler"]:
        from .data.build_cluster import run_on_cluster

        store = run_on_cluster(recipe, out, scheduler=options["scheduler"], workers=options["workers"], allow_remote=options["allow_remote"],
                               progress=Progress(), echo=_note)
    else:
        store = run_recipe(recipe, out, finish=options["finish"], allow_remote=options["allow_remote"], progress=Progress(), echo=_note)
    say(f"{out}: {len(store.channels)} channels, {store.describe_period()}, {store.grid.describe()}")


def _recipe(ctx: click.Context, sources: Sequence[Path], options: Mapping[str, Any]) -> BuildRecipe:
    """The recipe file that was named, or one made of the options."""
    period = _period(options["statistics"], ctx)
    from .config import load_config
    from .data.build import BuildRecipe

    if sources[0].suffix in (".yaml", ".yml"):
        given = [o for o in _given(ctx) if o not in _HOW]
        if given or len(sources) > 1:
            raise click.UsageError(f"a recipe says everything: leave out {', '.join(given) or 'the other sources'}", ctx)
        return load_config(sources[0], BuildRecipe)
    return BuildRecipe(sources=tuple(map(str, sources)), channels=options["channels"], static=options["static"], statistics=period,
                       time_step=options["time_step"], climatology=not options["no_climatology"], round_bits=options["round_bits"],
                       absent_chunks="fill" if options["fill_absent"] else "refuse", boundary=options["boundary"])


_HOW = ("--part", "--finish", "--append", "--scheduler", "--workers", "--allow-remote")


def _note(line: str) -> None:
    say(f"note: {line}")


def _given(ctx: click.Context) -> list[str]:
    """The options that were typed."""
    return [o.opts[0] for o in ctx.command.params
            if isinstance(o, click.Option) and ctx.get_parameter_source(str(o.name)) is click.core.ParameterSource.COMMANDLINE]


def _append(ctx: click.Context, out: Path, sources: Sequence[Path]) -> None:
    others = [name for name in _given(ctx) if name != "--append"]
    if others:
        raise click.UsageError(f"an addition follows the store's own recipe: leave out {', '.join(others)}", ctx)
    from .data.build import append_to_store

    store = append_to_store(out, [str(s) for s in sources], progress=Progress(), echo=_note)
    say(f"{out}: {store.describe_period()}")


def _period(text: str | None, ctx: click.Context) -> StatisticsPeriod | None:
    if text is None:
        return None
    start, slash, end = text.partition("/")
    if not (start and slash and end):
        raise click.UsageError(f"--statistics: '{text}' is not START/END, for example 2000-01-01/2001-12-31T18", ctx)
    from .data.build import StatisticsPeriod

    return StatisticsPeriod(start=start, end=end)


class Progress:
    """Progress on stderr: one line that is written over on a terminal, a plain line now and then elsewhere.

    Args:
        every_seconds: between plain lines.
    """

    def __init__(self, every_seconds: float = 20.0) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._every = 0.2 if self._on_terminal else every_seconds
        self._last = time.monotonic()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Show that `done` of `total` pieces of `what` are finished."""
        now = time.monotonic()
        if now - self._last < self._every and (done < total or not self._on_terminal):
            return
        self._last = now
        text = f"{what}: {done} of {total}"
        filled = 24 * done // max(total, 1)
        bar = f"{text:<40} [{'#' * filled}{'.' * (24 - filled)}]"
        say(bar if self._on_terminal else text, err=True, end="\r" if self._on_terminal and done < total else "\n")


@data.command("verify")
@click.argument("store", type=PATH)
@click.option("--sample", type=click.IntRange(1), default=64, show_default=True, help="States of which the statistics are recomputed.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def verify(store: Path, sample: int, as_json: bool) -> None:
    """Read a whole training store and list all that is wrong with it.

    Checked: presence and checksum of every chunk, gaps, missing values, states unlike both neighbours in time or equal to the one before,
    and statistics. Exits with 3 when something is found.
    """
    import json

    from .data.store import Store
    from .data.verify import verify as check

    found = check(Store.open(store), Progress(), sample=sample)
    say(json.dumps(found.to_dict(), indent=1) if as_json else "\n".join(found.lines()))
    if not found.sound:
        sys.exit(3)


@data.command("bench")
@click.argument("store", type=PATH)
@click.option("--seconds", type=click.FloatRange(0.1), default=5.0, show_default=True, help="About how long to measure.")
@click.option("--batch-size", type=click.IntRange(1), default=4, show_default=True, help="Samples in a batch.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of the loader.")
@click.option("--cache-megabytes", type=click.IntRange(0), default=1024, show_default=True, help="Memory for decoded states.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def bench(store: Path, seconds: float, batch_size: int, threads: int, cache_megabytes: int, as_json: bool) -> None:
    """Measure how fast a training store is read here, where the time goes, and what to change in it."""
    import json

    from .data.bench import bench as measure
    from .data.store import Store

    result = measure(Store.open(store), seconds=seconds, batch_size=batch_size, threads=threads, cache_bytes=cache_megabytes << 20)
    say(json.dumps(result.to_dict(), indent=1) if as_json else "\n".join(result.lines()))


@data.command("sample")
@click.argument("name", required=False)
def sample(name: str | None) -> None:
    """Print where the embedded sample, or another shipped file, lies, for use in other commands."""
    from .data.sample_data import sample_path

    say(str(sample_path(name) if name else sample_path()))
