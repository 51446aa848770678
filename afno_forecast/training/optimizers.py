"""Muon for matrices and kernels, AdamW for the rest, behind one object; and the running average of weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from ..config import Strict
from ..distributed import Axis, divide, is_sharded, own_share, shared_like, whole
from ..nn.backbone import muon_parameters
from .schedule import Shape

DecayRate = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Strict):
    """Muon and AdamW with their shared schedule."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of both."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay of both, per unit of learning rate."""
    muon: bool = True
    """Muon for matrices and kernels; false gives AdamW for all."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Muon's momentum (Nesterov)."""
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.99)
    """AdamW's decay rates."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient."""
    warmup: float = Field(default=0.04, ge=0, lt=1)
    """Share of the budget over which the learning rate rises from zero."""
    schedule: Shape = "linear"
    """After that: linear and cosine fall to zero at the end; constant stays; plateau falls when validations no longer get better."""
    patience: int = Field(default=1, ge=0)
    """For plateau: validations without a new best that are borne; the next one lowers the learning rate."""
    factor: float = Field(default=0.5, gt=0, lt=1)
    """For plateau: what the learning rate is multiplied by."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> OptimizerConfig:
        fields = type(self).model_fields
        if self.schedule != "plateau" and any(getattr(self, name) != fields[name].default for name in ("patience", "factor")):
            raise ValueError("patience and factor do nothing without schedule: plateau")
        if not self.muon and self.momentum != fields["momentum"].default:
            raise ValueError("momentum does nothing without muon: AdamW's are the betas")
        return self


# Quintic Newton-Schulz iteration with the coefficients of K. Jordan et al., "Muon: an optimizer for hidden layers" (2024):
# singular values of order one are driven to about 1, not exactly to 1.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5


def orthogonalize(matrix: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrix, roughly: singular values between about 0.7 and 1.2.

    Args:
        matrix: (..., rows, columns), float32.

    Returns:
        The same shape, float32.
    """
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _NEWTON_SCHULZ
    # x_k = p_k ... p_1 x_0 with p_k a polynomial of the gram matrix of x_(k-1): only the small side is iterated, x is touched twice.
    identity = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    gram = x @ x.mT
    product = polynomial = a * identity + b * gram + c * gram @ gram
    for _ in range(_NUM_ITERATIONS - 1):
        gram = polynomial @ gram @ polynomial
        polynomial = a * identity + b * gram + c * gram @ gram
        product = polynomial @ product
    result: Tensor = (product @ x).mT if tall else product @ x
    return result


