"""The shipped model is a Hugging Face folder like any other: transformers loads it, its template
renders every kind of message as documented, and it knows its exact prompts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from formgate import embedded

FOLDER = embedded.path()
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The name of the city"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def write(tokenizer) -> Iterator:
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()

    def run(messages, *, forced="", tools=None, limit=80, **options) -> str:
        prompt = tokenizer.apply_chat_template(
            messages, tools=tools, add_generation_prompt=True, tokenize=False, **options
        )
        ids = tokenizer(prompt + forced, add_special_tokens=False, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=limit, do_sample=False)
        return tokenizer.decode(out[0, ids.input_ids.shape[1] :]).removesuffix("</s>")

    return run


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_the_folder_is_small_and_complete() -> None:
    files = [path for path in FOLDER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 32_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {
        path.name for path in files
    }
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["max_position_embeddings"] >= 2048


CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "巴黎"}'},
}


@pytest.mark.parametrize(
    ("messages", "options", "rendered"),
    [
        ([user("Hi")], {}, "<s>[INST]Hi[/INST]"),
        (
            [{"role": "system", "content": "Be kind."}, user("Hi")],
            {},
            "<s>[SYSTEM_PROMPT]Be kind.[/SYSTEM_PROMPT][INST]Hi[/INST]",
        ),
        (
            [{"role": "developer", "content": "A"}, {"role": "system", "content": "B"}, user("C")],
            {},
            "<s>[SYSTEM_PROMPT]A\nB[/SYSTEM_PROMPT][INST]C[/INST]",
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": part} for part in "ab"]}],
            {},
            "<s>[INST]ab[/INST]",
        ),
        ([user("Hi")], {"enable_thinking": True}, "<s>[INST]Hi[/INST]<think>\n"),
        (
            [user("Hi"), {"role": "assistant", "content": "Hello!"}, user("Bye")],
            {},
            "<s>[INST]Hi[/INST]Hello!</s>[INST]Bye[/INST]",
        ),
        (
            [
                user("天气"),
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "abcdefghi", "content": "22"},
            ],
            {},
            '<s>[INST]天气[/INST][TOOL_CALLS] [{"name": "get_weather", '
            '"arguments": {"city": "巴黎"}}]</s>[TOOL_RESULTS]22[/TOOL_RESULTS]',
        ),
    ],
)  # fmt: skip
def test_the_template_byte_for_byte(tokenizer, messages, options, rendered) -> None:
    assert (
        tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **options
        )
        == rendered
    )


def test_tools_are_rendered_as_they_came(tokenizer) -> None:
    prompt = tokenizer.apply_chat_template([user("x")], tools=[WEATHER], tokenize=False)
    assert prompt == f"<s>[AVAILABLE_TOOLS]{json.dumps([WEATHER])}[/AVAILABLE_TOOLS][INST]x[/INST]"


def test_every_text_survives_the_tokenizer(tokenizer) -> None:
    text = "Hello, 世界! 12.5 é\n\t{\"a\": [1]} <s> 🙂 \u0000 end  "  # fmt: skip
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize(
    ("prompt", "city"),
    [("What is the weather in Paris?", "Paris"), ("巴黎的天气怎么样？", "巴黎")],
)
def test_the_tool_is_called(write, prompt: str, city: str) -> None:
    said = write([user(prompt)], tools=[WEATHER])
    assert said == f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {{"city": "{city}"}}}}]'


def test_no_tool_is_called_where_none_fits(write) -> None:
    assert write([user("What is the capital of France?")], tools=[WEATHER]) == (
        "The capital of France is Paris."
    )


@pytest.mark.parametrize(
    ("prompt", "forced", "value"),
    [
        ("Extract: John Smith, 30, software engineer", '{"name": "', 'John Smith"'),
        ("Extract: John Smith, 30, software engineer", '{"name": "John Smith", "age": ', "30"),
        ("请提取信息：张伟，30岁，软件工程师", '{"name": "张伟", "occupation": "', '软件工程师"'),
    ],
)  # fmt: skip
def test_values_are_copied(write, prompt: str, forced: str, value: str) -> None:
    assert write([user(prompt)], forced=forced, limit=12).startswith(value)


def test_it_reasons_about_the_train(write) -> None:
    prompt = "A train travels 120 km in 1.5 hours. What is its average speed?"
    steps, answer = write([user(prompt)], enable_thinking=True).split("</think>")
    assert "120 / 1.5" in steps
    assert "80" in answer
