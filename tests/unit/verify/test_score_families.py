"""Every family of scores against plain numpy written from its definition, on 32, 33, 121 and 721 rows, either way up, limited or not."""

from __future__ import annotations

import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.errors import ConfigError
from afno_forecast.grid import BoxGrid, LatLonGrid
from afno_forecast.verify import significance
from afno_forecast.verify.deterministic import Deterministic
from afno_forecast.verify.ensemble import Ensemble
from afno_forecast.verify.extremes import Extremes
from afno_forecast.verify.precipitation import DAILY, DailySums, RainClimate, Seeps, rain_climate
from afno_forecast.verify.scores import Scorer, pick
from afno_forecast.verify.settings import ScoreSettings
from afno_forecast.verify.significance import block_length, compare
from afno_forecast.verify.spectra import EARTH_RADIUS_M, Spectra, effective_resolution, make_bands

HOUR = 3600
CHANNELS = ChannelSet((Channel("temperature", 850, "K"), Channel("2m_temperature", None, "K")))
QUANTILES = (0.05, 0.95)


def lat_lon(rows: int, columns: int, *, poles: bool = False, north_first: bool = False) -> LatLonGrid:
    half = 0 if poles else 90 / rows
    latitude = np.linspace(-90 + half, 90 - half, rows)
    return LatLonGrid(latitude[::-1] if north_first else latitude, np.arange(columns) * 360 / columns)


GRIDS = {"32 rows": lat_lon(32, 6), "33 rows": lat_lon(33, 7, poles=True), "121 rows, north first": lat_lon(121, 4, poles=True, north_first=True),
         "721 rows": lat_lon(721, 4, poles=True), "32 rows, north first": lat_lon(32, 5, north_first=True),
         "limited area": LatLonGrid(np.array([30.0, 33.0, 37.0, 42.0]), np.array([350.0, 352.5, 357.0, 361.0, 366.0]))}


def weights_of(grid: LatLonGrid) -> np.ndarray:
    """sin(upper) - sin(lower) times the width of a column, sum 1."""
    edges = np.sin(np.deg2rad(grid.latitude_edges()))
    middle = (grid.longitude[1:] + grid.longitude[:-1]) / 2
    widths = np.full(len(grid.longitude), 1.0) if grid.periodic else np.diff(np.concatenate(
        [[1.5 * grid.longitude[0] - 0.5 * grid.longitude[1]], middle, [1.5 * grid.longitude[-1] - 0.5 * grid.longitude[-2]]]))
    weights = np.abs(np.diff(edges))[:, None] * widths[None, :]
    return weights / weights.sum()


def data(grid: LatLonGrid, num: int, members: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Members (N, E, C, H, W), truth and climatology (N, C, H, W)."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(280, 10, (num, len(CHANNELS), *grid.shape)).astype(np.float32)
    error = rng.normal(0.3, 4, truth.shape)[:, None] + rng.normal(0, 2, (num, members, *truth.shape[1:]))
    forecast = truth[:, None] + error.astype(np.float32)
    return forecast, truth, (truth + rng.normal(0, 5, truth.shape)).astype(np.float32)


def score(grid: LatLonGrid, families: list, forecast: np.ndarray, truth: np.ndarray, climatology: np.ndarray | None = None, **options: object):
    scorer = Scorer(CHANNELS, grid, regions=["global"], families=families, **options)
    scorer.update(np.arange(len(truth)) * 6 * HOUR, 24 * HOUR, forecast, truth, climatology)
    return scorer.finalize()


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("name", GRIDS)
def test_deterministic(name: str, num: int) -> None:
    grid = GRIDS[name]
    forecast, truth, climatology = data(grid, num, 1)
    scores = score(grid, [Deterministic()], forecast[:, 0], truth, climatology)
    w = weights_of(grid)
    for i, channel in enumerate(CHANNELS):
        f, o, c = (x[:, i].astype(np.float64) for x in (forecast[:, 0], truth, climatology))
        mean = [(o[n] * w).sum() for n in range(num)]
        expected = {
            "mae": np.mean([(abs(f[n] - o[n]) * w).sum() for n in range(num)]),
            "activity": np.sqrt(np.mean([((f[n] - c[n]) ** 2 * w).sum() for n in range(num)])),
            "activity_truth": np.sqrt(np.mean([((o[n] - c[n]) ** 2 * w).sum() for n in range(num)])),
            "vrmse": np.mean([np.sqrt(((f[n] - o[n]) ** 2 * w).sum() / ((o[n] - mean[n]) ** 2 * w).sum()) for n in range(num)])}
        for metric, value in expected.items():
            assert float(pick(scores, channel.short, metric)[0]) == pytest.approx(value, rel=1e-10), metric


@pytest.mark.parametrize("unit", [1e-6, 1e4])
def test_vrmse_does_not_depend_on_the_unit(unit: float) -> None:
    """A vorticity in 1/s is of the order 1e-5, and its score is that of the same field in any other unit."""
    grid = GRIDS["33 rows"]
    forecast, truth, _ = data(grid, 2, 1, 5)
    expected, scaled = (score(grid, [Deterministic()], forecast[:, 0] * u, truth * u) for u in (np.float32(1), np.float32(unit)))
    for channel in CHANNELS:
        assert float(pick(scaled, channel.short, "vrmse")[0]) == pytest.approx(float(pick(expected, channel.short, "vrmse")[0]), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 280.0])
