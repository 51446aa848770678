"""What goes wrong with data, as the command line tells it: nothing is converted, refused or lost without a line."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from afno_forecast import cli

Program = Callable[..., tuple[int, str, str]]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """Runs a command in this process; (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["afno-forecast", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


def test_inspect_reads_every_chunk_of_a_store_and_lists_the_bad_ones(program: Program, tiny_store: Path, tmp_path: Path) -> None:
    code, out, _ = program("data", "inspect", tiny_store)
    assert code == 0 and "training store" in out and "7x12 global" in out and "none missing or damaged" in out
    store = tmp_path / "store.zarr"
    shutil.copytree(tiny_store, store)
    (store / "state" / "c" / "0" / "0" / "0" / "0").unlink()
    store.joinpath("climatology", "c", *"00000").write_bytes(b"short")
    code, out, _ = program("data", "inspect", store)
    assert code == 3 and "BAD CHUNKS" in out
    assert "state/c/0/0/0/0: 2001-01-01T00, " in out and "is missing" in out and "climatology/c/0/0/0/0/0: chunk 0.0.0.0.0 is truncated" in out
    code, out, _ = program("info", store)
    assert code == 0 and f"data inspect {store}" in out
    (store / "mean" / "c" / "0").unlink()
    assert program("data", "inspect", store)[0] == 3
