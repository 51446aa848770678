"""An option that would do nothing is refused, not ignored."""

from dataclasses import replace
from typing import Any

import pytest

from afno_forecast.nn.backbone import HierarchicalConfig, PlainConfig, build_backbone, set_patch

CHANGED: dict[str, Any] = {"num_blocks": 2, "hidden_factor": 2.0, "fraction": 0.5, "shrink": 0.1, "num_bands": 2, "latitude": "double"}
IDLE = {"fno": ("num_blocks", "hidden_factor", "shrink"), "gfn": ("num_blocks", "hidden_factor", "shrink", "num_bands"),
        "attention": ("hidden_factor", "fraction", "shrink", "num_bands", "latitude"), "identity": tuple(CHANGED),
        "legacy": ("num_bands", "latitude"), "afno": ()}


@pytest.mark.parametrize("mixer", IDLE)
@pytest.mark.parametrize("option", CHANGED)
@pytest.mark.parametrize("kind", [PlainConfig, HierarchicalConfig])
def test_an_option_that_does_nothing_with_a_mixer_is_refused(mixer: str, option: str, kind: Any) -> None:
    given = {"mixer": mixer, option: CHANGED[option], "tokens": (3, 5) if mixer == "gfn" else None}
    if option in IDLE[mixer]:
        with pytest.raises(ValueError, match=f"^{option}: does nothing with the mixer {mixer}; leave it out"):
            kind(**given)
    else:
        kind(**given)


@pytest.mark.parametrize("mixer", ["fno", "identity"])
def test_a_width_need_not_be_divisible_where_nothing_is_divided(mixer: Any) -> None:
    assert PlainConfig(width=12, mixer=mixer).width == 12


@pytest.mark.parametrize("boundary", ["sphere", "band", "periodic", "limited"])
def test_rows_on_the_poles_are_asked_for_only_where_there_are_some(boundary: Any) -> None:
    config = PlainConfig(patch=(1, 2), width=8, depth=1, latitude="double_with_poles")
    with pytest.raises(ValueError, match="rows that lie on the poles, which this grid does not have"):
        build_backbone(config, 3, 2, boundary)
    build_backbone(config, 3, 2, "sphere_with_poles")


@pytest.mark.parametrize(("config", "rows"), [
    (PlainConfig(patch=(3, 1), width=8, depth=1), 3), (PlainConfig(patch=(1, 1), width=8, depth=1, coarsen=(2, 1)), 2),
    (HierarchicalConfig(widths=(8, 8, 8), depth=1), 4)], ids=["patch", "coarsen", "pyramid"])
def test_tokens_of_several_rows_do_not_lie_on_the_poles(config: Any, rows: int) -> None:
    with pytest.raises(ValueError, match=f"which tokens of {rows} rows do not; use double"):
        build_backbone(replace(config, latitude="double_with_poles"), 3, 2, "sphere_with_poles")
    network = build_backbone(PlainConfig(patch=(1, 1), width=8, depth=1, latitude="double_with_poles"), 3, 2, "sphere_with_poles")
    with pytest.raises(ValueError, match="tokens of 2 rows"):
        set_patch(network, (2, 1))
