"""Norm and MLP of a block over tokens in pieces that stay in cache, with a backward pass that keeps little.

The library's way holds the normed tokens, the hidden values and their GELU for the backward pass, ten times the tokens' size for
a ratio of 4; this one holds the tokens and the hidden values, five times, or the tokens alone, and computes the rest again piece
by piece.

Axes: N token, D channel, F hidden channel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .scratch import scratch

_PIECE_ELEMENTS = 2**20


def norm_mlp(x: Tensor, norm: nn.LayerNorm, first: nn.Linear, second: nn.Linear, *, residual: Tensor | None = None,
             keep_hidden: bool = True, overwrite: bool = False) -> Tensor:
    """residual + second(gelu(first(norm(x)))).

    Args:
        x: tokens (..., D).
        norm, first, second: the layers; they have biases.
        residual: what is added, the shape of `x`; `x` itself by default.
        keep_hidden: keep the hidden values for the backward pass instead of computing them again.
        overwrite: the caller owns `x` and needs it no more; without a backward pass the result is written over it.

    Returns:
        (..., D) in the type of `x`; under autocast the matrix products run in its type.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    weights = (norm.weight, norm.bias, first.weight, first.bias, second.weight, second.bias)
    if torch.compiler.is_compiling():  # a compiler cuts the work for its device, and decides by itself what to keep
        mixed: Tensor = second(nn.functional.gelu(first(norm(x))))
        return (x if residual is None else residual) + mixed.to(x.dtype)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *weights)):
        out: Tensor = _NormMLP.apply(x, residual, norm.eps, dtype, keep_hidden, *weights)  # type: ignore[no-untyped-call]
        return out
    x_ND = x.flatten(0, -2)
    out_ND = x_ND if overwrite else torch.empty_like(x_ND)
    _forward(out_ND, x_ND, None if residual is None else residual.flatten(0, -2), weights, norm.eps, dtype, None)
    return out_ND.view_as(x)


def _pieces(num_tokens: int, num_hidden: int) -> list[slice]:
    size = max(_PIECE_ELEMENTS // num_hidden, 256)
    return [slice(start, min(start + size, num_tokens)) for start in range(0, num_tokens, size)]


def _forward(out_ND: Tensor, x_ND: Tensor, residual_ND: Tensor | None, weights: tuple[Tensor, ...], eps: float, dtype: torch.dtype,
             hidden_NF: Tensor | None) -> None:
    """Write the result to `out_ND`, which may be `x_ND` itself, and the hidden values to `hidden_NF`."""
    gamma, beta, first_FD, first_bias, second_DF, second_bias = weights
    first_FD, first_bias, second_DF = (w.to(dtype) for w in (first_FD, first_bias, second_DF))
    residual_ND = x_ND if residual_ND is None else residual_ND
    num_hidden = first_FD.shape[0]
    pieces = _pieces(x_ND.shape[0], num_hidden)
    with torch.autocast(x_ND.device.type, enabled=False):
        for piece in pieces:
            active = scratch("mlp active", (piece.stop - piece.start, num_hidden), x_ND, dtype)
            normed = nn.functional.layer_norm(x_ND[piece], gamma.shape, gamma, beta, eps).to(dtype)
            hidden = torch.addmm(first_bias, normed, first_FD.t(), out=active if hidden_NF is None else hidden_NF[piece])
            torch.ops.aten.gelu.out(hidden, out=active)
            out = out_ND[piece]
            torch.add(residual_ND[piece], second_bias, out=out)
            _add_product(out, active, second_DF.t())


class _NormMLP(torch.autograd.Function):
    """Takes and gives tokens (..., D): a result that is a view would forbid what is done with it in place, and sharded weights refuse it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, eps: float, dtype: torch.dtype, keep_hidden: bool, *weights: Tensor) -> Tensor:
        x_ND, out = x.flatten(0, -2), torch.empty(x.shape, dtype=x.dtype, device=x.device)
        hidden = x_ND.new_empty(x_ND.shape[0], len(weights[3]), dtype=dtype) if keep_hidden else None
        _forward(out.flatten(0, -2), x_ND, None if residual is None else residual.flatten(0, -2), weights, eps, dtype, hidden)
        ctx.save_for_backward(x, hidden, *weights[:-1])
        ctx.eps, ctx.dtype, ctx.own_residual = eps, dtype, residual is None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden_NF, gamma, beta, first_FD, first_bias, second_DF = ctx.saved_tensors
        dtype, shape = ctx.dtype, list(gamma.shape)
        x_ND, gradient_ND = x.flatten(0, -2), gradient.contiguous().flatten(0, -2)
        first, bias, second = (w.to(dtype) for w in (first_FD, first_bias, second_DF))
        x_gradient_ND = torch.empty_like(x_ND)
        sums = [torch.zeros_like(w) for w in (gamma, beta, first_FD, first_bias, second_DF)]
        gamma_sum, beta_sum, first_sum, bias_sum, second_sum = sums
        pieces = _pieces(x_ND.shape[0], len(first))
        for piece in pieces:
            one, two = (scratch(name, (piece.stop - piece.start, len(first)), x_ND, dtype) for name in ("mlp active", "mlp gradient"))
            normed, mean, deviation = torch.native_layer_norm(x_ND[piece], shape, gamma, beta, ctx.eps)
            low = normed.to(dtype)
            hidden = torch.addmm(bias, low, first.t()) if hidden_NF is None else hidden_NF[piece]
            above = gradient_ND[piece].to(dtype)
            _add_product(second_sum, above.t(), torch.ops.aten.gelu.out(hidden, out=one))
            torch.mm(above, second, out=one)
            hidden_gradient = torch.ops.aten.gelu_backward.grad_input(one, hidden, grad_input=two)
            _add_product(first_sum, hidden_gradient.t(), low)
            bias_sum += hidden_gradient.sum(0, dtype=bias_sum.dtype)
            below = (hidden_gradient @ first).to(x_ND.dtype)
            part, gamma_part, beta_part = torch.ops.aten.native_layer_norm_backward(
                below, x_ND[piece], shape, mean, deviation, gamma, beta, [True, True, True])
            gamma_sum += gamma_part
            beta_sum += beta_part
            if ctx.own_residual:
                torch.add(part, gradient_ND[piece], out=x_gradient_ND[piece])
            else:
                x_gradient_ND[piece] = part
        return (x_gradient_ND.view_as(x), None if ctx.own_residual else gradient, None, None, None, *sums, gradient_ND.sum(0))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
