"""Scores of states as they come equal those of the written file, to the last digit, however they come."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.errors import DataError
from afno_forecast.grid import LatLonGrid
from afno_forecast.verify.evaluate import evaluate
from afno_forecast.verify.online import OnlineScorer
from afno_forecast.verify.rows import load_rows, save_rows
from afno_forecast.verify.settings import References, ScoreSettings

sys.path.insert(0, str(Path(__file__).parent))
from in_memory import Clim, Record, walk

HOUR = 3600
START = 1_577_836_800  # 2020-01-01
GRID = LatLonGrid(np.linspace(-80, 80, 9), np.arange(14) * 360 / 14)
CHANNELS = ChannelSet((Channel("2m_temperature", None, "K"), Channel("u_component_of_wind", 500, "m s-1"), Channel("geopotential", 500, "m2 s-2"),
                       Channel("v_component_of_wind", 500, "m s-1"), Channel("u_component_of_wind", 850, "m s-1")))
INITS = START + 12 * HOUR * np.array([0, 1, 3, 4], dtype=np.int64)
LEADS = 12 * HOUR * np.arange(1, 4, dtype=np.int64)
MEMBERS = 5
SETTINGS = ScoreSettings(seed=7)


def record(num: int = 7) -> Record:
    return walk(num, CHANNELS, GRID, START, 12 * HOUR)


def clim(truth: Record) -> Clim:
    return Clim(truth.fields.mean(axis=0), CHANNELS, GRID)


def forecasts(truth: Record, members: int = MEMBERS) -> np.ndarray:
    """(I, L, E, C, H, W): truth of the nearest day and noise; some members equal each other and the truth somewhere."""
    rng = np.random.default_rng(2)
    fields = np.stack([[truth.fields[min((init + lead - START) // (12 * HOUR), 6)] for lead in LEADS] for init in INITS])[:, :, None]
    fields = fields + rng.normal(0.2, 2, (len(INITS), len(LEADS), members, *fields.shape[3:]))
    fields = np.round(fields * 2) / 2
    return fields.astype(np.float32)


def write(path: Path, fields: np.ndarray, *, speed: bool = True) -> Path:
    """A file in WeatherBench's layout, with the wind speed that our writer adds."""
    dims = ("time", "number", "prediction_timedelta", "level", "latitude", "longitude")
    blank = np.full_like(fields[:, :, :, 0], np.nan)

    def levels(upper: int | None, lower: int | None) -> np.ndarray:
        return np.stack([blank if i is None else fields[:, :, :, i] for i in (upper, lower)], axis=3).swapaxes(1, 2)

    u, v = levels(1, 4), levels(3, None)
    items = {"u_component_of_wind": (u, [500, 850]), "v_component_of_wind": (v, [500]), "geopotential": (levels(2, None), [500])}
    if speed:
        items["wind_speed"] = (np.hypot(u, v), [500])
    units = {"geopotential": "m2 s-2"}
    ds = xr.Dataset({name: (dims, value, {"units": units.get(name, "m s-1"), "available_levels": have}) for name, (value, have) in items.items()})
    ds["2m_temperature"] = ((*dims[:3], *dims[4:]), fields[:, :, :, 0].swapaxes(1, 2), {"units": "K"})
    ds = ds.assign_coords(time=INITS.astype("datetime64[s]").astype("datetime64[ns]"), level=[500, 850], latitude=GRID.latitude,
                          prediction_timedelta=LEADS.astype("timedelta64[s]").astype("timedelta64[ns]"), longitude=GRID.longitude,
                          number=np.arange(1, fields.shape[2] + 1))
    ds.attrs["model"] = "afno"
    ds.to_zarr(path, zarr_format=2, consolidated=True)
    return path


def scorer(truth: Record, members: int = MEMBERS) -> OnlineScorer:
    return OnlineScorer(truth, CHANNELS, INITS, LEADS, num_members=members, references=References(clim(truth)), settings=SETTINGS)


@pytest.mark.parametrize("members", [1, MEMBERS])
@pytest.mark.parametrize("speed", [True, False])
def test_online_equals_offline_to_the_last_digit(tmp_path: Path, members: int, speed: bool) -> None:
    truth = record()
    fields = forecasts(truth, members)
    path = write(tmp_path / "fc.zarr", fields, speed=speed)
    offline = evaluate(path, truth, references=References(clim(truth)), settings=SETTINGS)
    online = scorer(truth, members)
    for k, lead in enumerate(LEADS.tolist()):
        online.update(INITS, lead, torch.from_numpy(fields[:, k] if members > 1 else fields[:, k, 0]))
    assert offline.identical(online.finalize({"model": "afno"}))
    assert offline["num_inits"].values.tolist() == [4, 4, 3] and offline["num_inits_skipped"].values.tolist() == [0, 0, 1]
    assert {"wind_speed", "wind_vector"} <= set(offline.data_vars), "derived of the truth's components"


