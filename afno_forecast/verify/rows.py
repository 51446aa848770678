"""Statistics of scored forecasts in a file, so that an interrupted run goes on and several processes put theirs together."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import DataError, ResourceError
from .sample import Rows

AllRows = Mapping[str, Mapping[tuple[int, int], Rows]]
# what numpy and zipfile raise for a file that is cut off or has other bytes; an encrypted or unknown form is a RuntimeError
_DAMAGED = (OSError, ValueError, EOFError, LookupError, TypeError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile)
_IDENTITY, _COUNT = "identity", "count"


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
            np.savez(file, allow_pickle=False, **{_IDENTITY: np.asarray(identity), _COUNT: np.asarray(len(arrays))}, **arrays)
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
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            if _IDENTITY not in file or str(file[_IDENTITY]) != identity:
                raise DataError("these statistics belong to other scores", where=str(path), fix="remove the file, and score again from the start")
            keys = [key for key in file.files if key not in (_IDENTITY, _COUNT)]
            if len(keys) != int(file[_COUNT]):
                raise ValueError(f"{len(keys)} of {int(file[_COUNT])} arrays are left")
            for key in keys:
                name, init, lead, statistic = key.split("|")
                result.setdefault(name, {}).setdefault((int(init), int(lead)), {})[statistic] = np.asarray(file[key], dtype=np.float64)
    except DataError:
        raise
    except _DAMAGED as error:
        raise DataError(f"the statistics of scores cannot be read: {error}", where=str(path), fix="remove the file, and score again") from error
    return result
