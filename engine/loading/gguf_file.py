"""Reads the header of a GGUF file: metadata, and where its tensors lie. Every number in it is
checked against the file's length before memory is taken, so that a damaged or hostile file costs
one line. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_HEADER_BYTES = 128 << 20  # the largest published vocabularies take 15 MB
MOST_ENTRIES = 65_536
MOST_TENSORS = 65_536
MOST_ITEMS = 1 << 23  # of all arrays together
MOST_DIMENSIONS = 4
MOST_NAME_BYTES = 1024
DEFAULT_ALIGNMENT = 32
MOST_MESSAGE = 1000  # characters of an error

_FLOAT32, _BOOL, _STRING, _ARRAY = 6, 7, 8, 9
# Kind of a value -> (struct format, bytes).
_SCALARS: Mapping[int, tuple[str, int]] = {
    kind: (f"<{letter}", struct.calcsize(f"<{letter}"))
    for kind, letter in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}


@dataclass(frozen=True, slots=True)
class StorageType:
    """How a tensor's numbers are stored: in blocks of so many, each of so many bytes."""

    number: int
    name: str
    block: int
    block_bytes: int


# What the gguf package dequantizes. The type's number in a file is also its number there.
TYPES: Mapping[int, StorageType] = {
    number: StorageType(number, name, block, block_bytes)
    for number, name, block, block_bytes in (
        (0, "F32", 1, 4),
        (1, "F16", 1, 2),
        (2, "Q4_0", 32, 18),
        (3, "Q4_1", 32, 20),
        (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24),
        (8, "Q8_0", 32, 34),
        (10, "Q2_K", 256, 84),
        (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176),
        (14, "Q6_K", 256, 210),
        (20, "IQ4_NL", 32, 18),
        (23, "IQ4_XS", 256, 136),
        (30, "BF16", 1, 2),
    )
}


class GGUFError(ValueError):
    """The file cannot be used. The message is one line that begins with its name. Texts of the file
    are escaped in it: they may hold line ends and a terminal's commands.
    """

    def __init__(self, message: str) -> None:
        shown = "".join(
            one if one.isprintable() else one.encode("unicode_escape").decode()
            for one in message[:MOST_MESSAGE]
        )
        super().__init__(shown)


