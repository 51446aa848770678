"""The log of a training: every line of `events.jsonl` is JSON, whatever the scores are."""

import json
from pathlib import Path

import numpy as np

from afno_forecast.training.log import RunLog, ScoreRow


def test_events_are_json_when_a_score_is_not_finite(tmp_path: Path) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    with RunLog(tmp_path, train_step=0, echo=[].append) as log:
        log.event("validation", score=float("nan"), by_channel={"z500": float("inf"), "t2m": [0.5, np.float64("-inf")]}, train_step=3)
    line = json.loads((tmp_path / "events.jsonl").read_text(), parse_constant=refuse)
    assert line["score"] is None and line["by_channel"] == {"z500": None, "t2m": [0.5, None]} and line["train_step"] == 3


def test_validations_of_later_steps_are_forgotten_and_many_channels_are_told_shortly(tmp_path: Path) -> None:
    lines: list[str] = []
    rows = [ScoreRow(f"z{i}", hours, {"persistence": 0.5 + i, "climatology": 2.0}) for i in range(14) for hours in (24.0, 48.0)]
    with RunLog(tmp_path, train_step=0, echo=lines.append) as log:
        log.validation(3, 7.0, 2.0, rows, best=True)
        log.validation(6, 8.0, float("nan"), [ScoreRow("t2m", 24.0, {"persistence": 0.25})], best=False)
    assert lines[0] == "validation at train step 3: RMSE / persistence 7.0000, / climatology 2.0000  (best)"
    assert lines[1].startswith("  at 48 h: z0 0.500 / 2.000, z1 1.500 / 2.000") and lines[1].endswith("z11 11.500 / 2.000, 2 more in validation.csv")
    assert lines[2:] == ["validation at train step 6: RMSE / persistence 8.0000", "  at 24 h: t2m 0.250"]
    assert (tmp_path / "validation.csv").read_text().splitlines()[-1] == "6,t2m,24,0.25,"
    with RunLog(tmp_path, train_step=5, echo=lines.append):
        assert len((tmp_path / "validation.csv").read_text().splitlines()) == 1 + 28
