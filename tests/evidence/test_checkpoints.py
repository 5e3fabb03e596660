"""Checkpoints: what is signed is proven, what was changed, removed, replaced or cut is found, and rotated keys are followed."""

import base64
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from gateway.adapters import queries
from gateway.adapters.checkpoints import Checkpoints, EvidenceSettings, Signatures, read_envelopes
from gateway.adapters.journal import SqlJournal, open_journal
from gateway.adapters.signing import CHECKPOINT_TYPE, PublicKey, Signer, load_public, statement, verify
from gateway.adapters.sqlite import read_only
from tests.journal.building import TestClock
from tests.journal.test_records import validator

pytestmark = pytest.mark.anyio


class Store:
    """A store with checkpoints, and what a verifier holds of it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "gateway.db"
        self.signer = Signer.fresh()
        self.first: PublicKey = self.signer.public
        self.kept = directory / "kept.jsonl"
        self.settings = EvidenceSettings(checkpoints_to=("file:kept.jsonl",))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[SqlJournal, Checkpoints]]:
        clock = TestClock()
        async with open_journal(self.path, clock=clock) as journal:
            yield (
                journal,
                Checkpoints(
                    journal=journal,
                    signer=self.signer,
                    clock=clock,
                    settings=lambda: self.settings,
                    directory=self.path.parent,
                ),
            )

    def check(self, *keys: PublicKey, held: bool = False) -> tuple[queries.Verification, Signatures]:
        signatures = Signatures(keys or (self.first,), read_envelopes(self.kept) if held else ())
        with read_only(self.path) as raw:
            return queries.verify(raw, signatures=signatures), signatures

    def tamper(self, change: Callable[[sqlite3.Connection], object]) -> None:
        raw = sqlite3.connect(self.path, isolation_level=None)
        change(raw)
        raw.close()

    def rewrite(self, from_seq: int) -> None:
        """What an operator with the database can do: change a record and hash everything after it anew."""
        import hashlib
        import re

        raw = sqlite3.connect(self.path, isolation_level=None)
        rows = raw.execute("SELECT seq, data FROM records WHERE seq >= ? ORDER BY seq", (from_seq,)).fetchall()
        prev = ""
        for seq, data in rows:
            if seq == from_seq:
                data = data.replace(b'"n":', b'"m":')
            else:
                data = re.sub(rb'"prev":"[0-9a-f]{64}"', b'"prev":"' + prev.encode() + b'"', data, count=1)
            prev = hashlib.sha256(data).hexdigest()
            raw.execute("UPDATE records SET data = ? WHERE seq = ?", (data, seq))
        raw.close()


@pytest.fixture
async def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    async with made.open() as (journal, checkpoints):
        for number in range(3):
            for index in range(4):
                body = {"kind": "test", "subject": "x", "state": "y", "n": number * 10 + index}
                await journal.record("state.changed", body)
            assert await checkpoints.write() is not None
        assert await checkpoints.write() is None, "nothing new, nothing to sign"
        await journal.record("state.changed", {"kind": "test", "subject": "x", "state": "y", "n": 99})
    return made


@pytest.mark.rule("evidence.checkpoints")
async def test_a_chain_is_proven_up_to_the_newest_checkpoint_of_the_pinned_key(store: Store) -> None:
    found, signatures = store.check(held=True)
    assert found.fault is None
    assert signatures.checked == 3
    assert 0 < signatures.signed_up_to < found.last_seq
    assert len(read_envelopes(store.kept)) == 3


@pytest.mark.rule("evidence.checkpoints")
async def test_checkpoints_are_records_that_meet_their_schema(store: Store) -> None:
    with read_only(store.path) as raw:
        lines = [orjson.loads(line) for line in queries.export_lines(raw)]
    found = [line for line in lines if line.get("type") == "checkpoint"]
    assert len(found) == 3
    for line in found:
        assert not list(validator("record").iter_errors(line))


@pytest.mark.rule("evidence.origin")
async def test_another_key_proves_nothing(store: Store) -> None:
    found, _ = store.check(Signer.fresh().public)
    assert found.fault is not None
    assert "not signed by the given key" in found.fault.reason


@pytest.mark.rule("evidence.rewritten")
async def test_a_history_that_was_rewritten_with_all_its_hashes_is_found(store: Store) -> None:
    store.rewrite(3)
    with read_only(store.path) as raw:
        assert queries.verify(raw).fault is None, "the chain alone cannot tell"
    found, _ = store.check()
    assert found.fault is not None
    assert "names another record" in found.fault.reason


@pytest.mark.rule("evidence.truncated")
async def test_a_chain_that_was_cut_is_found_by_who_kept_a_checkpoint(store: Store) -> None:
    store.tamper(lambda raw: raw.execute("DELETE FROM records WHERE seq > 9"))
    assert store.check()[0].fault is None
    found, _ = store.check(held=True)
    assert found.fault is not None
    assert "it was cut" in found.fault.reason
    assert found.fault.seq == 10


@pytest.mark.rule("evidence.checkpoints")
async def test_a_forged_checkpoint_is_found(store: Store) -> None:
    def forge(raw: sqlite3.Connection) -> None:
        seq, data = raw.execute("SELECT seq, data FROM records WHERE type = 'checkpoint' ORDER BY seq DESC").fetchone()
        record = orjson.loads(data)
        said = orjson.loads(base64.b64decode(record["body"]["envelope"]["payload"]))
        record["body"]["envelope"] = Signer.fresh().envelope(statement({**said, "at": 1.0}), CHECKPOINT_TYPE)
        raw.execute("DELETE FROM records WHERE seq > ?", (seq,))
        raw.execute("UPDATE records SET data = ? WHERE seq = ?", (orjson.dumps(record), seq))

    store.tamper(forge)
    found, _ = store.check()
    assert found.fault is not None
    assert "not signed" in found.fault.reason


@pytest.mark.rule("evidence.rotation")
async def test_a_rotated_key_is_followed_by_who_pinned_the_first_and_the_old_one_alone_signs_nothing_new(
    store: Store,
) -> None:
    async with store.open() as (journal, checkpoints):
        before, fresh = await checkpoints.rotate(None)
        assert before.id == store.first.id
        await journal.record("state.changed", {"kind": "test", "subject": "x", "state": "y", "n": 100})
        envelope = await checkpoints.write()
        assert envelope is not None
        assert verify(envelope, [load_public(fresh.pem.encode())], CHECKPOINT_TYPE)
    found, signatures = store.check(store.first)
    assert found.fault is None
    assert signatures.checked == 5
    assert store.check(fresh)[0].fault is not None, "the new key alone did not sign the beginning"


@pytest.mark.rule("evidence.mutations")
async def test_every_changed_byte_removal_and_swap_of_the_log_is_found(store: Store) -> None:
    with read_only(store.path) as raw:
        lines = list(queries.export_lines(raw))
    kept = read_envelopes(store.kept)

    def found(changed: list[bytes]) -> bool:
        return queries.verify_lines(changed, Signatures([store.first], kept)).fault is not None

    assert not found(lines)
    signed = Signatures([store.first], kept)
    assert queries.verify_lines(lines, signed).fault is None
    for index, line in enumerate(lines):
        assert found([*lines[:index], *lines[index + 1 :]]) or index > signed.signed_up_to, f"line {index} removed"
        if index and index < len(lines) - 1:
            assert found([*lines[: index - 1], lines[index], lines[index - 1], *lines[index + 1 :]]), f"{index} swapped"
        if index < signed.signed_up_to:
            for place in range(len(line)):
                flipped = line[:place] + bytes([line[place] ^ 1]) + line[place + 1 :]
                assert found([*lines[:index], flipped, *lines[index + 1 :]]), (index, place, line)
