"""Requests with tools, and their answers read by plain regular expressions and `json`: what
`format_walks.py` compares the stream parsers with. Nothing here is shared with them.
"""

from __future__ import annotations

import ast
import json
import random
import re
from dataclasses import dataclass, field
from typing import Any

from formgate.parsers.families.registry import FORMATS, REASONING
from formgate.parsers.formats.format import Tool, ToolChoice

TEXT = {"type": "string"}
CLOSED = {"type": "object", "additionalProperties": False}
POOL: dict[str, Any] = {
    "get_weather": {
        **CLOSED,
        "properties": {"city": TEXT, "unit": {"enum": ["celsius", "fahrenheit"]}},
        "required": ["city"],
    },
    "get": {**CLOSED, "properties": {}},
    "edit.file": {
        **CLOSED,
        "properties": {
            "path": {"type": "string", "pattern": "^[a-z]{1,8}/[a-z.]{1,8}$"},
            "edits": {"type": "array", "items": {"$ref": "#/$defs/edit"}, "maxItems": 3},
            "mode": {"const": "fast"},
            "note": {"anyOf": [TEXT, {"type": "null"}]},
        },
        "required": ["path", "edits"],
        "$defs": {
            "edit": {
                **CLOSED,
                "properties": {"line": {"type": "integer", "minimum": 0}, "text": TEXT},
                "required": ["line"],
            }
        },
    },
    "a-b": {**CLOSED, "properties": {"a": {"type": "boolean"}, "b": TEXT}},
    "search": {
        **CLOSED,
        "properties": {
            "where": {"enum": ["北京", "Zürich", "naïve café", 'a "b"', "it's"]},
            "limit": {"type": "integer", "minimum": 1, "maximum": 50},
            "ratio": {"type": "number"},
            "either": {"type": ["integer", "boolean"]},
            "level": {"enum": [1, 2, None, "high", True]},
            "nothing": {"type": "null"},
        },
        "required": ["where"],
    },
    "tree": {
        **CLOSED,
        "properties": {
            "node": {
                **CLOSED,
                "properties": {"name": TEXT, "tags": {"type": "array", "items": TEXT}},
                "required": ["name"],
            },
            "depth": {"type": "integer"},
        },
        "required": ["node"],
    },
}
# What guards watch beside the masks.
_UNIQUE = {"type": "array", "items": {"enum": ["a", "b", "ab", 1]}, "uniqueItems": True}
_OPEN = {"type": "object", "additionalProperties": {"enum": [1, "a"]}}
GUARDED: dict[str, Any] = {
    "get": {
        **CLOSED,
        "properties": {"tags": {**_UNIQUE, "minItems": 2}, "more": _OPEN},
        "required": ["tags", "more"],
    },
    "tree": {
        **CLOSED,
        "properties": {
            "few": {**_OPEN, "propertyNames": {"enum": ["a", "ab", "b"]}, "minProperties": 2},
            "any": {"type": "object"},
        },
        "required": ["few"],
    },
    "a-b": {**CLOSED, "properties": {"pairs": {**_UNIQUE, "items": {**_UNIQUE, "maxItems": 1}}}},
    "search": {**CLOSED, "properties": {"one": _OPEN, "other": _OPEN}},
}
CONTENT = {**CLOSED, "properties": {"answer": TEXT, "sure": {"type": "boolean"}}}
CONTENT["required"] = ["answer"]


@dataclass
class Said:
    """An answer, by whoever read it."""

    reasoning: str = ""
    content: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Syntax:
    """How a family writes its calls, as regular expressions; `<...>` is a marker. Without `call`, a
    call is one JSON object that holds the name and, under `key`, the arguments."""

    opening: str
    call: str = ""
    end: str = ""
    again: str = ""
    final: str = ""
    key: str = "arguments"


