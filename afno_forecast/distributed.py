"""The only user of torch.distributed: processes, the mesh they form, and collectives that autograd understands.

Everything works the same with one process and no launcher: then nothing is ever sent. A program of several processes is one big
computation in which every process holds its own copy of the weights; a collective's gradient is its exact transpose, so that each
process' `backward` gives the derivative of the sum of all processes' losses by its own copy, and the mean over all copies is the gradient.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .errors import ConfigError, ForecastError, ResourceError

_TIMEOUT = timedelta(minutes=10)
_BUCKET_BYTES = 32 << 20
_LOST = ("gloo", "Connection closed", "Connection reset", "Broken pipe", "NCCL", "nccl", "Socket", "recvValue", "timed out")
_stores: list[Any] = []  # the store of the session, through which one process claims to tell why all end
_claims: list[bool] = []  # of this process, where all end together


@dataclass(frozen=True)
class Place:
    """Which of the launched processes this one is.

    Args:
        rank: 0 <= rank < world_size.
        world_size: number of processes.
        local_rank: number among the processes of this machine; chooses the GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """Where this process stands, from torchrun's variables or, under `srun`, from SLURM's. Raises ConfigError when they are no numbers."""
    for rank, size, local in (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")):
        if rank in environment and size in environment:
            try:
                return Place(int(environment[rank]), int(environment[size]), int(environment.get(local, 0)))
            except ValueError as error:
                raise ConfigError(f"{rank}, {size} and {local} must be numbers: {error}", fix="start with torchrun, or unset them") from error
    return Place()


def first_host(nodes: str) -> str:
    """The first name of a SLURM node list: `gpu[07-09,12],login1` -> `gpu07`."""
    match = re.match(r"([^\[,]+)(?:\[(\w+))?", nodes)
    return "".join(part for part in match.groups() if part) if match else "localhost"


def _slurm_address(environment: Mapping[str, str]) -> dict[str, str]:
    """Rendezvous of `srun` without torchrun: the first node, a port that follows from the job's number."""
    job = int(re.sub(r"\D", "", environment.get("SLURM_JOB_ID", "")) or 0)
    return {"MASTER_ADDR": first_host(environment.get("SLURM_JOB_NODELIST", "localhost")), "MASTER_PORT": str(20000 + job % 20000)}


@contextlib.contextmanager
def session(rendezvous: str = "env://") -> Iterator[Place]:
    """Connect the launched processes for the time of the context; with one process, or within another session, nothing happens.

    Args:
        rendezvous: where they meet: `env://` (torchrun, srun) or `file://PATH?rank=R&world_size=N`.

    Raises:
        ForecastError: another process ended. Of all messages of all processes, `first_to_tell` lets one through.
    """
    here = place()
    if dist.is_initialized() or (rendezvous == "env://" and here.world_size == 1):
        yield here
        return
    try:
        yield _connect(rendezvous, here)
    except ForecastError as error:
        if error.everywhere:
            _claims.append(first_to_tell())
            with contextlib.suppress(RuntimeError):  # another process was killed meanwhile
                dist.barrier()
            dist.destroy_process_group()
        raise
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or any(word in str(error) for word in _LOST)):
            raise
        where = f"told by process {here.rank} of {here.world_size}"
        raise ForecastError("another process of this training has ended or cannot be reached", where=where,
                            fix="see what the others say; run the same command with --resume to go on from the last checkpoint") from error
    dist.destroy_process_group()  # not after an error: the others learn of it when this process, having told why, is gone
    _stores.clear()


def _connect(rendezvous: str, here: Place) -> Place:
    if rendezvous == "env://":
        known = {"RANK": str(here.rank), "WORLD_SIZE": str(here.world_size), **_slurm_address(os.environ)}
        os.environ.update({name: value for name, value in known.items() if name not in os.environ})
    store, rank, world_size = next(iter(dist.rendezvous(rendezvous)))  # type: ignore[attr-defined]
    store.set_timeout(_TIMEOUT)
    _stores.append(dist.PrefixStore("afno_forecast/told", store))  # type: ignore[attr-defined]
    if torch.cuda.is_available():
        torch.cuda.set_device(here.local_rank)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    shared = dist.PrefixStore("afno_forecast/group", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=shared, rank=rank, world_size=world_size, timeout=_TIMEOUT)
    return Place(rank, world_size, here.local_rank)


