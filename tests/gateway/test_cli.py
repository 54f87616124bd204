"""The command line: vLLM's flags and their meanings, and what it says when one is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from formgate.engine.config import EngineConfig
from formgate.gateway import cli
from formgate.gateway.server_config import ServerConfig, share_of
from formgate.gateway.serving.flags import ENGINE_FLAGS, CommandLine, parse_serve, serve_parser


def parse(line: str) -> CommandLine:
    return parse_serve(line.split(), prog="formgate serve")


def refused(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        parse(line)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_the_users_own_command_line() -> None:
    command = parse(
        "mistralai/Mistral-7B-Instruct-v0.3 --host 0.0.0.0 --port 8080 --tensor-parallel-size 1 "
        "--max-model-len 8192 --gpu-memory-utilization 0.8 --max-num-seqs 64 "
        "--enable-prefix-caching --quantization awq --enable-auto-tool-choice "
        "--tool-call-parser mistral --served-model-name a b --api-key k1 --api-key k2"
    )
    assert command.server == ServerConfig(
        model="mistralai/Mistral-7B-Instruct-v0.3",
        host="0.0.0.0",
        port=8080,
        tool_call_parser="mistral",
        served_model_name=("a", "b"),
        api_key=("k1", "k2"),
    )
    engine = command.engine(Path("/model"))
    assert engine.model_dir == Path("/model")
    assert (engine.max_model_len, engine.max_num_seqs) == (8192, 64)
    assert (engine.gpu_memory_utilization, engine.quantization) == (0.8, "awq")
    assert engine.enable_prefix_caching


def test_no_argument_gives_the_defaults_of_both_configs() -> None:
    command = parse("")
    assert command.server == ServerConfig()
    assert command.engine(Path("m")) == EngineConfig(model_dir=Path("m"))


def test_every_field_is_a_flag_with_help() -> None:
    text = serve_parser("formgate serve").format_help()
    fields = {field.name for field in dataclasses.fields(ServerConfig)} - {"model"}
    engine_fields = {field.name for field in dataclasses.fields(EngineConfig)}
    engine_fields -= {"model_dir", "tokenizer_vocab_size"}  # known from the model
    # The folders of --lora-modules, which a server that has started once can do without.
    engine_fields -= {"adapters", "skip_bad_adapters"}
    assert engine_fields == set(ENGINE_FLAGS)
    for name in fields | engine_fields:
        flag = name.replace("_", "-")
        assert f"--{flag}" in text or f"--[no-]{flag}" in text


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("--max-model-len 8k", "max_model_len", 8000),
        ("--max-model-len 8K", "max_model_len", 8192),
        ("--max-model-len auto", "max_model_len", None),
        ("--max_model_len=512", "max_model_len", 512),
        ("-tp 4", "tensor_parallel_size", 4),
        ("-tp 4 -n 2 -r 1", "node_rank", 1),
        ("-tp 2 --enable-expert-parallel", "enable_expert_parallel", True),
        ("-tp 2 --nnodes 2 --headless --node-rank 1 --master-addr 10.0.0.1", "nnodes", 2),
        ("-tp 2 --distributed-executor-backend mp", "tensor_parallel_size", 2),
        ("-q awq", "quantization", "awq"),
        ("--no-enable-prefix-caching", "enable_prefix_caching", False),
        ("--enforce-eager", "enforce_eager", True),
        ("--dtype half", "dtype", "float16"),
        ("--load-format dummy", "load_format", "dummy"),
    ],
)
def test_engine_flags(line: str, field: str, value: object) -> None:
    assert getattr(parse(line).engine(Path("m")), field) == value


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["--model", "m"], "model", "m"),
        (["--allowed-origins", '["https://a.b"]'], "allowed_origins", ("https://a.b",)),
        (["--allowed-origins", "https://a.b", "https://c.d"], "allowed_origins",
         ("https://a.b", "https://c.d")),
        (["--default-chat-template-kwargs", '{"enable_thinking": true}'],
         "default_chat_template_kwargs", {"enable_thinking": True}),
        (["--env", "A=1", "B=x=y"], "env", {"A": "1", "B": "x=y"}),
        (["--uds", "/tmp/s"], "uds", Path("/tmp/s")),
        (["--disable-log-requests"], "disable_log_requests", True),
        (["--no-enable-auto-tool-choice"], "enable_auto_tool_choice", False),
    ],
)  # fmt: skip
def test_server_flags(arguments: list[str], field: str, value: object) -> None:
    assert getattr(parse_serve(arguments, prog="p").server, field) == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--max-modellen 5", "unknown flag --max-modellen; did you mean --max-model-len?"),
        ("--tool-parser mistral", "did you mean --tool-call-parser?"),
        ("--zzzzzz", "unknown flag --zzzzzz\n"),
        ("m extra", "unexpected argument extra"),
        ("m --model n", "given twice"),
        ("--port high", "invalid int value: 'high'"),
        ("--max-model-len long", "not a number of tokens"),
        ("--dtype int3", "invalid choice: 'int3'"),
        ("--default-chat-template-kwargs [1]", "not a JSON object"),
        ("--max-num-seqs 0", "--max-num-seqs: 0 is not positive"),
        ("--gpu-memory-utilization 90", "at most 1"),
        ("--ssl-keyfile k", "go together"),
        ("--env A", "A is not NAME=VALUE"),
        ("--lora-modules a=b", "--lora-modules: needs --enable-lora"),
        ("--lora-dir b", "--lora-dir: needs --enable-lora"),
        ("--enable-lora --lora-modules a", "--lora-modules: a is not NAME=PATH"),
        ("--enable-lora --lora-modules a=b a=c", "two adapters have the name a"),
        ("--enable-lora --lora-modules =b", "an adapter's name has 1 to 256 characters"),
        ('--enable-lora --lora-modules {"name":"a"}', '{"name":"a"} has no path'),
        ('--enable-lora --lora-modules {"nam":"a"}', "unknown field nam"),
        ("--enable-lora --lora-modules {", "--lora-modules: not JSON: {"),
        ("--max-loras 0", "--max-loras: 0 is not positive"),
        ("--max-lora-rank 0", "--max-lora-rank: 0 is not positive"),
        ("--max-loras 8 --max-cpu-loras 4", "--max-cpu-loras: 4 is less than --max-loras 8"),
        ("-tp 3 --nnodes 2", "--tensor-parallel-size: 3 is not a multiple of --nnodes 2"),
        ("-tp 4 --nnodes 2 --node-rank 2", "--node-rank: 2 is not from 0 to 1"),
        ("--no-enable-chunked-prefill", "always computed in chunks"),
    ],
)
def test_wrong_arguments_are_named(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(line, capsys)


def test_names_of_older_releases_are_taken_and_not_silently() -> None:
    command = parse("m --enable-reasoning --guided-decoding-backend outlines --trust-remote-code")
    assert command.server.model == "m"
    assert [note.split(" ")[0] for note in command.notes] == [
        "--enable-reasoning",
        "--guided-decoding-backend",
        "--trust-remote-code",
    ]


def test_keys_are_not_shown() -> None:
    assert "secret" not in repr(ServerConfig(api_key=("secret",), hf_token="secret"))


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"formgate {importlib.metadata.version('formgate')}\n"
    assert cli.main([]) == 0
    assert "  serve [MODEL] " in capsys.readouterr().out
    assert cli.main(["server"]) == 2
    assert "unknown command server" in capsys.readouterr().err


def test_a_server_imports_no_other_command() -> None:
    code = (
        "import sys, formgate.gateway.cli, formgate.gateway.serving.server\n"
        "print([name for name in sys.modules if name.startswith('formgate.gateway.commands')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ["serve", "chat", "check", "template", "doctor", "bench"])
def test_the_help_lists_each_command_and_each_has_its_own(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["--help"])
    assert f"\n  {name} " in capsys.readouterr().out
    with contextlib.suppress(SystemExit):
        assert cli.main([name, "--help"]) == 0
    assert f"usage: formgate {name}" in capsys.readouterr().out


def one_line_error(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert re.fullmatch(r"formgate: error: [^\n]+\n", text), text
    return text


def test_a_folder_that_is_no_model_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", str(tmp_path), "--port", "0"]) == 1
    assert "has no config.json" in one_line_error(capsys)


def test_a_taken_port_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.main(["serve", "--host", "127.0.0.1", "--port", str(port)]) == 1
    assert f"port {port}: address already in use" in one_line_error(capsys)


@pytest.mark.parametrize(("total", "count"), [(4352, 1), (4352, 4), (5, 2), (7, 4), (1, 3), (0, 2)])
def test_processes_share_all_there_is_and_each_has_something(total: int, count: int) -> None:
    shares = [share_of(total, number, count) for number in range(count)]
    assert sum(shares) == max(total, count)
    assert max(shares) - min(shares) <= 1
