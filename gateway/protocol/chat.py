"""The body of `POST /v1/chat/completions`, as types. Cross-field rules are in `rules`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from formgate.gateway.protocol.constraint_names import IN_A_FORMAT, IN_A_TOOL
from formgate.gateway.protocol.fields import (
    Body,
    ConstraintText,
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


class CalledCustomTool(Body):
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]
    input: str


class FunctionCall(Body):
    id: Id | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class CustomCall(Body):
    id: Id | None = None
    type: Literal["custom"]
    custom: CalledCustomTool

    @property
    def function(self) -> CalledFunction:
        """The call as formats and templates see it: a function with one argument."""
        return CalledFunction(name=self.custom.name, arguments={"input": self.custom.input})


def _kind_of_tool(value: object) -> str:
    """The union's tag, so that an error concerns the intended kind. The tag is part of pydantic's
    error paths, so no field may have its name."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "custom tool" if kind == "custom" else "function tool"


ToolCall = Annotated[
    Annotated[CustomCall, Tag("custom tool")] | Annotated[FunctionCall, Tag("function tool")],
    Discriminator(_kind_of_tool),
]


class Message(Body):
    role: Role
    content: str | Annotated[list[ContentPart], up_to(MAX_PARTS)] | None = None
    name: Name | None = None
    tool_calls: Annotated[list[ToolCall], up_to(MAX_TOOL_CALLS)] | None = None
    tool_call_id: Id | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


# OpenAI's, and the separators of tools that come from several servers.
ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-/:@]{1,128}$")]


class Function(Body):
    constraint_names = IN_A_TOOL

    name: ToolName
    description: str | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None


class FunctionTool(Body):
    constraint_names = IN_A_TOOL

    type: Literal["function"]
    function: Function

    @property
    def name(self) -> str:
        return self.function.name

    @property
    def name_field(self) -> str:
        return "function.name"


class InputGrammar(Body):
    syntax: Literal["lark", "regex"]
    definition: ConstraintText


class InputFormat(Body):
    constraint_names = IN_A_FORMAT

    type: Literal["text", "grammar"]
    grammar: InputGrammar | None = None


class Custom(Body):
    constraint_names = IN_A_TOOL

    name: ToolName
    description: str | None = None
    format: InputFormat | None = None


class CustomTool(Body):
    """A tool whose only input is a text."""

    constraint_names = IN_A_TOOL

    type: Literal["custom"]
    custom: Custom

    @property
    def name(self) -> str:
        return self.custom.name

    @property
    def name_field(self) -> str:
        return "custom.name"

    @property
    def grammar(self) -> InputGrammar | None:
        return self.custom.format.grammar if self.custom.format else None

    @property
    def function(self) -> Function:
        """The tool as formats and templates see it."""
        text: dict[str, Any] = {"type": "string"}
        if self.grammar is not None:
            kind = "Lark grammar" if self.grammar.syntax == "lark" else "regular expression"
            text["description"] = f"Must match this {kind}:\n{self.grammar.definition}"
        return Function(
            name=self.custom.name,
            description=self.custom.description,
            parameters={
                "type": "object",
                "properties": {"input": text},
                "required": ["input"],
                "additionalProperties": False,
            },
        )


ToolDefinition = Annotated[
    Annotated[CustomTool, Tag("custom tool")] | Annotated[FunctionTool, Tag("function tool")],
    Discriminator(_kind_of_tool),
]


class GivenName(Body):
    name: Name


class NamedFunction(Body):
    type: Literal["function"] = "function"
    function: GivenName

    @property
    def name(self) -> str:
        return self.function.name

    @property
    def name_field(self) -> str:
        return "function.name"


class NamedCustomTool(Body):
    type: Literal["custom"]
    custom: GivenName

    @property
    def name(self) -> str:
        return self.custom.name

    @property
    def name_field(self) -> str:
        return "custom.name"


NamedTool = Annotated[
    Annotated[NamedCustomTool, Tag("custom tool")] | Annotated[NamedFunction, Tag("function tool")],
    Discriminator(_kind_of_tool),
]


class AllowedTools(Body):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], up_to(MAX_TOOLS)]


class AllowedToolsChoice(Body):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _kind_of_choice(choice: object) -> str:
    kind = choice.get("type") if isinstance(choice, dict) else getattr(choice, "type", None)
    return "allowed" if kind == "allowed_tools" else _kind_of_tool(choice)


ToolChoiceField = (
    Literal["none", "auto", "required"]
    | Annotated[
        Annotated[AllowedToolsChoice, Tag("allowed")]
        | Annotated[NamedCustomTool, Tag("custom tool")]
        | Annotated[NamedFunction, Tag("function tool")],
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
    add_special_tokens: bool = False  # chat templates add their own
    chat_template_kwargs: TemplateArguments | None = None
    documents: Annotated[list[dict[str, Any]], up_to(MAX_DOCUMENTS)] | None = None
    echo: bool = False

    @property
    def token_limit(self) -> int | None:
        """`max_completion_tokens` is the newer name of `max_tokens`."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens
