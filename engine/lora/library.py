"""The adapters by name, and their weights in the CPU's memory. Folders are read in threads beside
the step loop; what was read is collected between steps.
"""

from __future__ import annotations

import logging
import queue
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from formgate.engine.adapter import Adapter, AdapterError, AdapterSource
from formgate.engine.lora.peft_folder import HostAdapter

logger = logging.getLogger(__name__)

READ_THREADS = 4
FEWEST_IN_MEMORY = 32

Place = Callable[[int, Sequence[int], torch.Tensor | None], None]


@dataclass(frozen=True, slots=True)
class Registered:
    """The end of a `register`: an error in one line, or None."""

    source: AdapterSource
    error: str | None


@dataclass(frozen=True, slots=True)
class Failed:
    """An adapter that has a slot but could not be read again."""

    content: str
    error: str


@dataclass(frozen=True, slots=True)
class _Read:
    """The end of a read: for a `register`, or to fill a slot."""

    source: AdapterSource
    result: HostAdapter | AdapterError
    slot: int = -1  # none for a `register`
    content: str = ""


class AdapterLibrary:
    def __init__(
        self,
        read: Callable[[Path], HostAdapter],
        place: Place,
        is_placed: Callable[[int], bool],
        *,
        max_in_memory: int,
    ) -> None:
        """`place` starts to put weights into a slot, `is_placed` tells whether they are there."""
        self._read = read
        self._place = place
        self._is_placed = is_placed
        self._max_in_memory = max_in_memory
        self._adapters: dict[str, Adapter] = {}  # by name
        self._memory: OrderedDict[str, HostAdapter] = OrderedDict()  # by content, LRU first
        self._threads = ThreadPoolExecutor(READ_THREADS, "read-adapter")
        self._ended: queue.SimpleQueue[_Read] = queue.SimpleQueue()
        self._num_reading = 0
        self._filling: set[int] = set()  # slots whose weights are being read

    @property
    def num_reading(self) -> int:
        return self._num_reading

    def find(self, name: str) -> Adapter | None:
        return self._adapters.get(name)

    def sources(self) -> list[AdapterSource]:
        """Of all adapters, in the order of their names' first loading."""
        return [adapter.source for adapter in self._adapters.values()]

    def load(self, source: AdapterSource) -> None:
        """Read an adapter and give it its name, at once. Raises AdapterError."""
        if source.name in self._adapters:
            raise AdapterError(f"two adapters have the name {source.name}")
        self._add(source, self._read(source.path))

    def register(self, source: AdapterSource) -> None:
        """Read an adapter and give it its name, which another may have had; see `collect`."""
        self._start(source)

    def remove(self, name: str) -> bool:
        """Forget a name; False if none has it. Sequences that run keep the adapter."""
        return self._adapters.pop(name, None) is not None

    def fill(self, adapter: Adapter, slot: int) -> None:
        """Put an adapter into a slot, from memory or from its folder."""
        known = self._memory.get(adapter.content)
        if known is not None:
            self._memory.move_to_end(adapter.content)
            self._place(slot, known.ranks, known.weights)
            return
        self._filling.add(slot)
        self._start(adapter.source, slot=slot, content=adapter.content)

    def is_filled(self, slot: int) -> bool:
        return slot not in self._filling and self._is_placed(slot)

    def collect(self) -> Iterator[Registered | Failed]:
        """Finish what was read since the last call."""
        while self._num_reading:
            try:
                ended = self._ended.get_nowait()
            except queue.Empty:
                return
            self._num_reading -= 1
            result = ended.result
            if ended.slot < 0:
                error = str(result) if isinstance(result, AdapterError) else None
                if isinstance(result, HostAdapter):
                    self._add(ended.source, result)
                yield Registered(ended.source, error)
                continue
            self._filling.discard(ended.slot)
            if isinstance(result, AdapterError):
                yield Failed(ended.content, str(result))
            elif result.content != ended.content:
                reason = f"the adapter {ended.source.name} has changed on disk: load it again"
                yield Failed(ended.content, reason)
            else:
                self._remember(result)
                self._place(ended.slot, result.ranks, result.weights)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _add(self, source: AdapterSource, weights: HostAdapter) -> None:
        self._remember(weights)
        self._adapters[source.name] = Adapter(source, weights.content)

    def _remember(self, weights: HostAdapter) -> None:
        self._memory[weights.content] = weights
        self._memory.move_to_end(weights.content)
        while len(self._memory) > self._max_in_memory:
            self._memory.popitem(last=False)

    def _start(self, source: AdapterSource, *, slot: int = -1, content: str = "") -> None:
        def read() -> None:
            result: HostAdapter | AdapterError
            try:
                result = self._read(source.path)
            except AdapterError as error:
                result = error
            except Exception as error:
                logger.error("bug: the adapter in %s cannot be read", source.path, exc_info=error)
                result = AdapterError(f"{source.path} cannot be read: {type(error).__name__}")
            self._ended.put(_Read(source, result, slot, content))

        self._num_reading += 1
        self._threads.submit(read)