def test_members_in_any_batches_and_processes_give_the_same(tmp_path: Path) -> None:
    truth = record()
    fields = forecasts(truth)
    whole = scorer(truth)
    for k, lead in enumerate(LEADS.tolist()):
        whole.update(INITS, lead, fields[:, k])
    expected = whole.finalize()
    order = np.random.default_rng(5).permutation(len(INITS) * MEMBERS)
    single, first, second = scorer(record()), scorer(record()), scorer(record())
    for k in (2, 0, 1):
        for batch in np.array_split(order, 7):
            inits, numbers = batch // MEMBERS, batch % MEMBERS
            single.update(INITS[inits], int(LEADS[k]), fields[inits, k, numbers], numbers=numbers + 1)
        for part, chosen in ((first, [3, 1]), (second, [0, 2])):
            part.update(INITS[chosen], int(LEADS[k]), torch.from_numpy(fields[chosen, k]))
    assert expected.identical(single.finalize())
    first.save(tmp_path / "first.npz")
    second.save(tmp_path / "second.npz", inits=[int(INITS[0])])
    resumed = scorer(record())
    assert resumed.load(tmp_path / "first.npz") + resumed.load(tmp_path / "second.npz") == 5 + 3
    for k, lead in enumerate(LEADS.tolist()):
        resumed.update(INITS[2:3], lead, fields[2:3, k])
    assert expected.identical(resumed.finalize())
    second.merge(first)
    assert expected.identical(second.finalize())


def test_fields_are_forgotten_and_truth_is_read_once() -> None:
    truth = record()
    fields = forecasts(truth)
    online = scorer(truth)
    for k, lead in enumerate(LEADS.tolist()):
        for number in range(MEMBERS):
            online.update(INITS, lead, fields[:, k, number], numbers=np.full(len(INITS), number + 1))
            assert sum(len(seen) for _, seen in online._waiting.values()) == (0 if number + 1 == MEMBERS else (number + 1) * [4, 4, 3][k])
    assert truth.reads == 7, "every analysis once"


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    truth = record()
    fields = forecasts(truth)
    online = scorer(truth)
    with pytest.raises(DataError, match="member None of an ensemble of 5"):
        online.update(INITS[:1], int(LEADS[0]), fields[:1, 0, 0])
    online.update(INITS[:1], int(LEADS[0]), fields[:1, 0, 0], numbers=[2])
    with pytest.raises(DataError, match="member 2 of 2020-01-01T00 at lead 12h is scored twice"):
        online.update(INITS[:1], int(LEADS[0]), fields[:1, 0, 0], numbers=[2])
    with pytest.raises(DataError, match="has 1 of 5 members"):
        online.finalize()
    with pytest.raises(DataError, match="3 members given, 5 announced"):
        online.update(INITS[1:2], int(LEADS[0]), fields[1:2, 0, :3])
    done = scorer(truth)
    done.update(INITS, int(LEADS[0]), fields[:, 0])
    done.save(tmp_path / "rows.npz")
    with pytest.raises(DataError, match="is scored twice"):
        done.load(tmp_path / "rows.npz")
    other = OnlineScorer(truth, CHANNELS, INITS, LEADS, num_members=4, settings=SETTINGS)
    with pytest.raises(DataError, match=r"^these statistics belong to other scores"):
        other.load(tmp_path / "rows.npz")
    later = OnlineScorer(truth, CHANNELS, INITS, LEADS + 12 * HOUR, num_members=MEMBERS, references=References(clim(truth)), settings=SETTINGS)
    moved = scorer(replace(truth, where="another file"))
    longer = scorer(record(8))
    assert len({s.identity for s in (scorer(record()), done, other, later, moved, longer)}) == 5, "of leads, members and truth, not of what is done"


def test_a_damaged_file_of_statistics_is_refused_wherever_it_is_damaged(tmp_path: Path) -> None:
    identity, path = "a plan", tmp_path / "rows.npz"
    save_rows(path, {"": {(0, 6): {"error": np.ones(3), "square": np.ones(3)}}, "persistence": {(0, 6): {"error": np.ones(3)}}}, identity)
    whole, kept = path.read_bytes(), load_rows(path, identity)
    rng = np.random.default_rng(3)
    for damaged in (b"", b"PK nothing", *(whole[:n] for n in range(0, len(whole), 97))):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read"):
            load_rows(path, identity)
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ int(rng.integers(1, 256))]) + whole[position + 1:])
        try:
            found = load_rows(path, identity)
        except DataError:
            continue
        assert {name: {case: sorted(rows) for case, rows in cases.items()} for name, cases in found.items()} == {
            name: {case: sorted(rows) for case, rows in cases.items()} for name, cases in kept.items()}, position
