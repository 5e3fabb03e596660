"""One agent's gateway process, for tests of owners, joiners and crashes: everything is real but the tool server.

    python -m tests.owner.member STORE          one process on this stdin and stdout
    python -m tests.owner.member --zygote FD    forks a process for each pair of descriptors it is sent: quick

The tool server is a script in the process: `echo` (read) answers with its text; `note` (write) appends its text to the
ledger beside the store, fsynced, and answers; `stuck` (write) does so and never answers; `who` (read) answers with the
process's id. `CRASH_AT` kills the process at a step of a call of `note`: see `STEPS`.
"""

import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from gateway.adapters.journal import SqlJournal, open_journal
from gateway.adapters.system import EventFanout, SystemClock
from gateway.control import Gateway
from gateway.directory import PolicyDirectory
from gateway.edge.settings import EdgeSettings
from gateway.edge.stdio import stdio_streams
from gateway.engine import Engine
from gateway.joining import attend
from gateway.model.call import Call, Risk
from gateway.model.verdict import Outcome
from gateway.owner import ActingOperator, Commands
from gateway.ports import Attempt, Begin, Caller, End, Journal
from gateway.stages.resolve import Resolve
from gateway.stages.validate import Validate
from tests import building
from tests.edge.serving import text_result

STEPS = (
    "begin queued",  # the begin is in the queue, nothing is written
    "begin written",  # the begin's transaction is written and not committed
    "begin committed",
    "forwarded",  # the tool server has acted, its answer is not here
    "answered",  # the outcome is here, its end is not written
    "end written",  # the end's transaction is written and not committed
    "end committed",
)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Tools:
    """The tool server."""

    def __init__(self, ledger: Path, crash_at: str) -> None:
        self.ledger, self.crash_at = ledger, crash_at

    async def forward(self, call: Call, caller: Caller, attempt: Attempt) -> Outcome:
        attempt.sent = True
        text = str((call.arguments or {}).get("text", ""))
        if call.name in ("note", "stuck"):
            with self.ledger.open("a") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            if self.crash_at == "forwarded":
                die()
        if call.name == "stuck":
            await anyio.sleep_forever()
        return text_result(str(os.getpid()) if call.name == "who" else text)


class CrashingJournal:
    """The journal, with the steps at which the process dies."""

    def __init__(self, journal: SqlJournal, crash_at: str) -> None:
        self.journal, self.crash_at = journal, crash_at
        self.written = ""
        fill = journal._fill

        def filled(raw: Any, batch: Any) -> Any:
            done = fill(raw, batch)
            if self.crash_at == self.written:
                die()
            return done

        if crash_at:
            journal._fill = filled  # type: ignore[method-assign]

    async def begin(self, begin: Begin) -> None:
        if begin.call.name != "note":
            return await self.journal.begin(begin)
        if self.crash_at == "begin queued":
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.journal.begin, begin)
                tasks.start_soon(self._die_when_queued)
        self.written = "begin written"
        await self.journal.begin(begin)
        self.written = ""
        if self.crash_at == "begin committed":
            die()
        return None

    async def _die_when_queued(self) -> None:
        assert self.journal.status.queued >= 1  # the end of a read before it may linger there
        die()

    async def end(self, end: End) -> None:
        if end.call.name != "note":
            return await self.journal.end(end)
        if self.crash_at == "answered":
            die()
        self.written = "end written"
        await self.journal.end(end)
        self.written = ""
        if self.crash_at == "end committed":
            die()
        return None

    async def record(self, type: str, body: Mapping[str, Any]) -> None:
        await self.journal.record(type, body)


@dataclass(kw_only=True)
class Built:
    gateway: Gateway
    edge: EdgeSettings


@asynccontextmanager
async def build(store: Path, crash_at: str = "") -> AsyncIterator[Built]:
    clock, events = SystemClock(), EventFanout()
    async with open_journal(store, clock=clock, durability="process") as opened:
        journal: Journal = CrashingJournal(opened, crash_at)
        directory = PolicyDirectory(events, clock)
        engine = Engine(
            stages=(Resolve(directory, events), Validate()),
            forwarder=Tools(store.with_suffix(".ledger"), crash_at),
            journal=journal,
            clock=clock,
            events=events,
        )
        entries = [
            building.tool("echo"),
            building.tool("who"),
            building.tool("note", risk=Risk.WRITE),
            building.tool("stuck", risk=Risk.WRITE),
        ]
        gateway = Gateway(
            snapshot=building.snapshot(*entries),
            agents=None,
            execute=engine.execute,
            directory=directory,
            clock=clock,
            events=events,
        )
        yield Built(gateway=gateway, edge=EdgeSettings())
        await engine.drained()


def commands(built: Built) -> Commands:
    async def pid(params: Mapping[str, Any], operator: ActingOperator | None) -> Any:
        return os.getpid()

    found = Commands(lambda key: ActingOperator(name="ann", role="operator") if key == "key-of-ann" else None)
    found.add("pid", pid, role=None)
    found.add("stop", pid)
    return found


async def main(store: Path, reading: int, writing: int) -> None:
    crash_at = os.environ.get("CRASH_AT", "")
    assert crash_at in ("", *STEPS)
    async with stdio_streams(reading, writing, 1 << 20) as (read, write):
        await attend(
            store=store,
            configuration=store.with_suffix(".toml"),
            key=None,
            agent=None,
            build=lambda: build(store, crash_at),
            commands=commands,  # type: ignore[arg-type]
            read=read,
            write=write,
        )


def zygote(descriptor: int) -> None:
    """Forks until its socket is closed: each message is a store's path, with sockets for stdin and stdout."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as control:
        while True:
            text, descriptors, _, _ = socket.recv_fds(control, 4096, 2)
            if not text:
                return
            pid = os.fork()
            if pid == 0:
                control.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                code = 1
                try:
                    anyio.run(main, Path(text.decode()), descriptors[0], descriptors[1])
                    code = 0
                except Exception:
                    logging.exception("a forked process failed")
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            for each in descriptors:
                os.close(each)
            control.send(str(pid).encode())


if __name__ == "__main__":
    if sys.argv[1] == "--zygote":
        zygote(int(sys.argv[2]))
    else:
        anyio.run(main, Path(sys.argv[1]), os.dup(0), os.dup(1))
