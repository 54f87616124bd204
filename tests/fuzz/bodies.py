"""Requests made from a server's own OpenAPI description: sound ones, ones with a wrong value
somewhere, absurdly large ones, and bytes that are no JSON any more.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.fuzz.constraints import regex, schema

Path = list[str | int]

DIGITS = "@digits:"  # `json` writes no integer of more than 4,300 digits
TEXTS = (
    *(
        "",
        "x",
        "Hello",
        "What is 2 + 2?",
        " ",
        "\n\n",
        "a" * 300,
        "é",
        "你好",
        "\U0001f600",
        "\x00",
    ),
    *("\ud83d", "\udc00\ud800", "<think>", "</think>", "<tool_call>", "<|im_end|>", "</s>", "{}"),
    *(
        "[TOOL_CALLS]",
        "../../etc/passwd",
        "%s%n",
        "{{ messages }}",
        "{% for %}",
        "\r\nX: y",
        "null",
    ),
)
NUMBERS = (0, 1, 2, -1, 0.5, 1.0, 1e308, -0.0, 2**31, 2**53 + 1, 2**63, -(2**63), 10**30)
GRAMMARS = (
    'start: "a" | "b"',
    'root ::= "a" root | "b"',
    'start: start "a"',
    "start: /[a-z]{1,8}/",
    'start: "a"{100000}',
    "start: nothing",
    "%json {",
)
# Fields of free form that hold a constraint, by name.
FREE: dict[str, Callable[[Random], Any]] = {
    "schema": schema,
    "parameters": schema,
    "input_schema": schema,
    "json": schema,
    "guided_json": schema,
    "regex": regex,
    "guided_regex": regex,
    "pattern": regex,
    "grammar": lambda r: r.choice(GRAMMARS),
    "guided_grammar": lambda r: r.choice(GRAMMARS),
    "format": lambda r: r.choice(["json", "", schema(r)]),
    "ebnf": lambda r: r.choice(GRAMMARS),
}
OPTIONAL = 4  # optional fields of an object that are set, on average
MANY = 40  # items, of arrays in arrays; `_inflate` makes longer ones
BYTES = b'"\\{}[],:0-9eE.\x00\xff\xc3\xf0\n tfn'


@dataclass(frozen=True)
class Case:
    """One request. `abandoned`: the client leaves before it is answered."""

    method: str
    path: str
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    abandoned: bool = False

    @property
    def body(self) -> Any:
        """What the content says; None if it is no JSON of a usual kind."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            return None

    def with_body(self, body: Any) -> Case:
        return Case(self.method, self.path, encode(body), self.headers, self.abandoned)

    def to_json(self) -> dict[str, Any]:
        try:
            content = {"text": self.content.decode()}
        except UnicodeDecodeError:
            content = {"base64": base64.b64encode(self.content).decode()}
        return {
            "method": self.method,
            "path": self.path,
            "headers": dict(self.headers),
            "abandoned": self.abandoned,
            **content,
        }

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Case:
        content = row["text"].encode() if "text" in row else base64.b64decode(row["base64"])
        return Case(row["method"], row["path"], content, row["headers"], row["abandoned"])


def encode(body: Any, *, ascii: bool = True) -> bytes:
    try:
        text = json.dumps(body, ensure_ascii=ascii)
    except RecursionError:
        text = _encode_deep(body)
    text = re.sub(rf'"{DIGITS}(\d+)"', lambda match: "9" * int(match[1]), text)
    return text.encode(errors="surrogatepass")


class _Text(str):
    """JSON text that is written already."""


def _encode_deep(body: Any) -> str:
    """`json` goes no deeper than Python's stack."""
    written: list[str] = []
    stack = [body]
    while stack:
        match stack.pop():
            case _Text() as text:
                written.append(text)
            case dict() as value if value:
                members = [[_Text(f",{json.dumps(k)}:"), item] for k, item in value.items()]
                members[0][0] = _Text("{" + members[0][0][1:])
                stack += [_Text("}"), *itertools.chain.from_iterable(map(reversed, members[::-1]))]
            case list() as value if value:
                items = [[_Text(","), item] for item in value]
                items[0][0] = _Text("[")
                stack += [_Text("]"), *itertools.chain.from_iterable(map(reversed, items[::-1]))]
            case value:
                written.append(json.dumps(value))
    return "".join(written)


