"""A large store with checkpoints, dropped ranges and erased payloads: whatever is changed in it behind its back is found."""

import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from benchmarks.evidence import BEGAN, PACE, fill
from gateway.adapters import queries, retention
from gateway.adapters.checkpoints import Checkpoints, EvidenceSettings, Signatures
from gateway.adapters.journal import open_journal
from gateway.adapters.retention import Retention, RetentionSettings
from gateway.adapters.signing import Signer
from gateway.model.call import Risk
from gateway.model.recording import CallFilter
from tests.evidence.test_retention import SetClock
from tests.journal.building import a_call, begin, end

CALLS = 1200

ROLES = ("request", "response")


class Sealed:
    """The store, and what a verifier holds."""

    def __init__(self, path: Path) -> None:
        self.path, self.signer = path, Signer.fresh()
        self.held: list[Mapping[str, Any]] = []
        fill(path, CALLS, self.signer, every=100)
        anyio.run(self._used)

    async def _used(self) -> None:
        """A range dropped, some payloads erased, a large one compressed, and a last checkpoint, which the verifier keeps."""
        clock = SetClock()
        clock.at = BEGAN + CALLS * PACE
        settings = RetentionSettings(retain_seconds=0.7 * CALLS * PACE)
        async with open_journal(self.path, clock=clock, kinds=retention.WRITES) as journal:
            keeping = Retention(journal=journal, signer=self.signer, clock=clock, settings=lambda: settings)
            assert await keeping.apply() > 100
            for call in (await journal.read(queries.list_calls, CallFilter(), limit=50))[::10]:
                await keeping.erase(call.id, ROLES, "otto")
            large = a_call(Risk.WRITE, {"text": "large " * 4000})
            await journal.begin(begin(large))
            await journal.end(end(large, at=clock.at))
            checkpoints = Checkpoints(
                journal=journal, signer=self.signer, clock=clock, settings=EvidenceSettings, directory=self.path.parent
            )
            envelope = await checkpoints.write()
            assert envelope is not None
            self.held = [envelope]

    def check(self, raw: sqlite3.Connection) -> queries.Verification:
        return queries.verify(raw, signatures=Signatures([self.signer.public], self.held))


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return Sealed(tmp_path_factory.mktemp("mutations") / "gateway.db")


@pytest.fixture
def raw(sealed: Sealed) -> Iterator[sqlite3.Connection]:
    raw = sqlite3.connect(sealed.path, isolation_level=None)
    yield raw
    raw.close()


def _flipped(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]


def _flip_record(raw: sqlite3.Connection, seq: int, chance: random.Random) -> object:
    (data,) = raw.execute("SELECT data FROM records WHERE seq = ?", (seq,)).fetchone()
    return raw.execute("UPDATE records SET data = ? WHERE seq = ?", (_flipped(data, chance), seq))


def _remove_record(raw: sqlite3.Connection, seq: int, chance: random.Random) -> object:
    return raw.execute("DELETE FROM records WHERE seq = ?", (seq,))


def _swap_records(raw: sqlite3.Connection, seq: int, chance: random.Random) -> object:
    rows = raw.execute("SELECT data FROM records WHERE seq IN (?, ?) ORDER BY seq", (seq, seq + 1)).fetchall()
    raw.execute("UPDATE records SET data = ? WHERE seq = ?", (rows[1][0], seq))
    return raw.execute("UPDATE records SET data = ? WHERE seq = ?", (rows[0][0], seq + 1))


def _retype_record(raw: sqlite3.Connection, seq: int, chance: random.Random) -> object:
    return raw.execute("UPDATE records SET type = type || 's' WHERE seq = ?", (seq,))


def _cut(raw: sqlite3.Connection, seq: int, chance: random.Random) -> object:
    return raw.execute("DELETE FROM records WHERE seq >= ?", (seq,))


def _cut_beginning(raw: sqlite3.Connection, seq: int, chance: random.Random) -> object:
    return raw.execute("DELETE FROM records WHERE seq <= ?", (seq,))


def _with_payload(raw: sqlite3.Connection, seq: int, role: str) -> tuple[int, bytes, bytes] | None:
    found: tuple[int, bytes, bytes] | None = raw.execute(
        f"SELECT seq, {role}_salt, {role} FROM payloads WHERE seq >= ? AND {role} IS NOT NULL ORDER BY seq LIMIT 1",
        (seq,),
    ).fetchone()
    return found


