"""The packages `scores` and `xskillscore`, where they are installed (extra `verify`), give the same numbers."""

from __future__ import annotations

import warnings
from types import ModuleType

import numpy as np
import pytest
import xarray as xr

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.grid import LatLonGrid
from afno_forecast.verify.deterministic import Deterministic
from afno_forecast.verify.ensemble import Ensemble
from afno_forecast.verify.scores import Scorer, pick

GRID = LatLonGrid(np.linspace(-87.5, 87.5, 36), np.arange(8) * 45.0)
CHANNELS = ChannelSet((Channel("2m_temperature", None, "K"),))
RNG = np.random.default_rng(1)
TRUTH = RNG.normal(280, 5, (3, *GRID.shape)).astype(np.float32)
MEMBERS = (TRUTH[:, None] + RNG.normal(0.5, 3, (3, 6, *GRID.shape))).astype(np.float32)


def package(name: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other packages warn of while they are imported is not ours
        return pytest.importorskip(name)


def ours(*names: str) -> list[float]:
    scorer = Scorer(CHANNELS, GRID, regions=["global"], families=[Deterministic(), Ensemble(0)])
    scorer.update(np.arange(3), 3600, MEMBERS[:, :, None], TRUTH[:, None])
    return [float(pick(scorer.finalize(), "t2m", name)[0]) for name in names]


def named() -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    coords = {"latitude": GRID.latitude, "longitude": GRID.longitude, "time": np.arange(3)}
    truth = xr.DataArray(TRUTH.astype(float), dims=("time", "latitude", "longitude"), coords=coords)
    members = xr.DataArray(MEMBERS.astype(float), dims=("time", "member", "latitude", "longitude"), coords=coords)
    weights = xr.DataArray(GRID.area_weights(), dims=("latitude", "longitude"), coords={k: coords[k] for k in ("latitude", "longitude")})
    return members, truth, weights


def test_scores() -> None:
    package("scores")
    import scores.continuous
    import scores.probability

    members, truth, weights = named()
    crps = scores.probability.crps_for_ensemble(members, truth, "member", method="fair", weights=None, preserve_dims="all")
    rmse = scores.continuous.mse(members.mean("member"), truth, preserve_dims="all")
    mae = scores.continuous.mae(members.mean("member"), truth, preserve_dims="all")
    expected = [float(crps.weighted(weights).mean()), float(rmse.weighted(weights).mean()) ** 0.5, float(mae.weighted(weights).mean())]
    assert ours("crps", "rmse", "mae") == pytest.approx(expected, rel=1e-10)


def test_xskillscore() -> None:
    xs = package("xskillscore")
    members, truth, weights = named()
    full = weights.broadcast_like(truth)
    mean = members.mean("member")
    dims = ["time", "latitude", "longitude"]
    expected = [float(xs.rmse(mean, truth, dim=dims, weights=full)), float(xs.mae(mean, truth, dim=dims, weights=full))]
    assert ours("rmse", "mae") == pytest.approx(expected, rel=1e-10)
    histogram = xs.rank_histogram(truth.rename("t"), members.rename("t"), dim=["time", "latitude", "longitude"])
    ranks = (TRUTH[:, None] > MEMBERS).sum(axis=1)
    assert histogram.values.tolist() == [int((ranks == k).sum()) for k in range(7)]
