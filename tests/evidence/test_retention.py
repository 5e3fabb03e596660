"""Retention and erasure: whole sealed ranges go, a signed tombstone accounts for them, and whatever else is missing is found."""

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.from_thread
import anyio.to_thread
import orjson
import pytest

from gateway.adapters import queries, retention
from gateway.adapters.checkpoints import Checkpoints, EvidenceSettings, Signatures
from gateway.adapters.journal import SqlJournal, open_journal
from gateway.adapters.retention import EraseRefused, Retention, RetentionSettings, used_bytes
from gateway.adapters.signing import Signer, open_signer
from gateway.adapters.sqlite import read_only
from gateway.decide.hold import Operator
from gateway.model.call import Risk
from gateway.model.recording import CallFilter
from tests.console.serving import CLAUDE, scripted, serving, table
from tests.journal.building import AT, a_call, begin, end
from tests.journal.test_records import validator
from tests.running import execute

pytestmark = pytest.mark.anyio

DAY = 86_400.0


class SetClock:
    """A clock that stands where a test puts it."""

    def __init__(self) -> None:
        self.at = AT
        self._ticks = itertools.count(1)

    def time_ns(self) -> int:
        return int(self.at * 1e9) + next(self._ticks) * 1000

    def monotonic_ns(self) -> int:
        return next(self._ticks) * 1000


