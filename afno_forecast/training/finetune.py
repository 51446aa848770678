"""A forecaster that starts from the weights of another model, also of other channels or another grid, and says what it took, what it did not, and
under which other settings the weights were learnt.

Weights are taken by name where their shapes are equal. In the first and the last layer of our networks, and in the direct map from inputs to outputs,
they are taken channel by channel, by the channels' names: a channel that is new keeps the weights it was drawn with. The statistics are never taken:
they are those of the new data.
"""

# T history, C channel, F forcing, N noise channel

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .. import model_folder
from ..channels import ChannelSet
from ..errors import CheckpointError
from ..forecaster import Forecaster, ModelConfig
from ..nn.backbone import HierarchicalConfig, PlainConfig
from ..times import format_duration

_FIRST = ("backbone.stem.conv.weight", "backbone.stem.linear.weight")
_LAST = ("backbone.head.conv.weight", "backbone.head.conv.bias", "backbone.head.linear.weight", "backbone.head.linear.bias", "backbone.direct.bias")
_BOTH = ("backbone.direct.weight",)
_OVER_CELLS = ("backbone.stem.linear.weight", "backbone.head.linear.weight", "backbone.head.linear.bias", "backbone.recover.linear.weight",
               "backbone.recover.linear.bias")


def start_from(forecaster: Forecaster, config: ModelConfig, folder: Path) -> list[str]:
    """Take the weights of a model folder that fit, in place; returns what was and was not taken and what means something else now, in
    words, one line each.

    Args:
        forecaster: freshly drawn.
        config: its configuration.
        folder: of the other model; its hashes are checked.

    Raises:
        CheckpointError: the folder is damaged, or nothing of it fits.
    """
    model_folder.check_manifest(folder, model_folder.FILES)
    other, inputs = model_folder.read_model_config(folder), model_folder.read_inputs(folder)
    weights = _read(folder / model_folder.WEIGHTS)
    ours, theirs = network_inputs(forecaster.channels, config), network_inputs(inputs.channels, other)
    outs, their_outs = forecaster.channels.names, inputs.channels.names
    moved = _cells_of_a_patch(config) != _cells_of_a_patch(other)
    whole: list[str] = []
    partly: list[str] = []
    left: list[str] = []
    with torch.no_grad():
        for name, parameter in forecaster.named_parameters():
            given = weights.pop(name, None)
            if given is not None and moved and name in _OVER_CELLS:
                left.append(f"{name}, over other cells of a patch")
            elif given is not None and name in _FIRST and _by_channel(parameter, given, ours, theirs, first=True):
                (whole if ours == theirs else partly).append(name)
            elif given is not None and name in _LAST and _by_channel(parameter, given, outs, their_outs, first=False):
                (whole if outs == their_outs else partly).append(name)
            elif given is not None and name in _BOTH:
                _by_both(parameter, given, (outs, their_outs), (ours, theirs))
                (whole if ours == theirs and outs == their_outs else partly).append(name)
            elif given is not None and name not in (*_FIRST, *_LAST) and given.shape == parameter.shape:
                parameter.copy_(given)
                whole.append(name)
            else:
                left.append(f"{name} {tuple(parameter.shape)}" + ("" if given is None else f", there {tuple(given.shape)}"))
    if not whole and not partly:
        raise CheckpointError("none of the weights fits this network", where=str(folder), fix="use the backbone of that model's config.yaml")
    unused = [name for name in weights if not name.startswith("normalizer.")]
    return [f"starting from {folder}: {len(whole)} of {len(whole) + len(partly) + len(left)} tensors taken whole, {len(partly)} channel by channel",
            *_told("drawn anew, as they do not fit", left), *_told("of the other model, not used", unused),
            *_told("inputs that are new to the weights", [n for n in ours if n not in theirs]),
            *_told("inputs of the other model that are gone", [n for n in theirs if n not in ours]),
            *_told("outputs that are new to the weights", [n for n in outs if n not in their_outs]),
            *_other_meaning(_meaning(config, forecaster.channels, forecaster.time_steps), _meaning(other, inputs.channels, inputs.time_steps)),
            f"statistics of the new data are used; the grid was {inputs.grid.describe()}, and is {forecaster.grid.describe()}"]


