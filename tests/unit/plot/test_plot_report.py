"""Animation and report: frames, one file, nothing fetched, everything escaped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from afno_forecast.errors import ConfigError, DataError
from afno_forecast.plot import page
from afno_forecast.plot.animate import MotionPage, animate
from afno_forecast.plot.choices import Look, When
from afno_forecast.plot.film import in_few_colours
from afno_forecast.plot.report import write_report
from afno_forecast.plot.series import Series
from afno_forecast.plot.views import view_for

START = When(init="first")
EVIL = '"><script>alert("x")</script><img src=http://example.org/x onerror=alert(1)> \x1b[31m & $x'


def test_a_frame_a_lead_of_one_size_that_differ(forecast: xr.Dataset, truth: xr.Dataset, tmp_path: Path) -> None:
    frames = []
    with Image.open(animate(forecast, "t2m", tmp_path / "a.gif", truth=truth, when=START, look=Look(dpi=40))) as picture:
        assert picture.info["loop"] == 0
        for i in range(picture.n_frames):
            picture.seek(i)
            frames.append(np.asarray(picture.convert("RGB")))
    assert len(frames) == 3 and frames[0].shape == frames[1].shape
    assert (frames[0] != frames[1]).any() and (frames[1] != frames[2]).any()


def test_a_frame_is_what_a_whole_drawing_gives_and_colours_do_not_move(forecast: xr.Dataset) -> None:
    series = Series(forecast, "t2m")
    fields = [series.at(series.instant("first"), int(lead)) for lead in series.leads]  # type: ignore[union-attr]
    motion = MotionPage(view_for(series.grid), fields, None, dpi=50)
    levels = motion.panels[0].image.norm.boundaries
    motion.show(fields[0])
    motion.picture()
    motion.show(fields[2])
    quick = np.asarray(motion.picture()).astype(int)
    assert motion.panels[0].image.norm.boundaries is levels
    assert "+48 h (2 d)" in motion.texts[1].get_text()
    motion.figure.canvas.draw()
    whole = np.asarray(motion.figure.canvas.buffer_rgba())[..., :3].astype(int)  # type: ignore[attr-defined]
    assert np.abs(quick - whole).max() <= 4


def test_flat_colours_stay_what_they_are_in_a_palette() -> None:
    """A bar of many shades of which the map shows two, with a thousand shades between them."""
    page = np.full((60, 200, 3), 255, np.uint8)
    page[:30, :, 0] = np.arange(200)[None, :]
    page[:30, :, 1] = np.arange(30)[:, None] * 8
    bar = [(5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (247, 247, 247), (253, 219, 199), (244, 165, 130), (178, 24, 43)]
    for i, colour in enumerate(bar):
        page[40:50, 20 * i:20 * i + 20] = colour
    page[55:57, :80], page[57:59, 100:140] = 251, (252, 253, 254)  # nearly white
    flat = np.asarray(in_few_colours([Image.fromarray(page)], 32)[0].convert("RGB"))
    assert (flat[40:55] == page[40:55]).all() and (flat[59] == 255).all(), "and the white page stays white"
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) <= 32


def test_an_animation_needs_leads_and_a_gif(truth: xr.Dataset, forecast: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no lead times"):
        animate(truth, "t2m", tmp_path / "a.gif", when=START)
    with pytest.raises(ConfigError, match=r"end it in \.gif, \.mp4"):
        animate(forecast, "t2m", tmp_path / "a.avi", when=START)
    with pytest.raises(ConfigError, match="frames a second"):
        animate(forecast, "t2m", tmp_path / "a.gif", when=START, fps=0)


@pytest.fixture(scope="module")
def html(forecast: xr.Dataset, truth: xr.Dataset, scores: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    spoilt = forecast.assign_attrs(source=EVIL, title=EVIL, license=EVIL)
    out = write_report(tmp_path_factory.mktemp("r") / "report.html", forecast=spoilt, truth=truth.isel(time=slice(0, 6)), scores=scores,
                       variables=["z500", "t2m"], init="first",
                       model_card={EVIL: EVIL, "channels": ["z500", "t2m"], "grid": {"H": 18, "W": 24}, "lr": 1e-3})
    return out.read_text(encoding="utf-8")


def test_everything_from_files_is_text(html: str) -> None:
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in html
    assert len(re.findall(r"<script", html)) == 2 and "<img src=http" not in html and "\x1b" not in html
    assert not re.findall(r"<[^>]*\sonerror=", html)


def test_the_page_fetches_nothing_and_allows_only_its_own_script(html: str) -> None:
    addresses = re.findall(r"(?:src|href|action)\s*=\s*\"([^\"]*)\"", html)
    assert addresses and all(a.startswith("data:") for a in addresses)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None and "default-src &#x27;none&#x27;" in policy[1] and "unsafe" not in policy[1]
    assert "style=" not in re.sub(r"<style>.*?</style>", "", html, flags=re.S)


def test_the_slider_has_a_frame_a_lead_and_a_variable(html: str) -> None:
    block = re.search(r'<script type="application/json" id="maps">(.*?)</script>', html, re.S)
    assert block is not None
    variables = json.loads(block[1])
    assert [v["name"] for v in variables] == ["z500", "t2m"]
    assert [f["key"] for f in variables[1]["frames"]] == ["6h", "1d", "2d"]
    assert all(f["image"].startswith("data:image/png;base64,") for v in variables for f in v["frames"])
    assert 'max="2"' in html and '<label for="lead">' in html


def test_each_entry_of_the_list_has_a_name_of_its_own(forecast: xr.Dataset, tmp_path: Path) -> None:
    """What the page's address remembers: the mean and the spread of a variable are two."""
    members = forecast.expand_dims(number=[0, 1]).copy(deep=True)
    members["geopotential"].values[1] += 50.0
    text = write_report(tmp_path / "r.html", forecast=members, variables=["z500"]).read_text()
    block = re.search(r'<script type="application/json" id="maps">(.*?)</script>', text, re.S)
    assert block is not None
    assert [v["name"] for v in json.loads(block[1])] == ["z500", "z500-spread"]


