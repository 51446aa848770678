"""The scorer against plain numpy sums, and that no division of the work changes a digit."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
import xarray as xr

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.errors import ConfigError, DataError, DivergenceError
from afno_forecast.grid import BoxGrid, LatLonGrid
from afno_forecast.verify.regions import REGION_NAMES, default_regions
from afno_forecast.verify.scores import Scorer, pick, relative_to_persistence, scored_channels

CHANNELS = ChannelSet((Channel("temperature", 850, "K"), Channel("2m_temperature", None, "K"), Channel("geopotential", 500, "m2 s-2"),
                       Channel("temperature", 300, "K")))
HOUR = 3600


def lat_lon(rows: int, columns: int, *, poles: bool = False) -> LatLonGrid:
    half = 0 if poles else 90 / rows
    return LatLonGrid(np.linspace(-90 + half, 90 - half, rows), np.arange(columns) * 360 / columns)


GRIDS = {
    "5x8": lat_lon(5, 8),
    "33 rows with poles": lat_lon(33, 10, poles=True),
    "north first": LatLonGrid(np.linspace(80, -80, 9), np.arange(7) * 360 / 7),
    "gaussian": LatLonGrid(np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(6)[0])), np.arange(11) * 360 / 11),
    "limited area": LatLonGrid(np.array([30.0, 33.0, 37.0, 42.0]), np.array([350.0, 352.5, 357.0, 361.0, 366.0])),
    "box": BoxGrid(np.arange(5.0), np.arange(7) * 0.5),
}


def data(grid: LatLonGrid | BoxGrid, num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (num, len(CHANNELS), *grid.shape)
    truth = rng.normal(280, 10, shape).astype(np.float32)
    return truth + rng.normal(0.3, 2, shape).astype(np.float32), truth, (truth + rng.normal(0, 5, shape)).astype(np.float32)


def plain_weights(grid: LatLonGrid | BoxGrid) -> np.ndarray:
    """Cell areas from the definition, cell by cell."""
    if isinstance(grid, BoxGrid):
        return np.ones(grid.shape)
    edges = grid.latitude_edges()
    longitude = grid.longitude
    weights = np.empty(grid.shape)
    for h in range(grid.shape[0]):
        for w in range(grid.shape[1]):
            left = longitude[w - 1] if w else (longitude[-1] - 360 if grid.periodic else 2 * longitude[0] - longitude[1])
            right = longitude[w + 1] if w + 1 < len(longitude) else (longitude[0] + 360 if grid.periodic else 2 * longitude[-1] - longitude[-2])
            weights[h, w] = abs(np.sin(np.deg2rad(edges[h + 1])) - np.sin(np.deg2rad(edges[h]))) * (right - left) / 2
    return weights


def plain_scores(p: np.ndarray, t: np.ndarray, c: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Definitions of WeatherBench for one channel; (N, H, W)."""
    w = weights / weights.sum()
    p, t, c = (x.astype(np.float64) for x in (p, t, c))
    area = lambda x: (x * w).sum(axis=(1, 2))  # noqa: E731
    cov, var, var_t = area((p - c) * (t - c)), area((p - c) ** 2), area((t - c) ** 2)
    return {"rmse": np.sqrt(area((p - t) ** 2).mean()), "bias": area(p - t).mean(), "acc": cov.mean() / np.sqrt(var.mean() * var_t.mean()),
            "acc_mean_of_inits": (cov / np.sqrt(var * var_t)).mean()}


@pytest.mark.parametrize("name", GRIDS)
def test_scores_equal_the_definitions(name: str) -> None:
    grid = GRIDS[name]
    p, t, c = data(grid, 3)
    scorer = Scorer(CHANNELS, grid, regions=["global"])
    scorer.update(np.array([0, 24, 48]) * HOUR, 6 * HOUR, p, t, c)
    scores = scorer.finalize()
    assert scores["temperature"].dims == ("metric", "region", "lead_time", "level")
    assert scores["2m_temperature"].dims == ("metric", "region", "lead_time")
    assert scores["level"].values.tolist() == [300, 500, 850]
    for i, channel in enumerate(CHANNELS):
        for metric, expected in plain_scores(p[:, i], t[:, i], c[:, i], plain_weights(grid)).items():
            assert float(pick(scores, channel.short, metric)[0]) == pytest.approx(expected, rel=1e-10, abs=1e-10), (channel.name, metric)
    assert np.isnan(scores["temperature"].sel(level=500)).all()
    assert scores["num_inits"].values.tolist() == [3]


