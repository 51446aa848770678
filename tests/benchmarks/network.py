"""Networks side by side: time of a forward pass and of a training step, and peak memory; and how the mixer scales with tokens.

    OMP_NUM_THREADS=1 python tests/benchmarks/network.py --size small --json network.json

Every repeat times each network once, in turn, so that a change in the machine's load meets all of them; what counts are the
ratios within one run. With one thread the processor's time of this process is measured, with more the clock. Networks:

reference    FourCastNet's network written plainly, below: what the public codes compute, the way they compute it
physicsnemo  PhysicsNeMo's AFNO, where it is installed, with the same weights
legacy       ours, the same weights, outputs equal to 1e-5
plain        ours, the default mixer with all modes, the same sizes
attention    ours, scaled-dot-product attention as the mixer
fno, sfno    neuraloperator's, where it is installed, on the full grid

PhysicsNeMo's AFNO needs neither a GPU nor most of what the package asks for:

    pip install --no-deps nvidia-physicsnemo==2.2.2 jaxtyping wadler-lindig
    pip install requests

and neuraloperator: `pip install --no-deps neuraloperator==2.0.0 tensorly tensorly-torch opt-einsum torch-harmonics==0.8.0`; a
network whose package is missing is left out with a line. With `--bfloat16` the difference is that of the outputs under autocast from
the base's in float32. The full size takes minutes a pass: `--size full --memory-only` runs each once, in a process of its own.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from afno_forecast.nn.backbone import PlainConfig, build_backbone, set_checkpointing
from afno_forecast.nn.legacy import build
from afno_forecast.nn.mixers import MIXERS, MixerOptions

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"grid": (32, 64), "patch": 4, "embed_dim": 128, "depth": 2, "batch": 2},
    "small": {"grid": (64, 128), "patch": 4, "embed_dim": 256, "depth": 6, "batch": 4},
    "medium": {"grid": (128, 256), "patch": 4, "embed_dim": 384, "depth": 8, "batch": 1},
    "full": {"grid": (720, 1440), "patch": 8, "embed_dim": 768, "depth": 12, "batch": 1},
}
CHANNELS = 20
NETWORKS = ("reference", "physicsnemo", "legacy", "plain", "attention", "fno", "sfno")
TOKEN_GRIDS = ((32, 32), (32, 64), (64, 64), (64, 128), (90, 180), (128, 256), (180, 360))


def legacy_config(size: str) -> dict[str, Any]:
    """The configuration of `legacy.build` at one of the sizes."""
    sizes = {key: value for key, value in SIZES[size].items() if key != "batch"}
    return {"in_channels": CHANNELS, "out_channels": CHANNELS, "num_blocks": 8, "mlp_ratio": 4.0, "hard_thresholding_fraction": 1.0,
            "sparsity_threshold": 0.01, "double_skip": True, **sizes}


# ---- the plain reference: the published algorithm, step by step


class ReferenceFilter(nn.Module):
    """The spectral layer with full-size buffers and one product for each real and imaginary part."""

    def __init__(self, dim: int, num_blocks: int, fraction: float, threshold: float) -> None:
        super().__init__()
        width = dim // num_blocks
        self.num_blocks, self.fraction, self.threshold = num_blocks, fraction, threshold
        self.w1, self.w2 = (nn.Parameter(0.02 * torch.randn(2, num_blocks, width, width)) for _ in range(2))
        self.b1, self.b2 = (nn.Parameter(0.02 * torch.randn(2, num_blocks, width)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Input plus mixed input, (B, H, W, C)."""
        batch, rows, columns, channels = x.shape
        z = torch.fft.rfft2(x.float(), dim=(1, 2), norm="ortho").reshape(batch, rows, columns // 2 + 1, self.num_blocks, -1)
        middle = rows // 2 + 1
        count = int(middle * self.fraction)
        kept = (slice(None), slice(middle - count, middle + count), slice(0, count))
        hidden_real, hidden_imag, out_real, out_imag = (torch.zeros(z.shape, device=x.device) for _ in range(4))

        def product(a: Tensor, w: Tensor) -> Tensor:
            return torch.einsum("byxgi,gio->byxgo", a, w)

        real, imag = z.real[kept], z.imag[kept]
        hidden_real[kept] = torch.relu(product(real, self.w1[0]) - product(imag, self.w1[1]) + self.b1[0])
        hidden_imag[kept] = torch.relu(product(imag, self.w1[0]) + product(real, self.w1[1]) + self.b1[1])
        real, imag = hidden_real[kept], hidden_imag[kept]
        out_real[kept] = product(real, self.w2[0]) - product(imag, self.w2[1]) + self.b2[0]
        out_imag[kept] = product(imag, self.w2[0]) + product(real, self.w2[1]) + self.b2[1]
        shrunk = nn.functional.softshrink(torch.stack([out_real, out_imag], -1), self.threshold)
        spectrum = torch.view_as_complex(shrunk).reshape(batch, rows, columns // 2 + 1, channels)
        return torch.fft.irfft2(spectrum, s=(rows, columns), dim=(1, 2), norm="ortho").to(x.dtype) + x


class ReferenceBlock(nn.Module):
    """Norm, filter, skip, norm, MLP, skip."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        dim = config["embed_dim"]
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(2))
        self.filter = ReferenceFilter(dim, config["num_blocks"], config["hard_thresholding_fraction"], config["sparsity_threshold"])
        hidden = int(dim * config["mlp_ratio"])
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)})

    def forward(self, x: Tensor) -> Tensor:
        """Tokens, (B, H, W, C)."""
        x = self.filter(self.norm1(x)) + x
        return self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm2(x)))) + x


class ReferenceNetwork(nn.Module):
    """The whole network, under the published names of its weights."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        dim, patch = config["embed_dim"], config["patch"]
        self.patch, self.out_channels = patch, config["out_channels"]
        self.tokens = tuple(n // patch for n in config["grid"])
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(config["in_channels"], dim, patch, stride=patch)})
        self.pos_embed = nn.Parameter(torch.zeros(1, self.tokens[0] * self.tokens[1], dim))
        self.blocks = nn.ModuleList(ReferenceBlock(config) for _ in range(config["depth"]))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, self.out_channels * patch**2, bias=False)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H, W)."""
        tokens = self.patch_embed["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed
        tokens = tokens.reshape(x.shape[0], *self.tokens, -1)
        for block in self.blocks:
            tokens = block(tokens)
        cells = self.head(tokens).unflatten(-1, (self.patch, self.patch, self.out_channels))
        return cells.permute(0, 5, 1, 3, 2, 4).reshape(x.shape[0], self.out_channels, *x.shape[-2:])


# ---- the networks by name


def physicsnemo_afno() -> type[nn.Module] | None:
    """PhysicsNeMo's AFNO loaded without the rest of its package; None where it is not installed."""
    found = importlib.util.find_spec("physicsnemo")
    if found is None or found.origin is None:
        return None
    root = Path(found.origin).parent
    for name in ("physicsnemo", "physicsnemo.core", "physicsnemo.models", "physicsnemo.models.afno", "physicsnemo.nn", "physicsnemo.nn.module"):
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    if importlib.util.find_spec("s3fs") is None:
        sys.modules["s3fs"] = types.ModuleType("s3fs")
    layers = importlib.import_module("physicsnemo.nn.module.afno_layers")
    for name in ("AFNO2DLayer", "AFNOMlp", "AFNOPatchEmbed"):
        setattr(sys.modules["physicsnemo.nn"], name, getattr(layers, name))
    found_class: type[nn.Module] = importlib.import_module("physicsnemo.models.afno.afno").AFNO
    return found_class