class Bodies:
    """Requests by seed and number: each can be made again by itself."""

    def __init__(self, openapi: Mapping[str, Any], seed: int) -> None:
        self._definitions = openapi["components"]["schemas"]
        self._seed = seed
        self._described: list[tuple[str, str, Any, Any]] = []  # method, path, schema, example
        for path, operations in sorted(openapi["paths"].items()):
            for method, operation in sorted(operations.items()):
                content = operation.get("requestBody", {}).get("content", {})
                body = content.get("application/json", {})
                # Endpoints without a body are few and quickly told.
                weight = 8 if body else 1
                row = (method.upper(), path, body.get("schema"), body.get("example"))
                self._described += [row] * weight

    def described(self, number: int) -> Case:
        r = Random(f"{self._seed} described {number}")
        method, path, described, example = r.choice(self._described)
        path = re.sub(r"\{\w+\}", lambda _: r.choice(["nope", "%00", "a/b", "x" * 500]), path)
        if r.random() < 0.01:
            method = r.choice(["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "POST"])
        if described is None:
            return Case(method, path)
        body = dict(example or {}) if r.random() < 0.7 else {}
        body |= self._object(r, self._resolved(described), 6, given=set(body))
        self._tame(r, body)
        if r.random() < 0.25:
            _spoil(r, body)
        if r.random() < 0.01:
            _inflate(r, body)
        content = encode(body, ascii=r.random() < 0.7)
        if r.random() < 0.25:
            content = _mutate(r, content)
        return Case(method, path, content, _headers(r), abandoned=r.random() < 0.03)

    def constraint(self, number: int) -> Case:
        """A chat under a random schema or regex; one in three asks what would be enforced."""
        r = Random(f"{self._seed} constraint {number}")
        made, text = schema(r), regex(r)
        if number % 3 == 0:
            return Case("POST", "/v1/schema/check", encode({"schema": made}))
        body = {
            "messages": [{"role": "user", "content": "Give me an example."}],
            "max_tokens": 64,
            "temperature": 1.0,
            "seed": number,
            "stream": r.random() < 0.3,
        }
        if number % 3 == 1:
            named = {"name": "fuzz", "schema": made}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        elif r.random() < 0.5:
            body["structured_outputs"] = {"regex": text}
        else:
            function = {"name": "f", "parameters": made}
            body["tools"] = [{"type": "function", "function": function}]
            body["tool_choice"] = r.choice(["auto", "required"])
        return Case("POST", "/v1/chat/completions", encode(body))

    def _resolved(self, described: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in described:
            described = self._definitions[described["$ref"].rsplit("/", 1)[1]]
        return described

    def _object(
        self, r: Random, described: Mapping[str, Any], depth: int, given: set[str]
    ) -> dict[str, Any]:
        fields = described.get("properties", {})
        required = set(described.get("required", ()))
        made = {}
        share = OPTIONAL / max(1, len(fields))
        for name, of in fields.items():
            chance = 0.97 if name in required else share
            if r.random() < (0.1 if name in given else chance):
                made[name] = self._value(r, of, depth - 1, name)
        if described.get("additionalProperties") and r.random() < 0.2:
            made[r.choice(TEXTS[:8])] = _anything(r)
        return made

    def _value(self, r: Random, described: Mapping[str, Any], depth: int, name: str) -> Any:
        described = self._resolved(described)
        if name in FREE and r.random() < 0.9:
            return FREE[name](r)
        if depth < 0:
            return None
        if options := described.get("anyOf") or described.get("oneOf"):
            # Most fields may be null, which says nothing.
            named = [o for o in options if o.get("type") != "null"]
            chosen = r.choice(named if r.random() < 0.95 else options)
            return self._value(r, chosen, depth, name)
        if "const" in described:
            return described["const"]
        if "enum" in described:
            return r.choice(described["enum"])
        match described.get("type"):
            case "object":
                return self._object(r, described, depth, set())
            case "array":
                most = min(MANY, described.get("maxItems", 3))
                count = r.choice([0, 1, 1, 1, 2, 3, most + 1])
                return [self._value(r, described.get("items", {}), depth, "") for _ in range(count)]
            case "string":
                return r.choice(TEXTS)
            case "boolean":
                return r.random() < 0.5
            case "integer" | "number" as kind:
                return _number(r, described, whole=kind == "integer")
        return _anything(r)

    def _tame(self, r: Random, body: dict[str, Any]) -> None:
        """Most requests should ask for little, of the model that is served."""
        if "model" in body and r.random() < 0.9:
            del body["model"]
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
            if (name in body or name == "max_tokens") and r.random() < 0.95:
                body[name] = r.randint(1, 16)
        for name in ("n", "best_of"):
            if name in body and r.random() < 0.9:
                body[name] = r.randint(1, 3)
        if r.random() < 0.9:
            body.pop("min_tokens", None)


def _number(r: Random, described: Mapping[str, Any], *, whole: bool) -> Any:
    """At the bounds, between them, and seldom beyond."""
    least = described.get("minimum", described.get("exclusiveMinimum"))
    most = described.get("maximum", described.get("exclusiveMaximum"))
    if r.random() < 0.05:
        return r.choice([f"{DIGITS}4300", f"{DIGITS}5000", float("nan"), float("inf"), *NUMBERS])
    edges = [edge for edge in (least, most) if edge is not None]
    if edges and r.random() < 0.3:
        return r.choice(edges) + r.choice([-1, 0, 0, 1])
    low = -10 if least is None else least
    high = low + 100 if most is None else most
    return r.randint(int(low), int(high)) if whole else r.uniform(low, high)


def _anything(r: Random, depth: int = 2) -> Any:
    kind = r.randint(0, 6 if depth else 3)
    if kind <= 1:
        return r.choice(TEXTS)
    if kind == 2:
        return r.choice([True, False, None])
    if kind == 3:
        return r.choice(NUMBERS)
    count = r.randint(0, 3)
    if kind == 4:
        return [_anything(r, depth - 1) for _ in range(count)]
    return {r.choice(TEXTS): _anything(r, depth - 1) for _ in range(count)}


def paths(value: Any) -> Iterator[Path]:
    """Where a value has members, at any depth."""
    found: list[tuple[Path, Any]] = [([], value)]
    while found:
        path, item = found.pop()
        if path:
            yield path
        if isinstance(item, dict):
            found += [([*path, key], inner) for key, inner in item.items()]
        elif isinstance(item, list):
            found += [([*path, at], inner) for at, inner in enumerate(item)]


def parent_of(value: Any, path: Path) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


def _spoil(r: Random, body: dict[str, Any]) -> None:
    """Another value at one or two places, or none."""
    for _ in range(r.randint(1, 2)):
        if not (places := list(paths(body))):
            return
        path = r.choice(places)
        parent = parent_of(body, path)
        if r.random() < 0.2:
            del parent[path[-1]]
        elif isinstance(parent, dict) and r.random() < 0.2:
            parent[r.choice(TEXTS)] = parent.pop(path[-1])
        else:
            parent[path[-1]] = _anything(r)


def _inflate(r: Random, body: dict[str, Any]) -> None:
    """One value becomes very large: long, wide or deep."""
    path = r.choice(list(paths(body)) or [["user"]])
    parent = parent_of(body, path)
    value = parent.get(path[-1]) if isinstance(parent, dict) else parent[path[-1]]
    if isinstance(value, str):
        large: Any = (value or "x") * (r.choice([10_000, 1_000_000]) // len(value or "x"))
    elif isinstance(value, bool | int | float):
        large = f"{DIGITS}{r.choice([400, 4300, 100_000])}"
    elif isinstance(value, list):
        large = (value or [1]) * (r.choice([1_000, 50_000]) // len(value or [1]))
    elif isinstance(value, dict) and r.random() < 0.5:
        large = value | {f"k{at}": at for at in range(r.choice([1_000, 50_000]))}
    else:
        large = value
        for _ in range(r.choice([100, 250])):
            large = [large] if r.random() < 0.5 else {"a": large}
    parent[path[-1]] = large


def _mutate(r: Random, content: bytes) -> bytes:
    """A few bytes changed, added, dropped, doubled, or the end cut off."""
    text = bytearray(content)
    for _ in range(r.choice([1, 1, 1, 2, 4, 16])):
        at = r.randrange(len(text)) if text else 0
        match r.randint(0, 4):
            case 0 if text:
                text[at] = r.randrange(256)
            case 1:
                text.insert(at, r.choice(BYTES))
            case 2:
                del text[at : at + r.choice([1, 1, 2, 10])]
            case 3:
                text[at:at] = text[at : at + r.choice([1, 5, 50])]
            case _:
                if r.random() < 0.2:
                    del text[at:]
    return bytes(text)


def _headers(r: Random) -> dict[str, str]:
    if r.random() < 0.9:
        return {"content-type": "application/json"}
    return r.choice(
        [
            {},
            {"content-type": "text/plain; charset=utf-16"},
            {"content-type": "multipart/form-data"},
            {"x-request-id": "a" * 300},
            {"accept": "text/event-stream", "content-encoding": "gzip"},
            {"authorization": "Bearer ~", "origin": "null"},
        ]
    )
