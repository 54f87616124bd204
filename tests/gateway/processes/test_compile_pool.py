"""The compile pool: what it keeps, shares, drops and lets wait."""

from __future__ import annotations

import asyncio

import pytest

from formgate.constrain.errors import ConstraintError
from formgate.gateway.errors import ApiError
from formgate.gateway.processes import compile_pool as pools
from formgate.gateway.processes import compile_workers
from formgate.gateway.processes.compile_pool import CompilePool


def test_what_nobody_waits_for_any_more_is_not_begun(
    obedient: CompilePool, busy: list[float]
) -> None:
    async def main() -> None:
        await obedient.compiled("constraint", "fine")
        slow = asyncio.create_task(obedient.compiled("constraint", "slow"))
        leaving = [asyncio.create_task(obedient.compiled("constraint", text)) for text in "aabb"]
        staying = asyncio.create_task(obedient.compiled("constraint", "b"))
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        await asyncio.gather(slow, staying, *leaving, return_exceptions=True)
        assert obedient.known("constraint", "b") is not None
        assert obedient.known("constraint", "a") is None
        assert len(busy) == 3
        assert (await obedient.compiled("constraint", "a")).endswith("a")

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize(("limit", "value"), [("MOST_QUEUED", 2), ("QUEUED_BYTES", 120)])
def test_the_queue_is_bounded(
    obedient: CompilePool, limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        begun = asyncio.Event()
        await obedient.compiled("constraint", "fine")
        slow = asyncio.create_task(obedient.compiles.ask("constraint", "slow", begun.set))
        await begun.wait()
        monkeypatch.setattr(pools, limit, value)
        waiting = [
            asyncio.create_task(obedient.compiled("constraint", text)) for text in ("aa", "bb")
        ]
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as raised:
            await obedient.compiled("constraint", "cc")
        assert (raised.value.status, raised.value.code) == (429, "rate_limit_exceeded")
        assert int(raised.value.headers["Retry-After"]) >= 1
        assert (await obedient.compiled("constraint", "aa")).endswith("aa")  # it has its place
        assert (await obedient.compiled("constraint", "cc")).endswith("cc")
        await asyncio.gather(slow, *waiting)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_checks_of_answers_do_not_wait_for_compiles(obedient: CompilePool) -> None:
    async def main() -> None:
        await obedient.compiles.ask("constraint", "fine")
        slow = [asyncio.create_task(obedient.compiled("constraint", f"slow{i}")) for i in range(3)]
        await obedient.check("constraint", "fine")
        assert not slow[-1].done()
        await asyncio.gather(*slow)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_what_was_too_much_is_not_tried_again_soon(
    obedient: CompilePool, busy: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        for _ in range(3):
            with pytest.raises(ConstraintError) as raised:
                await obedient.compiled("constraint", "crash")
            assert raised.value.message == compile_workers.TOO_LARGE
        assert len(busy) == 1
        monkeypatch.setattr(pools, "REFUSED_SECONDS", 0.0)
        for _ in range(2):
            with pytest.raises(ConstraintError):
                await obedient.compiled("sized_constraint", "crash")
        assert len(busy) == 3

    asyncio.run(asyncio.wait_for(main(), 30))


def test_blueprints_are_kept_within_their_bytes(
    obedient: CompilePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr(pools, "CACHED_BYTES", 1200)
        texts = [letter * 200 for letter in "abc"]
        for text in texts:
            await obedient.compiled("constraint", text)
        known = [obedient.known("constraint", text) is not None for text in texts]
        assert known == [False, True, True]

    asyncio.run(asyncio.wait_for(main(), 30))


def test_who_asks_for_the_same_at_once_shares_one_compile(
    obedient: CompilePool, busy: list[float]
) -> None:
    async def main() -> None:
        waiting = [asyncio.create_task(obedient.compiled("constraint", "slow")) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # whose compile the others wait for
        answers = await asyncio.gather(
            *waiting[1:],
            obedient.compiled("constraint", "crash"),
            obedient.compiled("constraint", "crash"),
            return_exceptions=True,
        )
        assert [str(answer).split()[-1] for answer in answers[:2]] == ["slow", "slow"]
        assert all(isinstance(answer, ConstraintError) for answer in answers[2:])
        assert len(busy) == 2
        assert busy[0] >= 0.3
        assert obedient.known("constraint", "crash") is None

    asyncio.run(asyncio.wait_for(main(), 30))