def make(name: str, size: str, weights: dict[str, Tensor]) -> nn.Module | None:
    """A network by name; None where its package is missing."""
    config = legacy_config(size)
    if name == "reference":
        network = ReferenceNetwork(config)
        network.load_state_dict(weights)
        return network
    if name == "physicsnemo":
        found = physicsnemo_afno()
        if found is None:
            return None
        network = found(list(config["grid"]), CHANNELS, CHANNELS, [config["patch"]] * 2, config["embed_dim"], config["depth"], 4.0, 0.0, 8)
        network.load_state_dict({key: value for key, value in weights.items() if not key.startswith("norm.")})
        return network
    if name == "legacy":
        return build(config, weights)
    if name in ("plain", "attention"):
        plain = PlainConfig(patch=(config["patch"],) * 2, width=config["embed_dim"], depth=config["depth"], num_blocks=8,
                            mixer="afno" if name == "plain" else "attention")
        return build_backbone(plain, CHANNELS, CHANNELS, "sphere")
    if importlib.util.find_spec("neuralop") is None:
        return None
    models = importlib.import_module("neuralop.models")
    kind = getattr(models, name.upper(), None)  # SFNO is there with torch-harmonics alone
    return None if kind is None else kind(n_modes=(32, 32), in_channels=CHANNELS, out_channels=CHANNELS, hidden_channels=64, n_layers=4)


