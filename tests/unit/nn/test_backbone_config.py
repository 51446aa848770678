"""Configurations are strict and say what is wrong."""

from typing import Annotated, Any

import pydantic
import pytest

from afno_forecast.nn.backbone import HierarchicalConfig, PlainConfig, build_backbone, num_parameters
from afno_forecast.nn.block import ResidualBlock

Either = pydantic.TypeAdapter(Annotated[PlainConfig | HierarchicalConfig, pydantic.Field(discriminator="kind")])


def test_the_default_is_the_recipe() -> None:
    config = HierarchicalConfig()
    assert (config.widths, config.depth, config.num_blocks, config.mlp_ratio, config.fraction) == ((64, 128, 256), 2, 8, 4.0, 1.0)
    assert 3.5e6 < num_parameters(build_backbone(config, 40, 34, "sphere")) < 4.2e6


def test_plain_data_become_a_configuration() -> None:
    assert Either.validate_python({"kind": "plain", "patch": [2, 3]}) == PlainConfig(patch=(2, 3))
    assert Either.validate_python({"kind": "hierarchical", "widths": [8, 16]}) == HierarchicalConfig(widths=(8, 16))


def test_each_finer_level_has_its_own_number_of_residual_blocks() -> None:
    config = Either.validate_python({"kind": "hierarchical", "widths": [4, 8, 16], "residual_blocks": [0, 2]})
    blocks = {name for name, part in build_backbone(config, 5, 3, "sphere").named_modules() if isinstance(part, ResidualBlock)}
    assert blocks == {f"refine_{way}.1.{number}" for way in ("down", "up") for number in (0, 1)}
    same = [build_backbone(HierarchicalConfig(widths=(4, 8, 16), residual_blocks=given), 5, 3, "sphere").state_dict() for given in (2, (2, 2))]
    assert same[0].keys() == same[1].keys()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "plain", "pach": [2, 2]}, "Unexpected keyword"),
        ({"kind": "plain", "patch": [0, 2]}, "positive"),
        ({"kind": "plain", "width": 30}, "30 channels cannot be divided into 8 equal blocks"),
        ({"kind": "plain", "mixer": "fourier"}, "'afno', 'legacy', 'fno', 'gfn', 'attention' or 'identity'"),
        ({"kind": "plain", "fraction": 1.5}, r"fraction must be in \(0, 1\], not 1.5"),
        ({"kind": "plain", "mixer": "gfn"}, "tokens"),
        ({"kind": "plain", "tokens": [4, 4]}, "tokens"),
        ({"kind": "plain", "shrink": -1.0}, "shrink"),
        ({"kind": "hierarchical", "widths": []}, "widths"),
        ({"kind": "hierarchical", "widths": [8, 12]}, "12 channels"),
        ({"kind": "hierarchical", "residual_blocks": -1}, "none below zero"),
        ({"kind": "hierarchical", "residual_blocks": [1, -1]}, "none below zero"),
        ({"kind": "hierarchical", "residual_blocks": [1]}, "3 levels have 2 finer ones, not the 1 of "),
        ({"kind": "hierarchical", "latitude": "doubled"}, "double"),
        ({"kind": "pyramid"}, "pyramid"),
    ],
)
def test_what_is_wrong_is_said(data: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        Either.validate_python(data)


def test_a_configuration_made_in_code_is_checked_too() -> None:
    with pytest.raises(ValueError, match="mixer 'fourier' is not one of afno"):
        PlainConfig(mixer="fourier")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="latitude 'up'"):
        PlainConfig(latitude="up")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="boundary 'globe' is not one of sphere"):
        build_backbone(PlainConfig(), 3, 2, "globe")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="channels in and out"):
        build_backbone(PlainConfig(), 0, 2, "sphere")


def test_every_field_is_described() -> None:
    for name, model in Either.json_schema()["$defs"].items():
        assert all("description" in field for field in model["properties"].values()), name
