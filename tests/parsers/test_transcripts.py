"""Golden transcripts, as the families' chat templates write them: however a stream is cut, its
deltas fold to the same answer.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from formgate.gateway.model.detokenizer import Detokenizer
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.model.tokenizer_folder import load_tokenizer
from formgate.parsers.families.registry import FORMATS, REASONING
from formgate.parsers.formats.format import Tool
from formgate.parsers.stream import OutputParser

TEXT = {"type": "string"}
TOOLS = [
    Tool(
        "get_weather",
        {
            "type": "object",
            "properties": {"city": TEXT, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city"],
        },
    ),
    Tool("now", {"type": "object", "properties": {}}),
    Tool(
        "edit",
        {
            "type": "object",
            "properties": {
                "text": TEXT,
                "line": {"type": "integer"},
                "deep": {"type": "object"},
                "flags": {"type": "array"},
                "on": {"type": "boolean"},
                "note": {"anyOf": [TEXT, {"type": "null"}]},
            },
        },
    ),
]

WEATHER = ("get_weather", {"city": "Paris"})
NOW: tuple[str, Any] = ("now", {})
EDIT = (
    "edit",
    {
        "text": 'say "hi"\\n {}[]\' </tool_cal 北京 🙂\n\tend',
        "line": -3,
        "deep": {"a": [{"b": "}"}, None, 1.5e3], "c": {}},
        "flags": [True, False, "x]"],
        "on": True,
        "note": None,
    },
)
ALL = [WEATHER, NOW, EDIT]
TRANSCODED = ("pythonic", "lfm2", "gemma4", "qwen3_coder", "glm45")


def dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def objects(calls: list[tuple[str, Any]], key: str = "arguments") -> list[str]:
    return [f'{{"name": "{name}", "{key}": {dumped(value)}}}' for name, value in calls]


def raw(value: Any) -> str:
    return value if isinstance(value, str) else dumped(value)


def gemma(value: Any) -> str:
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{gemma(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(gemma, value))}]"
    return dumped(value)


def write(format: str, calls: list[tuple[str, Any]]) -> str:
    match format:
        case "mistral":
            return f"[TOOL_CALLS] [{', '.join(objects(calls))}]"
        case "mistral_v11":
            return "".join(f"[TOOL_CALLS]{name}[ARGS]{dumped(value)}" for name, value in calls)
        case "llama3_json":
            return "; ".join(objects(calls, "parameters"))
        case "pythonic":
            written = [
                f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
                for name, arguments in calls
            ]
            return f"[{', '.join(written)}]"
        case "lfm2":
            return f"<|tool_call_start|>{write('pythonic', calls)}<|tool_call_end|>"
        case "gemma4":
            return "".join(
                f"<|tool_call>call:{name}{gemma(arguments)}<tool_call|>"
                for name, arguments in calls
            )
        case "hermes" | "generic":
            return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in objects(calls))
        case "deepseek_v3":
            written = [
                f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{dumped(value)}\n```"
                "<｜tool▁call▁end｜>"
                for name, value in calls
            ]
            return "<｜tool▁calls▁begin｜>" + "\n".join(written) + "<｜tool▁calls▁end｜>"
        case "deepseek_v31":
            written = [
                f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{dumped(value)}<｜tool▁call▁end｜>"
                for name, value in calls
            ]
            return "<｜tool▁calls▁begin｜>" + "".join(written) + "<｜tool▁calls▁end｜>"
        case "qwen3_coder":
            return "\n".join(
                f"<tool_call>\n<function={name}>\n"
                + "".join(
                    f"<parameter={key}>\n{raw(value)}\n</parameter>\n"
                    for key, value in arguments.items()
                )
                + "</function>\n</tool_call>"
                for name, arguments in calls
            )
        case "glm45":
            return "\n".join(
                f"<tool_call>{name}\n"
                + "".join(
                    f"<arg_key>{key}</arg_key>\n<arg_value>{raw(value)}</arg_value>\n"
                    for key, value in arguments.items()
                )
                + "</tool_call>"
                for name, arguments in calls
            )
        case "kimi_k2":
            written = [
                f"<|tool_call_begin|>functions.{name}:{i}<|tool_call_argument_begin|>"
                f"{dumped(value)}<|tool_call_end|>"
                for i, (name, value) in enumerate(calls)
            ]
            joined = "".join(written)
            return f"<|tool_calls_section_begin|>{joined}<|tool_calls_section_end|>"
        case "granite":
            return f"<|tool_call|>[{', '.join(objects(calls))}]"
        case "internlm":
            return "".join(
                f"<|action_start|><|plugin|>\n{call}<|action_end|>"
                for call in objects(calls, "parameters")
            )
        case "jamba":
            joined = ",\n    ".join(objects(calls))
            return f"<tool_calls>[\n    {joined}\n]</tool_calls>"
        case "phi4_mini_json":
            return f"functools[{', '.join(objects(calls))}]"
        case "xlam":
            return f"[{', '.join(objects(calls))}]"
        case "harmony":
            return "<|start|>assistant".join(
                f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
                f"{dumped(value)}<|call|>"
                for name, value in calls
            )
    raise AssertionError(format)


@dataclass(frozen=True)
class Case:
    format: str
    text: str
    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    thinks: str | None = None
    state: str = "optional"


def special_ids_of(case: Case) -> dict[str, int]:
    """As if each family's tokenizer had a token for each of its markers."""
    markers = FORMATS[case.format].markers()
    if case.thinks is not None:
        markers |= REASONING[case.thinks].markers()
    return {marker.text: 100 + i for i, marker in enumerate(sorted(markers))}


