"""An export as a store: what a gateway recorded, on a machine that has nothing else of it.

The lines go back into the tables they came from, the records byte for byte, so that lists, pages, replay and `log verify` are
the same functions as on the gateway's own store. A payload that is not what its record says is not taken; whether the chain
of records holds is for `log verify` to say. Payloads of which an export left something out (`{"redacted": ...}`) are kept as `records.REDACTED`, are
no evidence, and are never judged or played as if they were whole.
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.adapters import records
from gateway.adapters.journal import insert_calls
from gateway.adapters.recordings import RecordingError, commitment
from gateway.adapters.sqlite import create_private, migrate, read_only, transaction
from gateway.model.errors import GatewayError, JournalUnavailable
from gateway.model.recording import RECORD_VERSION, RecordType

_MAGIC: Final = b"SQLite format 3\x00"

_AT_ONCE: Final = 1000
"""Records inserted together."""


@dataclass(slots=True)
class Imported:
    """What was taken."""

    records: int = 0
    calls: int = 0
    payloads: int = 0
    redacted: int = 0
    """Of the payloads: those of which the export left something out."""
    snapshots: int = 0


def is_store(path: Path) -> bool:
    """Is this file a store, and not an export of one?"""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


@contextmanager
def open_recording(path: Path) -> Iterator[sqlite3.Connection]:
    """A store, or an export read into memory, on a connection that cannot write.

    Raises:
        RecordingError: a line cannot be read, or a payload is not what its record says.
        JournalUnavailable: the store is of another version.
    """
    if is_store(path):
        with read_only(path) as raw:
            yield raw
        return
    raw = sqlite3.connect(":memory:", isolation_level=None)
    try:
        with path.open("rb") as lines:
            import_lines(lines, raw)
        raw.execute("PRAGMA query_only=1")
        yield raw
    finally:
        raw.close()


def import_file(source: Path, path: Path) -> Imported:
    """Make a store of an export.

    Raises:
        RecordingError: as `open_recording`; nothing is left behind.
        JournalUnavailable: the file is there already, or cannot be written.
    """
    if path.exists():
        raise JournalUnavailable(f"{path} is there already; an export is imported into a new file")
    try:
        create_private(path)
        raw = sqlite3.connect(path, isolation_level=None)
        try:
            raw.execute("PRAGMA auto_vacuum=INCREMENTAL")
            raw.execute("PRAGMA journal_mode=WAL")
            with source.open("rb") as lines:
                return import_lines(lines, raw)
        finally:
            raw.close()
    except (GatewayError, sqlite3.Error, OSError) as error:
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                os.unlink(f"{path}{suffix}")
        if isinstance(error, sqlite3.Error | OSError):
            raise JournalUnavailable(f"{path} cannot be written: {error}") from error
        raise


def import_lines(lines: Iterable[bytes], raw: sqlite3.Connection) -> Imported:
    """Put an export's lines into an empty database, in one transaction.

    Raises:
        RecordingError: a line cannot be read, is of a newer version, or a payload is not what its record says.
    """
    migrate(raw)
    found, into = Imported(), _Tables(raw)
    with transaction(raw):
        number = 0
        for number, line in enumerate(lines, start=1):
            line = line.rstrip(b"\r\n")
            if not line:
                continue
            try:
                entry = records.load(line)
                if "snapshot" in entry:
                    into.snapshot(entry["snapshot"])
                    found.snapshots += 1
                elif "payload" in entry:
                    into.payload(entry["payload"])
                    found.payloads += 1
                elif "redacted" in entry:
                    into.redacted(entry["redacted"])
                    found.payloads += 1
                    found.redacted += 1
                elif "tombstone" not in entry:
                    found.calls += into.record(entry, line)
                    found.records += 1
            except RecordingError as error:
                raise RecordingError(f"line {number}: {error}") from None
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise RecordingError(f"line {number}: it is no line of a recording ({type(error).__name__})") from None
        into.flush()
    return found


class _Tables:
    """Rows on their way into the tables."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self._raw = raw
        self._writer = ""
        self._body: Mapping[str, Any] = {}
        self._seq = 0
        """Of the record that came last."""
        self._columns: list[Any] = []
        """Of its payloads."""
        self._snapshots = 0
        self._records: list[tuple[Any, ...]] = []
        self._payloads: list[tuple[Any, ...]] = []
        self._calls: list[tuple[Any, ...]] = []

    def record(self, entry: Mapping[str, Any], line: bytes) -> bool:
        """The next record. True for a call."""
        if entry["version"] > RECORD_VERSION:
            raise RecordingError(f"version {entry['version']} is newer than this gateway knows")
        self._end()
        writer, seq, type_ = str(entry["writer"]), int(entry["seq"]), RecordType(entry["type"])
        if seq <= self._seq:
            raise RecordingError(f"record {seq} stands behind record {self._seq}")
        if writer != self._writer:
            self._raw.execute("UPDATE store SET value = ? WHERE name = 'writer'", (writer,))
            self._writer = writer
        self._records.append((seq, str(type_), float(entry["at"]), line))
        self._seq, self._body, self._columns = seq, entry["body"], []
        if type_ is RecordType.CALL:
            self._calls.append((seq, *_summary(self._body)))
            self._columns = [None] * (3 * len(records.ROLES))
        if len(self._records) >= _AT_ONCE:
            self._write()
        return type_ is RecordType.CALL

    def payload(self, payload: Mapping[str, Any]) -> None:
        """A payload of the record before."""
        role, data, salt = payload["role"], payload["data"].encode(), bytes.fromhex(payload["salt"])
        said = commitment(self._body, role) if self._columns else None
        if payload["seq"] != self._seq or said is None or said["sha256"] != hashlib.sha256(salt + data).hexdigest():
            raise RecordingError(f"the {role} of record {payload['seq']} is not what the record says")
        self._keep(role, salt, data)

    def redacted(self, payload: Mapping[str, Any]) -> None:
        """What an export left of a payload of the record before."""
        if payload["seq"] != self._seq or not self._columns:
            raise RecordingError(f"the {payload['role']} of record {payload['seq']} stands elsewhere")
        place = 3 * records.ROLES.index(payload["role"])
        erased = records.dump([str(path) for path in payload["erased"]])
        self._columns[place : place + 3] = erased, records.REDACTED, payload["data"].encode()

    def snapshot(self, kept: Mapping[str, Any]) -> None:
        """Something that records name by its hash."""
        content = kept["content"].encode()
        if records.digest(content) != kept["sha256"]:
            raise RecordingError(f"the {kept['kind']} is not the one whose hash it has")
        self._snapshots += 1  # their order is that of the export; when each was kept it does not say
        row = (kept["sha256"], kept["kind"], float(self._snapshots), *records.packed(content))
        self._raw.execute("INSERT OR IGNORE INTO snapshots VALUES (?, ?, ?, ?, ?)", row)

    def flush(self) -> None:
        """Write what is left."""
        self._end()
        self._write()

    def _keep(self, role: str, salt: bytes, data: bytes) -> None:
        place = 3 * records.ROLES.index(role)  # another role is a ValueError
        self._columns[place : place + 3] = salt, *records.packed(data)

    def _end(self) -> None:
        if self._columns:
            self._payloads.append((self._seq, *self._columns))
            self._columns = []

    def _write(self) -> None:
        self._raw.executemany("INSERT INTO records VALUES (?, ?, ?, ?)", self._records)
        self._raw.executemany(f"INSERT INTO payloads VALUES ({', '.join('?' * 10)})", self._payloads)
        if self._calls:
            insert_calls(self._raw, self._calls)
        self._records, self._payloads, self._calls = [], [], []


def _summary(body: Mapping[str, Any]) -> tuple[Any, ...]:
    """A call's row of `calls`, but for `seq`, from its record."""
    command, outcome = body["command"], body["outcome"]
    kind = outcome["kind"]
    word = "error" if kind == "completed" and outcome["is_error"] else kind
    code = "hold.pending" if kind == "held" else outcome.get("code")
    return (
        command["id"],
        command["received_at"],
        command["principal"]["id"],
        command["session_id"],
        command["client"]["name"],
        command["method"],
        f"{command['server']}/{command['name']}" if command["server"] else command["target"],
        command["risk"],
        word,
        code,
        body["executed"],
        outcome.get("in_doubt", False),
        body["elapsed_us"],
        body["recovered"],
    )
