"""Scores of one forecast, or of an ensemble's mean, by WeatherBench's definitions; VRMSE by The Well's.

With area weights w (exact cell areas, sum 1), forecast f, truth o, climatology c of the valid time, < > the weighted sum over a region
and the bar the mean over inits:

- `rmse` = sqrt(bar <(f-o)^2>), `bias` = bar <f-o>, `mae` = bar <|f-o|>;
- anomaly correlation, uncentred, in both forms in use: `acc` = bar <(f-c)(o-c)> / sqrt(bar <(f-c)^2> bar <(o-c)^2>) and
  `acc_mean_of_inits` = bar ( <(f-c)(o-c)> / sqrt(<(f-c)^2> <(o-c)^2>) );
- `activity` = sqrt(bar <(f-c)^2>) and `activity_truth` = sqrt(bar <(o-c)^2>): of a forecast that has lost no variability they are equal;
- `vrmse` = bar sqrt(<(f-o)^2> / (<(o-<o>)^2> + 1e-7)): 1 for a forecast of the region's mean (The Well, arXiv 2412.00568).
"""

# C channel, H latitude row, W longitude column, R region

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .regions import AreaMeans
from .sample import Float, Rows, Sample, Table

_VRMSE_FLOOR = 1e-7  # added to the variance, as in The Well, so that a constant field divides


class Deterministic:
    """Root mean square error, bias, mean absolute error, anomaly correlations, activity, VRMSE."""

    def reduce(self, sample: Sample, areas: AreaMeans) -> Rows:
        """Area means of one forecast, each (R, C)."""
        error = sample.error
        rows = {"error": areas(error), "squared": areas(error * error), "absolute": areas(np.abs(error))}
        truth = np.asarray(sample.truth_CHW, dtype=np.float64)
        centred = truth - truth.mean(axis=(1, 2), keepdims=True)
        variance = areas(centred * centred) - areas(centred) ** 2
        rows["vrmse"] = np.sqrt(rows["squared"] / (np.maximum(variance, 0.0) + _VRMSE_FLOOR))
        if sample.climatology_CHW is not None:
            ours, theirs = sample.mean - sample.climatology_CHW, truth - sample.climatology_CHW
            rows |= {"covariance": areas(ours * theirs), "variance": areas(ours * ours), "variance_truth": areas(theirs * theirs)}
            with np.errstate(invalid="ignore", divide="ignore"):
                rows["correlation"] = rows["covariance"] / np.sqrt(rows["variance"] * rows["variance_truth"])
        return rows

    def scores(self, mean: Mapping[str, Float]) -> dict[str, Float]:
        """See the definitions at the top of the file."""
        result = {"rmse": np.sqrt(mean["squared"]), "bias": mean["error"], "mae": mean["absolute"], "vrmse": mean["vrmse"]}
        if "covariance" in mean:
            with np.errstate(invalid="ignore", divide="ignore"):
                result["acc"] = mean["covariance"] / np.sqrt(mean["variance"] * mean["variance_truth"])
            result |= {"acc_mean_of_inits": mean["correlation"], "activity": np.sqrt(mean["variance"]),
                       "activity_truth": np.sqrt(mean["variance_truth"])}
        return result

    def tables(self, mean: Mapping[str, Float]) -> tuple[Table, ...]:
        """None."""
        return ()
