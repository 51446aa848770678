"""Skill of ensembles: each way to make members, scored while it runs, beside the single forecast of the same model.

    python tests/benchmarks/ensemble.py MODEL DATA --init 2001-12-05/2002-02-10/12d --members 6 --json results.json

DATA is a store or files; what comes out is RMSE of the ensemble's mean over that of the single forecast, CRPS over the single forecast's mean
absolute error, spread over skill (both unbiased in the number of members), each the mean over the channels shown.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

from afno_forecast.forecast.perturb import Perturbation
from afno_forecast.forecast.produce import Options, produce_forecast
from afno_forecast.verify.while_running import score_session

CHANNELS = (("geopotential", 500), ("temperature", 850), ("u_component_of_wind", 850), ("specific_humidity", 700), ("2m_temperature", None),
            ("surface_pressure", None))
DAY = 86400


def score(model: Path, data: Path, init: str, leads: tuple[int, ...], members: int | None, how: Perturbation | None, batch: int) -> xr.Dataset:
    """Scores of the forecasts; nothing of them is kept."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scores.nc"
        options = Options(members=members, perturbation=how, leads=leads, scoring=lambda session, s: score_session(session, s, data, out))
        produce_forecast(model, data, init=init, lead_time=None, out=None, batch_size=batch, options=options, echo=lambda text: None)
        with xr.open_dataset(out, decode_timedelta=True) as ds:
            return ds.load()


def table(scores: xr.Dataset, metric: str) -> np.ndarray:
    """One metric of the globe; (channel, lead)."""
    chosen = scores.sel(metric=metric, region="global")
    present = [(v, level) for v, level in CHANNELS if v in chosen and (level is None or level in chosen["level"])]
    return np.stack([chosen[v].values if level is None else chosen[v].sel(level=level).values for v, level in present])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--init", required=True)
    parser.add_argument("--members", type=int, default=6)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--ways", default="bred:1,correlated:1,lagged,white:1", help="method, or method:amplitude, with commas")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    leads = tuple(d * DAY for d in (1, 2, 3, 4, 5))
    single = score(given.model, given.data, given.init, leads, None, None, given.batch)
    rmse, mae = table(single, "rmse"), table(single, "mae")
    results = {"init": given.init, "num_inits": int(single["num_inits"][0]), "members": given.members, "hours": [s // 3600 for s in leads],
               "channels": [f"{v}@{level}" if level else v for v, level in CHANNELS], "single": {"rmse": rmse.tolist(), "mae": mae.tolist()}}
    for way in given.ways.split(","):
        method, _, amplitude = way.partition(":")
        began = time.process_time()
        how = Perturbation(method, float(amplitude or 0.3))  # type: ignore[arg-type]
        scores = score(given.model, given.data, given.init, leads, given.members, how, given.batch)
        ratios = {"mean_rmse_over_single": table(scores, "rmse") / rmse, "crps_over_single_mae": table(scores, "crps") / mae,
                  "spread_over_skill": table(scores, "spread_skill")}
        results[way] = {name: values.tolist() for name, values in ratios.items()} | {"cpu_seconds": round(time.process_time() - began, 1)}
        for name, values in ratios.items():
            print(f"{way:<16}{name:<24}" + "".join(f"{v:8.3f}" for v in values.mean(axis=0)), flush=True)
        if given.json:
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
