"""Faults that pydantic finds, told in the user's own words: key path, what is wrong, the nearest name that exists."""

from __future__ import annotations

import copy
import dataclasses
import json
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from .documents import Document, KeyPath, Problem, join_path, nearest, printable, scalar
from .errors import ForecastError

M = TypeVar("M", bound=BaseModel)
_MAX_ROUNDS = 6



def validate(document: Document, model: type[M]) -> tuple[M | None, list[Problem]]:
    """The model, or every problem. Misspelt names are corrected in a copy and the copy is validated again, so that one
    misspelt key does not hide what is wrong below it."""
    values, positions, problems = copy.deepcopy(document.values), dict(document.positions), dict[Problem, None]()
    scratch = Document(document.source, values, positions, unread=set(document.unread))
    for _ in range(_MAX_ROUNDS):
        try:
            loaded = model.model_validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            faults = _faults(error, model, scratch)
        else:
            return (None if problems else loaded), list(problems)
        repairs = [f.repair for f in faults if f.repair]
        renamed = {(*f.path[:-1], f.renamed_to) for f in faults if f.renamed_to}
        problems |= {Problem(scratch.position(f.path), f.path, f.text): None for f in faults if not (f.is_missing and f.path in renamed)}
        if not repairs:
            break
        for repair in repairs:
            repair()
    return None, list(problems)


@dataclasses.dataclass
class _Fault:
    path: KeyPath
    text: str
    is_missing: bool = False
    renamed_to: str = ""
    repair: Callable[[], None] | None = None


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What a place in the configuration may hold: one type, or the members of a union (None left out)."""

    members: tuple[Any, ...]
    discriminator: str | None = None

    @property
    def is_union(self) -> bool:
        return len(self.members) > 1


def _kind(annotation: Any, discriminator: str | None = None) -> _Kind:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        inner, *metadata = typing.get_args(annotation)
        found = [m.discriminator for m in metadata if isinstance(m, FieldInfo) and isinstance(m.discriminator, str)]
        return _kind(inner, found[0] if found else discriminator)
    if origin in (typing.Union, types.UnionType):
        parts = [_kind(a) for a in typing.get_args(annotation) if a is not type(None)]
        nested = discriminator or next((p.discriminator for p in parts if p.discriminator), None)
        return _Kind(tuple(m for p in parts for m in p.members), nested)
    return _Kind((annotation,), discriminator)


def _fields(kind: Any) -> dict[str, _Kind]:
    """Keys of a model or dataclass; nothing for any other type."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: _kind(f.annotation, f.discriminator if isinstance(f.discriminator, str) else None) for name, f in kind.model_fields.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        return {f.name: _kind(hints[f.name]) for f in dataclasses.fields(kind) if f.init}
    return {}


def _literals(kind: _Kind) -> list[Any]:
    return [value for member in kind.members if typing.get_origin(member) is Literal for value in typing.get_args(member)]


def _tags(kind: _Kind) -> list[str]:
    """Values of the discriminator of a union."""
    return [str(v) for m in kind.members for v in _literals(_fields(m).get(kind.discriminator or "", _Kind(())))]


def _member(kind: _Kind, label: Any) -> Any:
    """The member of a union that pydantic's label names."""
    for member in kind.members:
        tags = _literals(_fields(member).get(kind.discriminator, _Kind(()))) if kind.discriminator else []
        if label in tags or (not kind.discriminator and getattr(member, "__name__", None) == label):
            return member
    return Any


def _inner(member: Any, key: str | int) -> _Kind:
    """What a list entry, a mapping's value or a model's field may hold."""
    fields = _fields(member)
    if fields:
        return fields.get(str(key), _Kind((Any,)))
    arguments = typing.get_args(member)
    if not arguments or typing.get_origin(member) is Literal:
        return _Kind((Any,))
    if isinstance(key, int) and arguments[-1] is not Ellipsis and key < len(arguments):
        return _kind(arguments[key])
    return _kind(arguments[0] if arguments[-1] is Ellipsis else arguments[-1])


def _walk(model: type[BaseModel], loc: tuple[str | int, ...]) -> tuple[KeyPath, Any, _Kind]:
    """The user's own key path of pydantic's `loc` (which also names union members), its container and what it may hold."""
    kind, path = _Kind((model,)), list[str | int]()
    container: Any = model
    for part in loc:
        if part == "[key]":
            break
        if kind.is_union:
            kind = _Kind((_member(kind, part),))
            continue
        container = kind.members[0] if kind.members else Any
        kind = _inner(container, part)
        path.append(part)
    return tuple(path), container, kind


def _faults(error: ValidationError, model: type[BaseModel], document: Document) -> list[_Fault]:
    faults: dict[KeyPath, _Fault] = {}
    for detail in error.errors(include_url=False):
        path, container, kind = _walk(model, detail["loc"])
        if any(path[: len(u)] == u for u in document.unread):
            continue
        fault = _fault(detail, path, container, kind, model, document)
        if fault.path in faults and faults[fault.path].text.startswith("must ") and fault.text.startswith("must "):
            first, got, rest = faults[fault.path].text.partition(", got ")
            second = fault.text.removeprefix("must be ").partition(", got ")[0]
            if second not in first:
                faults[fault.path].text = f"{first} or {second}{got}{rest}"
        else:
            faults.setdefault(fault.path, fault)
    return list(faults.values())


