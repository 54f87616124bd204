"""All that an engine does with adapters: their names, their slots, and the commands that change
them. Without `enable_lora` it refuses every name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from formgate.engine.adapter import Adapter, AdapterError, AdapterSource
from formgate.engine.config import EngineConfig
from formgate.engine.faults import no_adapter
from formgate.engine.lora.bank import AdapterBank
from formgate.engine.lora.library import FEWEST_IN_MEMORY, AdapterLibrary, Failed, Place
from formgate.engine.lora.peft_folder import PeftReader
from formgate.engine.messages import (
    AdapterInfo,
    AdaptersChanged,
    EngineStats,
    LoadAdapter,
    UnloadAdapter,
)
from formgate.engine.scheduling.adapter_slots import AdapterSlots
from formgate.engine.sequence import Sequence

logger = logging.getLogger(__name__)


class AdapterService:
    def __init__(self, config: EngineConfig, bank: AdapterBank | None, place: Place) -> None:
        """`place`: of the runner, whose ranks all take part. Raises AdapterError if an adapter of
        the config cannot be loaded.
        """
        self.slots: AdapterSlots | None = None
        self._library: AdapterLibrary | None = None
        self._changes: list[AdaptersChanged] = []
        self._loading: dict[str, list[LoadAdapter]] = {}  # commands that wait, by name
        if bank is None:
            if config.adapters:
                raise AdapterError("--lora-modules needs --enable-lora")
            return
        in_memory = config.max_cpu_loras
        if in_memory is None:
            in_memory = max(FEWEST_IN_MEMORY, config.max_loras)
        reader = PeftReader(
            bank.targets, bank.max_rank, bank.dtype, pinned=bank.device.type == "cuda"
        )
        library = AdapterLibrary(reader.read, place, bank.is_ready, max_in_memory=in_memory)
        self._library = library
        self.slots = AdapterSlots(config.max_loras, library.fill, library.is_filled)
        for source in config.adapters:
            try:
                library.load(source)
            except AdapterError as error:
                if not config.skip_bad_adapters:
                    raise AdapterError(f"--lora-modules: {source.name}: {error}") from error
                logger.error("the adapter %s is lost: %s", source.name, error)

    @property
    def is_changing(self) -> bool:
        """True while a command is under way, or its end was not told."""
        reading = self._library is not None and self._library.num_reading > 0
        return reading or bool(self._changes)

    def find(self, name: str) -> Adapter | None:
        return None if self._library is None else self._library.find(name)

    def infos(self) -> list[AdapterInfo]:
        sources = [] if self._library is None else self._library.sources()
        return [AdapterInfo(one.name, str(one.path), one.base_model_name) for one in sources]

    def load(self, command: LoadAdapter) -> None:
        """Start to load; see `take_changes`."""
        if self._library is None:
            return self._end(command.command_id, "The server takes no adapters (--enable-lora).")
        if (waiting := self._loading.get(command.name)) is not None:
            if command.path != waiting[0].path or command.replace:
                problem = f"The adapter `{command.name}` is being loaded."
                return self._end(command.command_id, problem)
            waiting.append(command)  # of another HTTP process
            return None
        if self._library.find(command.name) is not None and not command.replace:
            return self._end(command.command_id, f"The adapter `{command.name}` is loaded already.")
        self._loading[command.name] = [command]
        source = AdapterSource(command.name, Path(command.path), command.base_model_name)
        self._library.register(source)
        return None

    def unload(self, command: UnloadAdapter) -> None:
        """Forget a name. Sequences of the adapter that were added go on."""
        known = self._library is not None and self._library.remove(command.name)
        error = None if known else no_adapter(command.name)
        self._end(command.command_id, error)

    def collect(self, sequences: Iterable[Sequence]) -> Iterator[tuple[Sequence, str]]:
        """Finish what was read since the last call. Yields those of `sequences` whose adapter could
        not be read again, with the reason.
        """
        if self._library is None or self.slots is None:
            return
        for ended in self._library.collect():
            if isinstance(ended, Failed):
                self.slots.discard(ended.content)
                waiting = [one for one in sequences if one.adapter_content == ended.content]
                yield from ((one, ended.error) for one in waiting)
            else:
                for command in self._loading.pop(ended.source.name):
                    self._end(command.command_id, ended.error)

    def take_changes(self) -> list[AdaptersChanged]:
        """The ends of commands since the last call."""
        changes, self._changes = self._changes, []
        return changes

    def describe(
        self, stats: EngineStats, running: Iterable[Sequence], waiting: Iterable[Sequence]
    ) -> None:
        """Put the names of the adapters in use into `stats`."""
        if self.slots is not None:
            stats.running_adapters = _names_of(running)
            stats.waiting_adapters = _names_of(waiting)

    def close(self) -> None:
        if self._library is not None:
            self._library.close()

    def _end(self, command_id: str, error: str | None) -> None:
        self._changes.append(AdaptersChanged(command_id, self.infos(), error))


def _names_of(sequences: Iterable[Sequence]) -> list[str]:
    """Sorted names of the sequences' adapters."""
    return sorted({one.adapter.source.name for one in sequences if one.adapter is not None})
