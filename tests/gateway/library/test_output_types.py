"""Types to constraints and texts to values, without a model. Where a constraint is a schema or a
regex, `jsonschema` and `re` say what it allows.
"""

from __future__ import annotations

import datetime
import enum
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NewType

import jsonschema
import pytest
from outlines import types
from pydantic import BaseModel, Field, RootModel, field_validator
from typing_extensions import TypedDict

from formgate.gateway.library.output_types import output_type_of, parameters_of


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str = "Rex"


@dataclass
class Point:
    x: int
    y: int


class Movie(TypedDict):
    title: str
    year: int


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


def allows(constraint: Any, value: object) -> bool:
    return jsonschema.Draft202012Validator(constraint["json"]).is_valid(value)


@pytest.mark.parametrize("kind", [None, str])
def test_text_is_free(kind: Any) -> None:
    wanted = output_type_of(kind)
    assert wanted.constraint is None
    assert wanted.parse("any text") == "any text"


@pytest.mark.parametrize(
    ("kind", "text", "value", "wrong"),
    [
        (int, "-5", -5, 1.5),
        (float, "1.5", 1.5, "1.5"),
        (bool, "true", True, 1),
        (list[int], "[1, 2]", [1, 2], ["1"]),
        (dict, '{"a": [null]}', {"a": [None]}, []),
        (tuple[int, str], '[1, "a"]', (1, "a"), [1]),
        (dict[str, Point], '{"p": {"x": 1, "y": 2}}', {"p": Point(1, 2)}, {"p": {"x": 1}}),
        (int | None, "null", None, "null"),
        (Cat | int, '{"kind": "cat", "lives": 9}', Cat(kind="cat", lives=9), {"kind": "cat"}),
        (Point, '{"x": 1, "y": 2}', Point(1, 2), {"x": 1}),
        (Movie, '{"title": "M", "year": 1931}', {"title": "M", "year": 1931}, {"title": "M"}),
        (RootModel[list[int]], "[1]", RootModel[list[int]]([1]), ["a"]),
        (Annotated[int, Field(ge=1, le=3)], "2", 2, 4),
        (NewType("Age", int), "7", 7, "7"),
        (list[Color], '["red"]', [Color.RED], ["green"]),
        (Any, '{"a": 1}', {"a": 1}, None),
    ],
    ids=str,
)
def test_json_types(kind: Any, text: str, value: object, wrong: object) -> None:
    wanted = output_type_of(kind)
    assert wanted.parse(text) == value
    assert type(wanted.parse(text)) is type(value)
    assert allows(wanted.constraint, wrong) is (kind is Any)


@pytest.mark.parametrize("kind", [Point, Movie, Cat, list[Cat], Dog | None])
def test_no_field_is_invented(kind: Any) -> None:
    fields: dict[str, object] = {
        Point: {"x": 1, "y": 2},
        Movie: {"title": "M", "year": 1931},
        Cat: {"kind": "cat", "lives": 9},
        list[Cat]: {"kind": "cat", "lives": 9},
        Dog | None: {"kind": "dog"},
    }[kind]
    constraint = output_type_of(kind).constraint
    wrap = (lambda item: [item]) if kind == list[Cat] else (lambda item: item)
    assert allows(constraint, wrap(fields))
    assert not allows(constraint, wrap({**fields, "more": 1}))


def test_a_model_may_ask_for_more_fields() -> None:
    class Open(BaseModel, extra="allow"):
        a: int

    assert allows(output_type_of(Open).constraint, {"a": 1, "b": 2})


def test_a_tagged_union_needs_no_keyword_of_openapi() -> None:
    class Owner(BaseModel):
        pet: Annotated[Cat | Dog, Field(discriminator="kind")]

    wanted = output_type_of(Owner)
    assert wanted.constraint is not None
    assert "discriminator" not in str(wanted.constraint)
    assert allows(wanted.constraint, {"pet": {"kind": "dog", "name": "Rex"}})
    assert not allows(wanted.constraint, {"pet": {"kind": "dog", "lives": 9}})
    assert wanted.parse('{"pet": {"kind": "dog"}}').pet == Dog(kind="dog")


def test_a_term_as_a_field_holds_for_the_whole_field() -> None:
    class Card(BaseModel):
        code: types.Regex("[0-9]{3}|x")  # type: ignore[valid-type]

    wanted = output_type_of(Card)
    assert allows(wanted.constraint, {"code": "123"})
    assert allows(wanted.constraint, {"code": "x"})
    assert not allows(wanted.constraint, {"code": "a1234"})
    assert wanted.parse('{"code": "123"}').code == "123"


