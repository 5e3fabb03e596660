"""The spool: what is known of reads after `kill -9`, and what the files beside the store may hold."""

import json
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from gateway.adapters import journal as journal_module
from gateway.adapters import queries, records
from gateway.adapters.journal import SqlJournal, open_journal
from gateway.adapters.spool import Frame, SpooledCall, framed
from gateway.adapters.sqlite import read_only
from gateway.config.secrets import SecretRegistry
from gateway.model.call import Call, Principal, Risk
from gateway.model.errors import JournalUnavailable
from gateway.model.recording import CallFilter, CallSummary, RecordingSettings
from gateway.model.verdict import Step
from gateway.ports import Begin
from tests.journal.building import STEPS, TestClock, a_call, begin, end
from tests.running import until

pytestmark = pytest.mark.anyio

KILLED = """
import os, signal, sys
from pathlib import Path
import anyio
from gateway.adapters.journal import open_journal
from tests.journal.building import TestClock, a_call, begin, end

async def main(store, ended, seconds):
    async with open_journal(Path(store), clock=TestClock()) as journal:
        calls = [a_call(arguments={"text": f"call {number}"}) for number in range(3)]
        for call in calls:
            await journal.begin(begin(call))
        for call in calls[:int(ended)]:
            await journal.end(end(call))
        await anyio.sleep(float(seconds))
        os.kill(os.getpid(), signal.SIGKILL)

anyio.run(main, *sys.argv[1:])
"""


def spools(store: Path) -> list[Path]:
    return sorted(store.parent.glob(f"{store.name}-spool*"))


def spooled(store: Path) -> bytes:
    return b"".join(file.read_bytes() for file in spools(store))


def copy_files(store: Path, to: Path) -> None:
    for file in store.parent.glob(f"{store.name}*"):
        shutil.copy(file, to)


async def after_kill(store: Path, *, ended: int, seconds: float) -> list[CallSummary]:
    """What the next start makes of a process that began three reads, ended some and was killed so long after."""
    child = [sys.executable, "-c", KILLED, str(store), str(ended), str(seconds)]
    with anyio.fail_after(60):
        assert (await anyio.run_process(child, check=False, cwd=Path(__file__).parents[2])).returncode == -9
    async with open_journal(store, clock=TestClock()) as journal:
        assert len(journal.recovered) == 3 - ended
        assert await journal.read(queries.open_calls) == []
        assert (await journal.read(queries.verify)).fault is None
        return await journal.read(queries.list_calls, CallFilter())


@pytest.mark.rule("journal.reads-survive")
async def test_reads_that_were_on_their_way_at_a_kill_are_recorded_as_unknown(tmp_path: Path) -> None:
    found = await after_kill(tmp_path / "gateway.db", ended=0, seconds=0)
    assert [(call.outcome, call.executed, call.in_doubt, call.recovered) for call in found] == [
        ("failed", "unknown", False, True)
    ] * 3
    with read_only(tmp_path / "gateway.db") as raw:
        record = queries.find_call(raw, found[-1].id)
    assert record is not None
    assert record.payloads["request"]["params"]["arguments"] == {"text": "call 0"}
    assert [step["stage"] for step in record.body["trail"]] == ["resolve", "validate"]


@pytest.mark.rule("journal.reads-survive")
@pytest.mark.parametrize("seconds", [0.01, 0.1, 1.2])  # in the spool alone, committed, with the open begins moved
async def test_outcomes_of_reads_survive_a_kill_and_are_recorded_once(tmp_path: Path, seconds: float) -> None:
    found = await after_kill(tmp_path / "gateway.db", ended=2, seconds=seconds)
    assert sorted((call.outcome, call.executed, call.recovered) for call in found) == [
        ("completed", "yes", False),
        ("completed", "yes", False),
        ("failed", "unknown", True),
    ]


async def test_a_torn_frame_and_another_store_s_files_are_left_out(tmp_path: Path) -> None:
    store, other = tmp_path / "gateway.db", tmp_path / "other.db"
    calls: list[Call] = [a_call(), a_call()]
    for path, each in zip((store, other), calls, strict=True):
        async with open_journal(path, clock=TestClock()) as journal:
            await journal.begin(begin(each))
            left = spooled(path)
            await journal.end(end(each))
        path.with_name(f"{path.name}-left").write_bytes(left)
    torn, foreign = ((tmp_path / f"{name}-left").read_bytes() for name in ("gateway.db", "other.db"))
    store.with_name("gateway.db-spool0").write_bytes(torn + torn[-700:-3])
    store.with_name("gateway.db-spool1").write_bytes(foreign)
    async with open_journal(store, clock=TestClock()) as journal:
        assert journal.recovered == ()  # the one whole frame is of a call that is recorded
        assert spooled(store) == b""
        await journal.begin(begin(a_call()))
    assert spools(store) == []


@pytest.mark.rule("journal.spool-is-emptied")
async def test_what_was_committed_does_not_stay_in_the_spool(tmp_path: Path) -> None:
    store = tmp_path / "gateway.db"
    async with open_journal(store, clock=TestClock()) as journal:
        lasting = a_call(arguments={"text": "lasting"})
        await journal.begin(begin(lasting))
        call = a_call(arguments={"text": "told-in-confidence"})
        await journal.begin(begin(call))
        assert b"told-in-confidence" in spooled(store)
        await journal.end(end(call))
        await journal.between(lambda raw: raw.execute("DELETE FROM payloads"))
        assert spooled(store) == b""
        await journal.end(end(lasting))
    with read_only(store) as raw:
        assert {call.outcome for call in queries.list_calls(raw, CallFilter())} == {"completed"}