NAME = r"(?P<name>[\w.-]+)"
SYNTAX = {
    "mistral": Syntax("<[TOOL_CALLS]> ?\\[", again=", ", final="\\]"),
    "mistral_v11": Syntax("<[TOOL_CALLS]>", NAME + "<[ARGS]>", again="<[TOOL_CALLS]>"),
    "llama3_json": Syntax("(?:<<|python_tag|>>)?", again="; ", key="parameters"),
    "hermes": Syntax("<<tool_call>>\n", end="\n<</tool_call>>", again="\n<<tool_call>>\n"),
    "deepseek_v3": Syntax(
        "<<｜tool▁calls▁begin｜>>",
        "<<｜tool▁call▁begin｜>>function<<｜tool▁sep｜>>" + NAME + "\n```json\n",
        "\n```<<｜tool▁call▁end｜>>",
        "\n",
        "<<｜tool▁calls▁end｜>>",
    ),
    "deepseek_v31": Syntax(
        "<<｜tool▁calls▁begin｜>>",
        "<<｜tool▁call▁begin｜>>" + NAME + "<<｜tool▁sep｜>>",
        "<<｜tool▁call▁end｜>>",
        "(?=<<｜tool▁call▁begin｜>>)",
        "<<｜tool▁calls▁end｜>>",
    ),
    "kimi_k2": Syntax(
        "<<|tool_calls_section_begin|>>",
        "<<|tool_call_begin|>>functions." + NAME + ":[0-9]+<<|tool_call_argument_begin|>>",
        "<<|tool_call_end|>>",
        "(?=<<|tool_call_begin|>>)",
        "<<|tool_calls_section_end|>>",
    ),
    "granite": Syntax("<<|tool_call|>>\\[", again=", ", final="\\]"),
    "internlm": Syntax(
        "<<|action_start|>><<|plugin|>>\n",
        end="<<|action_end|>>",
        again="<<|action_start|>><<|plugin|>>\n",
        key="parameters",
    ),
    "jamba": Syntax("<<tool_calls>>\\[\n    ", again=",\n    ", final="\n\\]<</tool_calls>>"),
    "phi4_mini_json": Syntax("<functools>\\[", again=", ", final="\\]"),
    "xlam": Syntax("\\[", again=", ", final="\\]"),
    "harmony": Syntax(
        "<<|channel|>>commentary to=functions\\.", NAME + " <<|constrain|>>json<<|message|>>"
    ),
    "generic": Syntax("<tool_call>\n", end="\n</tool_call>", again="\n<tool_call>\n"),
}
MARKERS = {
    "pythonic": "<|python_start|>",
    "qwen3_coder": "<tool_call>",
    "glm45": "<tool_call>",
    "generic": "<tool_call>",
    "lfm2": "<|tool_call_start|>",
    "gemma4": "<|tool_call>",
}
BARE = ("llama3_json", "pythonic", "xlam")
THINK = {"deepseek_r1": ("<think>", "</think>"), "mistral": ("[THINK]", "[/THINK]")}


@dataclass(frozen=True)
class Case:
    """One request."""

    format: str
    tools: tuple[Tool, ...]
    choice: ToolChoice
    parallel: bool
    structured: bool
    thinks: str | None
    state: Any
    special_ids: dict[str, int]

    @classmethod
    def drawn(cls, name: str, rng: random.Random) -> Case:
        names = rng.sample(sorted(POOL), rng.randint(1, 4))
        tools = tuple(Tool(tool, POOL[tool], f"/tools/{tool}") for tool in names)
        modes: list[Any] = ["auto", "auto", "required", "named"]
        mode = rng.choice(modes)
        choice = ToolChoice.named(rng.choice(names)) if mode == "named" else ToolChoice(mode)
        if mode == "auto" and rng.random() < 0.2:
            choice = ToolChoice("auto", frozenset(names[:1]))
        states = ["none", "optional", "open"]
        thinks = rng.choice([None, "deepseek_r1", "mistral"])
        if name == "harmony":
            thinks, states = rng.choice([None, "harmony"]), ["none", "optional"]
        markers = FORMATS[name].markers() | (REASONING[thinks].markers() if thinks else set())
        tokens = name == "harmony" or rng.random() < 0.7
        return cls(
            format=name,
            tools=tools,
            choice=choice,
            parallel=rng.random() < 0.7,
            structured=rng.random() < 0.3,
            thinks=thinks,
            state=rng.choice(states) if thinks else "none",
            special_ids={m.text: 257 + i for i, m in enumerate(sorted(markers))} if tokens else {},
        )

    def mark(self, marker: str) -> str:
        """A special token as one character that no text has, or the marker's own text."""
        token_id = self.special_ids.get(marker)
        return marker if token_id is None else chr(0x10F000 + token_id)

    def pattern(self, written: str) -> str:
        marker = re.compile(r"<(<[^<>]+>|\[[A-Z_]+\]|functools)>")
        return marker.sub(lambda found: re.escape(self.mark(found[1])), written)


