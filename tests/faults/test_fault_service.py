"""FAULTS 2, 10 and 32 of forecasting: killed at any moment, shared by processes, stopped by a hook; the bytes are those of one unbroken run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from afno_forecast.errors import ConfigError, DataError, DivergenceError
from afno_forecast.forecast.hooks import ForecastState
from afno_forecast.forecast.perturb import Perturbation
from afno_forecast.forecast.produce import Options, produce_forecast
from afno_forecast.forecast.progress import Share

# Imported once, forked for each run: no thread is alive in the driver, so a fork is safe.
DRIVER = """
import json, os, random, signal, sys, time
import torch
torch.set_num_threads(1)
from pathlib import Path
from afno_forecast.cli_rollout import _scoring
from afno_forecast.forecast.perturb import Perturbation
from afno_forecast.forecast.produce import Options, produce_forecast
from afno_forecast.forecast.progress import Share

model, data, folder = map(Path, sys.argv[1:4])
name = sys.argv[4]

def start(where, share=Share(), scores=False):
    pid = os.fork()
    if pid == 0:
        where.mkdir(exist_ok=True)
        scoring = _scoring(where / "scores.nc", (data,), share) if scores else None
        options = Options(members=3, perturbation=Perturbation("correlated", seed=5), share=share, scoring=scoring)
        produce_forecast(model, data, init="2001-01-20T06/2001-01-21T18/12h", lead_time=86400, out=where / name, batch_size=2, options=options,
                         echo=lambda text: None)
        os._exit(0)
    return pid

def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

began = time.monotonic()
codes = [wait(start(folder / "whole", scores=True))]
length = time.monotonic() - began
rng, killed = random.Random(11), 0
for store in range(5):
    for _ in range(2):
        pid = start(folder / f"cut{store}", scores=True)
        time.sleep(rng.uniform(0.02, 0.9) * length)
        os.kill(pid, signal.SIGKILL)
        killed += wait(pid) == -signal.SIGKILL
    codes.append(wait(start(folder / f"cut{store}", scores=True)))