def parser_of(case: Case, special_ids: dict[str, int], **options: Any) -> OutputParser:
    return OutputParser(
        FORMATS[case.format],
        REASONING[case.thinks] if case.thinks is not None else None,
        **{
            "tools_enabled": True,
            "reasoning_state": case.state,
            "special_ids": special_ids,
            "tools": TOOLS,
            "make_call_id": lambda: "id",
            **options,
        },
    )


def cases() -> list[Case]:
    made = []
    for name, format in FORMATS.items():
        harmony = name == "harmony"
        think, close = ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant")
        if not harmony:
            think, close = "<think>\n", "\n</think>\n\n"
        thinks = "harmony" if harmony else "deepseek_r1"

        def content(text: str, harmony: bool = harmony) -> str:
            return f"<|channel|>final<|message|>{text}" if harmony else text

        made += [
            Case(name, write(name, calls), calls=calls)
            for calls in ([WEATHER], [NOW], [EDIT], [WEATHER, WEATHER], ALL)
        ]
        steps = "One: 1 < 2.\n\nTwo [x] {y}."
        thought = think + steps + close
        made.append(Case(name, thought + write(name, ALL), "", steps, ALL, thinks))
        made.append(Case(name, thought + content("Hello."), "Hello.", steps, [], thinks))
        made.append(Case(name, content("Hi [you] {all} <b>"), "Hi [you] {all} <b>"))
        made.append(Case(name, content("你好，\n\n- a\n"), "你好，\n\n- a\n", thinks=thinks))
        made.append(Case(name, ""))
        if not harmony:
            behind = steps + close + write(name, [WEATHER])
            made.append(Case(name, behind, "", steps, [WEATHER], thinks, "open"))
            made.append(Case(name, steps, "", steps, [], thinks, "open"))
        if harmony:
            plan = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
            done = "<|start|>assistant<|channel|>final<|message|>Done."
            text = thought + plan + write(name, ALL) + done
            made.append(Case(name, text, "I look.Done.", steps, ALL, thinks))
        else:
            made.append(Case(name, write(name, ALL) + "\nDone.", "\nDone.", "", ALL))
        if not format.bare and not harmony:
            text = "Let me look.\n" + write(name, ALL)
            made.append(Case(name, text, "Let me look.", "", ALL))
            made.append(Case(name, "\n\n" + write(name, [NOW]) + "\n", "", "", [NOW]))
    return made


CASES = cases()


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{case.format}" for i, case in enumerate(CASES)])
def test_every_cut_of_a_transcript_folds_to_the_same_answer(
    case: Case, tokens: bool, streams: Any, rng: random.Random
) -> None:
    special_ids = special_ids_of(case) if tokens else {}
    pieces = streams.pieces_of(case.text, special_ids)
    for batches in streams.cuts(pieces, rng=rng, times=5):
        answer = streams.fold(parser_of(case, special_ids), batches)
        assert answer.parsed_calls == case.calls
        assert answer.content == case.content
        assert answer.reasoning == case.reasoning


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Tokenizer]:
    """Of a format, trained on its transcripts: its tokens run over the ends of literals, names and
    values, and end within characters."""

    @cache
    def made(format: str, thinks: str | None, tokens: bool) -> Tokenizer:
        special = special_ids_of(Case(format, "", thinks=thinks)) if tokens else {}
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=256 + len(special) + 150,
            special_tokens=sorted(special),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        texts = [case.text for case in CASES if case.format == format]
        backend.train_from_iterator(texts, trainer)
        folder: Path = tmp_path_factory.mktemp(format)
        backend.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text("{}")
        return load_tokenizer(folder)

    return made


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{case.format}" for i, case in enumerate(CASES)])
def test_every_token_of_a_transcript_may_come_alone(
    case: Case,
    tokens: bool,
    streams: Any,
    rng: random.Random,
    tokenizer_of: Callable[..., Tokenizer],
) -> None:
    tokenizer = tokenizer_of(case.format, case.thinks, tokens)
    token_ids = tokenizer.encode(case.text, add_special_tokens=False)
    assert not case.calls or len(token_ids) < len(case.text)
    steps = [[i] for i in token_ids]
    for batches in (steps, drafted(token_ids, rng), drafted(token_ids, rng)):
        parser = parser_of(case, dict(tokenizer.special_ids))
        detokenizer = Detokenizer(tokenizer, markers=parser.marker_ids)
        pieces = [detokenizer.feed(step) for step in batches]
        answer = streams.fold(parser, [*filter(None, pieces), detokenizer.finish()])
        assert answer.parsed_calls == case.calls
        assert (answer.content, answer.reasoning) == (case.content, case.reasoning)