def test_the_tables_carry_baselines_and_skill(html: str) -> None:
    assert re.search(r"<tr><td>1d</td><td>20\.00</td><td>40\.79</td><td>50\.99</td><td>\+0\.51</td></tr>", html)
    assert 'class="worse"' not in html.split("<style>")[1].split("</style>")[1].split("Model card")[1]
    for said in ("Simulated, not observed", "Natural Earth", "Model card", "7 forecasts", "one of 2 in the file"):
        assert said in html


def test_a_forecast_alone_is_enough_and_gives_the_same_bytes(forecast: xr.Dataset, tmp_path: Path) -> None:
    one, two = (write_report(tmp_path / n, forecast=forecast, variables=["t2m"]).read_bytes() for n in ("a.html", "b.html"))
    assert one == two and b"Tables" not in one


def test_json_cannot_close_its_element() -> None:
    assert "<" not in page.as_json({"a": "</script><!--"}) and json.loads(page.as_json({"a": "</script>"})) == {"a": "</script>"}


def test_losing_to_persistence_is_marked() -> None:
    assert '<td class="worse">−0.25</td>' in page.score_table("x", "m", [("6h", "5", "4", "–", -0.25)])


def test_a_report_leaves_out_what_has_no_values(forecast: xr.Dataset, tmp_path: Path) -> None:
    z = forecast["geopotential"]
    part = forecast[["geopotential", "2m_temperature"]].assign(geopotential=z.where(z["level"] == 850)).isel(prediction_timedelta=[0])
    text = write_report(tmp_path / "r.html", forecast=part).read_text()
    assert "(z850)" in text and "(z500)" not in text
    with pytest.raises(DataError, match="every value of 'z500' is missing"):
        write_report(tmp_path / "s.html", forecast=part, variables=["z500"])
