"""The Python API over the real engine process and the embedded model."""

from __future__ import annotations

import datetime
import enum
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from outlines import types
from pydantic import BaseModel, field_validator

from formgate import embedded
from formgate.gateway.library.llm import LLM

pytestmark = pytest.mark.serve

SENTENCE = "Extract the person's information: John Smith, 30, software engineer"


class Person(BaseModel):
    name: str
    age: int
    occupation: str


@dataclass
class Size:
    width: int
    height: int


class Feeling(enum.Enum):
    GOOD = "positive"
    BAD = "negative"


def get_weather(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> str:
    """Get the current weather in a city."""
    raise AssertionError("tools are not run")


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(max_num_seqs=8, kv_cache_memory_bytes=64 << 20) as model:
        yield model


def test_chat_without_a_type(llm: LLM) -> None:
    result = llm.chat("What is the capital of France?", temperature=0)
    assert "Paris" in result.text
    assert result.value == result.text
    assert (result.finish_reason, result.error, result.tool_calls) == ("stop", None, ())
    assert result.usage.prompt_tokens > 0
    assert result.usage.completion_tokens > 0


def test_a_list_is_answered_in_order(llm: LLM) -> None:
    results = llm.chat(
        [SENTENCE, [{"role": "user", "content": "请提取人物信息：张伟，30岁，软件工程师"}]] * 8,
        Person,
        temperature=0,
    )
    assert [result.value for result in results] == [
        Person(name="John Smith", age=30, occupation="software engineer"),
        Person(name="张伟", age=30, occupation="软件工程师"),
    ] * 8
    assert llm.chat([]) == llm.generate([]) == []


def num_steps(llm: LLM) -> int:
    assert llm._runtime._state is not None
    text = llm._runtime._state.metrics.exposition().decode()
    (line,) = re.findall(r"^vllm:iteration_tokens_total_count.*", text, re.MULTILINE)
    return int(float(line.split()[-1]))


def test_a_batch_runs_at_once(llm: LLM) -> None:
    prompts = [f"Tell me a story about number {i}." for i in range(8)]
    options = {"max_tokens": 48, "min_tokens": 48, "temperature": 0}
    before = num_steps(llm)
    together = llm.chat(prompts, **options)
    assert [result.usage.completion_tokens for result in together] == [48] * 8
    assert num_steps(llm) - before < 4 * 48  # of 8 * 48, one by one


@pytest.mark.parametrize(
    ("kind", "value_type"),
    [
        (str, str),
        (int, int),
        (float, float),
        (bool, bool),
        (list[int], list),
        (dict, dict),
        (Size, Size),
        (Person | None, (Person, type(None))),
        (Literal["good", "bad"], str),
        (Feeling, Feeling),
        (datetime.date, datetime.date),
        (datetime.datetime, datetime.datetime),
        (types.date, str),
        (types.ipv4, str),
        (types.Choice([1, 2]), int),
        (types.CFG('start: "yes" | "no"'), str),
        (types.JsonSchema(Person), dict),
        ({"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2}, list),
        (types.digit.exactly(3) + "-" + types.either("a b", "c.d"), str),
    ],
    ids=repr,
)
def test_every_kind_of_type(llm: LLM, kind: Any, value_type: Any) -> None:
    results = llm.chat([SENTENCE, "What is 12 times 3?"], kind, temperature=0, max_tokens=300)
    for result in results:
        assert result.error is None
        assert isinstance(result.value, value_type)
        if isinstance(kind, types.Regex):
            assert kind.matches(result.text)


def test_generate_continues_text_and_token_ids(llm: LLM) -> None:
    ids = json.loads((embedded.path() / "tokenizer.json").read_text())["model"]["vocab"]
    texts = llm.generate(["San Francisco is a", [next(iter(ids.values()))]], max_tokens=5)
    assert [result.usage.completion_tokens for result in texts] == [5, 5]
    assert [result.finish_reason for result in texts] == ["length", "length"]
    result = llm.generate("The person is ", Person, temperature=0.5, seed=1)
    assert isinstance(result.value, Person), result  # longer than a completion's 16 tokens


def test_tools_are_called_and_answered(llm: LLM) -> None:
    question = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked = llm.chat(question, tools=[get_weather], temperature=0)
    assert (asked.finish_reason, asked.value, asked.error) == ("tool_calls", None, None)
    (call,) = asked.tool_calls
    assert (call.name, call.arguments["city"]) == ("get_weather", "Paris")
    answer = llm.chat(
        [
            *question,
            asked.message,
            {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 22}'},
        ],
        tools=[get_weather],
        temperature=0,
    )
    assert "22" in answer.text


def test_a_tool_may_be_a_definition_and_forced(llm: LLM) -> None:
    size = {"type": "object", "properties": {"size": {"enum": [1, 2]}}, "required": ["size"]}
    tool = {"type": "function", "function": {"name": "resize", "parameters": size}}
    result = llm.chat("Hello", tools=[tool], tool_choice="required", parallel_tool_calls=False)
    assert [call.name for call in result.tool_calls] == ["resize"]
    assert result.tool_calls[0].arguments["size"] in (1, 2)


def test_an_answer_that_is_cut_has_no_value(llm: LLM) -> None:
    result = llm.chat(SENTENCE, Person, max_tokens=18)
    assert result.finish_reason == "length"
    assert result.value is None
    assert "max_tokens" in (result.error or "")


def test_what_a_validator_refuses_has_no_value(llm: LLM) -> None:
    class Nobody(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def refuse(cls, name: str) -> str:
            raise ValueError("nobody is good enough")

    results = llm.chat([SENTENCE, "Hello"], Nobody, max_tokens=200)
    assert [result.value for result in results] == [None, None]
    assert "nobody is good enough" in (results[0].error or "")


def test_errors_are_those_of_the_server(llm: LLM) -> None:
    with pytest.raises(ValueError, match=r"^Invalid value for 'temperature': input should be"):
        llm.chat("Hello", temperature=9.0)
    with pytest.raises(ValueError, match=r"^'messages' must not be empty\.$"):
        llm.chat([[]])
    with pytest.raises(ValueError, match=r"maximum context length is \d+ tokens"):
        llm.generate("word " * 10_000)
    with pytest.raises(ValueError, match="Only one constraint"):
        llm.chat("Hello", int, guided_regex="a")
    with pytest.raises(ValueError, match="missing"):
        llm.chat(["Hello", "Hello"], types.Regex("(?=a)b("))
    with pytest.raises(ValueError, match="In the keyword 'type' at /type"):
        llm.chat("Hello", {"type": "nothing"})
    assert llm.chat("Hello", Literal["fine"]).value == "fine"


def test_wrong_calls(llm: LLM) -> None:
    with pytest.raises(TypeError, match=r"cannot be the type of an answer.*Use a Pydantic model"):
        llm.chat("Hello", threading.Thread)
    with pytest.raises(TypeError, match=r"unknown argument 'temprature'; did you mean 'temper"):
        llm.chat("Hello", temprature=0)
    with pytest.raises(TypeError, match="'n' is not taken here: pass the prompt as often"):
        llm.generate("Hello", n=2)
    with pytest.raises(TypeError, match="is no tool"):
        llm.chat("Hello", tools=["get_weather"])


def test_threads_share_a_model(llm: LLM) -> None:
    values: list[Any] = []

    def ask(kind: Any) -> None:
        values.append(llm.chat(SENTENCE, kind, max_tokens=100).value)

    threads = [threading.Thread(target=ask, args=(kind,)) for kind in (Person, bool, Feeling)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {type(value) for value in values} == {Person, bool, Feeling}


def test_a_second_model_and_the_end_of_one(llm: LLM) -> None:
    other = LLM(embedded.path(), max_model_len=256, max_num_seqs=2, kv_cache_memory_bytes=16 << 20)
    asked = [other.chat("Hello", bool), llm.chat("Hello", bool)]
    assert all(isinstance(result.value, bool) for result in asked)
    other.close()
    other.close()
    with pytest.raises(RuntimeError, match="closed"):
        other.chat("Hello")
    assert isinstance(llm.chat("Hello", bool).value, bool)


def test_flags_are_checked_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match="unknown flag 'max_modellen'; did you mean 'max_model_len'"
    ):
        LLM(max_modellen=5)
    with pytest.raises(TypeError, match="'port' is about the HTTP server"):
        LLM(port=80)
    with pytest.raises(ValueError, match="max_num_seqs: 0 is not positive"):
        LLM(max_num_seqs=0)
    with pytest.raises(ValueError, match="tensor_parallel_size: 3 is not a multiple of --nnodes 2"):
        LLM(tensor_parallel_size=3, nnodes=2)
    with pytest.raises(ValueError, match="node_rank: an LLM is node 0"):
        LLM(tensor_parallel_size=2, nnodes=2, node_rank=1)
    with pytest.raises(ValueError, match="dtype: Input should be"):
        LLM(dtype="float7")
    with pytest.raises(ValueError, match=r"has no config\.json"):
        LLM(tmp_path)
    with pytest.raises(ValueError, match="the chat template nowhere does not exist"):
        LLM(chat_template="nowhere")


def test_a_program_that_closes_nothing_ends() -> None:
    program = """
from formgate.gateway.library.llm import LLM
llm = LLM(max_num_seqs=2, kv_cache_memory_bytes=16 << 20)
print(llm.chat("Hello", bool).value)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() in ("True", "False")
    assert (done.returncode, done.stderr) == (0, "")
