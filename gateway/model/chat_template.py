"""A model's chat template, rendered in a sandbox with the Jinja settings, filters and globals of
transformers. It makes text; `prompts` prepares its input and encodes its output.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2 import nodes
from jinja2.parser import Parser

from formgate.gateway.model.templates.sandbox import (
    BoundedSandbox,
    TemplateTooCostly,
    bounded,
    rendered,
)
from formgate.parsers.formats.format import Format


class ChatTemplateError(ValueError):
    """The template refused its input or is invalid."""


class CostlyTemplateError(ChatTemplateError):
    """The template takes more time or memory than any conversation may."""


class ChatTemplate:
    """One compiled template and its traits, see `TemplateTraits`.

    A template does not declare whether it takes content as a string or as parts, or a call's
    arguments as an object or as JSON text. Probe conversations find that out once.
    """

    def __init__(
        self, source: str, named_tokens: Mapping[str, str], *, tool_format: Format | None = None
    ) -> None:
        """`tool_format`: the format of the model's tool calls. With None, only the template renders
        tools, if it does at all."""
        self._named_tokens = dict(named_tokens)
        self.tool_format = tool_format
        try:
            environment = _environment()
            with bounded():  # what is constant is computed now
                self._template = environment.from_string(source)
                unknown = jinja2.meta.find_undeclared_variables(environment.parse(source))
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the chat template is not valid Jinja: {error}") from error
        # Firefunction's template takes the tools as text, named `functions`, and the time.
        self._wants_functions = "functions" in unknown and "tools" not in unknown
        self._wants_time = "datetime" in unknown
        self.wants_short_call_ids = "!= 9" in source  # Mistral's: exactly nine characters
        self.wants_parts = self._wants_parts()
        self.knows_developer = "developer" in source and self._shows_developer()
        self.wants_arguments_text = self._wants_arguments_text()

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The rendered text. Raises ChatTemplateError with the template's message."""
        variables = {
            **(kwargs or {}),
            **self._named_tokens,
            "messages": messages,
            "tools": tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
        }
        if self._wants_functions:
            functions = [tool["function"] for tool in tools or ()]
            variables["functions"] = json.dumps(functions, ensure_ascii=False, indent=2)
        if self._wants_time:
            variables.setdefault("datetime", _strftime_now("%b %d %Y %H:%M:%S"))
        try:
            return rendered(self._template, variables)
        except TemplateTooCostly as error:
            raise CostlyTemplateError(f"it cannot be rendered: {error}") from error
        except jinja2.TemplateError as error:
            raise ChatTemplateError(str(error)) from error
        except Exception as error:
            # A template is code that runs on the client's input: its exceptions are the client's
            # error, not a bug of formgate.
            raise ChatTemplateError(
                f"it cannot render this conversation ({type(error).__name__})"
            ) from error

    def content(self, text: str) -> str | list[dict[str, str]]:
        """`text` as content in the form that the template takes."""
        return [{"type": "text", "text": text}] if self.wants_parts else text

    def _wants_parts(self) -> bool:
        probe = "probe text"
        try:
            return probe not in self.render([{"role": "user", "content": probe}])
        except CostlyTemplateError as error:  # each further probe would take as long
            raise ChatTemplateError(f"the chat template is refused: {error}") from error
        except ChatTemplateError:
            pass
        try:
            parts = [{"type": "text", "text": probe}]
            return probe in self.render([{"role": "user", "content": parts}])
        except ChatTemplateError:
            return False

    def _shows_developer(self) -> bool:
        probe = "probe text"
        said = [{"role": role, "content": self.content(probe)} for role in ("developer", "user")]
        try:
            return self.render(said).count(probe) == 2
        except ChatTemplateError:
            return False

    def _wants_arguments_text(self) -> bool:
        arguments = {"probe_key": "probe text"}
        wanted = json.dumps(arguments)
        shown = self._call(arguments)
        # Arguments that are written one by one are shown, too, unless it is Python's own way.
        written = all(word in shown for word in ("probe_key", "probe text"))
        if wanted in shown or (written and str(arguments) not in shown):
            return False
        return wanted in self._call(wanted)

    def _call(self, arguments: object) -> str:
        """The rendering of a conversation with one call, or '' if the template refuses it."""
        function = {"name": "probe", "arguments": arguments}
        call = {"id": "probe1234", "type": "function", "function": function}
        text = self.content("text")
        try:
            return self.render(
                [
                    {"role": "user", "content": text},
                    {"role": "assistant", "content": None, "tool_calls": [call]},
                    {"role": "tool", "content": text, "tool_call_id": "probe1234", "name": "probe"},
                    {"role": "assistant", "content": text},
                ]
            )
        except ChatTemplateError:
            return ""


def _environment() -> BoundedSandbox:
    environment = BoundedSandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    environment.bound_filters()
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's tokens for training; here it renders its body."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration is a plain set

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON, where Jinja's own filter escapes HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_listed,
    )


def _listed(value: object) -> list[Any]:
    """What Jinja's `map` and `select` give, as a list."""
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
