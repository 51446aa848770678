"""Mixers refuse what they cannot do, and the simple ones do what their name says."""

import pytest
import torch

from afno_forecast.nn.afno import AFNOMixer
from afno_forecast.nn.mixers import MIXERS, AttentionMixer, GFNMixer, MixerOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_blocks": 5}, "16 channels cannot be divided into 5 equal blocks"),
        ({"fraction": 0.0}, r"in \(0, 1\], not 0.0"),
        ({"shrink": -0.1}, "shrink must not be negative"),
        ({"num_bands": 0}, "at least one wavenumber band"),
        ({"activation": "relu"}, "activation 'relu' is not one of gate"),
        ({"latitude": "up"}, "latitude 'up' is not one of periodic"),
    ],
)
def test_bad_options_are_refused(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AFNOMixer(16, **options)


def test_gfn_filters_its_own_grid_only() -> None:
    mixer = GFNMixer(4, (6, 9))
    with torch.no_grad():
        mixer.weight_2KC[0] = 1.0
        mixer.weight_2KC[1] = 0.0
    field = torch.randn(2, 6, 9, 4)
    torch.testing.assert_close(mixer(field), field, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="belongs to 6 x 9 tokens, not 9 x 6"):
        mixer(field.transpose(1, 2))
    with pytest.raises(ValueError, match="give its token grid"):
        MIXERS["gfn"](MixerOptions(dim=4, num_blocks=2))


def test_attention_does_not_care_for_the_order_of_tokens() -> None:
    mixer = AttentionMixer(8, 2)
    field = torch.randn(2, 5, 3, 8)
    torch.testing.assert_close(mixer(field.flip(1).roll(1, 2)), mixer(field).flip(1).roll(1, 2), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="8 channels cannot be divided into 3 equal heads"):
        AttentionMixer(8, 3)


def test_identity_adds_nothing_and_fno_is_linear_and_dense() -> None:
    field = torch.randn(2, 5, 7, 8)
    assert (MIXERS["identity"](MixerOptions(dim=8))(field) == 0).all()
    fno = MIXERS["fno"](MixerOptions(dim=8, num_blocks=4))
    torch.testing.assert_close(fno(-3 * field), -3 * fno(field), rtol=1e-4, atol=1e-5)
    changed = field.clone()
    changed[..., 0] += 1.0
    assert ((fno(changed) - fno(field)).abs().amax((0, 1, 2)) > 1e-4).all()
