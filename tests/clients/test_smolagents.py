"""smolagents: its model class, which sends `stop` with `tools` and content in parts, and an
agent."""

from __future__ import annotations

from typing import Any

import pytest

smolagents = pytest.importorskip("smolagents")


class WeatherTool(smolagents.Tool):
    name = "get_weather"
    description = "Get the current weather in a city"
    inputs = {"city": {"type": "string", "description": "The city"}}  # noqa: RUF012
    output_type = "string"

    def forward(self, city: str) -> str:
        return f"It is sunny in {city}."


@pytest.fixture(scope="module")
def model(base_url: str, model_name: str) -> Any:
    return smolagents.OpenAIModel(
        model_id=model_name, api_base=base_url + "/v1", api_key="none", temperature=0
    )


def user(text: str) -> list[Any]:
    part = {"type": "text", "text": text}
    return [smolagents.ChatMessage(role=smolagents.MessageRole.USER, content=[part])]


def test_chat_with_stop(model: Any) -> None:
    answer = model.generate(user("What is the capital of France?"), stop_sequences=["Observation:"])
    assert "Paris" in answer.content


def test_tools_with_stop(model: Any) -> None:
    answer = model.generate(
        user("What is the weather in Paris?"),
        stop_sequences=["Observation:", "Calling tools:"],
        tools_to_call_from=[WeatherTool()],
    )
    (call,) = answer.tool_calls
    assert call.function.name == "get_weather"


def test_a_stream(model: Any) -> None:
    deltas = list(model.generate_stream(user("What is the capital of France?")))
    assert "Paris" in "".join(delta.content or "" for delta in deltas)
    assert deltas[-1].token_usage.output_tokens > 0


def test_an_agent_of_tool_calls(model: Any) -> None:
    """The embedded model does not follow the agent's long instructions to an answer, but each of
    its steps is a call of one of the agent's tools."""
    agent = smolagents.ToolCallingAgent(
        tools=[WeatherTool()], model=model, max_steps=2, verbosity_level=0
    )
    agent.run("What is the weather in Paris?")
    steps = [step for step in agent.memory.steps if isinstance(step, smolagents.ActionStep)]
    assert steps
    for step in steps:
        assert step.tool_calls
        assert {call.name for call in step.tool_calls} <= {"get_weather", "final_answer"}