def _flip_payload(raw: sqlite3.Connection, seq: int, chance: random.Random) -> object:
    role = chance.choice(ROLES)
    if (found := _with_payload(raw, seq, role)) is None:
        return None
    return raw.execute(f"UPDATE payloads SET {role} = ? WHERE seq = ?", (_flipped(found[2], chance), found[0]))


def _flip_salt(raw: sqlite3.Connection, seq: int, chance: random.Random) -> object:
    role = chance.choice(ROLES)
    if (found := _with_payload(raw, seq, role)) is None:
        return None
    return raw.execute(f"UPDATE payloads SET {role}_salt = ? WHERE seq = ?", (_flipped(found[1], chance), found[0]))


def _remove_payload(raw: sqlite3.Connection, seq: int, chance: random.Random) -> object:
    role = chance.choice(ROLES)
    if (found := _with_payload(raw, seq, role)) is None:
        return None
    return raw.execute(
        f"UPDATE payloads SET {role} = NULL, {role}_salt = NULL, {role}_encoding = NULL WHERE seq = ?", (found[0],)
    )


def _call_it_redacted(raw: sqlite3.Connection, seq: int, chance: random.Random) -> object:
    role = chance.choice(ROLES)
    if (found := _with_payload(raw, seq, role)) is None:
        return None
    return raw.execute(
        f"UPDATE payloads SET {role} = ?, {role}_encoding = 'redacted', {role}_salt = ? WHERE seq = ?",
        (b"{}", b'["x"]', found[0]),
    )


def _move_payloads(raw: sqlite3.Connection, seq: int, chance: random.Random) -> object:
    if (found := _with_payload(raw, seq, "request")) is None:
        return None
    raw.execute("DELETE FROM payloads WHERE seq = ?", (found[0] + 1,))
    return raw.execute("UPDATE payloads SET seq = seq + 1 WHERE seq = ?", (found[0],))


MUTATIONS: list[Callable[[sqlite3.Connection, int, random.Random], object]] = [
    _flip_record, _flip_record, _remove_record, _swap_records, _retype_record, _cut, _cut_beginning, _flip_payload, _flip_salt,
    _remove_payload, _call_it_redacted, _move_payloads,
]  # fmt: skip


@pytest.mark.rule("evidence.mutations-large")
@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_what_is_changed_in_a_large_store_is_found(
    sealed: Sealed, raw: sqlite3.Connection, mutate: Callable[[sqlite3.Connection, int, random.Random], object]
) -> None:
    whole = sealed.check(raw)
    assert whole.fault is None
    assert whole.first_seq > 100
    assert (whole.erased, whole.unproven, whole.first_unproven) == (10, 0, None)
    signed = orjson.loads(
        raw.execute("SELECT data FROM records WHERE type = 'checkpoint' ORDER BY seq DESC").fetchone()[0]
    )
    chance, tried = random.Random(mutate.__name__), 0
    for _ in range(12):
        seq = chance.randrange(whole.first_seq + 1, signed["body"]["seq"])
        raw.execute("BEGIN")
        if mutate(raw, seq, chance) is not None and raw.total_changes:
            found = sealed.check(raw)
            assert found.fault is not None or found.first_unproven is not None or found.unproven, (mutate, seq)
            if found.fault is not None and mutate in (_flip_record, _remove_record, _swap_records, _retype_record):
                assert seq <= found.fault.seq <= seq + 1, (seq, found.fault)
            tried += 1
        raw.execute("ROLLBACK")
    assert tried > 3
    assert sealed.check(raw).fault is None


@pytest.mark.rule("evidence.mutations-large")
def test_checkpoints_and_tombstones_are_found_changed(sealed: Sealed, raw: sqlite3.Connection) -> None:
    chance = random.Random(3)
    rows = raw.execute("SELECT seq FROM records WHERE type IN ('checkpoint', 'tombstone') ORDER BY seq").fetchall()
    for (seq,) in rows[:-1]:
        for mutate in (_flip_record, _remove_record):
            raw.execute("BEGIN")
            mutate(raw, seq, chance)
            found = sealed.check(raw)
            assert found.fault is not None, (mutate, seq)
            raw.execute("ROLLBACK")
