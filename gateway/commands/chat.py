"""`formgate chat [URL|MODEL]`: a conversation in the terminal with a running server, or with one
that the command starts. Answers stream; reasoning is dimmed; the user plays the tools.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from rich.console import Console

from formgate.gateway.commands.answer_stream import Answer, StreamError, ToolCall, deltas
from formgate.gateway.commands.inputs import CommandParser, InputError, json_of
from formgate.gateway.commands.running_server import (
    error_text,
    first_model,
    headers_of,
    message_of,
    server_at,
)

TIMEOUT = httpx.Timeout(600.0, connect=10.0)  # seconds; a long prompt computes before it answers
HINT = "/clear forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C stops an answer."


def chat_command(words: Sequence[str]) -> int:
    """Talk until the input ends. 0, or 1 if an answer failed; 2: no server, or a bad file."""
    options, rest = _parser().parse_known_args(words)
    url = next((word for word in rest if word.startswith(("http://", "https://"))), None)
    rest = [word for word in rest if word != url]
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    try:
        body = _body(options)
        if url is None:
            print("formgate: starting a server ...", file=sys.stderr)
        with (
            server_at(url, rest) as base,
            httpx.Client(
                base_url=base, headers=headers_of(options.api_key), timeout=TIMEOUT
            ) as client,
        ):
            body["model"] = options.model or first_model(client)
            return Chat(console, client, body, system=options.system).run()
    except InputError as error:
        print(f"formgate: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while the server starts
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="formgate chat",
        allow_abbrev=False,
        usage="formgate chat [URL|MODEL] [options] [options of `formgate serve`]",
        description="A chat in the terminal: with the server of OpenAI's API at URL, or with one "
        "that it starts for MODEL (the embedded one if none is named).",
        epilog=f"Other options go to the server that it starts. {HINT}",
    )
    parser.add_argument("--schema", metavar="FILE", help="a JSON Schema that each answer satisfies")
    parser.add_argument("--tools", metavar="FILE", help="a JSON list of tools, as in a request")
    parser.add_argument("--system", metavar="TEXT", help="the system message")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest answer")
    parser.add_argument("--temperature", type=float, metavar="X")
    parser.add_argument("--model", metavar="NAME", help="of the server's models (default: first)")
    parser.add_argument(
        "--api-key", metavar="KEY", help="the server's key (or OPENAI_API_KEY in the environment)"
    )
    return parser


def _body(options: argparse.Namespace) -> dict[str, Any]:
    """What all requests of the conversation have. Raises InputError."""
    body: dict[str, Any] = {"stream": True}
    for name in ("max_tokens", "temperature"):
        if (value := getattr(options, name)) is not None:
            body[name] = value
    if options.schema is not None:
        body["response_format"] = response_format(json_of(options.schema))
    if options.tools is not None:
        tools = json_of(options.tools)
        body["tools"] = tools.get("tools") if isinstance(tools, dict) else tools
        if not isinstance(body["tools"], list):
            raise InputError(f"{options.tools}: not a JSON list of tools.")
    return body


def response_format(schema: Any) -> dict[str, Any]:
    """The request's field for a schema, or for what is such a field already."""
    if isinstance(schema, dict) and schema.get("type") == "json_schema":
        return schema
    named = {"name": "answer", "schema": schema, "strict": True}
    return {"type": "json_schema", "json_schema": named}


@dataclass
class Chat:
    """`body`: the fields of each request beside its messages."""

    console: Console
    client: httpx.Client
    body: dict[str, Any]
    system: str | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    failed: bool = False

    def run(self) -> int:
        self._forget()
        if sys.stdin.isatty():
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 - `input` edits lines with it
            self.console.print(f"{self.body['model']} at {self.client.base_url}", style="bold")
            self.console.print(HINT, style="dim")
        while (line := self._line()) not in (None, "/exit"):
            if line == "/clear":
                self._forget()
            elif line:
                self._turn(line)
        return 1 if self.failed else 0

    def _line(self) -> str | None:
        """As `_read`. Ctrl-C drops the line: it may have been meant for an answer that is done."""
        try:
            return self._read("> ")
        except KeyboardInterrupt:
            self._write("\n")
            return ""

    def _forget(self) -> None:
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def _read(self, prompt: str) -> str | None:
        """A line without its end; None at the end of the input."""
        try:
            return input(prompt if sys.stdin.isatty() else "").strip()
        except EOFError:
            return None

    def _turn(self, line: str) -> None:
        """Answer a line, with all tool calls that it leads to. A turn that fails is forgotten."""
        before = len(self.messages)
        self.messages.append({"role": "user", "content": line})
        try:
            while (answer := self._answer()).calls:
                results = [self._result_of(call) for call in answer.calls.values()]
                self.messages.extend(results)
        except KeyboardInterrupt:  # instead of a tool's result
            self._write("\n")
            del self.messages[before:]
        except (StreamError, httpx.HTTPError, InputError) as error:
            del self.messages[before:]
            self.failed = True
            print(f"formgate: error: {error_text(error)}.", file=sys.stderr)

    def _answer(self) -> Answer:
        answer = Answer()
        request = self.body | {"messages": self.messages}
        try:
            with self.client.stream("POST", "/v1/chat/completions", json=request) as response:
                if response.status_code != 200:
                    response.read()
                    raise InputError(message_of(response).rstrip("."))
                for delta in deltas(answer, response.iter_lines()):
                    self._write(delta.reasoning, "dim")
                    if delta.content and answer.reasoning and answer.content == delta.content:
                        self._write("\n\n")
                    self._write(delta.content)
        except KeyboardInterrupt:
            answer.calls.clear()  # half a call cannot be answered
        self._write("\n" if answer.content or answer.reasoning else "")
        if answer.finish_reason == "length":
            self.console.print("(cut off at its limit of tokens)", style="dim")
        self.messages.append(answer.message())
        return answer

    def _write(self, text: str, style: str | None = None) -> None:
        if text:
            self.console.print(text, style=style, end="")

    def _result_of(self, call: ToolCall) -> dict[str, Any]:
        """Show a call and ask for its result. Raises InputError at the end of the input."""
        self.console.print(f"→ {call.name}({call.arguments})", style="cyan")
        result = self._read(f"result of {call.name}: ")
        if result is None:
            raise InputError("the input has ended before the tool's result")
        return {"role": "tool", "tool_call_id": call.id, "content": result}
