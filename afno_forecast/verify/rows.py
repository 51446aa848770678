"""Statistics of scored forecasts in a file, so that an interrupted run goes on and several processes put theirs together."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import DataError, ResourceError
from .sample import Rows

AllRows = Mapping[str, Mapping[tuple[int, int], Rows]]
_IDENTITY = "identity"


def save_rows(path: Path, rows: AllRows, identity: str) -> None:
    """Write statistics; the file appears whole.

    Args:
        path: `.npz` to make or replace.
        rows: by forecast or rival, then by (init, lead) in seconds.
        identity: what the statistics belong to.

    Raises:
        ResourceError: it cannot be written.
    """
    arrays = {f"{name}|{init}|{lead}|{statistic}": value for name, cases in rows.items() for (init, lead), row in cases.items()
              for statistic, value in row.items()}
    draft = path.with_name(f".{path.name}.partial")
    try:
        with draft.open("wb") as file:
            np.savez(file, allow_pickle=False, **{_IDENTITY: np.asarray(identity)}, **arrays)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ResourceError(f"cannot write the statistics of scores: {error.strerror or error}", where=str(path)) from error


def load_rows(path: Path, identity: str) -> dict[str, dict[tuple[int, int], Rows]]:
    """What `save_rows` wrote. Raises DataError for a damaged file or one that belongs to something else."""
    result: dict[str, dict[tuple[int, int], Rows]] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            if _IDENTITY not in file or str(file[_IDENTITY]) != identity:
                raise DataError("these statistics belong to other scores", where=str(path), fix="remove the file, and score again from the start")
            for key in file.files:
                if key != _IDENTITY:
                    name, init, lead, statistic = key.split("|")
                    result.setdefault(name, {}).setdefault((int(init), int(lead)), {})[statistic] = np.asarray(file[key], dtype=np.float64)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"the statistics of scores cannot be read: {error}", where=str(path), fix="remove the file, and score again") from error
    return result
