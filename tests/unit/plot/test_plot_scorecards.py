"""Score cards and spectra: what the colours, hatches, curves and dots say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from afno_forecast.errors import DataError
from afno_forecast.plot.curves import build_scores, read_curves
from afno_forecast.plot.scorecard import build_card, plot_scorecard, read_card
from afno_forecast.plot.spectra import build_spectra, plot_spectra, read_spectra, spectral_names


def test_a_card_is_the_change_against_the_reference(scores: xr.Dataset) -> None:
    card = read_card(scores)
    assert card.reference == "persistence" and card.relative and not card.higher_is_better
    assert card.rows == [("Geopotential height", "500 hPa", "z500"), ("2 m temperature", "", "t2m")]
    model, other = (scores["2m_temperature"].sel(metric=m, region="global").values for m in ("rmse", "rmse_persistence"))
    np.testing.assert_allclose(card.change_RL[1], 100 * (model / other - 1))


def test_a_score_without_units_is_compared_by_difference_and_more_is_better(scores: xr.Dataset) -> None:
    card = read_card(scores, metric="acc")
    assert not card.relative and card.higher_is_better
    np.testing.assert_allclose(card.change_RL[1], [0.09, 0.3, 0.35])
    figure = build_card(card, scores, metric="acc", region="global", dpi=40)
    blue = figure.axes[0].patches[-1].get_facecolor()
    assert blue[2] > blue[0], "better is blue"


@pytest.mark.parametrize("first", ["sea_ice_cover", "2m_temperature"])
def test_quantities_without_units_are_compared_as_the_others_are(scores: xr.Dataset, first: str) -> None:
    surface = scores[["2m_temperature", "num_inits"]]
    both = surface.assign(sea_ice_cover=surface["2m_temperature"].copy(data=0.001 * surface["2m_temperature"].values).assign_attrs(units="1"))
    card = read_card(both[[first, *(n for n in both.data_vars if n != first)]])
    assert card.relative and [row[2] for row in card.rows].index("t2m") == (first != "2m_temperature")
    np.testing.assert_allclose(card.change_RL[0], card.change_RL[1])
    assert np.abs(card.change_RL).max() > 20


def test_bias_counts_by_its_distance_from_zero(scores: xr.Dataset) -> None:
    spoilt = scores.assign_coords(metric=[m if m != "acc" else "bias_persistence" for m in scores.metric.values])
    card = read_card(spoilt, metric="bias")
    expected = 100 * (np.array([9.80665, 0, 9.80665]) / np.array([0.99, 0.8, 0.55]) - 1)
    np.testing.assert_allclose(card.change_RL[1], expected)


def test_a_score_of_which_neither_end_is_better_makes_no_card(scores: xr.Dataset) -> None:
    """Colours say better and worse; of a forecast's spread or activity neither can be said."""
    names = [str(m).replace("acc", "activity") for m in scores.metric.values]
    told = scores.assign_coords(metric=names, better=("metric", ["" if n.startswith("activity") else "lower" for n in names]))
    assert read_card(told).reference == "persistence"
    with pytest.raises(DataError, match="neither more nor less of the score 'activity' is better") as error:
        read_card(told, metric="activity")
    assert "afno-forecast plot scores SCORES.nc --metric activity --out" in error.value.fix


def _tested(scores: xr.Dataset, p: float) -> xr.Dataset:
    extra = xr.full_like(scores.isel(metric=[0]).drop_vars("num_inits"), p).assign_coords(metric=["rmse_vs_persistence_p"])
    both = xr.concat([scores.drop_vars("num_inits"), extra], "metric", combine_attrs="override")
    better = ["lower"] * 3 + ["zero"] + ["higher"] * 3 + [""]
    return both.assign_coords(metric_units=("metric", ["variable"] * 4 + ["1"] * 4), better=("metric", better))


@pytest.mark.parametrize(("p", "hatched"), [(0.2, True), (0.01, False)])
def test_what_chance_may_explain_is_hatched(scores: xr.Dataset, p: float, hatched: bool) -> None:
    tested = _tested(scores, p)
    card = read_card(tested)
    figure = build_card(card, tested, metric="rmse", region="global", dpi=40)
    assert any(patch.get_hatch() for patch in figure.axes[0].patches) == hatched
    assert "Hatched" in " ".join(t.get_text() for t in figure.texts)
    assert "not tested" in " ".join(t.get_text() for t in build_card(read_card(scores), scores, metric="rmse", region="global").texts)


def test_what_was_not_tested_is_dotted_and_not_taken_for_certain(scores: xr.Dataset) -> None:
    tested = _tested(scores, 0.01)
    p = {"metric": "rmse_vs_persistence_p"}
    some = tested.assign({"2m_temperature": tested["2m_temperature"].where(
        (tested.metric != p["metric"]) | (tested.lead_time < np.timedelta64(2, "D")))})
    none = tested.where(tested.metric != p["metric"])
    for case, dotted in ((some, 1), (none, 6)):
        figure = build_card(read_card(case), case, metric="rmse", region="global", dpi=40)
        assert [patch.get_hatch() for patch in figure.axes[0].patches if patch.get_hatch()] == ["...."] * dotted
        assert "dotted: not tested" in " ".join(t.get_text() for t in figure.texts)