def _fault(detail: ErrorDetails, path: KeyPath, container: Any, kind: _Kind, model: type[BaseModel], document: Document) -> _Fault:
    match detail["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return _unknown_key(path, container, model, document)
        case "missing" | "missing_argument":
            return _Fault(path, "required key is missing", is_missing=True)
        case "union_tag_not_found":
            key = str(kind.discriminator)
            return _Fault((*path, key), f"required key is missing; one of {_listed(_tags(kind))}", is_missing=True)
        case "union_tag_invalid":
            return _wrong_choice((*path, str(kind.discriminator)), detail["ctx"]["tag"], _tags(kind), document)
        case "literal_error" | "enum":
            return _wrong_choice(path, detail["input"], _literals(kind), document)
        case "value_error" | "assertion_error":
            return _Fault(path, _one_line(detail["ctx"]["error"]))
    return _Fault(path, _wrong_type(detail))


def _unknown_key(path: KeyPath, container: Any, model: type[BaseModel], document: Document) -> _Fault:
    key, names = str(path[-1]), list(_fields(container))
    section = _at(document.values, path[:-1])
    near = nearest(key, names)

    def rename() -> None:
        value = section.pop(key)
        if near and near not in section:
            section[near] = value
            moved = {p: (*path[:-1], near, *p[len(path):]) for p in document.positions if p[: len(path)] == path}
            document.positions.update({new: document.positions[old] for old, new in moved.items()})

    if near:
        return _Fault(path, f"unknown key (did you mean '{near}'?)", renamed_to="" if near in section else near, repair=rename)
    elsewhere = [p for p in _all_paths(model) if p[-1].lower() == key.lower()]
    hint = f" (did you mean '{join_path(elsewhere[0])}'?)" if elsewhere else f"; the keys here are {', '.join(names)}" if names else ""
    return _Fault(path, f"unknown key{hint}", repair=rename)


def _wrong_choice(path: KeyPath, got: Any, choices: list[Any], document: Document) -> _Fault:
    near = nearest(got, [c for c in choices if isinstance(c, str)]) if isinstance(got, str) else None
    text = f"must be one of {_listed(choices)}, got {_shown(got)}" + (f" (did you mean '{near}'?)" if near else "")
    section = _at(document.values, path[:-1])

    def choose() -> None:
        section[path[-1]] = near

    return _Fault(path, text, repair=choose if near else None)


_SECTION = "a section of keys and values"
_TYPES = {
    "int_type": "a whole number", "int_from_float": "a whole number", "int_parsing": "a whole number", "finite_number": "a finite number",
    "float_type": "a number", "float_parsing": "a number", "bool_type": "true or false", "bool_parsing": "true or false", "string_type": "text",
    "list_type": "a list", "tuple_type": "a list", "set_type": "a list", "frozen_set_type": "a list", "dict_type": _SECTION, "model_type": _SECTION,
    "model_attributes_type": _SECTION, "dataclass_type": _SECTION, "none_required": "null", "path_type": "a path",
}


_DURATIONS = {"time_step", "time_steps", "lead_time"}


def _wrong_type(detail: ErrorDetails) -> str:
    kind, got = detail["type"], detail["input"]
    expected = _TYPES.get(kind) or printable(detail["msg"]).replace("Input should have", "have").removeprefix("Input should be ")
    verb = "must" if expected.startswith("have ") or not kind else "must be"
    text = f"{verb} {expected}, got {_shown(got)}"
    if kind.startswith("bool") and isinstance(got, str) and got.lower() in ("yes", "no", "on", "off", "y", "n", "true", "false"):
        return f"{text} (write {'true' if got.lower() in ('yes', 'on', 'y', 'true') else 'false'})"
    if kind.startswith(("int", "float", "bool")) and isinstance(got, str) and not isinstance(scalar(got), str):
        return f"{text} (remove the quotes)"
    if kind == "string_type" and isinstance(got, int | float):
        return f"{text} ({f'write {got}h' if _DURATIONS & set(detail['loc'][-2:]) else 'put it in quotes'})"
    if kind in ("tuple_type", "list_type") and isinstance(got, str | int | float):
        return f"{text} (write it in brackets: [{_shown(got).strip(chr(39))}])"
    return text


def _shown(value: Any) -> str:
    """A value as it is written in YAML, short, safe on a terminal."""
    if isinstance(value, dict | list):
        return "a section" if isinstance(value, dict) else "a list"
    text = f"'{printable(value)}'" if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:56]}...'"


def _listed(choices: Iterable[Any]) -> str:
    return ", ".join(_shown(c) for c in choices)


def _one_line(error: Exception) -> str:
    """The message of a validator, on one line; what / where / fix joined."""
    if isinstance(error, ForecastError):
        extra = "; ".join(part for part in (error.where, error.fix) if part)
        return printable(f"{error.what} ({extra})" if extra else error.what)
    return printable("; ".join(str(error).splitlines()) or type(error).__name__)


def _at(values: Any, path: KeyPath) -> Any:
    for key in path:
        values = values[key]
    return values


def _all_paths(model: Any, prefix: tuple[str, ...] = ()) -> Iterable[tuple[str, ...]]:
    """Dotted paths of every key of a model, sections inside sections included."""
    if len(prefix) > 6:
        return
    for name, kind in _fields(model).items():
        yield (*prefix, name)
        for member in kind.members:
            yield from _all_paths(member, (*prefix, name))
