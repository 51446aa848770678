"""The loss is a mean over area, each channel in its own unit."""

from collections.abc import Callable

import pytest
import torch

from afno_forecast.losses import amplitude_aware_mse, area_weighted_mse, fair_crps, log_spectrum_error, spectral_crps


def area(rows: int, columns: int) -> torch.Tensor:
    edge = torch.linspace(-torch.pi / 2, torch.pi / 2, rows + 1, dtype=torch.float64).sin()
    return (edge[1:] - edge[:-1])[:, None].expand(rows, columns)


def test_an_error_of_one_scale_everywhere_costs_one() -> None:
    scale = torch.tensor([0.5, 3.0, 200.0])
    target = 100 * torch.randn(2, 4, 3, 7, 10)
    error = scale[:, None, None] * torch.randn(2, 4, 3, 7, 10).sign()
    assert float(area_weighted_mse(target + error, target, area(7, 10), scale)) == pytest.approx(1.0, rel=1e-4)


def test_it_is_the_double_sum_written_out() -> None:
    prediction, target = torch.randn(2, 3, 5, 8, dtype=torch.float64), torch.randn(2, 3, 5, 8, dtype=torch.float64)
    scale, weights = torch.tensor([1.0, 2.0, 0.1]).double(), area(5, 8)
    expected = sum(
        float((weights / weights.sum() * ((prediction[b, c] - target[b, c]) / scale[c]) ** 2).sum()) for b in range(2) for c in range(3)
    ) / 6
    assert float(area_weighted_mse(prediction, target, weights, scale)) == pytest.approx(expected, rel=1e-12)
    assert float(area_weighted_mse(prediction, target, 7 * weights[:, :1], scale)) == pytest.approx(expected, rel=1e-12)


def test_the_area_decides_where_an_error_hurts() -> None:
    target = torch.zeros(1, 1, 6, 4)
    pole, equator = target.clone(), target.clone()
    pole[:, :, 0], equator[:, :, 2] = 1.0, 1.0
    weights, one = area(6, 4), torch.ones(1)
    ratio = float(area_weighted_mse(equator, target, weights, one) / area_weighted_mse(pole, target, weights, one))
    assert ratio == pytest.approx(float(weights[2, 0] / weights[0, 0]), rel=1e-5)


def test_channels_count_as_they_are_weighted() -> None:
    prediction, target, scale = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8), torch.ones(3)
    alone = [area_weighted_mse(prediction[:, [c]], target[:, [c]], area(5, 8), scale[[c]]) for c in range(3)]
    weighted = area_weighted_mse(prediction, target, area(5, 8), scale, torch.tensor([1.0, 0.0, 3.0]))
    torch.testing.assert_close(weighted, (alone[0] + 3 * alone[2]) / 4)
    torch.testing.assert_close(area_weighted_mse(prediction, target, area(5, 8), scale), torch.stack(alone).mean())
    leads = prediction[:, None].expand(2, 4, 3, 5, 8)
    torch.testing.assert_close(area_weighted_mse(leads, target[:, None].expand_as(leads), area(5, 8), scale), torch.stack(alone).mean())


def test_half_precision_is_widened() -> None:
    target = torch.full((1, 2, 6, 8), 300.0)
    prediction = (target + 2.0).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = area_weighted_mse(prediction, target, area(6, 8).float(), torch.full((2,), 0.001))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(4e6, rel=1e-3)


def test_shapes_that_do_not_fit_are_refused() -> None:
    field, weights, scale = torch.randn(2, 3, 5, 8), area(5, 8), torch.ones(3)
    for arguments, message in [
        ((field, field[:1], weights, scale), "same shape"),
        ((field, field, weights.T, scale), "area weights"),
        ((field, field, weights, torch.ones(1)), "scale"),
        ((field, field, weights, scale, torch.ones(2)), "channel weights"),
    ]:
        with pytest.raises(ValueError, match=message):
            area_weighted_mse(*arguments)


