"""Retention: what is too old or too much goes, in whole sealed ranges, and a signed tombstone says that it went by right.

Theory of operation
-------------------
Checkpoints divide the chain into ranges. Only ranges that end with a checkpoint go, the oldest first, and never the newest
checkpoint. Before anything is deleted, a *tombstone* is written into the chain: a signed statement that everything up to
record N, whose bytes hash to H, was dropped.

    1 … … … N │ N+1 … checkpoint … tombstone(1…N, H) … checkpoint …
    ─ gone ── │   `prev` of N+1 is H

A chain that begins with N+1 therefore still verifies: its beginning is what a signed statement accounts for. The statement
also carries the hash of the last checkpoint that went, so that the chain of checkpoints stays closed, and the rotations of
keys that went, so that who pinned the first key still gets to the newest. A tombstone covers all that earlier ones did, so
that earlier ones may go.

Deletion follows in small batches, each a transaction of its own in the journal's writer thread, whose length follows from
how long the one before took; between two of them the writer commits what calls wait for. A process that is killed meanwhile
leaves a chain that begins somewhere in the range, which verifies too, and the next start goes on. Freed pages are used
again; beyond a sixteenth of the file they are given back to the file system, in small steps as well.

With the records go the holds, signed decisions, notifications and dead letters of their time that are over.

One payload is erased likewise (`erase`): the statement and the erasure are one transaction.
"""

import base64
import hashlib
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import anyio
import orjson

from gateway.adapters import records
from gateway.adapters.checkpoints import payload_digest
from gateway.adapters.signing import TOMBSTONE_TYPE, Signer, statement
from gateway.adapters.sqlite import transaction
from gateway.adapters.writes import Statement, WriteKind
from gateway.model.call import Call
from gateway.model.errors import GatewayError, JournalUnavailable, WriteConflict
from gateway.model.verdict import Write
from gateway.ports import Clock

logger = logging.getLogger("gateway.retention")

CHECK_SECONDS: Final = 60.0
"""Between two looks at age and size."""

SLACK: Final = 1 / 50
"""Of `retain`, at most an hour: what goes by age goes in ranges of about this length, not one a minute."""

MARGIN: Final = 0.05
"""Of `max_bytes`: so much is freed beyond it, for the same reason."""

BATCH_SECONDS: Final = 0.005
"""How long one batch of deletions should keep the writer."""

REST: Final = 4.0
"""How long it pauses after a batch, as a multiple of what the batch took."""

MOST_RECORDS: Final = 1000
"""In one batch."""

BATCH_BYTES: Final = 2_000_000
"""In one batch: pages of large payloads are read one by one when they are freed."""

VACUUM_PAGES: Final = 64
"""Given back to the file system at once; each may mean that another page is moved."""

SPARE: Final = 1 / 16
"""Of the file's pages, what may stay free: what is recorded next is written there."""

LOCKED_SECONDS: Final = 0.02
"""How long overwriting the write-ahead log may wait for a reader, and calls for it."""

OVERWRITE_TRIES: Final = 50
OVERWRITE_SECONDS: Final = 0.1
"""How often that is tried, and the pause between."""

