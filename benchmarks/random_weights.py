"""Tool calls by the worst model there is: random weights at temperature 1.5, over many tool sets,
auto, required and named, each request streamed and not, under one seed. No call may be invalid or
name an unknown tool, no request may fail, and every stream must fold to the whole answer.

    python benchmarks/random_weights.py [--requests 300] [--sets 50] [--tool-call-parser hermes]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jsonschema
from serving import running_server

from formgate import embedded
from formgate.gateway.model.tokenizer_folder import load_tokenizer

CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
AT_ONCE = 16


def make_model(folder: Path) -> None:
    """The embedded model's tokenizer and template over a tiny Llama of no weights."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(embedded.path() / name, folder)
    config = json.loads((embedded.path() / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | CONFIG))


def closing_bias(strength: float) -> dict[str, float]:
    """Strings that random weights begin would never end; this makes their ends likely."""
    tokenizer = load_tokenizer(embedded.path())
    ends = {'"', '"}', '"]', "}", "]", "0", "}]"}
    shown = [token.decode("utf-8", "replace") for token in tokenizer.token_bytes]
    found = [i for i, text in enumerate(shown) if text in ends]
    return {str(i): strength for i in (*found, *tokenizer.eos_ids, *tokenizer.marker_ids)}


def schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """Some schema of the kinds that tools have."""
    kinds = ["text", "integer", "number", "boolean", "enum", "pattern", "nullable", "either"]
    kind = rng.choice(kinds + ["array", "object", "object"] * (depth < 2))
    match kind:
        case "text":
            return {"type": "string", "maxLength": rng.randint(5, 30)}
        case "integer":
            return {"type": "integer", "minimum": rng.randint(-5, 5), "maximum": rng.randint(6, 99)}
        case "number":
            return {"type": "number"}
        case "enum":
            values = ["Zürich", "北京", 'say "hi"', 1, 2.5, None, True, {"a": [1]}]
            return {"enum": rng.sample(values, 3)}
        case "pattern":
            return {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}
        case "nullable":
            return {"anyOf": [{"type": "string", "maxLength": 12}, {"type": "null"}]}
        case "either":
            return {"type": ["integer", "boolean"]}
        case "array":
            unique = rng.random() < 0.3
            items = {"type": "integer"} if unique else schema(rng, depth + 1)
            return {"type": "array", "items": items, "maxItems": 4, "uniqueItems": unique}
        case "object":
            return object_schema(rng, depth + 1)
    return {"type": "boolean"}


def object_schema(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(["city", "unit", "when", "größe", "名前", "x-y", "a b", "limit"], 3)
    properties = {name: schema(rng, depth) for name in names[: rng.randint(0, 3)]}
    required = [name for name in properties if rng.random() < 0.6]
    return {"type": "object", "properties": properties, "required": required}


def tool_set(number: int) -> list[dict[str, Any]]:
    rng = random.Random(number)
    tools = []
    for i in range(rng.randint(1, 6)):
        function: dict[str, Any] = {"name": f"{rng.choice('abc')}_tool-{i}"}
        if rng.random() < 0.9:
            function["parameters"] = object_schema(rng, 0)
        if rng.random() < 0.3:
            function["strict"] = True
        tools.append({"type": "function", "function": function})
    return tools


def request_of(number: int, sets: int, biases: list[dict[str, float]]) -> dict[str, Any]:
    rng = random.Random(f"request {number}")
    tools = tool_set(number % sets)
    choice: Any = ("auto", "required", "named")[number % 3]
    if choice == "named":
        name = rng.choice(tools)["function"]["name"]
        choice = {"type": "function", "function": {"name": name}}
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": f"Do something with {number}."}],
        "tools": tools,
        "tool_choice": choice,
        "temperature": 1.5,
        "max_tokens": 400,
        "seed": number,
        "logit_bias": rng.choice(biases),
    }
    if rng.random() < 0.3:
        body["parallel_tool_calls"] = False
    if rng.random() < 0.2:
        answer = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": answer},
        }
    return body


@dataclass
class Said:
    """One answer, without the ids of its calls, which are never the same."""

    content: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Any = None

    @classmethod
    def whole(cls, response: dict[str, Any]) -> Said:
        choice = response["choices"][0]
        message = choice["message"]
        functions = [call["function"] for call in message.get("tool_calls") or ()]
        return cls(
            message["content"] or "",
            message.get("reasoning_content") or "",
            [[function["name"], function["arguments"]] for function in functions],
            choice["finish_reason"],
            _counts(response["usage"]),
        )

    def add(self, chunk: dict[str, Any]) -> None:
        assert "error" not in chunk, chunk
        if chunk.get("usage"):
            self.usage = _counts(chunk["usage"])
        for choice in chunk["choices"]:
            delta = choice["delta"]
            self.content += delta.get("content") or ""
            self.reasoning += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls") or ():
                if call["index"] == len(self.calls):
                    assert call["id"]
                    self.calls.append([call["function"]["name"], ""])
                assert call["index"] == len(self.calls) - 1
                self.calls[-1][1] += call["function"].get("arguments") or ""
            if choice["finish_reason"] is not None:
                assert self.finish_reason is None, "two reasons"
                self.finish_reason = choice["finish_reason"]