class Store:
    """A store whose calls lie some days apart, with a checkpoint after each day."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "gateway.db"
        self.signer, self.clock = Signer.fresh(), SetClock()
        self.settings = RetentionSettings()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[SqlJournal, Checkpoints, Retention]]:
        async with open_journal(self.path, clock=self.clock, kinds=retention.WRITES) as journal:
            yield (
                journal,
                Checkpoints(
                    journal=journal,
                    signer=self.signer,
                    clock=self.clock,
                    settings=EvidenceSettings,
                    directory=self.path.parent,
                ),
                Retention(journal=journal, signer=self.signer, clock=self.clock, settings=lambda: self.settings),
            )

    async def days(self, count: int, *, calls: int = 5, size: int = 10) -> None:
        async with self.open() as (journal, checkpoints, _):
            for _ in range(count):
                for number in range(calls):
                    # A write's end is in the store when `end` returns.
                    call = a_call(Risk.WRITE, {"text": f"{number} " + os.urandom(size).hex()})
                    await journal.begin(begin(call))
                    await journal.end(end(call, at=self.clock.at))
                assert await checkpoints.write() is not None
                self.clock.at += DAY

    def check(self, *, pinned: bool = True) -> queries.Verification:
        signatures = Signatures([self.signer.public]) if pinned else None
        with read_only(self.path) as raw:
            return queries.verify(raw, signatures=signatures)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


class Interrupted:
    """A connection that lets something happen between two pages of what is read through it."""

    def __init__(self, raw: sqlite3.Connection, happens: Callable[[], None]) -> None:
        self._raw, self._happens, self._pages = raw, happens, 0

    @property
    def in_transaction(self) -> bool:
        return self._raw.in_transaction

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        if "ORDER BY seq LIMIT" in sql and "payloads" in sql:
            self._pages += 1
            if self._pages == 3:
                self._happens()
        return self._raw.execute(sql, parameters)


@pytest.mark.rule("retention.meanwhile")
async def test_what_is_dropped_or_erased_while_the_chain_is_checked_is_no_gap(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PAGE", 4)
    await store.days(6)
    store.settings = RetentionSettings(retain_seconds=1.5 * DAY)
    async with store.open() as (journal, _, keeping):
        newest = (await journal.read(queries.list_calls, CallFilter(), limit=1))[0]

        async def drop() -> None:
            assert await keeping.apply() > 0
            await keeping.erase(newest.id, ["request"], "ann")

        def check() -> queries.Verification:
            with read_only(store.path) as raw:
                reading: Any = Interrupted(raw, lambda: anyio.from_thread.run(drop))
                return queries.verify(reading, signatures=Signatures([store.signer.public]))

        found = await anyio.to_thread.run_sync(check)
        assert (found.fault, found.erased, found.unproven, found.first_seq) == (None, 0, 0, 1)
    found = store.check()
    assert (found.fault, found.unproven) == (None, 0)
    assert found.first_seq > 1
    assert found.erased > 0


@pytest.mark.rule("retention.age")
async def test_what_is_too_old_goes_in_whole_ranges_and_the_rest_still_verifies(store: Store) -> None:
    await store.days(10)
    before = store.check()
    assert before.fault is None
    assert before.first_seq == 1
    store.settings = RetentionSettings(retain_seconds=3.5 * DAY)
    async with store.open() as (journal, _, keeping):
        assert await keeping.apply() > 0
        assert await keeping.apply() == 0
        left = await journal.read(queries.list_calls, CallFilter(), limit=100)
    assert len(left) == 15
    found = store.check()
    assert found.fault is None
    assert found.first_seq > 1
    assert (found.erased, found.unproven) == (0, 0)
    with read_only(store.path) as raw:
        oldest = next(queries.read_records(raw, limit=1))
        boundary = retention.tombstone(raw)
    assert boundary is not None
    assert oldest.seq == boundary["last"] + 1
    assert oldest.at >= store.clock.at - 4 * DAY


@pytest.mark.rule("retention.age")
async def test_retention_again_and_again_leaves_one_chain_that_verifies(store: Store) -> None:
    store.settings = RetentionSettings(retain_seconds=2.5 * DAY)
    for _ in range(4):
        await store.days(3)
        async with store.open() as (_, checkpoints, keeping):
            await keeping.apply()
            await checkpoints.write()
        found = store.check()
        assert found.fault is None
        assert found.unproven == 0
    with read_only(store.path) as raw:
        lines = list(queries.export_lines(raw))
    exported = queries.verify_lines(lines, Signatures([store.signer.public]))
    assert exported.fault is None
    assert exported.first_seq == store.check().first_seq


@pytest.mark.rule("retention.found")
async def test_more_missing_than_the_tombstone_accounts_for_is_found(store: Store) -> None:
    await store.days(6)
    store.settings = RetentionSettings(retain_seconds=2.5 * DAY)
    async with store.open() as (_, _, keeping):
        await keeping.apply()
    first = store.check().first_seq
    async with store.open() as (journal, _, _):
        await journal.between(lambda raw: raw.execute("DELETE FROM records WHERE seq = ?", (first,)))
    found = store.check()
    assert found.fault is not None
    assert found.fault.seq <= first + 1


@pytest.mark.rule("retention.found")
async def test_a_beginning_that_is_missing_without_a_tombstone_is_found(store: Store) -> None:
    await store.days(4)
    async with store.open() as (journal, _, _):
        await journal.between(lambda raw: raw.execute("DELETE FROM records WHERE seq <= 6"))
    found = store.check()
    assert found.fault is not None


@pytest.mark.rule("retention.found")
async def test_a_tombstone_that_another_key_signed_accounts_for_nothing(store: Store) -> None:
    await store.days(6)
    store.settings = RetentionSettings(retain_seconds=2.5 * DAY)
    async with store.open() as (journal, _, _):
        forged = Retention(journal=journal, signer=Signer.fresh(), clock=store.clock, settings=lambda: store.settings)
        assert await forged.apply() > 0
    assert store.check().fault is not None


@pytest.mark.rule("retention.size")
async def test_what_is_too_much_goes_oldest_first_and_the_file_gets_smaller(store: Store) -> None:
    await store.days(12, calls=10, size=4000)
    with read_only(store.path) as raw:
        whole = used_bytes(raw)
        newest = queries.list_calls(raw, CallFilter(), limit=1)[0].seq
    size = store.path.stat().st_size
    store.settings = RetentionSettings(max_bytes=whole // 2)
    async with store.open() as (journal, _, keeping):
        assert await keeping.apply() > 0
        assert await journal.read(used_bytes) <= whole // 2
        left = await journal.read(queries.list_calls, CallFilter(), limit=1000)
    assert len(left) >= 40
    assert left[0].seq == newest
    assert store.check().fault is None
    assert store.path.stat().st_size < size * 0.7


@pytest.mark.rule("retention.sealed-only")
async def test_nothing_goes_that_no_checkpoint_seals_nor_the_newest_checkpoint(store: Store) -> None:
    await store.days(1)
    store.clock.at += 100 * DAY
    store.settings = RetentionSettings(retain_seconds=DAY, max_bytes=1)
    async with store.open() as (_, _, keeping):
        assert await keeping.apply() == 0
    assert store.check().first_seq == 1


@pytest.mark.rule("retention.interrupted")
async def test_a_process_that_stops_in_the_middle_leaves_a_chain_that_verifies_and_the_next_goes_on(
    store: Store,
) -> None:
    await store.days(8)
    store.settings = RetentionSettings(retain_seconds=2.5 * DAY)
    async with store.open() as (journal, _, keeping):
        due = await journal.read(retention.due, store.settings, store.clock.at)
        assert due is not None
        await keeping._state(due)
        assert await journal.between(retention._drop_batch, due.last, 7) == 7
    found = store.check()
    assert found.fault is None
    assert 1 < found.first_seq <= due.last
    async with store.open() as (_, _, keeping):
        assert await keeping.apply() > 0
    assert store.check().first_seq == due.last + 1


DROPPING = """
import sys
from pathlib import Path
import anyio
from gateway.adapters import retention
from gateway.adapters.journal import open_journal
from gateway.adapters.retention import Retention, RetentionSettings
from gateway.adapters.signing import open_signer
from tests.evidence.test_retention import SetClock

