"""openai-agents: a loop of tools, a typed result and a handoff, over responses (its default) and
over chat completions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

agents = pytest.importorskip("agents")
openai = pytest.importorskip("openai")

MODELS = ["OpenAIResponsesModel", "OpenAIChatCompletionsModel"]
WEATHER = "What is the weather in Paris?"


class Person(BaseModel):
    name: str
    age: int
    occupation: str


def weather_tool(asked: list[str]) -> Any:
    def get_weather(city: str) -> str:
        """Get the current weather in a city"""
        asked.append(city)
        return '{"temperature": 21, "condition": "sunny"}'

    return agents.function_tool(get_weather)


@pytest.fixture(params=MODELS)
def agent(request: pytest.FixtureRequest, base_url: str, model_name: str) -> Callable[..., Any]:
    agents.set_tracing_disabled(True)

    def make(**options: Any) -> Any:
        client = openai.AsyncOpenAI(base_url=base_url + "/v1", api_key="none", max_retries=0)
        model = getattr(agents, request.param)(model=model_name, openai_client=client)
        settings = agents.ModelSettings(temperature=0)
        return agents.Agent(**{"name": "a", "model": model, "model_settings": settings} | options)

    return make


def test_a_loop_of_tools(agent: Callable[..., Any]) -> None:
    asked: list[str] = []
    result = agents.Runner.run_sync(agent(tools=[weather_tool(asked)]), WEATHER)
    assert asked == ["Paris"]
    assert "sunny" in result.final_output


def test_a_loop_of_tools_streamed(agent: Callable[..., Any]) -> None:
    asked: list[str] = []

    async def run() -> tuple[Any, list[str]]:
        running = agents.Runner.run_streamed(agent(tools=[weather_tool(asked)]), WEATHER)
        events = [event async for event in running.stream_events()]
        return running, [event.type for event in events]

    result, kinds = asyncio.run(run())
    assert asked == ["Paris"]
    assert "sunny" in result.final_output
    assert {"raw_response_event", "run_item_stream_event"} <= set(kinds)


def test_a_typed_result(agent: Callable[..., Any]) -> None:
    text = "Extract the information: John Smith, 30, software engineer"
    result = agents.Runner.run_sync(agent(output_type=Person), text)
    assert result.final_output == Person(name="John Smith", age=30, occupation="software engineer")


def test_tools_and_a_typed_result_together(agent: Callable[..., Any]) -> None:
    asked: list[str] = []
    typed = agent(output_type=Person, tools=[weather_tool(asked)])
    text = "Extract the information: John Smith, 30, software engineer"
    assert isinstance(agents.Runner.run_sync(typed, text, max_turns=4).final_output, Person)


def test_a_handoff_is_a_tool_without_arguments(agent: Callable[..., Any]) -> None:
    asked: list[str] = []
    expert = agent(name="weather expert", tools=[weather_tool(asked)])
    settings = agents.ModelSettings(temperature=0, tool_choice="required")
    first = agent(name="first", handoffs=[expert], model_settings=settings)
    result = agents.Runner.run_sync(first, WEATHER)
    assert result.last_agent.name == "weather expert"