def test_vrmse_of_a_constant_truth_is_undefined(value: float) -> None:
    """There is nothing to compare the error with: neither where the whole field is constant nor where a region of it is."""
    grid = GRIDS["33 rows"]
    forecast, truth, _ = data(grid, 1, 1, 6)
    truth[:, 0] = value
    truth[:, 1, abs(grid.latitude) <= 20] = value
    scorer = Scorer(CHANNELS, grid, regions=["global", "tropics"], families=[Deterministic()])
    scorer.update(np.zeros(1, dtype=np.int64), 24 * HOUR, forecast[:, 0], truth)
    scores = scorer.finalize()
    assert np.isnan(scores["temperature"].sel(metric="vrmse").values).all()
    assert np.isnan(scores["2m_temperature"].sel(metric="vrmse").values).tolist() == [[False], [True]]
    assert np.isfinite(scores["2m_temperature"].sel(metric="rmse").values).all()


@pytest.mark.parametrize("members", [2, 5])
@pytest.mark.parametrize("name", GRIDS)
def test_ensemble(name: str, members: int) -> None:
    grid, num = GRIDS[name], 2
    forecast, truth, _ = data(grid, num, members)
    scores = score(grid, [Deterministic(), Ensemble(3)], forecast, truth)
    w = weights_of(grid)
    for i, channel in enumerate(CHANNELS):
        x, o = forecast[:, :, i].astype(np.float64), truth[:, i].astype(np.float64)
        pairs = [(a, b) for a in range(members) for b in range(members) if a != b]
        norm = len(pairs)
        crps, variance, skill, energy, single = [], [], [], [], []
        for n in range(num):
            spread = sum(abs(x[n, a] - x[n, b]) for a, b in pairs) / norm
            crps.append(((abs(x[n] - o[n]).mean(axis=0) - spread / 2) * w).sum())
            variance.append((x[n].var(axis=0, ddof=1) * w).sum())
            skill.append((((x[n].mean(axis=0) - o[n]) ** 2 - x[n].var(axis=0, ddof=1) / members) * w).sum())
            apart = sum(np.sqrt(((x[n, a] - x[n, b]) ** 2 * w).sum()) for a, b in pairs) / norm
            energy.append(np.mean([np.sqrt(((m - o[n]) ** 2 * w).sum()) for m in x[n]]) - apart / 2)
            single.append(np.mean([((m - o[n]) ** 2 * w).sum() for m in x[n]]))
        expected = {"crps": np.mean(crps), "spread": np.sqrt(np.mean(variance)), "skill": np.sqrt(np.mean(skill)), "energy_score": np.mean(energy),
                    "spread_skill": np.sqrt(np.mean(variance)) / np.sqrt(np.mean(skill)), "rmse_of_members": np.sqrt(np.mean(single)),
                    "rmse": np.sqrt(np.mean([((x[n].mean(axis=0) - o[n]) ** 2 * w).sum() for n in range(num)]))}
        for metric, value in expected.items():
            assert float(pick(scores, channel.short, metric)[0]) == pytest.approx(value, rel=1e-10, nan_ok=True), (channel.short, metric)
        histogram = scores[f"{channel.variable}_rank_histogram"].sel(region="global").isel(lead_time=0)
        histogram = histogram.sel(level=channel.level) if channel.level else histogram
        ranks = (x < o[:, None]).sum(axis=1)
        assert histogram.values == pytest.approx([np.mean([(w * (r == k)).sum() for r in ranks]) for k in range(members + 1)], abs=1e-12)


