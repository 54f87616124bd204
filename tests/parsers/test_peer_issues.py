"""Open issues of other servers, by their numbers, as tests of ours."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest

from formgate.parsers.families.reasoning import reasoning_state_of
from formgate.parsers.families.registry import FORMATS, REASONING
from formgate.parsers.formats.format import Tool, ToolChoice
from formgate.parsers.grammar import answer_grammar
from formgate.parsers.stream import OutputParser
from formgate.parsers.text.events import Piece, ReasoningDelta, ToolCallArguments, ToolCallStart
from formgate.parsers.tree.nodes import json_value

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "state": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [Tool("get_weather", CITY, "/tools/0"), Tool("now", None, "/tools/1")]
CALL = {"name": "get_weather", "arguments": {"city": "Dallas", "state": "TX"}}
ARGUMENTS = json.dumps(CALL["arguments"])


def special(name: str, reasoning: str | None = None) -> dict[str, int]:
    markers = FORMATS[name].markers()
    if reasoning:
        markers |= REASONING[reasoning].markers()
    return {marker.text: 100 + i for i, marker in enumerate(sorted(markers))}


def parser_of(
    name: str, special_ids: dict[str, int], reasoning: str | None = None, state: Any = "none"
) -> OutputParser:
    return OutputParser(
        FORMATS[name],
        REASONING[reasoning] if reasoning else None,
        tools_enabled=True,
        reasoning_state=state,
        special_ids=special_ids,
        tools=TOOLS,
        make_call_id=lambda: "id",
    )


def every_way(streams: Any, name: str, text: str, **options: Any) -> Any:
    """The one answer that all ways of cutting the stream give, with and without special tokens."""
    answers = []
    for ids in ({}, special(name, options.get("reasoning"))):
        pieces = streams.pieces_of(text, ids)
        answers += [
            streams.fold(parser_of(name, ids, **options), batches)
            for batches in streams.cuts(pieces, rng=random.Random(text), times=10)
        ]
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


def tree_of(name: str, choice: ToolChoice, content: Any = None, **options: Any) -> Any:
    reasoning = options.get("reasoning")
    return answer_grammar(
        FORMATS[name],
        REASONING[reasoning] if reasoning else None,
        tools=TOOLS,
        tool_choice=choice,
        parallel=True,
        content=content,
        reasoning_state=options.get("state", "none"),
        special_ids=special(name, reasoning),
    )


# vllm 39929: response_format takes the tool calls away under tool_choice "auto".
@pytest.mark.parametrize("name", FORMATS)
def test_calls_and_structured_content_are_both_in_reach(name: str, streams: Any) -> None:
    schema = {"type": "object", "properties": {"answer": {"const": 1}}, "required": ["answer"]}
    tree = tree_of(name, ToolChoice("auto"), json_value(schema))
    rng = random.Random(name)
    calls = contents = 0
    for _ in range(60):
        parser = OutputParser(
            FORMATS[name],
            None,
            tools_enabled=True,
            reasoning_state="none",
            special_ids=special(name),
            tools=TOOLS,
            structured_content=True,
        )
        answer = streams.fold(parser, [streams.walk(tree, rng)])
        calls += bool(answer.calls)
        contents += bool(answer.content)
        for called, arguments in answer.parsed_calls:
            jsonschema.validate(arguments, CITY if called == "get_weather" else {"type": "object"})
        if answer.content:
            assert not answer.calls
            assert json.loads(answer.content) == {"answer": 1}
    assert calls > 5
    assert contents > 5


# vllm 47027: JSON output switches the thinking off.
@pytest.mark.parametrize("state", ["open", "optional"])
def test_structured_content_comes_behind_the_reasoning(state: Any, streams: Any) -> None:
    ids = special("hermes", "qwen3")
    tree = tree_of(
        "hermes",
        ToolChoice("none"),
        json_value({"const": {"a": 1}}),
        reasoning="qwen3",
        state=state,
    )
    walks = [
        "".join(p.text for p in streams.walk(tree, random.Random(i), None, False))
        for i in range(40)
    ]
    thought = [walk for walk in walks if "</think>" in walk]
    assert thought
    if state == "open":
        assert len(thought) == len(walks)
    for walk in walks:
        parser = parser_of("hermes", ids, "qwen3", state)
        answer = streams.fold(parser, [streams.pieces_of(walk, ids)])
        assert json.loads(answer.content) == {"a": 1}


# vllm 13125: an R1 distill's output has no <think>, because its prompt ends with one.
def test_reasoning_that_the_prompt_has_opened(streams: Any) -> None:
    ids = special("generic", "deepseek_r1")
    prompt = [1, 2, ids["<think>"], 3]
    state = reasoning_state_of(prompt, REASONING["deepseek_r1"], ids)
    assert state == "open"
    text = "Okay.\nSo.\n</think>\n\nParis."
    answer = every_way(streams, "generic", text, reasoning="deepseek_r1", state=state)
    assert (answer.reasoning, answer.content) == ("Okay.\nSo.", "Paris.")


# vllm 9693, 10395, 10589: Hermes arguments get lost, doubled or None while they stream.
@pytest.mark.parametrize(
    "arguments",
    [
        ARGUMENTS,
        '{"city": "Dallas, TX", "state": "{}"}',
        '{"city": "", "state": ""}',
        '{"city":"a\\"b","state":"\\\\"}',
        '{ "city" : "Dallas" }',
    ],
)
def test_hermes_arguments_arrive_once_and_whole(arguments: str, streams: Any) -> None:
    text = f'<tool_call>\n{{"name": "get_weather", "arguments": {arguments}}}\n</tool_call>'
    answer = every_way(streams, "hermes", text)
    assert answer.calls == [("get_weather", arguments)]
    assert answer.content == ""


# vllm 28806, 47901: empty arguments are dropped, and those of the next call with them.
@pytest.mark.parametrize(
    "name", ["hermes", "xlam", "jamba", "mistral", "granite", "phi4_mini_json"]
)
def test_a_call_without_arguments_takes_nothing_from_the_next(name: str, streams: Any) -> None:
    calls = ['{"name": "now", "arguments": {}}', json.dumps(CALL)]
    joined = ", ".join(calls)
    text = {
        "hermes": "".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls),
        "xlam": f"[{joined}]",
        "jamba": f"<tool_calls>[\n    {joined}\n]</tool_calls>",
        "mistral": f"[TOOL_CALLS] [{joined}]",
        "granite": f"<|tool_call|>[{joined}]",
        "phi4_mini_json": f"functools[{joined}]",
    }[name]
    answer = every_way(streams, name, text)
    assert answer.calls == [("now", "{}"), ("get_weather", ARGUMENTS)]


# sglang 35564 (the mistral row): the second call of an array is gone once it is streamed.
def test_the_second_call_of_an_array_survives(streams: Any) -> None:
    text = f"[TOOL_CALLS] [{json.dumps(CALL)}, {json.dumps(CALL)}, {json.dumps(CALL)}]"
    answer = every_way(streams, "mistral", text)
    assert answer.calls == [("get_weather", ARGUMENTS)] * 3
    assert answer.content == ""


# sglang 35564, 31915, 36691; vllm 57490: a marker in two chunks leaks into the content.
@pytest.mark.parametrize("name", ["internlm", "hermes", "jamba", "phi4_mini_json", "kimi_k2"])
def test_a_split_marker_never_shows(name: str, streams: Any) -> None:
    marker = FORMATS[name].marker[0]
    text = marker if isinstance(marker, str) else marker.text
    parser = parser_of(name, {})
    said = [d for char in "Hi " + text[:-1] for d in parser.feed([Piece(char)])]
    assert "".join(getattr(delta, "text", "") for delta in said) == "Hi"
    assert parser.feed([Piece(text[-1])]) == []


# vllm 47137: a truncated opener is content in one mode and nothing in the other.
@pytest.mark.parametrize("text", ["Hi <tool_", "<tool_call", "<tool_call>", "<tool_call>\n{"])
def test_a_truncated_opener_is_content(text: str, streams: Any) -> None:
    assert every_way(streams, "hermes", text).content == text


# vllm 48020, 48342, 48294, 48347, 31501, 47907; sglang 37634: what comes in one chunk is parsed as
# if it came in many.
@pytest.mark.parametrize(
    "name",
    ["deepseek_v3", "deepseek_v31", "llama3_json", "qwen3_coder", "glm45", "hermes", "granite"],
)
def test_two_calls_in_one_chunk_are_two_calls(name: str, streams: Any) -> None:
    v3 = (
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n" + ARGUMENTS
    ) + "\n```<｜tool▁call▁end｜>"
    v31 = f"<｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{ARGUMENTS}<｜tool▁call▁end｜>"
    coder = (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nDallas\n</parameter>\n"
        "<parameter=state>\nTX\n</parameter>\n</function>\n</tool_call>"
    )
    glm = (
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Dallas</arg_value>\n"
        "<arg_key>state</arg_key>\n<arg_value>TX</arg_value>\n</tool_call>"
    )
    llama = f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}'
    plain = json.dumps(CALL)
    hermes = f"<tool_call>\n{plain}\n</tool_call>"
    text = {
        "hermes": f"{hermes}\n{hermes}",
        "granite": f"<|tool_call|>[{plain}, {plain}]",
        "deepseek_v3": f"<｜tool▁calls▁begin｜>{v3}\n{v3}<｜tool▁calls▁end｜>",
        "deepseek_v31": f"<｜tool▁calls▁begin｜>{v31}{v31}<｜tool▁calls▁end｜>",
        "qwen3_coder": f"{coder}\n{coder}",
        "glm45": f"{glm}\n{glm}",
        "llama3_json": f"{llama}; {llama}",
    }[name]
    answer = every_way(streams, name, text)
    assert answer.parsed_calls == [("get_weather", CALL["arguments"])] * 2
    assert answer.content == ""


# vllm 30651: newer Mistral models call without [ARGS].
@pytest.mark.parametrize("between", ["", "[ARGS]", "[CALL_ID]aB3dE6gH9[ARGS]"])
def test_mistral_calls_with_and_without_their_inner_markers(between: str, streams: Any) -> None:
    text = f"Sure.[TOOL_CALLS]get_weather{between}{ARGUMENTS}[TOOL_CALLS]now{between}{{}}"
    answer = every_way(streams, "mistral_v11", text)
    assert answer.calls == [("get_weather", ARGUMENTS), ("now", "{}")]
    assert answer.content == "Sure."


# vllm 32587: gpt-oss channel markers end up in the tool's name.
@pytest.mark.parametrize(
    "header",
    [
        "<|channel|>commentary to=functions.get_weather <|constrain|>json",
        "<|channel|>commentary to=functions.get_weather<|constrain|>json",
        "<|channel|>commentary to=functions.get_weather json",
        "<|channel|>analysis to=functions.get_weather <|constrain|>json",
        " to=functions.get_weather<|channel|>commentary <|constrain|>json",
        " to=functions.get_weather<|channel|>commentary",
    ],
)
@pytest.mark.parametrize("thinks", [True, False])
def test_harmony_names_are_names(header: str, thinks: bool, streams: Any) -> None:
    thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant" if thinks else ""
    text = f"{thought}{header}<|message|>{ARGUMENTS}<|call|>"
    answer = every_way(streams, "harmony", text, reasoning="harmony", state="optional")
    assert answer.calls == [("get_weather", ARGUMENTS)]
    assert (answer.reasoning, answer.content) == ("Hm." if thinks else "", "")


def test_harmony_preambles_are_content_and_thoughts_are_not(streams: Any) -> None:
    text = (
        "<|channel|>analysis<|message|>One.<|end|><|start|>assistant"
        "<|channel|>commentary<|message|>Plan: ask.<|end|><|start|>assistant"
        "<|channel|>analysis<|message|>Two.<|end|><|start|>assistant"
        "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}<|call|>"
    )
    answer = every_way(streams, "harmony", text, reasoning="harmony", state="optional")
    assert (answer.reasoning, answer.content) == ("One.Two.", "Plan: ask.")
    assert answer.calls == [("now", "{}")]


# Kimi-K2 26: arguments as a JSON string of JSON; ids as the model wrote them.
def test_kimi_arguments_that_are_quoted_twice(streams: Any) -> None:
    text = (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:1"
        f"<|tool_call_argument_begin|>{json.dumps(ARGUMENTS)}<|tool_call_end|>"
        "<|tool_calls_section_end|>"
    )
    answer = every_way(streams, "kimi_k2", text)
    assert answer.calls == [("get_weather", ARGUMENTS)]
    assert answer.ids == ["functions.get_weather:1"]


# sglang 40051: a named choice is not held to the tool's schema unless it is strict.
@pytest.mark.parametrize("name", FORMATS)
def test_a_named_choice_is_held_to_the_schema(name: str, streams: Any) -> None:
    tree = tree_of(name, ToolChoice.named("get_weather"))
    rng = random.Random(name)
    for _ in range(30):
        answer = streams.fold(parser_of(name, special(name)), [streams.walk(tree, rng)])
        assert [called for called, _ in answer.calls] == ["get_weather"]
        jsonschema.validate(answer.parsed_calls[0][1], CITY)


# sglang 26172: a call behind an unfinished thought is taken for a part of it.
def test_a_special_marker_ends_the_reasoning(streams: Any) -> None:
    ids = special("hermes", "qwen3")
    text = f"I should ask.\n<tool_call>\n{json.dumps(CALL)}\n</tool_call>"
    pieces = streams.pieces_of(text, ids)
    for batches in streams.cuts(pieces, rng=random.Random(1), times=5):
        answer = streams.fold(parser_of("hermes", ids, "qwen3", "open"), batches)
        assert answer.calls == [("get_weather", ARGUMENTS)]
        assert (answer.reasoning, answer.content) == ("I should ask.", "")


# vllm 53638: a stray <tool_call> before the real one.
def test_a_stray_marker_before_a_call(streams: Any) -> None:
    text = f"<tool_call> Hm, let me see.\n<tool_call>\n{json.dumps(CALL)}\n</tool_call>"
    answer = every_way(streams, "hermes", text)
    assert answer.calls == [("get_weather", ARGUMENTS)]
    assert answer.content == "<tool_call> Hm, let me see."


# vllm 56263: text behind the calls is dropped by the whole and kept by the stream.
def test_text_behind_the_calls_is_kept(streams: Any) -> None:
    text = f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>\nDone."
    assert every_way(streams, "hermes", text).content == "\nDone."


# vllm 30439, 43267: a long text argument comes all at once.
@pytest.mark.parametrize("name", ["qwen3_coder", "glm45", "pythonic"])
def test_text_arguments_stream_where_they_are_no_json(name: str) -> None:
    opening = {
        "qwen3_coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\n",
        "glm45": "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>",
        "pythonic": "[get_weather(city='",
    }[name]
    parser = parser_of(name, {})
    deltas = parser.feed([Piece(opening)])
    assert isinstance(deltas[0], ToolCallStart)
    for word in ("New ", "York", " City"):
        assert parser.feed([Piece(word)]) == [ToolCallArguments(0, word)]


# vllm 30999: a tool's name waits for the end of its arguments.
@pytest.mark.parametrize("opening", ["<tool_call>", "<tool_call>get_wea"])
def test_the_name_is_told_before_the_arguments_begin(opening: str) -> None:
    parser = parser_of("glm45", {})
    assert parser.feed([Piece(opening)]) == []
    rest = "<tool_call>get_weather\n".removeprefix(opening)
    assert parser.feed([Piece(rest)])[0] == ToolCallStart(0, "get_weather", "id")


# vllm 49923: what cannot be parsed behind a call takes the call with it.
@pytest.mark.parametrize(
    "trailing",
    [
        " I used {searchTool} for this",
        ' the args were {"query": "x"}',
        "{",
        '{"name": "now", "parameters": {oops',
        '; {"name": "nobody", "parameters": {}}',
    ],
)
def test_a_whole_call_survives_what_follows_it(trailing: str, streams: Any) -> None:
    call = f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}'
    answer = every_way(streams, "llama3_json", call + trailing)
    assert answer.calls[0] == ("get_weather", ARGUMENTS)
    assert all(called == "now" for called, _ in answer.calls[1:])
    assert answer.calls[1:] or answer.content == trailing


# vllm 24509: with a required choice, the stream is told apart from reasoning all the same.
def test_a_required_call_behind_reasoning(streams: Any) -> None:
    tree = tree_of("hermes", ToolChoice("required"), reasoning="qwen3", state="open")
    ids = special("hermes", "qwen3")
    for seed in range(30):
        parser = parser_of("hermes", ids, "qwen3", "open")
        answer = streams.fold(parser, [[p] for p in streams.walk(tree, random.Random(seed))])
        assert answer.calls
        assert answer.content == ""


def test_reasoning_is_told_as_it_comes() -> None:
    parser = parser_of("hermes", special("hermes", "qwen3"), "qwen3", "open")
    assert parser.feed([Piece("One")]) == [ReasoningDelta("One")]
    assert parser.feed([Piece("\n\n")]) == []
    assert parser.feed([Piece("Two")]) == [ReasoningDelta("\n\nTwo")]
    assert parser.in_reasoning
    assert parser.feed([Piece("\n")]) == []
    assert parser.feed([Piece("</think>", special("hermes", "qwen3")["</think>"])]) == []
    assert not parser.in_reasoning
