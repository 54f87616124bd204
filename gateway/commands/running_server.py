"""The server that a command talks to: one that runs, or one that the command starts and ends."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from formgate.gateway.commands.inputs import InputError

READY = re.compile(r"^formgate ready: (\S+)")
STOP_SECONDS = 40.0  # --shutdown-timeout and the engine's end


@contextlib.contextmanager
def server_at(url: str | None, words: Sequence[str]) -> Iterator[str]:
    """The URL of a server: `url`, or without one that of `formgate serve WORDS...`, which ends with
    the block. Raises InputError.
    """
    if url is not None:
        if words:
            raise InputError(f"{words[0]} is for a server that is started here, not for {url}.")
        yield url.rstrip("/").removesuffix("/v1")
        return
    quiet = ["--host", "127.0.0.1", "--port", "0", "--log-level", "warning"]
    # A session of its own: Ctrl-C ends an answer, not the server.
    process = subprocess.Popen(
        [sys.executable, "-m", "formgate.gateway", *words, *quiet],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    # What it prints after its ready line must not fill the pipe.
    rest = threading.Thread(target=process.stdout.read, daemon=True)
    try:
        url = _ready_url(process)
        rest.start()
        yield url
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        if rest.ident is not None:
            rest.join(5.0)  # a process that it left behind may keep the pipe open
        process.stdout.close()


def _ready_url(process: subprocess.Popen[str]) -> str:
    """Waits for the server's ready line. Raises InputError if it ends before."""
    assert process.stdout is not None
    for line in process.stdout:
        if (ready := READY.match(line)) is not None:
            return ready[1]
    raise InputError(f"the server has ended with exit code {process.wait()}.")  # it said why


def headers_of(api_key: str | None) -> dict[str, str]:
    """`api_key`, or OPENAI_API_KEY or VLLM_API_KEY of the environment, as a request's header."""
    key = api_key or os.environ.get("OPENAI_API_KEY") or os.environ.get("VLLM_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def first_model(client: httpx.Client) -> str:
    """The first model of the server's list. Raises InputError if it has none or does not answer."""
    try:
        response = client.get("/v1/models")
    except httpx.HTTPError as error:
        raise InputError(f"{client.base_url}: {error_text(error)}.") from None
    if response.status_code != 200:
        raise InputError(f"{client.base_url}v1/models: {message_of(response)}")
    try:
        return str(response.json()["data"][0]["id"])
    except (ValueError, LookupError, TypeError):
        raise InputError(f"{client.base_url}v1/models lists no model.") from None


def message_of(response: httpx.Response) -> str:
    """The message of an error response, or its status. The body has been read."""
    try:
        body: Any = response.json()
        return str(body["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return f"status {response.status_code}"


def error_text(error: Exception) -> str:
    """One line, also of an exception without a message."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
