"""What a start finds after the process before stopped, was killed, or lost its power; and what a store's file may be."""

import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters import queries
from gateway.adapters.journal import SqlJournal, open_journal
from gateway.adapters.migrations import STEPS
from gateway.adapters.sqlite import connect, read_only
from gateway.model.call import Risk
from gateway.model.errors import JournalUnavailable
from gateway.model.recording import CallFilter, Record
from tests.journal.building import TestClock, a_call, begin, end

pytestmark = pytest.mark.anyio


def records_of(path: Path, *types: str) -> list[Record]:
    with read_only(path) as raw:
        return list(queries.read_records(raw, types=types or None))


async def leave(path: Path, *calls: Any) -> None:
    """What a killed process leaves: begins without ends, and no `process.stopped`."""
    async with open_journal(path, clock=TestClock()) as journal:
        for call in calls:
            await journal.begin(begin(call))
        spools = {file: file.read_bytes() for file in path.parent.glob(f"{path.name}-spool*")}
        raw = sqlite3.connect(path)
        copy = sqlite3.connect(path.with_suffix(".copy"))
        raw.backup(copy)
        raw.close()
        copy.close()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.with_suffix(".copy").rename(path)
    for file, content in spools.items():
        file.write_bytes(content)


@pytest.mark.rule("journal.in-doubt-after-kill")
async def test_a_write_that_was_on_its_way_is_recorded_as_in_doubt(tmp_path: Path) -> None:
    path, call = tmp_path / "gateway.db", a_call(Risk.WRITE, {"text": "sent"})
    await leave(path, call)
    async with open_journal(path, clock=TestClock()) as journal:
        assert [left.id for left in journal.recovered] == [call.id]
    [record] = records_of(path, "call")
    assert record.body["outcome"] == {
        "kind": "failed",
        "code": "server.lost",
        "message": "The gateway was stopped while the call was on its way.",
        "in_doubt": True,
        "retry_after_seconds": None,
    }
    assert record.body["executed"] == "unknown"
    assert record.body["recovered"] is True
    assert record.payloads["request"]["params"]["arguments"] == {"text": "sent"}
    assert [step["stage"] for step in record.body["trail"]] == ["resolve", "validate"]
    with read_only(path) as raw:
        [summary] = queries.list_calls(raw, CallFilter(outcome="failed"))
        assert (summary.id, summary.recovered, summary.executed, summary.in_doubt) == (call.id, True, "unknown", True)
        assert queries.list_sessions(raw)[0].in_doubt == 1
        assert queries.open_calls(raw) == []
        assert queries.verify(raw).fault is None


@pytest.mark.rule("journal.in-doubt-after-kill")
async def test_a_read_that_was_on_its_way_is_not_in_doubt(tmp_path: Path) -> None:
    path, call = tmp_path / "gateway.db", a_call(Risk.READ)
    await leave(path, call)
    async with open_journal(path, clock=TestClock()):
        pass
    [record] = records_of(path, "call")
    assert record.body["outcome"]["in_doubt"] is False
    assert record.body["executed"] == "unknown"
    with read_only(path) as raw:
        assert queries.list_calls(raw, CallFilter())[0].in_doubt is False
        assert queries.list_sessions(raw)[0].in_doubt == 0


