"""What a store was made from: sources by name, size and content; never by date, host or folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zarr

_WHOLE_BYTES = 1 << 30
_SAMPLE_BYTES = 1 << 20
_NUM_SAMPLES = 64
_KEPT = ("title", "institution", "source", "license", "licence", "references", "comment", "Conventions", "time_mapping")
_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


def describe_source(source: str | Path) -> dict[str, Any]:
    """Name, bytes and a hash of a file or of a folder (zarr); the hash does not depend on times of modification.

    Files up to 1 GiB are hashed whole (`sha256`); of larger ones the size and 64 pieces of 1 MiB (`sha256_sampled`); of a folder
    the names and sizes of all files and the content of the metadata (`sha256_listing`), and the content of all as that of a file; of a
    remote zarr its metadata (`sha256_metadata`).
    """
    if "://" in str(source):
        metadata = {name: item.metadata.to_dict() for name, item in zarr.open_group(str(source), mode="r").members()}
        return {"name": str(source), "sha256_metadata": hashlib.sha256(json.dumps(metadata, sort_keys=True, default=str).encode()).hexdigest()}
    path = Path(source)
    if path.is_dir():
        return _describe_folder(path)
    size = path.stat().st_size
    if size <= _WHOLE_BYTES:
        with path.open("rb") as handle:
            return {"name": path.name, "bytes": size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as handle:
        for n in range(_NUM_SAMPLES):
            handle.seek((size - _SAMPLE_BYTES) * n // (_NUM_SAMPLES - 1))
            digest.update(handle.read(_SAMPLE_BYTES))
    return {"name": path.name, "bytes": size, "sha256_sampled": digest.hexdigest()}


def is_same_source(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two descriptions are of the same source; the old one may know less."""
    return old.items() <= new.items()


def _describe_folder(path: Path) -> dict[str, Any]:
    listing, content, total = hashlib.sha256(), hashlib.sha256(), 0
    files = sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        size = file.stat().st_size
        total += size
        listing.update(f"{file.relative_to(path).as_posix()}\0{size}\0".encode())
        if file.name in _METADATA:
            listing.update(file.read_bytes())
    whole = total <= _WHOLE_BYTES
    for n, file in enumerate(files if whole else [files[(len(files) - 1) * n // (_NUM_SAMPLES - 1)] for n in range(_NUM_SAMPLES)]):
        with file.open("rb") as handle:
            if whole:
                content.update(hashlib.file_digest(handle, "sha256").digest())
            else:
                handle.seek(max(0, file.stat().st_size - _SAMPLE_BYTES) * n // (_NUM_SAMPLES - 1))
                content.update(handle.read(_SAMPLE_BYTES))
    return {"name": path.name, "bytes": total, "sha256_listing": listing.hexdigest(), "sha256" if whole else "sha256_sampled": content.hexdigest()}


def provenance(sources: Sequence[Mapping[str, Any]], attrs: Mapping[str, Any], notes: Sequence[str], version: str) -> dict[str, Any]:
    """Plain values for the store's attributes: sources, the source's own description of itself, notes, version."""
    kept = {key: str(attrs[key]) for key in _KEPT if key in attrs}
    return {"sources": [dict(s) for s in sources], "source_attributes": kept, "notes": list(notes), "package": "afno_forecast", "version": version}


def simulated_text(attrs: Mapping[str, Any]) -> str | None:
    """The source's own words when it says that it is simulated; None otherwise."""
    texts = [str(attrs[key]) for key in ("institution", "title", "source") if key in attrs]
    return next((t for t in texts if "simulated" in t.lower()), None)
