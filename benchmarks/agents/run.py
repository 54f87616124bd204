"""Runs real coding agents against a real server whose model is a fixed plan, and checks that the
file they were asked to change is changed. Usage:

    python benchmarks/agents/run.py FOLDER [NAME ...]

FOLDER is where `make agents` installed them, by npm and pip; those that are missing are left out.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from agents import AGENTS, Agent
from plan import AFTER, BEFORE, FILE, TASK

START_SECONDS = 60
AGENT_SECONDS = 120
KEPT = ("PATH", "LANG", "TERM", "TMPDIR")  # of the environment: nobody's own settings


def main() -> int:
    installed, *names = sys.argv[1:]
    folder = Path(installed).resolve()
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "server.log"
        process, url = _started(log)
        try:
            for agent in AGENTS:
                if names and agent.name not in names:
                    continue
                places = (folder / "node_modules" / ".bin", folder / "bin")
                binary = next(
                    (at / agent.binary for at in places if (at / agent.binary).exists()), None
                )
                if binary is None:
                    print(f"{agent.name}: not installed ({agent.package})")
                    continue
                failed += not _passes(agent, binary, url, Path(scratch) / agent.name, log)
        finally:
            process.terminate()
            process.wait(30)
    return 1 if failed else 0


def _passes(agent: Agent, binary: Path, url: str, home: Path, log: Path) -> bool:
    work = home / "work"
    work.mkdir(parents=True)
    changed = work / FILE
    changed.write_text(f"{BEFORE} world\n")
    run = agent.run(url, TASK.format(path=changed), home)
    for name, text in run.files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment |= {"HOME": str(home), "NO_COLOR": "1"} | run.environment
    at = log.stat().st_size
    began = time.monotonic()
    try:
        ended = subprocess.run(
            [str(binary), *run.arguments],
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=AGENT_SECONDS,
        )
        said, code = ended.stdout + ended.stderr, ended.returncode
    except subprocess.TimeoutExpired as late:
        said, code = str(late.stdout), -1
    requests = [line for line in log.read_text()[at:].splitlines() if " /v1/" in line]
    refused = [line for line in requests if " 200 " not in line]
    fine = changed.read_text() == f"{AFTER} world\n" and code == 0
    print(
        f"{agent.name} {_version(binary)}: {'the file is changed' if fine else 'FAILED'} "
        f"(exit code {code}, {len(requests)} requests, {len(refused)} refused, "
        f"{time.monotonic() - began:.0f} s)",
        flush=True,
    )
    for line in refused:
        print(f"  {line}")
    if not fine:
        print("\n".join(f"  | {line}" for line in said.splitlines()[-30:]))
    return fine


def _version(binary: Path) -> str:
    for folder in binary.resolve().parents:
        if (folder / "package.json").exists():
            return str(json.loads((folder / "package.json").read_text())["version"])
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    return said.stdout.split()[-1]


def _started(log: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Path(__file__).with_name("server.py")
    command = [sys.executable, str(server), "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if urllib.request.urlopen(url + "/health").status == 200:
                return process, url
        except (urllib.error.URLError, ConnectionError):
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            sys.exit(f"the server did not start:\n{log.read_text()}")
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
