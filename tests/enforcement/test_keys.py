"""What is kept under idempotency keys: bounded memory, nothing forgotten before its time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters.journal import SqlJournal, open_journal
from gateway.adapters.keys import LATEST, WRITES, StoredKeys
from gateway.adapters.sealing import open_seal
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Failed, Outcome, Write
from gateway.ports import FOREVER
from tests.evidence.test_retention import SetClock

pytestmark = pytest.mark.anyio


class Made:
    def __init__(self, keys: StoredKeys, journal: SqlJournal, clock: SetClock) -> None:
        self.keys, self.journal, self.clock = keys, journal, clock

    async def take(self, key: str, *, seconds: float = 100.0) -> None:
        until = self.clock.at + seconds
        await self.write(self.keys.taken(principal="p", key=key, digest="d", call_id=f"c-{key}", until=until))

    async def settle(self, key: str, outcome: Outcome, *, seconds: float = 100.0) -> None:
        until = FOREVER if isinstance(outcome, Failed) else self.clock.at + seconds
        await self.write(
            self.keys.settled(principal="p", key=key, digest="d", call_id=f"c-{key}", until=until, outcome=outcome)
        )

    async def write(self, write: Write) -> None:
        await self.journal.record("operator.acted", {"act": "tests"}, (write,))

    async def outcome(self, key: str) -> Any:
        return await self.keys.outcome("p", key)

    def known(self, key: str) -> bool:
        return self.keys.kept("p", key) is not None


@asynccontextmanager
async def made(directory: Path, clock: SetClock, most_bytes: int = 10_000) -> AsyncIterator[Made]:
    path = directory / "gateway.db"
    async with open_journal(path, clock=clock, kinds=WRITES) as journal:
        keys = StoredKeys(journal, open_seal(path), clock, most_bytes=most_bytes)
        await keys.load()
        yield Made(keys, journal, clock)


def answer(number: int, size: int = 1_000) -> Completed:
    return Completed(result=b'{"n":%d,"x":"%s"}' % (number, b"x" * size))


@pytest.mark.rule("idempotency.bounded")
async def test_outcomes_beyond_what_memory_may_hold_are_read_from_the_store(tmp_path: Path) -> None:
    clock = SetClock()
    async with made(tmp_path, clock) as one:
        for number in range(LATEST + 20):
            await one.take(f"{number}")
            await one.settle(f"{number}", answer(number))
        held = [key for key in one.keys._kept.values() if key.outcome is not None]
        assert len(held) == LATEST
        for number in (0, 5, LATEST + 19):
            assert (await one.outcome(f"{number}")).result == answer(number).result
        clock.at += 101.0
        assert not one.known("0")
        assert not one.keys._kept
        assert not one.keys._latest
        assert one.keys._bytes == 0
    async with made(tmp_path, clock) as again:
        assert not again.keys._kept


@pytest.mark.rule("idempotency.bounded")
async def test_after_a_restart_outcomes_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    clock = SetClock()
    lost = Failed(code=Code.SERVER_LOST, message="lost", in_doubt=True, sent=True)
    async with made(tmp_path, clock) as one:
        for key in ("done", "doubtful", "unfinished", "\0suppressed"):
            await one.take(key)
        await one.settle("done", answer(1))
        await one.settle("doubtful", lost)
    for _ in range(2):
        async with made(tmp_path, clock) as again:
            assert (await again.outcome("done")).result == answer(1).result
            assert (await again.outcome("doubtful")).message == "lost"
            assert (await again.outcome("unfinished")).in_doubt
            assert (await again.outcome("\0suppressed")).in_doubt
    clock.at += 101.0
    async with made(tmp_path, clock) as later:
        await later.take("another")  # which lets go of what has ended
        assert not later.known("done")
        assert not later.known("\0suppressed")
    for _ in range(2):
        async with made(tmp_path, clock) as later:
            assert (await later.outcome("doubtful")).message == "lost"
            assert (await later.outcome("unfinished")).in_doubt, "until an operator resolves it"


@pytest.mark.rule("idempotency.bounded")
async def test_what_could_not_be_kept_is_in_doubt(tmp_path: Path) -> None:
    async with made(tmp_path, SetClock(), most_bytes=0) as one:
        await one.take("k")
        one.keys.settled(principal="p", key="k", digest="d", call_id="c-k", until=one.clock.at + 50, outcome=answer(1))
        for number in range(LATEST):
            await one.take(f"{number}")
            await one.settle(f"{number}", answer(number))
        assert (await one.outcome("k")).in_doubt
        assert one.keys.forget("c-k")
        assert await one.outcome("k") is None
