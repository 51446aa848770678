"""The card of a model: what it is, what it was trained on, how it scored."""

from __future__ import annotations

import html

import numpy as np
import xarray as xr

from .. import __version__
from ..errors import printable
from ..forecaster import Forecaster, ModelInputs
from ..times import format_duration
from .config import Experiment


def _inert(text: object) -> str:
    """A source's own words for Markdown: on one line, nothing for a terminal to obey, no HTML."""
    return html.escape(printable(str(text)), quote=False)


def model_card(experiment: Experiment, forecaster: Forecaster, inputs: ModelInputs, score: float, table: xr.Dataset) -> str:
    """Markdown that says what the model is, what it was trained on, and how it scored."""
    leads = [f"{v / np.timedelta64(1, 'h'):g} h" for v in table["lead_time"].values]
    rows = [f"| {_inert(name)} | " + " | ".join(" / ".join(f"{v:.3f}" for v in lead) for lead in item.transpose("lead_time", "rival").values) + " |"
            for name, item in table.data_vars.items()]
    about = [f"- {key}: {_inert(inputs.attrs[key])}" for key in ("title", "institution", "source", "license") if key in inputs.attrs]
    data = experiment.data
    return "\n".join([
        f"# {experiment.name}", "",
        f"Forecaster trained with afno_forecast {__version__}: {sum(p.numel() for p in forecaster.parameters()):,} parameters, "
        f"steps of {', '.join(map(format_duration, inputs.time_steps))}, {inputs.grid.describe()}.", "",
        "## Data", *about,
        f"- trained on {data.train.start} to {data.train.end}; chosen on {data.validation.start} to {data.validation.end}",
        f"- channels: {', '.join(_inert(f'{c.short} [{c.units}]') for c in inputs.channels)}",
        f"- other inputs: {', '.join([*experiment.model.static, *experiment.model.forcings]) or 'none'}", "",
        "## Validation", f"RMSE divided by the RMSE of {' / of '.join(table['rival'].values)} (below 1 is better), by lead time; "
        f"mean over persistence {score:.4f}:", "",
        "| channel | " + " | ".join(leads) + " |", "|" + "---|" * (len(leads) + 1), *rows, "",
        "## Use", "`afno-forecast rollout THIS_FOLDER --data STORE --init last --lead-time 10d --out forecast.zarr`", ""])
