"""`formgate doctor [MODEL]`: what would keep `formgate serve` with the same flags from running on
this machine, and what to do about it. It loads no weights and starts no server.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from formgate.engine.loading.weights import WeightsError, find_weight_files
from formgate.gateway.commands.findings import Finding, gib
from formgate.gateway.commands.machine_checks import (
    GpuFacts,
    available_memory,
    descriptor_finding,
    gpu_facts,
    gpu_findings,
    library_findings,
    port_finding,
    shared_memory_finding,
)
from formgate.gateway.commands.memory_need import (
    MemoryNeed,
    cpu_memory_finding,
    gpu_memory_finding,
    need_or_finding,
)
from formgate.gateway.serving.flags import CommandLine, parse_serve
from formgate.gateway.serving.model_hub import ModelError, check_model_folder, resolve_model

HELP = """usage: formgate doctor [MODEL] [--json] [options of `formgate serve`]

Says what would keep `formgate serve` with the same options from running here, and what to do.
Of a model on the hub it downloads the config and the tokenizer, not the weights.

  --json    the findings as a JSON list

Exit code: 0 if nothing is wrong, 1 if something is, 2 for a wrong option.
`formgate serve --help` lists the other options.
"""
SIGNS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "wrong": "[bold red]wrong[/]"}


def doctor_command(words: Sequence[str]) -> int:
    """Print the findings. 1 if one of them is wrong, else 0."""
    if "--help" in words or "-h" in words:
        print(HELP, end="")
        return 0
    as_json = "--json" in words
    command = parse_serve([word for word in words if word != "--json"], prog="formgate doctor")
    found = list(findings(command))
    if as_json:
        print(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
    else:
        _show(found)
    return 1 if any(each.state == "wrong" for each in found) else 0


def findings(command: CommandLine) -> Iterator[Finding]:
    server, options = command.server, command.engine_options
    ranks = options["tensor_parallel_size"] // options["nnodes"]
    yield from library_findings()
    facts = gpu_facts() if options["device"] != "cpu" else GpuFacts(None, None)
    yield from gpu_findings(facts, device=options["device"], ranks=ranks)
    if (shared := shared_memory_finding(ranks)) is not None:
        yield shared
    yield from _model_findings(command, facts)
    yield from _token_findings(server.hf_token)
    yield port_finding(server)
    yield descriptor_finding(server.max_connections)


def _model_findings(command: CommandLine, facts: GpuFacts) -> Iterator[Finding]:
    server = command.server
    try:
        folder = resolve_model(
            server.model,
            revision=server.revision,
            token=server.hf_token,
            download_dir=server.download_dir,
            tokenizer_only=True,
        )
        on_hub = server.model is not None and not Path(server.model).expanduser().exists()
        check_model_folder(folder, folder, weights=not on_hub)
    except ModelError as error:
        yield Finding("model", "wrong", str(error).rstrip("."))
        return
    config = command.engine(folder)
    on_cuda = bool(facts.gpus)
    need = need_or_finding(folder, config, torch.device("cuda" if on_cuda else "cpu"))
    if isinstance(need, Finding):
        yield need
        return
    yield Finding("model", "ok", f"{server.model or 'the embedded one'} is supported")
    if on_cuda:
        fullest = min(facts.gpus, key=lambda gpu: gpu.free)
        yield gpu_memory_finding(need, config, free=fullest.free, total=fullest.total)
    else:
        yield cpu_memory_finding(need, config, available_memory())
    if on_hub:
        cache = server.download_dir or Path(constants.HF_HUB_CACHE)
        yield disk_finding(folder, cache, need, ranks=config.tensor_parallel_size)


def disk_finding(folder: Path, cache: Path, need: MemoryNeed, *, ranks: int) -> Finding:
    """Whether a hub's weights are in `folder`, or fit in `cache`, where they are downloaded to."""
    try:
        find_weight_files(folder)
    except WeightsError:
        pass
    else:
        return Finding("disk", "ok", "the weights have been downloaded")
    place = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    free, wanted = shutil.disk_usage(place).free, need.weights * ranks
    said = f"about {gib(wanted)} are to be downloaded to {cache}, {gib(free)} are free"
    if wanted > free:
        return Finding("disk", "wrong", said, "free some, or set --download-dir to a larger disk")
    return Finding("disk", "ok", said)


def _token_findings(given: str | None) -> Iterator[Finding]:
    """Ask the hub whether it knows the token, if there is one."""
    token = given or os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if not token:
        yield Finding("hub token", "ok", "none is set; only gated and private models need one")
        return
    try:
        name = HfApi(token=token).whoami()["name"]
    except OfflineModeIsEnabled:
        yield Finding("hub token", "ok", "set; not asked for, as HF_HUB_OFFLINE is set")
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code == 401:
            remedy = "make one on https://huggingface.co/settings/tokens and set HF_TOKEN"
            yield Finding("hub token", "wrong", "the Hugging Face hub does not know it", remedy)
        else:
            yield Finding("hub token", "note", "the Hugging Face hub gave no answer about it")
    except Exception as error:  # the network's errors are of several libraries
        said = f"the Hugging Face hub cannot be reached ({type(error).__name__})"
        yield Finding("hub token", "note", said, "serve a local folder, or check the network")
    else:
        yield Finding("hub token", "ok", f"of {name}")


def _show(found: Sequence[Finding]) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for each in found:
        table.add_row(SIGNS[each.state], each.subject, escape(each.said))
        if each.remedy:
            table.add_row("", "", f"[bold]→ {escape(each.remedy)}[/]")
    console.print(table)
    wrong = sum(each.state == "wrong" for each in found)
    console.print()
    console.print(f"[bold red]{wrong} wrong[/]" if wrong else "[bold green]Nothing is wrong.[/]")