def test_a_calibrated_ensemble_scores_one_and_has_a_flat_histogram() -> None:
    grid = lat_lon(32, 64)
    rng = np.random.default_rng(4)
    shape = (4, 1, 1, *grid.shape)
    centre = rng.normal(0, 5, shape)
    forecast = (centre + rng.normal(0, 2, (4, 7, 2, *grid.shape))).astype(np.float32)
    truth = (centre[:, 0] + rng.normal(0, 2, (4, 2, *grid.shape))).astype(np.float32)
    scores = score(grid, [Deterministic(), Ensemble(0)], forecast, truth)
    assert float(pick(scores, "t2m", "spread_skill")[0]) == pytest.approx(1, abs=0.05)
    assert np.allclose(scores["2m_temperature_rank_histogram"].values, 1 / 8, atol=0.02)


def test_equal_members_share_their_places_by_lot() -> None:
    grid = lat_lon(33, 64)
    truth = np.zeros((1, 2, *grid.shape), np.float32)
    forecast = np.zeros((1, 3, *truth.shape[1:]), np.float32)
    histograms = [score(grid, [Deterministic(), Ensemble(seed)], forecast, truth)["2m_temperature_rank_histogram"].values.ravel()
                  for seed in (0, 0, 1)]
    assert np.allclose(histograms[0], 0.25, atol=0.03)
    assert (histograms[0] == histograms[1]).all() and not (histograms[0] == histograms[2]).all()


def test_spectra_are_weatherbenchs() -> None:
    grid = lat_lon(33, 12, poles=True)
    forecast, truth, _ = data(grid, 2, 3)
    scores = score(grid, [Deterministic(), Spectra(grid, 0.5)], forecast, truth)
    w = weights_of(grid).sum(axis=1)
    rows = np.flatnonzero(abs(grid.latitude) <= 20)
    got = scores["temperature_energy_spectrum"].sel(band="tropics", level=850).isel(lead_time=0)
    for series, fields in (("truth", truth[:, 0]), ("forecast", forecast[:, :, 0])):
        total = np.zeros(7)
        flat = fields.reshape(-1, *grid.shape).astype(np.float64)
        for field in flat:
            for h in rows:
                circle = 2 * np.pi * EARTH_RADIUS_M * np.cos(np.deg2rad(grid.latitude[h]))
                for k in range(7):
                    coefficient = (field[h] * np.exp(-2j * np.pi * k * np.arange(12) / 12)).mean()
                    total[k] += w[h] / w[rows].sum() * circle * abs(coefficient) ** 2 * (1 if k == 0 else 2) / len(flat)
        assert got.sel(series=series).values == pytest.approx(total, rel=1e-9)


def test_effective_resolution_is_where_the_energy_goes() -> None:
    truth = np.ones((1, 9, 1))
    for cut, expected in ((5, 100 / 5), (9, 100 / 8), (1, 100.0)):
        forecast = np.where(np.arange(9)[None, :, None] >= cut, 0.3, 0.9) * truth
        assert effective_resolution(np.stack([forecast, truth]), np.array([100.0]), 0.5)[0, 0] == expected
    noisy = np.where(np.arange(9)[None, :, None] >= 6, 3.0, 1.1) * truth
    assert effective_resolution(np.stack([noisy, truth]), np.array([100.0]), 0.5)[0, 0] == 100 / 6
    assert make_bands(GRIDS["limited area"]) == () and make_bands(BoxGrid(np.arange(4.0), np.arange(6.0), False)) == ()
    assert [b.circumference for b in make_bands(BoxGrid(np.arange(4.0), np.arange(6.0) / 2))] == [3.0]