def test_regions_are_boxes_of_cell_centres() -> None:
    grid = lat_lon(37, 72, poles=True)
    p, t, c = data(grid, 2)
    scorer = Scorer(CHANNELS, grid)
    assert scorer.region_names == REGION_NAMES == default_regions(grid)
    scorer.update(np.array([0, 6]) * HOUR, 24 * HOUR, p, t, c)
    scores = scorer.finalize()
    lat, lon = np.meshgrid(grid.latitude, grid.longitude, indexing="ij")
    masks = {"tropics": abs(lat) <= 20, "extra-tropics": abs(lat) >= 20, "northern-hemisphere": lat >= 20, "southern-hemisphere": lat <= -20,
             "europe": (lat >= 35) & (lat <= 75) & ((lon >= 347.5) | (lon <= 42.5)),
             "ausnz": (lat >= -45) & (lat <= -12.5) & (lon >= 120) & (lon <= 175),
             "north-atlantic": (lat >= 25) & (lat <= 65) & (lon >= 290) & (lon <= 350), "arctic": lat >= 60, "antarctic": lat <= -60}
    for region, mask in masks.items():
        for metric, expected in plain_scores(p[:, 1], t[:, 1], c[:, 1], plain_weights(grid) * mask).items():
            assert float(pick(scores, "t2m", metric, region=region)[0]) == pytest.approx(expected, rel=1e-10, abs=1e-10), (region, metric)


def test_regions_do_not_depend_on_coordinates_kept_as_float32() -> None:
    exact = lat_lon(19, 36, poles=True)
    rounded = LatLonGrid(exact.latitude + 3e-7, np.float32(exact.longitude))
    for a, b in zip(Scorer(CHANNELS, exact).areas.regions, Scorer(CHANNELS, rounded).areas.regions, strict=True):
        assert a.rows.tolist() == b.rows.tolist()
        assert (a.columns is None) == (b.columns is None) and (a.columns is None or a.columns.tolist() == b.columns.tolist())


@pytest.mark.parametrize("grid", [GRIDS["limited area"], GRIDS["box"]])
def test_other_grids_have_only_the_whole_domain(grid: LatLonGrid | BoxGrid) -> None:
    assert Scorer(CHANNELS, grid).region_names == ("global",)
    with pytest.raises(ConfigError, match="needs a grid with all longitudes and its latitudes"):
        Scorer(CHANNELS, grid, regions=["tropics"])


def test_regions_need_all_longitudes_and_rows_that_cover_them() -> None:
    columns = np.arange(144) * 2.5
    without_a_pole = LatLonGrid(np.linspace(-87.5, 90, 72), columns)
    assert not without_a_pole.is_global and default_regions(without_a_pole) == REGION_NAMES
    assert default_regions(LatLonGrid(np.linspace(-60, 62.5, 50), columns)) == (
        "global", "tropics", "north-america", "north-atlantic", "north-pacific", "east-asia", "ausnz"), "one row may be missing"
    assert default_regions(LatLonGrid(np.linspace(-87.5, 90, 72), columns[:100])) == ("global",)


def test_an_unknown_region_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'europe'"):
        Scorer(CHANNELS, GRIDS["5x8"], regions=["erope"])


def test_order_batch_and_merge_do_not_change_a_digit() -> None:
    grid = lat_lon(33, 64)
    p, t, c = data(grid, 7)
    inits = np.array([5, 3, 11, 2, 40, 17, 8], dtype=np.int64) * HOUR
    whole = Scorer(CHANNELS, grid)
    for lead in (6, 12):
        whole.update(inits, lead * HOUR, p + lead, t, c)
    single, first, second = Scorer(CHANNELS, grid), Scorer(CHANNELS, grid), Scorer(CHANNELS, grid)
    for k in (6, 0, 3, 1, 5, 2, 4):
        for lead in (12, 6):
            single.update(inits[k:k + 1], lead * HOUR, *(torch.from_numpy(x[k:k + 1]) for x in (p + lead, t, c)))
    for part, keys in ((first, [4, 1, 6]), (second, [0, 2, 3, 5])):
        for lead in (6, 12):
            part.update(inits[keys], lead * HOUR, p[keys] + lead, t[keys], c[keys])
    second.merge(first)
    expected = whole.finalize()
    for scorer in (single, second):
        assert expected.identical(scorer.finalize())


def test_memory_layout_does_not_change_a_digit() -> None:
    grid = lat_lon(9, 14)
    arrays = data(grid, 2)
    results = []
    for prepare in (np.ascontiguousarray, lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
                    lambda x: np.ascontiguousarray(x[:, :, ::-1, ::-1])[:, :, ::-1, ::-1]):
        scorer = Scorer(CHANNELS, grid)
        scorer.update(np.array([0, 1]), 6 * HOUR, *(prepare(x) for x in arrays))
        results.append(scorer.finalize())
    assert results[0].identical(results[1]) and results[1].identical(results[2])


def test_blocks_of_channels_do_not_change_a_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = lat_lon(9, 14)
    p, t, c = data(grid, 2)
    results = []
    for block in (1, 3 * 9 * 14, 1 << 20):
        monkeypatch.setattr("afno_forecast.verify.scores._BLOCK", block)
        scorer = Scorer(CHANNELS, grid)
        scorer.update(np.array([0, 1]), 6 * HOUR, p, t, c)
        results.append(scorer.finalize())
    assert results[0].identical(results[1]) and results[1].identical(results[2])


