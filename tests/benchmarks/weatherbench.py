"""Our scores beside those of WeatherBench-X and WeatherBench 2's own public code, on the same forecast files, which both read unchanged.

Needs their packages on PYTHONPATH (weatherbenchX at 2047a84d, weatherbench2 at 021c0b33: absl-py, scipy and jax beside ours) and
the simulated years. From the repository root:

    PYTHONPATH=.:weatherbenchX:weatherbench2 python tests/benchmarks/weatherbench.py ../shared/data OUT_FOLDER

writes OUT_FOLDER/comparison.csv: metric, variable, level, region, lead_hours, ours, theirs (statistics in float64), relative difference,
and theirs as it comes (statistics in float32).
"""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path

import numpy as np
import xarray as xr
from weatherbench2 import derived_variables
from weatherbenchX import aggregation, binning, weighting
from weatherbenchX.data_loaders import xarray_loaders
from weatherbenchX.metrics import base as wbx_base
from weatherbenchX.metrics import categorical, deterministic, probabilistic, wrappers

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.data.build import BuildRecipe, StatisticsPeriod, run_recipe
from afno_forecast.data.states import open_states
from afno_forecast.data.store import Store
from afno_forecast.forecast.metadata import make_layout
from afno_forecast.forecast.output import ForecastWriter
from afno_forecast.times import STANDARD
from afno_forecast.verify.evaluate import evaluate
from afno_forecast.verify.extremes import departure_quantiles
from afno_forecast.verify.settings import References, ScoreSettings
from afno_forecast.verify.spectra import make_bands

HOUR = 3600
NAMES = {"z500": ("geopotential", 500, "m2 s-2"), "t850": ("temperature", 850, "K"), "t500": ("temperature", 500, "K"),
         "u250": ("u_component_of_wind", 250, "m s-1"), "v250": ("v_component_of_wind", 250, "m s-1"), "t2m": ("2m_temperature", None, "K")}
CHANNELS = ChannelSet(tuple(Channel(*c) for c in NAMES.values()))
LEADS = np.array([6, 24, 72, 120], dtype=np.int64) * HOUR
MEMBERS = 5
REGIONS = {"global": ((-90, 90), (0, 360)), "tropics": ((-20, 20), (0, 360)), "northern-hemisphere": ((20, 90), (0, 360)),
           "europe": ((35, 75), (347.5, 42.5)), "north-pacific": ((25, 60), (145, 230))}
QUANTILE = 0.95


