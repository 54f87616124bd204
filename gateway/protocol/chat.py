"""The body of `POST /v1/chat/completions`, as types. Cross-field rules are in `rules`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from formgate.gateway.protocol.fields import Body, GenerationRequest

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class ContentPart(Body):
    type: str
    text: str | None = None


class CalledFunction(Body):
    name: Annotated[str, Field(min_length=1)]
    arguments: str | dict[str, Any] | None = None


class ToolCall(Body):
    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    role: Role
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Function(Body):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | bool | None = None
    strict: bool | None = None


class ToolDefinition(Body):
    type: Literal["function"]
    function: Function


class FunctionName(Body):
    name: str


class NamedTool(Body):
    type: Literal["function"] = "function"
    function: FunctionName


class AllowedTools(Body):
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedToolsChoice(Body):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _kind_of_choice(choice: object) -> str:
    """So that an error is about the choice that was meant."""
    kind = choice.get("type") if isinstance(choice, dict) else getattr(choice, "type", None)
    return "allowed" if kind == "allowed_tools" else "named"


ToolChoiceField = (
    Literal["none", "auto", "required"]
    | Annotated[
        Annotated[AllowedToolsChoice, Tag("allowed")] | Annotated[NamedTool, Tag("named")],
        Discriminator(_kind_of_choice),
    ]
)


class ChatCompletionRequest(GenerationRequest):
    messages: list[Message]
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None

    tools: list[ToolDefinition] | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool | None = None

    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    include_reasoning: bool = True
    thinking_token_budget: Annotated[int, Field(ge=0)] | None = None

    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    add_special_tokens: bool = False  # chat templates write their own
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    echo: bool = False

    @property
    def token_limit(self) -> int | None:
        """`max_completion_tokens` is the newer name of `max_tokens`."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens
