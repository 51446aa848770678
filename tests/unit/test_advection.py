"""What a wind carries arrives where it should: rotations of the sphere, over poles and date line, on some rows; what is no wind is refused."""

from typing import Any

import numpy as np
import pytest
import torch

from afno_forecast.advection import Advection
from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.errors import ConfigError
from afno_forecast.forecaster import ModelConfig, ModelInputs, build_forecaster
from afno_forecast.grid import BoxGrid, Grid, LatLonGrid
from afno_forecast.nn.backbone import HierarchicalConfig
from afno_forecast.sphere import EARTH_RADIUS_KM

CHANNELS = ChannelSet((Channel("temperature", 850, "K"), Channel("u_component_of_wind", 850, "m s-1"), Channel("v_component_of_wind", 850, "m s-1")))
WIND = (("u850", "v850"),)
DAY = 86400
AXES = {"the earth's": (0.0, 0.0, 1.0), "in the equator": (0.0, 1.0, 0.0), "slanted": (0.48, 0.6, 0.64)}


def cells(rows: int, columns: int) -> LatLonGrid:
    return LatLonGrid((np.arange(rows) + 0.5) / rows * 180 - 90, 1.5 + np.arange(columns) * 360 / columns)


GRIDS = {"cells": cells(61, 90), "rows on the poles": LatLonGrid(np.linspace(-90, 90, 61), np.arange(91) * 360 / 91)}


