"""Cross-field rules of requests. Types and ranges of single fields are in the models; rules of the
served model (context, vocabulary) are checked where its values are used.
"""

from __future__ import annotations

from formgate.gateway.errors import ApiError, bad_request
from formgate.gateway.protocol.chat import (
    AllowedToolsChoice,
    ChatCompletionRequest,
    ContentPart,
    CustomTool,
    Message,
    NamedCustomTool,
    NamedFunction,
    ToolDefinition,
)
from formgate.gateway.protocol.completion import CompletionRequest
from formgate.gateway.protocol.fields import GenerationRequest
from formgate.gateway.protocol.limits import (
    MAX_BAD_WORDS_CHARS,
    MAX_SEQUENCES,
    MAX_STOPS_CHARS,
)

TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
NO_TEXT_PARTS = frozenset({"refusal", "thinking", "reasoning"})  # in past assistant messages


def check_chat(request: ChatCompletionRequest, *, max_logprobs: int) -> None:
    """Raises ApiError 400 for the first rule that is broken."""
    _check_shared(request, max_logprobs)
    check_messages(request.messages)
    _check_tools(request)
    if request.top_logprobs is not None:
        if not request.logprobs:
            raise bad_request("'top_logprobs' needs 'logprobs' to be true.", "top_logprobs")
        _check_logprobs(request.top_logprobs, "top_logprobs", max_logprobs)
    if request.add_generation_prompt and request.continue_final_message:
        raise bad_request(
            "'add_generation_prompt' and 'continue_final_message' cannot both be true.",
            "continue_final_message",
        )
    if request.continue_final_message:
        last = request.messages[-1]
        if last.role != "assistant" or last.tool_calls or not last.content:
            raise bad_request(
                "'continue_final_message' needs a last message of the assistant with text.",
                f"messages[{len(request.messages) - 1}]",
            )
    if request.token_limit == 0:
        name = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
        raise bad_request(f"'{name}' must be at least 1.", name, "invalid_value")
    for name in ("functions", "function_call"):
        if (request.model_extra or {}).get(name) is not None:
            raise bad_request(
                f"'{name}' is not supported. Use 'tools' and 'tool_choice'.",
                name,
                "unsupported_parameter",
            )
    modalities = (request.model_extra or {}).get("modalities")
    if modalities not in (None, ["text"]):
        raise bad_request("This model answers in text only.", "modalities", "unsupported_parameter")


def check_completion(request: CompletionRequest, *, max_logprobs: int) -> None:
    """Raises ApiError 400 for the first rule that is broken."""
    _check_shared(request, max_logprobs)
    prompts = request.prompts
    if not prompts or any(isinstance(p, list) and not p for p in prompts):
        raise bad_request("'prompt' must not be empty.", "prompt")
    choices = max(request.n or 1, request.best_of or 1)
    if (asked := len(prompts) * choices) > MAX_SEQUENCES:
        raise bad_request(
            f"{len(prompts)} prompts with {choices} choices each are {asked} sequences; at most "
            f"{MAX_SEQUENCES} are allowed in one request.",
            "best_of" if choices > (request.n or 1) else "n",
        )
    if request.logprobs is not None:
        _check_logprobs(request.logprobs, "logprobs", max_logprobs)
    if request.suffix:
        raise bad_request("'suffix' is not supported.", "suffix", "unsupported_parameter")
    count = request.n or 1
    if request.best_of is not None:
        if request.best_of < count:
            raise bad_request("'best_of' must be at least 'n'.", "best_of")
        if request.stream and request.best_of > count:
            raise bad_request("'best_of' greater than 'n' cannot be streamed.", "best_of")
    if request.max_tokens == 0 and not request.echo:
        raise bad_request("'max_tokens' must be at least 1 without 'echo'.", "max_tokens")


