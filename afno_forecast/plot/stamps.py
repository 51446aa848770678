"""All members of an ensemble on one page, beside their mean and spread, in the same colours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from ..errors import ConfigError, DataError
from . import canvas, style
from .boxes import BoxView
from .canvas import MapPanel
from .choices import Look, When
from .fields import Field
from .maps import method_of, seen, source_text
from .series import Series, require_values
from .style import say
from .views import View, view_for

_MOST = 100
_NOW, _PLAIN = When(), Look()


def build_stamps(mean: Field, spread: Field, members: list[Field], numbers: list[int], view: View | BoxView, look: Look = _PLAIN) -> Figure:
    """The page as a figure, 12 inches wide: mean and spread above, a small map a member below."""
    method, page, edge, gap = method_of(look.style), 12.0, 0.35, 0.14
    columns = next((c for c, most in ((4, 8), (5, 15), (6, 24), (7, 42), (8, 64)) if len(members) <= most), 10)
    wide = (page - 2 * edge - (columns - 1) * gap) / columns
    tall, head = wide * view.aspect, 0.24
    rows = -(-len(members) // columns)
    large = min((page - 2 * edge - 1.0) / 2, 3.0 / view.aspect)
    height = 1.38 + large * view.aspect + 0.75 + rows * (tall + head) + 0.32
    figure = style.new_figure(page, height, look.dpi)
    scale = style.magnitude(mean.palette, seen(members, view, method))
    spread_scale = style.magnitude("spread", seen([spread], view, method))
    top, left = 1.34, (page - 2 * large - 1.0) / 2
    for field, which, x in ((mean, scale, left), (spread, spread_scale, left + large + 1.0)):
        low = height - top - large * view.aspect
        panel = MapPanel(figure, (x / page, low / height, large / page, large * view.aspect / height), view, field.grid, which, method=method,
                         detail="small")
        panel.show(field.values, field.is_vector)
        say(figure, x / page, (height - top + 0.05) / height, "Spread (standard deviation)" if field.is_spread else f"Mean of {len(members)} members",
            size=10, weight="bold", ha="left", va="bottom")
        canvas.colour_bar(figure, ((x + 0.05 * large) / page, (low - 0.2) / height, 0.9 * large / page, 0.12 / height), panel, "", field.units.text)
    under = height - top - large * view.aspect - 0.75
    for index, (field, number) in enumerate(zip(members, numbers, strict=True)):
        row, column = divmod(index, columns)
        x, y = edge + column * (wide + gap), under - (row + 1) * (tall + head)
        panel = MapPanel(figure, (x / page, y / height, wide / page, tall / height), view, field.grid, scale, method=method, detail="small")
        panel.show(field.values, field.is_vector)
        say(figure, x / page, (y + tall + 0.03) / height, f"{number}", size=8, ha="left", va="bottom")
    units = f" ({mean.units.text})" if mean.units.text else ""
    canvas.heading(figure, f"{members[0].label}{units}, {len(members)} members", mean.times_text(), source_text(mean))
    canvas.footer(figure, f"{canvas.spacing_text(mean.grid, method)}.  {canvas.credit(mean.grid)}")
    return figure


def plot_stamps(forecast: xr.Dataset, variable: str, out: Path, *, when: When = _NOW, look: Look = _PLAIN) -> Path:
    """Draw every member of an ensemble forecast as a small map, beside the mean and the spread.

    Args:
        forecast, variable, out, look: as for `maps.plot_map`; the page is 12 inches wide.
        when: the instant; its `member` is not used.

    Returns:
        `out`.

    Raises:
        DataError: no such variable or time, or no ensemble. ConfigError: more than 100 members. ResourceError.
    """
    out = canvas.check_output(out)
    series = Series(forecast, variable)
    if series.num_members < 2:
        raise DataError("no ensemble: there is one forecast", where=series.short, fix="leave --member out")
    if series.num_members > _MOST:
        raise ConfigError(f"{series.num_members} members are too many for one page", fix="give --member mean or --member spread")
    found = series.find(init=when.init, lead=when.lead, time=when.time)
    members_EHW = series.members(found.init, found.lead)
    spread = Series(forecast, variable, "spread").at(found.init, found.lead)
    members = [replace(found, values=np.asarray(values), label=series.label) for values in members_EHW]
    require_values(members)
    view = view_for(found.grid, look.projection, look.region, look.center)
    return canvas.save(build_stamps(found, spread, members, series.numbers, view, look), out, look.dpi)
