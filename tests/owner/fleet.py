"""A client's end of gateway processes that share a store: start them, talk to them, kill them."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import orjson

from tests.edge.serving import initialize_request

ANSWER_SECONDS = 20.0
"""How long an answer may take, a takeover on a busy machine included."""

ROOT = Path(__file__).parents[2]


class Member:
    """One process, and the client that talks to it as over stdio."""

    def __init__(
        self, pid: int, reader: asyncio.StreamReader, writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    ) -> None:
        self.pid = pid
        self._reader, self._writers = reader, writers
        """Of both sockets: a writer that nobody holds closes its socket."""
        self._writer = writers[0]
        self._answers: dict[Any, asyncio.Future[Any]] = {}
        self.notifications: list[Any] = []
        self.requests: list[Any] = []
        self.ended = False
        self._reading = asyncio.create_task(self._read())
        self._next = 0

    async def _read(self) -> None:
        while line := await self._reader.readline():
            message = orjson.loads(line)
            if "method" in message:
                (self.requests if "id" in message else self.notifications).append(message)
            else:
                self._answers.pop(message["id"]).set_result(message)
        self.ended = True
        for waiting in self._answers.values():
            waiting.set_exception(EOFError(f"process {self.pid} closed the connection"))

    def put(self, body: dict[str, Any]) -> None:
        self._writer.write(orjson.dumps(body) + b"\n")

    def ask(self, method: str, params: Any = None) -> asyncio.Future[Any]:
        """Send a request; the future is its answer."""
        self._next += 1
        body: dict[str, Any] = {"jsonrpc": "2.0", "id": self._next, "method": method}
        self.put(body if params is None else {**body, "params": params})
        return self._answers.setdefault(self._next, asyncio.get_running_loop().create_future())

    def call(self, tool: str, text: str = "") -> asyncio.Future[Any]:
        return self.ask("tools/call", {"name": f"fixture__{tool}", "arguments": {"text": text}})

    async def initialize(self) -> None:
        self._answers[0] = asyncio.get_running_loop().create_future()
        self.put(initialize_request())
        answer = await answered(self._answers[0])
        assert "result" in answer, answer

    async def owner(self) -> int:
        """The process that serves this client."""
        answer = await answered(self.call("who"))
        return int(answer["result"]["content"][0]["text"])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    async def leave(self) -> None:
        """Close the client's end, and wait for the process to close its own."""
        self._writer.write_eof()
        with anyio.fail_after(ANSWER_SECONDS):
            await asyncio.wait([self._reading])

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        if not self.ended:  # a process that has ended has no id any more: it may be another's
            with contextlib.suppress(ProcessLookupError):
                self.kill()
        self._reading.cancel()
        await asyncio.wait([self._reading])


async def answered(future: asyncio.Future[Any]) -> Any:
    with anyio.fail_after(ANSWER_SECONDS):
        return await future


class Fleet:
    """Processes on one store."""

    def __init__(self, store: Path, control: socket.socket) -> None:
        self.store, self._control = store, control
        self.members: list[Member] = []

    @property
    def ledger(self) -> list[str]:
        """What tool servers really did."""
        path = self.store.with_suffix(".ledger")
        return path.read_text().split() if path.exists() else []

    async def start(self) -> Member:
        """Another process, its client's handshake done."""
        # two pairs, as clients on Node make them
        (putting, stdin), (getting, stdout) = socket.socketpair(), socket.socketpair()
        with stdin, stdout:
            socket.send_fds(self._control, [os.fsencode(self.store)], [stdin.fileno(), stdout.fileno()])
            pid = int(await anyio.to_thread.run_sync(self._control.recv, 100))
        _, writer = await asyncio.open_unix_connection(sock=putting)
        reader, other = await asyncio.open_unix_connection(sock=getting, limit=1 << 24)
        member = Member(pid, reader, (writer, other))
        self.members.append(member)
        await member.initialize()
        return member

    def of(self, pid: int) -> Member:
        return next(member for member in self.members if member.pid == pid)

    async def kill(self, member: Member) -> None:
        """Kill a process, and forget its client."""
        member.kill()
        self.members.remove(member)
        await member.close()


@asynccontextmanager
async def fleet(store: Path, **environment: str) -> AsyncIterator[Fleet]:
    """A fleet whose processes are forked from one that has everything imported."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        zygote = subprocess.Popen(  # noqa: ASYNC220 - it only has to exist
            [sys.executable, "-m", "tests.owner.member", "--zygote", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        theirs.close()
        found = Fleet(store, ours)
        try:
            yield found
        finally:
            with anyio.CancelScope(shield=True):
                for member in found.members:
                    await member.close()
            zygote.kill()
            zygote.wait()
