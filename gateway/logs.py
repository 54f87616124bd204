"""Log lines as text or JSON, one for each record. Control characters are escaped, so that no client
can forge a line. Exception messages are left out, since they may quote a request or an answer.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

MAX_CHAIN = 10  # causes shown with an exception


def set_up_logging(level: str = "info", style: str = "text", *, process: str = "") -> None:
    """`style` is text or json. `process` is a prefix of each message."""
    formatter = (JsonFormatter if style == "json" else TextFormatter)(
        prefix=process, with_messages=level == "debug"
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.raiseExceptions = False  # a full disk under the log fails no request
    for noisy in ("httpx", "httpcore", "uvicorn", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.root.level))


def printable(text: str) -> str:
    """`text` with unprintable characters escaped: line ends, terminal sequences, direction marks,
    lone surrogates."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


class TextFormatter(logging.Formatter):
    """Indents the lines of a stack, so that none looks like a log line of its own."""

    def __init__(self, *, prefix: str = "", with_messages: bool = False) -> None:
        super().__init__(datefmt="%m-%d %H:%M:%S")
        self._prefix = prefix
        self._with_messages = with_messages

    def format(self, record: logging.LogRecord) -> str:
        line = f"{record.levelname} {self.formatTime(record, self.datefmt)} {self._prefix}"
        line += printable(record.getMessage())
        stack = _stack(record, with_messages=self._with_messages)
        return "\n".join([line, *(f"    {printable(one)}" for one in stack)])


class JsonFormatter(logging.Formatter):
    def __init__(self, *, prefix: str = "", with_messages: bool = False) -> None:
        super().__init__()
        self._prefix = prefix
        self._with_messages = with_messages

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": self._prefix + record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if stack := list(_stack(record, with_messages=self._with_messages)):
            fields["stack"] = stack
        return json.dumps(fields, default=str)


def _stack(record: logging.LogRecord, *, with_messages: bool) -> Iterator[str]:
    if record.exc_info and record.exc_info[1] is not None:
        yield from _exception(record.exc_info[1], with_messages=with_messages)


def _exception(error: BaseException, *, with_messages: bool, depth: int = 0) -> Iterator[str]:
    """Lines for an exception and its causes, the first cause first, as Python prints them."""
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None and depth < MAX_CHAIN:
        yield from _exception(earlier, with_messages=with_messages, depth=depth + 1)
        yield "which led to"
    for frame in traceback.extract_tb(error.__traceback__):
        yield f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    # An OSError quotes nothing of a request, and its reason is needed.
    shown = with_messages or isinstance(error, OSError)
    yield f"{name}: {error}" if shown else name