def first_to_tell() -> bool:
    """Whether this process is the one that says why the program ends: true once among all processes, always true alone."""
    if _claims:
        return _claims[-1]
    if not _stores:
        return True
    try:
        return int(_stores[-1].add("count", 1)) == 1
    except RuntimeError:
        return place().rank == 1  # process 0, which kept the count, is gone without a word


@dataclass(frozen=True, eq=False)
class Axis:
    """One named dimension of the mesh, as this process sees it.

    Args:
        name: data, spatial, block, or world for all processes.
        size: number of processes along it.
        rank: this process' place.
        group: torch's process group; None when alone.
        traffic: bytes this process has sent to others, by purpose.
    """

    name: str
    size: int = 1
    rank: int = 0
    group: Any = None
    traffic: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.size > 1:  # only here: to say what a compiler leaves alone imports the compiler, which takes seconds
            for name in ("_exchange", "_sum"):
                object.__setattr__(self, name, torch.compiler.disable(getattr(self, name)))  # type: ignore[no-untyped-call]

    def exchange(self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], purpose: str) -> list[Tensor]:
        """Send `parts[j]` to process j and receive a tensor of `shapes[i]` from each process i; differentiable.

        Args:
            parts: one for each process of the axis, of one dtype; may be empty tensors.
            shapes: what arrives from each.
            purpose: under which the bytes sent are counted.
        """
        if self.size == 1:
            return [parts[0].reshape(tuple(shapes[0]))]
        return self._exchange(parts, shapes, purpose)

    def _exchange(self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], purpose: str) -> list[Tensor]:
        send, receive = [p.numel() for p in parts], [_count(s) for s in shapes]
        flat = torch.cat([p.reshape(-1) for p in parts])
        arrived: Tensor = _Exchange.apply(flat, self, send, receive, purpose)  # type: ignore[no-untyped-call]
        return [piece.view(tuple(shape)) for piece, shape in zip(torch.split(arrived, receive), shapes, strict=True)]

    def exchange_all(self, part: Tensor) -> list[Tensor]:
        """Every process' tensor, all of one shape, in the order of ranks."""
        arrived: list[Tensor] = self.exchange([part] * self.size, [part.shape] * self.size, "states")
        return arrived

    def gather(self, part: Tensor, shapes: Sequence[Sequence[int]], dim: int, purpose: str) -> Tensor:
        """The parts of all processes, joined along a dimension, on every process; differentiable."""
        return torch.cat(self.exchange([part] * self.size, shapes, purpose), dim)

    def sum(self, value: Tensor, purpose: str) -> Tensor:
        """The sum of all processes' values, on every process; differentiable."""
        return value if self.size == 1 else self._sum(value, purpose)

    def _sum(self, value: Tensor, purpose: str) -> Tensor:
        total: Tensor = _Sum.apply(value, self, purpose)  # type: ignore[no-untyped-call]
        return total

    def mean_(self, tensors: Sequence[Tensor], purpose: str) -> None:
        """Replace each tensor by the mean over all processes, in pieces of some megabytes. Not differentiable."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([t.reshape(-1) for t in bucket])
            self._all_reduce(flat, purpose)
            flat /= self.size
            for tensor, mean in zip(bucket, torch.split(flat, [t.numel() for t in bucket]), strict=True):
                tensor.copy_(mean.view_as(tensor))

    def from_owners_(self, tensors: Sequence[Tensor], owners: Sequence[int], purpose: str) -> None:
        """Replace each tensor by that of the process that owns it; all of one dtype and device, and of one shape everywhere. Not differentiable."""
        if self.size == 1 or not tensors:
            return
        held = [[t for t, owner in zip(tensors, owners, strict=True) if owner == rank] for rank in range(self.size)]
        flat = torch.cat([tensors[0].new_empty(0), *(t.reshape(-1) for t in held[self.rank])])
        arrived = self.exchange([flat] * self.size, [(sum(t.numel() for t in part),) for part in held], purpose)
        for part, values in zip(held, arrived, strict=True):
            for tensor, value in zip(part, torch.split(values, [t.numel() for t in part]), strict=True):
                tensor.copy_(value.view_as(tensor))

    def numbers(self, values: Sequence[float]) -> list[float]:
        """The sum over all processes of each number, on the CPU."""
        if self.size == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64)
        self._all_reduce(summed, "numbers")
        return [float(v) for v in summed]

    def texts(self, text: str) -> list[str]:
        """Every process' text, in the order of ranks."""
        if self.size == 1:
            return [text]
        own = torch.frombuffer(bytearray(text.encode()) or bytearray(1), dtype=torch.uint8)[: len(text.encode())]
        lengths = [int(n) for n in self.numbers([float(len(own) if r == self.rank else 0) for r in range(self.size)])]
        return [bytes(part.tolist()).decode() for part in self.exchange([own] * self.size, [(n,) for n in lengths], "texts")]

    def together(self, work: Callable[[], Any]) -> list[Any]:
        """What the work of each process gives (values of JSON), in the order of ranks. Where it fails on one, all raise its ResourceError."""
        if self.size == 1:
            return [work()]
        cause = None
        try:
            mine = {"given": work()}
        except ResourceError as error:
            cause, mine = error, {"failed": {"what": error.what, "where": error.where, "fix": error.fix}}
        told = [json.loads(text) for text in self.texts(json.dumps(mine))]
        for failed in (one["failed"] for one in told if "failed" in one):
            same = ResourceError(**failed)
            same.everywhere = True
            raise same from cause
        return [one["given"] for one in told]

    def from_first(self, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor] | None:
        """The named tensors of process 0, on the CPU of every process; None where it has none. Others give None."""
        if self.size == 1:
            return None if tensors is None else dict(tensors)
        kinds = None if tensors is None else {k: [str(t.dtype).removeprefix("torch."), list(t.shape)] for k, t in tensors.items()}
        kinds = json.loads(self.texts(json.dumps(kinds) if self.rank == 0 else "")[0])
        if kinds is None:
            return None
        arrived = {}
        for name, (dtype, shape) in kinds.items():
            value = tensors[name].contiguous() if tensors is not None else torch.empty(shape, dtype=getattr(torch, dtype))
            dist.broadcast(value, group=self.group, group_src=0)
            arrived[name] = value
        return arrived

    def _all_reduce(self, tensor: Tensor, purpose: str) -> None:
        self.traffic[purpose] += 2 * tensor.numel() * tensor.element_size() * (self.size - 1) // self.size
        dist.all_reduce(tensor, group=self.group)

    def _all_to_all(self, flat: Tensor, send: list[int], receive: list[int], purpose: str) -> Tensor:
        arrived = flat.new_empty(sum(receive))
        self.traffic[purpose] += (sum(send) - send[self.rank]) * flat.element_size()
        dist.all_to_all_single(arrived, flat.contiguous(), receive, send, group=self.group)
        return arrived