def check_messages(messages: list[Message]) -> None:
    if not messages:
        raise bad_request("'messages' must not be empty.", "messages", "empty_array")
    for i, message in enumerate(messages):
        at = f"messages[{i}]"
        if isinstance(message.content, list):
            for j, part in enumerate(message.content):
                # An image in the last user message must not be left out; an earlier one may.
                asked = message.role == "user" and i == len(messages) - 1
                _check_part(part, f"{at}.content[{j}]", text_only=asked)
        elif message.content is None and message.role != "assistant":
            raise bad_request(
                f"Invalid value for '{at}.content': expected a string or text parts, got null.",
                f"{at}.content",
                "invalid_type",
            )
        if message.tool_calls and message.role != "assistant":
            raise bad_request("Only the assistant calls tools.", f"{at}.tool_calls")


def check_unique_names(tools: list[ToolDefinition]) -> None:
    seen: set[str] = set()
    for i, tool in enumerate(tools):
        if tool.name in seen:
            raise bad_request(
                f"Two tools are named '{tool.name}'.", f"tools[{i}].{tool.name_field}"
            )
        seen.add(tool.name)


def _check_shared(request: GenerationRequest, max_logprobs: int) -> None:
    for texts, param, limit in (
        (request.stops, "stop", MAX_STOPS_CHARS),
        (request.bad_words or (), "bad_words", MAX_BAD_WORDS_CHARS),
    ):
        if (length := sum(map(len, texts))) > limit:
            raise bad_request(
                f"Invalid value for '{param}': {length} characters in all; at most {limit} are "
                "allowed.",
                param,
                "invalid_value",
            )
    if request.stream_options is not None and not request.stream:
        raise bad_request("'stream_options' needs 'stream' to be true.", "stream_options")
    if request.prompt_logprobs is not None:
        _check_logprobs(request.prompt_logprobs, "prompt_logprobs", max_logprobs)
        if request.stream:
            raise bad_request("'prompt_logprobs' cannot be streamed.", "prompt_logprobs")


def _check_logprobs(wanted: int, param: str, limit: int) -> None:
    if wanted > limit:
        raise bad_request(
            f"Invalid value for '{param}': {wanted} is greater than the maximum of {limit}.",
            param,
            "invalid_value",
        )


def _check_part(part: ContentPart, at: str, *, text_only: bool) -> None:
    if part.type in TEXT_PARTS:
        if part.text is None:
            raise bad_request(
                f"Missing required parameter: '{at}.text'.",
                f"{at}.text",
                "missing_required_parameter",
            )
    elif text_only and part.type not in NO_TEXT_PARTS:
        kind = part.type if len(part.type) <= 40 else "this type"
        raise bad_request(
            f"This model reads text only; a part of type '{kind}' is not supported.",
            f"{at}.type",
            "unsupported_content",
        )


def _check_tools(request: ChatCompletionRequest) -> None:
    choice = request.tool_choice
    if request.tools is None:
        if choice is not None:
            raise bad_request(
                "'tool_choice' is only allowed when 'tools' are specified.", "tool_choice"
            )
        return
    check_unique_names(request.tools)
    for i, tool in enumerate(request.tools):
        _check_input_format(tool, f"tools[{i}].custom.format")
    if choice is None or choice in ("none", "auto"):
        return
    if not request.tools:
        raise bad_request("'tools' is empty, but 'tool_choice' asks for a call.", "tools")
    names = {tool.name for tool in request.tools}
    if isinstance(choice, NamedFunction | NamedCustomTool):
        if choice.name not in names:
            raise _unknown_tool(choice.name, f"tool_choice.{choice.name_field}")
    elif isinstance(choice, AllowedToolsChoice):
        at = "tool_choice.allowed_tools.tools"
        if not choice.allowed_tools.tools:
            raise bad_request(f"'{at}' must not be empty.", at)
        for i, named in enumerate(choice.allowed_tools.tools):
            if named.name not in names:
                raise _unknown_tool(named.name, f"{at}[{i}].{named.name_field}")


def _check_input_format(tool: ToolDefinition, at: str) -> None:
    wanted = tool.custom.format if isinstance(tool, CustomTool) else None
    if wanted is not None and wanted.type == "grammar" and wanted.grammar is None:
        raise bad_request(
            f"Missing required parameter: '{at}.grammar'.",
            f"{at}.grammar",
            "missing_required_parameter",
        )


def _unknown_tool(name: str, param: str) -> ApiError:
    shown = name if len(name) <= 128 else name[:128] + "..."
    return bad_request(f"No tool of the request is named '{shown}'.", param)
