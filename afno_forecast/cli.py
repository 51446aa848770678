"""The commands. Only the standard library and click are imported here; each command imports what it needs when it runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import __version__
from .cli_data import data
from .cli_exit import Guard, say, together
from .cli_options import PATH, GridSize, NamesList, gathered
from .cli_plot import plot
from .cli_rollout import calibrate, rollout

if TYPE_CHECKING:
    from .convert import Published
    from .experiment import Experiment
    from .verify.settings import ScoreSettings


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="afno-forecast")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error. Accepted anywhere on the line.")
def cli() -> None:
    """Train, roll out, score and draw forecasts of gridded data.

    Start with `afno-forecast demo`. Exit codes: 0 done, 2 usage or configuration, 3 input data, 4 checkpoint or model, 5 resources or
    environment, 6 numbers diverged, 70 a bug of ours, 75 stopped by a signal (run the same command again).
    """


def main() -> None:
    """The entry point: runs a command, answers errors with at most three lines and the exit code of their kind."""
    arguments = sys.argv[1:]
    ends = arguments.index("--") if "--" in arguments else len(arguments)
    debug = "--debug" in arguments[:ends]
    arguments = [a for i, a in enumerate(arguments) if a != "--debug" or i >= ends]
    with Guard(debug=debug):
        code = cli.main(args=arguments, prog_name="afno-forecast", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)


@cli.command()
@click.option("--out", type=PATH, default=Path("demo"), show_default=True, help="Folder to fill.")
def demo(out: Path) -> None:
    """Run the whole path on the embedded sample.

    Data, training, forecasts, scores, report; then the commands that do the same.
    """
    from .demo import run_demo

    run_demo(out, echo=say)


@cli.command()
def doctor() -> None:
    """Look at this machine and what is missing.

    Exits with 5 when the program cannot run here.
    """
    from .doctor import examine, format_findings

    findings = examine(Path.cwd())
    say(format_findings(findings))
    if any(f.state == "fails" for f in findings):
        sys.exit(5)


@cli.command()
@click.argument("path", type=PATH)
def info(path: Path) -> None:
    """Say what a file or folder holds.

    A model folder, run folder, training store, forecast, or any gridded file.
    """
    from .cli_open import describe

    say(describe(path))


@cli.command()
@click.argument("config", type=PATH)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--resume", is_flag=True, help="Go on from the newest valid checkpoint of the run folder, if there is one.")
@click.option("--max-time", metavar="DURATION", help="Save and stop before this much time has passed, for example 6h; exit code 75.")
@click.option("--dry-run", is_flag=True, help="Say what it costs (size, operations, memory, updates, hours, disk); start nothing.")
@click.option("--profile", is_flag=True, help="Say where the time of an update goes; start nothing.")
def train(config: Path, overrides: tuple[str, ...], resume: bool, max_time: str | None, dry_run: bool, profile: bool) -> None:
    """Train the experiment of one YAML file. KEY=VALUE changes a value: training.batch_size=8.

    A file with a `diagnostic` section adds a network for precipitation and the like to a finished model.

    Started by torchrun or srun, the processes divide the work as training.parallel says.
    """
    with together() as first:
        if (dry_run or profile) and adds_diagnostic(config):
            raise click.UsageError("--dry-run and --profile are for forecasters, not for diagnostic networks")
        if (dry_run or profile) and (resume or max_time is not None):
            raise click.UsageError("--resume and --max-time do nothing with --dry-run and --profile")
        if dry_run and profile:
            raise click.UsageError("--dry-run and --profile exclude each other")
        if dry_run or profile:
            from .experiment.trial import dry_run as cost

            say(cost(_load(config, overrides), profile=profile))
            return
        if adds_diagnostic(config):
            from .experiment.diagnostic import load_diagnostic_experiment, run_diagnostic_training

            if max_time is not None:
                raise click.UsageError("--max-time does nothing while a diagnostic network is trained")
            say(f"model: {run_diagnostic_training(load_diagnostic_experiment(config, overrides), resume=resume, echo=say)}")
            return
        experiment = _load(config, overrides)
        from .experiment import run_training
        from .times import parse_duration

        folder = run_training(experiment, resume=resume, echo=say, max_seconds=None if max_time is None else parse_duration(max_time))
    if first:
        say(f"model: {folder}")


@cli.command()
@click.argument("config", type=PATH)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--slurm", is_flag=True, required=True, help="As a SLURM batch job.")
@click.option("--print", "prints", is_flag=True, required=True, help="Write the batch file to the terminal; nothing is submitted.")
@click.option("--nodes", type=click.IntRange(1), default=1, show_default=True, help="Machines.")
@click.option("--gpus-per-node", type=click.IntRange(0), default=0, show_default=True, help="One process for each; 0: processes on the CPU.")
@click.option("--tasks-per-node", type=click.IntRange(1), help="Processes on a machine without GPUs.  [default: 1]")
@click.option("--max-time", metavar="DURATION", default="1d", show_default=True, help="Time limit of the job; it goes on in the next one.")
def launch(config: Path, overrides: tuple[str, ...], slurm: bool, prints: bool, nodes: int, gpus_per_node: int, tasks_per_node: int | None,
           max_time: str) -> None:
    """Write the batch file that trains CONFIG on a cluster.

    The job asks for its signal before the limit, saves, and queues itself again until the training is done.
    """
    from .cli_launch import batch_file
    from .times import parse_duration

    if gpus_per_node and tasks_per_node is not None:
        raise click.UsageError("--tasks-per-node is for machines without GPUs: with --gpus-per-node there is one process for each GPU")
    if adds_diagnostic(config):
        raise click.UsageError("a diagnostic network is trained by one process: start afno-forecast train in a batch file of your own")
    _load(config, overrides)
    tasks = gpus_per_node or tasks_per_node or 1
    say(batch_file(config, overrides, nodes=nodes, gpus=gpus_per_node, tasks=tasks, seconds=parse_duration(max_time)), end="")


@dataclass(frozen=True)
class _Weights:
    """What is known of published weights beside their file."""

    channels: tuple[str, ...]
    grid: tuple[int, int]
    time_step: str
    fraction: float
    shrink: float
    single_skip: bool

    def described(self) -> Published:
        """As the conversion takes it. Raises ConfigError for a step that is no duration."""
        from .convert import Published
        from .times import parse_duration

        return Published(self.channels, self.grid, parse_duration(self.time_step), self.fraction, self.shrink, double_skip=not self.single_skip)


@cli.command()
@click.argument("checkpoint", type=PATH)
@click.option("--out", type=PATH, required=True, metavar="MODEL_FOLDER", help="Model folder to make.")
@click.option("--channels", type=NamesList(), required=True, help="fourcastnet20, fourcastnet26, or names in the order of the weights.")
@click.option("--means", type=PATH, required=True, help="Means of the channels, .npy: FourCastNet's global_means.npy.")
@click.option("--stds", type=PATH, required=True, help="Standard deviations of the channels, .npy.")
@click.option("--grid", type=GridSize(), default="720x1440", show_default=True, help="Rows and columns; the rows lack the south pole.")
@click.option("--time-step", metavar="DURATION", default="6h", show_default=True, help="Step that the weights were trained for.")
@click.option("--fraction", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True, help="Hard-thresholding fraction.")
@click.option("--shrink", type=click.FloatRange(0), default=0.01, show_default=True, help="Sparsity threshold.")
@click.option("--single-skip", is_flag=True, help="The weights were trained without the skip around the mixer.")
@gathered(weights=_Weights)
def convert(checkpoint: Path, out: Path, means: Path, stds: Path, weights: _Weights) -> None:
    """Make a model folder of published AFNO weights.

    FourCastNet's backbone.ckpt, or a state dict of PhysicsNeMo's AFNO; the file is read as tensors only.
    """
    from .convert import convert as make

    make(checkpoint, out, weights.described(), means=means, stds=stds, echo=say)


@dataclass(frozen=True)
class _Scoring:
    """Which scores, where, and how they are tested."""

    regions: tuple[str, ...] | None
    kinds: tuple[str, ...] | None
    significance: str | None
    seed: int

    def settings(self) -> ScoreSettings:
        """As the scores take it. Raises ConfigError for a name that is not known or a block that is no duration."""
        from .times import parse_duration
        from .verify.settings import KINDS, ScoreSettings

        return ScoreSettings(regions=self.regions, kinds=self.kinds or KINDS, seed=self.seed,
                             block_seconds=None if self.significance is None else parse_duration(self.significance))


@cli.command()
@click.argument("forecast", type=PATH)
@click.option("--truth", "truths", type=PATH, required=True, multiple=True, help="Training store, or files of analyses; repeatable.")
@click.option("--out", type=PATH, required=True, help="Score file, .nc; a .csv is written beside it. A folder: named as WeatherBench does.")
@click.option("--climatology", type=PATH, help="Training store whose climatology is used. [default: the truth's own]")
@click.option("--regions", type=NamesList(), help="WeatherBench's names, land, sea, with commas. [default: all the grid covers]")
@click.option("--against", type=PATH, multiple=True, help="Another forecast to compare with on the same init and lead times; repeatable.")
@click.option("--kinds", type=NamesList(), help="Of deterministic, ensemble, spectra, extremes, precipitation. [default: all the data allow]")
@click.option("--leads", type=NamesList(), metavar="DURATION,...", help="Lead times to score: 24h,5d. [default: all]")
@click.option("--significance", metavar="DURATION", help="Test differences by blocks of init times this long: 5d. [default: no test]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of every draw: ties of ranks, past states, the test.")
@click.option("--fill-absent", is_flag=True, help="Chunks that a zarr source lacks hold its fill value. [default: they are an error]")
@gathered(scoring=_Scoring)
def evaluate(forecast: Path, truths: tuple[Path, ...], out: Path, climatology: Path | None, against: tuple[Path, ...],
             leads: tuple[str, ...] | None, fill_absent: bool, scoring: _Scoring) -> None:
    """Score a forecast or an ensemble against analyses.

    Always beside persistence and, where there is one, climatology. What the scores are: afno_forecast/README.md, "Score files".
    """
    from .cli_open import score
    from .times import parse_duration

    settings = scoring.settings()
    seconds = None if leads is None else [parse_duration(lead) for lead in leads]
    for line in score(forecast, truths, out, climatology=climatology, against=against, leads=seconds, settings=settings,
                      fill_absent=fill_absent):
        say(line)


@cli.group()
def config() -> None:
    """Check, write out and describe configuration files."""


@config.command("validate")
@click.argument("path", type=PATH, metavar="CONFIG")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def validate(path: Path, overrides: tuple[str, ...]) -> None:
    """List everything wrong with an experiment file, with lines and nearest names.

    Where the training store is there, and the model of a diagnostic network, the training is tried on them as far as it goes without an update.
    """
    if adds_diagnostic(path):
        from .experiment.diagnostic import load_diagnostic_experiment, try_out_diagnostic

        adding = load_diagnostic_experiment(path, overrides)
        needed, attempt = {"model": adding.forecaster, "training store": adding.data.store}, partial(try_out_diagnostic, adding)
    else:
        from .experiment.trial import try_out

        experiment = _load(path, overrides)
        needed, attempt = {"training store": experiment.data.store}, partial(try_out, experiment)
    absent = {what: where for what, where in needed.items() if not Path(where).exists()}
    if absent:
        say(f"{path}: valid; not tried on the {' and the '.join(absent)}, which {'is' if len(absent) == 1 else 'are'} not there yet: "
            f"{', '.join(absent.values())}")
    else:
        attempt()
        say(f"{path}: valid")


@config.command("dump")
@click.argument("path", type=PATH, metavar="CONFIG")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def dump(path: Path, overrides: tuple[str, ...]) -> None:
    """Write the resolved experiment with every default."""
    from .config import dump_config

    if adds_diagnostic(path):
        from .experiment.diagnostic import load_diagnostic_experiment

        say(dump_config(load_diagnostic_experiment(path, overrides)), end="")
    else:
        say(dump_config(_load(path, overrides)), end="")


@config.command("schema")
@click.argument("kind", type=click.Choice(["experiment", "diagnostic", "recipe"]), default="experiment")
def schema(kind: str) -> None:
    """Write the JSON schema of an experiment, or of a recipe of `data build`, for editors."""
    from .config import schema as json_schema

    if kind == "recipe":
        from .data.build import BuildRecipe

        say(json_schema(BuildRecipe))
    elif kind == "diagnostic":
        from .experiment.diagnostic import DiagnosticExperiment

        say(json_schema(DiagnosticExperiment))
    else:
        from .experiment import Experiment

        say(json_schema(Experiment))


def adds_diagnostic(path: Path) -> bool:
    """Whether an experiment file adds a diagnostic network to a finished model."""
    from .documents import load_document

    return "diagnostic" in load_document(path).values


def _load(path: Path, overrides: tuple[str, ...]) -> Experiment:
    from .experiment import load_experiment

    return load_experiment(path, overrides)


cli.add_command(data)
cli.add_command(plot)
cli.add_command(rollout)
cli.add_command(calibrate)
