"""The state of the machine: what runs, what is missing, what to do about it. Imports nothing heavy and never the network."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Literal

from . import __version__

State = Literal["good", "note", "fails"]
DISTRIBUTION = "afno-forecast"
_MIN_FREE_BYTES = 2 << 30
_MIN_MEMORY_BYTES = 2 << 30
_EXTRAS = {"grib": "eccodes", "dashboard": "bokeh", "tensorboard": "tensorboard", "verify": "compliance_checker", "video": "imageio_ffmpeg",
           "pde": "h5py", "dev": "pytest"}
"""A module that only this extra brings."""


@dataclass(frozen=True)
class Finding:
    """One line of the account.

    Args:
        subject: what was looked at.
        state: `good`; `note`, something does less; `fails`, the program will not run.
        text: what was found.
        fix: a command or an edit, when something is amiss.
    """

    subject: str
    state: State
    text: str
    fix: str = ""


def examine(folder: Path) -> list[Finding]:
    """Everything about this machine that decides whether and how fast the program runs.

    Args:
        folder: where output would be written.
    """
    return [_python(), *_packages(), _cores(), _memory(), _torch(), _accelerator(), _extras(), _writable(folder), _disk(folder), _coastlines()]


def format_findings(findings: Iterable[Finding]) -> str:
    """A line for each finding, fixes below."""
    marks = {"good": "ok  ", "note": "note", "fails": "FAIL"}
    lines = []
    for found in findings:
        lines.append(f"{marks[found.state]}  {found.subject:<12} {found.text}")
        if found.fix:
            lines.append(f"{'':<19}fix: {found.fix}")
    return "\n".join(lines)


def _python() -> Finding:
    return Finding("program", "good", f"afno_forecast {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")


def _packages() -> list[Finding]:
    """The packages that the program declares to need, each against the oldest version it works with."""
    try:
        declared = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return [Finding("packages", "note", "the program is not installed: its requirements are not known", "pip install -c constraints.txt -e .")]
    have, missing = [], []
    for requirement in declared:
        if "extra ==" in requirement:
            continue
        match = re.match(r"([A-Za-z0-9._-]+)\s*(?:>=\s*([0-9.]+))?", requirement)
        assert match is not None
        name, oldest = match[1], match[2] or "0"
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(f"{name} is absent")
            continue
        have.append(f"{name} {version}")
        if _numbers(version) < _numbers(oldest):
            missing.append(f"{name} {version} is older than {oldest}")
    found = [Finding("packages", "good", ", ".join(have))]
    return [*found, Finding("packages", "fails", "; ".join(missing), "pip install -c constraints.txt -e .")] if missing else found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    total = os.cpu_count() or usable
    quota = _cgroup_cores()
    text = f"{usable} usable of {total}" + (f", held to {quota:g} by the container" if quota is not None and quota < usable else "")
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads:
        text += f"; OMP_NUM_THREADS={threads}"
    if quota is not None and quota < usable and not threads:
        return Finding("cores", "note", text, f"export OMP_NUM_THREADS={max(1, int(quota))}: more threads than cores are slow")
    return Finding("cores", "good", text)


def _cgroup_cores() -> float | None:
    limit = _read("/sys/fs/cgroup/cpu.max").split()
    if len(limit) == 2 and limit[0].isdigit() and limit[1].isdigit():
        return int(limit[0]) / int(limit[1])
    return None


def _memory() -> Finding:
    found = {key: int(value) << 10 for key, value in re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)}
    if "MemAvailable" not in found:
        return Finding("memory", "note", "cannot be told on this system")
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    used = _read("/sys/fs/cgroup/memory.current").strip()
    free = found["MemAvailable"]
    if limit.isdigit() and used.isdigit():
        free = min(free, int(limit) - int(used))
    text = f"{_size(free)} free of {_size(found['MemTotal'])}"
    if free < _MIN_MEMORY_BYTES:
        return Finding("memory", "note", text, "training on more than the sample wants 2 GB free")
    return Finding("memory", "good", text)


def _torch() -> Finding:
    """The build of torch and what its processor can do, without importing it (which takes seconds)."""
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return Finding("torch", "fails", "absent", "pip install -c constraints.txt -e .")
    flags = set(_read("/proc/cpuinfo").partition("flags")[2].partition("\n")[0].split())
    fast = [name for flag, name in (("amx_bf16", "AMX bfloat16"), ("avx512_bf16", "AVX-512 bfloat16")) if flag in flags]
    vector = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else ""
    text = f"{version}; bfloat16 on the processor: {' and '.join(fast) or 'emulated, float32 is faster'}"
    return Finding("torch", "good", text + (f"; {vector}" if vector else ""))


def _accelerator() -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding("accelerator", "good", "none found; the processor is used")
    try:
        query = subprocess.run([program, "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader"], capture_output=True, text=True,
                               timeout=1.0, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return Finding("accelerator", "note", "nvidia-smi does not answer", "look at the driver: nvidia-smi")
    names = [line.strip() for line in query.stdout.splitlines() if line.strip()]
    if query.returncode or not names:
        return Finding("accelerator", "note", "nvidia-smi finds none", "look at the driver: nvidia-smi")
    text = "; ".join(f"{name} ({'bfloat16' if _numbers(name.rpartition(',')[2]) >= (8,) else 'float32 only'})" for name in names)
    if metadata.version("torch").endswith("+cpu"):
        return Finding("accelerator", "note", f"{text}; not used: this torch is built for the processor only", "install a build of torch with CUDA")
    return Finding("accelerator", "good", text)


def _extras() -> Finding:
    there = [name for name, module in _EXTRAS.items() if importlib.util.find_spec(module) is not None]
    absent = [name for name in _EXTRAS if name not in there]
    text = f"{', '.join(there) or 'none'} installed" + (f"; not installed: {', '.join(absent)}" if absent else "")
    return Finding("extras", "good", text)


def _writable(folder: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return Finding("folder", "fails", f"{folder} cannot be written: {error.strerror}", "change to a folder that is yours: cd ~")
    return Finding("folder", "good", f"{folder} can be written")


def _disk(folder: Path) -> Finding:
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return Finding("disk", "fails", f"cannot be told: {error.strerror}", "change to a folder that exists")
    text = f"{_size(usage.free)} free of {_size(usage.total)}"
    if usage.free < _MIN_FREE_BYTES:
        return Finding("disk", "note", text, "free some space: stores and runs want gigabytes")
    return Finding("disk", "good", text)


def _coastlines() -> Finding:
    folder = Path(str(files("afno_forecast.plot").joinpath("natural_earth")))
    found = sorted(p.name for p in folder.glob("*.shp")) if folder.is_dir() else []
    if not found:
        return Finding("coastlines", "fails", f"none in {folder}", "install the program again")
    return Finding("coastlines", "good", f"{len(found)} layers bundled; maps need no network")


def _read(path: str) -> str:
    """The text of a file of the operating system; nothing where it does not exist."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _size(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):.1f} GB"