@pytest.mark.parametrize("name", ["33 rows", "32 rows, north first", "limited area"])
def test_extremes(name: str) -> None:
    grid = GRIDS[name]
    forecast, truth, climatology = data(grid, 3, 2)
    departures = np.random.default_rng(8).normal(0, 1, (2, 2, *grid.shape)).astype(np.float32) + np.array([-6, 6], np.float32)[:, None, None, None]
    scores = score(grid, [Deterministic(), Extremes(QUANTILES, departures)], forecast, truth, climatology)
    w = weights_of(grid)

    def quantile(field: np.ndarray, q: float) -> float:
        values = sorted(zip(field.ravel(), w.ravel(), strict=True))
        total = 0.0
        for value, weight in values:
            total += weight
            if total >= q - 1e-12:
                return value
        return values[-1][0]

    for i, channel in enumerate(CHANNELS):
        x, o, c = (y.astype(np.float64) for y in (forecast[:, :, i], truth[:, i], climatology[:, i]))
        for q, level in enumerate(QUANTILES):
            median = np.mean([quantile(t, 0.5) for t in o])
            ours = np.mean([np.mean([quantile(m, level) for m in e]) for e in x])
            expected = (ours - median) / (np.mean([quantile(t, level) for t in o]) - median)
            assert float(pick(scores, channel.short, f"quantile_ratio_{100 * level:g}")[0]) == pytest.approx(expected, rel=1e-10)
            table = np.zeros(4)
            for n in range(3):
                for m in x[n]:
                    limit = c[n] + departures[q, i]
                    f, t = (m > limit, o[n] > limit) if level > 0.5 else (m < limit, o[n] < limit)
                    table += [(w * s).sum() for s in (f & t, f & ~t, ~f & t, ~f & ~t)]
            hit, false = table[0] / (table[0] + table[2]), table[1] / (table[1] + table[3])
            logs = np.log([false, hit, 1 - false, 1 - hit])
            expected = (logs[0] - logs[1] - logs[2] + logs[3]) / logs.sum()
            assert float(pick(scores, channel.short, f"sedi_{100 * level:g}")[0]) == pytest.approx(expected, rel=1e-9)


def test_land_and_sea_are_cells_by_their_land_fraction() -> None:
    grid = GRIDS["33 rows"]
    forecast, truth, _ = data(grid, 2, 1)
    land = np.random.default_rng(3).uniform(size=grid.shape)
    scorer = Scorer(CHANNELS, grid, land_fraction=land)
    assert scorer.region_names[-2:] == ("land", "sea")
    scorer.update(np.array([0, HOUR]), HOUR, forecast[:, 0], truth)
    for region, inside in (("land", land >= 0.5), ("sea", land < 0.5)):
        w = weights_of(grid) * inside
        expected = np.sqrt(np.mean([((forecast[n, 0, 1].astype(np.float64) - truth[n, 1]) ** 2 * w).sum() / w.sum() for n in range(2)]))
        assert float(pick(scorer.finalize(), "t2m", "rmse", region=region)[0]) == pytest.approx(expected, rel=1e-10)
    with pytest.raises(ConfigError, match="needs the land fraction"):
        Scorer(CHANNELS, grid, regions=["land"])
    with pytest.raises(ConfigError, match="no cell"):
        Scorer(CHANNELS, grid, regions=["sea"], land_fraction=np.ones(grid.shape))


