"""The report in headless Chromium: no console error, nothing fetched, the slider and the list work, also with hostile names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import xarray as xr

from afno_forecast.plot.report import write_report

sys.path.insert(0, str(Path(__file__).parent))
from chromium import Page, binary

pytestmark = pytest.mark.skipif(binary() is None, reason="no chromium on the PATH")
EVIL = '"><script>document.title="taken"</script><img src=http://example.org/x onerror=document.title="taken">'
SLIDE = "(() => {{const s = document.getElementById('lead'); s.value = {0}; s.dispatchEvent(new Event('input', {{bubbles: true}}));}})()"
CHOOSE = "(() => {{const s = document.getElementById('variable'); s.selectedIndex = {0}; s.dispatchEvent(new Event('change'));}})()"


@pytest.mark.timeout(240)
def test_the_report_works_in_a_browser(forecast: xr.Dataset, truth: xr.Dataset, scores: xr.Dataset, tmp_path: Path) -> None:
    spoilt = forecast.assign_attrs(source=EVIL, title=EVIL)
    spoilt["geopotential"].attrs["long_name"] = EVIL
    out = write_report(tmp_path / "report.html", forecast=spoilt, truth=truth, scores=scores.assign_attrs(title=EVIL), variables=["z500", "t2m"],
                       model_card={EVIL: EVIL})
    page = Page(tmp_path / "profile")
    try:
        page.open(out)
        assert page.value("document.title") == "Forecast report"
        first = page.value("document.getElementById('map').src.slice(-400)")
        assert page.value("document.getElementById('shown').textContent") == "+6 h"
        page.value(SLIDE.format(2))
        assert page.value("document.getElementById('shown').textContent") == "+48 h (2 d)"
        assert page.value("document.getElementById('map').src.slice(-400)") != first
        page.value(CHOOSE.format(1))
        assert "2 m temperature" in page.value("document.getElementById('map').alt") and page.value("location.hash") == "#t2m%2F2d"
        assert page.value("[...document.images].every(i => i.complete && i.naturalWidth > 100)")
        assert page.value("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the window"
        assert page.value("document.title") == "Forecast report" and page.problems == []
    finally:
        page.close()
