"""The house plan, held to account: the table of afno_forecast/README.md and the fixed rules, read from the imports of every module."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "afno_forecast"
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")
STDLIB = sys.stdlib_module_names

# Each room's layer and the third-party packages it may import; torch in data/ is for loader.py alone (tested below).
NAMED = {"numpy", "xarray", "cftime"}
LAYERS: dict[str, tuple[int, set[str]]] = {
    "errors": (0, set()), "signals": (0, set()), "vocabulary": (0, set()), "documents": (0, {"yaml"}), "faults": (0, {"pydantic", "pydantic_core"}),
    "config": (0, {"yaml", "pydantic", "pydantic_core"}),
    "grid": (1, NAMED), "times": (1, NAMED), "nn": (1, {"torch"}), "losses": (1, {"torch"}), "distributed": (1, {"torch"}),
    "channels": (2, NAMED | {"torch"}), "forcing": (2, NAMED | {"torch"}), "normalize": (2, NAMED | {"torch"}),
    "sphere": (2, {"numpy"}), "noise": (2, {"numpy", "torch"}), "constraints": (2, {"torch", "pydantic"}),
    "advection": (2, {"numpy", "torch"}),
    "data": (3, NAMED | {"torch", "dask", "zarr", "netCDF4", "cfgrib", "eccodes", "h5py", "pydantic", "numcodecs", "google_crc32c",
             "distributed", "dask_jobqueue"}),
    "forecaster": (3, {"torch", "numpy", "pydantic"}), "diagnostic": (3, {"torch", "pydantic"}),
    "model_folder": (4, NAMED | {"torch", "safetensors", "yaml", "pydantic"}), "model_summary": (4, {"numpy", "xarray"}),
    "forecast": (4, NAMED | {"torch", "zarr", "netCDF4", "numcodecs", "google_crc32c"}), "verify": (4, NAMED | {"torch", "netCDF4", "zarr"}),
    "training": (5, {"torch", "safetensors", "numpy", "xarray", "tqdm", "pydantic", "mlflow"}),
    "plot": (5, NAMED | {"matplotlib", "mpl_toolkits", "cartopy", "shapely", "PIL", "imageio_ffmpeg"}),
    "experiment": (6, NAMED | {"torch", "pydantic"}), "convert": (6, {"torch", "numpy", "pydantic"}),
    "demo": (6, NAMED | {"torch"}), "doctor": (6, set()),
    "cli": (7, {"click"}), "cli_data": (7, {"click"}), "cli_plot": (7, {"click"}), "cli_rollout": (7, {"click"}),
    "__main__": (7, set()), "cli_options": (7, {"click"}), "cli_exit": (7, {"click"}), "cli_launch": (7, set()),
    "cli_open": (7, NAMED | {"netCDF4"}),
}
# One layer down is the rule; within a layer only these look at a neighbour. There is no cycle (tested below).
NEIGHBOURS = {
    ("documents", "errors"), ("faults", "documents"), ("faults", "errors"), ("config", "documents"), ("config", "faults"), ("config", "errors"),
    ("constraints", "channels"), ("noise", "sphere"), ("advection", "channels"), ("advection", "sphere"), ("diagnostic", "forecaster"),
    ("demo", "experiment"),
    ("forecast", "model_folder"), ("model_summary", "model_folder"), ("verify", "forecast"),
}
# What may exceed 50 lines or 9 arguments, and up to where: a loop to be read as a whole, what a user chooses by name, a section of a file.
LONGER_FUNCTIONS = {"training/train.py fit": 56}
MORE_ARGUMENTS = {"nn/afno.py __init__": 11, "nn/mixers.py MixerOptions": 11, "nn/config.py BlockConfig": 18, "data/loader.py Delivery": 10,
                  "forecaster.py __init__": 10, "forecast/session.py open_session": 10, "forecast/produce.py Options": 10,
                  "training/checkpoint.py Progress": 11}
FORBIDDEN_NAMES = ("utils", "util", "helpers", "helper", "common", "base", "manager", "misc")


def room(path: Path) -> str:
    """`nn` for afno_forecast/nn/afno.py, `grid` for afno_forecast/grid.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, *, at_import_time: bool = False) -> Iterator[str]:
    """Dotted names of what a module imports; with `at_import_time` without imports inside functions and for types only."""
    stack: list[ast.AST] = [tree(path)]
    while stack:
        node = stack.pop()
        if at_import_time and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                               or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parts = ("afno_forecast", *path.relative_to(PACKAGE).parts[:-1])
                module = ".".join((*parts[: len(parts) - node.level + 1], *([module] if module else [])))
            yield from (f"{module}.{alias.name}" for alias in node.names)
        stack.extend(ast.iter_child_nodes(node))


