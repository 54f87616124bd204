"""Everything the HTTP process can be told, in one frozen dataclass. The command line is made from
its fields, their defaults and the help that each carries; the engine's half is `EngineConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

MODEL = "model"
HTTP = "HTTP server"
ANSWERS = "chat, tools and answers"


def about(group: str, text: str, *, metavar: str | None = None) -> dict[str, str | None]:
    """How the command line shows a field: under `group`, with `text` as its help."""
    return {"group": group, "help": text, "metavar": metavar}


def share_of(total: int, number: int, count: int) -> int:
    """What the process `number` of `count` may use of what the whole server has; at least 1."""
    return max(1, total // count + (number < total % count))


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Field names are the command line's (`root_path` is `--root-path`)."""

    model: str | None = field(
        default=None,
        metadata=about(MODEL, "Hugging Face folder or hub name; without it, the embedded model"),
    )
    served_model_name: tuple[str, ...] = field(
        default=(),
        metadata=about(
            MODEL, "names that clients may use for the model; the first is shown", metavar="NAME"
        ),
    )
    tokenizer: str | None = field(
        default=None, metadata=about(MODEL, "folder or hub name of the tokenizer, if elsewhere")
    )
    revision: str | None = field(
        default=None, metadata=about(MODEL, "branch, tag or commit on the hub")
    )
    hf_token: str | None = field(
        default=None,
        repr=False,
        metadata=about(
            MODEL, "Hugging Face token for gated models (or HF_TOKEN in the environment)"
        ),
    )
    download_dir: Path | None = field(
        default=None, metadata=about(MODEL, "where downloads are kept", metavar="DIR")
    )

    host: str | None = field(
        default=None, metadata=about(HTTP, "address to listen on (all of this machine's)")
    )
    port: int = field(default=8000, metadata=about(HTTP, "port to listen on; 0 takes a free one"))
    uds: Path | None = field(
        default=None, metadata=about(HTTP, "listen on this Unix socket instead", metavar="PATH")
    )
    api_key: tuple[str, ...] = field(
        default=(),
        repr=False,
        metadata=about(
            HTTP,
            "accept only these keys (or that of VLLM_API_KEY in the environment)",
            metavar="KEY",
        ),
    )
    protect_metrics: bool = field(
        default=False,
        metadata=about(HTTP, "ask for a key at /metrics, /docs and /openapi.json too"),
    )
    root_path: str = field(
        default="", metadata=about(HTTP, "path prefix that a proxy strips before it calls")
    )
    allowed_origins: tuple[str, ...] = field(
        default=("*",),
        metadata=about(HTTP, "origins that browsers may call from (CORS)", metavar="ORIGIN"),
    )
    ssl_keyfile: Path | None = field(
        default=None, metadata=about(HTTP, "private key for HTTPS", metavar="FILE")
    )
    ssl_certfile: Path | None = field(
        default=None, metadata=about(HTTP, "certificate for HTTPS", metavar="FILE")
    )
    max_body_bytes: int = field(
        default=8 * 1024 * 1024, metadata=about(HTTP, "largest request body", metavar="BYTES")
    )
    max_connections: int = field(
        default=8192,
        metadata=about(HTTP, "connections that may be open; more get 503 and are closed"),
    )
    client_header_timeout: float = field(
        default=10.0,
        metadata=about(
            HTTP,
            "time for a request's headers, and for a TLS handshake; then 408 and closed",
            metavar="SECONDS",
        ),
    )
    client_body_timeout: float = field(
        default=60.0,
        metadata=about(
            HTTP,
            "time for a request's body; a body that takes longer, at less than 4096 bytes a "
            "second, gets 408",
            metavar="SECONDS",
        ),
    )
    send_timeout: float = field(
        default=30.0,
        metadata=about(
            HTTP,
            "time in which a client has to read something of its answer; then its request is "
            "aborted and its connection closed",
            metavar="SECONDS",
        ),
    )
    request_timeout: float = field(
        default=0.0,
        metadata=about(
            HTTP,
            "longest time for an answer; then 504, or an error event in a stream (0: no limit)",
            metavar="SECONDS",
        ),
    )
    max_queue_size: int = field(
        default=4096,
        metadata=about(HTTP, "requests that may wait beyond --max-num-seqs; more get 429"),
    )
    api_server_count: int = field(
        default=1,
        metadata=about(
            HTTP,
            "processes that speak HTTP, over one engine; each has an equal share of "
            "--max-num-seqs, --max-queue-size and the workers that compile schemas",
        ),
    )
    engine_timeout: float = field(
        default=60.0,
        metadata=about(
            HTTP,
            "a step of the engine that takes longer ends it and starts it again; on a CPU, ten "
            "times as long if the engine is at work; 0: never",
            metavar="SECONDS",
        ),
    )
    shutdown_timeout: float = field(
        default=30.0,
        metadata=about(
            HTTP,
            "time that answers under way have after SIGTERM or SIGINT; a second signal ends them",
            metavar="SECONDS",
        ),
    )
    log_level: Literal["debug", "info", "warning", "error", "critical"] = field(
        default="info",
        metadata=about(
            HTTP, "least level to log; only debug shows the messages of exceptions, which may quote"
        ),
    )
    log_format: Literal["text", "json"] = field(
        default="text", metadata=about(HTTP, "log lines, or a JSON object a line")
    )
    disable_log_requests: bool = field(
        default=False, metadata=about(HTTP, "no log line for each request")
    )
    env: Mapping[str, str] = field(
        default_factory=dict,
        metadata=about(HTTP, "set environment variables of the server", metavar="NAME=VALUE"),
    )

    chat_template: str | None = field(
        default=None,
        metadata=about(ANSWERS, "a Jinja file or template text, instead of the model's own"),
    )
    default_chat_template_kwargs: Mapping[str, Any] = field(
        default_factory=dict,
        metadata=about(
            ANSWERS, "arguments for the chat template that requests may override", metavar="JSON"
        ),
    )
    enable_auto_tool_choice: bool = field(
        default=True, metadata=about(ANSWERS, "let the model choose whether to call a tool")
    )
    tool_call_parser: str | None = field(
        default=None,
        metadata=about(ANSWERS, "format of tool calls; without it, chosen from the model"),
    )
    reasoning_parser: str | None = field(
        default=None,
        metadata=about(
            ANSWERS,
            "format of reasoning, or its markers as OPEN,CLOSE; without it, chosen from the model",
        ),
    )
    generation_config: str = field(
        default="auto",
        metadata=about(
            ANSWERS,
            "sampling defaults: the model's own (auto), OpenAI's (vllm), or those of a folder",
        ),
    )
    enable_prompt_tokens_details: bool = field(
        default=True, metadata=about(ANSWERS, "tell the number of cached prompt tokens in usage")
    )
