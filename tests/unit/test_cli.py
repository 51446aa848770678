"""The commands: what they hand on, how errors leave the program, and what is absent."""

from __future__ import annotations

import ast
import errno
import importlib
import os
import signal
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from afno_forecast import cli, cli_data, cli_exit, errors
from afno_forecast.cli_options import NamesList, Numbers
from afno_forecast.plot.choices import Look, When

COMMANDS = {
    (): {"demo", "doctor", "info", "data", "train", "launch", "convert", "rollout", "calibrate", "evaluate", "plot", "config"},
    ("data",): {"inspect", "build", "sample", "verify", "bench"}, ("config",): {"validate", "dump", "schema"},
    ("plot",): {"map", "compare", "animate", "meteogram", "hovmoller", "scores", "scorecard", "spectra", "report"},
}


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the program."""
    monkeypatch.setattr(sys, "argv", ["afno-forecast", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    captured = capsys.readouterr()
    return int(left.value.code or 0), captured.out, captured.err


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    return lambda *arguments: run(monkeypatch, capsys, *map(str, arguments))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch):
    """Replace a module by functions that note how they were called, or raise."""
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def stand_in(module: str, **answers: Any) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
        made = ModuleType(module)

        def function(name: str, answer: Any) -> Any:
            def called(*args: Any, **kwargs: Any) -> Any:
                calls.append((name, args, kwargs))
                if isinstance(answer, BaseException):
                    raise answer
                return answer

            return called

        for name, answer in answers.items():
            setattr(made, name, answer if isinstance(answer, type) else function(name, answer))
        monkeypatch.setitem(sys.modules, module, made)
        parent, _, leaf = module.rpartition(".")
        monkeypatch.setattr(importlib.import_module(parent), leaf, made, raising=False)
        return calls

    return stand_in


def groups(group: click.Group, trail: tuple[str, ...] = ()) -> dict[tuple[str, ...], set[str]]:
    found = {trail: set(group.commands)}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= groups(command, (*trail, name))
    return found


def test_the_commands_are_those_of_the_contract():
    assert groups(cli.cli) == COMMANDS


@pytest.mark.parametrize("words", [(*group, name) for group, names in COMMANDS.items() for name in sorted(names)], ids=" ".join)
def test_every_command_explains_itself(words: tuple[str, ...]):
    done = CliRunner().invoke(cli.cli, [*words, "--help"])
    assert done.exit_code == 0
    command: Any = cli.cli
    for word in words:
        command = command.commands[word]
    assert len(command.get_short_help_str(200)) >= 15
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{words}: {option.name} has no help"
            assert all("_" not in o and o == o.lower() for o in option.opts), f"{words}: {option.opts} is not kebab-case"


@pytest.mark.parametrize(("error", "code"), [(errors.ConfigError("a"), 2), (errors.DataError("a"), 3), (errors.CheckpointError("a"), 4),
                                             (errors.ResourceError("a"), 5), (errors.DivergenceError("a"), 6), (errors.Stopped("a"), 75)])
def test_our_errors_leave_with_the_code_of_their_kind(program, stand_in, error: errors.ForecastError, code: int):
    stand_in("afno_forecast.demo", run_demo=error)
    error.where, error.fix = "state at 2020-01-01", "afno-forecast demo --out b"
    assert program("demo") == (code, "", "a\n  where: state at 2020-01-01\n  fix:   afno-forecast demo --out b\n")


@pytest.mark.parametrize(("error", "code", "words"), [
    (KeyboardInterrupt(), 130, "interrupted"),
    (KeyboardInterrupt("SIGTERM"), 75, "stopped by SIGTERM\n  fix:   run the same command again"),
    (OSError(errno.ENOSPC, "No space left on device", "/data/x.zarr"), 5, "the disk is full\n  where: /data/x.zarr"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), 5, "the disk is full"),
    (PermissionError(errno.EACCES, "Permission denied", "/data/x"), 5, "not permitted to read or write\n  where: /data/x"),
    (OSError(errno.EROFS, "Read-only file system", "/data/x"), 5, "not permitted"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/x"), 5, "no such file or directory\n  where: /data/x"),
    (MemoryError(), 5, "out of memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), 5, "out of memory"),
    (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2 GiB\nmore"), 5, "training.batch_size=N"),
    (ZeroDivisionError("division by zero"), 70, "this is our bug, not yours: ZeroDivisionError: division by zero\n  where: test_cli.py:"),
    (AssertionError("x\ny\nz\nmany\nlines"), 70, "--debug"),
    (OSError("no number"), 70, "our bug"),
    (ValueError("\x1b]0;owned\x07"), 70, r"\x1b]0;owned\x07"),
])
def test_other_errors_leave_in_our_form(program, stand_in, error: BaseException, code: int, words: str):
    stand_in("afno_forecast.demo", run_demo=error)
    left, out, err = program("demo")
    assert (left, out) == (code, "") and words in err
    assert "Traceback" not in err and len(err.splitlines()) <= 3
    assert all(line.isprintable() for line in err.splitlines())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_before_the_work_begins_ends_any_command_by_the_contract(program, stand_in, monkeypatch, number: signal.Signals):
    stand_in("afno_forecast.demo")
    monkeypatch.setattr(sys.modules["afno_forecast.demo"], "run_demo", lambda *_, **__: os.kill(os.getpid(), number), raising=False)
    before = signal.getsignal(number)
    code, _, err = program("demo")
    assert (code, err.strip()) == (75, f"stopped by {number.name}\n  fix:   run the same command again")
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("arguments", [("--debug", "demo"), ("demo", "--debug")])
def test_debug_shows_the_traceback_wherever_it_stands(program, stand_in, arguments: tuple[str, ...]):
    stand_in("afno_forecast.demo", run_demo=ZeroDivisionError("oh"))
    code, _, err = program(*arguments)
    assert code == 70 and "Traceback (most recent call last)" in err and "ZeroDivisionError: oh" in err


def test_a_reader_that_went_away_is_no_bug():
    assert cli_exit.explain(BrokenPipeError(errno.EPIPE, "Broken pipe")) == (141, "")


@pytest.mark.parametrize(("arguments", "words"), [
    (("pplot",), "Did you mean 'plot'?"), (("data", "inspct", "x"), "Did you mean 'inspect'?"),
    (("plot", "map", "x", "--variabel", "z500"), "--variable"),
    (("rollout", "m", "--data", "s", "--lead-time", "1d", "--out", "x"), "Missing option '--init'"),
    (("rollout", "m", "--batch-size", "0"), "--batch-size"), (("lanch",), "Did you mean 'launch'?"),
    (("plot", "map", "x", "--variable", "z500", "--out", "a.png", "--region", "1/2"), "is not W/E/S/N"),
    (("plot", "map", "x", "--variable", "z500", "--out", "a.png", "--wind", "--barbs"), "choose one"),
    (("data", "build", "only.nc"), "give the sources and, last, the store to make"),
    (("data", "build", "a.nc", "b.zarr", "--channels", "z500,,t850"), "empty name"),
    (("data", "build", "a.nc", "b.zarr", "--channels", "z500,z500"), "z500 is given twice"),
    (("data", "build", "a.nc", "b.zarr", "--statistics", "2000-01-01"), "is not START/END"),
    (("data", "build", "r.yaml", "b.zarr", "--channels", "z500", "--no-climatology"), "leave out --channels, --no-climatology"),
])
def test_mistyped_commands_are_answered_with_the_nearest(program, arguments: tuple[str, ...], words: str):
    code, out, err = program(*arguments)
    assert (code, out) == (2, "") and words in err and len(err.splitlines()) <= 3
    assert "--help" in err.splitlines()[-1]


def test_without_a_command_the_help_is_shown(program):
    code, _, err = program()
    assert code == 2 and "Commands:" in err and "fix:" not in err


def test_train_hands_the_overrides_on(program, stand_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("name: a\n")
    calls = stand_in("afno_forecast.experiment", load_experiment="the experiment", run_training=Path("runs/a/model"))
    code, out, err = program("train", "a.yaml", "seed=3", "training.batch_size=2", "--resume")
    assert (code, err) == (0, "") and out.endswith("model: runs/a/model\n")
    assert calls[0] == ("load_experiment", (Path("a.yaml"), ("seed=3", "training.batch_size=2")), {})
    assert calls[1][1] == ("the experiment",) and calls[1][2]["resume"] is True


@pytest.mark.parametrize(("given", "wanted"), [((), 8), (("--batch-size", "3"), 3)])
def test_rollout_hands_seconds_and_paths_on(program, stand_in, given: tuple[str, ...], wanted: int):
    from afno_forecast.forecast.produce import Options

    calls = stand_in("afno_forecast.forecast.produce", produce_forecast=Path("fc.zarr"), Options=Options)
    code, out, _ = program("rollout", "m", "--data", "a.nc", "--data", "b.nc", "--init", "last", "--lead-time", "1d12h", "--out", "fc.zarr", *given)
    assert code == 0 and out == "forecast: fc.zarr\n"
    _, (model, data), options = calls[0]
    assert (model, data) == (Path("m"), (Path("a.nc"), Path("b.nc")))
    assert callable(options.pop("echo"))
    assert options.pop("options") == Options()
    assert options == {"init": "last", "lead_time": 129600, "out": Path("fc.zarr"), "format": None, "batch_size": wanted}


def test_calibrate_hands_seconds_and_paths_on(program, stand_in):
    import numpy as np

    import afno_forecast.forecast  # noqa: F401 - which takes names of the module that is stood in for
    from afno_forecast.times import parse_instant

    calls = stand_in("afno_forecast.forecast.calibration", calibrate=None)
    stand_in("afno_forecast.model_folder", read_inputs=type("Inputs", (), {"calendar": "noleap"})())
    given = ("calibrate", "m", "--data", "a.nc", "--data", "b.nc", "--out", "n", "--lead-time", "5d", "--batch-size", "3")
    code, _, err = program(*given, "--period", "2001-01-01/2003-12-31T18")
    assert (code, err) == (0, "")
    _, arguments, options = next(call for call in calls if call[0] == "calibrate")
    assert arguments == (Path("m"), (Path("a.nc"), Path("b.nc")), Path("n"))
    assert (options["lead_seconds"], options["inits"], options["batch_size"]) == (432000, 24, 3)
    assert np.diff(options["period"]) == (3 * 365 - 0.25) * 86400 and options["period"][0] == parse_instant("2001-01-01", "noleap")
    code, _, err = program(*given, "--period", "2001")
    assert code == 2 and "is no period" in err


def test_rollout_hands_on_what_is_kept_and_how_members_differ(program, stand_in):
    from afno_forecast.forecast.perturb import Perturbation
    from afno_forecast.forecast.produce import Options
    from afno_forecast.forecast.selection import Selection

    calls = stand_in("afno_forecast.forecast.produce", produce_forecast=Path("fc.zarr"), Options=Options)
    code, _, err = program("rollout", "a", "b", "--data", "a.nc", "--init", "last", "--leads", "1d,5d", "--out", "fc.zarr", "--members", "6",
                           "--perturb", "bred", "--seed", "4", "--amplitude", "0.5", "--length-scale", "800", "--breeding-cycles", "3",
                           "--variables", "z500,t2m", "--levels", "500,850", "--region", "-30/60/30/75", "--other-grid")
    assert (code, err) == (0, "")
    _, (models, _), given = calls[0]
    assert models == (Path("a"), Path("b")) and given["lead_time"] is None
    assert given["options"] == Options(6, Perturbation("bred", 0.5, 4, 800, 3), True, (86400, 432000), None,
                                       Selection(("z500", "t2m"), (500, 850), (-30.0, 60.0, 30.0, 75.0)))
    code, _, err = program("rollout", "a", "--data", "a.nc", "--init", "last", "--lead-time", "1d", "--out", "fc.zarr", "--raw")
    assert (code, err) == (0, "") and calls[1][2]["options"].raw
    code, _, err = program("rollout", "a", "--data", "a.nc", "--init", "last", "--lead-time", "1d", "--out", "fc.zarr", "--seed", "4")
    assert code == 2 and "--seed does nothing without --perturb" in err
    code, _, err = program("rollout", "a", "--data", "a.nc", "--init", "last", "--lead-time", "1d", "--out", "x.nc", "--score-online", "./x.nc")
    assert code == 2 and "--out and --score-online name the same file" in err


@pytest.mark.parametrize(("method", "idle"), [
    ("white", "length-scale 300"), ("white", "breeding-cycles 3"), ("correlated", "breeding-cycles 3"), ("correlated", "lag 6h"), ("bred", "lag 6h"),
    ("lagged", "amplitude 2"), ("lagged", "seed 3"), ("model", "amplitude 2"), ("model", "length-scale 300")])
def test_an_option_that_the_method_does_not_read_is_a_usage_error(program, stand_in, method: str, idle: str):
    from afno_forecast.forecast.produce import Options

    calls = stand_in("afno_forecast.forecast.produce", produce_forecast=Path("fc.zarr"), Options=Options)
    option, value = idle.split()
    code, _, err = program("rollout", "a", "--data", "a.nc", "--init", "last", "--lead-time", "1d", "--out", "fc.zarr", "--members", "3",
                           "--perturb", method, f"--{option}", value)
    assert code == 2 and f"--{option} does nothing with --perturb {method}" in err and not calls


def test_members_without_a_perturbation_are_a_usage_error(program, stand_in):
    calls = stand_in("afno_forecast.forecast.produce", produce_forecast=Path("fc.zarr"), Options=None)
    code, _, err = program("rollout", "a", "--data", "a.nc", "--init", "last", "--lead-time", "1d", "--out", "fc.zarr", "--members", "3",
                           "--perturb", "correlated", "--amplitude", "0")
    assert code == 2 and "0.0 is not in the range x>0" in err and not calls


@pytest.mark.parametrize("option", ["variables t2m", "levels 500", "region -30/60/30/75", "format zarr3"])
def test_options_of_the_file_are_usage_errors_without_one(program, stand_in, option: str):
    from afno_forecast.forecast.produce import Options

    calls = stand_in("afno_forecast.forecast.produce", produce_forecast=None, Options=Options)
    name, value = option.split()
    code, _, err = program("rollout", "a", "--data", "a.nc", "--init", "last", "--lead-time", "1d", "--score-online", "s.nc", f"--{name}", value)
    assert code == 2 and f"--{name} does nothing without --out" in err and not calls


def test_a_lead_time_that_is_none_is_a_usage_error(program, stand_in):
    from afno_forecast.forecast.produce import Options

    stand_in("afno_forecast.forecast.produce", produce_forecast=Path("fc.zarr"), Options=Options)
    code, _, err = program("rollout", "m", "--data", "a.nc", "--init", "last", "--lead-time", "soon", "--out", "fc.zarr")
    assert code == 2 and "'soon' is not a duration" in err


@pytest.mark.parametrize("words", ["data build in.nc out.zarr --workers 8", "train a.yaml --dry-run --resume", "train a.yaml --profile --max-time 1h",
                                   "train a.yaml --dry-run --profile",
                                   "launch a.yaml --slurm --print --gpus-per-node 2 --tasks-per-node 7"])
def test_options_that_would_do_nothing_are_usage_errors(program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("name: a\n")
    code, _, err = program(*words.split())
    assert code == 2 and ("--workers" in err or "--dry-run" in err or "--profile" in err or "--tasks-per-node" in err)


def test_a_diagnostic_network_has_no_batch_file(program, tmp_path: Path):
    (tmp_path / "a.yaml").write_text("diagnostic: {}\n")
    code, _, err = program("launch", str(tmp_path / "a.yaml"), "--slurm", "--print")
    assert code == 2 and "diagnostic" in err


def test_build_makes_a_recipe_of_its_options(program, monkeypatch: pytest.MonkeyPatch):
    import afno_forecast.data.build as build

    made: list[Any] = []
    store = SimpleNamespace(channels=("z500",), describe_period=lambda: "2 times", grid=SimpleNamespace(describe=lambda: "3x4"))
    monkeypatch.setattr(build, "run_recipe", lambda recipe, out, **_: made.append((recipe, out)) or store)
    code, out, err = program("data", "build", "a.nc", "b.nc", "s.zarr", "--channels", "z500,t850", "--static", "orography", "--statistics",
                             "2000-01-01/2000-12-31T18", "--time-step", "6h", "--round-bits", "12", "--no-climatology")
    assert (code, err) == (0, "") and out == "s.zarr: 1 channels, 2 times, 3x4\n"
    assert made == [(build.BuildRecipe(sources=("a.nc", "b.nc"), channels=("z500", "t850"), static=("orography",), time_step="6h", climatology=False,
                                       statistics=build.StatisticsPeriod(start="2000-01-01", end="2000-12-31T18"), round_bits=12), Path("s.zarr"))]


def test_build_reads_a_recipe(program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import afno_forecast.data.build as build

    made: list[Any] = []
    store = SimpleNamespace(channels=("z500",), describe_period=lambda: "2 times", grid=SimpleNamespace(describe=lambda: "3x4"))
    monkeypatch.setattr(build, "run_recipe", lambda recipe, out, **_: made.append(recipe) or store)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("sources: [a.nc]\nchannels: [z500]\n")
    assert program("data", "build", recipe, "s.zarr")[0] == 0
    assert made[0].channels == ("z500",)
    recipe.write_text("source: [a.nc]\nclimatology: no\n")
    code, _, err = program("data", "build", recipe, "s.zarr")
    assert code == 2 and f"{recipe}:1: source: unknown key (did you mean 'sources'?)" in err
    assert f"{recipe}:2: climatology: must be true or false, got 'no' (write false)" in err


def test_the_map_options_reach_the_drawing(program, stand_in):
    calls = stand_in("afno_forecast.plot.maps", plot_map=Path("m.png"))
    stand_in("afno_forecast.cli_open", open_fields="fields")
    assert program("plot", "map", "f.zarr", "--variable", "z500", "--lead", "5d", "--init", "first", "--region", "-30/60.5/30/75", "--barbs",
                   "--out", "m.png") == (0, "m.png\n", "")
    assert calls[-1] == ("plot_map", ("fields", "z500", Path("m.png")),
                         {"when": When("first", "5d"), "look": Look(region=(-30.0, 60.5, 30.0, 75.0)), "wind": "barbs", "contours": None})


@pytest.mark.parametrize("text", ["1/2/3", "a/b/c/d", "1/2/3/4/5", "", "1/2/3/nan", "1/2/3/inf"])
def test_numbers_that_are_none(text: str):
    with pytest.raises(click.BadParameter, match="is not W/E/S/N"):
        Numbers("W/E/S/N").convert(text, None, None)


def test_lists_of_names():
    assert NamesList().convert("z500, t850", None, None) == ("z500", "t850")


def test_progress_is_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]):
    progress = cli_data.Progress(every_seconds=0.0)
    for done in (1, 2):
        progress(done, 2, "blocks")
    assert capsys.readouterr().err == "blocks: 1 of 2\nblocks: 2 of 2\n"
    quiet = cli_data.Progress(every_seconds=3600.0)
    quiet(1, 2, "blocks")
    assert capsys.readouterr().err == ""


STEERING = "a\x1b[2J\r\u202eb\nc\x9b\u2028"


def test_what_steers_a_terminal_is_shown_instead(capsys: pytest.CaptureFixture[str]):
    assert errors.printable(STEERING) == "a\\x1b[2J\\r\\u202eb\\nc\\x9b\\u2028"
    assert errors.printable(STEERING, keep_lines=True) == "a\\x1b[2J\\r\\u202eb\nc\\x9b\\u2028"
    cli_exit.say(STEERING)
    cli_exit.say(STEERING, err=True, end="")
    assert capsys.readouterr() == ("a\\x1b[2J\\r\\u202eb\nc\\x9b\\u2028\n", "a\\x1b[2J\\r\\u202eb\nc\\x9b\\u2028")


def test_every_command_prints_through_the_one_that_escapes():
    for path in sorted(Path(cli.__file__).parent.glob("cli*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute | ast.Name):
                text = ast.unparse(node)
                is_say = path.name == "cli_exit.py" and text == "click.echo"
                ways_out = ("click.echo", "click.secho", "print", "sys.stdout.write", "sys.stderr.write")
                assert is_say or text not in ways_out, f"{path.name}:{node.lineno}"
    source = Path(cli_exit.__file__).read_text(encoding="utf-8")
    assert source.count("click.echo(") == 1


@pytest.mark.parametrize(("words", "module", "answers"), [
    (("info", "x"), "afno_forecast.cli_open", {"describe": f"title {STEERING}"}),
    (("evaluate", "x", "--truth", "y", "--out", "z"), "afno_forecast.cli_open", {"score": [f"note: {STEERING}"]}),
    (("plot", "map", "x", "--variable", "z500", "--out", "a.png"), "afno_forecast.plot.maps", {"plot_map": Path(STEERING)}),
])
def test_no_command_hands_on_what_steers_a_terminal(program, stand_in, words: tuple[str, ...], module: str, answers: dict[str, Any]):
    stand_in("afno_forecast.cli_open", open_fields="fields")
    stand_in(module, **({"open_fields": "fields"} if module.endswith("cli_open") else {}), **answers)
    code, out, err = program(*words)
    assert (code, err) == (0, "") and "\\x1b[2J" in out
    assert all(line.isprintable() for line in out.splitlines())
