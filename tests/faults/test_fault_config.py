"""Faults 24, 26 and 31: typos, YAML's traps and attacks, strange places and languages."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from afno_forecast.config import load_document
from afno_forecast.errors import ConfigError

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "configs" / "quickstart.yaml"


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "from afno_forecast.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, encoding="utf-8", timeout=120,
                          check=False, env={**os.environ, "PYTHONPATH": str(ROOT), **environment})


@pytest.fixture
def typos(tmp_path: Path) -> Path:
    """The quickstart with five planted faults: a wrong key at three depths, a wrong type, a misspelt channel."""
    text = QUICKSTART.read_text(encoding="utf-8")
    for old, new in (("\nseed: 1\n", "\nsed: 1\n"), ("\n  batch_size: 4\n", "\n  bach_size: 4\n"), ("learning_rate: ", "learnin_rate: "),
                     ("  history: 1\n", "  history: one\n"), ("[z500, z850,", "[z500, t5m,")):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = tmp_path / "typos.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("words", [["train"], ["config", "validate"]], ids=" ".join)
def test_24_five_planted_typos_are_found_at_once(typos: Path, words: list[str]):
    done = command(*words, "typos.yaml", cwd=typos.parent)
    assert done.returncode == 2 and done.stdout == ""
    rows = typos.read_text(encoding="utf-8").splitlines()
    lines = {key: next(i for i, row in enumerate(rows, 1) if key in row) for key in ("sed:", "bach_size", "learnin_rate", "history", "t5m")}
    for expected in (f"typos.yaml:{lines['sed:']}: sed: unknown key (did you mean 'seed'?)",
                     f"typos.yaml:{lines['bach_size']}: training.bach_size: unknown key (did you mean 'batch_size'?)",
                     f"typos.yaml:{lines['learnin_rate']}: training.optimizer.learnin_rate: unknown key (did you mean 'learning_rate'?)",
                     f"typos.yaml:{lines['history']}: model.history: must be a whole number, got 'one'"):
        assert expected in done.stderr, done.stderr
    channel = next(line for line in done.stderr.splitlines() if "t5m" in line)
    assert channel.startswith(f"typos.yaml:{lines['t5m']}: data.channels") and "(did you mean 't2m'?)" in channel
    assert len(done.stderr.splitlines()) == 5, done.stderr
    assert [p.name for p in typos.parent.iterdir()] == ["typos.yaml"], "nothing was started"


def test_24_every_trap_of_yaml_in_one_file(tmp_path: Path):
    path = tmp_path / "traps.yaml"
    path.write_text("rate: 2e-3\nrate: 3e-3\nflag: no\ndate: 2020-01-01\ntime: 12:30:00\ncode: 010\nversion: 1_0\nsame:\n  a: 1\n  a: 2\n")
    with pytest.raises(ConfigError) as caught:
        load_document(path)
    assert str(caught.value).splitlines() == [f"{path}:2: rate: is given twice (first on line 1): keep one of them",
                                              f"{path}:10: same.a: is given twice (first on line 9): keep one of them"]
    path.write_text(path.read_text().replace("rate: 3e-3\n", "").replace("  a: 2\n", ""))
    assert load_document(path).values == {"rate": 0.002, "flag": "no", "date": "2020-01-01", "time": "12:30:00", "code": "010", "version": "1_0",
                                          "same": {"a": 1}}


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
ATTACKS = {
    "bomb": (BOMB, "alias '*a' is refused"),
    "tag": ("a: !!python/object/apply:os.system [echo]\n", "tag '!!python/object/apply:os.system' is refused"),
    "own tag": ("a: !include /etc/passwd\n", "tag '!include' is refused"),
    "merge": ("x: {a: 1}\ny:\n  <<: {b: 1}\n", "merge key '<<' is refused"),
    "self": ("a: &a [*a]\n", "anchor '&a' is refused"),
    "deep flow": ("a: " + "[" * 5000 + "]" * 5000, "nested deeper than 32"),
    "deep block": ("".join(f"{'  ' * i}k:\n" for i in range(200)), "nested deeper than 32"),
    "deep dashes": ("a:\n  " + "- " * 400, "nested deeper than 32"),
    "long": ("a: [" + "1, " * 300_000 + "]", "holds more than 20000 values"), "big": ("a: " + "x" * 1_100_000, "larger than 1 MB"),
    "binary": ("a: \x00", "holds a character that YAML forbids"), "digits": (f"a: {'9' * 5000}\n", "is too large for a number"),
    "documents": ("a: 1\n---\na: 2\n", "second document"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_31_attacks_are_refused_at_once(tmp_path: Path, name: str):
    text, answer = ATTACKS[name]
    path = tmp_path / "attack.yaml"
    path.write_text(text)
    began = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        load_document(path)
    assert answer in str(caught.value) and len(str(caught.value)) < 9999
    assert caught.value.exit_code == 2
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("environment", [{"LC_ALL": "C", "TZ": "Asia/Kathmandu"}, {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii", "TZ": "nonsense"}],
                         ids=["C", "ascii"])
def test_26_strange_places_and_languages(tmp_path: Path, environment: dict[str, str]):
    folder = tmp_path / "größe und 温度"
    folder.mkdir()
    path = folder / "mein Versuch é.yaml"
    path.write_text(QUICKSTART.read_text(encoding="utf-8").replace("output: demo", "output: 'läufe/α β'"), encoding="utf-8")
    done = command("config", "dump", path.name, cwd=folder, **environment)
    assert done.returncode == 0, done.stderr
    if "PYTHONIOENCODING" not in environment:
        copy = folder / "copy.yaml"
        copy.write_text(done.stdout, encoding="utf-8")
        assert load_document(copy).values["output"] == "läufe/α β"
    path.write_text("größe: 1\n", encoding="utf-8")
    done = command("config", "validate", path.name, cwd=folder, **environment)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "unknown key" in done.stderr


def test_26_one_core_and_no_home(tmp_path: Path):
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from afno_forecast.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "doctor"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 usable" in done.stdout