def drafted(token_ids: list[int], rng: random.Random) -> list[list[int]]:
    """One to five tokens in each step, as speculation brings them."""
    steps = []
    while token_ids:
        count = rng.randint(1, 5)
        steps.append(token_ids[:count])
        token_ids = token_ids[count:]
    return steps


def test_json_arguments_are_the_model_s_own_text(streams: Any) -> None:
    arguments = '{ "city":"P\\u00e4ris" ,"unit" : "celsius"}'
    texts = {
        "mistral": f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {arguments}}}]',
        "hermes": f'<tool_call>\n{{"name": "get_weather", "arguments": {arguments}}}\n</tool_call>',
        "mistral_v11": f"[TOOL_CALLS]get_weather[ARGS]{arguments}",
    }
    for name, text in texts.items():
        case = Case(name, text)
        special_ids = special_ids_of(case)
        pieces = streams.pieces_of(text, special_ids)
        assert streams.fold(parser_of(case, special_ids), [pieces]).calls == [
            ("get_weather", arguments)
        ]


@pytest.mark.parametrize("name", FORMATS)
def test_a_name_is_known_within_two_tokens_and_arguments_at_once(name: str, streams: Any) -> None:
    case = Case(name, write(name, [EDIT]))
    special_ids = special_ids_of(case)
    parser = parser_of(case, special_ids)
    atoms = streams.characters(streams.pieces_of(case.text, special_ids))
    started_at = None
    told, longest_wait, waited = "", 0, 0
    for i, atom in enumerate(atoms):
        for delta in parser.feed([atom]):
            if started_at is None and hasattr(delta, "name"):
                started_at = i
            elif hasattr(delta, "index"):
                told += delta.text
                longest_wait, waited = max(longest_wait, waited), 0
        waited += started_at is not None
    written = "".join(atom.text for atom in atoms)
    assert started_at is not None
    # The quote, a bracket, a special token, or kimi's ":0" and the token after it.
    assert len("".join(atom.text for atom in atoms[: started_at + 1])) - (
        written.index("edit") + len("edit")
    ) <= max(3, len(atoms[started_at].text) + 2)
    assert json.loads(told) == EDIT[1]
    assert longest_wait < 45, "arguments were held back"


@pytest.mark.parametrize("cut", [False, True], ids=["ended", "cut by a limit"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_transcript_truncated_anywhere_keeps_what_was_said(
    name: str, cut: bool, streams: Any
) -> None:
    case = Case(name, write(name, ALL))
    special_ids = special_ids_of(case)
    atoms = streams.characters(streams.pieces_of(case.text, special_ids))
    full = streams.fold(parser_of(case, special_ids), [atoms])
    for end in range(len(atoms)):
        whole = streams.fold(parser_of(case, special_ids), [atoms[:end]], cut=cut)
        single = [[atom] for atom in atoms[:end]]
        assert whole == streams.fold(parser_of(case, special_ids), single, cut=cut)
        for (called, told), (meant, said) in zip(whole.calls, full.calls, strict=False):
            assert called == meant
            # Where a value is no JSON, one that nobody closed is told as if it were whole.
            kept = told.rpartition(', "')[0] if name in TRANSCODED and not cut else told
            assert said.startswith(kept)
        if cut and whole.calls:
            assert full.content.startswith(whole.content), "the frame of a call is no content"


@pytest.mark.parametrize("name", FORMATS)
def test_without_tools_a_call_is_text(name: str, streams: Any) -> None:
    case = Case(name, write(name, [WEATHER]))
    special_ids = special_ids_of(case)
    pieces = streams.pieces_of(case.text, special_ids)
    answer = streams.fold(parser_of(case, special_ids, tools_enabled=False), [pieces])
    assert not answer.calls
    assert '"Paris"' in answer.content or "Paris" in answer.content


@pytest.mark.parametrize("name", FORMATS)
def test_typed_markers_are_plain_text_where_they_are_special_tokens(
    name: str, streams: Any
) -> None:
    format = FORMATS[name]
    if format.bare or name in ("generic", "harmony"):
        pytest.skip("has no marker of its own, or content of its own kind")
    case = Case(name, write(name, [WEATHER]))
    special_ids = special_ids_of(case)
    answer = streams.fold(parser_of(case, special_ids), [[streams.pieces_of(case.text, {})[0]]])
    assert not answer.calls
    assert answer.content == case.text
