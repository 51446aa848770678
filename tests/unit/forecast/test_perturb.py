"""Perturbations: the stated spectrum and amplitude, growth at the model's own rate, members that depend on nothing but their names."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from afno_forecast.channels import Channel, ChannelSet
from afno_forecast.errors import ConfigError
from afno_forecast.forcing import Forcing
from afno_forecast.forecast.perturb import Perturbation, breed, draw, make_histories, random_generator
from afno_forecast.forecast.rollout import rollout
from afno_forecast.forecaster import Forecaster
from afno_forecast.grid import LatLonGrid
from afno_forecast.normalize import Normalizer
from afno_forecast.sphere import legendre, matern_spectrum, random_fields, synthesise, truncation
from afno_forecast.times import parse_instant

STEP = 21600
CHANNELS = ChannelSet((Channel("geopotential", 500, "m2 s-2"), Channel("2m_temperature", None, "K"), Channel("specific_humidity", 700, "kg kg-1"),
                       Channel("surface_pressure", None, "Pa")))
MEAN, STD, TENDENCY = [5.5e4, 280.0, 2e-3, 1e5], [3e3, 20.0, 1e-3, 1e3], [150.0, 2.0, 3e-4, 0.0]  # the last channel is constant
GRID = LatLonGrid((np.arange(18) + 0.5) * 10 - 90, np.arange(36) * 10.0)
INITS = np.asarray([parse_instant("2001-12-30T06"), parse_instant("2001-07-01"), parse_instant("1957-02-01T18")])


class Grows(nn.Module):
    """Departures from zero grow by 1.25 a step in the north and 1.1 in the south: the eigenvalues of a linear model."""

    def __init__(self, grid: LatLonGrid, history: int = 1) -> None:
        super().__init__()
        self.rate = torch.from_numpy(np.where(grid.latitude > 0, 0.25, 0.1)).float()[:, None]
        self.newest = slice(4 * (history - 1), 4 * history)
        self.ratio = torch.tensor(STD) / torch.tensor([150.0, 2.0, 3e-4, 1.0])

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.newest] * self.ratio[:, None, None] * self.rate


def make(grid: LatLonGrid = GRID, history: int = 1) -> Forecaster:
    forcing = Forcing(("cos_latitude",), {}, grid, calendar="proleptic_gregorian", time_step=STEP)
    return Forecaster(Grows(grid, history), Normalizer(CHANNELS.shorts, MEAN, STD, TENDENCY), forcing, channels=CHANNELS, time_steps=(STEP,),
                      history=history)


def analyses(forecaster: Forecaster):
    def read(init_seconds: np.ndarray) -> Tensor:
        generators = [torch.Generator().manual_seed(int(s) % 99991) for s in init_seconds]
        fields = [torch.randn(forecaster.history, 4, *forecaster.grid.shape, generator=g) for g in generators]
        return torch.tensor(MEAN)[:, None, None] + 0.1 * torch.tensor(STD)[:, None, None] * torch.stack(fields)

    return read


def test_harmonics_are_orthonormal_and_the_first_ones_are_known() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(20)
    for order in (0, 1, 4):
        values = np.stack([p for _, p in legendre(order, 12, nodes)])
        np.testing.assert_allclose(values * weights @ values.T * 2 * np.pi, np.eye(13 - order), atol=1e-12)
    sine = np.array([-0.3, 0.2, 0.9])
    table = dict(legendre(1, 2, sine))
    np.testing.assert_allclose(table[2], np.sqrt(15 / (8 * np.pi)) * sine * np.sqrt(1 - sine**2), rtol=1e-12)


def test_a_single_harmonic_is_drawn_where_it_should_be() -> None:
    grid = LatLonGrid(np.array([-61.0, -7.0, 20.0, 45.0]), np.array([3.0, 40.0, 111.0, 200.0, 290.0]))
    coefficients = np.zeros((2, 4, 7))
    coefficients[0, 3, 2], coefficients[1, 2, -1] = 1, 1
    sine, cosine = np.sin(np.deg2rad(grid.latitude)), np.cos(np.deg2rad(grid.latitude))
    longitude = np.deg2rad(grid.longitude)
    fields = synthesise(coefficients, grid)
    np.testing.assert_allclose(fields[0], np.sqrt(105 / (16 * np.pi)) * (sine * cosine**2)[:, None] * np.cos(2 * longitude), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(fields[1], np.sqrt(15 / (4 * np.pi)) * (sine * cosine)[:, None] * np.sin(longitude), rtol=1e-10, atol=1e-14)


def test_correlated_fields_have_the_stated_spectrum_and_variance() -> None:
    """Power by wavenumber measured with quadrature of its own: Gaussian latitudes, Fourier in longitude."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    grid = LatLonGrid(np.rad2deg(np.arcsin(nodes)), np.arange(40) * 9.0)
    length, count = 1200.0, 300
    fields = random_fields([np.random.default_rng(k) for k in range(count)], grid, length)
    top = truncation(grid)
    fourier = np.fft.rfft(fields, axis=-1) / 40 * 2 * np.pi
    power = np.zeros(top + 1)
    for order in range(top + 1):
        for degree, values in legendre(order, top, nodes):
            part = (fourier[..., order] * values * weights).sum(axis=-1)
            power[degree] += (np.abs(part) ** 2).mean() * (1 if order == 0 else 2)
    power /= 2 * np.arange(top + 1) + 1
    stated = matern_spectrum(top, length)
    assert power[0] < 1e-20 and stated[0] == 0
    ratio = power[1:] / stated[1:]
    assert np.abs(ratio - 1).max() < 0.25 and abs(ratio.mean() - 1) < 0.03
    degree = np.arange(1, top + 1)
    np.testing.assert_allclose(stated[1:] / stated[1], (((6371 / length) ** 2 + degree * (degree + 1)) / ((6371 / length) ** 2 + 2)) ** -2.0)
    variance_H = (fields**2).mean(axis=(0, 2))
    assert np.abs(variance_H - 1).max() < 0.2, "as strong at the poles as at the equator"
    assert abs((variance_H * weights).sum() / 2 - 1) < 0.02


