"""What every journal promises (`ports.Journal`), over each store there is."""

import asyncio
import resource
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.adapters import queries
from gateway.adapters import records as encoding
from gateway.adapters.journal import SqlJournal, open_journal
from gateway.adapters.writes import Chained, Statement, WriteKind
from gateway.model.call import Call, Risk
from gateway.model.errors import JournalUnavailable, WriteConflict
from gateway.model.recording import CallFilter, Record
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Failed, Held, Outcome, Refused, Write
from gateway.ports import End
from tests.journal.building import TestClock, a_call, begin, end

pytestmark = pytest.mark.anyio

Open = Callable[..., AbstractAsyncContextManager[SqlJournal]]


@pytest.fixture(params=["sqlite", "memory"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the test's store; in a file a second opening finds what the first left."""
    path = tmp_path / "gateway.db" if request.param == "sqlite" else None

    def open_store(**changes: Any) -> AbstractAsyncContextManager[SqlJournal]:
        return open_journal(path, **{"clock": TestClock(), **changes})

    return open_store


@pytest.fixture
async def journal(opened: Open) -> AsyncIterator[SqlJournal]:
    async with opened() as journal:
        yield journal


async def committed(journal: SqlJournal) -> None:
    """Returns when everything that was queued so far is committed: the queue keeps its order."""
    await journal.record("state.changed", {"kind": "test", "subject": "x", "state": "y"})


async def records(journal: SqlJournal, **wanted: Any) -> list[Record]:
    await committed(journal)
    return await journal.read(lambda raw: list(queries.read_records(raw, **wanted)))


@pytest.mark.rule("journal.begin-is-durable")
async def test_a_begin_returns_once_it_can_be_read_back(journal: SqlJournal) -> None:
    call = a_call()
    await journal.begin(begin(call))
    [left] = await journal.read(queries.open_calls)
    assert left.id == call.id
    assert left.command["name"] == "echo"


async def test_an_end_takes_the_begin_away_and_leaves_one_record(journal: SqlJournal) -> None:
    call = a_call()
    await journal.begin(begin(call))
    await journal.end(end(call))
    [record] = await records(journal, types=["call"])
    assert await journal.read(queries.open_calls) == []
    assert record.body["command"]["id"] == call.id
    assert record.body["executed"] == "yes"
    assert record.payloads["request"]["params"]["arguments"] == {"text": "hello"}
    assert record.payloads["response"] == {"result": {"content": [{"type": "text", "text": "hello"}]}}


@pytest.mark.rule("journal.reads-do-not-wait")
async def test_the_end_of_a_read_does_not_wait_for_its_commit(journal: SqlJournal) -> None:
    call = a_call(Risk.READ)
    await journal.begin(begin(call))
    before = journal.status.committed
    await journal.end(end(call))
    assert journal.status.committed == before
    assert journal.status.queued == 1


@pytest.mark.rule("journal.reads-do-not-wait")
async def test_an_end_that_cannot_be_written_hinders_no_other_and_its_call_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "gateway.db"
    good, bad, encode_end = a_call(Risk.READ), a_call(Risk.READ), encoding.encode_end

    def encoded(finished: End, *others: Any) -> Any:
        if finished.call.id == bad.id:
            raise ValueError("cannot be encoded")
        return encode_end(finished, *others)

    monkeypatch.setattr(encoding, "encode_end", encoded)
    async with open_journal(store, clock=TestClock()) as journal:
        for call in (bad, good):
            await journal.begin(begin(call))
            await journal.end(end(call))
        assert await journal.read(queries.find_call, bad.id) is None
        assert await journal.read(queries.find_call, good.id) is not None
    assert f"the end of call {bad.id} is not recorded" in caplog.text
    monkeypatch.undo()
    async with open_journal(store, clock=TestClock()) as journal:
        assert [call.id for call in journal.recovered] == [bad.id]


@pytest.mark.rule("journal.effects-wait")
@pytest.mark.parametrize("risk", [Risk.WRITE, Risk.EXTERNAL])
async def test_the_end_of_a_call_with_effects_returns_once_it_is_committed(journal: SqlJournal, risk: Risk) -> None:
    call = a_call(risk)
    await journal.begin(begin(call))
    await journal.end(end(call))
    found = await journal.read(queries.find_call, call.id)
    assert found is not None


@pytest.mark.rule("journal.every-call")
@pytest.mark.parametrize(
    ("outcome", "word", "code", "executed"),
    [
        (Completed(result=b'{"content":[]}'), "completed", None, "yes"),
        (Completed(result=b'{"content":[],"isError":true}'), "error", None, "yes"),
        (Completed(result=b'{"structuredContent":{"isError":true}}'), "completed", None, "yes"),
        (Completed(error=b'{"code":-32000,"message":"no"}'), "error", None, "yes"),
        (Refused(stage="authorize", code=Code.POLICY_DENIED, message="no"), "refused", "policy.denied", "no"),
        (
            Refused(stage="validate", code=Code.RESULT_INVALID, message="no", executed="yes"),
            "refused",
            "result.invalid",
            "yes",
        ),
        (Held(hold_id="h-1", expires_at=1.0, message="wait"), "held", "hold.pending", "no"),
        (Failed(code=Code.SERVER_TIMEOUT, message="late", in_doubt=True), "failed", "server.timeout", "unknown"),
        (Failed(code=Code.SERVER_UNAVAILABLE, message="gone", in_doubt=False), "failed", "server.unavailable", "no"),
    ],
)
async def test_every_outcome_is_recorded_as_it_was(
    journal: SqlJournal, outcome: Outcome, word: str, code: str | None, executed: str
) -> None:
    call = a_call(Risk.WRITE)
    await journal.end(end(call, outcome, began=False))
    [summary] = await journal.read(queries.list_calls, CallFilter())
    assert (summary.outcome, summary.code, summary.executed) == (word, code, executed)
    [record] = await records(journal, types=["call"])
    assert record.body["executed"] == executed


async def test_records_form_one_chain_from_the_start_of_the_process(journal: SqlJournal) -> None:
    for risk in (Risk.READ, Risk.WRITE, Risk.READ):
        call = a_call(risk)
        await journal.begin(begin(call))
        await journal.end(end(call))
    found = await records(journal)
    assert [record.seq for record in found] == [1, 2, 3, 4, 5]
    assert found[0].type == "process.started"
    verification = await journal.read(queries.verify)
    assert verification.fault is None
    assert (verification.records, verification.payloads, verification.erased) == (5, 6, 0)


@pytest.mark.rule("journal.group-commit")
async def test_what_arrives_together_is_committed_together(journal: SqlJournal) -> None:
    await committed(journal)
    before = journal.status.batches
    calls = [a_call(Risk.WRITE) for _ in range(64)]
    async with anyio.create_task_group() as tasks:
        for call in calls:
            tasks.start_soon(journal.begin, begin(call))
    assert len(await journal.read(queries.open_calls)) == 64
    assert journal.status.batches - before <= 3


async def test_a_record_of_an_unknown_type_is_not_written(journal: SqlJournal) -> None:
    with pytest.raises(ValueError, match="made"):
        await journal.record("made.up", {})


async def test_a_snapshot_is_stored_once_under_its_hash(journal: SqlJournal) -> None:
    first = await journal.keep("configuration", b"[gateway]\n" * 3000)
    assert await journal.keep("configuration", b"[gateway]\n" * 3000) == first
    assert await journal.read(queries.snapshot, first) == b"[gateway]\n" * 3000
    assert await journal.read(lambda raw: raw.execute("SELECT count(*) FROM snapshots").fetchone()) == (1,)


# --- writes of stages --------------------------------------------------------------------------------------------


def _note(call: Call | None, at: float, data: Mapping[str, Any]) -> list[Statement | Chained]:
    identifier = call.id if call is not None else ""
    return [
        Statement(sql="CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, call_id TEXT, state TEXT)"),
        Statement(sql="INSERT INTO notes VALUES (?, ?, 'open')", parameters=(data["key"], identifier)),
    ]


def _claim(call: Call | None, at: float, data: Mapping[str, Any]) -> list[Statement | Chained]:
    return [
        Statement(
            sql="UPDATE notes SET state = 'claimed' WHERE key = ? AND state = 'open'", parameters=(data["key"],), rows=1
        ),
        Chained(type="state.changed", body={"kind": "note", "subject": data["key"], "state": "claimed"}),
    ]


KINDS: dict[str, WriteKind] = {"note": _note, "claim": _claim}


def _notes(raw: Any) -> Any:
    return raw.execute("SELECT key, state FROM notes ORDER BY key").fetchall()


@pytest.mark.rule("journal.writes-with-begin")
async def test_a_stage_s_writes_are_committed_with_the_begin(opened: Open) -> None:
    async with opened(kinds=KINDS) as journal:
        call = a_call()
        await journal.begin(begin(call, (Write(kind="note", data={"key": "a"}),)))
        assert await journal.read(_notes) == [("a", "open")]


@pytest.mark.rule("journal.writes-all-or-none")
async def test_of_two_claims_one_wins_and_the_other_call_does_not_begin(opened: Open) -> None:
    async with opened(kinds=KINDS) as journal:
        await journal.begin(begin(a_call(), (Write(kind="note", data={"key": "a"}),)))
        claim = (Write(kind="note", data={"key": "b"}), Write(kind="claim", data={"key": "a"}))
        again = (Write(kind="note", data={"key": "c"}), Write(kind="claim", data={"key": "a"}))
        first, second = a_call(), a_call()
        results = await asyncio.gather(
            journal.begin(begin(first, claim)), journal.begin(begin(second, again)), return_exceptions=True
        )
        assert results[0] is None
        assert isinstance(results[1], WriteConflict)
        assert await journal.read(_notes) == [("a", "claimed"), ("b", "open")]
        left = [each.id for each in await journal.read(queries.open_calls)]
        assert first.id in left
        assert second.id not in left
        assert [record.body["state"] for record in await records(journal, types=["state.changed"])] == ["claimed", "y"]


async def test_a_write_of_an_unknown_kind_lets_nothing_begin(journal: SqlJournal) -> None:
    with pytest.raises(WriteConflict, match="no table is registered"):
        await journal.begin(begin(a_call(), (Write(kind="made.up", data={}),)))
    assert await journal.read(queries.open_calls) == []


async def test_an_outcome_is_recorded_even_where_its_writes_fail(opened: Open) -> None:
    async with opened(kinds=KINDS) as journal:
        call = a_call(Risk.WRITE)
        await journal.begin(begin(call, (Write(kind="note", data={"key": "a"}),)))
        await journal.end(end(call, writes=(Write(kind="claim", data={"key": "missing"}),)))
        assert await journal.read(queries.find_call, call.id) is not None
        assert await journal.read(queries.open_calls) == []


# --- faults ------------------------------------------------------------------------------------------------------


async def fill_up(journal: SqlJournal) -> None:
    """Let the store take no further page, as a full disk does."""
    await journal._connection.run(lambda: journal._connection.raw.execute("PRAGMA max_page_count=1").fetchall())


async def make_room(journal: SqlJournal) -> None:
    await journal._connection.run(
        lambda: journal._connection.raw.execute("PRAGMA max_page_count=1073741823").fetchall()
    )


@pytest.mark.rule("journal.full-store")
async def test_when_the_store_is_full_nothing_begins_and_it_says_why(journal: SqlJournal) -> None:
    await fill_up(journal)
    with pytest.raises(JournalUnavailable, match="full"):
        await journal.begin(begin(a_call(Risk.WRITE, {"text": "x" * 9000})))
    assert "full" in journal.status.fault


@pytest.mark.rule("journal.outcomes-are-kept")
async def test_outcomes_of_a_full_store_are_written_when_there_is_room_again(journal: SqlJournal) -> None:
    read, write = a_call(Risk.READ, {"text": "x" * 9000}), a_call(Risk.WRITE, {"text": "x" * 9000})
    for call in (read, write):
        await journal.begin(begin(call))
    await fill_up(journal)
    await journal.end(end(read))
    with pytest.raises(JournalUnavailable):
        await journal.end(end(write))
    assert journal.status.unwritten == 2
    await make_room(journal)
    found = [record.body["command"]["id"] for record in await records(journal, types=["call"])]
    assert found == [read.id, write.id]
    assert journal.status.unwritten == 0
    assert journal.status.fault == ""
    assert (await journal.read(queries.verify)).fault is None


async def test_one_bad_entry_does_not_take_the_batch_with_it(journal: SqlJournal) -> None:
    await journal._connection.run(lambda: journal._connection.raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 6000))
    bad, good = a_call(Risk.WRITE, {"text": "x" * 9000}), a_call(Risk.WRITE)
    results = await asyncio.gather(
        journal.end(end(bad, began=False)), journal.end(end(good, began=False)), return_exceptions=True
    )
    assert isinstance(results[0], JournalUnavailable)
    assert results[1] is None
    assert await journal.read(queries.find_call, good.id) is not None
    assert journal.status.unwritten == 0


@pytest.mark.rule("journal.fails-closed")
async def test_when_the_writer_itself_fails_nobody_waits_for_ever_and_nothing_begins(journal: SqlJournal) -> None:
    def broken() -> None:
        raise MemoryError

    journal._wake.wait = broken  # type: ignore[method-assign,assignment]
    await journal.begin(begin(a_call(Risk.WRITE)))  # the writer waits once more after it, and fails
    for risk in (Risk.WRITE, Risk.READ):
        with pytest.raises(JournalUnavailable), anyio.fail_after(5):
            await journal.begin(begin(a_call(risk)))


async def test_a_closed_journal_takes_nothing(opened: Open) -> None:
    async with opened() as journal:
        pass
    with pytest.raises(JournalUnavailable, match="closed"):
        await journal.begin(begin(a_call()))


async def test_a_begin_whose_caller_is_cancelled_leaves_the_call_s_end_consistent(journal: SqlJournal) -> None:
    call = a_call(Risk.WRITE)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await journal.begin(begin(call))
    await journal.end(end(call, Failed(code=Code.CANCELLED, message="stopped", in_doubt=False)))
    assert await journal.read(queries.open_calls) == []
    assert (await journal.read(queries.list_calls, CallFilter()))[0].code == "cancelled"


async def test_what_is_queued_when_the_process_is_cancelled_is_still_written(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    call = a_call(Risk.READ)
    with anyio.CancelScope() as scope:
        async with open_journal(path, clock=TestClock()) as journal:
            await journal.begin(begin(call))
            await journal.end(end(call))
            scope.cancel()
    async with open_journal(path, clock=TestClock()) as journal:
        assert await journal.read(queries.find_call, call.id) is not None
        assert journal.recovered == ()


@pytest.mark.rule("journal.full-disk")
async def test_a_disk_that_takes_no_more_bytes_refuses_calls_and_loses_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with open_journal(tmp_path / "gateway.db", clock=TestClock()) as journal:
        begun = a_call(Risk.WRITE)
        await journal.begin(begin(begun))
        size = (tmp_path / "gateway.db-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
        try:
            with pytest.raises(JournalUnavailable):
                await journal.begin(begin(a_call(Risk.WRITE, {"text": "x" * 20_000})))
            with pytest.raises(JournalUnavailable):
                await journal.end(end(begun))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        found = await records(journal, types=["call"])
        assert [record.body["command"]["id"] for record in found] == [begun.id]
        assert (await journal.read(queries.verify)).fault is None