@dataclass(frozen=True, slots=True)
class StoredGGUFTensor:
    """`shape`: slowest dimension first, as in torch; the file lists them the other way round."""

    name: str
    shape: tuple[int, ...]
    type: StorageType
    start: int  # byte in the file

    @property
    def row_bytes(self) -> int:
        """Of the numbers along the last dimension, which are stored in whole blocks."""
        return self.shape[-1] // self.type.block * self.type.block_bytes

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape[:-1]) * self.row_bytes


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """`metadata`: by key; arrays of numbers as `array`, arrays of strings as lists."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredGGUFTensor]

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """The value of `key`, or `default`. Raises GGUFError if it is not a `kind`."""
        value = self.metadata.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise GGUFError(f"{self.path.name}: {key} holds a {type(value).__name__}")
        return value

    def require(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """The value of `key`. Raises GGUFError if there is none."""
        value = self.get(key, kind)
        if value is None:
            raise GGUFError(f"{self.path.name} has no {key}")
        return value


def read_gguf_header(path: Path) -> GGUFHeader:
    """Raises GGUFError for a file that is damaged, cut, or not GGUF."""
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return _Parser(path, content).header()
    except ValueError as error:
        if isinstance(error, GGUFError):
            raise
        raise GGUFError(f"{path.name} is empty") from error  # mmap's error
    except OSError as error:
        raise GGUFError(f"{path.name} cannot be read: {error.strerror}") from error


class _Parser:
    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self._path = path
        self._content = content
        self._size = len(content)
        self._end = min(self._size, MOST_HEADER_BYTES)
        self._at = 0
        self._items = 0

    def header(self) -> GGUFHeader:
        if self._content[:4] != MAGIC:
            raise self._error("is not a GGUF file")
        self._at = 4
        version = self._scalar("<I")
        if version not in VERSIONS:
            raise self._error(f"has GGUF version {version} (supported: 2 and 3, little-endian)")
        num_tensors, num_entries = self._scalar("<Q"), self._scalar("<Q")
        if num_tensors > MOST_TENSORS or num_entries > MOST_ENTRIES:
            raise self._error(f"promises {num_tensors} tensors and {num_entries} entries")
        metadata: dict[str, Any] = {}
        for _ in range(num_entries):
            key = self._string(MOST_NAME_BYTES)
            if key in metadata:
                raise self._error(f"has two entries {key}")
            metadata[key] = self._value(self._scalar("<I"), key)
        found = [self._tensor() for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
            raise self._error(f"has alignment {alignment}")
        start = -(-self._at // alignment) * alignment
        return GGUFHeader(self._path, metadata, self._placed(found, start, alignment))

    def _placed(
        self, found: list[StoredGGUFTensor], start: int, alignment: int
    ) -> dict[str, StoredGGUFTensor]:
        """The tensors by name, with their places in the file: it holds them after `start`."""
        placed: dict[str, StoredGGUFTensor] = {}
        for tensor in found:
            if tensor.name in placed:
                raise self._error(f"holds two tensors {tensor.name}")
            if tensor.start % alignment:
                raise self._error(f"is damaged: {tensor.name} begins between two units")
            if start + tensor.start + tensor.num_bytes > self._size:
                raise self._error(
                    f"is cut or damaged: {tensor.name} ends at byte "
                    f"{start + tensor.start + tensor.num_bytes} of {self._size}"
                )
            placed[tensor.name] = StoredGGUFTensor(
                tensor.name, tensor.shape, tensor.type, start + tensor.start
            )
        return placed

    def _tensor(self) -> StoredGGUFTensor:
        """One tensor's entry; its `start` counts from the end of the header."""
        name = self._string(MOST_NAME_BYTES)
        dimensions = self._scalar("<I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise self._error(f"is damaged: {name} has {dimensions} dimensions")
        shape = tuple(self._scalar("<Q") for _ in range(dimensions))[::-1]
        number, start = self._scalar("<I"), self._scalar("<Q")
        if number not in TYPES:
            known = ", ".join(kind.name for kind in TYPES.values())
            raise self._error(f"stores {name} as type {number}, which is none of {known}")
        if 0 in shape or math.prod(shape) > 8 * self._size or shape[-1] % TYPES[number].block:
            raise self._error(f"is cut or damaged: {name} has shape {list(shape)}")
        return StoredGGUFTensor(name, shape, TYPES[number], start)

    def _value(self, kind: int, key: str) -> Any:
        if kind == _FLOAT32:  # as the decimal number that its author wrote: 1e-6, 0.1
            return float(str(np.float32(self._scalar("<f"))))
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind][0])
        if kind == _STRING:
            return self._string(MOST_HEADER_BYTES)
        if kind != _ARRAY:
            raise self._error(f"is damaged: {key} has a value of kind {kind}")
        item, count = self._scalar("<I"), self._scalar("<Q")
        self._items += count
        if self._items > MOST_ITEMS:
            raise self._error(f"promises {count} items in {key}")
        if item == _STRING:
            return [self._string(MOST_HEADER_BYTES) for _ in range(count)]
        if item not in _SCALARS:
            raise self._error(f"is damaged: {key} holds items of kind {item}")
        letters, size = _SCALARS[item]
        raw = self._bytes(count * size)
        if item == _BOOL:
            return [bool(byte) for byte in raw]
        return array(letters[1:], raw)

    def _scalar(self, letters: str) -> Any:
        return struct.unpack(letters, self._bytes(struct.calcsize(letters)))[0]

    def _string(self, most: int) -> str:
        length = self._scalar("<Q")
        if length > most:
            raise self._error(f"is damaged: a text of {length} bytes")
        try:
            return self._bytes(length).decode()
        except UnicodeDecodeError as error:
            raise self._error("is damaged: a text is not UTF-8") from error

    def _bytes(self, length: int) -> bytes:
        end = self._at + length
        if end > self._end:
            where = "is cut" if self._end == self._size else "has too long a header"
            raise self._error(f"{where}: its header goes on after byte {self._end}")
        raw = self._content[self._at : end]
        self._at = end
        return raw

    def _error(self, reason: str) -> GGUFError:
        return GGUFError(f"{self._path.name} {reason}")
