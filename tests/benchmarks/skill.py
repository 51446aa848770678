"""Skill at equal cost: our networks and their rivals trained side by side on the same simulated years, with the same cost each.

    OMP_NUM_THREADS=1 python tests/benchmarks/skill.py STORE OUT --train 2010-01-01/2013-04-30T18 --validation 2013-05-01/2014-01-29T18 --seconds 360

Cost: the CPU seconds of one update of each row (batch, forward, backward, optimiser; data reading included) at rollouts of one and two steps are
measured first, all rows in turn within every repeat, so that a busy machine meets all of them; longer rollouts follow linearly. The budget in
seconds then gives each row its number of updates in each stage. What a row trains, and so its score, does not depend on what else the machine does.
With `--precision auto` every row is trained in whichever of float32 and bfloat16 makes its updates cheaper; scores are taken in float32.
A row that is done is not trained again: OUT/NAME-seed.json holds it; OUT/costs.json the costs (rows added later are measured beside `ours`).

Each row is scored twice: as it is, and calibrated (`afno-forecast calibrate`: 24 forecasts over the training period after the training, whose cost is
not in the budget and is noted). A row whose recipe is `calibrated` pays the calibration too, at a cost measured like the others, trains for what is
left, and is the calibrated forecaster.

Score R/Rp: RMSE over the RMSE of persistence (exact cell areas), mean over z500 t850 u250 v250 q700 sp t2m and 24, 72, 120, 240 h, forecasts from
evenly spread instants of the validation period.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from skill_networks import SKILL_ROWS, Build, Recipe

from afno_forecast.data.loader import Loader
from afno_forecast.data.samples import find_windows
from afno_forecast.data.states import open_states
from afno_forecast.data.store import Store
from afno_forecast.experiment import load_experiment
from afno_forecast.experiment.build import check_periods, model_inputs
from afno_forecast.forecast.calibration import Calibration, regress
from afno_forecast.forecast.rollout import rollout
from afno_forecast.forecaster import Forecaster, ModelInputs, build_forecaster
from afno_forecast.model_folder import load_weights
from afno_forecast.training.config import TrainingConfig
from afno_forecast.training.loss import RolloutLoss
from afno_forecast.training.optimizers import Optimizers, WeightAverage
from afno_forecast.training.run import Precision, Run
from afno_forecast.training.schedule import Budget, Stage
from afno_forecast.training.train import fit
from afno_forecast.training.validation import ValidationConfig, Validator

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = ("z500", "t850", "u250", "v250", "q700", "sp", "t2m")
LEAD_HOURS = (24, 72, 120, 240)
Row = tuple[Build, Recipe]
Rows = dict[str, Row]


class Setting:
    """The store, the periods, and what every row reads."""

    def __init__(self, store: Path, train: str, validation: str, config: Path = ROOT / "configs" / "weather" / "speedy_5p6deg.yaml") -> None:
        (train_start, train_end), (start, end) = train.split("/"), validation.split("/")
        self.experiment = load_experiment(config, [
            f"data.store={store}", f"data.train.start={train_start}", f"data.train.end={train_end}", f"data.validation.start={start}",
            f"data.validation.end={end}"])
        self.store = Store.open(store)
        self.train, self.validation = check_periods(self.experiment.data.train, self.experiment.data.validation, self.store)

    @lru_cache(maxsize=8)  # noqa: B019 - one setting a process
    def inputs(self, time_steps: tuple[str, ...]) -> ModelInputs:
        """What the store tells a model with these steps."""
        model = self.experiment.model.model_copy(update={"time_steps": time_steps})
        return model_inputs(self.experiment.model_copy(update={"model": model}), self.store)

    def forecaster(self, row: Row, seed: int) -> Forecaster:
        """A new forecaster around a row's network."""
        build, recipe = row
        inputs = self.inputs(recipe.time_steps)
        small = {"kind": "plain", "width": 8, "depth": 0}
        model = self.experiment.model.model_validate({**self.experiment.model.model_dump(exclude={"backbone"}), "backbone": small,
                                                      "time_steps": recipe.time_steps, "advected_by": recipe.advected_by,
                                                      "history": recipe.history})
        made = build_forecaster(model, inputs)
        num_in = made.num_inputs
        torch.manual_seed(seed)
        made.backbone = build(num_in, len(made.channels), inputs.grid.shape, inputs.grid.boundary)
        return made

    def loader(self, forecaster: Forecaster, seed: int, batch: int) -> Loader:
        """The training samples."""
        return Loader(self.store, forecaster.channels, time_step=forecaster.time_step, history=forecaster.history, batch_size=batch, seed=seed,
                      period=self.train)


