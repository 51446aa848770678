"""A forecaster is built for its channels and its grid: the sign of the wind over the poles, and grids that it was not trained on."""

from typing import Any

import numpy as np
import pytest
import torch

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.errors import ConfigError
from afno_forecast.forecaster import Forecaster, ModelConfig, ModelInputs, build_forecaster, cells_as_one, require_parity_used
from afno_forecast.grid import BoxGrid, Grid, LatLonGrid
from afno_forecast.nn.backbone import HierarchicalConfig, PlainConfig
from afno_forecast.nn.legacy import LegacyConfig

CHANNELS = ChannelSet((Channel("geopotential", 500, "m2 s-2"), Channel("u_component_of_wind", 850, "m s-1"),
                       Channel("10m_v_component_of_wind", None, "m s-1")))
HIERARCHICAL = HierarchicalConfig(widths=(8, 8), depth=1, num_blocks=2, num_bands=2)


def globe(rows: int, columns: int) -> LatLonGrid:
    return LatLonGrid((np.arange(rows) + 0.5) / rows * 180 - 90, np.arange(columns) * 360 / columns)


def area(rows: int, columns: int, step: float) -> LatLonGrid:
    return LatLonGrid(-25 + step * np.arange(rows), 150 + step * np.arange(columns))


def inputs_of(grid: Grid, channels: ChannelSet = CHANNELS, trained_on: Grid | None = None) -> ModelInputs:
    count = len(channels)
    return ModelInputs(channels, grid, "standard", 21600, np.arange(1.0, 1 + count), np.full(count, 2.0), np.ones(count), {}, trained_on=trained_on)


def build(grid: Grid, *, trained_on: Grid | None = None, channels: ChannelSet = CHANNELS, backbone: Any = HIERARCHICAL, **config: Any) -> Forecaster:
    inputs = inputs_of(grid, channels, trained_on)
    torch.manual_seed(0)
    forecaster = build_forecaster(ModelConfig(forcings=("sin_latitude",), static=(), backbone=backbone, **config), inputs)
    for parameter in forecaster.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return forecaster


def test_the_wind_changes_sign_about_zero_at_the_first_layer() -> None:
    forecaster = build(globe(8, 16), vector_parity=True, history=2)
    assert forecaster.backbone.stem.parity_C.tolist() == [1, -1, -1, 1, -1, -1, 1]
    assert forecaster.normalizer.mean_C.tolist() == [1, 0, 0]
    plain = build(globe(8, 16), history=2)
    assert plain.backbone.stem.parity_C is None and plain.normalizer.mean_C.tolist() == [1, 2, 3]
    assert plain.state_dict().keys() == forecaster.state_dict().keys()


@pytest.mark.parametrize(("reason", "given"), [
    ("no channel is a component of the wind", {"channels": ChannelSet(CHANNELS.channels[:1])}),
    ("does not reach over the poles", {"grid": area(8, 12, 2.5)}),
    ("end at the poles", {"backbone": PlainConfig(patch=(4, 4), width=8, depth=1, num_blocks=2)}),
    ("published networks", {"backbone": LegacyConfig("legacy", (8, 16), (4, 4), 8, 1)}),
])
def test_parity_that_does_nothing_is_refused(reason: str, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"vector_parity does nothing here: .*{reason}"):
        inputs = inputs_of(given.get("grid", globe(8, 16)), given.get("channels", CHANNELS))
        require_parity_used(ModelConfig(forcings=(), static=(), backbone=given.get("backbone", HIERARCHICAL), vector_parity=True), inputs)


def test_parity_is_used_where_patches_look_over_the_poles() -> None:
    for patch, overlap in (((3, 4), 0), ((4, 4), 1)):
        network = PlainConfig(patch=patch, overlap=overlap, width=8, depth=1, num_blocks=2)
        require_parity_used(ModelConfig(forcings=(), static=(), backbone=network, vector_parity=True), inputs_of(globe(8, 16)))
        made = build(globe(8, 16), backbone=network, vector_parity=True)
        assert made.backbone.stem.parity_C is not None
    build(area(8, 12, 2.5), trained_on=globe(32, 64), vector_parity=True)  # weights of the globe, without poles here