class Muon(Optimizer):
    """Momentum, orthogonalised: each matrix or kernel moves by a semi-orthogonal update of root mean square 0.2.

    Kernels (out, in, kh, kw) are taken as matrices (out, in * kh * kw). The update is scaled by 0.2 sqrt(max(rows, columns)), so that
    AdamW's learning rate and weight decay carry over (Liu et al. 2025, arXiv 2502.16982). torch's own Muon takes matrices only.

    Args:
        params: matrices and kernels.
        lr, momentum, weight_decay: see `OptimizerConfig`.
        world: processes with copies of the same weights and gradients; each orthogonalises its share of them and sends it to the others.
    """

    def __init__(self, params: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float, world: Axis | None = None) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._world = world or Axis("world")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; the gradient then holds the orthogonalised update."""
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            copies = [p for p in moving if not is_sharded(p)]
            owners = divide([_cost(p) for p in copies], self._world.size)
            others = {p for p, owner in zip(copies, owners, strict=True) if owner != self._world.rank}
            for parameter in moving:
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                if parameter not in others:
                    update = whole(parameter.grad.lerp(momentum, group["momentum"])).flatten(1)
                    parameter.grad.copy_(shared_like(orthogonalize(update).view(parameter.shape), parameter))
            self._world.from_owners_([p.grad for p in copies], owners, "orthogonalised updates")
            for parameter in moving:
                scale = 0.2 * math.sqrt(max(parameter.shape[0], parameter[0].numel()))
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(parameter.grad, alpha=-group["lr"] * scale)


def _cost(parameter: nn.Parameter) -> float:
    """Of orthogonalising it, in products of numbers."""
    small, large = sorted((parameter.shape[0], parameter[0].numel()))
    return float(small * small * (2 * large + 3 * _NUM_ITERATIONS * small))


class Optimizers:
    """Muon and AdamW stepping together, with one learning rate.

    Args:
        module: whose parameters they move.
        config: how.
        world: the processes that all move the same parameters; alone by default.
    """

    def __init__(self, module: nn.Module, config: OptimizerConfig, world: Axis | None = None) -> None:
        self.config = config
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        matrices = muon_parameters(module)[0] if config.muon else []
        rest = [name for name in named if name not in set(matrices)]
        self.names = {"muon": [n for n in named if n in set(matrices)], "adamw": rest}
        self._all = list(named.values())
        self._parts: dict[str, Optimizer] = {}
        if matrices:
            self._parts["muon"] = Muon([named[n] for n in self.names["muon"]], lr=0.0, momentum=config.momentum,
                                       weight_decay=config.weight_decay, world=world)
        if rest:
            decayed = [n for n in rest if named[n].ndim > 1 and n.rpartition(".")[2].startswith("weight")]
            plain = [n for n in rest if n not in set(decayed)]  # biases, norms, and the slopes and offsets of the spectral gate
            self.names["adamw"] = decayed + plain
            groups = [{"params": [named[n] for n in names], "weight_decay": decay} for names, decay in ((decayed, config.weight_decay), (plain, 0.0))]
            self._parts["adamw"] = AdamW([g for g in groups if g["params"]], lr=0.0, betas=config.betas)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for part in self._parts.values():
            part.zero_grad(set_to_none=True)

    def clip(self) -> Tensor:
        """Scale the whole gradient to at most the configured norm; returns the norm before."""
        return whole(nn.utils.clip_grad_norm_(self._all, self.config.clip))

    def step(self, learning_rate: float) -> None:
        """One update of every parameter."""
        for part in self._parts.values():
            for group in part.param_groups:
                group["lr"] = learning_rate
            part.step()

    def _tensors(self) -> dict[str, tuple[Optimizer, nn.Parameter, str]]:
        found = {}
        for kind, part in self._parts.items():
            parameters = [p for group in part.param_groups for p in group["params"]]
            keys = ("momentum",) if kind == "muon" else ("step", "exp_avg", "exp_avg_sq")
            for name, parameter in zip(self.names[kind], parameters, strict=True):
                for key in keys:
                    found[f"{kind}/{key}/{name}"] = (part, parameter, key)
        return found

    def state_bytes(self) -> int:
        """Of all state once the first step is made, over all processes."""
        per_parameter = {"muon": 1, "adamw": 2}
        return sum(per_parameter[kind] * p.numel() * p.element_size() for kind, part in self._parts.items()
                   for group in part.param_groups for p in group["params"])

    def state_dict(self) -> dict[str, Tensor]:
        """All state as flat named tensors, as this process holds them; empty before the first step."""
        return {label: part.state[p][key] for label, (part, p, key) in self._tensors().items() if key in part.state[p]}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        for label, (part, parameter, key) in self._tensors().items():
            if label in tensors:
                value = tensors[label].clone()
                part.state[parameter][key] = value if key == "step" else shared_like(value, parameter)  # AdamW counts its steps on the CPU


class WeightAverage:
    """Exponential moving average of all floating parameters (EMA), warmed up as (1 + n) / (10 + n)."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.average = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's weights."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        named = dict(module.named_parameters())
        torch._foreach_lerp_([own_share(a) for a in self.average.values()], [own_share(named[name].detach()) for name in self.average], 1 - decay)

    @contextlib.contextmanager
    def in_place(self, module: nn.Module) -> Iterator[None]:
        """The module with the averaged weights for the time of the context; exchanged, so nothing is held twice."""
        self._exchange(module)
        try:
            yield
        finally:
            self._exchange(module)

    @torch.no_grad()
    def _exchange(self, module: nn.Module) -> None:
        for name, parameter in module.named_parameters():
            ours, theirs = own_share(self.average[name]), own_share(parameter)
            kept = theirs.clone()
            theirs.copy_(ours)
            ours.copy_(kept)