def read_again(case: Case, text: str) -> Said:
    """The answer by other means. `text` holds special tokens as `Case.mark` writes them."""
    said = Said()
    text = _without_reasoning(case, text, said)
    start = _start_of_calls(case, text)
    before, calls = (text, "") if start is None else (text[:start], text[start:])
    if case.format == "harmony":
        for framing in ("<<|channel|>>final<<|message|>>", "<<|start|>>assistant"):
            before = re.sub(case.pattern(framing).replace("|", "\\|"), "", before)
    said.content = before.rstrip(" \t\r\n") if calls else before
    if calls:
        said.calls = _calls(case, calls)
    return said


def _without_reasoning(case: Case, text: str, said: Said) -> str:
    if case.thinks is None or case.state == "none":
        return text
    if case.thinks == "harmony":
        channel, message, end, start = map(
            case.mark, ("<|channel|>", "<|message|>", "<|end|>", "<|start|>")
        )
        opening, closing = f"{channel}analysis{message}", f"{end}{start}assistant"
        while text.startswith(opening):
            thought, _, text = text.removeprefix(opening).partition(closing)
            said.reasoning += thought.strip("\r\n")
        return text
    opening, closing = map(case.mark, THINK[case.thinks])
    if case.state == "optional":
        if not text.lstrip(" \t\r\n").startswith(opening):
            return text
        text = text.lstrip(" \t\r\n").removeprefix(opening)
    thought, _, text = text.partition(closing)
    said.reasoning = thought.strip("\r\n")
    return text.lstrip("\r\n")


def _start_of_calls(case: Case, text: str) -> int | None:
    if case.format in BARE:
        bare = case.format == "pythonic" or not (case.structured and case.format != "xlam")
        if bare and _begins_call(case, text):
            return 0
        marker = MARKERS.get(case.format, "<|python_tag|>")
        tokens = marker in case.special_ids
        if not tokens and not bare:
            return 0 if text.startswith(marker) else None
        at = text.find(case.mark(marker)) if tokens else -1
        return at if at >= 0 and case.format != "xlam" else None
    opening = MARKERS.get(case.format)
    typed = opening not in case.special_ids and not FORMATS[case.format].has_token(case.special_ids)
    if case.structured and typed:
        written = SYNTAX[case.format].opening if opening is None else re.escape(opening)
        return 0 if re.match(written and _escaped(case, written), text) else None
    if opening is None:
        found = re.search(_escaped(case, SYNTAX[case.format].opening), text)
        return found.start() if found else None
    at = text.find(case.mark(opening))
    return at if at >= 0 else None


def _begins_call(case: Case, text: str) -> bool:
    names = "|".join(re.escape(tool.name) for tool in case.choice.allowed(case.tools))
    if case.format == "pythonic":
        return re.match(rf"\[(?:{names})\(", text) is not None
    lead = r"\[" if case.format == "xlam" else ""
    return re.match(rf'{lead}\{{"name": "(?:{names})", ', text) is not None


def _escaped(case: Case, written: str) -> str:
    # The bars of a marker's name are no alternatives.
    return case.pattern(written)


def _calls(case: Case, text: str) -> list[tuple[str, Any]]:
    if case.format == "pythonic":
        return _python_calls(text.removeprefix(case.mark("<|python_start|>")))
    if case.format == "lfm2":
        end = case.mark("<|tool_call_end|>")
        assert text.endswith(end), text
        return _python_calls(text.removeprefix(case.mark("<|tool_call_start|>")).removesuffix(end))
    if case.format == "gemma4":
        return _marked_calls(case, text)
    if case.format in ("qwen3_coder", "glm45"):
        return _tagged_calls(case, text)
    syntax = SYNTAX[case.format]
    made: list[tuple[str, Any]] = []
    at = _behind(case, syntax.opening, text, 0)
    while True:
        if syntax.call:
            found = re.compile(_escaped(case, syntax.call)).match(text, at)
            assert found, text[at:]
            arguments, at = json.JSONDecoder().raw_decode(text, found.end())
            made.append((found["name"], arguments))
        else:
            call, at = json.JSONDecoder().raw_decode(text, at)
            made.append((call["name"], call[syntax.key]))
        at = _behind(case, syntax.end, text, at)
        again = re.compile(_escaped(case, syntax.again)).match(text, at) if syntax.again else None
        if again is None:
            break
        at = again.end()
    assert _behind(case, syntax.final, text, at) == len(text), text[at:]
    return made


