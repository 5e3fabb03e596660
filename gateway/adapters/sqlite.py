"""SQLite connections: how they are opened, what each may do, and that each is closed.

aiosqlite's thread is no daemon: a connection that nobody closes keeps the process alive. So connections are only had from
`connect`, which closes them.
"""

import contextlib
import functools
import logging
import os
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import aiosqlite
import anyio

from gateway.adapters.migrations import STEPS
from gateway.model.errors import JournalUnavailable

logging.getLogger("aiosqlite").setLevel(logging.INFO)  # at DEBUG it logs statements with their parameters

P = ParamSpec("P")
T = TypeVar("T")

BUSY_SECONDS: Final = 5.0
"""How long a statement waits for another connection's lock."""

CLOSE_SECONDS: Final = 10.0


class Connection(aiosqlite.Connection):
    """An aiosqlite connection in whose thread a whole transaction runs as one function: one hop between threads, not five."""

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result; it runs in the connection's thread, alone."""
        return await self._execute(function, *args, **kwargs)  # type: ignore[no-any-return,no-untyped-call]

    @property
    def raw(self) -> sqlite3.Connection:
        """The connection itself, for functions that run in its thread."""
        return self._conn


@contextlib.asynccontextmanager
async def connect(path: Path | None, *, query_only: bool = False) -> AsyncIterator[Connection]:
    """A connection to a store's file, or to a new store in memory.

    The one that is not `query_only` writes and checkpoints, and has to be the only such one.

    Raises:
        sqlite3.Error, OSError: the file cannot be opened.
    """
    if path is not None and not query_only:
        create_private(path)
    opened = functools.partial(
        sqlite3.connect,
        ":memory:" if path is None else path,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    connection = Connection(opened, 64)
    await connection
    try:
        await connection.run(_prepare, connection.raw, query_only)
        yield connection
    finally:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            await connection.close()


def _prepare(raw: sqlite3.Connection, query_only: bool) -> None:
    if query_only:
        raw.execute("PRAGMA query_only=1")
        raw.execute("PRAGMA wal_autocheckpoint=0")
    else:
        # of a new store alone, which can then give pages back to the file system when old records go
        raw.execute("PRAGMA auto_vacuum=INCREMENTAL")
        raw.execute("PRAGMA journal_mode=WAL")
        raw.execute("PRAGMA secure_delete=ON")  # what was erased is not left in free pages
        raw.execute("PRAGMA foreign_keys=ON")
        raw.execute("PRAGMA cache_size=-16384")
        raw.execute("PRAGMA wal_autocheckpoint=4000")
        raw.execute("PRAGMA journal_size_limit=67108864")


@contextlib.contextmanager
def transaction(raw: sqlite3.Connection) -> Iterator[None]:
    """What is executed within is committed as one, or not at all."""
    raw.execute("BEGIN IMMEDIATE")
    try:
        yield
        raw.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            raw.execute("ROLLBACK")
        raise


def create_private(path: Path) -> None:
    """Make the file, readable by its owner alone, where there is none. SQLite gives its other files the same mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o600))


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for commands that only look: it needs no owner, disturbs none, and never checkpoints.

    Raises:
        JournalUnavailable: there is no such store, or it is of a newer version.
    """
    if not path.is_file():
        raise JournalUnavailable(f"there is no store {path}; the gateway makes it when it first starts")
    raw = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        raw.execute("PRAGMA query_only=1")
        version = _version(raw)
        if version != len(STEPS):
            raise JournalUnavailable(
                f"the store {path} has schema {version}, this gateway knows {len(STEPS)}: "
                + (
                    "it was written by a newer one"
                    if version > len(STEPS)
                    else "start this gateway once to bring it up"
                )
            )
        yield raw
    except sqlite3.Error as error:
        raise JournalUnavailable(f"the store {path} cannot be read: {error}") from error
    finally:
        raw.close()


def migrate(raw: sqlite3.Connection) -> str:
    """Bring the schema up, a step at a time, each in its own transaction. Returns the store's writer id.

    Raises:
        JournalUnavailable: the store is of a newer version.
    """
    version = _version(raw)
    if version > len(STEPS):
        raise JournalUnavailable(
            f"the store was written by a newer gateway (schema {version}, this one knows {len(STEPS)})"
        )
    for number, step in enumerate(STEPS[version:], start=version + 1):
        raw.executescript(f"BEGIN IMMEDIATE; {step} PRAGMA user_version={number}; COMMIT;")
    raw.execute("INSERT OR IGNORE INTO store VALUES ('writer', ?)", (str(uuid.uuid4()),))
    return str(raw.execute("SELECT value FROM store WHERE name = 'writer'").fetchone()[0])


def _version(raw: sqlite3.Connection) -> int:
    return int(raw.execute("PRAGMA user_version").fetchone()[0])
