"""The body of `POST /v1/chat/completions`, as types. Cross-field rules are in `rules`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from formgate.gateway.protocol.constraint_names import IN_A_TOOL
from formgate.gateway.protocol.fields import (
    Body,
    Count,
    GenerationRequest,
    Id,
    JsonSchema,
    Name,
    at_most,
    let_others_run,
    up_to,
)
from formgate.gateway.protocol.limits import (
    MAX_DOCUMENTS,
    MAX_MESSAGES,
    MAX_NAME_CHARS,
    MAX_PARTS,
    MAX_TEMPLATE_ARGUMENTS,
    MAX_TOOL_CALLS,
    MAX_TOOLS,
)

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class ContentPart(Body):
    type: Name
    text: str | None = None


class CalledFunction(Body):
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]
    arguments: str | dict[str, Any] | None = None


class ToolCall(Body):
    id: Id | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    role: Role
    content: str | Annotated[list[ContentPart], up_to(MAX_PARTS)] | None = None
    name: Name | None = None
    tool_calls: Annotated[list[ToolCall], up_to(MAX_TOOL_CALLS)] | None = None
    tool_call_id: Id | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Function(Body):
    constraint_names = IN_A_TOOL

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,128}$")]
    description: str | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None


class ToolDefinition(Body):
    constraint_names = IN_A_TOOL

    type: Literal["function"]
    function: Function


class FunctionName(Body):
    name: Name


class NamedTool(Body):
    type: Literal["function"] = "function"
    function: FunctionName


class AllowedTools(Body):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], up_to(MAX_TOOLS)]


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


Messages = Annotated[list[Annotated[Message, AfterValidator(let_others_run)]], up_to(MAX_MESSAGES)]
Tools = Annotated[list[ToolDefinition], up_to(MAX_TOOLS)]
TemplateArguments = Annotated[
    dict[str, Any], Field(max_length=MAX_TEMPLATE_ARGUMENTS), at_most(MAX_TEMPLATE_ARGUMENTS)
]


class ChatCompletionRequest(GenerationRequest):
    messages: Messages
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Count | None = None

    tools: Tools | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool | None = None

    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    include_reasoning: bool = True
    thinking_token_budget: Count | None = None

    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    add_special_tokens: bool = False  # chat templates write their own
    chat_template_kwargs: TemplateArguments | None = None
    documents: Annotated[list[dict[str, Any]], up_to(MAX_DOCUMENTS)] | None = None
    echo: bool = False

    @property
    def token_limit(self) -> int | None:
        """`max_completion_tokens` is the newer name of `max_tokens`."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens
