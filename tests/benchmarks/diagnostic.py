"""Skill of a diagnostic channel on held-out months, beside persistence and climatology: errors by lead time, distribution of intensities, a map.

    python tests/benchmarks/diagnostic.py runs/speedy_precipitation/model runs/speedy.zarr --truth SOURCE.nc --out results

The model folder is what `afno-forecast train configs/weather/speedy_precipitation.yaml` left. Climatology is the store's own, of the training period.
Errors are root mean squares and mean absolute errors (the CRPS of a single forecast) over area and init times, in units of 1e-5 kg m-2 s-1;
`won` is the share of forecasts with a lower mean square error than the climatology's. `intensities.png` has the share of area above each amount.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from afno_forecast.channels import ChannelSet
from afno_forecast.cli_open import open_fields
from afno_forecast.data.store import Store
from afno_forecast.forecast.produce import Options, produce_forecast
from afno_forecast.plot.maps import plot_compare
from afno_forecast.times import parse_instant

UNIT = 1e-5  # kg m-2 s-1
HOURS = (6, 24, 48, 72, 96, 120)
QUANTILES = (0.5, 0.9, 0.99, 0.999)
DRAWN = (6, 24, 120)
STYLES = ({"color": "#c1440e", "lw": 1.8}, {"color": "#59616b", "lw": 1, "ls": ":"}, {"color": "#2a6fb0", "lw": 1.2, "ls": "--"},
          {"color": "black", "lw": 1.8})


def weighted_quantiles(values: np.ndarray, area: np.ndarray) -> list[float]:
    """Over instants and area; values (N, H, W)."""
    weights = np.broadcast_to(area, values.shape).ravel()
    order = np.argsort(values, axis=None)
    share = np.cumsum(weights[order]) / weights.sum()
    return [float(values.ravel()[order[np.searchsorted(share, q)]]) for q in QUANTILES]


def judge(forecast: np.ndarray, truth: np.ndarray, area: np.ndarray) -> dict[str, object]:
    """Errors and intensities of fields (N, H, W)."""
    weights = area / area.sum()
    error = (forecast - truth).astype(np.float64)
    squares = (error**2 * weights).sum((-2, -1))
    return {"rmse": float(np.sqrt(squares.mean())), "squares": squares, "mae": float((np.abs(error) * weights).sum((-2, -1)).mean()),
            "mean": float((forecast * weights).sum((-2, -1)).mean()), "quantiles": weighted_quantiles(forecast, area),
            "above 10": float(((forecast > 10) * weights).sum((-2, -1)).mean())}


def draw_intensities(kept: dict[int, dict[str, np.ndarray]], area: np.ndarray, out: Path) -> None:
    """Share of area and time above each amount, a panel a lead time."""
    weights, amounts = area / area.sum(), np.geomspace(0.1, 150, 60)
    figure = Figure(figsize=(4 * len(kept), 3.6), layout="constrained", dpi=110)
    for axes, (hours, rows) in zip(figure.subplots(1, len(kept), sharey=True), kept.items(), strict=True):
        for (name, values), style in zip(rows.items(), STYLES, strict=False):
            share = [float(((values > amount) * weights).sum((-2, -1)).mean()) for amount in amounts]
            axes.loglog(amounts, share, label=name, **style)
        axes.set(title=f"{hours} h", xlabel="amount [1e-5 kg m-2 s-1]", ylim=(1e-4, 1))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("share of area above")
    figure.axes[0].legend(frameon=False)
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--channel", default="pr")
    parser.add_argument("--init", default="2001-12-01/2002-02-22/3d")
    parser.add_argument("--truth", type=Path, help="Source file for the map; none without.")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    store = Store.open(given.store)
    channels: ChannelSet = store.channels.select([given.channel])
    index, area = store.channel_index(channels), store.grid.area_weights()
    climatology = store.climatology()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "forecast.nc"
        produce_forecast(given.model, given.store, init=given.init, lead_time=None, out=path, echo=lambda text: None,
                         options=Options(leads=tuple(h * 3600 for h in HOURS)))
        with xr.open_dataset(path, decode_timedelta=True) as ds:
            fields = ds[channels.channels[0].variable].transpose("time", "prediction_timedelta", "latitude", "longitude").load()
    calendar = store.times.calendar
    inits = np.asarray([parse_instant(str(t)[:19], calendar) for t in fields["time"].values])

    def read(seconds: np.ndarray) -> np.ndarray:
        return np.concatenate([store.read(int(np.searchsorted(store.times.seconds, s)), index) for s in seconds]) / UNIT

    results: dict[str, object] = {"unit": "1e-5 kg m-2 s-1", "inits": given.init, "count": len(inits), "quantiles": QUANTILES, "leads": {}}
    print(f"{'':<24}{'RMSE':>8}{'MAE':>8}{'mean':>8}" + "".join(f"{f'q{100 * q:g}':>9}" for q in QUANTILES) + f"{'above 10':>10}{'won':>6}")
    kept = {}
    for number, hours in enumerate(HOURS):
        truth = read(inits + hours * 3600)
        rows = {"model": fields.values[:, number] / UNIT, "persistence": read(inits)}
        if climatology is not None:
            position = climatology.channels.index(given.channel)
            rows["climatology"] = climatology.at(inits + hours * 3600, calendar)[:, position] / UNIT
        rows["truth"] = truth
        table = {name: judge(row, truth, area) for name, row in rows.items()}
        squares = {name: row.pop("squares") for name, row in table.items()}
        for name, row in table.items():
            row["won"] = float((squares[name] < squares.get("climatology", np.inf)).mean())
        results["leads"][f"{hours} h"] = table  # type: ignore[index]
        if hours in DRAWN:
            kept[hours] = rows
        for name, row in table.items():
            quantiles = "".join(f"{q:>9.3f}" for q in row["quantiles"])  # type: ignore[attr-defined]
            print(f"{f'{hours} h {name}':<24}{row['rmse']:>8.3f}{row['mae']:>8.3f}{row['mean']:>8.3f}{quantiles}{100 * row['above 10']:>9.2f}%"
                  f"{row['won']:>6.2f}")
    (given.out / "diagnostic.json").write_text(json.dumps(results, indent=1) + "\n")
    draw_intensities(kept, area, given.out / "intensities.png")
    if given.truth:
        draw(given.truth, given.model, given.store, channels.channels[0].variable, given.out / "map_24h.png", given.init.split("/")[0])


def draw(source: Path, model: Path, store: Path, variable: str, out: Path, init: str) -> None:
    """A map of the forecast for one day ahead, the truth and the error."""
    with tempfile.TemporaryDirectory() as folder:
        path = produce_forecast(model, store, init=init, lead_time=86400, out=Path(folder) / "one.nc", options=Options(leads=(86400,)),
                                echo=lambda text: None)
        assert path is not None
        plot_compare(open_fields([path]), open_fields([source]), variable, out)


if __name__ == "__main__":
    main()
