"""Which format a model uses, whether its prompt ends in the reasoning, which ids its calls have."""

from __future__ import annotations

import re
import string
from collections.abc import Collection

import pytest

from formgate.parsers.families.call_ids import call_id_maker
from formgate.parsers.families.reasoning import reasoning_state_of
from formgate.parsers.families.registry import (
    FORMATS,
    REASONING,
    detect_reasoning_format,
    detect_tool_format,
    find_reasoning_format,
    find_tool_format,
)
from formgate.parsers.formats.format import Tool, custom_reasoning
from formgate.parsers.stream import OutputParser
from formgate.parsers.text.events import Piece, ToolCallStart

# The lines of each family's chat template that give it away.
V3_CALL = "'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>'"
TEMPLATES: list[tuple[str, str, Collection[str], str, str | None]] = [
    ("[TOOL_CALLS] [{ ... }]", "MistralForCausalLM", ["[TOOL_CALLS]"], "mistral", None),
    ("[TOOL_CALLS]", "LlamaForCausalLM", ["[TOOL_CALLS]", "<think>"], "mistral", "deepseek_r1"),
    (
        "'[TOOL_CALLS]' + name + '[ARGS]' + arguments",
        "Mistral3ForConditionalGeneration",
        ["[TOOL_CALLS]", "[ARGS]", "[THINK]"],
        "mistral_v11",
        "mistral",
    ),
    (
        'Environment: ipython {"name": function name, "parameters": ...}<|python_tag|>',
        "LlamaForCausalLM",
        ["<|python_tag|>"],
        "llama3_json",
        None,
    ),
    ("[func_name1(params_name1=v1), func_name2()]", "LlamaForCausalLM", [], "pythonic", None),
    ("<tools></tools> <tool_call>", "Qwen2ForCausalLM", ["<tool_call>"], "hermes", None),
    (
        "<tool_call>{%- if '</think>' in content %}",
        "Qwen3ForCausalLM",
        ["<tool_call>", "<think>"],
        "hermes",
        "qwen3",
    ),
    ("<tool_call> {'name'", "GraniteMoeHybridForCausalLM", ["<|tool_call|>"], "hermes", None),
    (
        "<|start_of_role|>assistant_tool_call Here is my thought process:",
        "GraniteForCausalLM",
        ["<|tool_call|>"],
        "granite",
        "granite",
    ),
    (V3_CALL + "```json", "DeepseekV3ForCausalLM", [], "deepseek_v3", None),
    (V3_CALL + "</think>", "DeepseekV3ForCausalLM", ["<think>"], "deepseek_v31", "deepseek_r1"),
    (V3_CALL + "```json <think>", "Qwen2ForCausalLM", ["<think>"], "generic", "deepseek_r1"),
    (V3_CALL + "```json <think>", "LlamaForCausalLM", ["<think>"], "generic", "deepseek_r1"),
    ("<tool_call>\n<function=' + name", "Qwen3MoeForCausalLM", [], "qwen3_coder", None),
    ("<tool_call>{name}\n<arg_key>", "Glm4MoeForCausalLM", ["<think>"], "glm45", "deepseek_r1"),
    (
        "<|im_assistant|>",
        "DeepseekV3ForCausalLM",
        ["<|tool_calls_section_begin|>"],
        "kimi_k2",
        None,
    ),
    ("<|action_start|><|plugin|>", "InternLM2ForCausalLM", [], "internlm", None),
    ("<tool_calls>[\n", "JambaForCausalLM", [], "jamba", None),
    ("functools[{", "Phi3ForCausalLM", ["<|tool_call|>"], "phi4_mini_json", None),
    ("make calls in a single JSON array", "Qwen2ForCausalLM", [], "xlam", None),
    ("<|channel|>analysis", "GptOssForCausalLM", [], "harmony", "harmony"),
    ("<start_of_turn>user", "Gemma2ForCausalLM", [], "generic", None),
    ("[INST] <<SYS>>", "LlamaForCausalLM", [], "generic", None),
    ("<|im_start|>user<|im_sep|>", "Phi3ForCausalLM", [], "generic", None),
]


@pytest.mark.parametrize(("template", "architecture", "tokens", "tools", "reasoning"), TEMPLATES)
def test_formats_are_told_from_the_template(
    template: str, architecture: str, tokens: Collection[str], tools: str, reasoning: str | None
) -> None:
    assert detect_tool_format(template, architecture, tokens) == tools
    assert detect_reasoning_format(template, architecture, tokens) == reasoning
    assert tools in FORMATS
    assert reasoning is None or reasoning in REASONING


def test_a_model_without_a_template_has_a_format() -> None:
    assert detect_tool_format(None, "LlamaForCausalLM", []) == "generic"
    assert detect_tool_format(None, "MistralForCausalLM", ["[TOOL_CALLS]"]) == "mistral"
    assert detect_reasoning_format(None, "LlamaForCausalLM", []) is None


