"""Scores of one forecast, or of an ensemble's mean, by WeatherBench's definitions; VRMSE by The Well's.

With area weights w (exact cell areas, sum 1), forecast f, truth o, climatology c of the valid time, < > the weighted sum over a region
and the bar the mean over inits:

- `rmse` = sqrt(bar <(f-o)^2>), `bias` = bar <f-o>, `mae` = bar <|f-o|>;
- anomaly correlation, uncentred, in both forms in use: `acc` = bar <(f-c)(o-c)> / sqrt(bar <(f-c)^2> bar <(o-c)^2>) and
  `acc_mean_of_inits` = bar ( <(f-c)(o-c)> / sqrt(<(f-c)^2> <(o-c)^2>) );
- `activity` = sqrt(bar <(f-c)^2>) and `activity_truth` = sqrt(bar <(o-c)^2>): of a forecast that has lost no variability they are equal;
- `vrmse` = bar sqrt(<(f-o)^2> / <(o-<o>)^2>): 1 for a forecast of the region's mean (The Well, arXiv 2412.00568, whose 1e-7 added to the
  variance would drown quantities of small units). NaN where a truth is constant over the region, to the rounding of float64.
"""

# C channel, H latitude row, W longitude column, R region

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .regions import AreaMeans
from .sample import Float, Rows, Sample, Table

_LOST = 1e-12  # part of the mean square below which a variance taken as a difference is rounding


class Deterministic:
    """Root mean square error, bias, mean absolute error, anomaly correlations, activity, VRMSE."""

    def reduce(self, sample: Sample, areas: AreaMeans) -> Rows:
        """Area means of one forecast, each (R, C)."""
        error = sample.error
        rows = {"error": areas(error), "squared": areas(error * error), "absolute": areas(np.abs(error))}
        truth = np.asarray(sample.truth_CHW, dtype=np.float64)
        rows["vrmse"] = np.sqrt(rows["squared"] / _variance(truth, areas))
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


def _variance(field_CHW: Float, areas: AreaMeans) -> Float:
    """Variance over each region, NaN where the field is constant; (C, H, W) -> (R, C)."""
    centred = field_CHW - field_CHW.mean(axis=(1, 2), keepdims=True)
    square = areas(centred * centred)
    variance = square - areas(centred) ** 2
    return np.where(variance > _LOST * square, variance, np.nan)
