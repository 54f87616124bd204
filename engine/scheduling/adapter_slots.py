"""Which adapters are on the device, in slots of a fixed number. It counts the running sequences of
each slot and knows no weights.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from formgate.engine.adapter import Adapter


class AdapterSlots:
    """Adapters of equal content share a slot. A slot is

    free  --load-->  loading  --ready-->  idle  <--acquire, release-->  in use
     ^                                     |
     +------ the least recently used ------+  when another adapter needs a slot
    """

    def __init__(
        self,
        num_slots: int,
        load: Callable[[Adapter, int], None],
        is_ready: Callable[[int], bool],
    ) -> None:
        """`load` starts to put an adapter into a slot; `is_ready` tells when the slot's adapter can
        be computed with.
        """
        self._load = load
        self._is_ready = is_ready
        self._slot_of: OrderedDict[str, int] = OrderedDict()  # by content, most recent use last
        self._references = [0] * num_slots
        self._free = list(range(num_slots))

    def __contains__(self, content: str) -> bool:
        return content in self._slot_of

    def acquire(self, adapter: Adapter) -> int:
        """Take a reference to the slot of an adapter that is ready."""
        slot = self._slot_of[adapter.content]
        self._slot_of.move_to_end(adapter.content)
        self._references[slot] += 1
        return slot

    def release(self, slot: int) -> None:
        self._references[slot] -= 1
        assert self._references[slot] >= 0

    def discard(self, content: str) -> None:
        """Free the slot of an adapter that could not be loaded."""
        slot = self._slot_of.pop(content)
        assert not self._references[slot]
        self._free.append(slot)

    def is_ready(self, adapter: Adapter) -> bool:
        slot = self._slot_of.get(adapter.content)
        return slot is not None and self._is_ready(slot)

    def place(self, adapter: Adapter, keep: Iterable[str]) -> bool:
        """Start to load an adapter; False if no slot is free, or idle and not of `keep`."""
        if not self._free:
            kept = set(keep)
            victim = next((one for one in self._idle() if one not in kept), None)
            if victim is None:
                return False
            self._free.append(self._slot_of.pop(victim))
        slot = self._free.pop()
        self._slot_of[adapter.content] = slot
        self._load(adapter, slot)
        return True

    def in_use(self) -> list[str]:
        """Contents with running sequences, least recently acquired first."""
        return [one for one, slot in self._slot_of.items() if self._references[slot]]

    def check_integrity(self, slots: Iterable[int]) -> None:
        """Assert that references match the running sequences' `slots`."""
        counts = [0] * len(self._references)
        for slot in slots:
            counts[slot] += 1
        assert counts == self._references
        assert sorted([*self._free, *self._slot_of.values()]) == list(range(len(counts)))

    def _idle(self) -> list[str]:
        return [
            one
            for one, slot in self._slot_of.items()
            if not self._references[slot] and self._is_ready(slot)
        ]


@dataclass(slots=True)
class AdapterPass:
    """One pass over the waiting sequences, in order. A sequence whose adapter has no slot is passed
    over, and holds up nobody but the later sequences of one adapter: of the one in use that was
    acquired least recently. Its running sequences end, the slot becomes idle, and the sequence
    that waits for it is first in line. So no adapter starves, however busy the others are.
    """

    slots: AdapterSlots
    _ready: set[str] = field(default_factory=set)  # needed by sequences of this pass: not evicted
    _blocked: set[str] = field(default_factory=set)
    _draining: set[str] = field(default_factory=set)  # each for one of `_blocked`

    def may_run(self, adapter: Adapter) -> bool:
        """True if a sequence may be admitted; otherwise its adapter is loaded as soon as it can."""
        content = adapter.content
        if content in self._draining or content in self._blocked:
            return False
        if self.slots.is_ready(adapter):
            self._ready.add(content)
            return True
        if content not in self.slots and not self.slots.place(adapter, self._ready):
            self._blocked.add(content)
            in_use = (one for one in self.slots.in_use() if one not in self._draining)
            if (victim := next(in_use, None)) is not None:
                self._draining.add(victim)
            return False
        # On a device that copies at once, the adapter is ready already.
        if self.slots.is_ready(adapter):
            self._ready.add(content)
            return True
        return False
