"""Strict YAML text -> plain values, with the file and line of every key.

YAML 1.2 scalars: only `true` and `false` are booleans (`no`, `off`, `yes` stay text), `2e-3` is a number, dates stay text,
`010` and `1_000` stay text. Refused: tags, anchors, aliases, merge keys, keys given twice, keys that are not plain names,
more than one document, nesting deeper than 32, more than 1 MB, more than 20 000 values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError
from .errors import printable as printable

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_VALUES = 20_000
_SHOWN = 50
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,99})")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,9})?")
_RADIX = re.compile(r"0o[0-7]{1,99}|0x[0-9a-fA-F]{1,99}")
_CONSTANTS: dict[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


@dataclass(frozen=True)
class Position:
    """Where a key is written: a file and a line from 1, or the text of an override and minus its number on the command line."""

    source: str
    line: int

    def __str__(self) -> str:
        return f"{printable(self.source)}:{self.line}" if self.line > 0 else printable(self.source)


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a configuration: printed as `file:line: key.path: text`."""

    position: Position
    path: KeyPath
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.position), join_path(self.path), self.text) if part)


@dataclass
class Document:
    """Values of a YAML mapping, where each key path is written, and what was wrong with the text."""

    source: str
    values: dict[str, Any] = field(default_factory=dict)
    positions: dict[KeyPath, Position] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unread: set[KeyPath] = field(default_factory=set)
    """Paths whose value was refused, so that what is built on them cannot be judged."""
    is_whole: bool = False
    """Whether the text was read to its end."""

    def position(self, path: KeyPath) -> Position:
        """Where a path is written, or the nearest parent of it that is."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.positions:
                return self.positions[path[:length]]
        return Position(self.source, 1)


def join_path(path: KeyPath) -> str:
    """`stages[1].steps` for ("stages", 1, "steps")."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{printable(key)}" for key in path)
    return text.removeprefix(".")


_LOOK_ALIKE = str.maketrans("ol", "01")


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The most similar of `names`, or None when nothing is similar.

    Case and look-alikes (O and 0, l and 1) do not count; of the similar ones the fewest edits decide, then the same length, then
    digits where digits are, then the longest common beginning.
    """
    wanted = name.lower().translate(_LOOK_ALIKE)
    folded = {n.lower().translate(_LOOK_ALIKE): n for n in reversed(list(names))}
    found = get_close_matches(wanted, folded, 60, cutoff)
    if not found:
        return None
    best = min(found, key=lambda n: _distance(wanted, n))
    return folded[best]


def _distance(wanted: str, other: str) -> tuple[int, int, int, int]:
    pairs = list(zip(wanted, other, strict=False))
    beginning = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    return _edits(wanted, other), abs(len(other) - len(wanted)), sum(a.isdigit() != b.isdigit() for a, b in pairs), -beginning


def _edits(one: str, other: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions that make one text of the other."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def raise_problems(problems: list[Problem]) -> None:
    """Raise one ConfigError with one line for each problem, in the order of the text; nothing when there are none."""
    if not problems:
        return
    lines = [str(p) for p in dict.fromkeys(sorted(problems, key=lambda p: (p.position.line < 0, abs(p.position.line))))]
    if len(lines) > _SHOWN:
        lines = [*lines[:_SHOWN], f"and {len(lines) - _SHOWN} more problems"]
    raise ConfigError("\n".join(lines))


def scalar(text: str) -> Any:
    """The value of a plain (unquoted) YAML scalar: None, bool, int, float, or the text itself."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return int(text, 0) if _RADIX.fullmatch(text) else text


def load_document(path: Path | str) -> Document:
    """Read a YAML file. Raises ConfigError listing everything wrong with the text."""
    document = read_document(path)
    raise_problems(document.problems)
    return document


def read_document(path: Path | str) -> Document:
    """As `load_document`, with the problems in the document. Raises ConfigError only when there is no file to read."""
    path = Path(path)
    try:
        if not path.is_file():
            raise ConfigError(f"{printable(str(path))}: {'not a file' if path.exists() else 'no such file'}", fix=_near_file(path))
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{printable(str(path))}: cannot be read: {error.strerror}", fix="make it readable") from error
    return _Reader(str(path)).read_bytes(data)


def read_value(text: str, position: Position) -> Document:
    """The value of a command-line override, as the key `value` of a document: a scalar, or a list or mapping in brackets."""
    reader = _Reader(position.source, position)
    document = reader.read_bytes(b"value: " + text.encode("utf-8", "surrogateescape"))
    if not text.strip():
        reader.report("has no value; write null, or '' for an empty text", 0, ("value",))
    elif len(document.positions) > 1 and not text.lstrip().startswith(("[", "{")) and not document.problems:
        reader.report(f"cannot read {text!r}: write text that holds ': ' or '- ' in quotes", 0, ("value",))
    return document


def _near_file(path: Path) -> str:
    names = {p.stem: p.name for p in path.parent.iterdir() if p.suffix in (".yaml", ".yml")} if path.parent.is_dir() else {}
    near = nearest(path.stem, names)
    return f"did you mean '{printable(str(path.with_name(names[near])))}'?" if near else "give the path of a YAML file"


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None
    return event.start_mark.line + 1


class _StopReading(Exception):  # noqa: N818
    """Stops reading a text that is refused as a whole."""