def test_half_precision_tensors_are_taken() -> None:
    grid = GRIDS["5x8"]
    p, t, _ = data(grid, 1)
    scorer = Scorer(CHANNELS, grid)
    scorer.update(np.array([0]), HOUR, torch.from_numpy(p).bfloat16(), torch.from_numpy(t).requires_grad_(), None)
    assert scorer.finalize()["metric"].values.tolist() == ["rmse", "bias", "mae", "vrmse"]


def test_the_same_forecast_twice_is_refused() -> None:
    grid = GRIDS["5x8"]
    p, t, c = data(grid, 1)
    a, b = Scorer(CHANNELS, grid), Scorer(CHANNELS, grid)
    for scorer in (a, b):
        scorer.update(np.array([0]), 6 * HOUR, p, t, c)
    with pytest.raises(DataError, match="from 1970-01-01T00 at lead 6h is scored twice"):
        a.update(np.array([0]), 6 * HOUR, p, t, c)
    with pytest.raises(DataError, match="scored twice"):
        a.merge(b)
    with pytest.raises(DataError, match="different"):
        a.merge(Scorer(CHANNELS.select(["t850"]), grid))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_forecast_that_is_not_finite_is_named(value: float) -> None:
    grid = GRIDS["5x8"]
    p, t, c = data(grid, 2)
    p[1, 2, 3, 4] = value
    with pytest.raises(DivergenceError, match=r"z500\n.*1970-01-02T00, lead 3d"):
        Scorer(CHANNELS, grid, regions=["tropics"]).update(np.array([0, 24]) * HOUR, 72 * HOUR, p, t, c)


def test_missing_values_at_lead_zero_are_of_the_data_and_no_divergence() -> None:
    p, t, c = data(GRIDS["5x8"], 1)
    p[0, 1] = np.nan
    with pytest.raises(DataError, match=r"missing values in t2m at lead 0h\n.*1970-01-01T00, lead 0h\n.*--leads, or leave the variable out"):
        Scorer(CHANNELS, GRIDS["5x8"]).update(np.array([0]), 0, p, t, c)


def test_a_truth_that_is_not_finite_is_named() -> None:
    grid = GRIDS["5x8"]
    p, t, c = data(grid, 1)
    t[0, 1, 0, 0] = np.nan
    with pytest.raises(DataError, match="truth has missing or infinite values in t2m"):
        Scorer(CHANNELS, grid).update(np.array([0]), HOUR, p, t, c)


def test_days_without_climatology_are_said_and_leave_the_other_scores(caplog: pytest.LogCaptureFixture) -> None:
    grid = GRIDS["5x8"]
    p, t, c = data(grid, 3)
    c[1, 0] = np.nan
    scorer = Scorer(CHANNELS, grid)
    scorer.update(np.arange(3) * HOUR, 6 * HOUR, p, t, c)
    scorer.update(np.arange(3) * HOUR, 12 * HOUR, p, t, t - 1)
    with caplog.at_level(logging.WARNING):
        scores = scorer.finalize()
    assert "1 at 6h" in caplog.text and "1 at 6h" in scores.attrs["notes"]
    assert scores["num_inits_without_climatology"].values.tolist() == [1, 0]
    assert np.isnan(pick(scores, "t850", "acc")).values.tolist() == [True, False]
    assert np.isfinite(pick(scores, "t850", "rmse")).all() and np.isfinite(pick(scores, "t2m", "acc")).all()


def test_shapes_and_emptiness_are_refused() -> None:
    grid = GRIDS["5x8"]
    p, t, c = data(grid, 2)
    with pytest.raises(DataError, match="truth has shape"):
        Scorer(CHANNELS, grid).update(np.array([0, 1]), HOUR, p, t[:1], c)
    with pytest.raises(DataError, match="no forecast was scored"):
        Scorer(CHANNELS, grid).finalize()


def test_relative_to_persistence_is_the_mean_of_ratios() -> None:
    grid = GRIDS["5x8"]
    p, t, _ = data(grid, 2)
    parts = []
    for kind, factor in (("", 1), ("_persistence", 2)):
        scorer = Scorer(CHANNELS, grid)
        for lead in (24, 72):
            scorer.update(np.array([0, 1]), lead * HOUR, t + (p - t) * np.float32(factor * (1 if lead == 24 or kind == "" else 2)), t)
        part = scorer.finalize()
        part = part.drop_vars(["num_inits", "num_inits_without_climatology"])
        parts.append(part.assign_coords(metric=[f"{m}{kind}" for m in part["metric"].values]))
    scores = xr.concat(parts, dim="metric", data_vars="all", coords="different", compat="equals", join="outer", combine_attrs="override")
    assert relative_to_persistence(scores, (24, 72)) == pytest.approx((1 / 2 + 1 / 4) / 2, rel=1e-5)
    assert relative_to_persistence(scores, (24,), ["t300"]) == pytest.approx(1 / 2, rel=1e-5)
    assert sorted(scored_channels(scores)) == ["t2m", "t300", "t850", "z500"]
    with pytest.raises(DataError, match="no score at lead 120, 240 h"):
        relative_to_persistence(scores)
    with pytest.raises(DataError, match="'t500' has no score"):
        relative_to_persistence(scores, (24,), ["t500"])
