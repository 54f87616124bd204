"""The body of `POST /v1/responses`, as types. An item of the input is one loose type, because what
each kind of item must hold is checked where it becomes a message, which names the item.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from formgate.gateway.protocol.fields import Body, Finite


class InputPart(Body):
    type: str
    text: str | None = None
    refusal: str | None = None


class InputItem(Body):
    type: str | None = None  # null: a message
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None
    summary: list[InputPart] | None = None


class ResponseTool(Body):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | bool | None = None
    strict: bool | None = None


class ToolReference(Body):
    type: str
    name: str | None = None


class ResponseToolChoice(Body):
    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[ToolReference] | None = None


class TextFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    # `schema` is a method of pydantic's models.
    json_schema: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextConfig(Body):
    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningConfig(Body):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: str | None = None


class ResponsesStreamOptions(Body):
    include_obfuscation: bool | None = None


class ResponsesRequest(Body):
    model: str | None = None
    input: str | list[InputItem]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: ResponsesStreamOptions | None = None

    tools: list[ResponseTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None

    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    include: list[str] | None = None

    metadata: dict[str, Any] | None = None
    user: str | None = None
    service_tier: str | None = None
    truncation: Literal["auto", "disabled"] | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None
