"""The log of a training: every line of `events.jsonl` is JSON, whatever the scores are."""

import json
from pathlib import Path

import numpy as np

from afno_forecast.training.log import RunLog


def test_events_are_json_when_a_score_is_not_finite(tmp_path: Path) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    with RunLog(tmp_path, train_step=0, echo=[].append) as log:
        log.event("validation", score=float("nan"), by_channel={"z500": float("inf"), "t2m": [0.5, np.float64("-inf")]}, train_step=3)
    line = json.loads((tmp_path / "events.jsonl").read_text(), parse_constant=refuse)
    assert line["score"] is None and line["by_channel"] == {"z500": None, "t2m": [0.5, None]} and line["train_step"] == 3
