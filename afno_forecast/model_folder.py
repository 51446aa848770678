"""What training leaves and everything else takes: a folder of plain files, hashed, without code or pickle.

`config.yaml` (the resolved experiment), `statistics.nc` (channels, grid, calendar, time step, statistics, static fields),
`model.safetensors`, `README.md` (the card), `manifest.json` (sha256 of every other file); with a diagnostic network also `diagnostic.json` and
`diagnostic.safetensors`, with a calibration also `calibration.nc`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from . import __version__
from .channels import Channel, ChannelSet
from .documents import load_document
from .errors import CheckpointError, ResourceError
from .grid import Grid, LatLonGrid, grid_from_dict

if TYPE_CHECKING:
    import torch

    from .diagnostic import Diagnostic
    from .forecaster import Forecaster, ModelConfig, ModelInputs

FORMAT = 1
CONFIG, WEIGHTS, STATISTICS, CARD, MANIFEST = "config.yaml", "model.safetensors", "statistics.nc", "README.md", "manifest.json"
FILES = (CONFIG, WEIGHTS, STATISTICS, CARD)
DIAGNOSTIC, DIAGNOSTIC_WEIGHTS = "diagnostic.json", "diagnostic.safetensors"
CALIBRATION = "calibration.nc"
_CALIBRATED = "Calibrated: anomalies are shrunk to what"


def sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def fsync_file(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """Flush the files of a folder, not of folders in it, and the folder itself to disk."""
    for path in [*(p for p in folder.iterdir() if p.is_file()), folder]:
        fsync_file(path)


def write_manifest(folder: Path, names: tuple[str, ...]) -> None:
    """Write `manifest.json` with the size and sha256 of the named files."""
    seal_manifest(folder, {name: ((folder / name).stat().st_size, sha256(folder / name)) for name in names})


def seal_manifest(folder: Path, files: Mapping[str, tuple[int, str]], *, form: int = FORMAT) -> None:
    """Write `manifest.json` with sizes and digests that are known, by the files' names."""
    entries = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in files.items()}
    (folder / MANIFEST).write_text(json.dumps({"format": form, "version": __version__, "files": entries}, indent=1, sort_keys=True) + "\n")