def make_all(names: list[str], size: str, weights: dict[str, Tensor]) -> dict[str, nn.Module]:
    """The networks whose packages are there; a line for each that is left out."""
    made = {name: make(name, size, weights) for name in names}
    for name, network in made.items():
        if network is None:
            print(f"{name} is left out: its package is not installed, see --help")
    return {name: network for name, network in made.items() if network is not None}


def training_step(network: nn.Module, optimizer: torch.optim.Optimizer, state: Tensor, autocast: bool) -> None:
    """Forward, mean square, backward, update."""
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = network(state).float().square().mean()
    loss.backward()
    optimizer.step()


def forward_pass(network: nn.Module, state: Tensor, autocast: bool) -> Tensor:
    """Output without gradients."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out: Tensor = network(state)
        return out


def clock() -> float:
    """Seconds of the processor with one thread, else of the clock."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def interleaved(runs: dict[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each run in each repeat; every repeat runs all of them in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(-warm_up, repeats):
        for name, run in runs.items():
            start = clock()
            run()
            if repeat >= 0:
                seconds[name].append(clock() - start)
    return seconds


def median_ratio(seconds: dict[str, list[float]], over: str, under: str) -> float:
    """Median over the repeats of the ratio within a repeat."""
    return statistics.median(a / b for a, b in zip(seconds[over], seconds[under], strict=True))


def setup(size: str) -> tuple[dict[str, Tensor], Tensor]:
    """The weights that the legacy networks share, and a state."""
    torch.manual_seed(0)
    weights = ReferenceNetwork(legacy_config(size)).state_dict()
    return weights, torch.randn(SIZES[size]["batch"], CHANNELS, *SIZES[size]["grid"])


def compare(size: str, names: list[str], repeats: int, *, train: bool, autocast: bool) -> dict[str, Any]:
    """Times of all networks at one size, medians and ratios to the first of them."""
    weights, state = setup(size)
    networks = make_all(names, size, weights)
    outputs = {name: forward_pass(network, state, False) for name, network in networks.items()}
    base = "physicsnemo" if "physicsnemo" in networks else next(iter(networks))
    kinds: dict[str, dict[str, Callable[[], object]]] = {
        "forward": {name: (lambda n=network: forward_pass(n, state, autocast)) for name, network in networks.items()}}
    if train:
        optimizers = {name: torch.optim.AdamW(network.parameters(), lr=1e-6, fused=not any(p.is_complex() for p in network.parameters()))
                      for name, network in networks.items()}
        kinds["training step"] = {name: (lambda n=network, o=optimizers[name]: training_step(n, o, state, autocast))
                                  for name, network in networks.items()}
    result: dict[str, Any] = {"base": base, "difference": {}}
    for name in ("reference", "physicsnemo", "legacy"):
        if name in networks:
            low = forward_pass(networks[name], state, autocast).float()
            result["difference"][name] = ((low - outputs[base]).norm() / outputs[base].norm()).item()
    for kind, runs in kinds.items():
        seconds = interleaved(runs, repeats)
        result[kind] = {name: {"seconds": statistics.median(values), "times_faster": median_ratio(seconds, base, name)}
                        for name, values in seconds.items()}
    return result


def peak_memory(size: str, names: list[str], *, train: bool) -> dict[str, Any]:
    """MiB above the network and its input, whole GiB of the process, and seconds of one pass, each in a process of its own."""
    found: dict[str, Any] = {}
    checkpointed = [f"{name} checkpointed" for name in ("legacy", "plain") if name in names]
    for name in [*names, *checkpointed]:
        for kind in ("forward", "training step") if train else ("forward",):
            if name in checkpointed and kind == "forward":
                continue
            command = [sys.executable, __file__, "--size", size, "--child", name, kind]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            if done.stdout.strip():
                found.setdefault(name, {})[kind] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def child(size: str, name: str, kind: str) -> None:
    """Print what one pass of a network takes as JSON; nothing where its package is missing."""
    weights, state = setup(size)
    network = make(name.split()[0], size, weights)
    if network is None:
        return
    set_checkpointing(network, "checkpointed" in name)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before, start = peak_mib(), clock()
    if kind == "forward":
        forward_pass(network, state, False)
    else:
        network(state).square().mean().backward()
    finite = kind == "forward" or all(parameter.grad.isfinite().all() for parameter in network.parameters())
    print(json.dumps({"seconds": clock() - start, "MiB": peak_mib() - before, "process GiB": peak_mib() / 1024, "finite": bool(finite)}))


