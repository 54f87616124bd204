"""What of the machine a server needs: GPUs and their driver, memory, descriptors, the port. The
facts are read here; what follows from them is a function of the facts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from formgate.gateway.commands.findings import GIB, Finding, State, gib
from formgate.gateway.server_config import ServerConfig
from formgate.gateway.serving.listener import ListenError, bound
from formgate.gateway.serving.open_files import RESERVED, connections_within, raise_open_files

DRIVER = Path("/proc/driver/nvidia/version")
CONTROL = Path("/dev/nvidiactl")
MEMORY = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
SHARED_MEMORY = Path("/dev/shm")
SHARED_BYTES = GIB  # NCCL and the channel between ranks want less


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    free: int  # bytes
    total: int  # bytes


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """`driver`: its version, None without one. `cuda`: torch's own CUDA version, None if torch is
    built without. `reason`: why torch cannot use the GPUs, "" if it can or there is no driver.
    """

    driver: str | None
    cuda: str | None
    gpus: tuple[Gpu, ...] = ()
    reason: str = ""
    compiler: bool = True  # a C compiler is on the path


def gpu_facts() -> GpuFacts:
    """It makes a CUDA context on each GPU."""
    driver = _driver_version()
    cuda, compiler = torch.version.cuda, _has_compiler()
    if driver is None or cuda is None:
        return GpuFacts(driver, cuda, compiler=compiler)
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        gpus = tuple(
            Gpu(torch.cuda.get_device_name(number), *torch.cuda.mem_get_info(number))
            for number in range(torch.cuda.device_count())
        )
    except RuntimeError as error:
        return GpuFacts(driver, cuda, reason=str(error).split("\n")[0], compiler=compiler)
    return GpuFacts(driver, cuda, gpus, compiler=compiler)


def _driver_version() -> str | None:
    try:
        words = DRIVER.read_text().split("\n")[0].split()
    except OSError:
        return "unknown" if CONTROL.exists() else None
    return next((word for word in words if word[0].isdigit() and "." in word), "unknown")


def _has_compiler() -> bool:
    """As Triton looks for one."""
    return any(map(shutil.which, (os.environ.get("CC") or "gcc", "gcc", "clang", "cc")))


def gpu_findings(facts: GpuFacts, *, device: str, ranks: int) -> Iterator[Finding]:
    """`device`: `--device`. `ranks`: GPUs that this host is to use."""
    if device == "cpu":
        yield Finding("GPU", "ok", "not used: --device cpu")
        return
    bad: State = "wrong" if device == "cuda" else "note"  # `auto` runs on the CPU then
    if facts.driver is None:
        yield Finding(
            "GPU",
            bad,
            "no NVIDIA driver is here, so the model runs on the CPU"
            if bad == "note"
            else "no NVIDIA driver is here",
            "install the driver; in a container, start it with --gpus all",
        )
        return
    yield Finding("driver", "ok", f"NVIDIA {facts.driver}")
    if facts.cuda is None:
        yield Finding(
            "GPU", bad, "this torch is built without CUDA", "install torch's build for CUDA"
        )
        return
    if not facts.gpus:
        yield Finding(
            "GPU",
            bad,
            facts.reason or "torch sees no GPU",
            f"torch wants a driver for CUDA {facts.cuda}; see nvidia-smi and CUDA_VISIBLE_DEVICES",
        )
        return
    for number, gpu in enumerate(facts.gpus):
        said = f"{gpu.name}, {gib(gpu.free)} of {gib(gpu.total)} free"
        yield Finding(f"GPU {number}", "ok", said)
    if len(facts.gpus) < ranks:
        yield Finding(
            "GPUs",
            "wrong",
            f"{len(facts.gpus)} are here, {ranks} are asked for",
            f"lower --tensor-parallel-size to {len(facts.gpus)}",
        )
    if not facts.compiler:
        yield Finding(
            "C compiler",
            "wrong",
            "Triton builds the launchers of its kernels with one, and there is none",
            "install gcc and the C library's headers (gcc libc6-dev)",
        )


def library_findings() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU only"
    yield Finding("Python", "ok", version)
    yield Finding("torch", "ok", f"{torch.__version__}, built for {built}")


def available_memory() -> int | None:
    """Bytes of main memory that this process may still take, by the machine and by its cgroup;
    None where the system does not say."""
    free: list[int] = []
    with contextlib.suppress(OSError, ValueError, StopIteration, IndexError):
        line = next(x for x in MEMORY.read_text().splitlines() if x.startswith("MemAvailable:"))
        free.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        limit = int((CGROUP / "memory.max").read_text())
        free.append(max(limit - int((CGROUP / "memory.current").read_text()), 0))
    return min(free, default=None)


def port_finding(config: ServerConfig) -> Finding:
    """Binds the address for a moment, as the server would."""
    where = str(config.uds) if config.uds is not None else f"port {config.port}"
    try:
        with bound(config):
            return Finding("address", "ok", f"{where} is free")
    except ListenError as error:
        remedy = "stop what listens there, or choose another address with --port, --host or --uds"
        return Finding("address", "wrong", str(error).rstrip("."), remedy)


def descriptor_finding(wanted: int) -> Finding:
    """`wanted`: `--max-connections`. Raises this process's own limit, as the server does."""
    raise_open_files()
    within = connections_within(wanted)
    if within >= wanted:
        return Finding("open files", "ok", f"the limit allows {wanted} connections")
    return Finding(
        "open files",
        "note",
        f"the limit allows {within} connections of --max-connections {wanted}",
        f"raise the hard limit to {wanted + RESERVED}: ulimit -n, LimitNOFILE= of systemd, "
        "--ulimit nofile= of Docker",
    )


def shared_memory_finding(ranks: int) -> Finding | None:
    """None where a single rank needs none."""
    if ranks == 1 or not SHARED_MEMORY.is_dir():
        return None
    size = shutil.disk_usage(SHARED_MEMORY).total
    if size >= SHARED_BYTES:
        return Finding("shared memory", "ok", gib(size))
    return Finding(
        "shared memory",
        "wrong",
        f"{SHARED_MEMORY} has {gib(size)}, and ranks talk through it",
        "start the container with --ipc=host or --shm-size=1g",
    )