def _cells_of_a_patch(config: ModelConfig) -> object:
    """What the rows of a network's first and last matrix stand for beside channels."""
    network = config.backbone
    return (network.weights_patch or network.patch, network.overlap) if isinstance(network, PlainConfig) else None


def _meaning(config: ModelConfig, channels: ChannelSet, time_steps: Sequence[int]) -> dict[str, object]:
    """Settings under which the same weights mean something else, by name, each written one way."""
    network, constraints = config.backbone, config.constraints
    settings: dict[str, object] = {
        "predicts": config.predicts, "vector_parity": config.vector_parity, "time_steps": tuple(map(format_duration, time_steps)),
        **{f"constraints.{kind}": channels.select(sorted({channels.names[channels.index(name)] for name in names})).shorts
           for kind, names in (("nonnegative", constraints.nonnegative), ("conserved", constraints.conserved))},
        **{f"backbone.{f.name}": getattr(network, f.name) for f in fields(network) if f.name != "conditions"}}  # which follow from the time steps
    if isinstance(network, PlainConfig):
        settings["backbone.weights_patch"] = network.weights_patch or network.patch
    if isinstance(network, HierarchicalConfig):
        settings["backbone.residual_blocks"] = network.residual_blocks_of_levels
    return settings


def _other_meaning(ours: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    """Where settings differ that both models have."""
    return [f"  made for {name} {_shown(theirs[name])}, now {_shown(now)}" for name, now in ours.items() if name in theirs and now != theirs[name]]


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"the weights cannot be read: {error}", where=str(path), fix="copy the folder again") from error


def network_inputs(channels: ChannelSet, config: ModelConfig) -> tuple[str, ...]:
    """Names of what a network reads, in its order; the newest state of a history is `at 0`."""
    past = [f"{name} at {age}" for age in range(config.history - 1, -1, -1) for name in channels.names]
    carried = [f"{name} carried by {wind[0]}" for wind in config.advected_by for name in channels.names]
    return (*past, *config.static, *config.forcings, *(f"noise of {length:g} km" for length in config.noise_lengths_km), *carried)


def _by_channel(parameter: Tensor, given: Tensor, ours: Sequence[str], theirs: Sequence[str], *, first: bool) -> bool:
    """Copy the channels that both have; False, and nothing copied, when they differ in anything but channels."""
    mine, other = (_channels_first(t, len(names), first) for t, names in ((parameter, ours), (given, theirs)))
    if mine is None or other is None or mine.shape[1:] != other.shape[1:]:
        return False
    both = [(i, theirs.index(name)) for i, name in enumerate(ours) if name in theirs]
    for i, j in both:
        mine[i].copy_(other[j])
    return bool(both)


def _by_both(parameter: Tensor, given: Tensor, outs: tuple[Sequence[str], Sequence[str]], inputs: tuple[Sequence[str], Sequence[str]]) -> None:
    """Copy the entries of a matrix (outputs, inputs) whose output and input both models have: (our names, their names) of each."""
    for i, out in enumerate(outs[0]):
        for j, name in enumerate(inputs[0]):
            if out in outs[1] and name in inputs[1]:
                parameter[i, j] = given[outs[1].index(out), inputs[1].index(name)]


def _channels_first(tensor: Tensor, count: int, first: bool) -> Tensor | None:
    """A view with the channels of the data as its first axis: of a kernel, or of a matrix over the cells of a patch, channels last."""
    if tensor.ndim == 4:
        view = tensor.transpose(0, 1) if first else tensor
        return view if len(view) == count else None
    long = tensor.mT if first else tensor
    if len(long) % count:
        return None
    return long.unflatten(0, (-1, count)).transpose(0, 1)  # type: ignore[no-untyped-call,no-any-return]


def _told(what: str, names: Sequence[str]) -> list[str]:
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return [f"  {what}: {shown}"] if names else []
