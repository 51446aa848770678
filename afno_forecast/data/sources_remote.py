"""Addresses of remote stores: refused unless their scheme is allowed by name; chained and indirect ones always."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

import xarray as xr
import zarr
from zarr.errors import BaseZarrError

from afno_forecast.errors import CheckpointError, ConfigError, DataError, ResourceError

from .sources_notes import Ledger

# schemes of fsspec that read something else than they name: local files, archives, other addresses
_INDIRECT = ("reference", "simplecache", "filecache", "blockcache", "cached", "dir", "file", "local", "zip", "tar", "libarchive", "generic", "data")
_ADDRESS = re.compile(r"(?i)([a-z][a-z0-9+.-]+):/+")
_SCHEME_ALONE = re.compile(r"(?i)(https?|s3|gs|gcs|az|abfs|ftp|file|reference|simplecache|memory):")
_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, BaseZarrError)


def remote_address(text: str, allowed: Sequence[str] = ()) -> str | None:
    """The address, when a text is one of an allowed scheme; None for a local path. Raises ConfigError for any other address."""
    match = _ADDRESS.match(text)
    scheme = match[1].lower() if match else ""
    if "::" in text or scheme in _INDIRECT:
        raise ConfigError(f"'{text}' is not a local path, and leads on to others", fix="give the path of the data themselves")
    if not match:
        if "://" in text or _SCHEME_ALONE.match(text):
            raise ConfigError(f"'{text}' is not a local path", fix="copy the data here and give the path of the copy")
        return None
    if scheme not in allowed:
        raise ConfigError(f"'{text}' is not a local path",
                          fix=f"copy the data here and give the path of the copy, or allow it: --allow-remote {scheme}")
    return f"{scheme}://{text[match.end():]}"


def open_remote(address: str, ledger: Ledger) -> xr.Dataset:
    """A remote zarr, lazily, in blocks of its own chunks.

    Raises:
        DataError: no zarr there, or it cannot be read. CheckpointError: it would need unpickling.
        ResourceError: the package for this scheme is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr without consolidated metadata
        try:
            group = zarr.open_group(address, mode="r")
            if "pickle" in str(group.metadata.to_dict()):
                raise CheckpointError("the store holds pickled objects, which are never opened", where=address,
                                      fix="write it again without object arrays")
            ds = xr.open_dataset(address, engine="zarr", chunks={}, decode_timedelta=False)
        except ImportError as error:
            raise ResourceError(f"this scheme needs a package ({str(error).splitlines()[0]})", where=address,
                                fix=f"pip install {({'gs': 'gcsfs', 's3': 's3fs'}).get(address.split(':')[0], 'aiohttp')}") from error
        except _ERRORS as error:
            raise DataError(f"cannot be opened as a remote zarr ({(str(error).splitlines() or [type(error).__name__])[0][:200]})", where=address,
                            fix="check the address") from error
    ledger.note("a remote store: chunks that are absent are not looked for; where they read as missing values, the build refuses them", address)
    return ds[sorted(map(str, ds.data_vars))]
