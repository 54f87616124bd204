"""The written tools (weather, mail, calendar...): their schemas, requests, results and answers.

Reads tools.txt and fills its forms with random values; knows nothing of conversations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

from training.generate import values
from training.generate.chat import choose_form
from training.generate.records import draw
from training.generate.values import DATA, Value, of

CURRENCIES = ("USD", "EUR", "GBP", "JPY", "CNY", "CHF", "CAD", "AUD", "INR", "KRW", "BRL", "SEK")
ROOMS = {
    "en": ["kitchen", "bedroom", "living room", "bathroom", "office", "garage", "hallway", "attic"],
    "zh": ["厨房", "卧室", "客厅", "浴室", "办公室", "车库", "走廊", "阁楼"],
}
TASKS = {
    "en": [
        "buy milk",
        "call mom",
        "pay the bill",
        "water the plants",
        "walk the dog",
        "take a break",
    ],
    "zh": ["买牛奶", "给妈妈打电话", "交电费", "浇花", "遛狗", "休息一下", "开会", "吃药"],
}
SENTENCES = {
    "en": ["I will be late", "see you tomorrow", "the meeting is cancelled", "Happy birthday!",
           "good morning", "Thank you for your help", "Where is the train station?", "I love you"],
    "zh": ["我会晚到", "明天见", "会议取消了", "生日快乐", "早上好", "谢谢你的帮助", "火车站在哪里", "我爱你"],
}  # fmt: skip
INTEGERS = frozenset("minutes small count year height temp20 age temp years percent count2".split())


@dataclass(frozen=True)
class Parameter:
    names: tuple[str, ...]
    kind: str
    required: bool
    description: str


@dataclass(frozen=True)
class Tool:
    names: tuple[str, ...]
    description: str
    parameters: list[Parameter] = field(default_factory=list)
    requests: dict[str, list[str]] = field(default_factory=lambda: {"en": [], "zh": []})
    missing: dict[str, list[str]] = field(default_factory=lambda: {"en": [], "zh": []})
    results: list[str] = field(default_factory=list)
    answers: dict[str, list[str]] = field(default_factory=lambda: {"en": [], "zh": []})


@cache
def bank() -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for line in (DATA / "tools.txt").read_text(encoding="utf-8").splitlines():
        tag, rest = line[:3], line[3:]
        if line.startswith("@"):
            names, description = line[1:].split(" | ")
            tools.append(Tool(tuple(names.split(",")), description))
        elif line.startswith("p "):
            parts = line[2:].split(" | ")
            names, kind, need = parts[:3]
            text = parts[3] if len(parts) > 3 else ""
            tools[-1].parameters.append(Parameter(tuple(names.split(",")), kind, need == "r", text))
        elif tag in ("e: ", "z: "):
            tools[-1].requests["en" if tag == "e: " else "zh"].append(rest)
        elif tag in ("m: ", "n: "):
            tools[-1].missing["en" if tag == "m: " else "zh"].append(rest)
        elif tag == "R: ":
            tools[-1].results.append(rest)
        elif tag in ("A: ", "B: "):
            tools[-1].answers["en" if tag == "A: " else "zh"].append(rest)
    return tuple(tools)


def sentence(r: Random, lang: str) -> str:
    if r.random() < 0.4:
        return r.choice(SENTENCES[lang])
    if lang == "zh":
        return values.hanzi(r, 3, 10)
    pool = [values.made_up(r), of(r, "nouns"), of(r, "adjectives"), "the", "a", "is", "we", "for"]
    return " ".join(r.choice(pool) for _ in range(r.randint(2, 7)))


def _sql(r: Random) -> str:
    table = r.choice([values.made_up(r), of(r, "nouns") + "s"])
    column = r.choice(["*", "id, name", "email", "count(*)", values.made_up(r)])
    tail = r.choice(["", f" WHERE id = {r.randint(1, 999)}", f" LIMIT {r.randint(1, 100)}"])
    return f"SELECT {column} FROM {table}{tail}"


def _path(r: Random) -> str:
    stem = r.choice([values.made_up(r), of(r, "nouns"), f"{values.made_up(r)}_{r.randint(1, 99)}"])
    name = f"{stem}.{r.choice(['txt', 'md', 'json', 'py', 'csv', 'log', 'pdf'])}"
    roll = r.random()
    if roll < 0.4:
        return name
    return f"/{r.choice(['home', 'tmp', 'var/log', 'etc', values.made_up(r)])}/{name if roll < 0.8 else stem}"


def draw_argument(kind: str, r: Random, lang: str) -> Value:
    """A random argument and its surface form; kinds of `records.draw` and those of tools."""
    match kind:
        case "expression":
            parts = [str(r.randint(1, 999)) for _ in range(r.randint(2, 3))]
            text = parts[0] + "".join(f" {r.choice('+-*/')} {p}" for p in parts[1:])
            return text, text
        case "number":
            number = values.number(r)
            return number, values.plain(number)
        case "temp20":
            value = r.randint(10, 30)
            return value, str(value)
        case "bool":
            yes = r.random() < 0.5
            return yes, str(yes).lower()
        case "list":
            return values.several(r, lang, lambda: values.made_up(r), 1, 4)
    if kind.startswith("enum:"):
        value, shown = r.choice(kind[5:].split(",")).split("=")
        return value, shown.split("/")[lang == "zh"]
    if kind.startswith("bool:"):
        forms = kind.split(":")[1 + (lang == "zh")].split("/")
        yes = r.random() < 0.5
        return yes, forms[0 if yes else 1]
    text = ""
    match kind:
        case "currency":
            text = r.choice(CURRENCIES)
        case "ticker":
            text = values.letters(r, 2, 5, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
            text = (
                r.choice(["AAPL", "TSLA", "MSFT", "GOOG", "NVDA", "AMZN"])
                if r.random() < 0.3
                else text
            )
        case "clock":
            text = values.clock(r, lang)
        case "sentence":
            text = sentence(r, lang)
        case "phrase":
            text = values.scramble(r, lang) if r.random() < 0.4 else sentence(r, lang)
        case "topic":
            text = of(r, "topics", lang) if r.random() < 0.6 else values.scramble(r, lang)
        case "room":
            text = r.choice(ROOMS[lang])
        case "task":
            text = r.choice(TASKS[lang]) if r.random() < 0.5 else sentence(r, lang)
        case "language":
            text = of(r, "languages", lang)
        case "sql":
            text = _sql(r)
        case "path":
            text = _path(r)
        case "word":
            text = values.scramble(r, lang)
    return (text, text) if text else draw(kind, r, lang)


def schema_of(kind: str) -> dict[str, Any]:
    if kind.startswith("enum:"):
        options = dict.fromkeys(part.split("=")[0] for part in kind[5:].split(","))
        return {"type": "string", "enum": list(options)}
    if kind.startswith("bool"):
        return {"type": "boolean"}
    if kind in INTEGERS:
        return {"type": "integer"}
    if kind in ("number", "money", "weight", "rating"):
        return {"type": "number"}
    if kind in ("people", "list", "skills", "foods", "languages"):
        return {"type": "array", "items": {"type": "string"}}
    return {"type": "string"}


def definition(
    name: str, description: str, properties: dict[str, Any], required: list[str], r: Random
) -> dict[str, Any]:
    """An OpenAI tool, in one of the shapes that clients send."""
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required or r.random() < 0.3:
        parameters["required"] = required
    if r.random() < 0.15:
        parameters["additionalProperties"] = False
    function: dict[str, Any] = {"name": name}
    if description:
        function["description"] = description
    function["parameters"] = parameters
    if r.random() < 0.06:
        function["strict"] = True
    return {"type": "function", "function": function}


@dataclass
class Offer:
    """One tool as it stands in a prompt: its name and its parameters' names are settled."""

    tool: Tool
    name: str
    names: dict[str, str]  # written parameter name -> name in this prompt
    json: dict[str, Any]