def own(name: str) -> str | None:
    """The room of the package that an import names; None for another package, or the package's own facts such as its version."""
    parts = name.split(".")
    return parts[1] if parts[0] == "afno_forecast" and len(parts) > 1 and not parts[1].startswith("__") else None


def outside(path: Path, *, at_import_time: bool = False) -> set[str]:
    return {n.split(".")[0] for n in imports(path, at_import_time=at_import_time)} - STDLIB - {"afno_forecast"}


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_has_a_room(path: Path):
    assert room(path) in LAYERS, f"{name_of(path)} is in no row of afno_forecast/README.md"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path: Path):
    here = room(path)
    layer = LAYERS[here][0]
    for used in {r for n in imports(path) if (r := own(n))}:
        assert used in LAYERS, f"{name_of(path)} imports {used}, which has no room"
        allowed = used == here or LAYERS[used][0] < layer or (here, used) in NEIGHBOURS or layer == 7
        assert allowed, f"{name_of(path)} (layer {layer}) imports {used} (layer {LAYERS[used][0]})"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_packages_of_the_table_are_used(path: Path):
    extra = outside(path) - LAYERS[room(path)][1]
    assert not extra, f"{name_of(path)} imports {sorted(extra)}; the table allows {sorted(LAYERS[room(path)][1])}"


def test_the_table_of_the_house_has_a_row_for_every_room():
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    rows = {(int(m[1]), name.rstrip("/").removesuffix(".py")) for m in re.finditer(r"^\| (\d) \| ([^|]+)\|", text, re.MULTILINE)
            for name in re.findall(r"`([^`]+)`", m[2])}
    for path in MODULES:
        here = room(path)
        if not here.startswith("cli_"):  # named in the row of cli.py
            assert (LAYERS[here][0], here) in rows, f"afno_forecast/README.md has no row '| {LAYERS[here][0]} | `{here}`'"
    for path in PACKAGE.glob("cli_*.py"):
        assert f"`{path.name}`" in text


def test_networks_know_nothing_of_weather():
    for path in [*PACKAGE.glob("nn/*.py"), *PACKAGE.glob("losses.py")]:
        assert outside(path) <= {"torch"}, name_of(path)
        assert {r for n in imports(path) if (r := own(n))} <= {"nn", "losses"}, name_of(path)


def test_maps_never_import_torch():
    for path in PACKAGE.glob("plot/*.py"):
        used = {r for n in imports(path) if (r := own(n))} - {"plot"}
        assert all(LAYERS[r][0] <= 1 for r in used) and not used & {"nn", "losses", "distributed"}, f"{name_of(path)} imports {sorted(used)}"
        assert "torch" not in outside(path), name_of(path)


def test_torch_is_in_the_loader_only_of_the_data_room():
    for path in PACKAGE.glob("data/*.py"):
        assert "torch" not in outside(path) or path.name == "loader.py", name_of(path)


def test_what_needs_no_torch_does_not_import_it():
    for name in ("model_folder", "model_summary", "channels"):
        assert "torch" not in outside(PACKAGE / f"{name}.py", at_import_time=True), name


def test_commands_import_click_alone():
    for path in PACKAGE.glob("cli*.py"):
        if path.name != "cli_open.py":
            assert outside(path, at_import_time=True) <= {"click"}, name_of(path)
            used = {r for n in imports(path, at_import_time=True) if (r := own(n))}
            assert used <= {"errors", "signals", "cli", "cli_data", "cli_exit", "cli_options", "cli_plot", "cli_rollout"}, name_of(path)


def test_only_one_room_touches_torch_distributed():
    for path in MODULES:
        if room(path) != "distributed":
            assert not any(n.startswith("torch.distributed") for n in imports(path)), name_of(path)
            assert "torch.distributed" not in path.read_text(encoding="utf-8"), name_of(path)


def test_there_are_no_cycles():
    uses: dict[str, set[str]] = {}
    names = {".".join(("afno_forecast", *p.relative_to(PACKAGE).with_suffix("").parts)): p for p in MODULES}
    for name, path in names.items():
        uses[name] = {k for n in imports(path, at_import_time=True) for k in (n, n.rpartition(".")[0]) if k in names}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name):], name))
        if name not in done:
            for used in sorted(uses[name]):
                visit(used, (*trail, name))
            done.add(name)

    for name in names:
        visit(name, ())


