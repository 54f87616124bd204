"""The Python API: one model for a Python program. It runs the HTTP server's engine process and
services without HTTP, and accepts output types and returns Python values.
"""

from __future__ import annotations

import dataclasses
import difflib
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, overload

from pydantic import TypeAdapter, ValidationError

from formgate.engine.config import EngineConfig
from formgate.gateway.errors import ApiError
from formgate.gateway.library.local_runtime import LocalRuntime
from formgate.gateway.library.output_types import OutputType, output_type_of, parameters_of
from formgate.gateway.library.results import Result, chatted, completed
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.completion import CompletionRequest
from formgate.gateway.protocol.fields import GenerationRequest
from formgate.gateway.protocol.parse import parse_object
from formgate.gateway.server_config import HTTP, ServerConfig
from formgate.gateway.serving.flag_tables import ENGINE_FLAGS
from formgate.gateway.serving.flags import wrong_option
from formgate.gateway.serving.lora_modules import adapter_sources
from formgate.gateway.serving.model_hub import ModelError, check_model_folder, resolve_model

R = TypeVar("R", bound=GenerationRequest)
C = TypeVar("C")

Prompt = str | list[int]
Conversation = str | list[dict[str, Any]]
Tool = Mapping[str, Any] | Callable[..., Any]

# Request fields that the Python API does not take, with the reason or the alternative.
_ELSEWHERE: Mapping[str, str] = {
    "stream": "answers come whole",
    "stream_options": "answers come whole",
    "n": "pass the prompt as often as you want answers",
    "best_of": "pass the prompt as often as you want answers",
    "prompt": "prompts are the first argument",
    "messages": "messages are the first argument",
}
_HTTP_FLAGS = frozenset(
    flag.name for flag in dataclasses.fields(ServerConfig) if flag.metadata["group"] == HTTP
) - {"max_queue_size"}


class LLM:
    """A loaded model. The constructor returns once it is ready; `close()` or `with` ends its
    process. Methods block and are thread-safe.
    """

    def __init__(self, model: str | Path | None = None, **flags: Any) -> None:
        """`flags` are those of `formgate serve`, as Python names (`max_model_len=4096`).

        Raises ValueError for an unusable model or flag value, TypeError for an unknown flag,
        RuntimeError if the engine does not start.
        """
        config, options = _configs(None if model is None else str(model), flags)
        try:
            model_dir, tokenizer_dir = _folders(config)
            adapters = adapter_sources(config)
            engine_config = _checked(
                EngineConfig, {"model_dir": model_dir, "adapters": adapters, **options}
            )
            weights = engine_config.load_format != "dummy"
            check_model_folder(model_dir, tokenizer_dir, weights=weights)
        except ModelError as error:
            raise ValueError(str(error)) from None
        runtime = LocalRuntime(config, engine_config, tokenizer_dir)
        # Also runs when the object is collected and when the interpreter exits.
        self._close = weakref.finalize(self, runtime.close)
        self._runtime = runtime
        try:
            runtime.start()
        except BaseException:
            self.close()
            raise

    @overload
    def generate(self, prompts: Prompt, output_type: Any = None, **sampling: Any) -> Result: ...

    @overload
    def generate(
        self, prompts: Sequence[Prompt], output_type: Any = None, **sampling: Any
    ) -> list[Result]: ...

    def generate(
        self, prompts: Prompt | Sequence[Prompt], output_type: Any = None, **sampling: Any
    ) -> Result | list[Result]:
        """Continue one prompt (text or token ids), or the prompts of a list in parallel.

        `sampling` are the fields of `/v1/completions`; without `max_tokens`, the context is the
        limit. Raises ValueError where the server would answer 400, TypeError for an unknown field
        or an unsupported output type.
        """
        wanted = output_type_of(output_type)
        fields = _fields(CompletionRequest, sampling, wanted)
        one = isinstance(prompts, str) or bool(prompts and isinstance(prompts[0], int))
        asked: Sequence[Any] = [prompts] if one else prompts
        requests = [
            _request(CompletionRequest, {"prompt": prompt, **self._length(prompt), **fields})
            for prompt in asked
        ]
        answers = self._runtime.answer(lambda state: state.completions, requests)
        results = [completed(answer, wanted) for answer in answers]
        return results[0] if one else results

    @overload
    def chat(
        self,
        messages: Conversation,
        output_type: Any = None,
        tools: Sequence[Tool] | None = None,
        **sampling: Any,
    ) -> Result: ...

    @overload
    def chat(
        self,
        messages: Sequence[Conversation],
        output_type: Any = None,
        tools: Sequence[Tool] | None = None,
        **sampling: Any,
    ) -> list[Result]: ...

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        output_type: Any = None,
        tools: Sequence[Tool] | None = None,
        **sampling: Any,
    ) -> Result | list[Result]:
        """Answer one conversation, or the conversations of a list in parallel. A string is a user
        message.

        `tools` are annotated functions or OpenAI tool definitions; they are never called here.
        `sampling` are the other fields of `/v1/chat/completions`. Raises as `generate` does.
        """
        wanted = output_type_of(output_type)
        fields = _fields(ChatCompletionRequest, sampling, wanted)
        if tools is not None:
            fields["tools"] = [_tool(tool) for tool in tools]
        one = isinstance(messages, str) or bool(messages and isinstance(messages[0], Mapping))
        asked: Sequence[Any] = [messages] if one else messages
        requests = [
            _request(ChatCompletionRequest, {"messages": _messages(turns), **fields})
            for turns in asked
        ]
        answers = self._runtime.answer(lambda state: state.chat, requests)
        results = [chatted(answer, wanted) for answer in answers]
        return results[0] if one else results

    def close(self) -> None:
        """End the engine process. Idempotent."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _length(self, prompt: Prompt) -> dict[str, int]:
        """`max_tokens` for the whole context: the API's default of 16 would cut answers."""
        room = self._runtime.room_after(prompt)
        return {"max_tokens": room} if room > 0 else {}


