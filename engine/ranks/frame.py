"""One message and its integers as bytes: the form in which it lies in shared memory and goes over a
connection.

    [length of the message: int64] [message, padded to 8 bytes] [int64 numbers]
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WORD = 8
LENGTH = struct.Struct("<q")
NO_NUMBERS: NDArray[np.int64] = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Frame:
    message: bytes
    numbers: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Bytes of the whole frame."""
        return WORD + _padded(len(self.message)) + self.numbers.nbytes

    def write(self, memory: memoryview) -> None:
        """Write to the start of `memory`."""
        length = len(self.message)
        LENGTH.pack_into(memory, 0, length)
        memory[WORD : WORD + length] = self.message
        start = WORD + _padded(length)
        if self.numbers.size:
            memory[start : start + self.numbers.nbytes] = self.numbers.data.cast("B")

    @classmethod
    def read(cls, memory: memoryview) -> Frame:
        """The frame that fills `memory`. Its numbers are a view and not a copy."""
        (length,) = LENGTH.unpack_from(memory, 0)
        start = WORD + _padded(length)
        numbers = np.frombuffer(memory, np.int64, offset=start)
        return cls(bytes(memory[WORD : WORD + length]), numbers)


def _padded(length: int) -> int:
    return -(-length // WORD) * WORD
