"""`kill -9` of the gateway at each step of a write call: the journal is whole and says what is true."""

from pathlib import Path

import pytest

from gateway.adapters import queries
from gateway.adapters.journal import open_journal
from gateway.adapters.sqlite import read_only
from gateway.model.recording import CallFilter
from tests.journal.building import TestClock
from tests.owner.fleet import answered, fleet
from tests.owner.member import STEPS

pytestmark = pytest.mark.anyio

EXPECTED: dict[str, tuple[bool, tuple[str, str, bool] | None]] = {
    # step: (did the tool server act, what the record says: outcome, executed, recovered)
    "begin queued": (False, None),
    "begin written": (False, None),
    "begin committed": (False, ("failed", "unknown", True)),
    "forwarded": (True, ("failed", "unknown", True)),
    "answered": (True, ("failed", "unknown", True)),
    "end written": (True, ("failed", "unknown", True)),
    "end committed": (True, ("completed", "yes", False)),
}


@pytest.mark.rule("journal.kill-at-each-step")
@pytest.mark.parametrize("step", STEPS)
async def test_killed_at_this_step_the_journal_is_whole_and_honest(tmp_path: Path, step: str) -> None:
    acted, said = EXPECTED[step]
    store = tmp_path / "gateway.db"
    async with fleet(store, CRASH_AT=step) as running:
        member = await running.start()
        assert (await answered(member.call("echo", "before")))["result"]["content"][0]["text"] == "before"
        with pytest.raises(EOFError):
            await answered(member.call("note", "wanted"))
        assert running.ledger == (["wanted"] if acted else [])
    async with open_journal(store, clock=TestClock()) as journal:
        found = [
            (call.outcome, call.executed, call.recovered)
            for call in await journal.read(queries.list_calls, CallFilter(tool="fixture/note"))
        ]
        assert found == ([said] if said is not None else [])
        recovered = [left.id for left in journal.recovered if left.command["name"] == "note"]
        assert len(recovered) == (1 if said is not None and said[2] else 0)
    with read_only(store) as raw:
        verification = queries.verify(raw)
        assert verification.fault is None
        assert queries.open_calls(raw) == []
        [before] = queries.list_calls(raw, CallFilter(tool="fixture/echo"))
        # a read is answered once its outcome is queued: a process killed right then leaves it open
        assert before.outcome == "completed" or before.recovered