def _configs(model: str | None, flags: Mapping[str, Any]) -> tuple[ServerConfig, dict[str, Any]]:
    """(server config, engine options). The engine config needs the folder, still unknown."""
    server_names = {each.name for each in dataclasses.fields(ServerConfig)} - {"model"}
    for name in flags:
        if name in _HTTP_FLAGS:
            raise TypeError(f"'{name}' is about the HTTP server; an LLM has none")
        if name not in server_names and name not in ENGINE_FLAGS:
            known = [*(server_names - _HTTP_FLAGS), *ENGINE_FLAGS]
            raise TypeError(f"unknown flag '{name}'{_nearest(name, known)}")
    if (wrong := wrong_option(_checked_numbers(flags))) is not None:
        raise ValueError(f"{wrong[0]}: {wrong[1]}")
    if flags.get("node_rank"):
        raise ValueError(
            "node_rank: an LLM is node 0; the others run `formgate serve --node-rank N`"
        )
    server = {name: value for name, value in flags.items() if name in server_names}
    options = {name: value for name, value in flags.items() if name in ENGINE_FLAGS}
    return _checked(ServerConfig, {"model": model, **server}), options


def _checked_numbers(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The numeric flags. Others are refused later, with a message about their type."""
    return {name: value for name, value in flags.items() if isinstance(value, int | float)}


def _checked(kind: type[C], values: Mapping[str, Any]) -> C:
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        raise ValueError(f"{detail['loc'][0]}: {detail['msg']}") from None


def _folders(config: ServerConfig) -> tuple[Path, Path]:
    """(model folder, tokenizer folder). Raises ModelError."""
    token, download_dir = config.hf_token, config.download_dir
    model_dir = resolve_model(
        config.model, revision=config.revision, token=token, download_dir=download_dir
    )
    if config.tokenizer is None:
        return model_dir, model_dir
    return model_dir, resolve_model(
        config.tokenizer, token=token, download_dir=download_dir, tokenizer_only=True
    )


def _fields(kind: type[R], sampling: Mapping[str, Any], wanted: OutputType) -> dict[str, Any]:
    """The request's fields other than its prompt."""
    known = [name for name in kind.model_fields if name not in _ELSEWHERE]
    for name in sampling:
        if name in _ELSEWHERE:
            raise TypeError(f"'{name}' is not taken here: {_ELSEWHERE[name]}")
        if name not in known:
            raise TypeError(f"unknown argument '{name}'{_nearest(name, known)}")
    fields = {name: value for name, value in sampling.items() if value is not None}
    if wanted.constraint is not None:
        if "structured_outputs" in fields:
            raise TypeError("give either an output type or 'structured_outputs'")
        fields["structured_outputs"] = dict(wanted.constraint)
    return fields


def _request(kind: type[R], fields: Mapping[str, Any]) -> R:
    try:
        return parse_object(kind, fields, num_bytes=_about_num_bytes(fields))
    except ApiError as error:
        raise ValueError(error.message) from None


def _about_num_bytes(value: object) -> int:
    """Approximate size of a request as JSON text."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_about_num_bytes(item) for item in value.values())
    if isinstance(value, list | tuple):
        if value and isinstance(value[0], int):
            return 6 * len(value)
        return sum(map(_about_num_bytes, value))
    return 1


def _nearest(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean '{nearest[0]}'?" if nearest else ""


def _messages(turns: Any) -> Any:
    return [{"role": "user", "content": turns}] if isinstance(turns, str) else turns


def _tool(tool: Tool) -> Any:
    if isinstance(tool, Mapping):
        return tool
    if not callable(tool) or not hasattr(tool, "__name__"):
        raise TypeError(f"{tool!r} is no tool: pass a function or an OpenAI tool definition")
    function: dict[str, Any] = {"name": tool.__name__, "parameters": parameters_of(tool)}
    if tool.__doc__:
        function["description"] = " ".join(tool.__doc__.split())
    return {"type": "function", "function": function}
