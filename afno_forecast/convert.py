"""Published AFNO weights become a model folder: FourCastNet's `backbone.ckpt` and state dicts of PhysicsNeMo's AFNO.

The only module that opens a torch checkpoint, and only as tensors (`weights_only=True`): a file that holds code is refused.

FourCastNet works on the 0.25 degree grid of ERA5 without its last row: of the 721 latitudes from 90 to -90 the row on the south
pole is left out, so that 720 rows divide into patches of 8. The model folder says so in its grid (720 rows, canonical order
-89.75 to 90), and data with 721 rows are refused with the row named; nothing is cut off in silence. The networks read latitude
from north to south and predict the whole normalised state six hours later, not its change.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from . import __version__, model_folder, vocabulary
from .channels import Channel, ChannelSet
from .config import Strict, dump_config
from .errors import CheckpointError, ConfigError, DataError
from .forecaster import ModelConfig, ModelInputs, build_forecaster
from .grid import LatLonGrid
from .nn.legacy import LegacyConfig, build, published_names
from .times import STANDARD, format_duration

FOURCASTNET_20 = ("u10", "v10", "t2m", "sp", "msl", "t850", "u1000", "v1000", "z1000", "u850", "v850", "z850", "u500", "v500", "z500", "t500", "z50",
                  "r500", "r850", "tcwv")
"""Channels of FourCastNet's published weights, in their order: winds m s-1, temperatures K, pressures Pa, geopotential m2 s-2 (not metres),
relative humidity %, total column water vapour kg m-2. All as in ERA5."""
FOURCASTNET_26 = (*FOURCASTNET_20, "u100m", "v100m", "u250", "v250", "z250", "t250")
"""Channels of the later weights with 26 channels; `u100m` and `v100m` are the winds 100 m above ground, m s-1."""
CHANNEL_LISTS = {"fourcastnet20": FOURCASTNET_20, "fourcastnet26": FOURCASTNET_26}
_STATE_KEYS = ("model_state", "model_state_dict", "state_dict")
_DAMAGED = (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError)


@dataclass(frozen=True)
class Published:
    """What a checkpoint does not say of itself.

    Args:
        channels: names in the order of the weights, or one of the keys of `CHANNEL_LISTS`.
        grid: rows and columns; the rows are those of a grid with one row more and both poles, less the south pole.
        time_step: seconds.
        fraction: share of the modes kept, `hard_thresholding_fraction`.
        shrink: soft-shrink threshold, `sparsity_threshold`.
        double_skip: whether there is a skip around the mixer.
    """

    channels: tuple[str, ...]
    grid: tuple[int, int] = (720, 1440)
    time_step: int = 21600
    fraction: float = 1.0
    shrink: float = 0.01
    double_skip: bool = True


class Conversion(Strict):
    """`config.yaml` of a converted model."""

    name: str
    """Names the model in files and titles."""
    kind: Literal["converted"] = "converted"
    """Not trained here."""
    checkpoint: str
    """Name of the file that was converted."""
    checkpoint_sha256: str
    """Its hash."""
    model: ModelConfig
    """The network."""


def convert(checkpoint: Path, out: Path, published: Published, *, means: Path, stds: Path, echo: Callable[[str], None] = print) -> Path:
    """Make a model folder of published weights.

    Args:
        checkpoint: FourCastNet's `.ckpt`, or a state dict saved by torch.
        out: model folder to make; must not exist.
        published: channels, grid and options.
        means, stds: `.npy` with a number for each channel, physical units, such as FourCastNet's `global_means.npy`.
        echo: prints a line.

    Returns:
        `out`.

    Raises:
        CheckpointError: the file holds more than tensors, is damaged, or does not fit the network; what differs is named.
        ConfigError: a channel is unknown, or `out` exists.
        DataError: means or stds do not fit.
    """
    out = Path(out)
    if out.exists():
        raise ConfigError("the model folder exists", where=str(out), fix="give another --out, or remove it first")
    channels = channel_set(published.channels)
    weights = published_names(read_state_dict(checkpoint))
    config = network_config(weights, published, len(channels), checkpoint)
    network_weights = _checked(config, weights, len(channels), checkpoint)
    inputs = _inputs(channels, published, read_statistic(means, channels, echo), read_statistic(stds, channels, echo), stds)
    model = ModelConfig(history=1, forcings=(), static=(), predicts="state", backbone=config)
    forecaster = build_forecaster(model, inputs)
    own = forecaster.state_dict()
    own |= {f"backbone.network.{name}": value for name, value in network_weights.items()}
    name = out.name
    conversion = Conversion(name=name, checkpoint=Path(checkpoint).name, checkpoint_sha256=model_folder.sha256(Path(checkpoint)), model=model)
    model_folder.save(out, config_text=dump_config(conversion), inputs=inputs, weights=own, card=_card(conversion, inputs, forecaster))
    rows, columns = published.grid
    echo(f"{out}: {sum(v.numel() for v in network_weights.values()):,} parameters, {len(channels)} channels, {inputs.grid.describe()}")
    echo(f"note: the south-pole row is no part of this model's grid; give analyses on {rows}x{columns} cells, without the row at latitude -90")
    return out


def channel_set(names: Sequence[str]) -> ChannelSet:
    """Channels with canonical names and units. Raises ConfigError for a name outside the vocabulary."""
    if len(names) == 1:
        names = CHANNEL_LISTS.get(names[0], names)
    channels = []
    for name in names:
        variable, level = vocabulary.split_name(name)
        known = vocabulary.BY_NAME.get(variable)
        if known is None or known.on_levels != (level is not None):
            raise ConfigError(f"unknown channel '{name}'", where="--channels", fix=f"use {', '.join(CHANNEL_LISTS)}, or names such as z500,t2m,u10")
        channels.append(Channel(variable, level, known.units))
    return ChannelSet(tuple(channels))


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, in float32. Raises CheckpointError when it holds code, is damaged, or holds no network."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("there is no such checkpoint", where=str(path), fix="give the file of the published weights")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)  # what it cannot read, it refuses
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(f"the checkpoint is not plain tensors and was not opened: {_first_words(error)}", where=str(path),
                              fix="get the weights from their publisher as a plain state dict; a file that holds code is never run") from error
    except _DAMAGED as error:
        raise CheckpointError(f"the checkpoint cannot be read: {_first_words(error)}", where=str(path), fix="download it again") from error
    if isinstance(loaded, Mapping):
        loaded = next((loaded[key] for key in _STATE_KEYS if key in loaded), loaded)
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise CheckpointError("the checkpoint holds no state dict", where=str(path), fix=f"give weights by name, or under {', '.join(_STATE_KEYS)}")
    return {str(name): value.float() if value.is_floating_point() else value for name, value in loaded.items()}


def _first_words(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def network_config(weights: Mapping[str, torch.Tensor], published: Published, num_channels: int, where: Path) -> LegacyConfig:
    """Sizes of the network, from the shapes of its weights. Raises CheckpointError when they are not those of an AFNO."""
    fix = "only FourCastNet's backbone and PhysicsNeMo's AFNO can be converted"
    try:
        kernel, first, table = weights["patch_embed.proj.weight"], weights["blocks.0.filter.w1"], weights["pos_embed"]
        hidden = weights["blocks.0.mlp.fc1.weight"].shape[0]
        embed_dim, in_channels, *patch = kernel.shape
        out_channels = weights["head.weight"].shape[0] // (patch[0] * patch[1])
        depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        num_blocks, num_tokens, mlp_ratio = first.shape[1], table.shape[1], hidden / embed_dim
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"this is no AFNO: {_first_words(error)} is missing or of another shape", where=str(where), fix=fix) from error
    if in_channels != out_channels or in_channels != num_channels:
        raise CheckpointError(f"the network reads {in_channels} channels and gives {out_channels}; {num_channels} are named", where=str(where),
                              fix=f"give --channels with {in_channels} names" if in_channels == out_channels else fix)
    rows, columns = published.grid
    if rows % patch[0] or columns % patch[1] or (rows // patch[0]) * (columns // patch[1]) != num_tokens:
        raise CheckpointError(f"the position table has {num_tokens:,} patches of {patch[0]}x{patch[1]} cells, not {rows}x{columns} cells",
                              where=str(where), fix="give the grid of the weights, for example --grid 720x1440")
    try:
        return LegacyConfig(kind="legacy", grid=published.grid, patch=(patch[0], patch[1]), embed_dim=embed_dim, depth=depth, num_blocks=num_blocks,
                            mlp_ratio=mlp_ratio, hard_thresholding_fraction=published.fraction, sparsity_threshold=published.shrink,
                            double_skip=published.double_skip)
    except ValueError as error:
        raise CheckpointError(f"this is no AFNO: {error}", where=str(where), fix=fix) from error


def _checked(config: LegacyConfig, weights: Mapping[str, torch.Tensor], num_channels: int, where: Path) -> dict[str, torch.Tensor]:
    spoilt = [name for name, value in weights.items() if not bool(torch.isfinite(value).all())]
    if spoilt:
        raise CheckpointError(f"weights of {', '.join(spoilt[:3])}{' and more' * (len(spoilt) > 3)} are not finite", where=str(where),
                              fix="download it again")
    options = {key: getattr(config, key) for key in ("grid", "patch", "embed_dim", "depth", "num_blocks", "mlp_ratio", "hard_thresholding_fraction",
                                                     "sparsity_threshold", "double_skip")}
    try:
        return build({"in_channels": num_channels, "out_channels": num_channels, **options}, weights).state_dict()
    except ValueError as error:
        raise CheckpointError(str(error), where=str(where), fix="only FourCastNet's backbone and PhysicsNeMo's AFNO can be converted") from error


def read_statistic(path: Path, channels: ChannelSet, echo: Callable[[str], None]) -> NDArray[np.float64]:
    """A number for each channel, shape (C,). More numbers than channels are told to `echo`; the first are used. Raises DataError."""
    fix = "give .npy files with a number for each channel, such as global_means.npy and global_stds.npy"
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"not an array of numbers: {_first_words(error)}", where=str(path), fix=fix) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.size != max(array.shape, default=0) or array.size < len(channels):
        found = f"shape {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise DataError(f"{found} does not hold a number for each of {len(channels)} channels", where=str(path), fix=fix)
    values = array.reshape(-1).astype(np.float64)
    if len(values) > len(channels):
        echo(f"note: {path} holds {len(values)} numbers; the first {len(channels)} are those of {channels.shorts[0]} to {channels.shorts[-1]}")
    return values[:len(channels)]


def _inputs(channels: ChannelSet, published: Published, mean: NDArray[np.float64], std: NDArray[np.float64], where: Path) -> ModelInputs:
    bad = [name for name, m, s in zip(channels.shorts, mean, std, strict=True) if not np.isfinite([m, s]).all() or s <= 0]
    if bad:
        raise DataError(f"mean or standard deviation of {', '.join(bad)} is not usable", where=str(where), fix="give the statistics of the weights")
    rows, columns = published.grid
    latitude = -90.0 + 180.0 / rows * np.arange(1, rows + 1, dtype=np.float64)  # of rows + 1 with both poles, without the south pole
    grid = LatLonGrid(latitude, 360.0 / columns * np.arange(columns, dtype=np.float64))
    unknown = np.full(len(channels), np.nan)
    return ModelInputs(channels, grid, STANDARD, published.time_step, mean, std, unknown, {}, {"source": "converted weights"})


def _card(conversion: Conversion, inputs: ModelInputs, forecaster: torch.nn.Module) -> str:
    rows, columns = inputs.grid.shape
    return "\n".join([
        f"# {conversion.name}", "",
        f"Published weights of FourCastNet's network, converted with afno_forecast {__version__}: "
        f"{sum(p.numel() for p in forecaster.parameters()):,} parameters, steps of {format_duration(inputs.time_step)}.", "",
        f"- from `{conversion.checkpoint}`, sha256 {conversion.checkpoint_sha256}; the licence of the weights is their publisher's",
        f"- grid: {rows}x{columns} cells, latitude {inputs.grid.to_dict()['latitude'][0]:g} to 90; the row on the south pole is no part of it",
        "- predicts the normalised state one step later",
        f"- channels: {', '.join(f'{c.short} [{c.units}]' for c in inputs.channels)}", "",
        "## Use", "`afno-forecast rollout THIS_FOLDER --data STORE --init last --lead-time 10d --out forecast.zarr`", ""])