@pytest.mark.parametrize("path", sorted(p for p in PACKAGE.rglob("*") if "__pycache__" not in p.parts), ids=name_of)
def test_no_room_for_odds_and_ends(path: Path):
    assert not set(re.split(r"[_.]", path.name.lower())) & set(FORBIDDEN_NAMES)


def _calls(path: Path) -> Iterator[ast.Call]:
    return (n for n in ast.walk(tree(path)) if isinstance(n, ast.Call))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_unpickled_or_evaluated(path: Path):
    used = {n.split(".")[0] for n in imports(path) if n != "pickle.UnpicklingError"}  # the name of what loading raises
    assert not used & {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for call in _calls(path):
        text = ast.unparse(call.func)
        assert text not in ("eval", "exec", "compile", "__import__"), f"{name_of(path)}:{call.lineno} {text}"
        assert text not in ("torch.load", "torch.save") or name_of(path) == "convert.py", f"{name_of(path)}:{call.lineno} {text}"
        assert not text.endswith("yaml.load") and text != "yaml.unsafe_load", f"{name_of(path)}:{call.lineno} {text}"
        given = {word.arg: word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)}
        assert text != "torch.load" or given.get("weights_only") is True, f"{name_of(path)}:{call.lineno} torch.load without weights_only"
        assert given.get("allow_pickle") is not True, f"{name_of(path)}:{call.lineno} allow_pickle=True"
        assert given.get("strict") is not False or text == "zip", f"{name_of(path)}:{call.lineno} strict=False"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_error_is_swallowed_wholesale(path: Path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = [ast.unparse(e) for e in (node.type.elts if isinstance(node.type, ast.Tuple) else [node.type] if node.type else [])]
            assert caught, f"{name_of(path)}:{node.lineno} bare except"
            assert not set(caught) & {"Exception", "BaseException"}, f"{name_of(path)}:{node.lineno} {caught}"


def test_functions_are_short(record_property):
    sizes = []
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                sizes.append((_lines(node), f"{name_of(path)}:{node.lineno} {node.name}"))
    too_long = [f"{where} has {size} lines" for size, where in sizes if size > LONGER_FUNCTIONS.get(re.sub(r":\d+", "", where), 50)]
    assert not too_long, too_long
    short = sum(size < 40 for size, _ in sizes) / len(sizes)
    record_property("functions_under_40_lines", f"{short:.1%}")
    print(f"{short:.1%} of {len(sizes)} functions have under 40 lines (aim 95%); the longest: {max(sizes)[1]}, {max(sizes)[0]} lines")
    assert short >= 0.95


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _arguments(node: ast.AST) -> list[str]:
    """Of a function or method; of a dataclass that a caller fills by name, which is one with a default for all fields but two."""
    if isinstance(node, ast.ClassDef):
        fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and not ast.unparse(f.annotation).startswith("ClassVar")]
        filled = any("dataclass" in ast.unparse(d) for d in node.decorator_list) and sum(f.value is None for f in fields) <= 2
        return [ast.unparse(f.target) for f in fields] if filled else []
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return []
    return [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]


def test_no_function_takes_more_than_a_page_of_arguments():
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                arguments = _arguments(node)
                limit = MORE_ARGUMENTS.get(f"{name_of(path)} {node.name}", 9)
                assert len(arguments) <= limit, f"{name_of(path)}:{node.lineno} {node.name} takes {len(arguments)} arguments"


def test_what_may_exceed_the_limits_still_does():
    """An exception that is no longer needed goes."""
    for table, size, most in ((LONGER_FUNCTIONS, _lines, 50), (MORE_ARGUMENTS, lambda node: len(_arguments(node)), 9)):
        for entry in table:
            file, name = entry.split()
            named = [n for n in ast.walk(tree(PACKAGE / file)) if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name]
            assert max(map(size, named)) > most, entry


def test_the_project_never_names_a_network_address_it_would_open():
    for path in MODULES:
        used = {n.split(".")[0] for n in imports(path)}
        assert not used & {"requests", "urllib3", "httpx", "aiohttp", "ftplib", "smtplib"}, name_of(path)
        assert not any(n.startswith("urllib.request") for n in imports(path)), name_of(path)