def test_formats_are_found_by_the_names_that_scripts_have() -> None:
    assert find_tool_format("mistral", ["[TOOL_CALLS]"]) is FORMATS["mistral"]
    assert find_tool_format("mistral", ["[TOOL_CALLS]", "[ARGS]"]) is FORMATS["mistral_v11"]
    assert find_tool_format("openai", []) is FORMATS["harmony"]
    assert find_tool_format("qwen3_xml", []) is FORMATS["qwen3_coder"]
    assert find_tool_format("no_such", []) is None
    assert find_reasoning_format("openai_gptoss") is REASONING["harmony"]
    assert find_reasoning_format("qwen3") is REASONING["qwen3"]
    assert find_reasoning_format("no_such") is None
    for name in FORMATS:
        assert find_tool_format(name, []) is FORMATS[name]


THINK = REASONING["deepseek_r1"]
IDS = {"<think>": 7, "</think>": 8, "<|im_start|>": 9, "<|im_end|>": 10}


@pytest.mark.parametrize(
    ("prompt", "state"),
    [
        ([1, 2, 7], "open"),
        ([1, 2, 7, 3], "open"),
        ([1, 7, 2, 8, 3], "closed"),  # the empty thought of a template
        ([9, 7, 2, 8, 3, 10, 9, 4], "optional"),  # a thought of an earlier turn
        ([9, 7, 2, 8, 3, 10, 9, 4, 7], "open"),
        ([9, 7, 2, 10, 9, 4], "optional"),  # one that its limit had cut
        ([1, 2, 3], "optional"),
        ([], "optional"),
    ],
)
def test_the_reasoning_state_is_read_off_the_token_ids(prompt: list[int], state: str) -> None:
    assert reasoning_state_of(prompt, THINK, IDS) == state
    assert reasoning_state_of(prompt, None, IDS) == "none"


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("Assistant: <think>\n", "open"),
        ("Assistant: <think>\n\n</think>\n\n", "closed"),
        ("User: what is <think>? Assistant:", "optional"),
    ],
)
def test_markers_that_are_no_tokens_count_only_at_the_end(text: str, state: str) -> None:
    assert reasoning_state_of([1, 2], THINK, {}, prompt_text=text) == state


def test_the_operator_may_name_the_markers() -> None:
    reasoning = custom_reasoning("◁think▷", "◁/think▷")
    parser = OutputParser(
        None, reasoning, tools_enabled=False, reasoning_state="optional", special_ids={}
    )
    deltas = [d for char in "◁think▷Hm◁/think▷ Yes" for d in parser.feed([Piece(char)])]
    assert "".join(d.text for d in deltas if type(d).__name__ == "ReasoningDelta") == "Hm"
    assert "".join(d.text for d in deltas if type(d).__name__ == "ContentDelta") == " Yes"
    with pytest.raises(ValueError, match="empty"):
        custom_reasoning("", "x")


def test_call_ids_have_the_family_s_shape() -> None:
    ids = [call_id_maker(FORMATS["mistral"])() for _ in range(100)]
    assert len(set(ids)) == 100
    assert all(re.fullmatch("[A-Za-z0-9]{9}", call_id) for call_id in ids)
    assert re.fullmatch("call_[0-9a-f]{24}", call_id_maker(FORMATS["hermes"])())
    assert set("".join(ids)) <= set(string.ascii_letters + string.digits)


def test_an_id_that_the_model_writes_twice_is_not_used_twice() -> None:
    call = "<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    parser = OutputParser(
        FORMATS["kimi_k2"],
        None,
        tools_enabled=True,
        reasoning_state="none",
        special_ids={},
        tools=[Tool("f")],
    )
    deltas = parser.feed([Piece(f"<|tool_calls_section_begin|>{call}{call}")])
    starts = [delta for delta in deltas if isinstance(delta, ToolCallStart)]
    assert starts[0].id == "functions.f:0"
    assert re.fullmatch("call_[0-9a-f]{24}", starts[1].id)


@pytest.mark.parametrize("name", FORMATS)
def test_markers_are_those_that_a_detokenizer_must_let_through(name: str) -> None:
    format = FORMATS[name]
    ids = {marker.text: i for i, marker in enumerate(sorted(format.markers()))}
    ids |= {"<think>": 90, "</think>": 91, "<other>": 92}

    def marker_ids(tools_enabled: bool) -> frozenset[int]:
        return OutputParser(
            format,
            THINK,
            tools_enabled=tools_enabled,
            reasoning_state="optional",
            special_ids=ids,
        ).marker_ids

    assert marker_ids(True) == set(ids.values()) - {92}
    assert marker_ids(False) >= {90, 91}
    if not format.silent:
        assert marker_ids(False) == {90, 91}
