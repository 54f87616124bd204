"""What a JSON schema costs: time per token under one, over that of free text, at 1 and 16 at once.

The schema keeps every request busy to its last token (a long list of records), so both sides
decode the same number of tokens in the same batch.

    python benchmarks/json_cost.py [--model FOLDER] [--tokens 200] [--no-forced-tokens]
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from serving import Answer, Client, running_server

from formgate import embedded

RECORDS = {
    "type": "object",
    "properties": {
        "records": {
            "type": "array",
            "minItems": 8,  # 185 tokens at the least, and more as models write them
            "items": {
                "type": "object",
                "properties": {
                    "id": {"type": "integer"},
                    "name": {"type": "string", "maxLength": 24},
                    "status": {"enum": ["active", "inactive", "pending"]},
                    "score": {"type": "number"},
                    "tags": {
                        "type": "array",
                        "items": {"type": "string", "maxLength": 12},
                        "maxItems": 4,
                    },
                },
                "required": ["id", "name", "status", "score", "tags"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["records"],
    "additionalProperties": False,
}


def body_of(i: int, tokens: int, schema: dict[str, Any] | None) -> dict[str, Any]:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": f"List the records of department {i}."}],
        "max_tokens": tokens,
        "temperature": 1.0,
        "seed": i,
    }
    if schema is None:
        return body | {"ignore_eos": True}
    return body | {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "records", "schema": schema, "strict": True},
        }
    }


def median_ms(answers: list[Answer]) -> float:
    return 1e3 * statistics.median(answer.time_per_token for answer in answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=embedded.path())
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-forced-tokens", action="store_true", help="sample every token")
    options = parser.parse_args()

    figures = {}
    flags = ["--no-forced-tokens"] if options.no_forced_tokens else []
    with running_server(str(options.model), *flags) as url:
        client = Client(url)
        for at_once in (1, 16):
            free: list[float] = []
            under_schema: list[float] = []
            for repeat in range(options.repeats + 1):
                for schema, times in ((None, free), (RECORDS, under_schema)):
                    bodies = [body_of(i, options.tokens, schema) for i in range(at_once)]
                    answers = client.at_once(bodies)
                    assert all(a.completion_tokens == options.tokens for a in answers)
                    if repeat:  # the first is the warm-up
                        times.append(median_ms(answers))
            free_ms, schema_ms = statistics.median(free), statistics.median(under_schema)
            figures[f"at_once_{at_once}"] = {
                "free_ms_per_token": round(free_ms, 3),
                "schema_ms_per_token": round(schema_ms, 3),
                "ratio": round(schema_ms / free_ms, 3),
            }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
