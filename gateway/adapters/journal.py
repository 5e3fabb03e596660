"""The journal on SQLite: one file, one process, one connection that writes and checkpoints.

Theory of operation
-------------------
Whoever has something to write puts it into a queue and waits for its future. One task takes *everything* that is in the
queue, has it committed in one transaction in the connection's thread, and resolves the futures: while a commit runs the next
batch gathers by itself, so that no artificial window is needed. One call in flight pays one commit; sixty-four share one.

    begin ─┐
    end   ─┼─► queue ─► batch ─► BEGIN … COMMIT (thread) ─► futures
    record ┘             ▲                  │
                         └── meanwhile ─────┘

Reads go another way, since most calls are reads and nobody waits for their outcome. Their begin and their end are appended
to the spool (`gateway.adapters.spool`), from which a later start takes them if this process is killed; the ends linger for
25 milliseconds at most and are committed many at a time. A begin is moved into the store where its call lasts longer than a
second, or when somebody looks, or when the spool is to be emptied.

    begin ─► spool           end ─► spool, and the queue

Durability is chosen per batch: SQLite in WAL mode with `synchronous=NORMAL` survives a killed process, with `FULL` a power
loss too. With `by-risk` a batch of reads alone is `NORMAL`.

The place in the chain (`seq`, `prev`) is given in the transaction, by the one writer, so that what is committed is always an
unbroken chain. What cannot be committed fails its caller with `JournalUnavailable`; the record of an outcome is kept besides
and tried again, since its call has happened.

Exactly one connection writes and checkpoints: SQLite before 3.51.3 can corrupt a WAL that two connections reset at once.
Readers open with `query_only` and never checkpoint.
"""

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import platform
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import anyio
import anyio.to_thread
import msgspec
import orjson

import gateway
from gateway.adapters import records
from gateway.adapters.migrations import STEPS
from gateway.adapters.records import CallFacts, EncodedCall, EncodedCommand, Payload
from gateway.adapters.spool import MOST_BYTES, Spool, SpooledBegin, SpooledCall, SpooledEnd, framed
from gateway.adapters.sqlite import Connection, connect, migrate, transaction
from gateway.adapters.writes import Chained, Statement, WriteKind
from gateway.model.call import Call, Risk
from gateway.model.errors import JournalUnavailable, WriteConflict
from gateway.model.recording import FIRST_PREV, OpenCall, RecordingSettings, RecordType
from gateway.model.verdict import Completed, Write
from gateway.ports import Begin, Clock, End

logger = logging.getLogger("gateway.journal")

Durability = Literal["process", "power", "by-risk"]

T = TypeVar("T")

QUEUED_LIMIT: Final = 4096
"""Entries that may wait for their commit; beyond, the outcomes of reads wait for theirs too."""

LINGER_SECONDS: Final = 0.025
"""How long the outcome of a read waits for company: nobody waits for it, and in the spool it is safe."""

GATHER_SECONDS: Final = 0.005
"""How long a read's end may wait to be encoded together with others: the agent has its answer, and code that runs ten times in
a row runs twice as fast."""

COMPANY: Final = 64
"""Outcomes of reads that are enough company."""

LASTING_SECONDS: Final = 1.0
"""A read that lasts longer has its begin in the store, where other processes can see it."""

SPOOL_BYTES: Final = 4_194_304
"""When so much is in the spool's file, it is emptied."""

UNWRITTEN_LIMIT: Final = 10_000
"""Outcomes kept in memory while the store cannot be written; beyond, nothing more begins."""

RETRY_SECONDS: Final = 1.0
"""Between tries to write what could not be written, when nothing else is to be written."""

IN_A_THREAD_BYTES: Final = 131_072
"""Larger results are hashed and redacted in a thread: the event loop has other calls."""

MEMORY_RECORDS: Final = 100_000
"""Records that a store in memory keeps; older ones go."""

CLOSE_SECONDS: Final = 10.0
"""The bound of the last commit and of closing."""

_TAIL_RECORDS: Final = 1000
"""How many of the newest records are checked at every start."""