def waves(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("columns", [8, 9])
def test_the_amplitude_aware_loss_is_the_mean_square_where_the_amplitudes_are_right_and_more_elsewhere(columns: int) -> None:
    target, scale, weights = waves(2, 3, 5, columns), torch.tensor([1.0, 2.0, 0.1]).double(), area(5, columns)
    turned = target.roll(3, -1)  # the same amplitudes, other phases
    arguments = (turned, target, weights, scale)
    torch.testing.assert_close(amplitude_aware_mse(*arguments), area_weighted_mse(*arguments), rtol=1e-9, atol=0)
    for prediction in (waves(2, 3, 5, columns), 0.3 * target, target + 1):
        mean_square = area_weighted_mse(prediction, target, weights, scale)
        assert amplitude_aware_mse(prediction, target, weights, scale) >= mean_square * (1 - 1e-9)
    both = (target + 1, target, weights, scale)
    torch.testing.assert_close(amplitude_aware_mse(*both), area_weighted_mse(*both), rtol=1e-9, atol=0)


def test_the_amplitude_aware_loss_does_not_reward_smoothness() -> None:
    truth, guess = waves(40, 1, 5, 16), waves(40, 1, 5, 16)
    truth, guess = ((f - f.mean(-1, keepdim=True)) for f in (truth, guess))
    guess = (truth + guess) / 2**0.5
    # every wavenumber with the amplitude of the truth and half a wrong phase
    spectrum, true = torch.fft.rfft(guess), torch.fft.rfft(truth)
    guess = torch.fft.irfft(true.abs() * torch.exp(1j * spectrum.angle()), n=16)
    factors = torch.linspace(0.2, 1.5, 27).double()
    best = {loss: float(factors[int(torch.stack([loss(f * guess, truth, area(5, 16), torch.ones(1)) for f in factors]).argmin())])
            for loss in (area_weighted_mse, amplitude_aware_mse)}
    assert best[area_weighted_mse] < 0.85 and best[amplitude_aware_mse] == pytest.approx(1.0)


@pytest.mark.parametrize("loss", [amplitude_aware_mse, log_spectrum_error])
def test_spectral_losses_have_a_gradient_everywhere(loss: Callable[..., torch.Tensor]) -> None:
    target = torch.randn(1, 2, 5, 8)
    for start in (target, torch.zeros_like(target)):
        prediction = start.clone().requires_grad_()
        value = loss(prediction, target, area(5, 8), torch.ones(2))
        value.backward()
        assert prediction.grad is not None and prediction.grad.isfinite().all()
        if start is target:
            assert value.item() == pytest.approx(0, abs=1e-6)


def test_the_spectrum_counts_energy_not_phase() -> None:
    target, scale = waves(2, 3, 5, 9), torch.ones(3)
    assert float(log_spectrum_error(target.roll(4, -1), target, area(5, 9), scale)) == pytest.approx(0, abs=1e-9)
    assert float(log_spectrum_error(target * 2, target, area(5, 9), scale)) == pytest.approx(4 * 0.6931471805599453**2, rel=1e-6)
    assert float(log_spectrum_error(target + 7, target, area(5, 9), scale)) == pytest.approx(0, abs=1e-9)


def test_the_fair_crps_is_its_definition_and_does_not_depend_on_the_number_of_members() -> None:
    members, target, scale = waves(3, 2, 2, 5, 4), waves(2, 2, 5, 4), torch.tensor([1.0, 2.0])
    expected = sum(((members[e] - target).abs() / scale[:, None, None] for e in range(3)), torch.zeros(1)) / 3 - sum(
        ((members[e] - members[f]).abs() / scale[:, None, None] for e in range(3) for f in range(3)), torch.zeros(1)) / 12
    weights = area(5, 4)
    torch.testing.assert_close(fair_crps(members, target, weights, scale), (expected * weights / weights.sum()).sum((-2, -1)).mean())
    one = torch.ones(1)
    many = [float(fair_crps(waves(m, 20000, 1, 1, 1), waves(20000, 1, 1, 1), torch.ones(1, 1), one)) for m in (2, 9)]
    assert many[0] == pytest.approx(torch.pi**-0.5, rel=0.03) and many[1] == pytest.approx(torch.pi**-0.5, rel=0.03)
    sharp = fair_crps(0.5 * waves(2, 20000, 1, 1, 1), waves(20000, 1, 1, 1), torch.ones(1, 1), one)
    assert float(sharp) > 1.05 * torch.pi**-0.5
    with pytest.raises(ValueError, match="two members"):
        fair_crps(members[:1], target, weights, scale)


def test_an_almost_fair_crps_ties_every_member_to_the_truth() -> None:
    """Where one of two members hits, the fair score does not see the other; the almost fair one does."""
    target, one = torch.zeros(1, 1, 1, dtype=torch.float64), torch.ones(1)
    lost = torch.stack([target, target + 5])
    assert float(fair_crps(lost, target, torch.ones(1, 1), one)) == pytest.approx(0)
    assert float(fair_crps(lost, target, torch.ones(1, 1), one, fairness=0.9)) == pytest.approx(5 * 0.1 / 4)
    assert float(fair_crps(lost, target, torch.ones(1, 1), one, fairness=0)) == pytest.approx(5 / 4)


def test_the_spectral_crps_sees_what_neighbours_share() -> None:
    """White noise of the right variance in every cell is right for the score of cells and wrong for that of scales."""
    smooth = [waves(400, 1, 1, 1).expand(400, 1, 1, 8) for _ in range(3)]
    truth, good, white = smooth[0], torch.stack(smooth[1:]), waves(2, 400, 1, 1, 8)
    weights, one = torch.ones(1, 8), torch.ones(1)
    assert float(fair_crps(white, truth, weights, one) / fair_crps(good, truth, weights, one)) == pytest.approx(1, abs=0.12)
    assert spectral_crps(white, truth, weights, one) > 1.5 * spectral_crps(good, truth, weights, one)
