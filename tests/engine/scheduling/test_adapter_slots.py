"""Slots of adapters on a device that takes its time to copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from formgate.engine.adapter import Adapter, AdapterSource
from formgate.engine.scheduling.adapter_slots import AdapterPass, AdapterSlots


def adapter(name: str) -> Adapter:
    return Adapter(AdapterSource(name, Path(name)), f"content of {name}")


A, B, C, D = map(adapter, "abcd")


class Device:
    def __init__(self, slots: int) -> None:
        self.holds: dict[int, str] = {}
        self.ready: set[int] = set()
        self.slots = AdapterSlots(slots, self._load, lambda slot: slot in self.ready)

    def _load(self, one: Adapter, slot: int) -> None:
        self.ready.discard(slot)
        self.holds[slot] = one.source.name

    def copy(self) -> None:
        self.ready = set(self.holds)

    def admit(self, *waiting: Adapter) -> list[tuple[str, int]]:
        """One pass over waiting sequences: (name, slot) of those that run."""
        a_pass = AdapterPass(self.slots)
        return [
            (one.source.name, self.slots.acquire(one)) for one in waiting if a_pass.may_run(one)
        ]


def test_an_adapter_is_used_once_it_is_copied() -> None:
    device = Device(2)
    assert device.admit(A, A) == []
    assert device.admit(A) == []
    device.copy()
    assert device.admit(A, A) == [("a", 1), ("a", 1)]
    device.slots.check_integrity([1, 1])


def test_what_loads_is_not_evicted() -> None:
    device = Device(2)
    assert device.admit(A, B, C) == []
    assert sorted(device.holds.values()) == ["a", "b"]
    device.copy()
    assert [name for name, _ in device.admit(A, B, C)] == ["a", "b"]


def test_what_an_earlier_sequence_needs_is_not_evicted() -> None:
    device = Device(1)
    device.admit(A)
    device.copy()
    a_pass = AdapterPass(device.slots)
    assert a_pass.may_run(A)  # and then the cache has no room for it, say
    assert not a_pass.may_run(B)
    assert device.holds == {0: "a"}


def test_the_least_recently_used_goes() -> None:
    device = Device(2)
    device.admit(A, B)
    device.copy()
    for _, slot in device.admit(B, A):
        device.slots.release(slot)
    device.admit(C)
    assert sorted(device.holds.values()) == ["a", "c"]


def test_a_slot_drains_for_the_first_that_waits() -> None:
    device = Device(2)
    device.admit(A, B)
    device.copy()
    slots = dict(device.admit(A, B))
    # Both are busy. "a" was acquired first: its later sequences wait behind "c", those of "b" run.
    assert [name for name, _ in device.admit(C, A, B, A)] == ["b"]
    assert [name for name, _ in device.admit(A, C)] == ["a"]  # but not the earlier ones
    for _ in range(2):
        device.slots.release(slots["a"])
    assert [name for name, _ in device.admit(C, B)] == ["b"]  # "c" is copied meanwhile
    device.copy()
    assert [name for name, _ in device.admit(C, B, A)] == ["c", "b"]


def test_many_wait_and_each_drains_one() -> None:
    device = Device(2)
    device.admit(A, B)
    device.copy()
    device.admit(A, B)
    assert device.admit(C, C, A, D, B) == []
    device = Device(3)
    device.admit(A, B, D)
    device.copy()
    device.admit(A, B, D)
    assert [name for name, _ in device.admit(C, C, A, B, D)] == ["b", "d"]


def test_a_slot_of_what_cannot_be_loaded_is_free_again() -> None:
    device = Device(1)
    device.admit(A)
    device.slots.discard(A.content)
    assert A.content not in device.slots
    device.admit(B)
    assert device.holds == {0: "b"}
    with pytest.raises(KeyError):
        device.slots.acquire(A)