async def test_the_start_says_whether_the_process_before_stopped_in_good_order(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    for _ in range(2):
        async with open_journal(path, clock=TestClock()):
            pass
    await leave(path)
    async with open_journal(path, clock=TestClock()):
        pass
    starts = [record.body for record in records_of(path, "process.started")]
    assert [start["clean"] for start in starts] == [True, True, True, False]
    assert all(start["tail"] == {"whole": True, "first_bad_seq": None} for start in starts)


async def test_the_chain_goes_on_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    for _ in range(3):
        async with open_journal(path, clock=TestClock()) as journal:
            await journal.end(end(a_call(), began=False))
    with read_only(path) as raw:
        verification = queries.verify(raw)
    assert verification.fault is None
    assert verification.records == 9


@pytest.mark.rule("journal.torn-tail")
async def test_a_changed_record_near_the_end_is_told_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    async with open_journal(path, clock=TestClock()) as journal:
        for _ in range(3):
            await journal.end(end(a_call(), began=False))
    with sqlite3.connect(path) as raw:
        raw.execute(
            "UPDATE records SET data = CAST(replace(data, '\"elapsed_us\":4', '\"elapsed_us\":5') AS BLOB) WHERE seq = 3"
        )
    async with open_journal(path, clock=TestClock()):
        pass
    assert records_of(path, "process.started")[-1].body["tail"] == {"whole": False, "first_bad_seq": 3}
    with read_only(path) as raw:
        fault = queries.verify(raw).fault
    assert fault is not None
    assert fault.seq == 4
    assert "record 3, which was changed" in fault.reason


# --- durability --------------------------------------------------------------------------------------------------


@pytest.mark.rule("journal.durability")
@pytest.mark.parametrize(
    ("durability", "risk", "level"),
    [
        ("by-risk", Risk.READ, 1),
        ("by-risk", Risk.WRITE, 2),
        ("by-risk", Risk.EXTERNAL, 2),
        ("power", Risk.READ, 2),
        ("process", Risk.WRITE, 1),
    ],
)
async def test_the_risk_of_a_batch_chooses_how_it_is_synchronised(
    tmp_path: Path, durability: Any, risk: Risk, level: int
) -> None:
    def synchronous(journal: SqlJournal) -> int:
        return int(journal._connection.raw.execute("PRAGMA synchronous").fetchone()[0])

    async with open_journal(tmp_path / "gateway.db", clock=TestClock(), durability=durability) as journal:
        await journal.begin(begin(a_call(risk)))
        await journal.read(queries.open_calls)  # what is only in the spool is committed before
        assert await journal._connection.run(synchronous, journal) == level


# --- the file ----------------------------------------------------------------------------------------------------


async def test_the_store_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with open_journal(tmp_path / "state" / "gateway.db", clock=TestClock()) as journal:
            await journal.begin(begin(a_call()))
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "state").iterdir()}
    finally:
        os.umask(before)
    assert modes == {
        f"gateway.db{suffix}": 0o600 for suffix in ("", "-wal", "-shm", "-spool0", "-spool1")
    }  # fmt: skip
    assert [file.name for file in (tmp_path / "state").iterdir()] == ["gateway.db"]


async def test_a_store_of_a_newer_gateway_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    async with open_journal(path, clock=TestClock()):
        pass
    with sqlite3.connect(path) as raw:
        raw.execute(f"PRAGMA user_version={len(STEPS) + 1}")
    raw.close()
    with pytest.raises(JournalUnavailable, match="newer"):
        async with open_journal(path, clock=TestClock()):
            pass
    with pytest.raises(JournalUnavailable, match="newer"), read_only(path):
        pass


async def test_what_is_no_store_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    path.write_text("this is a text, and a long one, so that it cannot be taken for an empty database" * 20)
    with pytest.raises(JournalUnavailable, match=r"gateway\.db cannot be opened"):
        async with open_journal(path, clock=TestClock()):
            pass


@pytest.mark.rule("journal.readers")
async def test_readers_need_no_owner_and_cannot_write(tmp_path: Path) -> None:
    path, call = tmp_path / "gateway.db", a_call(Risk.WRITE)
    with pytest.raises(JournalUnavailable, match="there is no store"), read_only(path):
        pass
    async with open_journal(path, clock=TestClock()) as journal:
        await journal.end(end(call, began=False))
        with read_only(path) as raw:  # beside the owner
            assert queries.find_call(raw, call.id) is not None
    with read_only(path) as raw:  # without one
        assert queries.find_call(raw, call.id[:-3]) is not None
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            raw.execute("DELETE FROM calls")


async def test_a_reader_in_the_gateway_cannot_write_either(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "gateway.db", clock=TestClock()) as journal:
        with pytest.raises(JournalUnavailable, match="cannot be read"):
            await journal.read(lambda raw: raw.execute("DELETE FROM calls"))


@pytest.mark.parametrize("version", range(len(STEPS)))
async def test_each_migration_step_leads_to_the_same_schema(tmp_path: Path, version: int) -> None:
    def schema(raw: sqlite3.Connection) -> list[Any]:
        return raw.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name").fetchall()

    path = tmp_path / "gateway.db"
    old = sqlite3.connect(path)
    for step in STEPS[:version]:
        old.executescript(step)
    old.execute(f"PRAGMA user_version={version}")
    old.close()
    async with open_journal(path, clock=TestClock()), connect(tmp_path / "new.db") as connection:
        await connection.run(lambda: [connection.raw.executescript(step) for step in STEPS])
        fresh = await connection.run(schema, connection.raw)
        with read_only(path) as raw:
            assert schema(raw) == fresh
