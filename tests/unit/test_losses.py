"""The loss is a mean over area, each channel in its own unit."""

import pytest
import torch

from afno_forecast.losses import area_weighted_mse


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
