"""What a person chooses of a picture: which instant and member, and how it looks."""

from __future__ import annotations

from dataclasses import dataclass

from .views import Region


@dataclass(frozen=True)
class When:
    """Which map of a file.

    Args:
        init, lead: of a forecast: `first`, `last` or an ISO date; `5d`. A single one picks itself.
        time: of an analysis; of a forecast the valid time, with either `init` or `lead`.
        member: of an ensemble: `mean`, `spread` or a member's number; None takes the mean.
    """

    init: str | None = None
    lead: str | None = None
    time: str | None = None
    member: str | None = None


@dataclass(frozen=True)
class Look:
    """How a map is drawn.

    Args:
        projection: robinson, platecarree, equalearth, mollweide, orthographic, npolar, spolar or lambert; None takes robinson for
            the globe and platecarree for a region.
        region: (west, east, south, north) in degrees.
        center: (longitude, latitude) in the middle of the map.
        style: `smooth` (filled contours) or `cells` (one colour a grid cell).
        dpi: dots an inch.
    """

    projection: str | None = None
    region: Region | None = None
    center: tuple[float, float] | None = None
    style: str = "smooth"
    dpi: float = 150
