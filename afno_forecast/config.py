"""Strict YAML -> frozen models: every problem at once, each with file, line, key and the nearest name that exists.

    experiment = load_config("experiment.yaml", Experiment, ["training.num_steps=100"])

`Strict` is the base of every configuration model. Networks describe themselves with frozen stdlib dataclasses that carry
`__pydantic_config__ = {"extra": "forbid"}`; nested in a model they are read just as strictly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema

from .documents import Document, KeyPath, Position, Problem, join_path, load_document, raise_problems, read_document, read_value, scalar
from .faults import validate

__all__ = ["Document", "Strict", "dump_config", "load_config", "load_document", "schema"]

M = TypeVar("M", bound=BaseModel)
Check = Callable[[dict[str, Any]], Iterable[tuple[KeyPath, str]]]


def _make_scalars_strict(part: Any, resolve: Callable[[Any], Any], seen: set[str]) -> None:
    if isinstance(part, dict):
        if part.get("type") in ("int", "float", "bool", "str"):
            part["strict"] = True
        if part.get("type") == "float":  # in dataclasses too, which do not share this class' settings
            part["allow_inf_nan"] = False
        if part.get("type") == "definition-ref" and part["schema_ref"] not in seen:
            seen.add(part["schema_ref"])
            _make_scalars_strict(resolve(part), resolve, seen)
        for key, inner in part.items():
            if key not in ("metadata", "serialization", "default", "config", "expected"):
                _make_scalars_strict(inner, resolve, seen)
    elif isinstance(part, list | tuple):
        for inner in part:
            _make_scalars_strict(inner, resolve, seen)


class Strict(BaseModel):
    """Base of configuration models: frozen, unknown keys forbidden, numbers strict.

    `"1"` is not a number, `true` is not 1, `1.0` is not an integer; an integer is accepted for a float and a list for a tuple.
    NaN and infinity are refused. A docstring under a field is its description.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True,
                              protected_namespaces=())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Pydantic's hook: the same schema with every number, text and boolean in it strict."""
        made = handler(source)
        _make_scalars_strict(made, handler.resolve_ref_schema, set())
        return made


def load_config(path: Path | str, model: type[M], overrides: Sequence[str] = (), *, check: Check | None = None) -> M:
    """Read a YAML file into a model.

    Args:
        path: the YAML file; one file is one whole configuration.
        model: the `Strict` model it must fit.
        overrides: `dotted.key=value`, the value a YAML scalar or a list in brackets; `stages.0.steps=3` reaches into a list.
        check: called with the plain values, yields `(key path, what is wrong)` for faults that only the caller can see, such as
            channel names that a store lacks; they are listed with the others. The values may be malformed.

    Raises:
        ConfigError: one line a problem, `file:line: key.path: what (did you mean 'x'?)`, all of them at once.
    """
    document = read_document(path)
    _apply_overrides(document, overrides)
    problems = list(document.problems)
    loaded: M | None = None
    if document.is_whole:
        loaded, found = validate(document, model)
        problems += found
        problems += [Problem(document.position(key), key, text) for key, text in (check(document.values) if check else ())]
    raise_problems(problems)
    assert loaded is not None
    return loaded


def dump_config(model: BaseModel) -> str:
    """YAML text of a model, every default written out, that loads back to an equal model."""
    return yaml.dump(model.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=150, default_flow_style=False)


def schema(model: type[BaseModel]) -> str:
    """JSON schema of a model, for editors that complete and check YAML."""
    return json.dumps(model.model_json_schema(), indent=2)


class _Dumper(yaml.SafeDumper):
    """Quotes each text that would be read as something else; never writes anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(scalar(text), str) else "'"
    if not text.isprintable():
        style = '"'  # as escapes: YAML takes some for line breaks, and a terminal obeys others
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


# ---- overrides


def _apply_overrides(document: Document, overrides: Sequence[str]) -> None:
    """Put each `key=value` into the values, with its own position; problems go to the document."""
    seen: set[KeyPath] = set()
    for number, text in enumerate(overrides, 1):
        position = Position(f"override {number}: {text}", -number)
        name, equals, value_text = text.partition("=")
        path: KeyPath = tuple(int(p) if p.isdecimal() and p.isascii() and len(p) < 10 else p for p in name.strip().split("."))
        if not equals or not all(p != "" for p in path):
            document.problems.append(Problem(position, (), "is not of the form dotted.key=value"))
            continue
        value = read_value(value_text, position)
        document.problems += [Problem(position, path, p.text) for p in value.problems]
        fault = "is given twice on the command line" if path in seen else _assign(document, path, value, position) if not value.problems else ""
        if fault:
            document.problems.append(Problem(position, path, fault))
        seen.add(path)


def _assign(document: Document, path: KeyPath, value: Document, position: Position) -> str:
    """Set a value at a path, adding sections on the way. Returns what is wrong, or nothing."""
    here: Any = document.values
    done: KeyPath = ()
    for depth, part in enumerate(path):
        where = join_path(done)
        key: str | int = part
        if isinstance(here, list):
            if not isinstance(key, int) or key >= len(here):
                return f"{where} is a list of {len(here)}; its entries are counted from 0: {where}.0"
        elif isinstance(here, dict):
            key = str(key)
        else:
            return f"{where} is {here!r}, not a section"
        done = (*done, key)
        if depth == len(path) - 1:
            here[key] = value.values["value"]
        elif isinstance(here, dict) and here.get(key) is None:
            here[key] = {}
            document.positions.setdefault(done, position)
        here = here[key]
    for known in [k for k in (*document.positions, *document.unread) if k[: len(done)] == done]:
        document.positions.pop(known, None)
        document.unread.discard(known)
    document.positions |= {(*done, *inner[1:]): position for inner in value.positions}
    return ""
