"""Statistics: there and back, and what is refused."""

import numpy as np
import pytest
import torch

from afno_forecast.errors import DataError
from afno_forecast.normalize import Normalizer

NAMES = ("z500", "q700", "t2m")


def test_decode_is_the_inverse_of_encode() -> None:
    normalizer = Normalizer(NAMES, [5.5e4, 3e-3, 280.0], [3e3, 2e-3, 20.0], [100.0, 5e-4, 2.0])
    state = torch.tensor([5.4e4, 1e-3, 290.0])[:, None, None] * (1 + 0.05 * torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(normalizer.decode(normalizer.encode(state)), state, rtol=1e-6)
    ones = torch.ones(2, 3, 5, 7)
    assert normalizer.decode_tendency(ones)[0, :, 0, 0].tolist() == pytest.approx([100, 5e-4, 2])


def test_a_constant_channel_is_named_and_never_divides_by_zero() -> None:
    normalizer = Normalizer(NAMES, [1.0, 2, 3], [1.0, 0, 2], [1.0, 0, 1])
    assert normalizer.constant == ("q700",)
    assert torch.isfinite(normalizer.encode(torch.full((1, 3, 2, 2), 2.0))).all()


@pytest.mark.parametrize(("mean", "std", "text"), [([1.0, 2], [1.0, 1, 1], "shape"),
                                                   ([1.0, np.nan, 2], [1.0, 1, 1], "'mean' is missing or not valid for q700"),
                                                   ([1.0, 2, 3], [1.0, -1, 1], "'std' .* q700")])
def test_missing_statistics_are_refused(mean: list[float], std: list[float], text: str) -> None:
    with pytest.raises(DataError, match=text):
        Normalizer(NAMES, mean, std, [1.0, 1, 1])