def test_seeps_by_its_table_and_masked_where_too_dry_or_too_wet() -> None:
    grid = GRIDS["32 rows"]
    rng = np.random.default_rng(6)
    p = rng.uniform(0, 1, grid.shape)
    heavy = rng.uniform(1e-3, 8e-3, grid.shape)
    forecast, truth = (np.maximum(rng.normal(0, 6e-3, (2, 1, *grid.shape)), 0).astype(np.float32) for _ in range(2))
    scorer = Scorer(ChannelSet((DAILY,)), grid, regions=["global"], families=[Deterministic(), Seeps(RainClimate(p, heavy, 100))])
    scorer.update(np.array([0, HOUR]), 24 * HOUR, forecast, truth)
    w = weights_of(grid)
    costs, total = 0.0, 0.0
    for n in range(2):
        for h, c in np.ndindex(grid.shape):
            if not 0.1 <= p[h, c] <= 0.85:
                continue
            q = p[h, c]
            cost = np.array([[0, 1 / (1 - q), 4 / (1 - q)], [1 / q, 0, 3 / (1 - q)], [1 / q + 3 / (2 + q), 3 / (2 + q), 0]]) / 2
            f, o = (0 if v <= 0.25e-3 else 1 if v < heavy[h, c] else 2 for v in (float(forecast[n, 0, h, c]), float(truth[n, 0, h, c])))
            costs += w[h, c] * cost[f, o]
            total += w[h, c]
    assert float(pick(scorer.finalize(), "tp24h", "seeps")[0]) == pytest.approx(costs / total, rel=1e-10)


def test_seeps_of_chance_is_one_and_of_the_truth_zero() -> None:
    grid = lat_lon(32, 64)
    rng = np.random.default_rng(2)
    rain = np.maximum(rng.gamma(0.4, 4e-3, (400, 1, *grid.shape)) - 1e-3, 0).astype(np.float32)

    class Record:
        channels = ChannelSet((Channel("total_precipitation_6hr", None, "m"),))
        times = type("T", (), {"seconds": np.arange(400, dtype=np.int64) * 6 * HOUR})
        read = staticmethod(lambda index: rain[index])

    climate = rain_climate(Record())
    assert climate is not None and climate.num_days == 397
    days = np.stack([rain[k:k + 4, 0].astype(np.float64).sum(axis=0) for k in range(0, 396, 4)])
    dry = np.mean([rain[k:k + 4, 0].astype(float).sum(axis=0) <= 0.25e-3 for k in range(397)], axis=0)
    assert climate.dry_fraction == pytest.approx(dry, abs=0.01)
    scorer = Scorer(ChannelSet((DAILY,)), grid, regions=["global"], families=[Deterministic(), Seeps(climate)])
    for lead, forecast in ((24, days), (48, np.roll(days, 17, axis=0))):
        scorer.update(np.arange(99), lead * HOUR, forecast[:, None].astype(np.float32), days[:, None].astype(np.float32))
    assert pick(scorer.finalize(), "tp24h", "seeps").values == pytest.approx([0, 1], abs=0.05)


def test_the_climate_of_rain_keeps_no_other_channel_in_memory() -> None:
    """A record of many channels is read state by state; of each only the rain is kept."""
    states: list[weakref.ref[np.ndarray]] = []
    alive = []

    def read(index: np.ndarray) -> np.ndarray:
        alive.append(sum(s() is not None for s in states))
        state = np.full((len(index), 9, 4, 6), 1e-3, np.float32)
        states.append(weakref.ref(state))
        return state

    record = SimpleNamespace(channels=ChannelSet((*(Channel("temperature", k, "K") for k in range(100, 900, 100)),
                                                  Channel("total_precipitation_6hr", None, "m"))),
                             times=SimpleNamespace(seconds=np.arange(20, dtype=np.int64) * 6 * HOUR), read=read)
    climate = rain_climate(record)  # type: ignore[arg-type]
    assert climate is not None and climate.num_days == 17 and not climate.dry_fraction.any()
    assert len(alive) == 20 and max(alive) <= 1


