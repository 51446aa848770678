"""The pseudo-spectral solver against solutions that are known; files of an earlier run."""

import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

sys.path.insert(0, str(Path(__file__).parents[3] / "pipelines"))
import navier_stokes
import shallow_water


def test_a_taylor_green_vortex_decays_as_it_must():
    model = navier_stokes.Turbulence(24, 0.01, forced=False)
    points = torch.arange(24, dtype=torch.float64) / 24
    k_x, k_y = 2 * math.pi * 2, 2 * math.pi * 3
    first = torch.cos(k_y * points)[:, None] * torch.cos(k_x * points)[None, :]
    state = torch.fft.rfft2(first)
    for _ in range(20):
        state = model.step(state, 0.01)
    expected = first * math.exp(-0.01 * (k_x**2 + k_y**2) * 0.2)
    torch.testing.assert_close(torch.fft.irfft2(state, s=(24, 24)), expected, rtol=1e-10, atol=1e-12)


def test_energy_and_enstrophy_are_kept_without_viscosity_while_the_flow_changes():
    model = navier_stokes.Turbulence(32, 0.0, forced=False)
    first = state = 3 * model.first_state(3)
    for _ in range(40):
        state = model.step(state, 0.02)
    for weight in (model.inverse, torch.ones_like(model.inverse)):  # energy, enstrophy; columns beside the first stand for two
        def total(spectrum: torch.Tensor, weight: torch.Tensor = weight) -> float:
            parts = weight * spectrum.abs() ** 2
            return float(2 * parts.sum() - parts[:, 0].sum())

        assert total(state) == pytest.approx(total(first), rel=1e-6)
    assert (state - first).abs().max() > 0.1 * first.abs().max()


def test_a_shear_carries_a_small_wave_along_in_its_own_direction():
    """w = -dU/dy of U(y) = A sin(2 pi y) / (2 pi); at y = 1/4 a wave in x moves to larger x at first at U (1 - k_shear^2 / k^2) (Rayleigh)."""
    model = navier_stokes.Turbulence(48, 0.0, forced=False)
    points = torch.arange(48, dtype=torch.float64) / 48
    shear = -2.0 * torch.cos(2 * math.pi * points)[:, None].expand(48, 48)
    wave = 1e-4 * torch.cos(2 * math.pi * 8 * points)[None, :].expand(48, 48)
    tendency = torch.fft.irfft2(model.advection(torch.fft.rfft2(shear + wave)), s=(48, 48))[12]  # y = 1/4
    speed = 2.0 / (2 * math.pi)
    expected = speed * (1 - 1 / 64) * 2 * math.pi * 8 * 1e-4 * torch.sin(2 * math.pi * 8 * points)
    torch.testing.assert_close(tendency, expected, rtol=1e-4, atol=1e-9)


def test_first_states_follow_from_the_seed_and_not_from_the_size():
    fine, coarse = (torch.fft.irfft2(navier_stokes.Turbulence(n, 1e-3).first_state(5), s=(n, n)).numpy() for n in (64, 32))
    other = torch.fft.irfft2(navier_stokes.Turbulence(32, 1e-3).first_state(6), s=(32, 32)).numpy()
    assert np.corrcoef(fine[::2, ::2].ravel(), coarse.ravel())[0, 1] > 0.98
    assert abs(np.corrcoef(other.ravel(), coarse.ravel())[0, 1]) < 0.9


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a pipeline of its own solver into a folder, as its command line does; gives the exit code."""
    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__name__, str(tmp_path / "made"), "--trajectories", "2", "--train", "1", *map(str, arguments)])
        try:
            return module.main()
        except SystemExit as ended:
            return ended.code

    return run


NAVIER_STOKES = ("--size", 9, "--steps", 3, "--dt", 0.02, "--spin-up", 0.04)


@pytest.mark.parametrize(("module", "arguments", "words"), [
    (navier_stokes, ("--interval", 0.05, "--dt", 0.02), "--interval 0.05 is no multiple of --dt 0.02"),
    (navier_stokes, ("--spin-up", 0.05, "--dt", 0.02), "--spin-up 0.05 is no multiple of --dt 0.02"),
    (shallow_water, ("--dt", 700), "--dt 700 does not divide 3600")])
def test_a_time_between_two_steps_of_the_solver_is_refused(run, tmp_path, capsys, module, arguments, words):
    assert run(module, *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_files_of_other_parameters_are_refused_and_those_of_the_same_go_on(run, tmp_path, capsys):
    assert run(navier_stokes, *NAVIER_STOKES, "--interval", 0.06) == 0
    path, store = tmp_path / "made" / "trajectories_0000.nc", tmp_path / "made" / "store.zarr"
    with xr.open_dataset(path) as ds:
        assert "interval 0.06" in ds.attrs["parameters"]
    made = path.read_bytes()
    shutil.rmtree(store)
    assert run(navier_stokes, *NAVIER_STOKES, "--interval", 0.06) == 0 and path.read_bytes() == made
    shutil.rmtree(store)
    for other in (("--size", 11), ("--interval", 0.04), ("--viscosity", 0.001), ("--trajectories", 3)):
        capsys.readouterr()
        assert run(navier_stokes, *NAVIER_STOKES, "--interval", 0.06, *other) == 3
        told = capsys.readouterr().err
        assert "made with other parameters" in told and str(path) in told and "remove it" in told and not store.exists()


@pytest.mark.parametrize("parameters", [{}, {"parameters": "start galewsky, steps 48, spin_up 12, dt 150"}])
def test_a_file_of_other_or_unknown_parameters_is_not_taken_for_shallow_water(run, tmp_path, capsys, parameters):
    for size in ("64x128", "32x64"):
        (tmp_path / "made" / size).mkdir(parents=True)
        xr.Dataset(attrs=parameters).to_netcdf(tmp_path / "made" / size / "trajectory_0000.nc")
    assert run(shallow_water) == 3
    told = capsys.readouterr().err
    assert parameters.get("parameters", "unknown ones") in told and "start random, steps 48, spin_up 12, dt 150" in told