Reason = Literal["age", "size"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """`[recording] retain` and `max_bytes`."""

    retain_seconds: float | None = None
    max_bytes: int | None = None


class Store(Protocol):
    """What is needed of the journal."""

    async def record(self, type: str, body: Mapping[str, Any], writes: tuple[Write, ...] = ()) -> None: ...

    async def read(self, query: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...

    async def between(self, function: Callable[..., Any], *args: Any) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A range that has to go."""

    last: int
    reason: Reason


class EraseRefused(GatewayError):
    """A payload that cannot be erased; the text says why."""


@asynccontextmanager
async def _nothing_beside(_: str) -> AsyncIterator[tuple[Write, ...]]:
    yield ()


class Retention:
    """Drops what is due from one store, and erases single payloads."""

    def __init__(
        self,
        *,
        journal: Store,
        signer: Signer,
        clock: Clock,
        settings: Callable[[], RetentionSettings],
        check_seconds: float = CHECK_SECONDS,
        dropped: Callable[[float], None] = lambda before: None,
        beside: Callable[[str], AbstractAsyncContextManager[tuple[Write, ...]]] = _nothing_beside,
    ) -> None:
        self._journal, self._signer, self._clock = journal, signer, clock
        self._settings, self._check_seconds = settings, check_seconds
        self._dropped = dropped
        """Told that what ended before an instant went."""
        self._beside = beside
        """Erases what is held of a call's request beside the records: the writes, which are durable when it is left."""

    async def run(self) -> None:
        """Look now and at intervals; a store that cannot be written is reported and tried again."""
        while True:
            try:
                await self.apply()
            except JournalUnavailable as error:
                logger.error("records that are too old or too many could not be dropped: %s", error)
            except (LookupError, TypeError) as error:
                logger.error("nothing can be dropped, a checkpoint or tombstone of the store is damaged: %r", error)
            await anyio.sleep(self._check_seconds)

    async def apply(self) -> int:
        """Drop what is due. How many records went.

        Raises:
            JournalUnavailable: the store cannot be read or written; what went so far is accounted for.
        """
        settings, dropped = self._settings(), 0
        stated = await self._journal.read(_stated)
        if stated is not None:
            dropped += await self._drop(int(stated["last"]))  # what a process before did not finish
        while (found := await self._journal.read(due, settings, self._clock.time_ns() / 1e9)) is not None:
            await self._state(found)
            dropped += await self._drop(found.last)
        if dropped:
            await self._drop_beside()
        await self._give_back()
        return dropped

    async def erase(self, call_id: str, roles: Sequence[str], by: str) -> Mapping[str, Any]:
        """Erase payloads of one recorded call. What was erased: `{call_id, seq, erased: [role]}`.

        Raises:
            EraseRefused: no such call, or none of its payloads is there.
            JournalUnavailable: it is not durable; nothing was erased.
        """
        found = await self._journal.read(_erasable, call_id)
        if found is None:
            raise EraseRefused(f"there is no recorded call {call_id!r}")
        seq, writer, present = found
        wanted = [role for role in roles if role in present]
        if not wanted:
            there = ", ".join(present) or "nothing any more"
            raise EraseRefused(f"of call {call_id} nothing of {', '.join(roles)} is kept; there is {there}")
        for role in wanted:
            said = {
                "v": 1,
                "kind": "payload",
                "writer": writer,
                "seq": seq,
                "role": role,
                "sha256": present[role],
                "at": self._clock.time_ns() / 1e9,
                "by": by,
            }
            body = {
                "kind": "payload",
                "seq": seq,
                "role": role,
                "call_id": call_id,
                "sha256": present[role],
                "by": by,
                "envelope": self._signer.envelope(statement(said), TOMBSTONE_TYPE),
            }
            write = Write(kind="payload.erased", data={"seq": seq, "role": role})
            beside = self._beside(call_id) if role == "request" else _nothing_beside(call_id)
            try:
                async with beside as writes:
                    await self._journal.record("tombstone", body, (write, *writes))
            except WriteConflict:
                raise EraseRefused(f"the {role} of call {call_id} went meanwhile") from None
        await self._overwrite()
        return {"call_id": call_id, "seq": seq, "erased": wanted}

    async def _state(self, found: Due) -> None:
        """Write the tombstone of a range, before any of it goes."""
        facts = await self._journal.read(_range, found.last)
        said = {**facts, "v": 1, "kind": "range", "at": self._clock.time_ns() / 1e9, "reason": found.reason}
        await self._journal.record(
            "tombstone",
            {
                "kind": "range",
                "first": 1,
                "last": found.last,
                "sha256": facts["sha256"],
                "reason": found.reason,
                "envelope": self._signer.envelope(statement(said), TOMBSTONE_TYPE),
            },
        )
        logger.info("records up to %d are dropped for their %s", found.last, found.reason)

    async def _overwrite(self) -> None:
        """What was erased is left in no file of the store, as soon as nobody reads the store as it was before."""
        for _ in range(OVERWRITE_TRIES):
            try:
                if await self._journal.between(_overwrite_wal):
                    return
            except JournalUnavailable as error:
                logger.warning("what was erased may stand in the write-ahead log until it is next written: %s", error)
                return
            await anyio.sleep(OVERWRITE_SECONDS)
        logger.warning("what was erased stands in the write-ahead log until whoever reads the store now has ended")

    async def _give_back(self) -> None:
        """Make the file smaller where much of it is free."""
        while True:
            began = time.perf_counter()
            if not await self._journal.between(_vacuum):
                return
            await anyio.sleep((time.perf_counter() - began) * REST)

    async def _drop_beside(self) -> None:
        """What lies apart from the records and is over goes with the records of its time: holds, decisions, letters."""
        before = await self._journal.read(_oldest)
        more = True
        while more:
            more = await self._journal.between(_drop_ended, before, MOST_RECORDS)
            await anyio.sleep(BATCH_SECONDS * REST)
        self._dropped(before)

    async def _drop(self, last: int) -> int:
        rows, dropped = 100, 0
        while True:
            began = time.perf_counter()
            gone = await self._journal.between(_drop_batch, last, rows)
            if gone == 0:
                break
            dropped += gone
            took = time.perf_counter() - began
            if took > BATCH_SECONDS:
                rows = max(10, rows // 2)
            elif gone == rows:
                rows = min(MOST_RECORDS, rows * 2)
            await anyio.sleep(took * REST)
        return dropped


# --- what is due -------------------------------------------------------------------------------------------------


def due(raw: sqlite3.Connection, settings: RetentionSettings, now: float) -> Due | None:
    """The oldest sealed ranges that are too old, or too much, as one range."""
    if settings.retain_seconds is None and settings.max_bytes is None:
        return None
    oldest = raw.execute("SELECT seq, at FROM records ORDER BY seq LIMIT 1").fetchone()
    newest = raw.execute(f"{_CHECKPOINTS} ORDER BY seq DESC LIMIT 1").fetchone()
    if oldest is None or newest is None:
        return None
    first, at = oldest
    if settings.retain_seconds is not None:
        slack = min(3600.0, settings.retain_seconds * SLACK)
        if at < now - settings.retain_seconds - slack:
            last = 0
            for seq, checked_at in raw.execute(f"{_CHECKPOINTS} AND seq < ? ORDER BY seq", (newest[0],)):
                if checked_at >= now - settings.retain_seconds:
                    break
                last = seq
            if last:
                return Due(last=last, reason="age")
    if settings.max_bytes is not None and (used := used_bytes(raw)) > settings.max_bytes:
        share = (used - settings.max_bytes * (1 - MARGIN)) / used
        head = raw.execute("SELECT max(seq) FROM records").fetchone()[0]
        wanted = first + int((head - first + 1) * share)
        row = (
            raw.execute(f"{_CHECKPOINTS} AND seq >= ? AND seq < ? ORDER BY seq LIMIT 1", (wanted, newest[0])).fetchone()
            or raw.execute(f"{_CHECKPOINTS} AND seq < ? ORDER BY seq DESC LIMIT 1", (newest[0],)).fetchone()
        )
        if row is not None:
            return Due(last=row[0], reason="size")
    return None


_CHECKPOINTS = "SELECT seq, at FROM records WHERE type = 'checkpoint' AND type <> 'call'"
"""The second condition is what lets SQLite use the partial index."""


def used_bytes(raw: sqlite3.Connection) -> int:
    """Of the store's pages, those that hold something."""
    size, count, free = _pages(raw)
    return size * (count - free)


def _pages(raw: sqlite3.Connection) -> tuple[int, int, int]:
    """Bytes of a page, pages of the file, and those of them that are free."""
    size, count, free = (
        int(raw.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_size", "page_count", "freelist_count")
    )
    return size, count, free


def tombstone(raw: sqlite3.Connection) -> Mapping[str, Any] | None:
    """The body of the tombstone that accounts for the beginning of the chain; None where nothing was dropped."""
    for (data,) in raw.execute(
        "SELECT data FROM records WHERE type = 'tombstone' AND type <> 'call' ORDER BY seq DESC"
    ):
        body: Mapping[str, Any] = orjson.loads(data)["body"]
        if body["kind"] == "range":
            return body
    return None


def _stated(raw: sqlite3.Connection) -> Mapping[str, Any] | None:
    """The newest tombstone of a range, where some of the range is still there."""
    found = tombstone(raw)
    if found is None:
        return None
    left = raw.execute("SELECT 1 FROM records WHERE seq <= ? LIMIT 1", (found["last"],)).fetchone()
    return None if left is None else found


def _range(raw: sqlite3.Connection, last: int) -> dict[str, Any]:
    """What a tombstone says of all records up to `last`, which is a checkpoint."""
    (data,) = raw.execute("SELECT data FROM records WHERE seq = ?", (last,)).fetchone()
    checkpoint = orjson.loads(data)
    rotations: list[Any] = []
    before = tombstone(raw)
    if before is not None:
        rotations.extend(_payload_of(before["envelope"])["rotations"])
    for (row,) in raw.execute(
        "SELECT data FROM records WHERE type = 'checkpoint' AND type <> 'call' AND seq <= ? ORDER BY seq", (last,)
    ):
        envelope = orjson.loads(row)["body"]["envelope"]
        if "next_key" in _payload_of(envelope) and envelope not in rotations:
            rotations.append(envelope)
    return {
        "writer": checkpoint["writer"],
        "first": 1,
        "last": last,
        "sha256": hashlib.sha256(data).hexdigest(),
        "previous": payload_digest(checkpoint["body"]["envelope"]),
        "rotations": rotations,
    }


def _payload_of(envelope: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(base64.b64decode(envelope["payload"]))
    return found


def _erasable(raw: sqlite3.Connection, call_id: str) -> tuple[int, str, dict[str, str]] | None:
    """Place and writer of a call's record, and the hashes of those of its payloads that are there, by role."""
    row = raw.execute("SELECT seq FROM calls WHERE id = ? ORDER BY seq DESC LIMIT 1", (call_id,)).fetchone()
    if row is None:
        return None
    (data,) = raw.execute("SELECT data FROM records WHERE seq = ?", row).fetchone()
    kept = raw.execute("SELECT request_salt, response_salt, exchange_salt FROM payloads WHERE seq = ?", row).fetchone()
    fields = orjson.loads(data)
    body, present = fields["body"], {}
    for role, salt in zip(records.ROLES, kept or (), strict=False):
        said = body["command"]["request"] if role == "request" else body[role]
        if salt is not None and said is not None and said["sha256"] is not None:
            present[str(role)] = str(said["sha256"])
    return row[0], fields["writer"], present


# --- in the writer's thread --------------------------------------------------------------------------------------


def _drop_batch(raw: sqlite3.Connection, last: int, rows: int) -> int:
    """Delete up to `rows` of the oldest records up to `last`, with what lies beside them. How many."""
    found = raw.execute(
        "SELECT seq, length(data) + coalesce(length(request), 0) + coalesce(length(response), 0)"
        " + coalesce(length(exchange), 0) FROM records LEFT JOIN payloads USING (seq) WHERE seq <= ? ORDER BY seq LIMIT ?",
        (last, rows),
    ).fetchall()
    upto = size = count = 0
    for seq, length in found:
        if count and size + length > BATCH_BYTES:
            break
        upto, size, count = seq, size + length, count + 1
    if count == 0:
        return 0
    with transaction(raw):
        sessions = raw.execute("SELECT DISTINCT session_id FROM calls WHERE seq <= ?", (upto,)).fetchall()
        for table in ("calls", "payloads", "records"):
            raw.execute(f"DELETE FROM {table} WHERE seq <= ?", (upto,))
        raw.executemany(
            "DELETE FROM sessions WHERE id = ? AND NOT EXISTS (SELECT 1 FROM calls WHERE session_id = sessions.id)",
            sessions,
        )
    return count


_ENDED: Final = (
    ("holds", "id", "state IN ('expired', 'void', 'lapsed', 'delivered')"),
    ("hold_decisions", "number", "hold_id NOT IN (SELECT id FROM holds)"),
    ("notifications", "id", "state <> 'pending'"),
    ("dead_letters", "call_id", "state IN ('retried', 'dropped')"),
)
"""Tables of what lies apart from the records, their keys, and what of them is over."""


def _oldest(raw: sqlite3.Connection) -> float:
    """When the oldest record was written that is there."""
    return float(raw.execute("SELECT at FROM records ORDER BY seq LIMIT 1").fetchone()[0])


def _drop_ended(raw: sqlite3.Connection, before: float, rows: int) -> bool:
    """Delete some of what ended before an instant. Whether there may be more."""
    more = False
    with transaction(raw):
        for table, key, over in _ENDED:
            chosen = f"SELECT {key} FROM {table} WHERE at < ? AND {over} LIMIT ?"
            gone = raw.execute(f"DELETE FROM {table} WHERE {key} IN ({chosen})", (before, rows)).rowcount
            more = more or gone == rows
    return more


def _vacuum(raw: sqlite3.Connection) -> bool:
    """Give some free pages back to the file system. Whether there were any to give."""
    _, count, free = _pages(raw)
    if free <= count * SPARE:
        return False
    # As a script: `execute` runs this pragma's first step alone, which is one page.
    raw.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
    return _pages(raw)[2] < free  # a store that was not made by a gateway may not be able to


def _overwrite_wal(raw: sqlite3.Connection) -> bool:
    """Empty the write-ahead log, which may still hold a payload. Whether it is empty: a reader may need it now."""
    before = raw.execute("PRAGMA busy_timeout").fetchone()[0]
    raw.execute(f"PRAGMA busy_timeout={int(LOCKED_SECONDS * 1000)}")
    try:
        busy, _, _ = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        raw.execute(f"PRAGMA busy_timeout={before}")
    return not busy


def _erased(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement]:
    role = records.ROLES[records.ROLES.index(data["role"])]  # a column's name: one of three
    return [
        Statement(
            sql=f"UPDATE payloads SET {role}_salt = NULL, {role}_encoding = NULL, {role} = NULL"
            f" WHERE seq = ? AND {role}_salt IS NOT NULL",
            parameters=(data["seq"],),
            rows=1,
        )
    ]


WRITES: Mapping[str, WriteKind] = {"payload.erased": _erased}
