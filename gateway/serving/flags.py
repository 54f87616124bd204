"""The command line, made from the fields of `ServerConfig` and `EngineConfig`. It parses arguments
to these two and starts nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from formgate.engine.adapter import AdapterSource
from formgate.engine.config import EngineConfig
from formgate.gateway.api_keys import wrong_key
from formgate.gateway.server_config import ServerConfig
from formgate.gateway.serving.flag_tables import (
    ENGINE_FLAGS,
    NO_EFFECT,
    NOT_SUPPORTED,
    SHORT_FLAGS,
)
from formgate.gateway.serving.lora_modules import wrong_lora_option

KEY_VARIABLE = "VLLM_API_KEY"
RUNTIME_LORA_VARIABLE = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"

POSITIVE = (
    "api_server_count",
    "max_body_bytes",
    "max_connections",
    "client_header_timeout",
    "client_body_timeout",
    "send_timeout",
    "tensor_parallel_size",
    "nnodes",
    "master_port",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "block_size",
    "max_loras",
    "max_lora_rank",
    "max_cpu_loras",
)
# Minimums of options that may also be 0. An idle engine sends an event every second.
LEAST_SECONDS: Mapping[str, float] = {
    "engine_timeout": 2.0,
    "shutdown_delay": 0.0,
    "shutdown_timeout": 0.0,
    "request_timeout": 0.0,
    "max_queue_seconds": 0.0,
}


@dataclass(frozen=True)
class CommandLine:
    """The parsed command line. The engine's half stays as options until the model's folder is
    resolved.
    """

    server: ServerConfig
    engine_options: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def engine(self, model_dir: Path, adapters: tuple[AdapterSource, ...] = ()) -> EngineConfig:
        return EngineConfig(model_dir=model_dir, adapters=adapters, **self.engine_options)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\nSee `{self.prog} --help`.\n")


class _Help(argparse.HelpFormatter):
    """Shows switches as `--[no-]name`, and defaults of options that take a value."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=100)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, argparse.BooleanOptionalAction):
            return f"--[no-]{action.option_strings[0].removeprefix('--')}"
        if len(action.option_strings) == 2 and action.nargs is None:
            return f"{', '.join(reversed(action.option_strings))} {action.metavar}"
        return super()._format_action_invocation(action)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if isinstance(action, argparse.BooleanOptionalAction):
            word = "on a GPU" if default is None else "on" if default else "off"
            return f"{action.help} (default: {word})"
        if isinstance(default, int | float | str) and default and default != argparse.SUPPRESS:
            return f"{action.help} (default: {default})"
        return action.help


