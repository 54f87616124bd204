"""The openai SDK: its helpers for streams, parsed answers and tools, over both of its APIs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

pytest.importorskip("agents", reason="the clients extra is not installed")
openai = pytest.importorskip("openai")

PERSON = "Extract the information: John Smith, 30, software engineer"
WEATHER = "What is the weather in Paris?"
SUNNY = '{"temperature": 21, "condition": "sunny"}'
TRAIN = "A train travels 120 km in 2 hours. What is its average speed?"


class Person(BaseModel):
    name: str
    age: int
    occupation: str | None


class GetWeather(BaseModel):
    """Get the current weather in a city"""

    city: str


JOHN = Person(name="John Smith", age=30, occupation="software engineer")
FUNCTION = {
    "name": "get_weather",
    "description": "Get the current weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture(scope="module")
def client(base_url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=base_url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_chat_and_its_stream(client: Any, model_name: str) -> None:
    question = {"model": model_name, "messages": user("What is the capital of France?")}
    answer = client.chat.completions.create(**question, temperature=0)
    text = answer.choices[0].message.content
    assert "Paris" in text
    with client.chat.completions.stream(**question, temperature=0) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == text


def test_chat_parses_a_type(client: Any, model_name: str) -> None:
    question = {"model": model_name, "messages": user(PERSON), "response_format": Person}
    answer = client.chat.completions.parse(**question, temperature=0)
    assert answer.choices[0].message.parsed == JOHN
    with client.chat.completions.stream(**question, temperature=0) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == JOHN


def test_a_loop_of_tools_in_chat(client: Any, model_name: str) -> None:
    tools = [openai.pydantic_function_tool(GetWeather, name="get_weather")]
    messages: list[Any] = user(WEATHER)
    asked = {"model": model_name, "tools": tools, "temperature": 0}
    with client.chat.completions.stream(messages=messages, **asked) as stream:
        message = stream.get_final_completion().choices[0].message
    (call,) = message.tool_calls
    assert call.function.parsed_arguments == GetWeather(city="Paris")
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": SUNNY}]
    answer = client.chat.completions.create(messages=messages, **asked)
    assert "sunny" in answer.choices[0].message.content


def test_a_response_and_its_stream(client: Any, model_name: str) -> None:
    question = {"model": model_name, "input": "What is the capital of France?"}
    answer = client.responses.create(**question, temperature=0)
    assert "Paris" in answer.output_text
    with client.responses.stream(**question, temperature=0) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == answer.output_text
    assert final.usage == answer.usage.model_copy(
        update={"input_tokens_details": final.usage.input_tokens_details}
    )


def test_a_response_parses_a_type(client: Any, model_name: str) -> None:
    question = {"model": model_name, "input": PERSON, "text_format": Person}
    assert client.responses.parse(**question, temperature=0).output_parsed == JOHN
    with client.responses.stream(**question, temperature=0) as stream:
        assert stream.get_final_response().output_parsed == JOHN


def test_a_loop_of_tools_in_responses(client: Any, model_name: str) -> None:
    asked = {
        "model": model_name,
        "tools": [openai.pydantic_function_tool(GetWeather, name="get_weather")["function"]],
        "temperature": 0,
    }
    asked["tools"][0] |= {"type": "function"}
    items: list[Any] = user(WEATHER)
    with client.responses.stream(input=items, **asked) as stream:
        response = stream.get_final_response()
    (call,) = response.output
    assert json.loads(call.arguments) == {"city": "Paris"}
    items += [
        *(item.to_dict(mode="json") for item in response.output),
        {"type": "function_call_output", "call_id": call.call_id, "output": SUNNY},
    ]
    assert "sunny" in client.responses.create(input=items, **asked).output_text


def test_reasoning_is_an_item_that_can_be_sent_back(client: Any, model_name: str) -> None:
    asked = {"model": model_name, "temperature": 0}
    first = client.responses.create(input=TRAIN, reasoning={"effort": "medium"}, **asked)
    reasoning, message = first.output
    assert "120" in reasoning.content[0].text
    assert "60" in message.content[0].text
    assert first.usage.output_tokens_details.reasoning_tokens > 0
    items = [*user(TRAIN), *first.output, *user("Hello")]
    assert client.responses.create(input=items, **asked).status == "completed"


def test_errors_are_the_sdks_own(client: Any, model_name: str) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(model="gpt-9", input="x")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=model_name, input="x", previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"


async def ask_many(base_url: str, model_name: str) -> list[str]:
    async with openai.AsyncOpenAI(base_url=base_url + "/v1", api_key="none") as client:
        answers = []
        async with client.responses.stream(model=model_name, input="Hello") as stream:
            answers.append((await stream.get_final_response()).status)
        chat = await client.chat.completions.create(model=model_name, messages=user("Hello"))
        return [*answers, chat.choices[0].finish_reason]


@pytest.mark.asyncio
async def test_the_async_client(base_url: str, model_name: str) -> None:
    assert await ask_many(base_url, model_name) == ["completed", "stop"]
