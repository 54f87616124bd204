"""pydantic-ai: tools, typed results by a tool and by the server's own schema, and streams, over
chat completions and over responses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

pydantic_ai = pytest.importorskip("pydantic_ai")
models = pytest.importorskip("pydantic_ai.models.openai")
providers = pytest.importorskip("pydantic_ai.providers.openai")

PERSON = "Extract the information: John Smith, 30, software engineer"
WEATHER = "What is the weather in Paris?"


class Person(BaseModel):
    name: str
    age: int
    occupation: str


JOHN = Person(name="John Smith", age=30, occupation="software engineer")


@pytest.fixture(params=["OpenAIChatModel", "OpenAIResponsesModel"])
def agent(request: pytest.FixtureRequest, base_url: str, model_name: str) -> Callable[..., Any]:
    def make(**options: Any) -> Any:
        provider = providers.OpenAIProvider(base_url=base_url + "/v1", api_key="none")
        model = getattr(models, request.param)(model_name, provider=provider)
        return pydantic_ai.Agent(model, model_settings={"temperature": 0.0}, **options)

    return make


def with_weather(agent: Any) -> list[str]:
    asked: list[str] = []

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Get the current weather in a city"""
        asked.append(city)
        return '{"temperature": 21, "condition": "sunny"}'

    return asked


def test_chat(agent: Callable[..., Any]) -> None:
    assert "Paris" in agent().run_sync("What is the capital of France?").output


def test_a_loop_of_tools(agent: Callable[..., Any]) -> None:
    made = agent()
    asked = with_weather(made)
    assert "sunny" in made.run_sync(WEATHER).output
    assert asked == ["Paris"]


def test_a_typed_result_by_a_tool(agent: Callable[..., Any]) -> None:
    assert agent(output_type=Person).run_sync(PERSON).output == JOHN


def test_a_typed_result_by_the_servers_schema(agent: Callable[..., Any]) -> None:
    native = pydantic_ai.NativeOutput(Person)
    assert agent(output_type=native).run_sync(PERSON).output == JOHN


def test_a_stream(agent: Callable[..., Any]) -> None:
    async def run() -> tuple[list[str], str]:
        async with agent().run_stream("What is the capital of France?") as result:
            pieces = [piece async for piece in result.stream_text(delta=True)]
            return pieces, await result.get_output()

    pieces, whole = asyncio.run(run())
    assert "".join(pieces) == whole
    assert "Paris" in whole


def test_a_streamed_loop_of_tools(agent: Callable[..., Any]) -> None:
    made = agent()
    asked = with_weather(made)

    async def run() -> str:
        async with made.run_stream(WEATHER) as result:
            return await result.get_output()

    assert "sunny" in asyncio.run(run())
    assert asked == ["Paris"]