def basis(grid: LatLonGrid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outward, eastward and northward unit vectors at every cell, (3, H, W)."""
    latitude, longitude = np.meshgrid(np.deg2rad(grid.latitude), np.deg2rad(grid.longitude), indexing="ij")
    zero = np.zeros_like(latitude)
    return (np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)]),
            np.stack([-np.sin(longitude), np.cos(longitude), zero]),
            np.stack([-np.sin(latitude) * np.cos(longitude), -np.sin(latitude) * np.sin(longitude), np.cos(latitude)]))


def pattern(points: np.ndarray) -> np.ndarray:
    """A smooth field, of vectors (3, H, W)."""
    x, y, z = points
    return x * y + 0.5 * z + x * z * z


def turned(points: np.ndarray, axis: np.ndarray, angle: float) -> np.ndarray:
    """Points rotated about an axis (Rodrigues)."""
    along = np.einsum("i,i...->...", axis, points)
    return points * np.cos(angle) + np.cross(axis, points, axis=0, axisb=0) * np.sin(angle) + axis[:, None, None] * along * (1 - np.cos(angle))


def rotation(grid: LatLonGrid, axis: tuple[float, ...], angle: float) -> tuple[torch.Tensor, np.ndarray]:
    """A state whose wind turns the sphere by an angle a day, and where its pattern is after that day."""
    up, east, north = basis(grid)
    pole = np.asarray(axis)
    velocity = np.cross(pole, up, axis=0, axisb=0).reshape(up.shape) * angle / DAY * EARTH_RADIUS_KM * 1e3
    state = np.stack([pattern(up), (velocity * east).sum(0), (velocity * north).sum(0)])
    return torch.from_numpy(state).float()[None], pattern(turned(up, pole, -angle))


@pytest.mark.parametrize("axis", AXES.values(), ids=list(AXES))
@pytest.mark.parametrize("grid", GRIDS.values(), ids=list(GRIDS))
def test_a_rotation_of_the_sphere_turns_the_field(grid: LatLonGrid, axis: tuple[float, ...]) -> None:
    state, expected = rotation(grid, axis, 0.5)
    change = Advection(WIND, CHANNELS, grid)(state, DAY)[0, 0].double().numpy()
    error = np.abs(state[0, 0].numpy() + change - expected)
    assert np.abs(expected - state[0, 0].numpy()).max() > 0.4
    assert error.max() < 0.02
    assert error.mean() < 0.004


def test_the_error_falls_with_the_square_of_step_and_spacing() -> None:
    def error(number: int, angle: float) -> float:
        state, expected = rotation(cells(15 * number, 20 * number), AXES["slanted"], angle)
        found = state + Advection(WIND, CHANNELS, cells(15 * number, 20 * number))(state, DAY)[:, :3]
        return float(np.abs(found[0, 0].double().numpy() - expected).mean())

    assert error(4, 0.4) / error(8, 0.2) > 3.5


def test_still_air_carries_nothing_and_channels_keep_their_order() -> None:
    advection = Advection((("u850", "v850"), ("u10", "v10")), ChannelSet((*CHANNELS, Channel("10m_u_component_of_wind", None, "m s-1"),
                                                                          Channel("10m_v_component_of_wind", None, "m s-1"))), cells(9, 14))
    assert advection.num_channels == 10
    state = torch.randn(2, 5, 9, 14)
    state[:, 1:3] = 0
    change = advection(state, DAY)
    assert change.shape == (2, 10, 9, 14)
    assert change[:, :5].abs().max() < 1e-4  # the first wind is still
    state[:, 3:] = 0
    state[:, 3, 4] = 2 * torch.pi * EARTH_RADIUS_KM * 1e3 / 14 * 3 / DAY  # along the equator, three columns a day
    carried = (advection(state, DAY) + state.repeat(1, 2, 1, 1))[:, 5:7, 4]
    torch.testing.assert_close(carried, state[:, :2, 4].roll(3, -1), rtol=0, atol=1e-3)


def test_an_area_repeats_its_edge() -> None:
    area = LatLonGrid(30 + 2.0 * np.arange(8), 350 + 3.0 * np.arange(11))
    state = torch.zeros(1, 3, 8, 11)
    state[:, 0] = torch.arange(11.0)
    state[:, 1] = 60.0
    carried = (Advection(WIND, CHANNELS, area)(state, DAY) + state)[0, 0, 4]
    shift = 60 * DAY / (EARTH_RADIUS_KM * 1e3 * np.cos(np.deg2rad(38))) / np.deg2rad(3)
    expected = (torch.arange(11.0) - shift).clamp_min(0)
    torch.testing.assert_close(carried, expected.float(), rtol=0, atol=0.2)


def test_gradients_are_those_of_differences_and_finite_on_the_poles() -> None:
    advection = Advection(WIND, CHANNELS, GRIDS["rows on the poles"])
    generator = torch.Generator().manual_seed(3)
    state, _ = rotation(GRIDS["rows on the poles"], AXES["slanted"], 0.3)
    weight, direction = torch.randn(3, 61, 91, generator=generator), torch.randn(1, 3, 61, 91, generator=generator)
    direction[:, :, ::60] = 0

    def value(moved: torch.Tensor) -> torch.Tensor:
        return (advection(moved, DAY)[0] * weight).double().sum()

    state.requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(state), state)
    assert gradient.isfinite().all()
    with torch.no_grad():
        slope = (value(state + 1e-3 * direction) - value(state - 1e-3 * direction)) / 2e-3
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=0.05)


def build(grid: Grid, **config: Any) -> Any:
    inputs = ModelInputs(CHANNELS, grid, "standard", 21600, np.array([280.0, 1.0, 0.0]), np.array([10.0, 8.0, 6.0]), np.array([2.0, 3.0, 3.0]), {},
                         longer={43200: np.array([4.0, 5.0, 5.0])} if "time_steps" in config else {})
    backbone = HierarchicalConfig(widths=(8, 8), depth=1, num_blocks=2, num_bands=2)
    return build_forecaster(ModelConfig(forcings=("sin_latitude",), static=(), backbone=backbone, **config), inputs)


def test_the_network_reads_the_change_over_the_step_in_units_of_the_state() -> None:
    forecaster = build(cells(9, 14), advected_by=WIND, vector_parity=True, time_steps=("6h", "12h"))
    seen = []
    forecaster.backbone.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    history = torch.randn(2, 1, 3, 9, 14) * 8
    forecaster(history, torch.zeros(2, 1, 9, 14), 43200)
    assert forecaster.num_inputs == seen[0].shape[1] == 7
    expected = Advection(WIND, CHANNELS, cells(9, 14))(history[:, 0], 43200) / torch.tensor([10.0, 8.0, 6.0])[:, None, None]
    torch.testing.assert_close(seen[0][:, 4:], expected)
    assert forecaster.backbone.stem.parity_C.tolist() == [1, -1, -1, 1, 1, -1, -1]


@pytest.mark.parametrize(("winds", "message"), [((("v850", "u850"),), "not the eastward"), ((("u850", "t850"),), "not the northward"),
                                                ((("u500", "v850"),), "no channel 'u500'")])
def test_what_is_no_wind_is_refused(winds: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(cells(9, 14), advected_by=winds)


@pytest.mark.parametrize("grid", [cells(9, 14), LatLonGrid(np.linspace(30, 50, 9), np.linspace(5, 25, 14))], ids=["globe", "area"])
def test_some_rows_of_it_are_those_of_the_whole(grid: LatLonGrid) -> None:
    state, part = torch.randn(2, 3, 9, 14) * 8, Advection(WIND, CHANNELS, grid)
    part.keep_rows(slice(2, 7), lambda rows: state)
    torch.testing.assert_close(part(state[:, :, 2:7], 21600), Advection(WIND, CHANNELS, grid)(state, 21600)[:, :, 2:7], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # the compiler itself makes one of each that it traces
def test_one_graph_holds_it() -> None:
    advection, state = Advection(WIND, CHANNELS, cells(9, 14)), torch.randn(2, 3, 9, 14) * 8
    traced = torch.compile(advection, fullgraph=True, backend="eager")
    torch.testing.assert_close(traced(state, DAY), advection(state, DAY))


def test_a_box_is_refused() -> None:
    with pytest.raises(ConfigError, match="over the sphere"):
        Advection(WIND, CHANNELS, BoxGrid(np.arange(8.0), np.arange(12.0)))