@dataclass(frozen=True)
class Cost:
    """CPU seconds of one update at rollouts of one and of two steps, the precision it is computed in, and CPU seconds of a calibration to pay."""

    precision: Precision
    seconds: tuple[float, float]
    calibration: float = 0.0

    def scaled(self, factor: float) -> Cost:
        """The same with other seconds."""
        return replace(self, seconds=(factor * self.seconds[0], factor * self.seconds[1]), calibration=factor * self.calibration)


def measure_costs(setting: Setting, rows: Rows, precisions: Sequence[Precision], repeats: int = 5) -> dict[str, Cost]:
    """The cost of each row in the precision that makes it cheapest: medians over the repeats."""
    made: dict[tuple[str, Precision, int], Callable[[], None]] = {}
    for (name, (build, recipe)), precision in itertools.product(rows.items(), precisions):
        forecaster = setting.forecaster((build, recipe), 1)
        optimizers, average = Optimizers(forecaster, recipe.optimizer), WeightAverage(forecaster, recipe.average)
        loss = RolloutLoss(recipe.loss, forecaster, seed=1)
        for steps in (1, 2):
            batches = setting.loader(forecaster, 1, recipe.batch).batches(steps, stage=0)

            def update(forecaster: Forecaster = forecaster, loss: RolloutLoss = loss, optimizers: Optimizers = optimizers,
                       average: WeightAverage = average, batches: Any = batches, steps: int = steps, precision: str = precision) -> None:
                optimizers.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                    value = loss(next(batches), steps)
                value.backward()  # type: ignore[no-untyped-call]
                optimizers.clip()
                optimizers.step(1e-4)
                average.update(forecaster)

            made[name, precision, steps] = update
    seconds: dict[tuple[str, Precision, int], list[float]] = {key: [] for key in made}
    for repeat in range(-1, repeats):
        for key, update in made.items():
            began = time.process_time()
            update()
            if repeat >= 0:
                seconds[key].append(time.process_time() - began)
    costs = {name: [Cost(precision, tuple(statistics.median(seconds[name, precision, steps]) for steps in (1, 2)))
                    for precision in precisions] for name in rows}
    cheapest = {name: min(found, key=lambda cost: sum(cost.seconds)) for name, found in costs.items()}
    return {name: replace(cost, calibration=_calibration_cost(setting, rows[name])) for name, cost in cheapest.items()}


def _calibration_cost(setting: Setting, row: Row) -> float:
    """CPU seconds of a calibration, of an untrained network: the weights do not matter; 0 where it is not paid."""
    if not row[1].calibrated:
        return 0.0
    began = time.process_time()
    calibrate(setting.forecaster(row, 1), setting)
    return time.process_time() - began


