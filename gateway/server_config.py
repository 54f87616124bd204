"""The configuration of the HTTP process, as one frozen dataclass. Its fields, defaults and help
texts make the command line; the engine's half is `EngineConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

MODEL = "model"
HTTP = "HTTP server"
ANSWERS = "chat, tools and answers"
ADAPTERS = "LoRA adapters"


def about(group: str, text: str, *, metavar: str | None = None) -> dict[str, str | None]:
    """A field's metadata for the command line: its help `group` and help `text`."""
    return {"group": group, "help": text, "metavar": metavar}


def share_of(total: int, number: int, count: int) -> int:
    """The share of process `number` of `count` in a server-wide limit `total`; at least 1."""
    return max(1, total // count + (number < total % count))


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Each field is a flag: `root_path` is `--root-path`."""

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
        default=None,
        metadata=about(MODEL, "folder or hub name of the tokenizer, if it is not the model's"),
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
        default=None, metadata=about(HTTP, "address to listen on (default: all of them)")
    )
    port: int = field(default=8000, metadata=about(HTTP, "port to listen on; 0 picks a free one"))
    uds: Path | None = field(
        default=None, metadata=about(HTTP, "listen on this Unix socket instead", metavar="PATH")
    )
    api_key: tuple[str, ...] = field(
        default=(),
        repr=False,
        metadata=about(
            HTTP,
            "accept only these keys (or the one in VLLM_API_KEY)",
            metavar="KEY",
        ),
    )
    protect_metrics: bool = field(
        default=False,
        metadata=about(HTTP, "require a key for /metrics, /docs and /openapi.json too"),
    )
    disable_playground: bool = field(
        default=False, metadata=about(HTTP, "do not serve the page at / and /playground")
    )
    root_path: str = field(
        default="", metadata=about(HTTP, "path prefix that a reverse proxy strips")
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
        metadata=about(HTTP, "open connections; more get 503 and are closed"),
    )
    client_header_timeout: float = field(
        default=10.0,
        metadata=about(
            HTTP,
            "time limit for a request's headers and for a TLS handshake; then 408 and closed",
            metavar="SECONDS",
        ),
    )
    client_body_timeout: float = field(
        default=60.0,
        metadata=about(
            HTTP,
            "time limit for a request's body; a body that takes longer, at less than 4096 bytes "
            "per second, gets 408",
            metavar="SECONDS",
        ),
    )
    send_timeout: float = field(
        default=30.0,
        metadata=about(
            HTTP,
            "time within which a client must read some of its answer; otherwise its request is "
            "aborted and its connection closed",
            metavar="SECONDS",
        ),
    )
    request_timeout: float = field(
        default=0.0,
        metadata=about(
            HTTP,
            "time limit for an answer; then 504, or an error event in a stream (0: no limit)",
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
            "HTTP processes in front of one engine; each has an equal share of "
            "--max-num-seqs, --max-queue-size and the workers that compile schemas",
        ),
    )
    engine_timeout: float = field(
        default=60.0,
        metadata=about(
            HTTP,
            "restart the engine if a step takes longer; on a CPU, ten times as long while it "
            "computes (0: never). A further HTTP process is restarted after 10 s of silence, or "
            "this, if it is less",
            metavar="SECONDS",
        ),
    )
    shutdown_delay: float = field(
        default=0.0,
        metadata=about(
            HTTP,
            "after SIGTERM, answer /health and /ready with 503 but take requests for this long, "
            "until every load balancer has noticed; then --shutdown-timeout begins",
            metavar="SECONDS",
        ),
    )
    shutdown_timeout: float = field(
        default=30.0,
        metadata=about(
            HTTP,
            "time to finish running answers after SIGTERM or SIGINT; a second signal ends them",
            metavar="SECONDS",
        ),
    )
    log_level: Literal["debug", "info", "warning", "error", "critical"] = field(
        default="info",
        metadata=about(
            HTTP, "lowest level to log; only debug shows exception messages, which may quote inputs"
        ),
    )
    log_format: Literal["text", "json"] = field(
        default="text", metadata=about(HTTP, "plain log lines, or one JSON object per line")
    )
    disable_log_requests: bool = field(
        default=False, metadata=about(HTTP, "do not log each request")
    )
    env: Mapping[str, str] = field(
        default_factory=dict,
        metadata=about(HTTP, "set environment variables for the server", metavar="NAME=VALUE"),
    )

    chat_template: str | None = field(
        default=None,
        metadata=about(ANSWERS, "Jinja file or template text, instead of the model's own"),
    )
    default_chat_template_kwargs: Mapping[str, Any] = field(
        default_factory=dict,
        metadata=about(
            ANSWERS,
            "default arguments of the chat template; requests may override them",
            metavar="JSON",
        ),
    )
    enable_auto_tool_choice: bool = field(
        default=True, metadata=about(ANSWERS, "let the model decide whether to call a tool")
    )
    strict_tools: bool = field(
        default=False,
        metadata=about(
            ANSWERS,
            "refuse every tool whose schema cannot be enforced in full, as if it were `strict`",
        ),
    )
    allow_truncated_json: bool = field(
        default=False,
        metadata=about(
            ANSWERS,
            "accept a schema whose shortest answer exceeds max_tokens: the answer is cut, with "
            "finish_reason length",
        ),
    )
    tool_call_parser: str | None = field(
        default=None,
        metadata=about(ANSWERS, "format of tool calls (default: chosen from the model)"),
    )
    reasoning_parser: str | None = field(
        default=None,
        metadata=about(
            ANSWERS,
            "format of reasoning, or its markers as OPEN,CLOSE (default: chosen from the model)",
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
        default=True, metadata=about(ANSWERS, "report the number of cached prompt tokens in usage")
    )

    lora_modules: tuple[str, ...] = field(
        default=(),
        metadata=about(
            ADAPTERS,
            "adapters to load at start: folders or hub names, and the names that clients use",
            metavar="NAME=PATH",
        ),
    )
    lora_dir: Path | None = field(
        default=None,
        metadata=about(
            ADAPTERS,
            "folder of adapters; each is loaded when a request's model is first its folder's name",
            metavar="FOLDER",
        ),
    )
    allow_runtime_lora: bool = field(
        default=False,
        metadata=about(
            ADAPTERS,
            "let clients load and unload adapters (or set VLLM_ALLOW_RUNTIME_LORA_UPDATING)",
        ),
    )