def test_another_file_is_a_reference_on_the_leads_of_both(scores: xr.Dataset, tmp_path: Path) -> None:
    worse = scores.map(lambda item: item * 2, keep_attrs=True).isel(lead_time=[1, 2]).assign_attrs(model="other $x$")
    card = read_card(scores, against=worse)
    assert card.leads.tolist() == [86400, 172800] and card.reference == "other $x$"
    np.testing.assert_allclose(card.change_RL, -50)
    assert plot_scorecard(scores, tmp_path / "c.png", against=worse, dpi=40).stat().st_size > 2000
    with pytest.raises(DataError, match="no variable and lead in common"):
        read_card(scores, against=scores.isel(lead_time=[0]).assign_coords(lead_time=scores.lead_time[:1] * 5))


def test_references_that_are_not_there_are_named(scores: xr.Dataset) -> None:
    with pytest.raises(DataError, match=r"no reference 'persistance'.*\n.*did you mean 'persistence'"):
        read_card(scores, reference="persistance")
    with pytest.raises(DataError, match="no reference has a score"):
        read_card(scores, metric="bias")


def test_a_further_rival_is_a_line_and_a_reference(scores: xr.Dataset) -> None:
    rival = scores.assign_coords(metric=[m.replace("climatology", "ifs") for m in scores.metric.values]).assign_attrs(rivals="persistence ifs")
    assert list(read_curves(rival)[0].lines) == ["model", "persistence", "ifs"] and read_card(rival).reference == "ifs"
    assert [t.get_text() for t in build_scores(rival, dpi=40).legends[0].get_texts()] == ["model", "persistence", "ifs"]


@pytest.fixture
def spectral(scores: xr.Dataset) -> xr.Dataset:
    wavenumbers = np.arange(13)
    truth = 1e9 / (1.0 + wavenumbers) ** 3
    series = np.stack([truth[None] * np.where(wavenumbers >= k, 0.2, 1.0) for k in (13, 9, 6)])[:, 0]
    values = np.stack([np.stack([series, np.broadcast_to(truth, series.shape)])] * 2, axis=1)  # (series, band, lead, wavenumber)
    dims = ("series", "band", "lead_time", "zonal_wavenumber")
    circles = np.array([3.9e7, 2.8e7])
    resolution = circles[:, None] / np.array([12, 9, 6])
    attrs = {"units": "m (K)2"}
    shortest = (("band", "lead_time"), resolution, {"units": "m", "energy_ratio": 0.5})
    both = {"2m_temperature_energy_spectrum": (dims, values, attrs), "2m_temperature_effective_resolution": shortest}
    return scores.assign(both).assign_coords(
        series=["forecast", "truth"], band=["tropics", "northern-midlatitudes"], zonal_wavenumber=wavenumbers,
        circumference=("band", circles, {"units": "m"}))


def test_spectra_are_read_from_wavenumber_one_and_dots_mark_the_resolution(spectral: xr.Dataset, tmp_path: Path) -> None:
    assert spectral_names(spectral) == ["t2m"]
    found = read_spectra(spectral, "t2m")
    assert found.bands[0].forecast_LK.shape == (3, 12) and found.ratio == 0.5
    np.testing.assert_allclose(found.bands[0].truth_LK[0, 0], 1e9 / 8)
    figure = build_spectra(found, spectral, dpi=40)
    dots = [line.get_xdata()[0] for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert dots == [9, 6], "the first lead keeps the truth's energy to the last wavenumber"
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["truth, mean of these leads", "6h", "1d", "2d"]
    assert any("2d 6500 km" in t.get_text() for t in figure.texts)
    assert plot_spectra(spectral, "2m_temperature", tmp_path / "s.png", dpi=40).stat().st_size > 2000


def test_levels_are_found_and_units_squared(spectral: xr.Dataset) -> None:
    item = spectral["2m_temperature_energy_spectrum"].expand_dims(level=[500, 850], axis=-1).assign_attrs(available_levels=[500])
    resolution = spectral["2m_temperature_effective_resolution"].expand_dims(level=[500, 850], axis=-1)
    ds = spectral.drop_vars([n for n in spectral.data_vars if "spectrum" in str(n) or "resolution" in str(n)])
    ds = ds.assign({"geopotential_energy_spectrum": item, "geopotential_effective_resolution": resolution})
    assert spectral_names(ds) == ["z500"]
    np.testing.assert_allclose(read_spectra(ds, "z500").bands[0].truth_LK[0, 0], 1e9 / 8 / 9.80665**2)
    with pytest.raises(DataError, match=r"no spectrum of 't850'.*there are z500"):
        read_spectra(ds, "t850")


def test_names_of_a_file_are_words_and_no_markup(spectral: xr.Dataset, tmp_path: Path) -> None:
    evil = "$\\frac{\x1b[31m"
    spoilt = spectral.assign_coords(metric=[m.replace("climatology", evil) for m in spectral.metric.values], region=[evil, "x"], band=[evil, "b"])
    spoilt = spoilt.assign_attrs(rivals=f"persistence {evil}", title=evil)
    assert plot_scorecard(spoilt, tmp_path / "c.png", reference=evil, dpi=40).stat().st_size > 2000
    assert plot_spectra(spoilt, "t2m", tmp_path / "s.png", dpi=40).stat().st_size > 2000
    figure = build_scores(spoilt, dpi=40)
    figure.canvas.draw()
    words = [t.get_text() for t in figure.legends[0].get_texts()]
    assert len(words) == 3 and not any("\x1b" in w for w in words)