_PERSISTENT = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
)
"""Faults of the store itself: the next entry of the batch would meet them too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalStatus:
    """How the journal is doing, for `status` and metrics."""

    queued: int
    """Entries that wait for their commit."""
    lag_seconds: float
    """How long the oldest of them has been waiting."""
    unwritten: int
    """Outcomes that could not be committed and are tried again."""
    committed: int
    """Entries committed since the start."""
    batches: int
    last_commit_seconds: float
    fault: str
    """Why the last commit failed; empty while all is well."""
    seq: int
    """Of the newest record."""


_HOPELESS = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
"""Faults of the entry: it would meet them again."""


class _Entry:
    """One thing to commit."""

    __slots__ = (
        "at",
        "begin",
        "call",
        "ended",
        "error",
        "full",
        "future",
        "moved",
        "queued_ns",
        "record",
        "row",
        "snapshot",
        "survives",
        "writes",
    )

    def __init__(self, *, at: float, full: bool, future: asyncio.Future[None] | None) -> None:
        self.at = at
        self.full = full
        self.future = future
        self.queued_ns = time.monotonic_ns()
        self.call: Call | None = None
        self.begin: tuple[Any, ...] | None = None
        """A row of `begins`."""
        self.moved: _Begun | None = None
        """Whose begin this is, where it comes out of the spool."""
        self.ended: int | None = None
        """The number of the row of `begins` that goes."""
        self.record: tuple[str, bytes] | None = None
        """Type and body."""
        self.row: EncodedCall | None = None
        """What lies beside the record of a call."""
        self.snapshot: tuple[Any, ...] | None = None
        self.writes: tuple[Write, ...] = ()
        self.survives = False
        """Kept and tried again when it cannot be committed."""
        self.error: BaseException | None = None


class _Begun:
    """A call between its begin and its end."""

    __slots__ = (
        "_command",
        "_facts",
        "_settings",
        "_steps",
        "at",
        "at_ns",
        "call_id",
        "idempotent",
        "number",
        "stored",
    )

    def __init__(self, number: int, begin: Begin, facts: CallFacts, settings: RecordingSettings) -> None:
        self.number = number
        self.call_id = begin.call.id
        self.at = begin.at
        self.idempotent = begin.call.entry is not None and begin.call.entry.idempotent
        self.stored = False
        """Its begin is in the store, or on its way there."""
        self.at_ns = time.monotonic_ns()
        self._facts, self._steps, self._settings = facts, tuple(begin.steps), settings
        self._command: EncodedCommand | None = None

    @property
    def command(self) -> EncodedCommand:
        """As it is recorded; encoded when it is first needed."""
        if self._command is None:
            self._command = records.encode_command(self._facts, self._steps, self._settings)
        return self._command

    def raw(self) -> bytes | None:
        """The spool's frame of it as it is, not yet encoded; None where that must not be written, or cannot be."""
        if not records.may_wait(self._facts, self._settings):
            return None
        try:
            frame = framed(SpooledCall(self.call_id, self.at, self.idempotent, self._facts, list(self._steps)))
        except (TypeError, ValueError, OverflowError, RecursionError):
            return None
        if len(frame) > self._settings.max_payload_bytes or records.may_hold_secrets(frame):
            return None
        return frame

    def encoded(self) -> bytes:
        """The spool's frame of it, encoded."""
        return framed(SpooledBegin(*self.row()[1:]))

    def row(self) -> tuple[Any, ...]:
        """Its row of `begins`."""
        command = self.command
        return (
            self.number,
            self.call_id,
            self.at,
            self.idempotent,
            command.command,
            command.trail,
            command.request.commitment,
            *command.request.columns(),
        )


