"""Skill of ensembles: each way to make members beside the single forecast of the same model, with the test of the difference.

    python tests/benchmarks/ensemble.py MODEL DATA --init 2001-12-05/2002-02-18/78h --members 8 --json ensemble.json

DATA is a store or files; what comes out, of every channel shown and lead: RMSE of the ensemble's mean over that of the single forecast, CRPS
over the single forecast's mean absolute error, spread over skill (both unbiased in the number of members), and how many of the channels win or
lose with certainty (95 % interval of the difference by the block bootstrap over init times).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from afno_forecast.forecast.perturb import Perturbation
from afno_forecast.forecast.produce import Options, produce_forecast
from afno_forecast.verify.evaluate import evaluate
from afno_forecast.verify.forecasts import forecast_channels, open_forecast
from afno_forecast.verify.settings import ScoreSettings
from afno_forecast.verify.truth import open_truth

CHANNELS = (("geopotential", 500), ("temperature", 850), ("u_component_of_wind", 850), ("v_component_of_wind", 850), ("specific_humidity", 700),
            ("2m_temperature", None), ("surface_pressure", None))
DAY = 86400
LEADS = tuple(d * DAY for d in (1, 2, 3, 4, 5))
BLOCK_DAYS = 10


def forecast(given: argparse.Namespace, out: Path, members: int | None = None, how: Perturbation | None = None) -> Path:
    """Forecasts at the leads, in a file."""
    options = Options(members=members, perturbation=how, leads=LEADS)
    produce_forecast(given.model, given.data, init=given.init, lead_time=None, out=out, batch_size=given.batch, options=options,
                     echo=lambda text: None)
    return out


def score(path: Path, data: Path, against: tuple[Path, ...] = ()) -> xr.Dataset:
    """Scores of a file, with the differences from others."""
    ds = open_forecast(path)
    truth, references = open_truth([data], forecast_channels(ds))
    settings = ScoreSettings(regions=("global",), kinds=("deterministic", "ensemble"), climatology_members=0, block_seconds=BLOCK_DAYS * DAY)
    return evaluate(ds, truth, references=references, settings=settings, against=against)


def table(scores: xr.Dataset, metric: str) -> np.ndarray:
    """One metric of the globe; (channel, lead)."""
    chosen = scores.sel(metric=metric, region="global")
    present = [(v, level) for v, level in CHANNELS if v in chosen and (level is None or level in chosen["level"])]
    return np.stack([chosen[v].values if level is None else chosen[v].sel(level=level).values for v, level in present])


def beside_single(scores: xr.Dataset) -> dict[str, Any]:
    """Ratios (channel, lead), and counts of channels (lead) that are better or worse than the single forecast for certain."""
    ratios = {"mean_rmse_over_single": table(scores, "rmse") / table(scores, "rmse_single"),
              "crps_over_single_mae": table(scores, "crps") / table(scores, "mae_single"), "spread_over_skill": table(scores, "spread_skill")}
    found: dict[str, Any] = {name: values.tolist() for name, values in ratios.items()}
    for metric in ("rmse", "crps"):
        found[f"{metric}_better"] = (table(scores, f"{metric}_vs_single_high") < 0).sum(axis=0).tolist()
        found[f"{metric}_worse"] = (table(scores, f"{metric}_vs_single_low") > 0).sum(axis=0).tolist()
    return found


def perturbation(way: str) -> Perturbation:
    """`bred:0.5` is the method and its amplitude."""
    method, _, amplitude = way.partition(":")
    return Perturbation(method, float(amplitude or 1))  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--init", required=True)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--ways", default="white:1,correlated:1,bred:1,lagged", help="method, or method:amplitude, with commas")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        single = forecast(given, folder / "single.zarr")
        scores = score(single, given.data)
        results: dict[str, Any] = {"init": given.init, "num_inits": int(scores["num_inits"][0]), "members": given.members,
                                   "hours": [s // 3600 for s in LEADS], "block_days": BLOCK_DAYS,
                                   "channels": [f"{v}@{level}" if level else v for v, level in CHANNELS],
                                   "single": {"rmse": table(scores, "rmse").tolist(), "mae": table(scores, "mae").tolist()}}
        for number, way in enumerate(given.ways.split(",")):
            began = time.process_time()
            members = forecast(given, folder / f"members{number}.zarr", given.members, perturbation(way))
            results[way] = beside_single(score(members, given.data, (single,))) | {"cpu_seconds": round(time.process_time() - began, 1)}
            for key, values in results[way].items():
                print(f"{way:<16}{key:<24}{np.round(np.atleast_2d(values).mean(axis=0), 3).tolist()}", flush=True)
            if given.json:
                given.json.parent.mkdir(parents=True, exist_ok=True)
                given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
