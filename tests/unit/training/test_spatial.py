"""Rows among processes: a network with parts that would need other processes' rows is refused."""

from types import SimpleNamespace

import pytest

from afno_forecast.errors import ConfigError
from afno_forecast.nn.backbone import BackboneConfig, HierarchicalConfig, PlainConfig, build_backbone
from afno_forecast.training.spatial import split_network

MESH = SimpleNamespace(spatial=SimpleNamespace(size=2, rank=0), block=SimpleNamespace(size=1, rank=0))


@pytest.mark.parametrize(("config", "words"), [
    (PlainConfig(patch=(4, 4), width=8, depth=1, mixer="identity", overlap=1), "overlapping patches"),
    (PlainConfig(patch=(2, 2), width=8, depth=1, mixer="identity", coarsen=(2, 2)), "coarsen"),
    (HierarchicalConfig(widths=(8, 8), depth=1, coarsen=(1, 2)), "coarsen"),
    (PlainConfig(patch=(2, 2), width=8, depth=1, mixer="attention", num_blocks=2), "cannot be divided by rows"),
])
def test_what_would_be_wrong_on_divided_rows_is_refused(config: BackboneConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        split_network(build_backbone(config, 3, 2, "sphere"), 24, MESH, "sphere")  # type: ignore[arg-type]


def test_rows_are_divided_by_whole_patches() -> None:
    config = PlainConfig(patch=(4, 4), width=8, depth=1, mixer="identity")
    rows = split_network(build_backbone(config, 3, 2, "sphere"), 26, MESH, "sphere")  # type: ignore[arg-type]
    assert rows is not None and rows.sizes == (12, 14)