class SqlJournal:
    """Implements `ports.Journal` (and what status, recovery and stages need besides). Make one with `open_journal`."""

    def __init__(
        self,
        connection: Connection,
        reader: Connection | None,
        *,
        spool: Spool | None,
        clock: Clock,
        durability: Durability,
        settings: RecordingSettings,
        kinds: Mapping[str, WriteKind],
        keep_records: int | None,
    ) -> None:
        self.settings = settings
        """What is recorded; replaced as a whole by a reload."""
        self.recovered: tuple[OpenCall, ...] = ()
        """The calls that the process before left behind; their records are written."""
        self._connection = connection
        self._reader = reader or connection
        self._spool = spool
        """None where the store is in memory: nothing there survives anything."""
        self._clock = clock
        self._durability = durability
        self._kinds = dict(kinds)
        self._keep_records = keep_records
        self._queue: list[_Entry] = []
        self._ends: list[End] = []
        """Of reads, not yet encoded."""
        self._unwritten: list[_Entry] = []
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._started: asyncio.Future[None] | None = None
        self._closing = False
        self._begun = 0
        """The number of the newest row of `begins`."""
        self._open: dict[str, _Begun] = {}
        """By call id: the calls between begin and end."""
        self._spooled: dict[str, _Begun] = {}
        """Those of them whose begin is in the spool alone, the oldest first."""
        self._aging: asyncio.TimerHandle | None = None
        self._move_all = False
        """The next batch takes every begin out of the spool."""
        self._clearing = False
        """The spool's other file is emptied with the next batch that is committed whole."""
        self._writer = ""
        self._seq = 0
        self._prev = FIRST_PREV
        self._full: bool | None = None
        self._committing_since_ns: int | None = None
        self._committed = 0
        self._batches = 0
        self._last_commit_seconds = 0.0
        self._fault = ""

    # --- the port ---

    async def begin(self, begin: Begin) -> None:
        """As `ports.Journal.begin`.

        Raises:
            JournalUnavailable: it is not durable.
            WriteConflict: a write of the call met another state than its stage saw; nothing was committed.
        """
        if len(self._unwritten) >= UNWRITTEN_LIMIT:
            raise JournalUnavailable(f"{len(self._unwritten)} outcomes wait to be written: {self._fault}")
        if self._closing:
            raise JournalUnavailable("the journal is closed")
        call = begin.call
        self._begun += 1
        begun = _Begun(self._begun, begin, records.facts_of(call), self.settings)
        full = self._is_full(call)
        if call.risk is Risk.READ and not (full or begin.writes or self._fault) and self._spooling(begun):
            self._open[call.id] = self._spooled[call.id] = begun
            return
        begun.stored = True
        self._open[call.id] = begun
        entry = self._entry(begin.at, full=full)
        entry.call, entry.writes, entry.begin = call, begin.writes, begun.row()
        try:
            await self._put(entry)
        except (JournalUnavailable, WriteConflict):
            self._open.pop(call.id, None)
            raise

    async def end(self, end: End) -> None:
        """As `ports.Journal.end`. What could not be committed is kept and tried again, whatever is raised."""
        call = end.call
        large = _size(end) > IN_A_THREAD_BYTES
        if call.risk is Risk.READ and not large and len(self._queue) + len(self._ends) <= QUEUED_LIMIT:
            # Nobody waits for it, the agent least of all: it is taken in a moment later, with others.
            self._ends.append(end)
            if len(self._ends) == 1:
                asyncio.get_running_loop().call_later(GATHER_SECONDS, self._take_ends)
            return
        begun = self._open.get(call.id)
        command = None if begun is None else begun.command
        if large:
            encoded = await anyio.to_thread.run_sync(records.encode_end, end, self.settings, command)
        else:
            encoded = records.encode_end(end, self.settings, command)
        waits = call.risk is not Risk.READ or len(self._queue) > QUEUED_LIMIT
        entry = self._ended(end, encoded, waits=waits)
        if waits:
            await self._put(entry)
        else:
            self._queue_end(end, encoded, entry)
            self._spool_held()

    def _take_ends(self) -> None:
        """Encode and queue the ends that came since."""
        ends, self._ends = self._ends, []
        for end in ends:
            begun = self._open.get(end.call.id)
            try:
                encoded = records.encode_end(end, self.settings, None if begun is None else begun.command)
            except Exception:  # what was begun stays so, and is in doubt after a restart
                logger.exception("the end of call %s is not recorded", end.call.id)
                continue
            self._queue_end(end, encoded, self._ended(end, encoded, waits=False))
        self._spool_held()

    def _ended(self, end: End, encoded: EncodedCall, *, waits: bool) -> _Entry:
        """The entry of an end; its begin is forgotten with it."""
        entry = self._entry(end.at, full=self._is_full(end.call), waits=waits)
        entry.call, entry.writes, entry.survives = end.call, end.writes, True
        entry.record, entry.row = (RecordType.CALL, encoded.body), encoded
        begun = self._open.pop(end.call.id, None)
        if begun is not None:
            if begun.stored:
                entry.ended = begun.number
            else:
                del self._spooled[end.call.id]
        return entry

    def _queue_end(self, end: End, encoded: EncodedCall, entry: _Entry) -> None:
        """Have an end committed for which nobody waits."""
        self._queue.append(entry)
        if not (entry.full or end.writes) and self._spool is not None and encoded.stored_bytes < MOST_BYTES:
            self._spool.hold(SpooledEnd(end.call.id, end.at, encoded.body, encoded.columns, encoded.summary))
        if len(self._queue) >= COMPANY:
            self._wake.set()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._linger_over)

    def _spool_held(self) -> None:
        """Ends that no begin took along go into the spool."""
        if self._spool is not None and self._spool.held:
            try:
                self._spool.append()
            except OSError as error:
                logger.error("the spool cannot be written: %s", error)

    async def record(self, type: str, body: Mapping[str, Any], writes: tuple[Write, ...] = ()) -> None:
        """As `ports.Journal.record`.

        Args:
            writes: what is committed with it, as with a call's begin.

        Raises:
            JournalUnavailable: it is not durable.
            WriteConflict: a write met another state; nothing was committed.
            ValueError: the type is none of `RecordType`.
        """
        entry = self._entry(self._clock.time_ns() / 1e9, full=self._durability != "process")
        entry.record = (RecordType(type), records.encode_body(body))
        entry.writes = writes
        await self._put(entry)

    # --- beside the port ---

    async def keep(self, kind: str, content: bytes) -> str:
        """Stores a snapshot (a configuration, a policy module, a definition) once, and returns its SHA-256 in hex.

        Raises:
            JournalUnavailable: it is not durable.
        """
        sha256 = records.digest(content)
        entry = self._entry(self._clock.time_ns() / 1e9, full=self._durability != "process")
        entry.snapshot = (sha256, kind, entry.at, *records.packed(content))
        await self._put(entry)
        return sha256

    async def read(self, query: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """The result of `query(connection, ...)`, run beside the writer on a connection that cannot write.

        What was written before it is there, be it only in the spool till now.

        Raises:
            JournalUnavailable: the store cannot be read.
        """
        with contextlib.suppress(JournalUnavailable):
            await self._flush()
        try:
            return await self._reader.run(query, self._reader.raw, *args, **kwargs)
        except (sqlite3.Error, ValueError) as error:
            raise JournalUnavailable(f"the store cannot be read: {error}") from error

    async def between(self, function: Callable[..., T], *args: Any) -> T:
        """The result of `function(connection, ...)`, run in the writer's thread between two commits.

        It opens and ends its own transaction, must be short, and leaves the chain's head alone. The spool is empty before.

        Raises:
            JournalUnavailable: the store cannot be written.
        """
        with contextlib.suppress(JournalUnavailable):
            await self._flush()
        try:
            return await self._connection.run(function, self._connection.raw, *args)
        except (sqlite3.Error, ValueError) as error:
            raise JournalUnavailable(f"the store cannot be written: {error}") from error

    @property
    def status(self) -> JournalStatus:
        """How it is doing, now."""
        since = self._committing_since_ns
        oldest = since if since is not None else self._queue[0].queued_ns if self._queue else None
        return JournalStatus(
            queued=len(self._queue) + len(self._ends),
            lag_seconds=0.0 if oldest is None else (time.monotonic_ns() - oldest) / 1e9,
            unwritten=len(self._unwritten),
            committed=self._committed,
            batches=self._batches,
            last_commit_seconds=self._last_commit_seconds,
            fault=self._fault,
            seq=self._seq,
        )

    # --- the queue ---

    def _entry(self, at: float, *, full: bool, waits: bool = True) -> _Entry:
        return _Entry(at=at, full=full, future=asyncio.get_running_loop().create_future() if waits else None)

    def _is_full(self, call: Call) -> bool:
        """Whether the call's entries have to survive a power loss."""
        match self._durability:
            case "process":
                return False
            case "power":
                return True
            case _:
                return call.risk is not Risk.READ

    def _spooling(self, begun: _Begun) -> bool:
        """Append a begin to the spool; False where the store has to take it."""
        spool = self._spool
        if spool is not None:
            frame = begun.raw() or begun.encoded()
            if len(frame) > MOST_BYTES:
                return False
            try:
                spool.append(frame)
            except OSError as error:
                logger.error("the spool cannot be written: %s", error)
                return False
            if spool.size > SPOOL_BYTES and not spool.pending:
                self._wake.set()
        if self._aging is None:
            self._aging = asyncio.get_running_loop().call_later(LASTING_SECONDS, self._aged)
        return True

    async def _flush(self) -> None:
        """Returns once everything that was begun or ended is in the store, and the spool is empty of it.

        Raises:
            JournalUnavailable: the store cannot be written.
        """
        self._take_ends()
        busy = self._queue or self._unwritten or self._spooled or self._committing_since_ns is not None
        if not self._closing and (busy or (self._spool is not None and (self._spool.size or self._spool.pending))):
            self._move_all = True
            await self._put(self._entry(self._clock.time_ns() / 1e9, full=False))

    async def _put(self, entry: _Entry) -> None:
        """Returns once the entry is committed."""
        if self._closing:
            raise JournalUnavailable("the journal is closed")
        assert entry.future is not None
        self._take_ends()  # what was said before stands before
        self._queue.append(entry)
        self._wake.set()
        await entry.future

    async def write_queue(self) -> None:
        """Commits what is queued, until `stop`. The one task that does; it ends with an empty queue."""
        while True:
            if not self._wake.is_set():
                if self._unwritten:
                    with anyio.move_on_after(RETRY_SECONDS):
                        await self._wake.wait()
                else:
                    await self._wake.wait()
            self._wake.clear()
            self._take_ends()
            moved = self._moving()
            batch, self._queue = [*moved, *self._unwritten, *self._queue], []
            self._unwritten = []
            if batch or self._clearing:
                await self._commit(batch)
            if self._closing and not self._queue:
                self._drained.set()
                return

    def _moving(self) -> list[_Entry]:
        """The begins that the next batch takes out of the spool; where it takes all, the files change places."""
        spool, spooled = self._spool, self._spooled
        everything = self._move_all or self._closing or (spool is not None and spool.size > SPOOL_BYTES)
        self._move_all = False
        if everything or not spooled:
            found = list(spooled.values())
            if spool is not None and not spool.pending and spool.size:
                spool.swap()
                self._clearing = True
        else:
            before = time.monotonic_ns() - int(LASTING_SECONDS * 1e9)
            found = list(itertools.takewhile(lambda begun: begun.at_ns < before, spooled.values()))
        entries: list[_Entry] = []
        for begun in found:
            del spooled[begun.call_id]
            begun.stored = True
            entry = _Entry(at=begun.at, full=False, future=None)
            entry.begin, entry.moved, entry.survives = begun.row(), begun, True
            entries.append(entry)
        return entries

    def writer_ended(self, writing: asyncio.Task[None]) -> None:
        """Nobody waits for a writer that is gone, however it went."""
        if not writing.cancelled() and (error := writing.exception()) is not None:
            logger.critical("the journal's writer failed; nothing more is forwarded", exc_info=error)
        self._closing = True
        self._drained.set()
        left, self._queue = self._queue, []
        for entry in left:
            if entry.future is not None and not entry.future.done():
                entry.future.set_exception(JournalUnavailable("the journal is closed"))

    def _linger_over(self) -> None:
        self._timer = None
        if self._queue:
            self._wake.set()

    def _aged(self) -> None:
        """Have the begins of calls that last taken into the store."""
        self._aging = None
        if self._spooled:
            self._wake.set()
            self._aging = asyncio.get_running_loop().call_later(LASTING_SECONDS, self._aged)

    async def stop(self) -> None:
        """Write what is queued and that the process stops; afterwards nothing is taken any more."""
        self._take_ends()
        entry = self._entry(self._clock.time_ns() / 1e9, full=self._durability != "process", waits=False)
        entry.record = (RecordType.PROCESS_STOPPED, records.dump({"unwritten": len(self._unwritten)}))
        self._queue.append(entry)
        self._closing = True
        self._wake.set()
        await self._drained.wait()

    async def _commit(self, batch: list[_Entry]) -> None:
        """Commit a batch and tell everybody in it."""
        self._committing_since_ns = batch[0].queued_ns if batch else time.monotonic_ns()
        began = time.perf_counter()
        failure: Exception | None = None
        try:
            await self._connection.run(self._transact, batch)
        except sqlite3.Error as error:
            failure = error
        except Exception as error:
            logger.exception("the journal failed")
            failure = error
        if failure is not None:  # whatever it was: nobody may believe that it is durable
            for entry in batch:
                entry.error = failure
        self._committing_since_ns = None
        self._last_commit_seconds = time.perf_counter() - began
        self._batches += 1
        fault = ""
        for entry in batch:
            future, problem, entry.error = entry.future, entry.error, None
            if problem is None:
                if entry.moved is None:
                    self._committed += 1
                if future is not None and not future.done():
                    future.set_result(None)
                continue
            if not isinstance(problem, WriteConflict):
                fault = f"{type(problem).__name__}: {problem}"
                if entry.survives and not isinstance(problem, _HOPELESS):
                    entry.future = None
                    self._unwritten.append(entry)
                problem = JournalUnavailable(f"the store cannot be written: {problem}")
            if future is not None and not future.done():
                future.set_exception(problem)
        if fault and fault != self._fault:
            logger.error("the journal cannot commit: %s", fault)
        elif self._fault and not fault:
            logger.warning("the journal commits again")
        self._fault = fault

    # --- in the connection's thread ---

    def _transact(self, batch: Sequence[_Entry]) -> None:
        """Commit the batch as one transaction; where that fails for one entry's sake, each entry as its own."""
        try:
            if batch:
                self._write(batch)
        except sqlite3.Error as error:
            if _is_persistent(error) or len(batch) == 1:
                raise
            for entry in batch:
                try:
                    self._write([entry])
                except sqlite3.Error as fault:
                    entry.error = fault
        done = all(entry.error is None or isinstance(entry.error, WriteConflict) for entry in batch)
        if self._clearing and self._spool is not None and done:
            self._spool.empty()
            self._clearing = False

    def _write(self, batch: Sequence[_Entry]) -> None:
        """One transaction."""
        raw = self._connection.raw
        full = any(entry.full for entry in batch)
        if full is not self._full:
            raw.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
            self._full = full
        with transaction(raw):
            seq, prev = self._fill(raw, batch)
        self._seq, self._prev = seq, prev

    def _fill(self, raw: sqlite3.Connection, batch: Sequence[_Entry]) -> tuple[int, str]:
        """Everything of the batch, within the transaction. Returns the chain's new head."""
        seq, prev = self._seq, self._prev
        begins: list[tuple[Any, ...]] = []
        ended: list[tuple[int]] = []
        lines: list[tuple[Any, ...]] = []
        payloads: list[tuple[Any, ...]] = []
        calls: list[tuple[Any, ...]] = []
        writer = self._writer
        for entry in batch:
            chained: Iterable[Chained] = ()
            entry.error = None
            if entry.writes:
                try:
                    chained = self._apply(raw, entry)
                except Exception as error:
                    if _is_persistent(error):
                        raise
                    if not isinstance(error, WriteConflict):
                        logger.exception("a write of %s failed", [write.kind for write in entry.writes])
                    if not entry.survives:
                        entry.error = error if isinstance(error, WriteConflict) else WriteConflict(str(error))
                        continue
                    logger.error("an outcome is recorded without its writes: %s", error)
            if entry.begin is not None:
                begins.append(entry.begin)
            if entry.snapshot is not None:
                raw.execute("INSERT OR IGNORE INTO snapshots VALUES (?, ?, ?, ?, ?)", entry.snapshot)
            for extra in chained:
                seq += 1
                line = records.chained(
                    type=extra.type,
                    writer=self._writer,
                    seq=seq,
                    at=entry.at,
                    prev=prev,
                    body=records.encode_body(extra.body),
                )
                prev = records.digest(line)
                lines.append((seq, extra.type, entry.at, line))
            if entry.record is not None:
                type_, body = entry.record
                seq += 1
                line = records.chained(type=type_, writer=writer, seq=seq, at=entry.at, prev=prev, body=body)
                prev = records.digest(line)
                lines.append((seq, type_, entry.at, line))
                if entry.row is not None:
                    payloads.append((seq, *entry.row.columns))
                    calls.append((seq, *entry.row.summary))
            if entry.ended is not None:
                ended.append((entry.ended,))
        if begins:
            _insert(raw, "begins", begins)
        if lines:
            _insert(raw, "records", lines)
        if payloads:
            _insert(raw, "payloads", payloads)
        if calls:
            insert_calls(raw, calls)
        if ended:
            raw.executemany("DELETE FROM begins WHERE number = ?", ended)
        if self._keep_records is not None and seq - self._keep_records > 0:
            for table in ("records", "payloads", "calls"):
                raw.execute(f"DELETE FROM {table} WHERE seq <= ?", (seq - self._keep_records,))
        return seq, prev

    def _apply(self, raw: sqlite3.Connection, entry: _Entry) -> list[Chained]:
        """The writes of one entry, all or none."""
        chained: list[Chained] = []
        raw.execute("SAVEPOINT entry")
        try:
            for write in entry.writes:
                kind = self._kinds.get(write.kind)
                if kind is None:
                    raise WriteConflict(f"no table is registered for writes of kind {write.kind}")
                for made in kind(entry.call, entry.at, write.data):
                    if isinstance(made, Chained):
                        RecordType(made.type)
                        chained.append(made)
                    else:
                        _execute(raw, made, write.kind)
        except BaseException:
            raw.execute("ROLLBACK TO entry")
            raw.execute("RELEASE entry")
            raise
        raw.execute("RELEASE entry")
        return chained

    # --- opening ---

    def prepare(self) -> tuple[bool, int | None]:
        """In the connection's thread, before anything is written: migrate, find the head, check the tail.

        Returns:
            Whether the process before stopped in good order, and the `seq` of the first bad record of the tail, if any.
        """
        raw = self._connection.raw
        self._writer = migrate(raw)
        tail = raw.execute("SELECT seq, type, data FROM records ORDER BY seq DESC LIMIT ?", (_TAIL_RECORDS,)).fetchall()
        if not tail:
            return True, None
        self._seq, self._prev = tail[0][0], records.digest(tail[0][2])
        bad: int | None = None
        after: tuple[int, str] | None = None
        for seq, _, data in tail:
            try:
                fields = orjson.loads(data)
                whole = fields["seq"] == seq and (after is None or after == (seq + 1, records.digest(data)))
                after = seq, fields["prev"]
            except (ValueError, KeyError, TypeError):
                whole, after = False, None
            if not whole:
                bad = seq
        return tail[0][1] == RecordType.PROCESS_STOPPED, bad

    def recover(self) -> list[_Entry]:
        """In the connection's thread: entries that record each call which was left between begin and end, or was not
        committed yet."""
        raw = self._connection.raw
        entries: list[_Entry] = []
        left: list[OpenCall] = []
        begins = {
            row[1]: row
            for row in raw.execute(
                "SELECT number, call_id, at, idempotent, command, trail, commitment, salt, encoding, request"
                " FROM begins ORDER BY number"
            )
        }
        self._begun = max((row[0] for row in begins.values()), default=0)
        frames = [] if self._spool is None else self._spool.frames()
        known = {
            frame.call_id
            for frame in frames
            if raw.execute("SELECT 1 FROM calls WHERE id = ?", (frame.call_id,)).fetchone() is not None
        }
        full = self._durability != "process"
        for frame in frames:
            if isinstance(frame, SpooledEnd) and frame.call_id not in known:
                known.add(frame.call_id)
                entry = _Entry(at=frame.at, full=full, future=None)
                entry.record = (RecordType.CALL, frame.body)
                entry.row = EncodedCall(body=frame.body, columns=frame.columns, summary=frame.summary)
                entries.append(entry)
                if (begun := begins.pop(frame.call_id, None)) is not None:
                    entry.ended = begun[0]
        for frame in frames:
            if isinstance(frame, SpooledEnd) or frame.call_id in known or frame.call_id in begins:
                continue
            if isinstance(frame, SpooledCall):
                command = records.encode_command(records.recalled(frame.facts), frame.steps, self.settings)
                about = (command.command, command.trail, command.request.commitment, *command.request.columns())
                begins[frame.call_id] = (None, frame.call_id, frame.at, frame.idempotent, *about)
            else:
                begins[frame.call_id] = (None, *msgspec.structs.astuple(frame))
        for number, call_id, at, idempotent, command, trail, commitment, salt, encoding, request in begins.values():
            data = None if request is None else records.stored(encoding, request)
            encoded = records.encode_recovered(
                command,
                trail,
                Payload(role="request", salt=salt, data=data, commitment=commitment),
                idempotent=bool(idempotent),
            )
            entry = _Entry(at=self._clock.time_ns() / 1e9, full=full, future=None)
            entry.ended = number
            entry.record, entry.row = (RecordType.CALL, encoded.body), encoded
            entries.append(entry)
            left.append(OpenCall(id=call_id, at=at, command=orjson.loads(command)))
        for entry in entries:
            entry.survives = True
        self.recovered = tuple(left)
        return entries

    async def start(self) -> None:
        """Prepare, recover, and queue what both found; before `write_queue` runs."""
        clean, bad = await self._connection.run(self.prepare)
        if self._spool is not None:
            self._spool.belongs_to(self._writer)
        entries = await self._connection.run(self.recover)
        entry = self._entry(self._clock.time_ns() / 1e9, full=self._durability != "process")
        self._started = entry.future
        body = {
            "gateway": gateway.__version__,
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "schema": len(STEPS),
            "pid": os.getpid(),
            "durability": self._durability,
            "clean": clean and not entries,
            "recovered": [left.id for left in self.recovered],
            "tail": {"whole": bad is None, "first_bad_seq": bad},
        }
        entry.record = (RecordType.PROCESS_STARTED, records.dump(body))
        self._queue.extend([entry, *entries])
        self._wake.set()
        if bad is not None:
            logger.error("record %d of the store does not fit the chain: it was changed, or the file is damaged", bad)
        if not clean:
            logger.warning(
                "the process before did not stop in good order; %d calls were on their way", len(self.recovered)
            )

    async def started(self) -> None:
        """Returns once the start and what was recovered are committed; while `write_queue` runs.

        Raises:
            JournalUnavailable: the store cannot be written.
        """
        assert self._started is not None
        await self._started
        if self._spool is not None and not self._unwritten:
            await self._connection.run(self._spool.empty_all)


@contextlib.asynccontextmanager
async def open_journal(
    path: Path | None,
    *,
    clock: Clock,
    durability: Durability = "by-risk",
    settings: RecordingSettings | None = None,
    kinds: Mapping[str, WriteKind] | None = None,
) -> AsyncIterator[SqlJournal]:
    """The journal of a store, from recovery to a strict close. The caller owns the store (`gateway.adapters.owner`).

    Args:
        path: the file; None keeps everything in memory, the newest `MEMORY_RECORDS` records.
        kinds: what each kind of `Write` means in SQL.

    Raises:
        JournalUnavailable: the store cannot be opened, or is of a newer version.
    """
    where = "in memory" if path is None else str(path)
    async with contextlib.AsyncExitStack() as stack:
        try:
            connection = await stack.enter_async_context(connect(path))
            reader = None if path is None else await stack.enter_async_context(connect(path, query_only=True))
            spool = None if path is None else stack.enter_context(contextlib.closing(Spool(path)))
            journal = SqlJournal(
                connection,
                reader,
                spool=spool,
                clock=clock,
                durability=durability,
                settings=settings or RecordingSettings(),
                kinds=kinds or {},
                keep_records=MEMORY_RECORDS if path is None else None,
            )
            await journal.start()
        except (sqlite3.Error, OSError) as error:
            raise JournalUnavailable(f"the store {where} cannot be opened: {error}") from error
        # A task of asyncio, owned by this function: a task group would wrap what its body raises, and end the writer
        # together with those whose last entries it has to write.
        writing = asyncio.create_task(journal.write_queue(), name="journal")
        writing.add_done_callback(journal.writer_ended)
        try:
            await journal.started()
            yield journal
        finally:
            with anyio.move_on_after(CLOSE_SECONDS, shield=True) as scope:
                await journal.stop()
            if scope.cancelled_caught:
                logger.error("the journal could not be closed in time; the newest records may be missing")
                writing.cancel()


def _size(end: End) -> int:
    """Bytes of what the tool server answered."""
    outcome = end.outcome
    return len(outcome.result or outcome.error or b"") if isinstance(outcome, Completed) else 0


def _is_persistent(error: BaseException) -> bool:
    """Whether the next entry would meet the same fault."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _PERSISTENT


def _execute(raw: sqlite3.Connection, statement: Statement, kind: str) -> None:
    changed = raw.execute(statement.sql, statement.parameters).rowcount
    if statement.rows is not None and changed != statement.rows:
        raise WriteConflict(f"{kind}: {changed} rows in place of {statement.rows}")


def _insert(raw: sqlite3.Connection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Rows of one width, few statements: between two statements the thread waits for the interpreter."""
    start, width = 0, len(rows[0])
    while start < len(rows):
        count = 16 if len(rows) - start >= 16 else 4 if len(rows) - start >= 4 else 1
        values = rows[start] if count == 1 else tuple(itertools.chain.from_iterable(rows[start : start + count]))
        raw.execute(_insertion(table, width, count), values)
        start += count


@functools.cache
def _insertion(table: str, width: int, count: int) -> str:
    row = f"({', '.join('?' * width)})"
    return f"INSERT INTO {table} VALUES {', '.join([row] * count)}"


_SESSION_COLUMNS: Final = {"completed": 5, "error": 6, "refused": 7, "held": 8, "failed": 9}


def insert_calls(raw: sqlite3.Connection, calls: Sequence[tuple[Any, ...]]) -> None:
    """The rows of lists: a call each, and its session's counts, a session once a batch."""
    _insert(raw, "calls", calls)
    sessions: dict[str, list[Any]] = {}
    for _, _, at, agent, session_id, client, _, _, _, outcome, _, _, in_doubt, _, _ in calls:
        counts = sessions.setdefault(session_id, [agent, client, at, at, 0, 0, 0, 0, 0, 0, 0])
        counts[2], counts[3] = min(counts[2], at), max(counts[3], at)
        counts[4] += 1
        counts[_SESSION_COLUMNS[outcome]] += 1
        counts[10] += in_doubt
    raw.executemany(
        "INSERT INTO sessions (id, agent, client, first_at, last_at, calls, completed, errors, refused, held, failed,"
        " in_doubt) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
        " first_at = min(first_at, excluded.first_at), last_at = max(last_at, excluded.last_at), calls = calls + excluded.calls,"
        " completed = completed + excluded.completed, errors = errors + excluded.errors,"
        " refused = refused + excluded.refused, held = held + excluded.held, failed = failed + excluded.failed,"
        " in_doubt = in_doubt + excluded.in_doubt",
        [(id, *counts) for id, counts in sessions.items()],
    )