def _count(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())


def divide(costs: Sequence[float], count: int) -> list[int]:
    """Which of `count` processes does each piece of work, so that all do about as much: the costliest first, each to the least busy."""
    owners, busy = [0] * len(costs), [0.0] * count
    for number in sorted(range(len(costs)), key=lambda n: -costs[n]):
        owners[number] = busy.index(min(busy))
        busy[owners[number]] += costs[number]
    return owners


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one dtype and device together, up to some megabytes, in order."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size >= _BUCKET_BYTES or (tensor.dtype, tensor.device) != (bucket[0].dtype, bucket[0].device)):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
    if bucket:
        yield bucket


class _Exchange(torch.autograd.Function):
    """All-to-all; its transpose sends everything back."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, axis: Axis, send: list[int], receive: list[int], purpose: str) -> Tensor:
        ctx.axis, ctx.send, ctx.receive, ctx.purpose = axis, send, receive, purpose
        return axis._all_to_all(flat, send, receive, purpose)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.axis._all_to_all(gradient, ctx.receive, ctx.send, f"{ctx.purpose}, backward"), None, None, None, None


class _Sum(torch.autograd.Function):
    """All-reduce; it is its own transpose."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, axis: Axis, purpose: str) -> Tensor:
        ctx.axis, ctx.purpose = axis, purpose
        total = value.clone(memory_format=torch.contiguous_format)
        axis._all_reduce(total, purpose)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        ctx.axis._all_reduce(total, f"{ctx.purpose}, backward")
        return total, None, None


