"""What a model folder says of itself, for `info` and the report: read from its files, without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .channels import ChannelSet
from .documents import load_document, printable
from .errors import CheckpointError
from .grid import grid_from_dict
from .model_folder import CALIBRATION, CONFIG, FILES, STATISTICS, WEIGHTS, check_manifest, longer_steps
from .times import format_duration


def _count_parameters(path: Path) -> int:
    """Numbers in a safetensors file, from its header alone. Raises CheckpointError when the header is not sound."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, 100_000_000):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header: dict[str, Any] = json.loads(file.read(length))
        return sum(int(np.prod(entry["shape"])) for name, entry in header.items() if name != "__metadata__" and "normalizer." not in name)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the weights' header is damaged: {error}", where=str(path), fix="copy the folder again") from error


def card_facts(folder: Path) -> dict[str, Any]:
    """Names and values that say what a model is. Raises CheckpointError."""
    folder = Path(folder)
    check_manifest(folder, FILES)
    config = load_document(folder / CONFIG).values
    with xr.open_dataset(folder / STATISTICS, engine="netcdf4") as ds:
        attrs = dict(ds.attrs)
        steps = [int(attrs["time_step_seconds"]), *longer_steps(ds)]
    model, data = config["model"], config.get("data", {})
    facts: dict[str, Any] = {
        "model": config.get("name", folder.name),
        "parameters": f"{_count_parameters(folder / WEIGHTS):,}",
        "backbone": model["backbone"]["kind"],
        "grid": grid_from_dict(json.loads(attrs["grid"])).describe(),
        "time step": f"{', '.join(map(format_duration, steps))}, history {model.get('history', 1)}",
        "calendar": attrs["calendar"],
        "other inputs": ", ".join([*model["static"], *model["forcings"],
                                   *(f"advection by {'/'.join(wind)}" for wind in model.get("advected_by", ()))]) or "none",
    }
    if (folder / CALIBRATION).exists():
        with xr.open_dataset(folder / CALIBRATION, engine="netcdf4", decode_times=False) as ds:
            facts["calibrated"] = f"by {ds.attrs['made_from']}, up to {format_duration(int(ds['lead_time'].values[-1]))}"
    facts |= {f"{key} period": f"{data[key]['start']} to {data[key]['end']}" for key in ("train", "validation") if key in data}
    return facts | {key: attrs[key] for key in ("institution", "source", "license") if key in attrs}


def describe(folder: Path) -> str:
    """Readable account of a model folder: what it is, then its channels with units and statistics. Raises CheckpointError."""
    facts = card_facts(folder)
    with xr.open_dataset(Path(folder) / STATISTICS, engine="netcdf4") as ds:
        channels = ChannelSet.from_list(json.loads(ds.attrs["channels"]))
        mean, std, tendency = (ds[k].values for k in ("mean", "std", "tendency_std"))
    lines = [f"{printable(key):<18}{printable(str(value))}" for key, value in facts.items()]
    lines.append(f"{'channel':<28}{'short':<8}{'units':<14}{'mean':>12}{'std':>12}{'std of step':>13}")
    lines += [f"{c.name:<28}{c.short:<8}{c.units:<14}{m:>12.5g}{s:>12.5g}{t:>13.4g}"
              for c, m, s, t in zip(channels, mean, std, tendency, strict=True)]
    return "\n".join(lines)
