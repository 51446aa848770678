"""What a configuration file may say, and what is answered when it says something else."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator, model_validator

from afno_forecast.config import Strict, dump_config, load_config, load_document, schema
from afno_forecast.documents import MAX_VALUES, Position, printable, scalar
from afno_forecast.errors import ConfigError


@dataclass(frozen=True)
class Afno:
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    kind: Literal["afno"]
    depth: int
    patch: tuple[int, int] = (2, 3)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.depth == 13:
            raise ConfigError("depth 13 is unlucky", fix="use 12")


@dataclass(frozen=True)
class Plain:
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    kind: Literal["plain"]
    mixer: Literal["afno", "fno"] = "fno"
    width: int = 8


class Optimizer(Strict):
    learning_rate: float = Field(gt=0)
    """Peak rate."""
    kind: Literal["muon", "adamw"] = "muon"
    nesterov: bool = True


class Stage(Strict):
    num_steps: int
    horizon: str = "6h"


class Tree(Strict):
    seed: int
    network: Annotated[Afno | Plain, Field(discriminator="kind")]
    optimizer: Optimizer
    stages: tuple[Stage, ...] = ()
    weights: dict[str, float] = Field(default_factory=dict)
    budget: int | str | None = None
    name: str = "a"
    channels: tuple[str, ...] = ("z500", "t850")

    @field_validator("channels")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in ("z500", "t850", "t2m"):
                raise ValueError(f"unknown channel '{name}' (did you mean 'z500'?)")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> Tree:
        if self.seed == 99:
            raise ValueError("seed 99 is taken\nby another")
        return self


GOOD = """\
seed: 7
network: {kind: afno, depth: 3, patch: [3, 5]}
optimizer:
  learning_rate: 2e-3
stages:
  - {num_steps: 5}
  - num_steps: 6
    horizon: 12h
"""


@pytest.fixture
def load(tmp_path: Path):
    def load(text: str, *overrides: str, model: type[Any] = Tree, check: Any = None) -> Any:
        path = tmp_path / "e.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, model, overrides, check=check)

    return load


@pytest.fixture
def problems(load, tmp_path: Path):
    """The problems of a text, one a line, with the folder of the file cut away."""
    def problems(text: str, *overrides: str, **kwargs: Any) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides, **kwargs)
        return str(caught.value).replace(f"{tmp_path}/", "").splitlines()

    return problems


def test_a_good_file_gives_the_model(load):
    tree = load(GOOD)
    assert tree.optimizer.learning_rate == 0.002
    assert tree.network == Afno("afno", 3, (3, 5))
    assert [s.horizon for s in tree.stages] == ["6h", "12h"]
    with pytest.raises(ValidationError):
        tree.seed = 8


@pytest.mark.parametrize(("text", "value"), [
    ("2e-3", 0.002), ("1E5", 1e5), ("+3", 3), ("-0", 0), (".5", 0.5), ("5.", 5.0), ("0x1f", 31), ("0o17", 15), ("true", True), ("False", False),
    ("~", None), ("", None), ("null", None), (".inf", math.inf), ("-.INF", -math.inf), ("no", "no"), ("off", "off"), ("Yes", "Yes"), ("y", "y"),
    ("010", "010"), ("1_000", "1_000"), ("1:30", "1:30"), ("2020-01-01", "2020-01-01"), ("2020-01-01T00:00:00", "2020-01-01T00:00:00"),
    ("1e", "1e"), ("e3", "e3"), (".", "."), ("6h", "6h"), ("=", "="), ("0b1", "0b1"), ("nan", "nan"),
])
def test_plain_scalars_follow_yaml_1_2(text: str, value: object):
    assert scalar(text) == value and type(scalar(text)) is type(value)


def test_the_document_knows_where_each_key_is_written(tmp_path: Path):
    path = tmp_path / "e.yaml"
    path.write_text(GOOD)
    document = load_document(path)
    assert document.position(("optimizer", "learning_rate")) == Position(str(path), 4)
    assert document.position(("stages", 1, "horizon")).line == 8
    assert document.position(("stages", 1, "absent", "deeper")).line == 7, "what is not written is where its section is"
    assert document.values["network"]["patch"] == [3, 5]


def test_every_problem_is_told_at_once_where_it_is(problems):
    assert problems("""\
