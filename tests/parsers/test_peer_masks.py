"""Open issues of other servers that are about what a model may write, by their numbers, as tests of
the masks that our answer trees become.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from formgate.constrain.compiler import GrammarCompiler
from formgate.parsers.families.registry import FORMATS, REASONING
from formgate.parsers.formats.format import Tool, ToolChoice
from formgate.parsers.grammar import answer_grammar
from formgate.parsers.stream import OutputParser
from formgate.parsers.tree.nodes import json_value

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [Tool("get_weather", CITY, "/tools/0"), Tool("now", None, "/tools/1")]
END = 256


class Masks:
    """One sequence in its grammar."""

    def __init__(self, tree: Any, vocabulary: Any) -> None:
        self._size = len(vocabulary.token_bytes)
        compiler = GrammarCompiler(vocabulary, padded_vocab_size=self._size)
        self._constraint = compiler.compile(json.dumps({"tree": tree})).start()

    def allowed(self) -> set[int]:
        row = np.zeros((self._size + 31) // 32, np.int32)
        if not self._constraint.fill_bitmask(row):
            return set(range(self._size))
        bits = np.unpackbits(row.view(np.uint8), bitorder="little")[: self._size]
        return set(np.flatnonzero(bits).tolist())

    def accept(self, token_ids: Sequence[int]) -> None:
        """All of one engine step, with no mask asked for between them."""
        for token_id in token_ids:
            self._constraint.accept(token_id)

    def rollback(self, count: int) -> None:
        self._constraint.rollback(count)

    def let_through(self, token_ids: Sequence[int]) -> bool:
        for token_id in token_ids:
            if token_id not in self.allowed():
                return False
            self.accept([token_id])
        return True


Begin = Callable[..., tuple[Masks, Any, dict[str, int]]]


@pytest.fixture
def begin(streams: Any) -> Begin:
    def made(name: str, *, tokens: bool = True, **request: Any) -> Any:
        thinks = request.pop("thinks", None)
        reasoning = REASONING[thinks] if thinks else None
        markers = FORMATS[name].markers() | (reasoning.markers() if reasoning else frozenset())
        special_ids = {marker.text: 300 + i for i, marker in enumerate(sorted(markers))}
        special_ids = special_ids if tokens else {}
        tree = answer_grammar(
            FORMATS[name],
            reasoning,
            **{
                "tools": TOOLS,
                "tool_choice": ToolChoice("auto"),
                "parallel": True,
                "content": None,
                "reasoning_state": "none",
                "special_ids": special_ids,
                **request,
            },
        )
        return Masks(tree, streams.byte_vocabulary(special_ids)), tree, special_ids

    return made


# vllm 43388: the end of the reasoning goes unnoticed where one step brings it with other tokens, or
# a rejected draft is taken back, and the JSON that should follow is never enforced.
@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])
def test_json_is_enforced_behind_reasoning_that_ends_in_the_middle_of_a_step(
    tokens: bool, begin: Begin
) -> None:
    masks, _, special_ids = begin(
        "hermes",
        tokens=tokens,
        thinks="qwen3",
        reasoning_state="open",
        tool_choice=ToolChoice("none"),
        content={"kind": "json_object"},
    )
    close = [special_ids["</think>"]] if tokens else [*b"</think>"]
    masks.accept([*b"Hm, so", *close, *b"\n\n"])
    assert masks.allowed() & set(range(256)) <= set(b"{")
    # Drafts that the model did not want: back into the reasoning, and out of it once more.
    masks.accept(b'{"a"')
    masks.rollback(len(b'{"a"') + 2 + len(close))
    assert set(b"`x{") <= masks.allowed()
    masks.accept([*b" wait", *close])
    assert not set(b"`x") & masks.allowed()
    assert ord("{") in masks.allowed()
    assert masks.let_through([*b'{"a": 1}', END])


# vllm 9451, sglang 9696: parallel_tool_calls is accepted and changes nothing.
@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("mode", ["auto", "required"])
@pytest.mark.parametrize("name", FORMATS)
def test_without_parallel_calls_the_first_ends_the_answer(
    name: str, mode: Any, tokens: bool, begin: Begin, streams: Any
) -> None:
    rng = random.Random(f"{name}{mode}{tokens}")
    called = 0
    for _ in range(20):
        masks, tree, special_ids = begin(
            name, tokens=tokens, tool_choice=ToolChoice(mode), parallel=False
        )
        pieces = streams.walk(tree, rng, None, False)
        parser = OutputParser(
            FORMATS[name],
            None,
            tools_enabled=True,
            reasoning_state="none",
            special_ids=special_ids,
            tools=TOOLS,
        )
        answer = streams.fold(parser, [pieces])
        assert len(answer.calls) == 1 or (mode == "auto" and not answer.calls)
        assert masks.let_through(streams.ids_of(pieces))
        if answer.calls:
            called += 1
            assert masks.allowed() == {END}
    assert called >= 3


# vllm 53363: a required call is left out, and prose comes with finish_reason "tool_calls".
@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("thinks", [None, "deepseek_r1"])
@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"harmony"}))
def test_a_required_call_cannot_be_left_out(
    name: str, thinks: str | None, tokens: bool, begin: Begin
) -> None:
    state = "open" if thinks else "none"
    for content in (None, json_value(CITY)):
        masks, _, special_ids = begin(
            name,
            tokens=tokens,
            thinks=thinks,
            reasoning_state=state,
            tool_choice=ToolChoice("required"),
            content=content,
        )
        if thinks:
            masks.accept(b"I need no tool.\n")
            assert END not in masks.allowed()
            masks.accept([special_ids["</think>"]] if tokens else [*b"</think>"])
        assert END not in masks.allowed()
        assert not masks.let_through(b"\n\nIt is sunny.")


@pytest.mark.parametrize("name", FORMATS)
def test_a_named_call_is_made_once_and_ends_the_answer(
    name: str, begin: Begin, streams: Any
) -> None:
    rng = random.Random(name)
    for _ in range(10):
        masks, tree, _ = begin(name, tool_choice=ToolChoice.named("get_weather"))
        assert END not in masks.allowed()
        assert masks.let_through(streams.ids_of(streams.walk(tree, rng, None, False)))
        assert masks.allowed() == {END}


@pytest.mark.parametrize("name", ["llama3_json", "xlam"])
@pytest.mark.parametrize(
    "said",
    [
        '{"type": "x", "name": "get_weather", "parameters": {"q": 1}, "arguments": {"q": 1}}',
        '{"n\\u0061me": "get_weather", "parameters": {"q": 1}, "arguments": {"q": 1}}',
        '{"name": "get\\u005fweather", "parameters": {"q": 1}, "arguments": {"q": 1}}',
        '{"arguments": {"q": 1}, "parameters": {"q": 1}, "name": "get_weather"}',
    ],
)
def test_what_may_be_said_freely_is_never_read_as_a_call(
    name: str, said: str, begin: Begin, streams: Any
) -> None:
    """Calls need no marker here, and a user can ask for text that looks almost like one."""
    text = f"[{said}]" if name == "xlam" else said
    masks, _, _ = begin(name, tokens=False)
    assert masks.let_through([*text.encode(), END])
    parser = OutputParser(
        FORMATS[name],
        None,
        tools_enabled=True,
        reasoning_state="none",
        special_ids={},
        tools=TOOLS,
    )
    answer = streams.fold(parser, [streams.pieces_of(text, {})])
    assert (answer.calls, answer.content) == ([], text)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("llama3_json", '{"name": "get_weather", "parameters": {"q": 1}}'),
        ("xlam", '[{"name": "get_weather", "arguments": {"q": 1}}]'),
        ("pythonic", "[get_weather(q=1)]"),
        ("hermes", '<tool_call>\n{"name": "get_weather", "arguments": {"q": 1}}\n</tool_call>'),
    ],
)
@pytest.mark.parametrize("thought", ["<think>x</think>", "<think>\nx\n</think>\n\n"])
def test_a_thought_of_plain_text_hides_no_call_from_its_schema(
    name: str, said: str, thought: str, begin: Begin
) -> None:
    """Where the reasoning's markers are no special tokens, free text could begin with one too."""
    masks, _, _ = begin(name, tokens=False, thinks="deepseek_r1", reasoning_state="optional")
    assert masks.let_through(thought.encode())
    assert not masks.let_through(said.encode())