def _behind(case: Case, written: str, text: str, at: int) -> int:
    found = re.compile(_escaped(case, written)).match(text, at)
    assert found, (written, text[at:])
    return found.end()


def _python_calls(text: str) -> list[tuple[str, Any]]:
    words = {"true": True, "false": False, "null": None}
    plain = re.sub(r"([\[ ])(edit\.file|a-b)\(", lambda m: m[1] + _HIDDEN[m[2]] + "(", text)
    parsed = ast.parse(plain, mode="eval").body
    assert isinstance(parsed, ast.List), text
    shown = {hidden: name for name, hidden in _HIDDEN.items()}
    made = []
    for call in parsed.elts:
        assert isinstance(call, ast.Call)
        name = ast.unparse(call.func)
        arguments = {
            word.arg: _joined(eval(compile(ast.Expression(word.value), "", "eval"), dict(words)))
            for word in call.keywords
        }
        made.append((shown.get(name, name), arguments))
    return made


_HIDDEN = {"edit.file": "edit_file", "a-b": "a_b"}


def _joined(value: Any) -> Any:
    """JSON's pairs of surrogate escapes are one character, Python's are two."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    if isinstance(value, list):
        return [_joined(item) for item in value]
    if isinstance(value, dict):
        return {_joined(key): _joined(item) for key, item in value.items()}
    return value


def _marked_calls(case: Case, text: str) -> list[tuple[str, Any]]:
    """Gemma's calls, as JSON: its texts are put between quotes, and so are its keys."""
    opening, closing, quote = map(case.mark, ("<|tool_call>", "<tool_call|>", '<|"|>'))
    made, at = [], 0
    json_text = r'"(?:[^"\\]|\\.)*"'
    parts = re.compile(
        rf"{re.escape(quote)}(.*?){re.escape(quote)}|({json_text}\s*:?)|([A-Za-z_]\w*)(?=:)|(.)",
        re.S,
    )
    while at < len(text):
        assert text.startswith(f"{opening}call:", at), text[at:]
        at += len(opening) + len("call:")
        name_end = text.index("{", at)
        name, at, written = text[at:name_end], name_end, ""
        while not text.startswith(closing, at):
            found = parts.match(text, at)
            assert found, text[at:]
            said, quoted, key, other = found.groups()
            if said is not None:
                written += json.dumps(said)
            else:
                written += quoted or (f'"{key}"' if key else other)
            at = found.end()
        at += len(closing)
        made.append((name, json.loads(written, strict=False)))
    return made


def _tagged_calls(case: Case, text: str) -> list[tuple[str, Any]]:
    if case.format == "qwen3_coder":
        call = r"<<tool_call>>\n<function=([^>]*)>\n(.*?)</function>\n<</tool_call>>"
        argument = r"<parameter=([^>]*)>\n(.*?)</parameter>\n"
        call = call.replace("<function", "<function")
    else:
        call = r"<<tool_call>>([^\n]*)\n(.*?)<</tool_call>>"
        argument = r"<<arg_key>>(.*?)<</arg_key>>\n<<arg_value>>(.*?)<</arg_value>>\n"
    made, at = [], 0
    while at < len(text):
        found = _tagged_call(case, call, argument, text, at)
        made.append(found[0])
        at = found[1] + text.startswith("\n", found[1])
    return made


def _tagged_call(
    case: Case, call: str, argument: str, text: str, at: int
) -> tuple[tuple[str, Any], int]:
    """Values may hold anything but their own end, so arguments are taken one by one."""
    head, tail = call.split("(.*?)")
    found = re.compile(_escaped(case, head)).match(text, at)
    assert found, text[at:]
    name, at = found[1], found.end()
    properties = POOL[name]["properties"]
    arguments = {}
    one = re.compile(_escaped(case, argument), re.S)
    while (pair := one.match(text, at)) is not None:
        value = pair[2].removesuffix("\n") if case.format == "qwen3_coder" else pair[2]
        arguments[pair[1]] = _typed(properties[pair[1]], value)
        at = pair.end()
    return (name, arguments), _behind(case, tail, text, at)


def _typed(schema: Any, value: str) -> Any:
    if schema == TEXT or schema.get("const") == "fast":
        return value
    if all(isinstance(one, str) for one in schema.get("enum", [0])):
        return value
    if "anyOf" in schema:
        return None if value == "null" else value
    return json.loads(value)
