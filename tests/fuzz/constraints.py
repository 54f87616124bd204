"""Random JSON Schemas and regexes: every keyword, mostly sound, seldom absurd."""

from __future__ import annotations

from random import Random
from typing import Any

from benchmarks.nasty_constraints import PATTERNS, schemas

TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")
FORMATS = (
    *("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri"),
    *("uri-reference", "uuid", "regex", "json-pointer", "idn-email", "iri", "unknown-format"),
)
NAMES = ("a", "b", "name", "ä", "", "$ref", "type", "a/b", "a~b", "__proto__", "constructor")
SCALARS = (None, True, False, 0, -1, 1.5, 1e300, 10**20, "", "a", "ab", "é", "\u2028", '"\\')
ATOMS = (
    *("a", "b", "ab", ".", "\\d", "\\w", "\\s", "\\S", "\\D", "\\W", "[a-c]", "[^a]", "[]"),
    *("[^]", "\\p{L}", "\\P{Lu}", "\\p{Script=Greek}", "\\u00e9", "\\x41", "\\n", "\\cA", "\\0"),
    *("\\.", "-", "[\\w.-]", "[\\d-z]", "é", "\U0001f600", "\\u{1F600}", "[\U0001f600a]", "/"),
)
ANCHORS = ("^", "$", "\\b", "\\B")
GROUPS = ("(", "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?<n>")
QUANTIFIERS = ("*", "+", "?", "{2}", "{0,3}", "{1,}", "*?", "+?", "??", "{0}", "{3,1}", "{70000}")


def regex(r: Random, depth: int = 3) -> str:
    """One of a kind in fifty is no regex at all."""
    if depth == 3 and r.random() < 0.05:
        return r.choice(PATTERNS)
    if r.random() < 0.02:
        return r.choice(["(", "[", "a{", "\\", "*", "(?P<n>a)", "(?i)a", "\\1", "a**", "[z-a]"])
    parts = []
    for _ in range(r.randint(0, 4)):
        kind = r.random()
        if kind < 0.55 or not depth:
            parts.append(r.choice(ATOMS))
        elif kind < 0.7:
            parts.append(r.choice(ANCHORS))
        elif kind < 0.95:
            parts.append(f"{r.choice(GROUPS)}{regex(r, depth - 1)})")
        else:
            parts.append("|")
        if r.random() < 0.3:
            parts.append(r.choice(QUANTIFIERS[:-2] if r.random() < 0.95 else QUANTIFIERS))
    text = "".join(parts)
    return f"^{text}$" if depth == 3 and r.random() < 0.6 else text


def schema(r: Random, depth: int = 3) -> Any:
    if depth == 3 and r.random() < 0.06:
        hostile = schemas(r)
        return [next(hostile) for _ in range(r.randint(1, 20))][-1]
    if r.random() < 0.05:
        return r.choice([True, False, {}])
    if not depth:
        return r.choice([{"type": r.choice(TYPES)}, {"const": r.choice(SCALARS)}, {}])
    made: dict[str, Any] = {}
    if r.random() < 0.85:
        kinds = r.sample(TYPES, r.choice([1, 1, 1, 1, 2, 3]))
        made["type"] = kinds[0] if len(kinds) == 1 else kinds
    for kind in TYPES if "type" not in made else [made["type"]] if len(made) else []:
        if isinstance(kind, str) and r.random() < 0.8:
            made |= _typed(r, kind, depth)
    if r.random() < 0.25:
        made |= _combined(r, depth)
    if r.random() < 0.03:  # a keyword that is no schema's
        made[r.choice(list(made) or ["type"])] = r.choice(SCALARS)
    if depth == 3 and r.random() < 0.2:
        made["$defs"] = {name: schema(r, depth - 1) for name in r.sample(NAMES, 2)}
    return made


def _count(r: Random) -> int:
    return r.choice([0, 1, 1, 2, 2, 3, 5, 8, r.choice([40, 1000, 10**6, 2**63, -1])])


def _some(r: Random, keywords: dict[str, Any]) -> dict[str, Any]:
    """Each keyword's value is made only if it is chosen."""
    return {name: make() for name, make in keywords.items() if r.random() < 0.3}


def _typed(r: Random, kind: str, depth: int) -> dict[str, Any]:
    def inner() -> Any:
        return schema(r, depth - 1)

    def members() -> dict[str, Any]:
        return {name: inner() for name in r.sample(NAMES, r.randint(0, 4))}

    def number() -> Any:
        return r.choice([0, 1, -5, 2.5, 100, 1e-7, 10**18, -(10**30), 0.1])

    match kind:
        case "string":
            return _some(
                r,
                {
                    "minLength": lambda: _count(r),
                    "maxLength": lambda: _count(r),
                    "pattern": lambda: regex(r),
                    "format": lambda: r.choice(FORMATS),
                },
            )
        case "integer" | "number":
            return _some(
                r,
                {
                    "minimum": number,
                    "maximum": number,
                    "exclusiveMinimum": number,
                    "exclusiveMaximum": number,
                    "multipleOf": lambda: r.choice([1, 2, 7, 0.5, 0.01, 1e-9, 99_991, 0, -1]),
                },
            )
        case "array":
            return _some(
                r,
                {
                    "items": inner,
                    "prefixItems": lambda: [inner() for _ in range(r.randint(0, 3))],
                    "minItems": lambda: _count(r),
                    "maxItems": lambda: _count(r),
                    "uniqueItems": lambda: r.random() < 0.9,
                    "contains": inner,
                    "minContains": lambda: _count(r),
                    "maxContains": lambda: _count(r),
                    "unevaluatedItems": inner,
                },
            )
        case "object":
            return {"properties": members()} | _some(
                r,
                {
                    "required": lambda: r.sample(NAMES, r.randint(0, 3)),
                    "additionalProperties": inner,
                    "patternProperties": lambda: {regex(r): inner() for _ in range(2)},
                    "propertyNames": inner,
                    "minProperties": lambda: _count(r),
                    "maxProperties": lambda: _count(r),
                    "dependentRequired": lambda: {r.choice(NAMES): [r.choice(NAMES)]},
                    "dependentSchemas": lambda: {r.choice(NAMES): inner()},
                    "unevaluatedProperties": inner,
                },
            )
    return {}


def _combined(r: Random, depth: int) -> dict[str, Any]:
    def inner() -> Any:
        return schema(r, depth - 1)

    match r.randint(0, 7):
        case 0:
            return {"enum": r.sample(SCALARS, r.randint(1, 5))}
        case 1:
            return {"const": r.choice(SCALARS)}
        case 2 | 3 | 4:
            keyword = r.choice(["allOf", "anyOf", "oneOf"])
            return {keyword: [inner() for _ in range(r.randint(1, 4))]}
        case 5:
            return {"not": inner()}
        case 6:
            return {"if": inner(), "then": inner(), "else": inner()}
        case _:
            return {"$ref": r.choice(["#", "#/$defs/a", "#/$defs/b", "#/properties/a", "#/nope"])}
