"""SmolLM2-135M-Instruct from its GGUF file, served in float32: transformers' own greedy tokens and
logprobs, valid answers under schemas of every kind, the right words in them, a right tool call.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jsonschema
import pytest
import torch

from tests.serving.conftest import Server, start_server, stop_server
from tests.serving.real_weights import smollm2_file, smollm2_reference

pytestmark = [pytest.mark.serve, pytest.mark.real]

# `make test` asks part of the prompts, since two cores have all other tests to run meanwhile;
# FORMGATE_REAL_WEIGHTS=all asks all of them, for 64 tokens each.
ALL = os.environ.get("FORMGATE_REAL_WEIGHTS") == "all"
NUM_PROMPTS, MAX_TOKENS = (30, 64) if ALL else (10, 32)
REQUEST_TIMEOUT = 900.0
TOP = 3
TOLERANCE = 1e-3

PROMPTS = [
    "What is the capital of France?",
    "Name three primary colours.",
    "Write a haiku about the sea.",
    "Explain gravity to a child in two sentences.",
    "What is 12 times 12?",
    "Translate 'good morning' to Spanish.",
    "List the planets of the solar system.",
    "Who wrote Romeo and Juliet?",
    "Give me a recipe for pancakes.",
    "What does a compiler do?",
    "Write a Python function that adds two numbers.",
    "Why is the sky blue?",
    "Continue: once upon a time",
    "Summarise the plot of Cinderella.",
    "What is the boiling point of water?",
    "Tell me a joke about cats.",
    "How do I boil an egg?",
    "What is photosynthesis?",
    "Give an example of a metaphor.",
    "Spell the word 'necessary'.",
    "What is the largest ocean?",
    "Count from one to ten.",
    "Describe the taste of a lemon.",
    "What are the rules of chess?",
    "Write an email that asks for a day off.",
    "What is the difference between a lake and a pond?",
    "Grüße! Sprichst du Deutsch?",
    "你好，你是谁？",
    "x = [1, 2, 3]; print(sum(x)) # what does it print?",
    "Say 'hello' 3 times, then stop.",
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ("--dtype", "float32", "--max-model-len", "2048", "--max-num-seqs", "16")
    log = tmp_path_factory.mktemp("real") / "log"
    # On one core: where other tests run beside these, each layer would wait several times for a
    # second thread that has no core.
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        running = start_server(log, str(smollm2_file()), *flags)
    finally:
        os.sched_setaffinity(0, cores)
    yield running
    stop_server(running)


@dataclass(frozen=True)
class Answer:
    prompt: list[int]
    tokens: list[int]
    finish_reason: str
    logprobs: list[float]  # of each token
    top: list[list[float]]  # the highest ones at its place


@pytest.fixture(scope="module")
def answers(served: Server) -> list[Answer]:
    def ask(prompt: str) -> Answer:
        answer = chat(
            served, prompt, max_tokens=MAX_TOKENS, logprobs=True, top_logprobs=TOP, token_ids=True
        )
        choice = answer["choices"][0]
        entries = choice["logprobs"]["content"]
        return Answer(
            prompt=answer["prompt_token_ids"],
            tokens=choice["token_ids"],
            finish_reason=choice["finish_reason"],
            logprobs=[entry["logprob"] for entry in entries],
            top=[[top["logprob"] for top in entry["top_logprobs"]] for entry in entries],
        )

    return all_at_once(ask, PROMPTS[:NUM_PROMPTS])


def all_at_once(ask: Any, prompts: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor(16) as threads:
        return list(threads.map(ask, prompts))


def chat(server: Server, prompt: str, *, token_ids: bool = False, **fields: Any) -> dict[str, Any]:
    client = server.client().with_options(timeout=REQUEST_TIMEOUT)
    extra = {"return_token_ids": True} if token_ids else {}
    answer = client.chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": prompt}],
        temperature=0,
        extra_body=extra,
        **fields,
    )
    return answer.model_dump()


@pytest.fixture(scope="module")
def expected(answers: list[Answer]) -> list[torch.Tensor]:
    """transformers' logprobs at every place of each answer and after it: [tokens + 1, vocabulary].
    A greedy answer is transformers' own exactly if each token is the likeliest after those before.
    """
    model = smollm2_reference(smollm2_file())
    found = []
    with torch.inference_mode():
        for answer in answers:
            ids = torch.tensor([[*answer.prompt, *answer.tokens]])
            logits = model(ids).logits[0, len(answer.prompt) - 1 :].float()
            found.append(logits.log_softmax(dim=-1))
    return found


def test_greedy_answers_are_transformers_own(
    answers: list[Answer], expected: list[torch.Tensor]
) -> None:
    assert len(answers) == NUM_PROMPTS
    for answer, logprobs in zip(answers, expected, strict=True):
        likeliest = logprobs.argmax(dim=-1).tolist()
        assert answer.tokens == likeliest[: len(answer.tokens)]
        if answer.finish_reason == "length":
            assert len(answer.tokens) == MAX_TOKENS
    assert {answer.finish_reason for answer in answers} == {"stop", "length"}


def test_logprobs_are_transformers_own(answers: list[Answer], expected: list[torch.Tensor]) -> None:
    for answer, logprobs in zip(answers, expected, strict=True):
        count = len(answer.logprobs)
        assert count >= len(answer.tokens) - 1  # the end token has no text
        theirs = logprobs[range(count), answer.tokens[:count]]
        torch.testing.assert_close(torch.tensor(answer.logprobs), theirs, rtol=0, atol=TOLERANCE)
        top = logprobs[:count].topk(TOP).values
        torch.testing.assert_close(torch.tensor(answer.top), top, rtol=0, atol=TOLERANCE)


WORD = {"type": "string", "minLength": 1, "maxLength": 12}


def closed(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


SCHEMAS: dict[str, dict[str, Any]] = {
    "object": closed({"name": WORD, "age": {"type": "integer", "minimum": 0, "maximum": 120}}),
    "nested": closed({"person": closed({"name": WORD, "pet": closed({"name": WORD})})}),
    "array": {"type": "array", "items": WORD, "minItems": 2, "maxItems": 4},
    "array_of_objects": {"type": "array", "items": closed({"x": WORD}), "maxItems": 3},
    "enum": closed({"colour": {"enum": ["red", "green", "blue"]}}),
    "const": closed({"kind": {"const": "cat"}, "legs": {"const": 4}}),
    "integer": closed({"n": {"type": "integer", "exclusiveMinimum": 3, "maximum": 9}}),
    "number": closed({"n": {"type": "number", "minimum": 0, "maximum": 1}}),
    "boolean_and_null": closed({"yes": {"type": "boolean"}, "none": {"type": "null"}}),
    "types": closed({"value": {"type": ["integer", "null"], "maximum": 99, "minimum": 0}}),
    "any_of": closed({"v": {"anyOf": [{"type": "boolean"}, closed({"a": WORD})]}}),
    "one_of": closed({"v": {"oneOf": [closed({"a": WORD}), closed({"b": WORD})]}}),
    "all_of": closed({"v": {"allOf": [{"type": "string", "maxLength": 9}, {"minLength": 3}]}}),
    "pattern": closed({"code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}}),
    "format": closed({"day": {"type": "string", "format": "date"}}),
    "optional": closed({"a": WORD, "b": WORD}, required=["a"]),
    "additional": {
        "type": "object",
        "additionalProperties": {"type": "boolean"},
        "minProperties": 1,
        "maxProperties": 2,
        "propertyNames": {"maxLength": 5},
    },
    "pattern_properties": {
        "type": "object",
        "patternProperties": {"^k[0-9]$": {"type": "boolean"}},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 2,
    },
    "ref": closed({"a": {"$ref": "#/$defs/w"}, "b": WORD}, **{"$defs": {"w": WORD}}),
    "tuple": {"type": "array", "prefixItems": [WORD, {"type": "boolean"}], "items": False,
              "minItems": 2},
    "if_then": closed(
        {"kind": {"enum": ["cat", "dog"]}, "sound": WORD},
        **{
            "if": {"properties": {"kind": {"const": "cat"}}},
            "then": {"properties": {"sound": {"const": "meow"}}},
        },
    ),
    "unique": {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "minItems": 2},
    "not": closed({"n": {"enum": [1, 2, 3], "not": {"const": 1}}}),
}  # fmt: skip


def under_schema(server: Server, prompt: str, schema: dict[str, Any]) -> Any:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    answer = chat(server, prompt, max_tokens=160, response_format=wanted)
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "stop"
    return json.loads(choice["message"]["content"])


def test_answers_under_schemas_of_every_kind_are_valid(served: Server) -> None:
    assert len(SCHEMAS) >= 20
    prompt = "Make up an example about an animal, and answer in JSON."
    values = all_at_once(lambda schema: under_schema(served, prompt, schema), [*SCHEMAS.values()])
    for name, value in zip(SCHEMAS, values, strict=True):
        jsonschema.Draft202012Validator(SCHEMAS[name]).validate(value)


PEOPLE = {
    "Maria is 34 years old and works as a nurse.": ("Maria", 34, "nurse"),
    "Tom, a 52-year-old teacher, lives in Leeds.": ("Tom", 52, "teacher"),
    "My name is Lena, I am 27 and I am a baker.": ("Lena", 27, "baker"),
}


@pytest.mark.parametrize("sentence", PEOPLE)
def test_name_age_and_job_are_read_from_a_sentence(sentence: str, served: Server) -> None:
    text = {"type": "string", "maxLength": 20}
    schema = closed({"name": text, "age": {"type": "integer", "maximum": 120}, "job": text})
    prompt = f"Extract the name, age and job as JSON from this sentence: {sentence}"
    value = under_schema(served, prompt, schema)
    assert (value["name"], value["age"], value["job"].lower()) == PEOPLE[sentence]


def test_a_tool_is_called_with_the_word_of_the_prompt(served: Server) -> None:
    """SmolLM2's template knows no tools, so the generic format is in use."""
    parameters = closed({"city": {"type": "string", "maxLength": 20}})
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
    prompt = "What is the weather in Paris?"
    answer = chat(
        served,
        prompt,
        tools=[tool],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=100,
    )
    [call] = answer["choices"][0]["message"]["tool_calls"]
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
