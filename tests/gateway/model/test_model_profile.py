"""Which formats a served model has: as the command line calls them, and as its tokenizer says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from formgate.gateway.model.model_profile import load_model_profile
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.server_config import ServerConfig
from formgate.parsers.families.registry import FORMATS
from formgate.parsers.text.symbols import text_of


@pytest.mark.parametrize(
    ("tool_parser", "reasoning_parser", "tools", "closing"),
    [
        ("mistral", "deepseek-r1", "mistral", "</think>"),
        ("openai", "openai_gptoss", "harmony", "<|end|>"),
        ("qwen3_xml", "qwen3", "qwen3_coder", "</think>"),
        ("hermes", "[THINKING],[/THINKING]", "hermes", "[/THINKING]"),
    ],
)
def test_parsers_have_the_names_that_scripts_give_them(
    model_dir: Path,
    tokenizer: Tokenizer,
    tool_parser: str,
    reasoning_parser: str,
    tools: str,
    closing: str,
) -> None:
    config = ServerConfig(tool_call_parser=tool_parser, reasoning_parser=reasoning_parser)
    made = load_model_profile(model_dir, config, name="x", max_logprobs=5, tokenizer=tokenizer)
    assert made.tool_format is not None
    assert made.tool_format.name == tools
    assert made.reasoning_format is not None
    assert text_of(made.reasoning_format.close) == closing


def test_mistral_is_the_format_of_the_tokenizer(model_dir: Path, tokenizer: Tokenizer) -> None:
    newer = replace(tokenizer, special_ids={**tokenizer.special_ids, "[ARGS]": 99})
    config = ServerConfig(tool_call_parser="mistral")
    made = load_model_profile(model_dir, config, name="x", max_logprobs=5, tokenizer=newer)
    assert made.tool_format is FORMATS["mistral_v11"]


@pytest.mark.parametrize(
    "config",
    [
        ServerConfig(tool_call_parser="hermez"),
        ServerConfig(reasoning_parser="r1"),
        ServerConfig(reasoning_parser="<think>,"),
    ],
)
def test_an_unknown_parser_is_one_clear_line(
    model_dir: Path, tokenizer: Tokenizer, config: ServerConfig
) -> None:
    with pytest.raises(ValueError, match=r"there are: .*hermes|there are: .*qwen3|must not be"):
        load_model_profile(model_dir, config, name="x", max_logprobs=5, tokenizer=tokenizer)