async def main() -> None:
    path, clock = Path(sys.argv[1]), SetClock()
    clock.at = float(sys.argv[2])
    settings = RetentionSettings(retain_seconds=float(sys.argv[3]))
    async with open_journal(path, clock=clock, kinds=retention.WRITES) as journal:
        keeping = Retention(journal=journal, signer=open_signer(path), clock=clock, settings=lambda: settings)
        print("ready", flush=True)
        await keeping.apply()

anyio.run(main)
"""


def killed_while_dropping(store: Store, retain: float, seconds: float) -> None:
    """Where it is when the signal comes is what differs from one kill to the next."""
    killed_once_ready([sys.executable, "-c", DROPPING, str(store.path), str(store.clock.at), str(retain)], seconds)


def killed_once_ready(command: list[str], seconds: float) -> None:
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)


@pytest.mark.rule("retention.interrupted")
async def test_killed_while_it_drops_it_leaves_a_chain_that_verifies(store: Store) -> None:
    store.signer = open_signer(store.path)
    await store.days(40, calls=8, size=500)
    kept = []
    for kill in range(6):
        retain = (36 - 4 * kill) * DAY
        await anyio.to_thread.run_sync(killed_while_dropping, store, retain, 0.004 * kill)
        found = store.check()
        assert found.fault is None, (kill, found.fault)
        assert found.unproven == 0
        kept.append(found.records)
    store.settings = RetentionSettings(retain_seconds=8 * DAY)
    async with store.open() as (_, _, keeping):
        await keeping.apply()
    assert store.check().fault is None
    assert kept[0] > store.check().records


ERASING = """
import sys
from pathlib import Path
import anyio
from gateway.adapters import queries, retention
from gateway.adapters.journal import open_journal
from gateway.adapters.retention import Retention, RetentionSettings
from gateway.adapters.signing import open_signer
from gateway.model.recording import CallFilter
from tests.evidence.test_retention import SetClock

async def main() -> None:
    path, clock = Path(sys.argv[1]), SetClock()
    clock.at = float(sys.argv[2])
    async with open_journal(path, clock=clock, kinds=retention.WRITES) as journal:
        keeping = Retention(journal=journal, signer=open_signer(path), clock=clock, settings=RetentionSettings)
        calls = await journal.read(queries.list_calls, CallFilter(), limit=1000)
        print("ready", flush=True)
        for call in calls:
            if await journal.read(retention._erasable, call.id) is not None:
                try:
                    await keeping.erase(call.id, ["request", "response"], "otto")
                except retention.EraseRefused:
                    pass  # it was, before the process was killed