def _counts(usage: dict[str, Any]) -> tuple[int, int, int]:
    """What the cache held does not count."""
    details = usage.get("completion_tokens_details") or {}
    return (
        usage["prompt_tokens"],
        usage["completion_tokens"],
        details.get("reasoning_tokens") or 0,
    )


def check(body: dict[str, Any], said: Said) -> None:
    """Raises AssertionError or jsonschema's error."""
    schemas = {tool["function"]["name"]: tool["function"] for tool in body["tools"]}
    choice = body["tool_choice"]
    finished = said.finish_reason != "length"
    for i, (name, arguments) in enumerate(said.calls):
        assert name in schemas, f"there is no tool {name!r}"
        if finished or i < len(said.calls) - 1:
            parameters = schemas[name].get("parameters", {"type": "object", "maxProperties": 0})
            value = json.loads(arguments)
            jsonschema.validate(value, parameters)
            assert isinstance(value, dict)
    if choice != "auto":
        assert said.calls or not finished, "no call"
        assert not said.content, f"content beside a call: {said.content!r}"
    if isinstance(choice, dict):
        assert {name for name, _ in said.calls} <= {choice["function"]["name"]}
    if isinstance(choice, dict) or body.get("parallel_tool_calls") is False:
        assert len(said.calls) <= 1
    if finished and not said.calls and "response_format" in body:
        json_schema = body["response_format"]["json_schema"]["schema"]
        jsonschema.validate(json.loads(said.content), json_schema)
    reason = "stop" if isinstance(choice, dict) or not said.calls else "tool_calls"
    assert said.finish_reason in (reason, "length")


class Refused(Exception):
    """The format cannot write these tools, and the server said so."""


async def ask(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> Said:
    """The request streamed and whole. Raises for whatever is not as it should be."""
    streamed = Said()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    async with client.stream("POST", url, json=body | options) as response:
        if response.status_code == 400 and b"unsupported_schema" in await response.aread():
            raise Refused
        assert response.status_code == 200, (await response.aread())[:400]
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                streamed.add(json.loads(line[6:]))
    check(body, streamed)
    response = await client.post(url, json=body)
    assert response.status_code == 200, response.text[:400]
    whole = Said.whole(response.json())
    assert streamed == whole, f"streamed {streamed}, whole {whole}"
    return whole


async def ask_all(url: str, bodies: list[dict[str, Any]]) -> tuple[Counter[str], list[str]]:
    """What came, and what was wrong."""
    seen: Counter[str] = Counter()
    failures: list[str] = []
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, body: dict[str, Any]) -> None:
        async with gate:
            try:
                said = await ask(client, url + "/v1/chat/completions", body)
            except Refused:
                seen["refused"] += 1
                return
            except Exception as error:
                failures.append(f"request {number}: {type(error).__name__}: {str(error)[:800]}")
                return
        seen[f"finish {said.finish_reason}"] += 1
        seen["calls"] += len(said.calls)
        seen["tokens"] += said.usage[1]

    async with httpx.AsyncClient(timeout=600) as client:
        await asyncio.gather(*(one(number, body) for number, body in enumerate(bodies)))
        waiting = "formgate:structured_answers_waiting{"
        while True:
            metrics = (await client.get(url + "/metrics")).text
            gauges = [line for line in metrics.splitlines() if line.startswith(waiting)]
            if all(line.endswith(" 0.0") for line in gauges):
                break
            await asyncio.sleep(0.05)
    counter = "formgate:structured_answers_invalid_total"
    counts = [line for line in metrics.splitlines() if line.startswith(counter)]
    assert counts
    failures += [line for line in counts if not line.endswith(" 0.0")]
    return seen, failures


def run(requests: int, sets: int, *flags: str) -> tuple[Counter[str], list[str]]:
    biases = [closing_bias(strength) for strength in (4.0, 7.0, 9.0)]
    bodies = [request_of(number, sets, biases) for number in range(requests)]
    with tempfile.TemporaryDirectory() as made:
        make_model(Path(made))
        with running_server(made, "--load-format", "dummy", "--dtype", "float32", *flags) as url:
            return asyncio.run(ask_all(url, bodies))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--sets", type=int, default=50)
    parser.add_argument("--tool-call-parser")
    options = parser.parse_args()
    flags = []
    if options.tool_call_parser:
        flags = ["--tool-call-parser", options.tool_call_parser]
    seen, failures = run(options.requests, options.sets, *flags)
    for name, count in sorted(seen.items()):
        print(f"{name:20} {count}")
    print(f"{'wrong':20} {len(failures)}")
    for failure in failures[:10]:
        print(failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
