"""All formats by name, and the detection of a model's format: from its chat template first, which
shows the format, then from its architecture and special tokens.
"""

from __future__ import annotations

from collections.abc import Collection

from formgate.parsers.families import json_families, reasoning, xml_families
from formgate.parsers.families.gemma import GEMMA4
from formgate.parsers.families.generic import GENERIC
from formgate.parsers.families.pythonic import LFM2, PYTHONIC
from formgate.parsers.formats.format import Format, ReasoningFormat

FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        json_families.MISTRAL,
        json_families.MISTRAL_V11,
        json_families.LLAMA3_JSON,
        PYTHONIC,
        json_families.HERMES,
        json_families.DEEPSEEK_V3,
        json_families.DEEPSEEK_V31,
        xml_families.QWEN3_CODER,
        xml_families.GLM45,
        json_families.KIMI_K2,
        json_families.GRANITE,
        json_families.INTERNLM,
        json_families.JAMBA,
        json_families.PHI4_MINI_JSON,
        json_families.XLAM,
        json_families.HARMONY,
        GEMMA4,
        LFM2,
        GENERIC,
    )
}
REASONING: dict[str, ReasoningFormat] = {
    format.name: format
    for format in (
        reasoning.DEEPSEEK_R1,
        reasoning.QWEN3,
        reasoning.MISTRAL_THINK,
        reasoning.GRANITE,
        reasoning.HARMONY,
    )
}

# Names of the formats on other servers' command lines.
_TOOL_ALIASES = {
    "openai": "harmony",
    "gpt-oss": "harmony",
    "llama3": "llama3_json",
    "llama4_json": "llama3_json",
    "llama4_pythonic": "pythonic",
    "qwen": "hermes",
    "qwen25": "hermes",
    "qwen3_xml": "qwen3_coder",
    "deepseekv3": "deepseek_v3",
    "deepseekv31": "deepseek_v31",
    "glm": "glm45",
    "glm47": "glm45",
    "granite4": "hermes",
    "phi4_mini": "phi4_mini_json",
}
_REASONING_ALIASES = {
    "deepseek-r1": "deepseek_r1",
    "deepseek_v3": "deepseek_r1",
    "deepseek_v31": "deepseek_r1",
    "glm45": "deepseek_r1",
    "gpt-oss": "harmony",
    "kimi_k2": "deepseek_r1",
    "openai_gptoss": "harmony",
    "qwen3-thinking": "qwen3",
}


def find_tool_format(name: str, special_tokens: Collection[str]) -> Format | None:
    """The format with this name, formgate's or another server's; None if unknown. The tokenizer
    decides which of its two formats "mistral" is.
    """
    name = _TOOL_ALIASES.get(name, name)
    if name == "mistral" and "[ARGS]" in special_tokens:
        name = "mistral_v11"
    return FORMATS.get(name)


def find_reasoning_format(name: str) -> ReasoningFormat | None:
    """The reasoning format with this name, formgate's or another server's; None if unknown."""
    return REASONING.get(_REASONING_ALIASES.get(name, name))


def detect_tool_format(
    chat_template: str | None, architecture: str, special_tokens: Collection[str]
) -> str:
    """The format's name; "generic" for a model without a known one."""
    template = chat_template or ""

    def says(*words: str) -> bool:
        return any(word in template for word in words)

    def knows(token: str) -> bool:
        return token in special_tokens or says(token)

    if architecture.startswith("GptOss") or says("<|channel|>"):
        return "harmony"
    if says("[TOOL_CALLS]") or (not template and "[TOOL_CALLS]" in special_tokens):
        return "mistral_v11" if knows("[ARGS]") else "mistral"
    if knows("<|tool_calls_section_begin|>"):
        return "kimi_k2"
    if says("<｜tool▁calls▁begin｜>"):
        # The R1 distills have the template of their teacher, but were not trained on its calls.
        if not architecture.startswith("Deepseek"):
            return "generic"
        return "deepseek_v3" if says("```json") else "deepseek_v31"
    for word, name in _BY_WORD:
        if says(word):
            return name
    if architecture.startswith("Granite") and knows("<|tool_call|>"):
        return "granite"
    if architecture.startswith("Phi") and knows("<|tool_call|>"):
        return "phi4_mini_json"
    if "<|python_tag|>" in special_tokens and says("ipython"):
        return "llama3_json"
    return "generic"


# The order matters: a template may quote the syntax of another family.
_BY_WORD = (
    ("<|tool_call>call:", "gemma4"),
    ("<|tool_call_start|>", "lfm2"),
    ("<|tool_list_start|>", "lfm2"),
    ("<arg_key>", "glm45"),
    ("<function=", "qwen3_coder"),
    ("<|action_start|>", "internlm"),
    ("<tool_calls>", "jamba"),
    ("functools", "phi4_mini_json"),
    ("<tool_call>", "hermes"),
    ("<|python_start|>", "pythonic"),
    ("func_name1(", "pythonic"),
    ("xLAM", "xlam"),
    ("calls in a single JSON array", "xlam"),
    ("<|python_tag|>", "llama3_json"),
)


def detect_reasoning_format(
    chat_template: str | None, architecture: str, special_tokens: Collection[str]
) -> str | None:
    """The format's name; None for a model without a reasoning region."""
    template = chat_template or ""
    if architecture.startswith("GptOss") or "<|channel|>" in template:
        return "harmony"
    if "[THINK]" in special_tokens or "[THINK]" in template:
        return "mistral"
    if "Here is my thought process" in template:
        return "granite"
    if "<think>" in special_tokens or "think>" in template:
        return "qwen3" if architecture.startswith("Qwen3") else "deepseek_r1"
    return None