pids = [start(folder / "two", Share(rank, 2), scores=True) for rank in (0, 1)]
codes += [wait(pid) for pid in pids]
print(json.dumps({"codes": codes, "killed": killed}))
"""


def content(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def killed_after_one(text: str) -> None:
    """An echo that ends the run after its first of two batches."""
    if text.startswith("1 of 2 batches"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["fc.zarr", pytest.param("fc.nc", marks=pytest.mark.slow)])
def test_killed_ten_times_or_shared_by_two_processes_the_files_are_those_of_one_run(name: str, tiny_model: Path, tiny_store: Path,
                                                                                   tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DRIVER, tiny_model, tiny_store, tmp_path, name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["codes"]) == {0} and result["killed"] >= 5, (result, done.stderr)
    whole = tmp_path / "whole"
    assert sorted(p.name for p in whole.iterdir()) == sorted([name, "scores.csv", "scores.nc"])
    with xr.open_dataset(whole / name) as ds:
        assert ds["2m_temperature"].sizes["number"] == 3 and np.isfinite(ds["2m_temperature"]).all()
    for other in ("cut0", "cut1", "cut2", "cut3", "cut4", "two"):
        assert content(tmp_path / other / name) == content(whole / name), other
        assert sorted(p.name for p in (tmp_path / other).iterdir()) == sorted([name, "scores.csv", "scores.nc"]), other
        assert (tmp_path / other / "scores.csv").read_bytes() == (whole / "scores.csv").read_bytes(), other


def test_scores_while_running_are_those_of_the_file_to_the_last_digit(tiny_model: Path, tiny_store: Path, tmp_path: Path) -> None:
    from afno_forecast.cli_open import score
    from afno_forecast.verify.while_running import score_session

    options = Options(members=3, perturbation=Perturbation("white"), scoring=lambda session, s: score_session(session, s, tiny_store,
                                                                                                              tmp_path / "online.nc"))
    ask = {"init": "2001-01-28T06/2001-02-09T06/4d", "lead_time": 43200, "batch_size": 2, "options": options, "echo": [].append}
    assert produce_forecast(tiny_model, tiny_store, out=None, **ask) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["online.csv", "online.nc"], "no field is kept"
    produce_forecast(tiny_model, tiny_store, out=tmp_path / "fc.zarr", **ask)
    list(score(tmp_path / "fc.zarr", [tiny_store], tmp_path / "offline.nc"))
    with xr.open_dataset(tmp_path / "online.nc") as online, xr.open_dataset(tmp_path / "offline.nc") as offline:
        xr.testing.assert_identical(online, offline)
        assert {"crps", "spread_skill", "acc"} <= set(online.metric.values.tolist())


@pytest.mark.parametrize(("change", "words"), [
    (lambda ds: ds.assign_coords(longitude=ds.longitude + 10), r"forecast is on 7x12 .*longitude 0\.\.330; the truth on 7x12 .*longitude 10\.\.340"),
    (lambda ds: ds.convert_calendar("noleap"), "the forecast counts time on the proleptic_gregorian calendar; the truth on noleap"),
])
def test_a_truth_on_another_grid_or_calendar_is_refused_before_the_first_step(change: Callable[[xr.Dataset], xr.Dataset], words: str,
                                                                             tiny_model: Path, tiny_weather: Path, tmp_path: Path) -> None:
    from afno_forecast.cli_rollout import _scoring

    with xr.open_dataset(tiny_weather) as ds:
        change(ds).to_netcdf(tmp_path / "truth.nc")
    with pytest.raises(DataError, match=words):
        produce_forecast(tiny_model, tiny_weather, init="2001-01-20T06", lead_time=21600, out=None, echo=[].append,
                         options=Options(scoring=_scoring(tmp_path / "scores.nc", (tmp_path / "truth.nc",), Share())))
    assert [p.name for p in tmp_path.iterdir()] == ["truth.nc"]


def test_a_process_that_starts_after_the_others_have_finished_leaves_nothing_behind(tiny_model: Path, tiny_store: Path, tmp_path: Path) -> None:
    """Of a group that goes on after a kill, where what is left was all the other's."""
    from afno_forecast.cli_rollout import _scoring

    def run(share: Share) -> list[str]:
        said: list[str] = []
        options = Options(scoring=_scoring(tmp_path / "scores.nc", (tiny_store,), share), share=share)
        produce_forecast(tiny_model, tiny_store, init="2001-01-20T06/2001-01-21T18/12h", lead_time=21600, out=None, batch_size=2, options=options,
                         echo=said.append)
        return [line for line in said if "batches" in line]

    first, late = Share(0, 2), Share(1, 2)
    assert len(run(Share(1, 2))) == 1 and (tmp_path / "scores.nc.scores.partial").is_dir()
    assert len(run(first)) == 1
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == ["scores.csv", "scores.nc"]
    assert run(late) == [] and sorted(p.name for p in tmp_path.iterdir()) == files
    assert len(run(Share(1, 2))) == 1, "another group begins anew"


def test_scores_leave_an_unfinished_forecast_of_their_name_alone(tiny_model: Path, tiny_store: Path, tmp_path: Path) -> None:
    from afno_forecast.cli_rollout import _scoring

    def run(**ask: Any) -> list[str]:
        said: list[str] = []
        produce_forecast(tiny_model, tiny_store, init="2001-01-20T06/2001-01-21T06/1d", lead_time=21600, batch_size=1,
                         **{"echo": said.append, "options": Options()} | ask)
        return said

    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "fc.nc", echo=killed_after_one)
    for rank in (1, 0):
        share = Share(rank, 2)
        run(out=None, options=Options(share=share, scoring=_scoring(tmp_path / "fc.nc", (tiny_store,), share)))
    (tmp_path / "fc.nc").rename(tmp_path / "scores.nc")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fc.csv", "fc.nc.partial", "fc.nc.progress.jsonl", "scores.nc"]
    assert f"1 of 2 forecasts are already in {tmp_path / 'fc.nc'}" in run(out=tmp_path / "fc.nc")


class Unscorable:
    """Scores that cannot be made in the end."""

    def on_state(self, state: ForecastState) -> None:
        pass

    def is_done(self, init_index: int) -> bool:
        return False

    def finish(self) -> None:
        raise DataError("no scores")


