"""The commands `afno-forecast data ...`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from .cli_exit import say
from .cli_options import PATH, NamesList

if TYPE_CHECKING:
    from .data.build import StatisticsPeriod


@click.group()
def data() -> None:
    """Look into gridded files and make training stores of them."""


@data.command("inspect")
@click.argument("sources", nargs=-1, required=True, type=PATH)
def inspect(sources: tuple[Path, ...]) -> None:
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
        found = look(others)
        say(format_inspection(found))
        sound = sound and not found.refused and bool(found.variables)
    if not sound:
        sys.exit(3)


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
@click.pass_context
def build(ctx: click.Context, paths: tuple[Path, ...], channels: tuple[str, ...] | None, static: tuple[str, ...] | None, statistics: str | None,
          time_step: str | None, round_bits: int | None, fill_absent: bool, boundary: Literal["periodic", "open"] | None,
          no_climatology: bool) -> None:
    """Make a training store of files, or of a recipe. Interrupted, the same command continues it."""
    if len(paths) < 2:
        raise click.UsageError("give the sources and, last, the store to make: data build SOURCE... OUT.zarr", ctx)
    *sources, out = paths
    recipe_path = sources[0] if sources[0].suffix in (".yaml", ".yml") else None
    if recipe_path is not None:
        given = [o.opts[0] for o in ctx.command.params if isinstance(o, click.Option) and ctx.params.get(str(o.name)) not in (None, False)]
        if given or len(sources) > 1:
            raise click.UsageError(f"a recipe says everything: leave out {', '.join(given) or 'the other sources'}", ctx)
    period = _period(statistics, ctx)
    from .config import load_config
    from .data.build import BuildRecipe, run_recipe

    if recipe_path is not None:
        recipe = load_config(recipe_path, BuildRecipe)
    else:
        recipe = BuildRecipe(sources=tuple(map(str, sources)), channels=channels, static=static, statistics=period,
                             time_step=time_step, climatology=not no_climatology, round_bits=round_bits,
                             absent_chunks="fill" if fill_absent else "refuse", boundary=boundary)
    store = run_recipe(recipe, out, progress=Progress(), echo=lambda line: say(f"note: {line}"))
    say(f"{out}: {len(store.channels)} channels, {store.describe_period()}, {store.grid.describe()}")


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
        say(f"{text:<60}" if self._on_terminal else text, err=True, end="\r" if self._on_terminal and done < total else "\n")


@data.command("sample")
@click.argument("name", required=False)
def sample(name: str | None) -> None:
    """Print where the embedded sample, or another shipped file, lies, for use in other commands."""
    from .data.sample_data import sample_path

    say(str(sample_path(name) if name else sample_path()))
