"""The bodies of `POST /v1/messages` and `POST /v1/messages/count_tokens`, as types. A content block
is one loose type, since each kind's fields are checked when it becomes a message. Fields about
caches and billing (`cache_control`, `service_tier`, ...) are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from formgate.gateway.protocol.constraint_names import IN_A_FORMAT, IN_A_TOOL
from formgate.gateway.protocol.fields import (
    Body,
    Finite,
    Id,
    ModelName,
    Name,
    OrAll,
    Positive,
    RequestBody,
    Stops,
    let_others_run,
    up_to,
)
from formgate.gateway.protocol.limits import (
    MAX_MCP_SERVERS,
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_TOOLS,
)


class ResultBlock(Body):
    type: Name
    text: str | None = None


class ContentBlock(Body):
    type: Name
    text: str | None = None
    thinking: str | None = None
    id: Id | None = None
    name: Name | None = None
    input: dict[str, Any] | None = None
    tool_use_id: Id | None = None
    content: str | Annotated[list[ResultBlock], up_to(MAX_PARTS)] | dict[str, Any] | None = None


ContentBlocks = Annotated[list[ContentBlock], up_to(MAX_PARTS)]


class AnthropicMessage(Body):
    role: Literal["user", "assistant", "system"]
    content: str | ContentBlocks


class AnthropicTool(Body):
    constraint_names = IN_A_TOOL

    type: Name | None = None  # null: custom
    name: Name
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class AnthropicToolChoice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(Body):
    constraint_names = IN_A_FORMAT

    type: Literal["json_schema"]
    # `schema` is a method of pydantic's models.
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    format: OutputFormat | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class ThinkingConfig(Body):
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Positive | None = None
    display: Literal["summarized", "omitted"] | None = None


class AnthropicMetadata(Body):
    user_id: Id | None = None


class CountTokensRequest(RequestBody):
    """The fields that determine a prompt."""

    model: ModelName | None = None
    messages: Annotated[
        list[Annotated[AnthropicMessage, AfterValidator(let_others_run)]], up_to(MAX_MESSAGES)
    ]
    system: str | ContentBlocks | None = None
    tools: Annotated[list[AnthropicTool], up_to(MAX_TOOLS)] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None  # the older name of `output_config.format`
    thread: Any = None
    mcp_servers: Annotated[list[Any], Field(max_length=MAX_MCP_SERVERS)] | None = None
    container: Any = None


class MessagesRequest(CountTokensRequest):
    max_tokens: Positive
    stream: bool | None = None
    stop_sequences: Stops | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: OrAll | None = None
    metadata: AnthropicMetadata | None = None