@pytest.mark.parametrize("name", ["fc.nc", "fc.zarr"])
def test_scores_that_cannot_be_made_leave_the_forecast_whole(name: str, tiny_model: Path, tiny_store: Path, tmp_path: Path) -> None:
    from afno_forecast.cli_rollout import _scoring

    def run(**options: Any) -> None:
        produce_forecast(tiny_model, tiny_store, init="last", lead_time=21600, out=tmp_path / name, options=Options(**options), echo=[].append)

    with pytest.raises(DataError, match="no forecast can be scored"):
        run(scoring=_scoring(tmp_path / "scores.nc", (tiny_store,), Share()))
    assert list(tmp_path.iterdir()) == [], "said before the first step"
    with pytest.raises(DataError, match="no scores"):
        run(scoring=lambda session, leads: Unscorable())
    assert [p.name for p in tmp_path.iterdir()] == [name]
    with xr.open_dataset(tmp_path / name) as ds:
        assert ds.attrs["afno_forecast_complete"] == "yes"


@pytest.mark.parametrize("change", ["leads", "truth"])
def test_what_was_scored_for_other_leads_or_another_truth_is_not_taken_up(change: str, tiny_model: Path, tiny_weather: Path, tmp_path: Path) -> None:
    from afno_forecast.verify.while_running import score_session

    def run(name: str, lead_time: int, truth: Path, echo: Callable[[str], None] = [].append) -> list[str]:
        said: list[str] = []
        options = Options(scoring=lambda session, s: score_session(session, s, truth, tmp_path / name, echo=said.append))
        produce_forecast(tiny_model, tiny_weather, init="2001-01-20T06/2001-01-21T06/1d", lead_time=lead_time, out=None, batch_size=1,
                         options=options, echo=echo)
        return said

    with xr.open_dataset(tiny_weather) as ds:
        (ds + 1).to_netcdf(tmp_path / "truth.nc")
    asked = (43200, tiny_weather) if change == "leads" else (21600, tmp_path / "truth.nc")
    with pytest.raises(KeyboardInterrupt):
        run("scores.nc", 21600, tiny_weather, killed_after_one)
    assert "1 init times" in run("scores.nc", *asked)[0] and run("whole.nc", *asked) == []
    assert (tmp_path / "scores.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize(("damage", "words"), [("empty", "cannot be read"), ("lead", "are of 1 of 2 lead times")])
def test_a_damaged_part_of_the_scores_is_named(damage: str, words: str, tiny_model: Path, tiny_store: Path, tmp_path: Path) -> None:
    from afno_forecast.cli_rollout import _scoring

    def run(echo: Callable[[str], None]) -> None:
        produce_forecast(tiny_model, tiny_store, init="2001-01-20T06/2001-01-21T06/1d", lead_time=43200, out=None, batch_size=1,
                         options=Options(scoring=_scoring(tmp_path / "scores.nc", (tiny_store,), Share())), echo=echo)

    with pytest.raises(KeyboardInterrupt):
        run(killed_after_one)
    part = next((tmp_path / "scores.nc.scores.partial").iterdir())
    with np.load(part) as file:
        kept = {key: file[key] for key in file.files if "|21600|" not in key}
    part.write_bytes(b"")
    if damage == "lead":
        np.savez(part, **kept | {"count": np.asarray(len(kept) - 2)})
    with pytest.raises(DataError, match=words) as refused:
        run([].append)
    assert refused.value.where == str(part) and "remove the file" in str(refused.value)


def test_members_are_the_same_in_any_batch(tiny_model: Path, tiny_store: Path, tmp_path: Path) -> None:
    files = []
    for batch in (1, 4, 7):
        out = tmp_path / f"{batch}.nc"
        produce_forecast(tiny_model, tiny_store, init="2001-01-20T06/2001-01-21T06/1d", lead_time=43200, out=out, batch_size=batch,
                         options=Options(members=5, perturbation=Perturbation("bred", cycles=2)), echo=[].append)
        with xr.open_dataset(out) as ds:
            files.append(ds.load())
    assert files[0]["number"].values.tolist() == [1, 2, 3, 4, 5] and files[0].attrs["perturbation_seed"] == "0"
    for other in files[1:]:
        for variable in other.data_vars:
            assert np.allclose(other[variable], files[0][variable], rtol=2e-6, atol=1e-6, equal_nan=True)


class StopsAt:
    """A stopping rule, and a count of what it saw."""

    def __init__(self, lead_seconds: int) -> None:
        self.lead_seconds = lead_seconds
        self.seen: list[int] = []

    def on_state(self, state: ForecastState) -> None:
        self.seen.append(state.lead_seconds)
        if state.lead_seconds == self.lead_seconds:
            raise DivergenceError("the jet left the planet", where="a hook")

    def finish(self) -> None:
        self.seen.append(-1)


def test_a_hook_stops_the_run_and_what_was_before_can_be_read(tiny_model: Path, tiny_store: Path, tmp_path: Path) -> None:
    hook = StopsAt(43200)
    with pytest.raises(DivergenceError, match="left the planet"):
        produce_forecast(tiny_model, tiny_store, init="2001-01-20T06", lead_time=86400, out=tmp_path / "fc.zarr", options=Options(hooks=(hook,)),
                         echo=[].append)
    assert hook.seen == [21600, 43200]
    with xr.open_zarr(tmp_path / "fc.zarr", chunks=None) as ds:
        assert np.isfinite(ds["2m_temperature"].isel(prediction_timedelta=0)).all()
        assert np.isnan(ds["2m_temperature"].isel(prediction_timedelta=1)).all() and ds.attrs["afno_forecast_complete"] == "no"
    calm = StopsAt(0)
    produce_forecast(tiny_model, tiny_store, init="2001-01-20T06", lead_time=86400, out=tmp_path / "fc.zarr", options=Options(hooks=(calm,)),
                     echo=[].append)
    assert calm.seen == [21600, 43200, 64800, 86400, -1]


class Warms:
    """A hook that changes the state the model goes on from."""

    def on_state(self, state: ForecastState) -> None:
        state.fields_BCHW[:, state.channels.index("t2m")] += 1

    def finish(self) -> None:
        pass


def test_what_a_hook_changes_is_written_and_fed_back(tiny_model: Path, tiny_store: Path, tmp_path: Path) -> None:
    for name, hooks in (("a", ()), ("b", (Warms(),))):
        produce_forecast(tiny_model, tiny_store, init="2001-01-20T06", lead_time=86400, out=tmp_path / f"{name}.nc", options=Options(hooks=hooks),
                         echo=[].append)
    with xr.open_dataset(tmp_path / "a.nc") as a, xr.open_dataset(tmp_path / "b.nc") as b:
        difference = (b["2m_temperature"] - a["2m_temperature"]).mean(("latitude", "longitude")).values[0]
    assert difference[0] == pytest.approx(1, abs=1e-3) and (np.diff(difference) > 0.7).all()


def test_members_without_a_difference_or_without_analyses_are_refused(tiny_model: Path, tiny_store: Path, tmp_path: Path) -> None:
    def ask(init: str, options: Options) -> None:
        produce_forecast(tiny_model, tiny_store, init=init, lead_time=21600, out=tmp_path / "fc.nc", options=options, echo=[].append)

    with pytest.raises(ConfigError, match=r"3 members of 1 model would be copies.*\n.*\n.*add --perturb"):
        ask("last", Options(members=3))
    with pytest.raises(ConfigError, match="their number is not given"):
        ask("last", Options(perturbation=Perturbation("white")))
    with pytest.raises(DataError, match="bred members need analyses before the init times: 2000-12-30T00"):
        ask("first", Options(members=2, perturbation=Perturbation("bred")))
    assert list(tmp_path.iterdir()) == []


def test_two_models_take_turns(tiny_model: Path, tiny_store: Path, tmp_path: Path) -> None:
    produce_forecast([tiny_model, tiny_model], tiny_store, init="last", lead_time=21600, out=tmp_path / "fc.nc", echo=[].append)
    with xr.open_dataset(tmp_path / "fc.nc") as ds:
        values = ds["2m_temperature"].values
    assert values.shape[1] == 2 and np.array_equal(values[:, 0], values[:, 1])


@pytest.mark.parametrize("rank", ["2", "x", "-1"])
def test_a_process_that_is_none_is_refused(rank: str) -> None:
    with pytest.raises(ConfigError, match=r"does not describe a process|must be numbers"):
        Share.from_environment({"RANK": rank, "WORLD_SIZE": "2"})


@pytest.mark.parametrize("path", ["https://example.org/data.zarr", "simplecache::file:///data.nc", "reference://x"])
def test_a_forecast_reads_no_remote_or_chained_path(path: str, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, DataError)) as refused:
        produce_forecast(tiny_model, Path(path), init="last", lead_time=21600, out=tmp_path / "fc.nc", echo=[].append)
    assert refused.value.exit_code in (2, 3) and list(tmp_path.iterdir()) == []