anyio.run(main)
"""


@pytest.mark.rule("retention.erase-interrupted")
async def test_killed_while_it_erases_what_is_gone_has_a_tombstone_and_is_in_no_file(store: Store) -> None:
    store.signer = open_signer(store.path)
    await store.days(2, calls=60, size=12)
    with read_only(store.path) as raw:
        rows = raw.execute("SELECT seq, request FROM payloads WHERE request IS NOT NULL").fetchall()
    texts = {seq: orjson.loads(data)["params"]["arguments"]["text"].split()[1] for seq, data in rows}
    assert len(texts) == 120
    counts = []
    for kill in range(6):
        command = [sys.executable, "-c", ERASING, str(store.path), str(store.clock.at)]
        await anyio.to_thread.run_sync(killed_once_ready, command, 0.01 + 0.012 * kill)
        found = store.check()
        assert (found.fault, found.unproven) == (None, 0), kill
        async with store.open():
            pass  # the next process takes the store up
        with read_only(store.path) as raw:
            gone = {seq for (seq,) in raw.execute("SELECT seq FROM payloads WHERE request IS NULL")}
        files = b"".join(file.read_bytes() for file in store.path.parent.iterdir() if file.is_file())
        assert [seq for seq in gone if texts[seq].encode() in files] == [], kill
        counts.append(len(gone))
    assert counts[0] < counts[-1] <= len(texts), counts


@pytest.mark.rule("retention.erase")
async def test_a_payload_is_erased_with_its_salt_and_a_signed_tombstone_says_so(store: Store) -> None:
    await store.days(2)
    async with store.open() as (journal, checkpoints, keeping):
        call = (await journal.read(queries.list_calls, CallFilter(), limit=1))[0]
        told = await keeping.erase(call.id, ["request", "response"], "otto")
        assert told["erased"] == ["request", "response"]
        row = await journal.read(
            lambda raw: raw.execute(
                "SELECT request_salt, request, response_salt, response FROM payloads WHERE seq = ?", (call.seq,)
            ).fetchone()
        )
        assert row == (None, None, None, None)
        said = await journal.read(queries.erasures, call.seq)
        assert {role: body["by"] for role, body in said.items()} == {"request": "otto", "response": "otto"}
        with pytest.raises(EraseRefused):
            await keeping.erase(call.id, ["request"], "otto")
        with pytest.raises(EraseRefused):
            await keeping.erase("nobody", ["request"], "otto")
        await checkpoints.write()
    found = store.check()
    assert found.fault is None
    assert (found.erased, found.unproven) == (2, 0)
    with read_only(store.path) as raw:
        lines = [orjson.loads(line) for line in queries.export_lines(raw)]
    tombstones = [line for line in lines if line.get("type") == "tombstone"]
    assert len(tombstones) == 2
    for line in tombstones:
        assert not list(validator("record").iter_errors(line))


@pytest.mark.rule("retention.found")
async def test_a_payload_that_is_missing_without_a_tombstone_is_counted(store: Store) -> None:
    await store.days(2)
    async with store.open() as (journal, _, _):
        await journal.between(
            lambda raw: raw.execute("UPDATE payloads SET request = NULL, request_salt = NULL WHERE seq = 3")
        )
        seq = (await journal.read(queries.list_calls, CallFilter(), limit=1))[0].seq
        await journal.between(
            lambda raw: raw.execute("UPDATE payloads SET request = NULL, request_salt = NULL WHERE seq = ?", (seq,))
        )
    found = store.check()
    assert found.unproven >= 1


@pytest.mark.rule("retention.erase")
async def test_an_operator_erases_a_call_and_the_act_is_recorded(tmp_path: Path) -> None:
    otto = Operator(id="otto", role="operator")
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        await execute(served.runtime, "s__pay", {"secret": "a love letter"}, principal=CLAUDE)
        (call,) = (await served.runtime.acts.perform("calls.list", otto, {}))["calls"]
        refused = await served.ask("POST", f"/api/v1/calls/{call['id']}/erase", who="amy", body={})
        assert refused.status == 403
        erased = await served.ask("POST", f"/api/v1/calls/{call['id']}/erase", who="otto", body={"roles": ["request"]})
        assert erased.status == 200, erased.text
        assert erased.json["erased"] == ["request"]
        shown = await served.ask("GET", f"/api/v1/calls/{call['id']}", who="otto")
        assert "love letter" not in shown.text
        acted = await served.runtime.journal.read(
            lambda raw: [
                orjson.loads(data)["body"]
                for (data,) in raw.execute("SELECT data FROM records WHERE type = 'operator.acted' ORDER BY seq")
            ]
        )
        assert [(body["operator"], body["act"], body["done"]) for body in acted] == [
            ("amy", "calls.erase", False),
            ("otto", "calls.erase", True),
        ]


@pytest.mark.rule("retention.configured")
async def test_retention_runs_as_configured_and_needs_no_restart(tmp_path: Path) -> None:
    text = table(scripted(tmp_path), more='[recording]\nretain = "30d"\nmax_bytes = "10GiB"\n')
    async with serving(tmp_path, text) as served:
        settings = served.runtime.retention._settings()
        assert (settings.retain_seconds, settings.max_bytes) == (30 * DAY, 10 * 1024**3)