def check_manifest(folder: Path, names: tuple[str, ...], *, newest: int = FORMAT) -> tuple[str, ...]:
    """Refuse a folder whose files are missing, altered, links, or lie outside it.

    Args:
        folder: with `manifest.json`.
        names: of files that must be there, beside all that the manifest lists.
        newest: format that is still read.

    Returns:
        the names that the manifest lists.

    Raises:
        CheckpointError: names file and hashes.
    """
    manifest_path = folder / MANIFEST
    if not folder.is_dir() or not manifest_path.is_file() or manifest_path.is_symlink():
        raise CheckpointError("this is not a complete model or checkpoint folder", where=f"{folder}: no {MANIFEST}",
                              fix="give the folder that training left, for example runs/NAME/model")
    try:
        manifest = json.loads(manifest_path.read_text())
        listed = {str(name): str(entry["sha256"]) for name, entry in manifest["files"].items()}
        form = int(manifest["format"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError("the manifest cannot be read", where=str(manifest_path), fix="copy the folder again from where it was made") from error
    if form > newest:
        raise CheckpointError(f"written in format {form}, this version reads up to {newest}", where=str(folder),
                              fix=f"update afno-forecast (written by version {manifest.get('version')})")
    strange = sorted(name for name in listed if name != Path(name).name or name in {"", ".", ".."})
    if strange:
        raise CheckpointError(f"the manifest names a file outside the folder: {strange[0]!r}", where=str(manifest_path), fix="do not use this folder")
    for name in dict.fromkeys((*names, *listed)):
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise CheckpointError(f"{name} is missing or not a plain file", where=str(path), fix="copy the folder again from where it was made")
        if name not in listed:
            raise CheckpointError(f"{name} is not in the manifest", where=str(manifest_path), fix="copy the folder again from where it was made")
        found = sha256(path)
        if found != listed[name]:
            raise CheckpointError(f"{name} was altered or damaged: sha256 is {found[:12]}..., the manifest says {listed[name][:12]}...",
                                  where=str(path), fix="copy the folder again from where it was made, or train again")
    return tuple(listed)


def _statistics_dataset(inputs: ModelInputs) -> xr.Dataset:
    channels = inputs.channels
    grid = inputs.grid
    rows, columns = ("latitude", "longitude") if isinstance(grid, LatLonGrid) else ("y", "x")
    ds = xr.Dataset(
        {name: ("channel", np.asarray(getattr(inputs, name), dtype=np.float64), {"long_name": f"{name.replace('_', ' ')} over the training period"})
         for name in ("mean", "std", "tendency_std")},
        attrs={**inputs.attrs, "channels": json.dumps(channels.to_list()), "grid": json.dumps(grid.to_dict()), "calendar": inputs.calendar,
               "time_step_seconds": np.int64(inputs.time_step), "static": json.dumps(list(inputs.static))})
    if inputs.longer:
        ds["longer_tendency_std"] = (("longer_time_step", "channel"), np.stack(list(inputs.longer.values())),
                                     {"long_name": "tendency std of the longer time steps over the training period"})
        ds["longer_time_step"] = ("longer_time_step", np.asarray(list(inputs.longer), dtype=np.int64), {"long_name": "seconds"})
    for name, field in inputs.static.items():
        ds[f"static_{name}"] = ((rows, columns), np.asarray(field, dtype=np.float32))
    return ds


def longer_steps(ds: xr.Dataset) -> list[int]:
    """The model's steps beside the shortest, seconds, ascending."""
    return [int(step) for step in ds["longer_time_step"].values] if "longer_time_step" in ds else []


def read_inputs(folder: Path) -> ModelInputs:
    """What the model was trained on, from `statistics.nc`. Raises CheckpointError when it cannot be read."""
    from .forecaster import ModelInputs

    path = folder / STATISTICS
    try:
        with xr.open_dataset(path, engine="netcdf4") as ds:
            ds.load()
        attrs = dict(ds.attrs)
        channels = ChannelSet(tuple(Channel(str(c["variable"]), c["level"], str(c["units"]), c["role"]) for c in json.loads(attrs.pop("channels"))))
        grid = grid_from_dict(json.loads(attrs.pop("grid")))
        static = {str(name): ds[f"static_{name}"].values for name in json.loads(attrs.pop("static"))}
        calendar, time_step = str(attrs.pop("calendar")), int(attrs.pop("time_step_seconds"))
        longer = dict(zip(longer_steps(ds), ds["longer_tendency_std"].values, strict=True)) if longer_steps(ds) else {}
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"the statistics cannot be read: {error}", where=str(path),
                              fix="copy the folder again from where it was made") from error
    return ModelInputs(channels, grid, calendar, time_step, ds["mean"].values, ds["std"].values, ds["tendency_std"].values, static,
                       {str(k): str(v) for k, v in attrs.items()}, longer)


def read_model_config(folder: Path) -> ModelConfig:
    """The network of a model folder, from `config.yaml`. Raises CheckpointError when it does not describe one."""
    from pydantic import ValidationError

    from .forecaster import ModelConfig

    path = folder / CONFIG
    try:
        return ModelConfig.model_validate(load_document(path).values["model"])
    except (ValidationError, KeyError, TypeError) as error:
        first = str(error).splitlines()
        raise CheckpointError(f"config.yaml does not describe a model: {' '.join(first[:3])}", where=str(path),
                              fix=f"this is version {__version__}; use the version that wrote the folder") from error


def save(folder: Path, *, config_text: str, inputs: ModelInputs, weights: Mapping[str, torch.Tensor], card: str) -> None:
    """Write a model folder under a temporary name, flush it, and put it in place of the old one.

    Args:
        folder: where; replaced when it exists.
        config_text: the resolved experiment as YAML.
        inputs: channels, grid, statistics and static fields.
        weights: the forecaster's state dict.
        card: Markdown for README.md.

    Raises:
        ResourceError: it cannot be written, as on a full disk.
    """
    with _replaced(folder) as temporary:
        (temporary / CONFIG).write_text(config_text)
        _statistics_dataset(inputs).to_netcdf(temporary / STATISTICS, engine="netcdf4")
        _write_weights(temporary / WEIGHTS, weights)
        (temporary / CARD).write_text(card)
        write_manifest(temporary, FILES)


def weights_digest(folder: Path) -> str:
    """sha256 of the forecaster's weights in a model folder, after every file's hash was checked. Raises CheckpointError."""
    _recover(folder)
    check_manifest(folder, FILES)
    return sha256(folder / WEIGHTS)


def save_diagnostic(source: Path, folder: Path, *, learnt_on: str, diagnostic: Diagnostic, weights: Mapping[str, torch.Tensor], card: str) -> None:
    """Write a model folder that is another one with a diagnostic network added.

    Args:
        source: model folder of the forecaster.
        folder: where; replaced when it exists.
        learnt_on: `weights_digest` of the forecaster that the network learnt on.
        diagnostic: its configuration and channels.
        weights: its state dict.
        card: Markdown that is put behind the forecaster's own card.

    Raises:
        CheckpointError: `source` holds another forecaster by now.
        ResourceError: it cannot be written, as on a full disk.
    """
    with _amended(source, folder, (DIAGNOSTIC, DIAGNOSTIC_WEIGHTS)) as temporary:
        if sha256(temporary / WEIGHTS) != learnt_on:
            raise CheckpointError("the forecaster was replaced while the diagnostic network learnt on it", where=str(source / WEIGHTS),
                                  fix="wait until the forecaster's training has ended, and train the network again with output=PATH")
        with (temporary / CARD).open("a") as file:
            file.write(card)
        facts = {"diagnostic": diagnostic.config.model_dump(mode="json"), "channels": diagnostic.outputs.to_list()}
        (temporary / DIAGNOSTIC).write_text(json.dumps(facts, indent=1) + "\n")
        _write_weights(temporary / DIAGNOSTIC_WEIGHTS, weights)


def save_calibrated(source: Path, folder: Path, calibration: xr.Dataset) -> None:
    """Write a model folder that is another one with a calibration in place of any that it had. Raises CheckpointError, ResourceError."""
    with _amended(source, folder, (CALIBRATION,)) as temporary:
        calibration.to_netcdf(temporary / CALIBRATION, engine="netcdf4")
        card = re.sub(rf"\n{_CALIBRATED}.*\n", "", (temporary / CARD).read_text())  # of an earlier calibration
        (temporary / CARD).write_text(f"{card}\n{_CALIBRATED} {calibration.attrs['made_from']} allow to believe.\n")


def load_diagnostic(folder: Path, forecaster: Forecaster) -> Diagnostic | None:
    """The diagnostic network of a model folder, with its forecaster's grid, statistics and forcing; None where there is none.

    Raises CheckpointError, or ConfigError where it does not run on the forecaster's grid.
    """
    from pydantic import ValidationError
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from .diagnostic import Diagnostic, DiagnosticConfig
    from .forecaster import told_if_unfit

    path = Path(folder) / DIAGNOSTIC
    if not path.exists():
        return None
    check_manifest(Path(folder), (*FILES, DIAGNOSTIC, DIAGNOSTIC_WEIGHTS))
    try:
        facts = json.loads(path.read_text())
        config, outputs = DiagnosticConfig.model_validate_json(json.dumps(facts["diagnostic"])), ChannelSet.from_list(facts["channels"])
        weights = load_file(str(path.with_name(DIAGNOSTIC_WEIGHTS)))
    except (ValidationError, SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the diagnostic network cannot be read: {error}", where=str(path), fix="copy the folder again") from error
    trained_on = read_inputs(Path(folder)).grid
    with told_if_unfit(forecaster.grid):
        diagnostic = Diagnostic(config, forecaster, outputs, None if forecaster.grid.matches(trained_on) else trained_on)
    load_weights(diagnostic, weights, path.with_name(DIAGNOSTIC_WEIGHTS))
    return diagnostic.eval()


@contextlib.contextmanager
def _amended(source: Path, folder: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """A copy of a model folder, to be given files of these names in place of its own; sealed at the end. Raises CheckpointError, ResourceError."""
    kept = tuple(name for name in check_manifest(source, FILES) if name not in names)
    with _replaced(folder) as temporary:
        for name in kept:
            shutil.copyfile(source / name, temporary / name)
        yield temporary
        write_manifest(temporary, (*kept, *names))


@contextlib.contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A new folder under a temporary name, which at the end takes the place of an older one.

    Raises ResourceError when it cannot be written, as on a full disk; the older one is intact.
    """
    from safetensors import SafetensorError

    temporary = _aside(folder, "partial")
    try:
        _recover(folder)
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True)
        with _locked(temporary):
            yield temporary
            _put_in_place(temporary, folder)
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("NetCDF"):  # which has no error of its own
            raise
        raise ResourceError(f"the model folder could not be written: {error}", where=str(temporary),
                            fix="free some space, or choose another folder, and run the same command again; an older model is intact") from error


def _write_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, str(path))
    path.chmod(0o644)  # safetensors leaves it readable by its owner only


def _aside(folder: Path, what: str) -> Path:
    """A folder of ours beside another, under a name that no one else gives to a copy."""
    return folder.with_name(f".{folder.name}.{what}")


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Flush a finished folder and let it take the place of an older one."""
    fsync_folder(temporary)
    old = _aside(folder, "replaced")
    if old.exists():
        shutil.rmtree(old)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    fsync_folder(folder.parent)
    if old.exists():
        shutil.rmtree(old)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether this is the only process at work on a folder; on a file system without locks it passes for it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = True
        except OSError as error:
            ours = not isinstance(error, BlockingIOError)
        yield ours
    finally:
        os.close(descriptor)


def _recover(folder: Path) -> None:
    """Finish a `save` that was killed between its two renames: the new folder, or else the old one, takes its place.

    A `save` that is at work in another process is left to it.
    """
    if folder.exists():
        return
    for what in ("partial", "replaced"):
        candidate = _aside(folder, what)
        if candidate.is_dir():
            with _locked(candidate) as ours:
                if not ours:
                    return
                with contextlib.suppress(CheckpointError):
                    check_manifest(candidate, FILES)
                    candidate.rename(folder)
                    return


def load(folder: Path, on: tuple[Grid, Mapping[str, NDArray[np.float32]]] | None = None) -> Forecaster:
    """The forecaster of a model folder, ready to step, after every file's hash was checked.

    Args:
        folder: of the model.
        on: another grid than the training's, with the static fields (H, W) there by name; they are standardised as the training's were.

    Raises:
        CheckpointError: a file is missing, altered or does not fit the network.
        ConfigError: the network does not run on the other grid.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from .forcing import static_scales
    from .forecaster import build_forecaster, told_if_unfit, try_network

    folder = Path(folder)
    _recover(folder)
    check_manifest(folder, FILES)
    config, inputs = read_model_config(folder), read_inputs(folder)
    if on is not None:
        inputs = replace(inputs, grid=on[0], static=on[1], static_scales=static_scales(inputs.static, inputs.grid),
                         trained_on=inputs.grid)
    if on is None:
        forecaster = build_forecaster(config, inputs)
    else:
        with told_if_unfit(inputs.grid):
            forecaster = build_forecaster(config, inputs)
            try_network(forecaster)
    try:
        weights = load_file(str(folder / WEIGHTS))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"the weights cannot be read: {error}", where=str(folder / WEIGHTS), fix="copy the folder again") from error
    load_weights(forecaster, weights, folder / WEIGHTS)
    return forecaster.eval()


def load_weights(forecaster: torch.nn.Module, weights: Mapping[str, torch.Tensor], where: Path) -> None:
    """Strictly load a state dict: same names, same shapes. Raises CheckpointError listing what differs."""
    own = forecaster.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = sorted(k for k in own.keys() & weights.keys() if own[k].shape != weights[k].shape)
    if missing or extra or shapes:
        raise CheckpointError(f"the weights do not fit the network: {len(missing)} missing {missing[:3]}, {len(extra)} extra {extra[:3]}, "
                              f"{len(shapes)} of another shape {shapes[:3]}", where=str(where),
                              fix="use the config.yaml the weights were trained with")
    forecaster.load_state_dict(dict(weights))