def make_files(shared: Path, folder: Path) -> dict[str, Path]:
    """Truth in WeatherBench's layout, a training store of the year before, a forecast and an ensemble written by our writer."""
    paths = {name: folder / f"{name}.zarr" for name in ("truth", "store", "forecast", "ensemble")}
    with xr.open_dataset(shared / "speedy_2001-03_2002-02.nc") as ds:
        part = ds[[*NAMES, "lsm"]].isel(time=slice(0, 80)).load()
    truth = dict.fromkeys(("2m_temperature",), (("time", "latitude", "longitude"), part["t2m"].values))
    levels = sorted({c[1] for c in NAMES.values() if c[1]})
    whole = xr.Dataset(truth, coords={"time": part["time"], "latitude": part["latitude"].astype(float), "longitude": part["longitude"].astype(float),
                                      "level": levels})
    for variable in dict.fromkeys(c[0] for c in NAMES.values() if c[1]):
        maps = {c[1]: part[n].values for n, c in NAMES.items() if c[0] == variable}
        blank = np.full_like(part["t2m"].values, np.nan)
        whole[variable] = (("time", "level", "latitude", "longitude"), np.stack([maps.get(k, blank) for k in levels], axis=1))
    for variable, _, units in NAMES.values():
        whole[variable].attrs["units"] = units
    whole["land_sea_mask"] = (("latitude", "longitude"), part["lsm"].values, {"units": "1"})
    whole.to_zarr(paths["truth"], zarr_format=2, consolidated=True)
    recipe = BuildRecipe(sources=(str(shared / "speedy_2000-03_2001-02.nc"),), channels=tuple(NAMES),
                         statistics=StatisticsPeriod(start="2000-03-01", end="2001-02-28"))
    run_recipe(recipe, paths["store"], progress=lambda *a: None, echo=lambda line: None)
    states = open_states(shared / "speedy_2001-03_2002-02.nc", CHANNELS)
    inits = states.times.seconds[0:40:5]
    rng = np.random.default_rng(0)
    for name, members in (("forecast", None), ("ensemble", MEMBERS)):
        layout = make_layout(CHANNELS, states.orientation, inits, LEADS, STANDARD, {"model": "blend"}, members=members)
        with ForecastWriter(paths[name], layout, identity=name) as writer:
            for f in range(len(inits) * (members or 1)):
                init = inits[f // (members or 1)]
                now = states.read(states.index_of([init]))[0]
                for k, lead in enumerate(LEADS):
                    then = states.read(states.index_of([init + lead]))[0]
                    scale = now.std(axis=(1, 2), keepdims=True) * 0.1 * (1 + k)
                    smooth = (then + np.roll(then, 1, axis=-1) + np.roll(then, -1, axis=-1)) / 3
                    writer.write(f, k, (0.3 * now + 0.7 * smooth + scale * rng.normal(size=now.shape)).astype(np.float32))
                writer.finish(f)
    return paths


def wbx_climatology(store_path: Path) -> tuple[xr.Dataset, xr.Dataset]:
    """The store's climatology, and its threshold for extremes, in WeatherBench's layout (hour, dayofyear, ...)."""
    record = open_states(store_path, CHANNELS)
    climatology = Store.open(store_path).climatology()
    assert climatology is not None
    days = np.arange(1, 367)
    start = 946_684_800  # 2000-01-01, a leap year
    seconds = np.asarray([[start + (int(d) - 1) * 86400 + h * HOUR for d in days] for h in (0, 6, 12, 18)])
    fields = np.stack([climatology.at(s, STANDARD) for s in seconds])  # hour, day, channel
    departure = departure_quantiles(record, climatology, CHANNELS, (QUANTILE,))[0]
    out = []
    for extra in (0.0, departure):
        coords = {"hour": [0, 6, 12, 18], "dayofyear": days, "latitude": record.grid.latitude, "longitude": record.grid.longitude,
                  "level": sorted({c.level for c in CHANNELS if c.level})}
        ds = xr.Dataset(coords=coords)
        values = fields + extra
        for variable in dict.fromkeys(c.variable for c in CHANNELS):
            mine = {c.level: i for i, c in enumerate(CHANNELS) if c.variable == variable}
            if None in mine:
                ds[variable] = (("hour", "dayofyear", "latitude", "longitude"), values[:, :, mine[None]])
            else:
                blank = np.full_like(values[:, :, 0], np.nan)
                ds[variable] = (("hour", "dayofyear", "level", "latitude", "longitude"),
                                np.stack([values[:, :, mine[k]] if k in mine else blank for k in ds["level"].values.tolist()], axis=2))
        out.append(ds)
    return out[0], out[1]


def load(path: Path, inits: np.ndarray, leads: np.ndarray, kind: type, precision: str) -> dict:
    """One chunk as WeatherBench-X reads it from our files."""
    variables = [*dict.fromkeys(c.variable for c in CHANNELS)]
    loader = kind(path=str(path), variables=variables, preprocessing_fn=lambda ds: ds.astype(precision))
    return loader.load_chunk(inits, leads)


def theirs(metrics: dict, predictions: object, targets: object, bins: list) -> xr.Dataset:
    """Metric values of WeatherBench-X, by region and lead time."""
    aggregator = aggregation.Aggregator(reduce_dims=["init_time", "latitude", "longitude"], bin_by=bins, weigh_by=[weighting.GridAreaWeighting()])
    statistics = wbx_base.compute_unique_statistics_for_all_metrics(metrics, predictions, targets)
    return aggregator.aggregate_statistics(statistics).metric_values(metrics)


def wbx_scores(paths: dict[str, Path], inits: np.ndarray, leads: np.ndarray, precision: str) -> list[tuple[str, str, xr.Dataset]]:
    """(our metric, prefix of theirs, values) of everything that WeatherBench-X has."""
    climatology, threshold = wbx_climatology(paths["store"])
    targets = load(paths["truth"], inits, leads, xarray_loaders.TargetsFromXarray, precision)
    regions = binning.Regions(REGIONS)
    with xr.open_zarr(paths["truth"]) as ds:
        land = binning.LandSea(ds["land_sea_mask"].load())
    single = {"rmse": deterministic.RMSE(), "bias": deterministic.Bias(), "mae": deterministic.MAE(), "acc": deterministic.ACC(climatology),
              "activity": deterministic.PredictionActivity(climatology),
              "vector": deterministic.WindVectorRMSE("u_component_of_wind", "v_component_of_wind", "wind_vector")}
    several = {"crps": probabilistic.CRPSEnsemble(), "spread_skill": probabilistic.UnbiasedSpreadSkillRatio(),
               "ranks": probabilistic.RankHistogram(),
               "rmse_of_members": probabilistic.EnsembleAveragedMetric(deterministic.RMSE()),
               "rmse_mean": wrappers.WrappedMetric(deterministic.RMSE(), [wrappers.EnsembleMean(which="predictions")])}
    result = []
    for source, metrics in (("forecast", single), ("ensemble", several)):
        predictions = load(paths[source], inits, leads, xarray_loaders.PredictionsFromXarray, precision)
        result += [(source, dim, theirs(metrics, predictions, targets, [bins])) for dim, bins in (("region", regions), ("land_sea", land))]
    predictions = load(paths["forecast"], inits, leads, xarray_loaders.PredictionsFromXarray, precision)
    valid = targets["2m_temperature"]["valid_time"]
    limit = threshold.sel(dayofyear=valid.dt.dayofyear, hour=valid.dt.hour)
    events = [{n: (ds[n] > limit[n]).astype(float) for n in limit.data_vars} for ds in (predictions, targets)]
    result.append(("forecast", "region", theirs({"sedi_95": categorical.SEDI()}, *events, [regions])))
    return result


def wb2_spectrum(paths: dict[str, Path], inits: np.ndarray, leads: np.ndarray) -> xr.DataArray:
    """WeatherBench 2's zonal spectrum of the forecast's temperature: mean over inits, and over the rows of our bands with our weights."""
    ds = xr.open_zarr(paths["forecast"])[["temperature"]].sel(time=inits, prediction_timedelta=leads).load().astype("float64")
    spectrum = derived_variables.ZonalEnergySpectrum("temperature").compute(ds).mean("time")
    grid = open_states(paths["store"], CHANNELS).grid
    bands = [(spectrum.isel(latitude=b.rows) * xr.DataArray(b.weights, dims="latitude")).sum("latitude") for b in make_bands(grid)]
    return xr.concat(bands, dim="band").assign_coords(band=[b.name for b in make_bands(grid)])


def main(shared: Path, out: Path) -> None:
    """Compare and write."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        paths = make_files(shared, Path(name))
        rows = compare(paths)
    with (out / "comparison.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["metric", "variable", "level", "region", "lead_hours", "ours", "theirs_float64", "relative_difference", "theirs_float32"])
        writer.writerows(rows)
    worst: dict[str, float] = {}
    for row in rows:
        worst[row[0]] = max(worst.get(row[0], 0.0), row[7])
    for metric, difference in worst.items():
        print(f"{metric:<22} {sum(r[0] == metric for r in rows):>4} values, largest relative difference {difference:.1e}")


def compare(paths: dict[str, Path]) -> list[list]:
    """Rows of the table."""
    land = ChannelSet((Channel("land_sea_mask", None, "1", "static"),))
    truth = open_states(paths["truth"], CHANNELS, land)
    references = References(Store.open(paths["store"]).climatology(), open_states(paths["store"], CHANNELS), truth.static()[0])
    settings = ScoreSettings(regions=(*REGIONS, "land", "sea"), quantiles=(QUANTILE,), climatology_members=0)
    ours = {name: evaluate(paths[name], truth, references=references, settings=settings) for name in ("forecast", "ensemble")}
    inits, leads = (xr.open_zarr(paths["forecast"])[n].values for n in ("time", "prediction_timedelta"))
    exact, plain = (wbx_scores(paths, inits, leads, p) for p in ("float64", "float32"))
    rows: list[list] = []

    def add(metric: str, variable: str, level: int | None, region: str, lead: int, a: float, b: float, c: float | None = None) -> None:
        rows.append([metric, variable, "" if level is None else level, region, lead, a, b, abs(a - b) / max(abs(b), 1e-300), "" if c is None else c])

    for (source, dim, values), (_, _, rough) in zip(exact, plain, strict=True):
        for full in map(str, values.data_vars):
            metric, _, variable = full.partition(".")
            levels = [c.level for c in CHANNELS if c.variable == variable] if variable != "wind_vector" else [250]
            for level in levels:
                for region in values[dim].values.tolist():
                    for k, lead in enumerate((leads / np.timedelta64(1, "h")).astype(int)):
                        pick = {"lead_time": leads[k], dim: region} | ({} if level is None else {"level": level})
                        b, c = (np.atleast_1d(v[full].sel(pick).values) for v in (values, rough))
                        at = {"region": region, "lead_time": leads[k]} | ({} if level is None else {"level": level})
                        if metric == "ranks":
                            a = ours[source][f"{variable}_rank_histogram"].sel(at).values
                            for r in range(len(b)):
                                add(f"rank {r}", variable, level, region, lead, float(a[r]), float(b[r]), float(c[r]))
                            continue
                        name = {"vector": "rmse", "rmse_mean": "rmse"}.get(metric, metric)
                        a = float(ours[source][variable].sel(at).sel(metric=name))
                        label = f"{name} ({source})" if metric in ("rmse", "rmse_mean") else metric
                        add(label, variable, level, region, lead, a, float(b[0]), float(c[0]))
    spectrum = wb2_spectrum(paths, inits, leads)
    mine = ours["forecast"]["temperature_energy_spectrum"].sel(series="forecast")
    for band, lead, k in [(b, x, k) for b in spectrum["band"].values for x in leads for k in (0, 1, 5, 20, 32)]:
        a = float(mine.sel(band=band, lead_time=lead, level=850, zonal_wavenumber=k))
        add(f"spectrum k={k}", "temperature", 850, str(band), int(lead / np.timedelta64(1, "h")), a,
            float(spectrum.sel(band=band, prediction_timedelta=lead, level=850, zonal_wavenumber=k)))
    return rows


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
