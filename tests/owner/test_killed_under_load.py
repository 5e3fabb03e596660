"""`kill -9` at any moment of a busy gateway: the chain verifies, and what was acknowledged is recorded as it was."""

import random
from pathlib import Path

import anyio
import pytest

from gateway.adapters import queries
from gateway.adapters.sqlite import read_only
from gateway.model.recording import CallFilter
from tests.owner.fleet import Member, fleet

pytestmark = pytest.mark.anyio


async def write_notes(member: Member, name: str, acknowledged: set[str]) -> None:
    """Writes until the process is gone."""
    number = 0
    while True:
        number += 1
        text = f"{name}-{number}"
        try:
            answer = await member.call("note", text)
        except (EOFError, OSError):
            return
        assert answer["result"]["content"][0]["text"] == text
        acknowledged.add(text)


async def kill_under_load(store: Path, runs: int, seed: int) -> None:
    moments = random.Random(seed)
    acknowledged: set[str] = set()
    async with fleet(store) as running:
        for run in range(runs):
            member = await running.start()
            async with anyio.create_task_group() as tasks:
                for row in range(8):
                    tasks.start_soon(write_notes, member, f"{run}-{row}", acknowledged)
                wanted = len(acknowledged) + moments.randint(1, 30)
                with anyio.fail_after(20):
                    while len(acknowledged) < wanted:  # noqa: ASYNC110 - any moment will do
                        await anyio.sleep(0.0005)
                await anyio.sleep(moments.uniform(0, 0.005))
                member.kill()
            running.members.remove(member)
            await member.close()
        acted = running.ledger
        last = await running.start()
        await last.leave()
    said: dict[str, str] = {}
    with read_only(store) as raw:
        assert queries.verify(raw).fault is None
        assert queries.open_calls(raw) == []
        for record in queries.read_records(raw, filter=CallFilter(tool="fixture/note")):
            text = record.payloads["request"]["params"]["arguments"]["text"]
            assert text not in said
            said[text] = record.body["executed"]
    assert len(acknowledged) > runs
    assert {said[text] for text in acknowledged} == {"yes"}
    assert set(acted) <= set(said)  # whatever ran was journaled before
    assert {said[text] for text in set(said) - set(acted)} <= {"unknown"}
    assert len(acted) == len(set(acted))


@pytest.mark.rule("journal.kill-any-moment")
async def test_killed_at_any_moment_no_acknowledged_write_is_missing(tmp_path: Path) -> None:
    await kill_under_load(tmp_path / "gateway.db", 5, 1)


@pytest.mark.slow
@pytest.mark.rule("journal.kill-any-moment")
async def test_killed_two_hundred_times_no_acknowledged_write_is_missing(tmp_path: Path) -> None:
    await kill_under_load(tmp_path / "gateway.db", 200, 2)
