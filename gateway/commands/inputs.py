"""What several commands read: JSON files, and their argument parser."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from pydantic_core import from_json

MAX_FILE_BYTES = 8 << 20  # a server's default limit of a request's body


class InputError(Exception):
    """What the user gave cannot be used. The message is one line that names it."""


class CommandParser(argparse.ArgumentParser):
    """Its errors are one line each, with exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\nSee `{self.prog} --help`.\n")


def json_of(name: str) -> Any:
    """The JSON value of file `name`, of standard input if it is `-`. Raises InputError."""
    try:
        if name == "-":
            text = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with Path(name).expanduser().open("rb") as file:
                text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}.") from None
    if len(text) > MAX_FILE_BYTES:
        raise InputError(f"{name}: larger than {MAX_FILE_BYTES} bytes.")
    try:
        return from_json(text)
    except ValueError as error:
        raise InputError(f"{name}: not valid JSON: {error}.") from None