seed: "7"
network:
  kind: afon
  dpeth: 1.5
optimizer:
  learing_rate: fast
  kind: adam
  nesterov: no
stages:
  - num_stepz: 3
    num_steps: 3
  - num_steps: true
weights: {z500: on}
budget: [1]
channels: [z500, z50]
colour: red
nesterov: true
""", "optimizer.nestrov=1", "network.patch=3", "name=") == [
        "e.yaml:1: seed: must be a whole number, got '7' (remove the quotes)",
        "e.yaml:3: network.kind: must be one of 'afno', 'plain', got 'afon' (did you mean 'afno'?)",
        "e.yaml:4: network.dpeth: unknown key (did you mean 'depth'?)",
        "e.yaml:4: network.depth: must be a whole number, got 1.5",
        "e.yaml:6: optimizer.learing_rate: unknown key (did you mean 'learning_rate'?)",
        "e.yaml:6: optimizer.learning_rate: must be a number, got 'fast'",
        "e.yaml:7: optimizer.kind: must be one of 'muon', 'adamw', got 'adam' (did you mean 'adamw'?)",
        "e.yaml:8: optimizer.nesterov: must be true or false, got 'no' (write false)",
        "e.yaml:10: stages[0].num_stepz: unknown key (did you mean 'num_steps'?)",
        "e.yaml:12: stages[1].num_steps: must be a whole number, got true",
        "e.yaml:13: weights.z500: must be a number, got 'on'",
        "e.yaml:14: budget: must be a whole number or text, got a list",
        "e.yaml:15: channels: unknown channel 'z50' (did you mean 'z500'?)",
        "e.yaml:16: colour: unknown key; the keys here are seed, network, optimizer, stages, weights, budget, name, channels",
        "e.yaml:17: nesterov: unknown key (did you mean 'optimizer.nesterov'?)",
        "override 1: optimizer.nestrov=1: optimizer.nestrov: unknown key (did you mean 'nesterov'?)",
        "override 2: network.patch=3: network.patch: must be a list, got 3 (write it in brackets: [3])",
        "override 3: name=: name: has no value; write null, or '' for an empty text",
    ]


def test_a_missing_key_is_told_at_its_section(problems):
    assert problems("seed: 1\nnetwork: {depth: 3}\noptimizer:\n  kind: muon\n") == [
        "e.yaml:2: network.kind: required key is missing; one of 'afno', 'plain'",
        "e.yaml:3: optimizer.learning_rate: required key is missing",
    ]


@pytest.mark.parametrize(("line", "answer"), [
    ("seed: 1.0", "must be a whole number, got 1.0"),
    ("seed: true", "must be a whole number, got true"),
    ("seed: 010", "must be a whole number, got '010'"),
    ("seed: null", "must be a whole number, got null"),
    ("name: 5", "must be text, got 5 (put it in quotes)"),
    ("name: {a: 1}", "must be text, got a section"),
    ("stages: 3", "must be a list, got 3 (write it in brackets: [3])"),
    ("stages: [3]", "must be a section of keys and values, got 3"),
    ("weights: {a: .nan}", "must be a finite number, got NaN"),
    ("weights: {a: 1e999}", "1e999 is too large for a number"),
])
def test_wrong_types_say_what_was_expected(problems, line: str, answer: str):
    key = line.split(":")[0]
    text = "\n".join([row for row in GOOD.splitlines()[:4] if not row.startswith(key)] + [line])
    found = problems(text)
    assert len(found) == 1 and found[0].endswith(answer), found


def test_the_words_of_validators_are_kept(problems):
    assert problems(GOOD.replace("depth: 3", "depth: 13")) == ["e.yaml:2: network: depth 13 is unlucky (use 12)"]
    assert problems(GOOD.replace("seed: 7", "seed: 99")) == ["e.yaml:1: seed 99 is taken; by another"]
    assert problems(GOOD.replace("2e-3", "-2e-3")) == ["e.yaml:4: optimizer.learning_rate: must be greater than 0, got -0.002"]


def test_the_tag_of_a_union_is_not_confused_with_another_field_of_that_value(problems):
    assert problems(GOOD.replace("kind: afno, depth: 3, patch: [3, 5]", "kind: plain, mixer: afnoo, widht: x")) == [
        "e.yaml:2: network.mixer: must be one of 'afno', 'fno', got 'afnoo' (did you mean 'afno'?)",
        "e.yaml:2: network.widht: unknown key (did you mean 'width'?)",
        "e.yaml:2: network.width: must be a whole number, got 'x'",
    ]


def test_faults_only_the_caller_can_see_are_told_with_the_others(problems):
    def check(values: dict[str, Any]):
        yield ("channels", 1), f"the store has no '{values['channels'][1]}'"

    assert problems(GOOD.replace("seed: 7", "sed: 7") + "channels:\n  - z500\n  - t2m\n", check=check) == [
        "e.yaml:1: sed: unknown key (did you mean 'seed'?)", "e.yaml:11: channels[1]: the store has no 't2m'"]


def test_overrides_replace_add_and_reach_into_lists(load):
    tree = load(GOOD, "stages.1.num_steps=9", "weights.z500=2", "network={kind: plain, width: 5}", "optimizer.nesterov=false", "name='5'",
                "channels=[t2m]", "budget=2e3 steps")
    assert tree.stages[1].num_steps == 9 and tree.stages[1].horizon == "12h"
    assert tree.weights == {"z500": 2.0} and tree.network == Plain("plain", "fno", 5)
    assert (tree.optimizer.nesterov, tree.name, tree.channels, tree.budget) == (False, "5", ("t2m",), "2e3 steps")


@pytest.mark.parametrize(("override", "answer"), [
    ("seed", "override 1: seed: is not of the form dotted.key=value"),
    ("=3", "override 1: =3: is not of the form dotted.key=value"),
    ("a..b=3", "override 1: a..b=3: is not of the form dotted.key=value"),
    ("seed.x=3", "override 1: seed.x=3: seed.x: seed is 7, not a section"),
    ("stages.2.num_steps=3", "override 1: stages.2.num_steps=3: stages[2].num_steps: stages is a list of 2; "
                             "its entries are counted from 0: stages.0"),
    ("stages.x=3", "override 1: stages.x=3: stages.x: stages is a list of 2; its entries are counted from 0: stages.0"),
    ("seed=[1", "override 1: seed=[1: seed: not valid YAML: while parsing a flow sequence expected ',' or ']', but got '<stream end>'"),
    ("seed=!!int 3", "override 1: seed=!!int 3: seed: tag '!!int' is refused: only plain values are read"),
    ("trainig.steps.n=3", "override 1: trainig.steps.n=3: trainig: unknown key; the keys here are seed, network, optimizer, stages, weights, budget, "
                          "name, channels"),
    ("weights.500=x", "override 1: weights.500=x: weights.500: must be a number, got 'x'"),
    ("name=\x1b[31m", r"override 1: name=\x1b[31m: name: holds a character that YAML forbids (#x1b)"),
])
def test_overrides_that_cannot_be(problems, override: str, answer: str):
    assert problems(GOOD, override) == [answer]


def test_the_same_override_twice_is_an_error(problems):
    assert problems(GOOD, "seed=1", "seed=2") == ["override 2: seed=2: seed: is given twice on the command line"]


def test_an_override_mends_what_the_file_has_wrong(load):
    assert load(GOOD.replace("seed: 7", "seed: seven"), "seed=4").seed == 4


@pytest.mark.parametrize("value", ["1", True, 1.0, None])
def test_models_made_in_python_are_as_strict(value: object):
    with pytest.raises(ValidationError):
        Stage(num_steps=value)
    with pytest.raises(ValidationError):
        Tree(seed=1, network={"kind": "afno", "depth": value}, optimizer={"learning_rate": 1})


def test_an_integer_is_a_float_and_a_list_a_tuple():
    tree = Tree(seed=1, network=Afno("afno", 2), optimizer={"learning_rate": 1}, stages=[{"num_steps": 2}])
    assert isinstance(tree.optimizer.learning_rate, float) and tree.stages == (Stage(num_steps=2),)


_HARD = ["no", "2e-3", "1", "true", "null", "~", "2020-01-01", "<<", "*a", "&a", "- x", "a: b", " x ", "", ".inf", "0x1", "line\nline\n", "\t",
         "\x1b[31m", "#", "\x85"]
_texts = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(_HARD)
_keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=9)
_numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(name=_texts, weights=st.dictionaries(_keys, _numbers), seed=st.integers(-10**30, 10**30).filter(lambda n: n != 99),
       budget=st.none() | st.integers() | _texts, rate=st.floats(1e-300, 1e300))
def test_what_is_dumped_loads_back_to_an_equal_model(tmp_path_factory, name, weights, seed, budget, rate):
    tree = Tree(seed=seed, network=Plain("plain"), optimizer={"learning_rate": rate}, weights=weights, budget=budget, name=name)
    path = tmp_path_factory.mktemp("dump") / "e.yaml"
    path.write_text(dump_config(tree), encoding="utf-8", newline="")
    assert load_config(path, Tree) == tree


def test_a_dump_writes_every_default_out(load):
    text = dump_config(load(GOOD))
    assert "dropout: 0.0" in text and "horizon: 6h" in text and text.index("seed") < text.index("network") < text.index("optimizer")


def test_the_schema_describes_every_field():
    found = json.loads(schema(Tree))
    assert found["$defs"]["Optimizer"]["properties"]["learning_rate"]["description"] == "Peak rate."
    assert found["additionalProperties"] is False


_JUNK = [
    "seed: 1\nseed: [", "a: b: c", "\tseed: 1", "%YAML 9\n---\na: 1", 'a: "\\U00110000"', 'a: "\\ud800"', "a: \x07", "? [a]\n: 1", "? {a: b}\n: 1",
    "? *x\n: 1", "<<: {a: 1}", "a: @", "a: `", "- a", "x", "", "# only a remark", "a: 1\n---\nb: 2", "!!map {a: 1}", "&a a: 1", "'': 1",
    "a: !include x", "null: 1\n~: 2", f"{'k' * 201}: 1", "a: *b", "a: &b 1",
]


def test_a_dump_is_printable_and_loads_back_to_the_same_text(tmp_path: Path):
    class Named(Strict):
        name: str

    wrong = "a\u202eb\u00a0c\nd\x85\u2028e \N{GREEK SMALL LETTER ALPHA}"
    text = dump_config(Named(name=wrong))
    shown = printable(text, keep_lines=True)
    (tmp_path / "copy.yaml").write_text(shown, encoding="utf-8")
    assert load_config(tmp_path / "copy.yaml", Named).name == wrong


@pytest.mark.parametrize("junk", _JUNK)
def test_no_text_escapes_as_anything_but_a_configuration_error(problems, junk: str):
    for line in problems(junk):
        assert line.startswith("e.yaml:") and line.isprintable(), line


@given(st.binary(max_size=60))
def test_no_bytes_escape_either(tmp_path_factory, data: bytes):
    path = tmp_path_factory.mktemp("bytes") / "e.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        load_config(path, Tree)


def test_sizes_are_bounded(tmp_path: Path):
    path = tmp_path / "big.yaml"
    path.write_text("a: " + "x" * 1_000_001)
    with pytest.raises(ConfigError, match="larger than 1 MB"):
        load_document(path)
    path.write_text("a: [" + "1," * (MAX_VALUES + 9) + "]")
    with pytest.raises(ConfigError, match="more than 20000 values"):
        load_document(path)


def test_many_problems_are_cut_short(problems):
    found = problems(GOOD + "".join(f"k{i}zzz: 1\n" for i in range(80)))
    assert len(found) == 51 and found[-1] == "and 30 more problems"


def test_a_file_that_is_not_there_names_the_near_one(tmp_path: Path):
    (tmp_path / "quickstart.yaml").write_text(GOOD)
    with pytest.raises(ConfigError, match=r"no such file\n.*did you mean '.*quickstart.yaml'"):
        load_config(tmp_path / "quikstart.yaml", Tree)
    with pytest.raises(ConfigError, match="not a file"):
        load_config(tmp_path, Tree)
