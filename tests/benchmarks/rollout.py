"""Memory and time of rollouts: many steps, many members, writing beside computing. Each case runs in a process of its own.

    python tests/benchmarks/rollout.py MODEL DATA --init 2002-01-05 --inits 2002-01-05/2002-01-14T12/12h --json results.json

`steps`: peak memory of 10 and of 400 steps, written to zarr. `writing`: processor and wall time of the same rollout with and without a file, turn
about. `members`: 50 members of 20 init times, written, scored while running and scored again from the file: peak memory, and whether the
scores are the same to the last digit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

STEP = 6 * 3600


def produce(given: argparse.Namespace, out: Path | None, init: str, leads: tuple[int, ...], **options: object) -> None:
    import torch

    from afno_forecast.forecast.produce import Options, produce_forecast

    torch.set_num_threads(1)
    produce_forecast(given.model, given.data, init=init, lead_time=max(leads), out=out, batch_size=given.batch,
                     options=Options(leads=leads, **options), echo=lambda text: None)  # type: ignore[arg-type]


def peak_mib() -> float:
    """Largest resident set of this process since it began; `ru_maxrss` counts what its parent held, too."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def steps(given: argparse.Namespace, folder: Path) -> dict[str, float]:
    produce(given, folder / "fc.zarr", given.init, tuple(k * STEP for k in range(1, given.count + 1)))
    return {"peak_mib": peak_mib()}


def writing(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    times: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    leads = tuple(k * STEP for k in range(1, 21))
    inits = given.inits
    for turn in range(2 * given.rounds + 2):
        kind = ("without", "with")[turn % 2]
        began, wall = time.process_time(), time.perf_counter()
        produce(given, folder / f"{turn}.zarr" if kind == "with" else None, inits, leads)
        if turn >= 2:  # the first pair warms up
            times[kind].append((time.process_time() - began, time.perf_counter() - wall))
    cpu, wall_s = ({kind: statistics.median(t[i] for t in values) for kind, values in times.items()} for i in (0, 1))
    added = {f"{name}_added": t["with"] / t["without"] - 1 for name, t in (("cpu", cpu), ("wall", wall_s))}
    return {"cpu_seconds": cpu, "wall_seconds": wall_s, **added, "rounds": given.rounds}


def members(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    from afno_forecast.forecast.perturb import Perturbation
    from afno_forecast.verify.while_running import score_session

    began, leads = time.process_time(), (2 * STEP,)
    produce(given, folder / "fc.zarr" if given.compare else None, given.inits, leads, members=given.count, perturbation=Perturbation("correlated"),
            scoring=lambda session, s: score_session(session, s, given.data, folder / "online.nc"))
    found: dict[str, object] = {"peak_mib": peak_mib(), "cpu_seconds": time.process_time() - began}
    if given.compare:
        program = [sys.executable, "-c", "from afno_forecast.cli import main; main()"]
        subprocess.run([*program, "evaluate", folder / "fc.zarr", "--truth", given.data, "--out", folder / "offline.nc"], check=True,
                       capture_output=True)
        with xr.open_dataset(folder / "online.nc") as a, xr.open_dataset(folder / "offline.nc") as b:
            found["identical_to_offline"] = all(np.array_equal(a[n].values, b[n].values, equal_nan=a[n].dtype.kind == "f") for n in a.variables)
    return found


CASES = {"steps": steps, "writing": writing, "members": members}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--init", required=True, help="of the long rollout")
    parser.add_argument("--inits", required=True, help="of the ensembles, START/END/STEP")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", choices=list(CASES), help="one case in this process; for the program itself")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--compare", action="store_true")
    given = parser.parse_args()
    if given.case:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(CASES[given.case](given, Path(folder))))
        return
    results: dict[str, object] = {}
    for name, case, extra in (("steps_10", "steps", ["--count", "10"]), ("steps_400", "steps", ["--count", "400"]), ("writing", "writing", []),
                              ("members_8", "members", ["--count", "8"]), ("members_50", "members", ["--count", "50", "--compare"])):
        done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--case", case, *extra], check=True, stdout=subprocess.PIPE, text=True)
        results[name] = json.loads(done.stdout)
        print(name, results[name], flush=True)
        if given.json:
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
