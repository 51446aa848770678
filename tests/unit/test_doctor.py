"""The account of the machine: what runs, what is missing, and what to do about it."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import pytest

from afno_forecast import doctor
from afno_forecast.doctor import Finding, examine, format_findings


def find(findings: list[Finding], subject: str) -> Finding:
    """The most serious finding about a subject."""
    return max((f for f in findings if f.subject == subject), key=lambda f: ("good", "note", "fails").index(f.state))


def test_this_machine_can_run_the_tests(tmp_path: Path):
    findings = examine(tmp_path)
    assert [f.text for f in findings if f.state == "fails"] == []
    subjects = ["program", "packages", "cores", "memory", "torch", "accelerator", "extras", "folder", "disk", "coastlines"]
    assert list(dict.fromkeys(f.subject for f in findings)) == subjects
    assert find(findings, "torch").text.startswith(metadata.version("torch"))


def test_every_fault_comes_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", absent)
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["torch>=2.10", "xarray>=2025.3"])
    findings = examine(tmp_path)
    assert find(findings, "torch").state == "fails"
    packages = find(findings, "packages")
    assert packages.state == "fails" and packages.text == "torch is absent; xarray is absent"
    assert all(f.fix for f in findings if f.state != "good")


@pytest.mark.parametrize(("version", "oldest", "state"), [("2.9.1", "2.10", "fails"), ("2.10.0", "2.10", "good"), ("2.13.0+cpu", "2.10", "good"),
                                                          ("10", "9.5", "good")])
def test_versions_are_compared_as_numbers(monkeypatch: pytest.MonkeyPatch, version: str, oldest: str, state: str):
    monkeypatch.setattr(doctor.metadata, "version", lambda name: version)
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: [f"torch>={oldest}", 'bokeh>=99; extra == "dashboard"'])
    assert doctor._packages()[-1].state == state


def test_a_folder_that_cannot_be_written_fails():
    found = find(examine(Path("/proc")), "folder")  # not even the superuser writes there
    assert found.state == "fails" and found.fix


def test_a_folder_that_is_not_there_fails(tmp_path: Path):
    findings = examine(tmp_path / "absent")
    assert find(findings, "folder").state == "fails" and find(findings, "disk").state == "fails"


def test_more_threads_than_the_container_gives_are_noted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "_cgroup_cores", lambda: 0.5)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = doctor._cores()
    assert found.state == "note" and "OMP_NUM_THREADS=1" in found.fix and "held to 0.5" in found.text
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert doctor._cores().state == "good"


@pytest.mark.parametrize(("files", "state", "words"), [
    ({"/proc/meminfo": "MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n"}, "good", "8.0 GB free of 16.0 GB"),
    ({"/proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n", "/sys/fs/cgroup/memory.max": f"{3 << 30}\n",
      "/sys/fs/cgroup/memory.current": f"{2 << 30}\n"}, "note", "1.0 GB free of 16.0 GB"),
    ({}, "note", "cannot be told"),
])
def test_free_memory_is_the_containers(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], state: str, words: str):
    monkeypatch.setattr(doctor, "_read", lambda path: files.get(path, ""))
    found = doctor._memory()
    assert found.state == state and words in found.text


def test_the_account_is_one_line_a_finding_with_the_fix_below():
    text = format_findings([Finding("cores", "good", "2 usable"), Finding("torch", "fails", "absent", "pip install torch")])
    assert text.splitlines() == ["ok    cores        2 usable", "FAIL  torch        absent", "                   fix: pip install torch"]


@pytest.mark.parametrize(("answer", "words"), [("NVIDIA H100, 81559 MiB, 9.0", "(bfloat16)"), ("Tesla T4, 15360 MiB, 7.5", "(float32 only)"),
                                               ("", "finds none")])
def test_an_accelerator_that_this_torch_cannot_use_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, words: str):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "2.13.0+cpu")
    found = doctor._accelerator()
    assert found.state == "note" and words in found.text
