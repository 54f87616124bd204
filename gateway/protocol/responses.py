"""The body of `POST /v1/responses`, as types. An input item is one loose type, since each kind's
fields are checked when it becomes a message.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from formgate.gateway.protocol.constraint_names import IN_A_FORMAT, IN_A_TOOL
from formgate.gateway.protocol.fields import (
    Body,
    ConstraintText,
    Count,
    Finite,
    Id,
    JsonSchema,
    Metadata,
    ModelName,
    Name,
    Positive,
    RequestBody,
    let_others_run,
    up_to,
)
from formgate.gateway.protocol.limits import MAX_INCLUDED, MAX_MESSAGES, MAX_PARTS, MAX_TOOLS


class InputPart(Body):
    type: Name
    text: str | None = None
    refusal: str | None = None


InputParts = Annotated[list[InputPart], up_to(MAX_PARTS)]


class InputItem(Body):
    type: Name | None = None  # null: a message
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | InputParts | None = None
    call_id: Id | None = None
    name: Name | None = None
    arguments: str | None = None
    input: str | None = None
    namespace: Name | None = None
    output: str | InputParts | dict[str, Any] | None = None
    summary: InputParts | None = None


class ResponseInputFormat(Body):
    constraint_names = IN_A_FORMAT

    type: Literal["text", "grammar"]
    syntax: Literal["lark", "regex"] | None = None
    definition: ConstraintText | None = None


class NamespacedTool(Body):
    constraint_names = IN_A_TOOL

    type: Name
    name: Name | None = None
    description: str | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None
    format: ResponseInputFormat | None = None  # of a custom tool's input


class ResponseTool(NamespacedTool):
    # Of a namespace.
    tools: Annotated[list[NamespacedTool], up_to(MAX_TOOLS)] | None = None


class ToolReference(Body):
    type: Name
    name: Name | None = None
    namespace: Name | None = None


class ResponseToolChoice(Body):
    type: Name
    name: Name | None = None
    namespace: Name | None = None
    mode: Literal["auto", "required"] | None = None
    tools: Annotated[list[ToolReference], up_to(MAX_TOOLS)] | None = None


class TextFormat(Body):
    constraint_names = IN_A_FORMAT

    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    description: str | None = None
    # `schema` is a method of pydantic's models.
    json_schema: JsonSchema | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextConfig(Body):
    format: TextFormat | None = None
    verbosity: Name | None = None


class ReasoningConfig(Body):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Name | None = None


class ResponsesStreamOptions(Body):
    include_obfuscation: bool | None = None


class ResponsesRequest(RequestBody):
    model: ModelName | None = None
    input: (
        str
        | Annotated[list[Annotated[InputItem, AfterValidator(let_others_run)]], up_to(MAX_MESSAGES)]
    )
    instructions: str | None = None
    stream: bool | None = None
    stream_options: ResponsesStreamOptions | None = None

    tools: Annotated[list[ResponseTool], up_to(MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Count | None = None

    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    max_output_tokens: Positive | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_logprobs: Count | None = None
    include: Annotated[list[Name], up_to(MAX_INCLUDED)] | None = None
    prompt_cache_key: Id | None = None  # for servers of many machines; ignored here
    safety_identifier: Id | None = None
    client_metadata: Metadata | None = None

    metadata: Metadata | None = None
    user: Id | None = None
    service_tier: Name | None = None
    truncation: Literal["auto", "disabled"] | None = None
    store: bool | None = None
    previous_response_id: Id | None = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None
