"""Measures the embedded model as users meet it: through a running server, its grammar included.

    formgate serve &
    python -m training.served --url http://127.0.0.1:8000

Extraction is asked for with a `response_format`, tools with `tool_choice="auto"`, reasoning with
`enable_thinking`; the prompts are those of `training.evaluate`.
"""

from __future__ import annotations

import argparse
import json
import re
import urllib.request
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

from training.generate import extraction, reasoning, tools

AT_ONCE = 16
SHOWN = 3


def schema_of(value: Any) -> dict[str, Any]:
    """The schema that a user would write for such a value."""
    if isinstance(value, dict):
        return {
            "type": "object",
            "properties": {key: schema_of(item) for key, item in value.items()},
            "required": list(value),
            "additionalProperties": False,
        }
    if isinstance(value, list):
        return {"type": "array", "items": schema_of(value[0]) if value else {}}
    if value is None:
        return {"type": ["string", "null"]}
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, str):
        return {"type": "string"}
    return {"type": "integer" if isinstance(value, int) else "number"}


class Examiner:
    def __init__(self, url: str) -> None:
        self.url = url
        self.tally: dict[str, Counter[bool]] = defaultdict(Counter)

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            self.url + "/v1/chat/completions",
            json.dumps({"temperature": 0, "max_tokens": 400} | body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=600) as response:
            message: dict[str, Any] = json.load(response)["choices"][0]["message"]
            return message

    def count(self, group: str, good: bool, prompt: str, wanted: Any, got: Any) -> None:
        self.tally[group][good] += 1
        if not good and self.tally[group][False] <= SHOWN:
            print(f"[{group}] {prompt!r}\n  wanted {wanted}\n  got    {got}")

    def extract(self, turn: extraction.Sample, group: str) -> None:
        schema = {"name": "record", "schema": schema_of(turn.answer), "strict": True}
        message = self.ask(
            {
                "messages": [{"role": "user", "content": turn.prompt}],
                "response_format": {"type": "json_schema", "json_schema": schema},
            }
        )
        got = _read(message["content"]) or {}
        for key, wanted in turn.answer.items():
            good = key in got and got[key] == wanted
            self.count(group, good, turn.prompt, {key: wanted}, got.get(key))

    def call(self, turn: tools.Sample, group: str) -> None:
        message = self.ask(
            {"messages": [{"role": "user", "content": turn.prompt}], "tools": turn.tools}
        )
        got = [
            (call["function"]["name"], _read(call["function"]["arguments"]))
            for call in message.get("tool_calls") or []
        ]
        self.count(group, got == turn.calls, turn.prompt, turn.calls, got)

    def reason(self, problem: reasoning.Problem, group: str) -> None:
        message = self.ask(
            {
                "messages": [{"role": "user", "content": problem.prompt}],
                "chat_template_kwargs": {"enable_thinking": True},
            }
        )
        said = message["content"] or ""
        good = problem.result in re.findall(r"-?[\d.]*\d", said)
        self.count(group, good, problem.prompt, problem.result, said)


def _read(text: str) -> Any:
    """None for an answer that ran into `max_tokens`."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--count", type=int, default=200, help="prompts per group")
    parser.add_argument("--seed", type=int, default=70_001)
    options = parser.parse_args()
    examiner, r, n = Examiner(options.url), Random(options.seed), range(options.count)
    work: list[tuple[Any, Any, str]] = []
    work += [(examiner.reason, reasoning.sample(r), "reasoning") for _ in n]
    for held_out, group in ((False, "fresh values"), (True, "forms kept out of training")):
        work += [
            (examiner.extract, extraction.sample(r, held_out), f"extraction, {group}") for _ in n
        ]
    work += [(examiner.call, tools.weather(r), "get_weather") for _ in n]
    for held_out, kind, group in (
        (False, "one", "tools, one call"),
        (False, "two", "tools, two calls"),
        (True, "one", "tools never seen in training"),
        (False, "none", "no tool fits, no call"),
    ):
        work += [(examiner.call, tools.sample(r, held_out, kind), group) for _ in n]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(ask, what, group) for ask, what, group in work]:
            done.result()
    print("\n| group | right | of |\n|---|---|---|")
    for group, tally in examiner.tally.items():
        print(f"| {group} | {100 * tally[True] / tally.total():.1f} % | {tally.total()} |")


if __name__ == "__main__":
    main()
