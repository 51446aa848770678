"""What makes a stopped training the same experiment: its `config.yaml` in the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from ..config import dump_config, load_config
from ..errors import ConfigError
from ..model_folder import fsync_file
from .config import RunConfig

Kind = TypeVar("Kind", bound=RunConfig)
CONFIG = "config.yaml"
_FREE = ("parallel", "threads", "accumulate", "checkpointing", "cache_megabytes", "checkpoint_minutes", "asynchronous_checkpoints", "log")


def require_same(folder: Path, experiment: Kind, *, resume: bool) -> None:
    """Raise ConfigError where a training to be resumed is another one than the run folder's, but for what changes the last bits at most."""
    path = folder / CONFIG
    if resume and path.exists():
        before = load_config(path, type(experiment))
        if _decisive(before) != _decisive(experiment):
            raise ConfigError("the experiment differs from the one that was stopped", where=str(path),
                              fix=f"resume with: afno-forecast train {path} --resume, or choose another run folder with output=PATH")


def write_config(folder: Path, experiment: RunConfig) -> str:
    """Write `config.yaml`, whole at any moment; returns the text. Raises OSError."""
    text, path = dump_config(experiment), folder / CONFIG
    if not (path.is_file() and path.read_text() == text):
        temporary = path.with_name(f".{CONFIG}.partial")
        temporary.write_text(text)
        fsync_file(temporary)
        temporary.replace(path)
    return text


def _decisive(experiment: RunConfig) -> dict[str, Any]:
    """What decides the numbers of a training but for their last bits, which must not change over a resume."""
    values = experiment.model_dump(exclude={"output", "name"})
    for name in _FREE:
        del values["training"][name]
    del values["validation"]["pictures"]
    return values