@pytest.mark.parametrize("method", ["white", "correlated"])
def test_amplitude_is_the_stated_share_of_each_channels_change_and_constant_channels_stay(method: str) -> None:
    forecaster = make()
    pairs = np.arange(40)
    drawn = draw(Perturbation(method, 0.4, 3), forecaster, np.full(40, INITS[0]), pairs).numpy()
    area = forecaster.grid.area_weights() / forecaster.grid.area_weights().sum()
    measured = np.sqrt((drawn.astype(np.float64) ** 2 * area).sum(axis=(2, 3)).mean(axis=0))
    np.testing.assert_allclose(measured[:3], 0.4 * np.array(TENDENCY[:3]), rtol=0.05)
    assert (drawn[:, 3] == 0).all()
    neighbours = np.corrcoef(drawn[:, 0, 8, :-1].ravel(), drawn[:, 0, 8, 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.1 if method == "white" else neighbours > 0.4


@pytest.mark.parametrize("method", ["white", "correlated", "bred", "lagged"])
@pytest.mark.parametrize("history", [1, 2])
def test_members_do_not_depend_on_the_batch(method: str, history: int) -> None:
    forecaster, how = make(history=history), Perturbation(method, 0.3, 7, cycles=2)
    read = analyses(forecaster)
    inits, members = np.repeat(INITS, 4), np.tile(np.arange(4), 3)
    whole = make_histories(how, forecaster, read, inits, members)
    shuffled = np.random.default_rng(1).permutation(12)
    for chosen in (shuffled[:5], shuffled[5:]):
        part = make_histories(how, forecaster, read, inits[chosen], members[chosen])
        torch.testing.assert_close(part, whole[chosen], rtol=1e-6, atol=0)
        if method in ("white", "correlated"):
            assert torch.equal(part, whole[chosen])
    assert torch.equal(whole[:, :, 3], read(inits)[:, :, 3]) or method == "lagged", "a constant channel stays"
    assert len({whole[k, -1, 0, 5, 5].item() for k in range(4)}) == 4
    other = make_histories(Perturbation(method, 0.3, 8, cycles=2), forecaster, read, inits, members)
    assert torch.equal(other, whole) == (method == "lagged")


@pytest.mark.parametrize("method", ["white", "correlated", "bred"])
def test_pairs_are_centred_on_the_analysis_and_water_stays_positive(method: str) -> None:
    forecaster = make()
    read = analyses(forecaster)
    members = make_histories(Perturbation(method, 0.3, cycles=2), forecaster, read, np.repeat(INITS, 2), np.tile([0, 1], 3)).double()
    centre = (members[0::2] + members[1::2]) / 2
    scale = torch.tensor([150.0, 2.0]).double()[:, None, None]
    assert ((centre - read(INITS).double())[:, 0, :2] / scale).abs().max() < 1e-3
    assert (members[0::2] - members[1::2])[:, 0, :2].abs().amax(dim=(-2, -1)).min() > 0
    dry = make_histories(Perturbation(method, 30.0, cycles=2), forecaster, read, INITS, np.zeros(3, dtype=np.int64))
    assert (dry[:, :, 2] >= read(INITS)[:, :, 2].clamp_max(0)).all() and (dry[:, :, 2] == 0).any()


def test_bred_vectors_grow_at_the_models_own_rate_in_each_hemisphere() -> None:
    forecaster = make()
    vectors, growth = breed(Perturbation("bred", 0.3, 2, cycles=3), forecaster, analyses(forecaster), INITS, np.arange(3))
    assert growth.shape == (3, 3) and (growth > 1.1).all() and (growth < 1.25).all()
    area = torch.from_numpy(forecaster.grid.area_weights())
    scaled = vectors[:, -1, :3].double() / torch.tensor(TENDENCY[:3]).double()[:, None, None]
    for rows in (forecaster.grid.latitude >= 20, forecaster.grid.latitude <= -20):
        norm = ((scaled[:, :, rows] ** 2 * area[rows]).sum(dim=(-2, -1)) / area[rows].sum()).mean(dim=1).sqrt()
        torch.testing.assert_close(norm, torch.full((3,), 0.3, dtype=torch.float64), rtol=1e-5, atol=0)
    history = analyses(forecaster)(INITS)
    after = [next(rollout(forecaster, history + sign * vectors, INITS, 1)).fields_BCHW.double() for sign in (1, -1)]
    ratio = ((after[0] - after[1]) / 2)[:, :2] / vectors[:, -1, :2].double()
    north = torch.from_numpy(forecaster.grid.latitude > 0)
    assert ratio[:, :, north].median().item() == pytest.approx(1.25, rel=1e-2) and ratio[:, :, ~north].median().item() == pytest.approx(1.1, rel=1e-2)


def test_breeding_on_a_limited_area_of_one_hemisphere() -> None:
    grid = LatLonGrid(np.arange(30.0, 70.0, 5.0), np.arange(-20.0, 40.0, 5.0) + 20)
    forecaster = make(grid)
    vectors, growth = breed(Perturbation("bred", 0.2, cycles=2), forecaster, analyses(forecaster), INITS[:1], np.zeros(1, dtype=np.int64))
    np.testing.assert_allclose(growth, 1.25, rtol=1e-2)
    assert torch.isfinite(vectors).all()


def test_lagged_members_are_earlier_forecasts_and_the_first_is_the_analysis() -> None:
    forecaster = make()
    read = analyses(forecaster)
    members = make_histories(Perturbation("lagged", lag=2 * STEP), forecaster, read, np.repeat(INITS[:1], 3), np.arange(3))
    assert torch.equal(members[0], read(INITS[:1])[0])
    start = INITS[:1] - 4 * STEP
    *_, last = rollout(forecaster, read(start), start, 4)
    assert torch.equal(members[2, 0], last.fields_BCHW[0])
    assert Perturbation("lagged", lag=2 * STEP).earlier_starts(INITS[:1], 3, STEP).tolist() == [INITS[0] - 4 * STEP, INITS[0] - 2 * STEP]
    with pytest.raises(ConfigError, match="lag of 5h is not a multiple"):
        make_histories(Perturbation("lagged", lag=18000), forecaster, read, INITS, np.arange(3))


def test_every_part_of_the_key_changes_the_draw() -> None:
    one = random_generator(1, -5, 2, "geopotential@500").standard_normal(3)
    assert np.array_equal(one, random_generator(1, -5, 2, "geopotential@500").standard_normal(3))
    for key in ((2, -5, 2, "geopotential@500"), (1, 5, 2, "geopotential@500"), (1, -5, 3, "geopotential@500"), (1, -5, 2, "2m_temperature")):
        assert not np.array_equal(one, random_generator(*key).standard_normal(3))


@pytest.mark.parametrize(("wrong", "option", "fix"), [
    ({"amplitude": -1.0}, "amplitude", "positive"), ({"amplitude": 0.0}, "amplitude", "positive"), ({"amplitude": 1e6}, "amplitude", "below 1000000"),
    ({"seed": -1}, "seed", "zero or"), ({"cycles": 0}, "breeding-cycles", "1 to 1000"), ({"cycles": 2000}, "breeding-cycles", "1 to 1000"),
    ({"lag": 0}, "lag", "positive"), ({"length_km": 0.0}, "length-scale", "1 to 25484 km"), ({"length_km": 3e4}, "length-scale", "1 to 25484 km")])
def test_a_perturbation_out_of_range_is_refused(wrong: dict[str, float], option: str, fix: str) -> None:
    with pytest.raises(ConfigError, match="out of range") as error:
        Perturbation("correlated", **wrong)  # type: ignore[arg-type]
    assert error.value.where == f"--{option}" and fix in error.value.fix