@pytest.mark.parametrize(("predicts", "parity", "signs"), [("tendency", False, [1, -1, -1]), ("state", True, [1, -1, -1]), ("state", False, None)])
def test_what_is_spread_from_coarser_cells_turns_over_the_pole_as_wind_does(predicts: str, parity: bool, signs: list[int] | None) -> None:
    """A normalised state without parity has its zero at the mean, where no sign can change."""
    made = build(globe(16, 32), trained_on=globe(8, 16), predicts=predicts, vector_parity=parity).backbone.out_parity_C
    assert (made if made is None else made.tolist()) == signs


def test_weights_of_each_mode_belong_to_their_grid() -> None:
    network = PlainConfig(patch=(2, 2), width=8, depth=1, mixer="gfn", tokens=(4, 8))
    with pytest.raises(ConfigError, match="the mixer gfn belongs to 8x16"):
        build(area(8, 16, 2.5), trained_on=globe(8, 16), backbone=network)


def test_lengths_do_not_depend_on_the_number_of_cells() -> None:
    assert globe(8, 16).lengths == globe(24, 20).lengths == (180, 360)
    assert LatLonGrid(np.linspace(-90, 90, 9), np.arange(16) * 22.5).lengths == (180, 360)
    assert area(8, 12, 2.5).lengths == (20, 30)
    assert BoxGrid(np.arange(8) * 0.5, np.arange(10) * 1.0).lengths == (4, 10)


@pytest.mark.parametrize(("grid", "cells"), [(globe(16, 32), (2, 2)), (globe(8, 48), (1, 3)), (globe(4, 8), (1, 1)), (area(8, 10, 11.25), (2, 2)),
                                             (LatLonGrid(np.linspace(-90, 90, 9), np.arange(16) * 22.5), (1, 1))])
def test_cells_of_another_grid_are_read_as_those_of_training(grid: Grid, cells: tuple[int, int]) -> None:
    trained = globe(8, 16)
    assert cells_as_one(grid, trained) == cells
    forecaster = build(grid, trained_on=trained)
    forecaster.load_state_dict(build(trained).state_dict())
    rows, columns = grid.shape
    state = torch.randn(2, 1, 3, rows, columns)
    with torch.no_grad():
        out = forecaster(state, torch.randn(2, 1, rows, columns))
    assert out.shape == (2, 3, rows, columns) and out.isfinite().all()
    assert forecaster.backbone.coarsen == cells


def test_a_part_of_the_globe_keeps_the_wavelengths_of_training() -> None:
    backbone = PlainConfig(patch=(2, 2), width=8, depth=1, num_blocks=2, num_bands=3, latitude="double")
    part = build(area(12, 20, 4.5), trained_on=globe(40, 80), backbone=backbone)
    assert part.backbone.blocks[0].mixer.band_unit == pytest.approx((180 / 54, 360 / 90 / 2))
    assert part.backbone.blocks[0].mixer.latitude == "periodic"
    assert build(globe(8, 16), backbone=backbone).backbone.blocks[0].mixer.band_unit == (1, 1)
    with pytest.raises(ValueError, match="rows that end at the poles"):
        build(area(12, 20, 4.5), backbone=backbone)


def test_rows_on_the_poles_and_beside_them_are_no_obstacle() -> None:
    with_poles = LatLonGrid(np.linspace(-90, 90, 9), np.arange(16) * 22.5)
    backbone = PlainConfig(patch=(1, 1), width=8, depth=1, num_blocks=2, latitude="double_with_poles")
    trained = build(with_poles, backbone=backbone)
    other = build(globe(8, 16), trained_on=with_poles, backbone=backbone)
    other.load_state_dict(trained.state_dict())
    assert other.backbone.blocks[0].mixer.latitude == "double"
