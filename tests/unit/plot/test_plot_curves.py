"""Scores against lead time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from afno_forecast.errors import DataError
from afno_forecast.plot.curves import build_scores, plot_scores, read_curves


def test_curves_are_in_readable_units_with_their_baselines(scores: xr.Dataset) -> None:
    curves = {c.short: c for c in read_curves(scores)}
    assert set(curves) == {"z500", "t2m"}
    np.testing.assert_allclose(curves["z500"].lines["model"], [10, 20, 30])
    assert curves["z500"].units == "m" and curves["t2m"].units == "K"
    np.testing.assert_allclose(curves["t2m"].lines["model"], [98.0665, 196.133, 294.1995])
    assert list(curves["z500"].lines) == ["model", "persistence", "climatology"]


def test_dims_and_leads_in_any_order_give_the_same(scores: xr.Dataset) -> None:
    turned = scores.transpose().isel(lead_time=[2, 0, 1], region=[1, 0])
    for one, two in zip(read_curves(scores), read_curves(turned), strict=True):
        np.testing.assert_array_equal(one.leads, two.leads)
        np.testing.assert_array_equal(one.lines["model"], two.lines["model"])


def test_correlation_has_no_units_no_climatology_and_the_useful_line(scores: xr.Dataset) -> None:
    figure = build_scores(scores, metric="acc", variables=["t2m", "z500"], region="tropics")
    first = figure.axes[0]
    assert list(read_curves(scores, metric="acc")[0].lines) == ["model", "persistence"]
    assert any(np.allclose(line.get_ydata(), 0.6) for line in first.get_lines())
    assert first.get_ylabel() == ""
    assert {t.get_text() for t in figure.legends[0].get_texts()} == {"model", "persistence"}


def test_the_page_says_region_and_number_of_forecasts(scores: xr.Dataset, tmp_path: Path) -> None:
    words = " ".join(t.get_text() for t in build_scores(scores).texts)
    assert "Region: global" in words and "7 forecasts" in words and "Simulated, not observed" in words
    fewer = build_scores(scores.assign(num_inits=("lead_time", [7, 6, 5])))
    assert "5 to 7 forecasts, by lead" in " ".join(t.get_text() for t in fewer.texts)
    assert plot_scores(scores, tmp_path / "s.png", metric="bias", dpi=40).stat().st_size > 2000


def test_what_is_missing_is_named(scores: xr.Dataset) -> None:
    with pytest.raises(DataError, match=r"no metric 'rms'.*\n.*did you mean 'rmse'"):
        read_curves(scores, metric="rms")
    with pytest.raises(DataError, match="there are global, tropics"):
        read_curves(scores, region="mars")
    with pytest.raises(DataError, match="there are z500, t2m"):
        read_curves(scores, variables=["q700"])
    with pytest.raises(DataError, match="no score file"):
        read_curves(scores.drop_vars("metric"))


def test_without_the_globe_the_first_region_is_drawn_and_named(scores: xr.Dataset) -> None:
    part = scores.sel(region=["tropics"])
    assert [c.short for c in read_curves(part)] == [c.short for c in read_curves(scores, region="tropics")]
    assert any("Region: tropics" in text.get_text() for text in build_scores(part, dpi=40).texts)
    with pytest.raises(DataError, match="no region 'global'"):
        read_curves(part, region="global")


@pytest.mark.parametrize(("leads", "unit", "shown"), [
    ([6, 24, 240], "days", [0, 2, 4, 6, 8, 10]), ([6, 12, 120], "days", [0, 1, 2, 3, 4, 5]), ([6, 12, 48], "hours", list(range(0, 49, 6))),
    ([1, 2, 3], "hours", [0, 1, 2, 3]), ([1 / 60, 0.5, 1], "minutes", [0, 15, 30, 45, 60]),
    ([1 / 3600, 2 / 3600, 4 / 3600], "seconds", [0, 1, 2, 3, 4]),
])
def test_leads_are_read_in_days_hours_minutes_or_seconds(scores: xr.Dataset, leads: list[float], unit: str, shown: list[float]) -> None:
    seconds = np.array([round(3600 * hours) for hours in leads]).astype("timedelta64[s]").astype("timedelta64[ns]")
    axes = build_scores(scores.assign_coords(lead_time=seconds), variables=["t2m"]).axes[0]
    assert axes.get_xlabel() == f"lead time ({unit})"
    np.testing.assert_allclose(axes.get_xticks(), shown)