def offer(tool: Tool, r: Random) -> Offer:
    name = tool.names[0] if r.random() < 0.55 else r.choice(tool.names)
    names = {
        p.names[0]: p.names[0] if r.random() < 0.6 else r.choice(p.names) for p in tool.parameters
    }
    if len(set(names.values())) < len(names):
        names = {p.names[0]: p.names[0] for p in tool.parameters}
    keep = [p for p in tool.parameters if p.required or r.random() < 0.8]
    described, properties = r.random() < 0.7, {}
    for parameter in keep:
        schema = schema_of(parameter.kind)
        if described and parameter.description and r.random() < 0.85:
            place = r.random() < 0.85
            text = {"description": parameter.description}
            schema = {**schema, **text} if place else {**text, **schema}
        properties[names[parameter.names[0]]] = schema
    required = [names[p.names[0]] for p in keep if p.required]
    description = tool.description if r.random() < 0.9 else ""
    return Offer(
        tool,
        name,
        {p.names[0]: names[p.names[0]] for p in keep},
        definition(name, description, properties, required, r),
    )


@dataclass
class Use:
    """One request for one tool: what is asked, the right call, the result and the answer."""

    request: str
    name: str
    arguments: dict[str, Any]
    result: str
    answer: str


def use(offered: Offer, r: Random, lang: str, held_out: bool = False) -> Use:
    tool = offered.tool
    usable = [
        form
        for form in tool.requests[lang]
        if all(name in offered.names for name in re.findall(r"{(\w+)}", form))
    ]
    text = choose_form(r, usable, held_out)
    shown: dict[str, str] = {}
    arguments: dict[str, Any] = {}
    for parameter in tool.parameters:
        written = parameter.names[0]
        if "{" + written + "}" in text:
            value, shown[written] = draw_argument(parameter.kind, r, lang)
            if isinstance(value, str) and r.random() < 0.1 and parameter.kind == "city":
                value = shown[written] = values.city(r, "en" if lang == "zh" else "zh")
            arguments[offered.names[written]] = value
            text = text.replace("{" + written + "}", shown[written])
    which = r.randrange(len(tool.results))
    answer, result = tool.answers[lang][which], tool.results[which]
    for kind in set(re.findall(r"{#(\w+)}", result)):
        value, surface = draw_argument(kind.rstrip("2") if kind != "count2" else kind, r, lang)
        result = result.replace("{#" + kind + "}", values.plain(value))
        answer = answer.replace("{#" + kind + "}", surface)
    for written, surface in shown.items():
        answer = answer.replace("{" + written + "}", surface)
        result = result.replace("{" + written + "}", surface)
    return Use(text, offered.name, arguments, result, answer)