def peak_mib() -> float:
    """Peak resident memory of this process in MiB (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def scaling(repeats: int, most_attention: int) -> list[dict[str, Any]]:
    """Forward seconds of one mixer, width 256, by number of tokens; attention up to `most_attention` tokens."""
    rows = []
    mixers = {name: MIXERS[name](MixerOptions(dim=256, num_blocks=8)) for name in ("afno", "attention")}
    for grid in TOKEN_GRIDS:
        tokens = torch.randn(1, *grid, 256)
        chosen = {name: mixer for name, mixer in mixers.items() if name == "afno" or grid[0] * grid[1] <= most_attention}
        runs = {name: (lambda m=mixer, t=tokens: forward_pass(m, t, False)) for name, mixer in chosen.items()}
        seconds = interleaved(runs, repeats)
        rows.append({"tokens": grid[0] * grid[1], **{name: statistics.median(values) for name, values in seconds.items()}})
    return rows


def machine() -> dict[str, Any]:
    """What was measured on."""
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "unknown")
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("nvidia-physicsnemo", "neuraloperator"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {"processor": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "load": os.getloadavg()[0],
            "capability": torch.backends.cpu.get_cpu_capability(), "versions": versions, "date": datetime.date.today().isoformat()}


def report(size: str, result: dict[str, Any], memory: dict[str, Any]) -> None:
    """Print one size as a table."""
    print(f"\n{size}: {SIZES[size]}, {CHANNELS} channels" + (f"; times faster than {result['base']}" if result else "; one pass each"))
    kinds = [kind for kind in ("forward", "training step") if kind in result or any(kind in found for found in memory.values())]
    print(f"{'network':<22}" + "".join(f"{kind + ' ms':>18}{'faster':>8}{'MiB':>8}" for kind in kinds) + f"{'difference':>12}")
    for name in dict.fromkeys([*result.get("forward", {}), *memory]):
        cells = ""
        for kind in kinds:
            row, once = result.get(kind, {}).get(name), memory.get(name, {}).get(kind)
            cells += f"{(row or once)['seconds'] * 1e3:>18.1f}" if row or once else " " * 18
            cells += (f"{row['times_faster']:>8.2f}" if row else " " * 8) + (f"{once['MiB']:>8.0f}" if once else " " * 8)
        difference = result.get("difference", {}).get(name)
        print(f"{name:<22}{cells}" + (f"{difference:>12.1e}" if difference is not None else ""))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=SIZES, help="repeatable; small and medium by default")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-train", action="store_true")
    memory_options = parser.add_mutually_exclusive_group()
    memory_options.add_argument("--no-memory", action="store_true")
    memory_options.add_argument("--memory-only", action="store_true", help="one pass of each, nothing side by side")
    parser.add_argument("--bfloat16", action="store_true", help="under autocast")
    parser.add_argument("--scaling", action="store_true", help="the mixer from 1k to 65k tokens")
    parser.add_argument("--most-attention", type=int, default=16200, help="most tokens for attention in --scaling")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = options.size or ["small", "medium"]
    if options.child:
        child(sizes[0], *options.child)
        return
    everything: dict[str, Any] = {"machine": machine(), "bfloat16": options.bfloat16, "sizes": {}}
    print(json.dumps(everything["machine"]))
    for size in sizes:
        result = {} if options.memory_only else compare(size, options.networks, options.repeats, train=not options.no_train,
                                                        autocast=options.bfloat16)
        memory = {} if options.no_memory else peak_memory(size, options.networks, train=not options.no_train)
        everything["sizes"][size] = {**result, "peak MiB": memory}
        report(size, result, memory)
    if options.scaling:
        everything["scaling"] = scaling(options.repeats, options.most_attention)
        for row in everything["scaling"]:
            print(f"{row['tokens']:>8} tokens  afno {row['afno'] * 1e3:>9.1f} ms" + (
                f"  attention {row['attention'] * 1e3:>9.1f} ms, {row['attention'] / row['afno']:.0f} times" if "attention" in row else ""))
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
