"""Adapters of the embedded model, through real servers: by name in every API, loaded and unloaded
by clients, from a folder, and after the engine's death.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import APIStatusError, BadRequestError, NotFoundError, OpenAI
from safetensors.torch import save_file

from formgate.gateway.library.llm import LLM

pytestmark = pytest.mark.serve

SIZES = {
    "self_attn.q_proj": (384, 384),
    "self_attn.v_proj": (384, 128),
    "mlp.down_proj": (1024, 384),
}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
EXACT: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


def make_adapter(folder: Path, rank: int, seed: int, **config: Any) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(8):
        for module, (inputs, outputs) in SIZES.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            for side, shape in {"A": (rank, inputs), "B": (outputs, rank)}.items():
                tensors[f"{name}.lora_{side}.weight"] = 0.12 * torch.randn(
                    shape, generator=generator
                )
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": rank, "lora_alpha": 4 * rank, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(fields | config))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {name: make_adapter(root / name, rank, rank) for name, rank in {"a": 4, "b": 9}.items()}


def chat(client: OpenAI, model: str, **fields: Any) -> str:
    options: dict[str, Any] = EXACT | {"messages": QUESTION} | fields
    answer = client.chat.completions.create(model=model, **options)
    assert answer.model == model
    return answer.choices[0].message.content or ""


def post(server: Any, path: str, body: dict[str, Any], key: str = "none") -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(server.url + path, json=body, headers=headers, timeout=120)


def until_all_know(server: Any, name: str, known: bool) -> None:
    """Until each HTTP process says so, on a connection of its own: 20 in a row."""
    deadline, in_a_row = time.monotonic() + 60, 0
    while in_a_row < 20:
        assert time.monotonic() < deadline
        listed = httpx.get(f"{server.url}/v1/models", headers={"Authorization": "Bearer k"})
        right = (name in [one["id"] for one in listed.json()["data"]]) == known
        in_a_row = in_a_row + 1 if right else 0


def test_adapters_by_name(serve: Callable[..., Any], folders: dict[str, Path]) -> None:
    """In every API, at once, and told apart by the metrics."""
    module = json.dumps({"name": "b", "path": str(folders["b"]), "base_model_name": "base"})
    server = serve(
        *("--dtype", "float32", "--enable-lora", "--max-loras", "2"),
        *("--lora-modules", f"a={folders['a']}", module),
    )
    client, base = server.client(), server.model
    models = {one.id: one for one in client.models.list()}
    assert list(models) == [base, "a", "b"]
    assert [one.parent for one in models.values()] == [None, base, "base"]  # type: ignore[attr-defined]
    assert client.models.retrieve("a").root == str(folders["a"])  # type: ignore[attr-defined]
    answers = {name: chat(client, name) for name in models}
    assert len(set(answers.values())) == 3

    with ThreadPoolExecutor(12) as pool:
        names = [*models] * 4
        assert list(pool.map(lambda name: chat(client, name), names)) == [
            answers[name] for name in names
        ]
    streamed = client.chat.completions.create(
        model="a",
        messages=QUESTION,
        stream=True,
        **EXACT,  # type: ignore[arg-type]
    )
    parts = [chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices]
    assert "".join(parts) == answers["a"]
    assert post(server, "/v1/messages", {"model": "a", "messages": QUESTION} | EXACT).json()[
        "content"
    ] == [{"type": "text", "text": answers["a"]}]
    answer = client.responses.create(
        model="a", input=QUESTION[0]["content"], temperature=0, max_output_tokens=12
    )
    assert (answer.model, answer.output_text) == ("a", answers["a"])
    texts = {
        name: client.completions.create(model=name, prompt="One two", **EXACT).choices[0].text
        for name in models
    }
    assert len(set(texts.values())) == 3
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    assert "x" in json.loads(chat(client, "b", response_format=form, max_tokens=40))
    assert post(server, "/tokenize", {"model": "a", "prompt": "x"}).status_code == 200
    with pytest.raises(NotFoundError, match="The model `c` does not exist"):
        chat(client, "c")
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    (info,) = [line for line in lines if line.startswith("vllm:lora_requests_info{")]
    assert 'max_lora="2"' in info
    refused = post(server, "/v1/load_lora_adapter", {"lora_name": "c", "lora_path": "c"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "runtime_lora_disabled")


def engine_processes(server: Any) -> set[int]:
    """The one engine; none between two of them."""
    process_id = server.process.pid
    listed = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    found = set()
    for one in listed:
        with contextlib.suppress(OSError):  # it has ended
            if "engine_process" in Path(f"/proc/{one}/cmdline").read_text():
                found.add(int(one))
    return found


def test_clients_load_and_unload(
    serve: Callable[..., Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    """Behind the key, in every HTTP process; and a new engine knows what the last one knew."""
    server = serve(
        *("--dtype", "float32", "--enable-lora", "--allow-runtime-lora", "--api-key", "k"),
        *("--lora-modules", f"a={folders['a']}", "--api-server-count", "2"),
    )
    client = OpenAI(base_url=server.url + "/v1", api_key="k", max_retries=0, timeout=120)

    def load(name: str, path: Path | str, **fields: Any) -> httpx.Response:
        body = {"lora_name": name, "lora_path": str(path)} | fields
        return post(server, "/v1/load_lora_adapter", body, "k")

    assert post(server, "/v1/load_lora_adapter", {}, "wrong").status_code == 401
    copy = make_adapter(tmp_path / "copy", 9, 9)
    added = load("x", copy)
    assert (added.status_code, added.text) == (
        200,
        "Success: LoRA adapter 'x' added successfully.",
    )
    until_all_know(server, "x", True)  # the other process hears of it a moment later
    first = chat(client, "x")
    base = httpx.get(f"{server.url}/v1/models", headers={"Authorization": "Bearer k"})
    assert [one["id"] for one in base.json()["data"]][1:] == ["a", "x"]
    assert first == chat(client, "x") != chat(client, "a")

    twice = load("x", copy)
    assert (twice.status_code, twice.json()["error"]["param"]) == (400, "lora_name")
    make_adapter(tmp_path / "copy", 4, 77)
    assert load("x", copy, load_inplace=True).status_code == 200
    second = chat(client, "x")
    assert second != first
    own = base.json()["data"][0]["id"]
    for bad, param in (
        (load("y", tmp_path / "nowhere"), "lora_path"),
        (load("y", make_adapter(tmp_path / "wide", 17, 1)), "lora_path"),
        (load(own, copy), "lora_name"),
        (load("a\nb", copy), "lora_name"),
        (load("y", ""), "lora_path"),
    ):
        assert (bad.status_code, bad.json()["error"]["param"]) == (400, param), bad.text
    assert "17" in load("y", tmp_path / "wide").json()["error"]["message"]

    # An engine that dies once more while it starts has lost nothing, and no name is unknown before
    # its adapter is back.
    killed: set[int] = set()
    deadline = time.monotonic() + 200
    while len(killed) < 2:
        assert time.monotonic() < deadline
        for process in engine_processes(server) - killed:
            os.kill(process, signal.SIGKILL)
            killed.add(process)
        time.sleep(0.01)
    while True:
        try:
            assert chat(client, "x") == second
            break
        except NotFoundError:
            raise
        except APIStatusError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    gone = post(server, "/v1/unload_lora_adapter", {"lora_name": "x"}, "k")
    assert gone.text == "Success: LoRA adapter 'x' removed successfully."
    until_all_know(server, "x", False)
    for _ in range(6):  # in either process
        with pytest.raises(NotFoundError):
            chat(client, "x")
    again = post(server, "/v1/unload_lora_adapter", {"lora_name": "x"}, "k")
    assert (again.status_code, again.json()["error"]["param"]) == (404, "lora_name")


def test_a_folder_of_adapters(serve: Callable[..., Any], tmp_path: Path) -> None:
    root = tmp_path / "adapters"
    outside = make_adapter(tmp_path / "outside", 4, 5)
    for seed in range(6):
        make_adapter(root / f"n{seed}", 1 + seed, seed + 1)
    make_adapter(root / "wide", 17, 1)
    make_adapter(root / "team" / "deep", 2, 8)
    (root / "link").symlink_to(outside)
    (root / "empty").mkdir()
    server = serve(
        *("--dtype", "float32", "--enable-lora", "--max-loras", "2", "--lora-dir", str(root)),
        *("--allow-runtime-lora",),
    )
    client = server.client()
    names = [f"n{seed}" for seed in range(6)] + ["team/deep"]
    with ThreadPoolExecutor(14) as pool:
        answers = list(pool.map(lambda name: chat(client, name), names * 2))
    assert answers[:7] == answers[7:]
    assert len(set(answers)) > 4
    assert {one.id for one in client.models.list()} == {server.model, *names}
    aliases = ("./n0", "n0/", "n0/.", "team//deep", "n1/../n0", "../adapters/n0", str(root / "n0"))
    for name in ("empty", "link", "../outside", "n0/..", "..", "x" * 900, str(outside), *aliases):
        with pytest.raises(NotFoundError):
            chat(client, name)
    assert {one.id for one in client.models.list()} == {server.model, *names}
    with pytest.raises(BadRequestError, match="more than --max-lora-rank 16"):
        chat(client, "wide")
    for path in (outside, "../outside", "link", "n0/../../outside"):
        refused = post(server, "/v1/load_lora_adapter", {"lora_name": "o", "lora_path": str(path)})
        assert "outside --lora-dir" in refused.json()["error"]["message"]
    body = {"lora_name": "o", "lora_path": "n1"}
    assert post(server, "/v1/load_lora_adapter", body).status_code == 200
    assert chat(client, "o") == answers[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["x={root}/wide"],
            "--lora-modules: x: {root}/wide/adapter_model.safetensors: the rank 17",
        ),
        (["x={root}/nowhere"], "--lora-modules: x: {root}/nowhere is not a folder."),
        (["formgate-embedded={root}/wide"], "--lora-modules: formgate-embedded is the model's own"),
    ],
)
def test_a_bad_adapter_ends_the_start(tmp_path: Path, words: list[str], message: str) -> None:
    make_adapter(tmp_path / "wide", 17, 1)
    modules = [word.format(root=tmp_path) for word in words]
    command = [sys.executable, "-m", "formgate.gateway", "--port", "0", "--enable-lora"]
    done = subprocess.run(
        [*command, "--lora-modules", *modules], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert message.format(root=tmp_path) in line


def test_from_python(folders: dict[str, Path]) -> None:
    modules = tuple(f"{name}={path}" for name, path in folders.items())
    with LLM(dtype="float32", enable_lora=True, lora_modules=modules) as llm:
        question = QUESTION[0]["content"]
        answers = [llm.chat(question, model=name, **EXACT).text for name in (None, "a", "b")]
        assert len(set(answers)) == 3
        assert [one.text for one in llm.chat([question] * 3, model="b", **EXACT)] == [
            answers[2]
        ] * 3
        with pytest.raises(ValueError, match="The model `c` does not exist"):
            llm.chat(question, model="c", **EXACT)
    with pytest.raises(ValueError, match="--lora-modules: two adapters have the name a"):
        LLM(enable_lora=True, lora_modules=("a=x", "a=y"))