def calibrate(forecaster: Forecaster, setting: Setting) -> Calibration:
    """What `afno-forecast calibrate` makes of the training period."""
    forecaster.eval()
    states = open_states(setting.store.path, forecaster.channels)
    return regress(forecaster, states, period=setting.train, num_steps=max(LEAD_HOURS) * 3600 // forecaster.time_step)


def known_costs(setting: Setting, rows: Rows, path: Path, ours: Row = SKILL_ROWS["ours"], *, repeats: int = 5,
                precisions: Sequence[Precision] = ("float32",)) -> dict[str, Cost]:
    """The costs on file; rows not there are measured beside `ours` and put on its scale."""
    read = json.loads(path.read_text()) if path.exists() else {}
    known = {name: Cost(item["precision"], tuple(item["seconds"]), item.get("calibration", 0.0)) for name, item in read.items()}
    missing = {name: row for name, row in rows.items() if name not in known}
    if missing:
        measured = measure_costs(setting, {"ours": ours, **missing}, precisions, repeats)
        scale = known["ours"].seconds[0] / measured["ours"].seconds[0] if known else 1.0
        known |= {name: cost.scaled(scale) for name, cost in measured.items() if name not in known}
        path.write_text(json.dumps({name: asdict(cost) for name, cost in known.items()}, indent=1) + "\n")
    return known


def stages_for(cost: Sequence[float], recipe: Recipe, seconds: float) -> tuple[int, tuple[Stage, ...]]:
    """Number of updates that a budget pays for, and the stages in shares of them."""
    counts, begun = [], 0.0
    for until, steps in recipe.stages:
        counts.append((until - begun) * seconds / (cost[0] + (steps - 1) * (cost[1] - cost[0])))
        begun = until
    ends = np.cumsum(counts) / sum(counts)
    ends[-1] = 1.0
    stages = tuple(Stage(until=float(end), rollout=steps, time_steps=recipe.drawn) for end, (_, steps) in zip(ends, recipe.stages, strict=True))
    return round(sum(counts)), stages


def train_row(setting: Setting, row: Row, cost: Cost, seed: int, seconds: float, folder: Path) -> tuple[Forecaster, dict[str, Any]]:
    """Train one row; returns the forecaster with its final weights, and figures of the training."""
    _, recipe = row
    forecaster = setting.forecaster(row, seed)
    num_updates, stages = stages_for(cost.seconds, recipe, seconds - cost.calibration)
    config = TrainingConfig(budget=Budget(train_steps=num_updates), batch_size=recipe.batch, stages=stages, optimizer=recipe.optimizer,
                            loss=recipe.loss, average=recipe.average, precision=cost.precision, checkpoint_minutes=1000, threads=1)
    validator = Validator(setting.store, forecaster, ValidationConfig(count=1, inits=4, lead_time="1d"), start=setting.validation[0],
                          end=setting.validation[1])
    kept: dict[str, torch.Tensor] = {}

    def keep(weights: dict[str, torch.Tensor], *_: object) -> None:
        kept.update({name: value.clone() for name, value in weights.items()})
        (folder / "model").mkdir(exist_ok=True)

    folder.mkdir(parents=True, exist_ok=True)
    loader = setting.loader(forecaster, seed, recipe.batch)
    progress = fit(Run(forecaster, loader, config, folder), validator, keep_model=keep, resume=False, echo=lambda _: None)
    load_weights(forecaster, kept, folder)
    return forecaster, {"updates": num_updates, "core_seconds": round(progress.core_seconds, 1),
                        "parameters": sum(p.numel() for p in forecaster.parameters()), "recipe": recipe.name, "seed": seed}


def averaged(setting: Setting, row: Row, seed: int, folder: Path) -> Forecaster | None:
    """The forecaster of a row that was trained before, from its last checkpoint; None where that is gone."""
    found = sorted(folder.glob("checkpoints/step-*/state.safetensors"))
    if not found:
        return None
    forecaster, prefix = setting.forecaster(row, seed), "average/"
    weights = {name.removeprefix(prefix): tensor for name, tensor in load_file(str(found[-1])).items() if name.startswith(prefix)}
    load_weights(forecaster, {**forecaster.state_dict(), **weights}, folder)
    return forecaster


def calibrated(forecaster: Forecaster, setting: Setting, num_inits: int) -> dict[str, Any]:
    """Scores of the calibrated forecaster, and the CPU seconds of the calibration."""
    began = time.process_time()
    made = calibrate(forecaster, setting)
    seconds = time.process_time() - began
    return {"core_seconds": round(seconds, 1), **score(forecaster, setting.store, setting.validation, num_inits, made)}


@torch.no_grad()
def score(forecaster: Forecaster, store: Store, period: tuple[int, int], num_inits: int, calibration: Calibration | None = None) -> dict[str, Any]:
    """R/Rp with its parts: by lead, by region at each lead, and energy of small scales at 120 h over the truth's."""
    forecaster.eval()
    index_C = store.channel_index(forecaster.channels)
    last = max(LEAD_HOURS) * 3600 // forecaster.time_step
    windows = find_windows(store.times, time_step=forecaster.time_step, history=forecaster.history, num_steps=last, start=period[0],
                           end=period[1]).index
    windows = windows[np.unique(np.linspace(0, len(windows) - 1, num_inits).round().astype(int))]

    def read(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.stack([store.read(int(row), index_C) for row in rows])

    chosen = [forecaster.channels.shorts.index(name) for name in VARIABLES]
    area_HW = forecaster.grid.area_weights().astype(np.float64)
    latitude = np.abs(np.asarray(forecaster.grid.latitude))
    regions = {"global": latitude >= 0, "tropics": latitude <= 20, "polar": latitude >= 60, "mid-latitudes": (latitude > 20) & (latitude < 60)}
    squares: dict[tuple[str, str, int], list[NDArray[np.float64]]] = {}
    energy: dict[str, list[float]] = {f"{name} {who}": [] for name in ("z500", "u250") for who in ("forecast", "truth")}
    now = forecaster.history - 1
    for first in range(0, len(windows), 12):
        part = windows[first:first + 12]
        history = torch.from_numpy(np.stack([read(w[:forecaster.history]) for w in part]))
        start = history[:, -1].numpy()
        for state in rollout(forecaster, history, store.times.seconds[part[:, now]], last):
            hours = state.lead_seconds // 3600
            if hours not in LEAD_HOURS:
                continue
            shown_BCHW = state.fields_BCHW if calibration is None else calibration(state.fields_BCHW, state.lead_seconds, state.valid_seconds)
            truth, field = read(part[:, now + state.step]).astype(np.float64), shown_BCHW.double().numpy()
            for region, rows in regions.items():
                weights = area_HW[rows] / area_HW[rows].sum()
                for who, error in (("forecast", field - truth), ("persistence", start - truth)):
                    squares.setdefault((region, who, hours), []).append((error[:, chosen][:, :, rows] ** 2 * weights).sum((-2, -1)))
            if hours == 120:
                for name in ("z500", "u250"):
                    channel = forecaster.channels.shorts.index(name)
                    energy[f"{name} forecast"].append(small_scales(field[:, channel], area_HW))
                    energy[f"{name} truth"].append(small_scales(truth[:, channel], area_HW))
    ratio = {region: {hours: float(np.mean(np.sqrt(np.concatenate(squares[region, "forecast", hours]).mean(0)
                                                   / np.concatenate(squares[region, "persistence", hours]).mean(0)))) for hours in LEAD_HOURS}
             for region in regions}
    return {"score": float(np.mean(list(ratio["global"].values()))), "leads": ratio["global"], "regions": ratio,
            "small_scales_120h": {name: sum(energy[f"{name} forecast"]) / sum(energy[f"{name} truth"]) for name in ("z500", "u250")},
            "num_inits": len(windows)}


def small_scales(field_BHW: NDArray[np.float64], area_HW: NDArray[np.float64]) -> float:
    """Area-weighted energy in the top third of zonal wavenumbers."""
    power = np.abs(np.fft.rfft(field_BHW, axis=-1)) ** 2 * area_HW[:, :1]
    return float(power[..., -(-2 * (power.shape[-1] - 1) // 3):].sum())


@torch.no_grad()
def stability(forecaster: Forecaster, store: Store, period: tuple[int, int], num_steps: int = 400, num_starts: int = 4) -> dict[str, Any]:
    """Largest |z500 anomaly|, metres, over long rollouts, in steps of the model (anomaly: from the mean of the store)."""
    forecaster.eval()
    index_C = store.channel_index(forecaster.channels)
    windows = find_windows(store.times, time_step=forecaster.time_step, history=forecaster.history, num_steps=0, start=period[0], end=period[1]).index
    windows = windows[np.linspace(0, len(windows) - 1, num_starts).round().astype(int)]
    history = torch.from_numpy(np.stack([np.stack([store.read(int(i), index_C) for i in w]) for w in windows]))
    z500 = forecaster.channels.shorts.index("z500")
    mean_HW = np.mean([store.read(int(i), index_C[[z500]])[0] for i in range(0, len(store.times), 41)], axis=0)
    largest = 0.0
    for state in rollout(forecaster, history, store.times.seconds[windows[:, -1]], num_steps):
        field = state.fields_BCHW[:, z500].numpy()
        largest = max(largest, float(np.abs(field - mean_HW).max()) / 9.81) if np.isfinite(field).all() else float("inf")
        if not np.isfinite(largest):
            break
    return {"steps": num_steps, "starts": num_starts, "max_z500_anomaly_m": largest}


def slug(name: str) -> str:
    """A row's name as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def run(setting: Setting, rows: Rows, seeds: Sequence[int], seconds: float, out: Path, *, num_inits: int, precisions: Sequence[Precision],
        stable: Sequence[str] = ()) -> None:
    """Train and score what is not on file."""
    out.mkdir(parents=True, exist_ok=True)
    costs = known_costs(setting, rows, out / "costs.json", precisions=precisions)
    for seed in seeds:
        for name, row in rows.items():
            path = out / f"{slug(name)}-{seed}.json"
            if path.exists():
                figures = json.loads(path.read_text())
                missing = {"calibrated", *(["stability"] if name in stable else [])} - set(figures)
                known = averaged(setting, row, seed, out / "runs" / path.stem) if missing else None
                if known is not None:
                    added = {"calibrated": lambda known=known: calibrated(known, setting, num_inits),
                             "stability": lambda known=known: stability(known, setting.store, setting.validation)}
                    path.write_text(json.dumps(figures | {key: added[key]() for key in sorted(missing)}, indent=1) + "\n")
                continue
            began = time.process_time()
            forecaster, figures = train_row(setting, row, costs[name], seed, seconds, out / "runs" / path.stem)
            figures |= {"row": name, "seconds": seconds, "cost": costs[name].seconds, "precision": costs[name].precision,
                        **score(forecaster, setting.store, setting.validation, num_inits),
                        "calibrated": calibrated(forecaster, setting, num_inits)}
            if row[1].calibrated:
                raw = {"uncalibrated": figures["score"], "calibration_cost": costs[name].calibration}
                figures |= raw | {key: figures["calibrated"][key] for key in ("score", "leads", "regions", "small_scales_120h")}
            if name in stable:
                figures["stability"] = stability(forecaster, setting.store, setting.validation)
            path.write_text(json.dumps(figures, indent=1) + "\n")
            print(f"{name} (seed {seed}): R/Rp {figures['score']:.4f}  {figures['updates']} updates  {time.process_time() - began:.0f} s", flush=True)


def table(out: Path) -> str:
    """Markdown of all rows on file, best first, seeds side by side; those that pay for their calibration in a table of their own."""
    found = [json.loads(path.read_text()) for path in sorted(out.glob("*-[0-9]*.json"))]
    paid = [item for item in found if "uncalibrated" in item]
    free = [item for item in found if "uncalibrated" not in item]
    return "\n\n".join([*([_table(free, "calibrated", lambda item: item.get("calibrated", {}).get("score"))] if free else []),
                        *([_table(paid, "uncalibrated", lambda item: item["uncalibrated"])] if paid else [])])


def _table(items: Sequence[dict[str, Any]], other: str, score_of_other: Callable[[dict[str, Any]], float | None]) -> str:
    rows: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        rows.setdefault(item["row"], []).append(item)

    def joined(items: list[dict[str, Any]], pick: Callable[[dict[str, Any]], float | None], digits: int = 3) -> str:
        return " / ".join(f"{value:.{digits}f}" for value in map(pick, items) if value is not None) or "-"

    columns = ("row", "recipe", "R/Rp", other, *(f"{hours} h" for hours in LEAD_HOURS), "tropics 24 h", "polar 24 h",
               "small scales z500; u250", "max z500 anomaly", "updates", "M parameters")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for name, seeds in sorted(rows.items(), key=lambda pair: min(item["score"] for item in pair[1])):
        leads = " | ".join(joined(seeds, lambda item, hours=hours: item["leads"][str(hours)], 2) for hours in LEAD_HOURS)
        scales = "; ".join(joined(seeds, lambda item, v=v: item["small_scales_120h"][v], 1) for v in ("z500", "u250"))
        steady = " / ".join(f"{item['stability']['max_z500_anomaly_m']:.0f} m" for item in seeds if "stability" in item) or "-"
        lines.append(f"| {name} | {seeds[0]['recipe']} | **{joined(seeds, lambda item: item['score'])}** | {joined(seeds, score_of_other)} | "
                     f"{leads} | "
                     f"{joined(seeds, lambda item: item['regions']['tropics']['24'], 2)} | "
                     f"{joined(seeds, lambda item: item['regions']['polar']['24'], 2)} | {scales} | {steady} | "
                     f"{seeds[0]['updates']} | {seeds[0]['parameters'] / 1e6:.2f} |")
    return "\n".join(lines)


def arguments(text: str | None, names: Sequence[str]) -> argparse.Namespace:
    """The command line, the same for the skill table and the ablation."""
    parser = argparse.ArgumentParser(description=(text or "").partition("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", required=True, help="START/END of the training period")
    parser.add_argument("--validation", required=True, help="START/END of the validation period")
    parser.add_argument("--seconds", type=float, default=360.0, help="CPU seconds of one core for each row")
    parser.add_argument("--rows", default=",".join(slug(name) for name in names), help="rows to run; the others stay as they are on file")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--inits", type=int, default=36)
    parser.add_argument("--precision", choices=["float32", "bfloat16", "auto"], default="float32",
                        help="of training; auto: for each row the one that costs it less")
    return parser.parse_args()


def precisions_of(args: argparse.Namespace) -> tuple[Precision, ...]:
    """What a row may be trained in."""
    return ("float32", "bfloat16") if args.precision == "auto" else (args.precision,)


def main() -> None:
    """Run the rows and print the table."""
    args = arguments(__doc__, list(SKILL_ROWS))
    torch.set_num_threads(1)
    setting = Setting(args.store, args.train, args.validation)
    names = args.rows.split(",")
    rows = {name: SKILL_ROWS[name] for name in SKILL_ROWS if slug(name) in names}
    stable = [name for name, (_, recipe) in rows.items() if recipe.optimizer.muon]
    run(setting, rows, [int(seed) for seed in args.seeds.split(",")], args.seconds, args.out, num_inits=args.inits, precisions=precisions_of(args),
        stable=stable)
    print(table(args.out))


if __name__ == "__main__":
    main()