class _NoEffect(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        reason = NO_EFFECT[str(option_string)][1]
        namespace.notes = [*namespace.notes, f"{option_string} has no effect: {reason}."]


def parse_serve(arguments: Sequence[str], *, prog: str) -> CommandLine:
    """Parse `arguments`. Exits with a message and code 2 if they are wrong."""
    parser = serve_parser(prog)
    words = [_with_dashes(argument) for argument in arguments]
    _refuse_unsupported(parser, words)
    namespace, unknown = parser.parse_known_args(words)
    if unknown:
        parser.error(_unknown_in_words(parser, unknown))
    values = vars(namespace)
    if values["model_flag"] is not None:
        if values["model"] is not None:
            parser.error("the model is given twice, as MODEL and as --model")
        values["model"] = values["model_flag"]
    if not values["api_key"] and KEY_VARIABLE in os.environ:
        values["api_key"] = (os.environ[KEY_VARIABLE],)
    if os.environ.get(RUNTIME_LORA_VARIABLE, "").strip().lower() in ("1", "true"):
        values["allow_runtime_lora"] = True
    for key in values["api_key"]:
        if (reason := wrong_key(key)) is not None:
            parser.error(f"--api-key: {reason}")
    server = ServerConfig(**{name: values[name] for name in _names(ServerConfig)})
    if server.protect_metrics and not server.api_key:
        parser.error("--protect-metrics needs an --api-key")
    if (server.ssl_certfile is None) != (server.ssl_keyfile is None):
        parser.error("--ssl-certfile and --ssl-keyfile go together")
    if server.api_server_count > 1 and server.uds is not None:
        parser.error("--api-server-count: only one process can listen on --uds")
    options = {name: values[name] for name in ENGINE_FLAGS}
    if (wrong := wrong_option(values)) is not None:
        parser.error(f"--{wrong[0].replace('_', '-')}: {wrong[1]}")
    return CommandLine(server, options, tuple(values["notes"]))


def wrong_option(values: Mapping[str, Any]) -> tuple[str, str] | None:
    """(name, reason) of the first option with an invalid value, or None."""
    for name in POSITIVE:
        if (number := values.get(name)) is not None and not number > 0:
            return name, f"{number} is not positive"
    for name, least in LEAST_SECONDS.items():
        if not (seconds := values.get(name, 0.0)) >= least and seconds != 0:
            return name, f"{seconds} is neither 0 nor at least {least}"
    if values.get("gpu_memory_utilization", 0.9) > 1:
        return "gpu_memory_utilization", "a fraction of the memory is at most 1"
    if (wrong := wrong_lora_option(values)) is not None:
        return wrong
    size, nodes = values.get("tensor_parallel_size", 1), values.get("nnodes", 1)
    if size % nodes:
        return "tensor_parallel_size", f"{size} is not a multiple of --nnodes {nodes}"
    if not 0 <= (node := values.get("node_rank", 0)) < nodes:
        return "node_rank", f"{node} is not from 0 to {nodes - 1}, as --nnodes {nodes} has it"
    return None


def serve_parser(prog: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        allow_abbrev=False,
        usage=f"{prog} [MODEL] [options]",
        description="Serve a model over the OpenAI API.",
        formatter_class=_Help,
    )
    parser.set_defaults(notes=[])
    fields = {field.name: field for field in dataclasses.fields(ServerConfig)}
    parser.add_argument("model", nargs="?", metavar="MODEL", help=fields["model"].metadata["help"])
    parser.add_argument("--model", dest="model_flag", metavar="MODEL", help=argparse.SUPPRESS)
    groups: dict[str, argparse._ArgumentGroup] = {}

    def add(
        config: type, field: dataclasses.Field[Any], group: str, text: str, metavar: str | None
    ) -> None:
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        kind = get_type_hints(config)[field.name]
        names = [f"--{field.name.replace('_', '-')}"]
        if field.name in SHORT_FLAGS:
            names.append(SHORT_FLAGS[field.name])
        default = field.default
        if default is dataclasses.MISSING:
            assert field.default_factory is not dataclasses.MISSING
            default = field.default_factory()
        options = _argument(field.name, kind, default, metavar)
        groups[group].add_argument(*names, dest=field.name, help=text, **options)

    for field in fields.values():
        if field.name != "model":
            about = field.metadata
            add(ServerConfig, field, about["group"], about["help"], about["metavar"])
    engine_fields = {field.name: field for field in dataclasses.fields(EngineConfig)}
    for name, (group, text) in ENGINE_FLAGS.items():
        add(EngineConfig, engine_fields[name], group, text, None)
    for flag, (takes_value, _) in NO_EFFECT.items():
        parser.add_argument(
            flag,
            dest="notes",
            action=_NoEffect,
            nargs=None if takes_value else 0,
            help=argparse.SUPPRESS,
        )
    return parser


def _argument(name: str, kind: Any, default: Any, metavar: str | None) -> dict[str, Any]:
    """Keyword arguments of `add_argument` for a field of type `kind`."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction, "default": default}
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        read = {"half": "float16", "float": "float32"}.get if name == "dtype" else None
        convert = (lambda text: read(text, text)) if read else str
        return {"choices": choices, "default": default, "type": convert}
    if get_origin(kind) is tuple:
        return {"action": _Several, "nargs": "+", "default": default, "metavar": metavar}
    if get_origin(kind) is Mapping or kind is Mapping:
        action = _Environment if metavar == "NAME=VALUE" else None
        options: dict[str, Any] = {"default": default, "metavar": metavar}
        if action is not None:
            return options | {"action": action, "nargs": "+"}
        return options | {"type": _json_object}
    convert_to: Callable[[str], Any] = _token_count if name == "max_model_len" else kind
    shown = metavar or {int: "N", float: "X", str: "TEXT"}.get(kind, "PATH")
    return {"type": convert_to, "default": default, "metavar": shown}


class _Several(argparse.Action):
    """Takes `--flag a b`, `--flag a --flag b` and, as vLLM does, `--flag '["a", "b"]'`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        texts: list[str] = []
        for value in values:
            if value.startswith("["):
                try:
                    listed = json.loads(value)
                except ValueError:
                    parser.error(f"{option_string}: not a JSON list: {value}")
                texts.extend(
                    json.dumps(item) if isinstance(item, dict) else str(item) for item in listed
                )
            else:
                texts.append(value)
        if not texts and self.dest == "api_key":
            parser.error(f"{option_string}: the list has no key")  # the server would be open to all
        before = getattr(namespace, self.dest)
        # The first use replaces the default, later ones extend the value.
        kept = () if before is self.default else before
        setattr(namespace, self.dest, (*kept, *texts))


class _Environment(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        pairs = dict(getattr(namespace, self.dest))
        for value in values:
            name, equals, text = value.partition("=")
            if not equals or not name:
                parser.error(f"{option_string}: {value} is not NAME=VALUE")
            pairs[name] = text
        setattr(namespace, self.dest, pairs)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return value


def _token_count(text: str) -> int | None:
    """Parse 8192, 8k (8000), 8K (8192) or 1.5k; auto and -1 give None, the model's own."""
    if text in ("auto", "-1"):
        return None
    units = {"k": 1000, "K": 1024, "m": 1000**2, "M": 1024**2}
    try:
        if text[-1:] in units:
            return int(float(text[:-1]) * units[text[-1]])
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number of tokens") from None


def _names(config: type) -> list[str]:
    return [field.name for field in dataclasses.fields(config)]


def _with_dashes(argument: str) -> str:
    """`--max_model_len=8` becomes `--max-model-len=8`."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def _refuse_unsupported(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    for word in words:
        flag = word.partition("=")[0]
        if flag in NOT_SUPPORTED:
            parser.error(f"{flag}: {NOT_SUPPORTED[flag]}")


def _unknown_in_words(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    word = unknown[0]
    if not word.startswith("-"):
        return f"unexpected argument {word}"
    flag = word.partition("=")[0]
    known = [name for action in parser._actions for name in action.option_strings]
    nearest = difflib.get_close_matches(flag, known, n=1, cutoff=0.6)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"unknown flag {flag}{hint}"