@pytest.mark.parametrize("name", ["hermes", "generic", "qwen3_coder", "glm45"])
def test_no_argument_ends_a_thought_that_the_masks_did_not_know(name: str, begin: Begin) -> None:
    """Behind an opening marker there is no call before the closing one, and one behind it."""
    masks, _, _ = begin(name, tokens=False, thinks="deepseek_r1", reasoning_state="optional")
    call = {
        "qwen3_coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\n",
        "glm45": "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>",
    }.get(name, '<tool_call>\n{"name": "get_weather", "arguments": {"city": "')
    assert masks.let_through(f"<think>x{call}</think><tool_call>".encode()[:-1])
    assert not masks.let_through(b">!")
    masks, _, _ = begin(name, tokens=False, thinks="deepseek_r1", reasoning_state="optional")
    assert masks.let_through(b"<think>x</think>\n\nWell: <tool_call>")
    masks, _, _ = begin(name, tokens=False, thinks="deepseek_r1", reasoning_state="optional")
    assert masks.let_through(b"Well: <tool_call>")


@pytest.mark.parametrize("said", [" to=functions.get_weather is how.", "a to=functions.now<"])
def test_a_recipient_in_harmony_s_prose_is_prose(said: str, begin: Begin, streams: Any) -> None:
    masks, _, special_ids = begin("harmony")
    final = streams.pieces_of(f"<|channel|>final<|message|>{said}", special_ids)
    assert masks.let_through([*streams.ids_of(final), END])
    # It is none in a preamble either, and is one in the head of the message behind that.
    preamble = streams.pieces_of(
        f"<|channel|>commentary<|message|>{said}<|end|><|start|>assistant"
        " to=functions.now<|channel|>commentary<|message|>{}",
        special_ids,
    )
    for pieces, calls in ((final, []), (preamble, [("now", "{}")])):
        for batches in streams.cuts(pieces, rng=random.Random(said), times=5):
            parser = OutputParser(
                FORMATS["harmony"],
                None,
                tools_enabled=True,
                reasoning_state="none",
                special_ids=special_ids,
                tools=TOOLS,
            )
            answer = streams.fold(parser, batches)
            assert (answer.calls, answer.content) == (calls, said)