class _Reader:
    """Builds a document from the events of the YAML parser; nothing in the text can make it construct an object."""

    def __init__(self, source: str, position: Position | None = None) -> None:
        self.document = Document(source)
        self._position = position  # of the override that the text is part of
        self._num_values = 0
        self._events: Iterator[yaml.Event] = iter(())

    def report(self, text: str, line: int, path: KeyPath = ()) -> None:
        """Note a problem; `line` counts from 1."""
        self.document.problems.append(Problem(self._at(line), path, text))

    def _at(self, line: int) -> Position:
        return self._position or Position(self.document.source, line)

    def read_bytes(self, data: bytes) -> Document:
        """Decode and read; every fault ends up in `document.problems`."""
        if len(data) > MAX_BYTES:
            self.report("is larger than 1 MB: not a configuration", 1)
            return self.document
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self.report(f"is not UTF-8 text (byte {error.start})", data.count(b"\n", 0, error.start) + 1)
            return self.document
        try:
            self._events = iter(yaml.parse(text, Loader=yaml.SafeLoader))
            self._root()
        except _StopReading:
            pass  # reported where it was found
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            detail = " ".join(part for part in (error.context, error.problem) if part)
            self.report(f"not valid YAML: {printable(detail)}", mark.line + 1 if mark else 1)
        except yaml.reader.ReaderError as error:
            self.report(f"holds a character that YAML forbids (#x{int(error.character):x})", text.count("\n", 0, error.position) + 1)
        except (ValueError, OverflowError) as error:
            self.report(f"not valid YAML: {printable(str(error))}", 1)
        return self.document

    def _root(self) -> None:
        event = next(self._events)
        while isinstance(event, yaml.StreamStartEvent | yaml.DocumentStartEvent):
            event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            self.report("is empty", 1)
            return
        value = self._value(event, (), keep=True)
        if isinstance(value, dict):
            self.document.values = value
        elif not self.document.problems:
            self.report("must hold keys and values ('key: value'), not a single value or a list", 1)
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._stop("a second document starts here ('---'): one file is one document", event)
        self.document.is_whole = isinstance(value, dict)

    def _stop(self, text: str, event: yaml.Event) -> None:
        self.report(text, _line(event))
        raise _StopReading

    def _value(self, event: yaml.Event, path: KeyPath, *, keep: bool) -> Any:
        line = _line(event)
        self._num_values += 1
        if len(path) > MAX_DEPTH:
            self._stop(f"is nested deeper than {MAX_DEPTH} levels", event)
        if self._num_values > MAX_VALUES:
            self._stop(f"holds more than {MAX_VALUES} values: not a configuration", event)
        if isinstance(event, yaml.AliasEvent):
            self._refuse(f"alias '*{printable(str(event.anchor))}' is refused: write the value out", line, path)
            return None
        assert isinstance(event, yaml.ScalarEvent | yaml.MappingStartEvent | yaml.SequenceStartEvent)
        if event.anchor is not None:
            self.report(f"anchor '&{printable(event.anchor)}' is refused: write the value out where it is used", line, path)
        if event.tag is not None:
            self._refuse(f"tag '{printable(event.tag.replace('tag:yaml.org,2002:', '!!'))}' is refused: only plain values are read", line, path)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path, keep=keep)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path, keep=keep)
        return self._scalar(event, path)

    def _refuse(self, text: str, line: int, path: KeyPath) -> None:
        self.report(text, line, path)
        self.document.unread.add(path)

    def _scalar(self, event: yaml.ScalarEvent, path: KeyPath) -> Any:
        line = _line(event)
        if any("\ud800" <= c <= "\udfff" for c in event.value):
            self._refuse("holds half a character (a lone surrogate)", line, path)
            return None
        value = event.value if event.style else scalar(event.value)
        if isinstance(value, float) and value in (float("inf"), float("-inf")) and "inf" not in event.value.lower():
            self._refuse(f"{printable(event.value[:40])} is too large for a number", line, path)
            return None
        return value

    def _sequence(self, path: KeyPath, *, keep: bool) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            here = (*path, len(values))
            if keep:
                self.document.positions[here] = self._at(_line(event))
            values.append(self._value(event, here, keep=keep))
        return values

    def _mapping(self, path: KeyPath, *, keep: bool) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = _line(event)
            key = self._key(event, path)
            here = path if key is None else (*path, key)
            new = keep and key is not None and key not in values
            if new:
                self.document.positions[here] = self._at(line)
            value = self._value(next(self._events), here, keep=new)
            if key is None:
                continue
            if key in values:
                self.report(f"is given twice (first on line {lines[key]}): keep one of them", line, here)
                continue
            values[key], lines[key] = value, line
        return values

    def _key(self, event: yaml.Event, path: KeyPath) -> str | None:
        """The text of a key; None for one that is refused, after its own value, if any, was passed over."""
        line = _line(event)
        if not isinstance(event, yaml.ScalarEvent):
            self._value(event, path, keep=False)
            self.report("a key must be a plain name", line, path)
            return None
        if event.tag is not None or event.anchor is not None:
            self.report("a key must be a plain name, without tag or anchor", line, path)
            return None
        if event.value == "<<" and not event.style:
            self.report("merge key '<<' is refused: write the values out", line, path)
            return None
        if not event.value or len(event.value) > 200 or any("\ud800" <= c <= "\udfff" for c in event.value):
            self.report("a key must be a plain name of 1 to 200 characters", line, path)
            return None
        return event.value