async def test_a_full_spool_is_emptied_while_calls_are_on_their_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SPOOL_BYTES", 20_000)
    store = tmp_path / "gateway.db"
    async with open_journal(store, clock=TestClock()) as journal:
        lasting = a_call()
        await journal.begin(begin(lasting))

        async def one() -> None:
            for _ in range(40):
                call = a_call()
                await journal.begin(begin(call))
                await anyio.lowlevel.checkpoint()
                await journal.end(end(call))

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(one)
        await journal.record("state.changed", {"kind": "test", "subject": "x", "state": "y"})
        assert len(spooled(store)) < 200_000
        assert [left.id for left in await journal.read(queries.open_calls)] == [lasting.id]
        await journal.end(end(lasting))
        assert (await journal.read(queries.verify)).records == 163


async def test_a_read_that_lasts_is_seen_by_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "LASTING_SECONDS", 0.05)
    store, call = tmp_path / "gateway.db", a_call()
    async with open_journal(store, clock=TestClock()) as journal:
        await journal.begin(begin(call))
        await until(lambda: _seen(store))
        await journal.end(end(call))
    assert not _seen(store)


def _seen(store: Path) -> bool:
    with read_only(store) as raw:
        return bool(queries.open_calls(raw))


@pytest.mark.rule("journal.full-disk")
async def test_where_the_disk_takes_no_more_bytes_no_read_begins(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with open_journal(tmp_path / "gateway.db", clock=TestClock()) as journal:
        first = a_call(Risk.READ)
        await journal.begin(begin(first))
        size = max(file.stat().st_size for file in spools(tmp_path / "gateway.db"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
        try:
            with pytest.raises(JournalUnavailable):
                await journal.begin(begin(a_call(Risk.READ)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await journal.end(end(first))
        await _works(journal)


async def _works(journal: SqlJournal) -> None:
    call = a_call(Risk.READ)
    await journal.begin(begin(call))
    await journal.end(end(call))
    assert await journal.read(queries.find_call, call.id) is not None
    assert (await journal.read(queries.verify)).fault is None


# --- begins that are encoded later ---

CANARY = 'canary "7f3a" of the vault'


def everything(**changes: Any) -> Begin:
    """A begin with all that a record says of one, but for what has to be erased."""
    arguments = {"text": "h\u00e9", "n": 2**63, "f": 1.5, "deep": [{"a": None}, True]}
    question = {"version": 1, "arguments": arguments, "meta": {}, "context": {"time_ns": 2**60, "recent": []}}
    facts = {"question": question, "answer": {"allow": True}, "elapsed_us": 3}
    call = a_call(
        arguments=arguments,
        meta={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
        trace_id="0af7651916cd43dd8448eb211c80319c",
        why="because",
        waited_for="h-1",
        replay_of="c-1",
        principal=Principal(id="claude", roles=("reader", "auditor")),
        **changes,
    )
    return begin(call, steps=(*STEPS, Step(stage="authorize", verdict="proceed", elapsed_us=5, facts=facts)))


@pytest.mark.rule("journal.later")
@pytest.mark.parametrize("changed", [False, True])
def test_what_is_read_back_of_a_begin_encodes_to_the_same_record(
    changed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "random16", lambda: b"s" * 16)
    begun = everything(**({"received_arguments": {"text": "before"}} if changed else {}))
    facts, settings = records.facts_of(begun.call), RecordingSettings()
    frame = SpooledCall(begun.call.id, begun.at, True, facts, list(begun.steps))
    data = framed(frame)
    again = msgspec.msgpack.decode(data[8:], type=Frame)
    assert isinstance(again, SpooledCall)
    before = records.encode_command(facts, begun.steps, settings)
    after = records.encode_command(records.recalled(again.facts), again.steps, settings)
    assert json.loads(after.command) == json.loads(before.command)
    assert after == before


@pytest.mark.rule("journal.later")
@pytest.mark.parametrize("redact", [(), ("**.password",)])
async def test_nothing_that_is_to_be_erased_comes_into_the_spool(
    tmp_path: Path, redact: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = SecretRegistry()
    monkeypatch.setattr(records, "REGISTRY", registry)
    if not redact:
        registry.add(CANARY)
    store = tmp_path / "gateway.db"
    async with open_journal(store, clock=TestClock(), settings=RecordingSettings(redact=redact)) as journal:
        calls = [a_call(arguments={"password": CANARY}), a_call(arguments={"text": "plain"})]
        for call in calls:
            await journal.begin(begin(call))
        said = spooled(store)
        assert b"plain" in said
        for form in (CANARY, json.dumps(CANARY)[1:-1]):
            assert form.encode() not in said
        for call in calls:
            await journal.end(end(call))
        found = await journal.read(queries.find_call, calls[0].id)
        assert found is not None
        assert "canary" not in json.dumps(found.payloads)


@pytest.mark.rule("journal.later")
@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ({"n": 2**80}, RecordingSettings()),
        ({"text": "x" * 2_000}, RecordingSettings(max_payload_bytes=1_000)),
        ({"text": "x" * 2_000}, RecordingSettings(arguments=False)),
    ],
)
async def test_a_begin_that_cannot_wait_is_encoded_at_once_and_survives_as_well(
    tmp_path: Path, arguments: dict[str, Any], settings: RecordingSettings
) -> None:
    store, copy = tmp_path / "gateway.db", tmp_path / "copy"
    copy.mkdir()
    call = a_call(arguments=arguments)
    async with open_journal(store, clock=TestClock(), settings=settings) as journal:
        await journal.begin(begin(call))
        assert b"xxxx" not in spooled(store)
        copy_files(store, copy)
        await journal.end(end(call))
    async with open_journal(copy / "gateway.db", clock=TestClock()) as journal:
        assert [found.id for found in journal.recovered] == [call.id]