@dataclass(frozen=True, eq=False)
class Mesh:
    """All processes as a box with three named dimensions, block varying fastest.

    Args:
        data: each holds other samples.
        spatial: each holds other rows.
        block: each computes other blocks of channels.
        world: all of them.
        device_mesh: all of them, as torch names it for fully sharded weights; None when alone.
    """

    data: Axis = field(default_factory=lambda: Axis("data"))
    spatial: Axis = field(default_factory=lambda: Axis("spatial"))
    block: Axis = field(default_factory=lambda: Axis("block"))
    world: Axis = field(default_factory=lambda: Axis("world"))
    device_mesh: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.world.rank == 0


def world_size() -> int:
    """Number of connected processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def make_mesh(data: int, spatial: int, block: int) -> Mesh:
    """The mesh of the connected processes; all of them must call it. Raises ConfigError unless data x spatial x block is their number."""
    count = world_size()
    if data * spatial * block != count:
        raise ConfigError(f"data {data} x spatial {spatial} x block {block} is {data * spatial * block} processes, but {count} were started",
                          where="training.parallel", fix=f"start {data * spatial * block} processes, or leave out data to use as many as there are")
    if not dist.is_initialized():
        return Mesh()
    from torch.distributed.device_mesh import init_device_mesh

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    named = {"data": data, "spatial": spatial, "block": block}
    box = init_device_mesh(kind, tuple(named.values()), mesh_dim_names=tuple(named))
    axes = {name: Axis(name, size, box.get_local_rank(name), box.get_group(name)) for name, size in named.items()}
    world = Axis("world", count, dist.get_rank(), dist.group.WORLD)
    return Mesh(**axes, world=world, device_mesh=init_device_mesh(kind, (count,)))


def shard_weights(parts: Iterable[nn.Module], root: nn.Module, mesh: Mesh) -> None:
    """Let every process hold a share of each weight, its gradient and its optimiser state (torch's `fully_shard`).

    Args:
        parts: modules whose weights are gathered just before they run and let go after.
        root: the module that holds them all.
        mesh: over all of whose processes the weights are divided; gradients are the mean over them.
    """
    from torch.distributed.fsdp import fully_shard

    for part in parts:
        fully_shard(part, mesh=mesh.device_mesh)
    fully_shard(root, mesh=mesh.device_mesh)


def own_share(tensor: Tensor) -> Tensor:
    """What this process holds of a sharded tensor; any other tensor itself."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def share_of(tensor: Tensor) -> tuple[Tensor, int | None]:
    """What this process holds of a tensor, and the row of the whole at which it begins; None where nothing is divided."""
    if not is_sharded(tensor):
        return tensor, None
    mesh, rows = tensor.device_mesh, len(tensor)  # type: ignore[attr-defined]
    return own_share(tensor), min(rows, mesh.get_local_rank() * -(-rows // mesh.size()))  # as torch divides: all but the last alike


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is divided among processes."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered on every process (all must call it); any other tensor itself."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def shared_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same on all processes, divided as another one is; on its device."""
    if not is_sharded(like):
        return tensor.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]