@pytest.mark.parametrize(
    ("kind", "choices"),
    [
        (Literal["a", "b"], {"a": "a", "b": "b"}),
        (Literal["a", 1, True, None], {"a": "a", "1": 1, "true": True, "null": None}),
        (Literal[Color.RED], {"red": Color.RED}),
        (Color, {"red": Color.RED, "blue": Color.BLUE}),
        (Level, {"1": Level.LOW, "2": Level.HIGH}),
        (types.Choice(["x", 2.5]), {"x": "x", "2.5": 2.5}),
        (types.regex("a") and types.dsl.String("a+"), {"a+": "a+"}),
    ],
    ids=str,
)
def test_one_of_some_values(kind: Any, choices: dict[str, Any]) -> None:
    wanted = output_type_of(kind)
    assert wanted.constraint == {"choice": list(choices)}
    for text, value in choices.items():
        assert wanted.parse(text) is value or wanted.parse(text) == value


def test_dates_are_those_of_the_calendar() -> None:
    wanted = output_type_of(datetime.date)
    assert wanted.constraint is not None
    pattern = re.compile(wanted.constraint["regex"])
    day = datetime.date(1896, 1, 1)  # over 1900, no leap year, and 2000, one
    while day.year < 2101:
        assert pattern.fullmatch(day.isoformat())
        day += datetime.timedelta(1)
    for year in (1900, 2000, 2023, 2024, 2100):
        for month in range(14):
            for number in range(33):
                text = f"{year}-{month:02}-{number:02}"
                try:
                    datetime.date.fromisoformat(text)
                except ValueError:
                    assert not pattern.fullmatch(text), text
    assert not pattern.fullmatch("0000-01-01")
    assert wanted.parse("2024-02-29") == datetime.date(2024, 2, 29)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (datetime.time, datetime.time(23, 59, 1)),
        (datetime.datetime, datetime.datetime(2024, 2, 29, 23, 59, 1)),
    ],
)
def test_times(kind: Any, value: Any) -> None:
    wanted = output_type_of(kind)
    assert wanted.constraint is not None
    assert re.fullmatch(wanted.constraint["regex"], value.isoformat())
    assert wanted.parse(value.isoformat()) == value


@pytest.mark.parametrize(
    ("term", "right", "wrong"),
    [
        (types.Regex("[0-9]{3}"), "123", "12"),
        (types.email, "a@b.org", "a.b.org"),
        (types.digit.exactly(2) + "-" + types.either("a+", "b c"), "12-a+", "12-aa"),
        (types.optional("x") + types.one_or_more(types.either("y", "z")), "yzy", "x"),
        (types.at_most(2, "ab"), "abab", "ababab"),
    ],
    ids=repr,
)
def test_regular_terms(term: Any, right: str, wrong: str) -> None:
    wanted = output_type_of(term)
    assert wanted.constraint is not None
    assert re.fullmatch(wanted.constraint["regex"], right)
    assert not re.fullmatch(wanted.constraint["regex"], wrong)
    assert wanted.parse(right) == right


def test_terms_of_other_languages() -> None:
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    wanted = output_type_of(types.JsonSchema(schema, whitespace_pattern=" ?"))
    assert wanted.constraint == {"json": schema, "whitespace_pattern": " ?"}
    assert list(wanted.constraint["json"]["properties"]) == ["b", "a"]
    assert output_type_of(types.CFG('start: "a"')).constraint == {"grammar": 'start: "a"'}
    assert output_type_of(schema).constraint == {"json": schema}


def test_functions_by_their_arguments() -> None:
    def paint(color: Literal["red", "blue"], layers: int = 1) -> None:
        raise AssertionError("never called")

    wanted = output_type_of(paint)
    assert allows(wanted.constraint, {"color": "red"})
    assert not allows(wanted.constraint, {"color": "red", "more": 1})
    assert wanted.parse('{"color": "red", "layers": 2}') == {"color": "red", "layers": 2}
    assert parameters_of(paint)["required"] == ["color"]
    with pytest.raises(TypeError, match="no names"):
        parameters_of(lambda *values: None)


def test_a_validator_of_the_type_has_the_last_word() -> None:
    class Even(BaseModel):
        x: int

        @field_validator("x")
        @classmethod
        def even(cls, x: int) -> int:
            if x % 2:
                raise ValueError("odd")
            return x

    with pytest.raises(ValueError, match="odd"):
        output_type_of(Even).parse('{"x": 1}')


class Plain:
    pass


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Plain, r"Plain cannot be the type of an answer.*Use a Pydantic model, a dataclass"),
        (list[Plain], r"list.* cannot be the type of an answer.*Use a Pydantic model"),
        (5, r"5 is a value, not a type of an answer.*Use a Pydantic model"),
        ("[0-9]+", r"is a value, not a type.*outlines\.types \(Regex, Choice"),
        (Point(1, 2), r"is a value, not a type"),
        (enum.Enum("Pairs", {"A": (1, 2)}), r"neither text nor a number. Use a union"),
        (Literal["1", 1], r"two values that are written alike"),
        (types.either(types.JsonSchema({}), "x"), r"JsonSchema cannot be a part.*union of types"),
        (types.CFG("start: A") + "x", r"CFG cannot be a part of another term"),
    ],
    ids=str,
)
def test_what_is_no_type_of_an_answer(kind: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        output_type_of(kind)