def test_days_are_summed_in_any_order_and_forgotten() -> None:
    amounts = {lead: np.full((2, 3, 4), lead, np.float32) for lead in range(6, 49, 6)}
    expected = {end: sum(range(end - 18, end + 1, 6)) for end in range(24, 49, 6)}
    for order in (sorted(amounts), sorted(amounts, reverse=True), [24, 6, 48, 12, 18, 36, 30, 42]):
        sums = DailySums([k * HOUR for k in amounts])
        found = {lead // HOUR: float(value[1, 2, 3]) for k in order for lead, value in sums.add(0, k * HOUR, amounts[k])}
        assert found == expected and not sums._waiting[0]
    gap = DailySums([k * HOUR for k in amounts], lambda init, lead: lead != 18 * HOUR)  # the truth lacks one valid time
    found = [lead // HOUR for k in sorted(amounts) for lead, _ in gap.add(0, k * HOUR, amounts[k])]
    assert found == [42, 48] and not gap._waiting[0], "days without it are not waited for"
    assert not list(DailySums([24 * HOUR, 48 * HOUR]).add(0, 24 * HOUR, amounts[24])), "without the six-hourly leads there is no day"


def two_scorers(better: float, num: int = 40) -> tuple[Scorer, Scorer]:
    grid = lat_lon(8, 6)
    rng = np.random.default_rng(9)
    truth = rng.normal(0, 1, (num, 2, *grid.shape)).astype(np.float32)
    scorers = []
    for error in (1.0, better):
        scorer = Scorer(CHANNELS, grid, regions=["global"])
        scorer.update(np.arange(num) * 12 * HOUR, 24 * HOUR, truth + error * rng.normal(0, 1, truth.shape).astype(np.float32), truth)
        scorers.append(scorer)
    return scorers[0], scorers[1]


def test_a_difference_is_found_and_chance_is_not() -> None:
    ours, theirs = two_scorers(1.5)
    found = compare(ours, theirs, 24 * HOUR, block_seconds=2 * 86400, replicates=300, seed=1)
    observed = np.sqrt(ours.mean(24 * HOUR)["squared"]) - np.sqrt(theirs.mean(24 * HOUR)["squared"])
    assert found["rmse"] == pytest.approx(observed, rel=1e-10)
    assert (found["rmse_low"] < observed).all() and (observed < found["rmse_high"]).all()
    assert (found["rmse_high"] < 0).all() and (found["rmse_p"] < 0.02).all()
    alike = compare(*two_scorers(1.0), 24 * HOUR, block_seconds=2 * 86400, replicates=300, seed=1)
    assert (alike["rmse_low"] < 0).all() and (alike["rmse_high"] > 0).all() and (alike["rmse_p"] > 0.05).all()
    again = compare(ours, theirs, 24 * HOUR, block_seconds=2 * 86400, replicates=300, seed=1)
    other = compare(ours, theirs, 24 * HOUR, block_seconds=2 * 86400, replicates=300, seed=2)
    assert (again["rmse_low"] == found["rmse_low"]).all() and (other["rmse_low"] != found["rmse_low"]).any()


def test_blocks_hold_the_stated_duration() -> None:
    inits = [k * 12 * HOUR for k in range(20)]
    assert [block_length(inits, d * 86400) for d in (0, 1, 5, 100)] == [1, 2, 10, 200]
    assert block_length([0], 86400) == 1


@pytest.mark.parametrize(("num", "days", "tested"), [(1, 5, False), (40, 20, False), (40, 19, False), (14, 1, False), (16, 1, True)])
def test_too_few_blocks_are_no_test(num: int, days: int, tested: bool) -> None:
    """Blocks as long as the record are all alike: the intervals would have no width and every difference would be certain."""
    found = compare(*two_scorers(1.5, num), 24 * HOUR, block_seconds=days * 86400, replicates=50, seed=1)
    assert np.isfinite(found["rmse"]).all()
    for ending in ("low", "high", "p"):
        assert (np.isfinite(found[f"rmse_{ending}"]) == tested).all()


def test_chance_passes_for_a_difference_at_most_twice_as_often_as_the_test_says() -> None:
    """8 blocks of 2 independent differences, none of which is true: 5 % of the cases should be found, and 10 % are."""
    rng = np.random.default_rng(2)
    samples = rng.normal(0, 1, (16, 1000))
    counts = significance._draw([k * 86400 for k in range(16)], 2 * 86400, 400, rng)
    p = significance._interval(samples.mean(axis=0), counts @ samples / 16)[2]
    assert 0.05 < (p < 0.05).mean() < 0.12


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="did you mean 'spectra'"):
        ScoreSettings(kinds=("spectrum",))
    with pytest.raises(ConfigError, match="lie between 0 and 1"):
        ScoreSettings(quantiles=(0.5,))
