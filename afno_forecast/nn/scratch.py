"""Memory that a thread uses again.

On a CPU fresh memory costs its page faults, several times what an elementwise operation costs; so what a layer needs only while it
runs lies in buffers that belong to the thread. What is in a buffer is lost when the same name is asked for again.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

_kept = threading.local()


def scratch(name: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised tensor of a shape on the device of `like`, in its type by default; on a CPU the memory of that name.

    Not for what a graph keeps for its backward pass, nor for what a caller is given.
    """
    dtype = dtype or like.dtype
    if not _can_be_kept(like):
        return torch.empty(shape, dtype=dtype, device=like.device)
    buffers: dict[tuple[str, torch.dtype], Tensor] = _kept.__dict__.setdefault("buffers", {})
    size = math.prod(shape)
    kept = buffers.get((name, dtype))
    if kept is None or kept.numel() < size:
        with torch.inference_mode(False):
            kept = buffers[name, dtype] = torch.empty(size, dtype=dtype)
    return kept[:size].view(shape)


def lent(name: str, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
    """`scratch` as the `out` of an operation where nothing is kept for a backward pass; None, a fresh result, where gradients are on."""
    return None if torch.is_grad_enabled() or not _can_be_kept(like) else scratch(name, shape, like)


def _can_be_kept(like: Tensor) -> bool:
    return like.device.type == "cpu" and type(like) in (Tensor, torch.nn.Parameter) and not torch.compiler.is_compiling()
