"""MCP over a stream of messages, both eras on one connection: stdio, and the owner's socket with the very same code.

Every request is judged by what it carries, not by what came before it: one with the envelope of 2026-07-28 is served
statelessly, `initialize` opens the handshake era for the requests without an envelope. So a client may probe with
`server/discover` and then shake hands, as some do.

    reader ── a task for each request ── one queue ── writer

The reader never waits for a call and a call never waits for the writer, so neither a slow tool nor a slow reader of our
output holds up anything else. When the input ends, what is in flight is cancelled.
"""

import asyncio
import logging
import os
import stat
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio
import anyio.abc
import anyio.to_thread
import orjson

from gateway.control import Gateway, new_id
from gateway.edge import wire
from gateway.edge.answering import answer, client_of, introduced, negotiated
from gateway.edge.calls import AgentCaller, Asked, Links, is_call, perform
from gateway.edge.headers import Mismatch, check_envelope, check_version
from gateway.edge.lists import Lists
from gateway.edge.parking import Parking
from gateway.edge.parsing import Malformed, Message, Notification, Request, Response, batch, message, parse
from gateway.edge.protocol import (
    BATCHES,
    CAPABILITIES_KEY,
    CLIENT_KEY,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MODERN,
    REFUSED,
    VERSION_KEY,
)
from gateway.edge.sessions import CONCERNING_SESSIONS, Session, changed_kinds, concerns, refreshed
from gateway.edge.settings import EdgeSettings
from gateway.edge.subscriptions import listen
from gateway.model.call import Client, Principal
from gateway.model.events import ConfigurationChanged, Event, RootsChanged

logger = logging.getLogger("gateway.edge")

Read = Callable[[], Awaitable[bytes | None]]
"""The next message, without its line end; None at the end of the input. Raises `MessageTooLarge` and goes on after it."""

Write = Callable[[bytes], Awaitable[None]]
"""Writes one message, which is one line without its end; returns when more may be written. Raises OSError when broken."""

MAX_WAITING: Final = 4_096
MAX_WAITING_BYTES: Final = 67_108_864
"""Of what waits for a client that reads slowly. Beyond it notifications are dropped, answers never."""

ANNOUNCEMENT: Final = b'{"gateway":"call",'
"""How a line to a joiner begins that is no message of MCP: `id` is a request's, `call_id` that of the call made of it. Should
this process end before the answer, the joiner can still say which call is in doubt."""

FLUSH_SECONDS: Final = 2.0
"""How long answers that are ready are still written after the input has ended."""


class MessageTooLarge(Exception):
    """A message beyond `max_request_bytes`; it was skipped."""


class Connection:
    """One connection of one client."""

    def __init__(
        self,
        gateway: Gateway,
        principal: Principal,
        settings: EdgeSettings,
        *,
        transport: str,
        session_id: str,
        write: Write,
        announced: bool,
    ) -> None:
        self._gateway = gateway
        self._announced = announced
        self._settings = settings
        self._transport = transport
        self._write = write
        self._lists = Lists(gateway, settings)
        self._links = Links()
        self._parking = Parking(
            seconds=settings.parked_seconds,
            limit=settings.max_parked,
            per_principal=settings.max_parked_per_principal,
        )
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._wake = anyio.Event()
        self._written = anyio.Event()
        self._ending = False
        self._scope = anyio.CancelScope()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._shaken = False
        """The client has shaken hands: requests without an envelope are of the handshake era."""
        self.session = Session(
            gateway=gateway,
            session_id=session_id,
            principal=principal,
            client=Client(transport=transport),
            modern=False,
            put=self._put_outside,
            put_once=self._put_once,
            now=anyio.current_time(),
        )
        self.session.closing = self._scope.cancel

    async def serve(self, read: Read, opening: bytes | None) -> None:
        """Until the input ends, the session is ended, or the output breaks."""
        self._gateway.open_session(self.session.id, self.session)
        unsubscribe = self._gateway.events.subscribe(self._receive, *CONCERNING_SESSIONS)
        try:
            with self._scope:
                async with anyio.create_task_group() as writing:
                    writing.start_soon(self._write_all)
                    async with anyio.create_task_group() as self._tasks:
                        if opening is not None:
                            await self._resume(opening)
                        self._tasks.start_soon(self._parking.sweep)
                        await self._read_all(read)
                        self._tasks.cancel_scope.cancel()
                    self._ending = True
                    self._wake.set()
                    with anyio.move_on_after(FLUSH_SECONDS):
                        await self._written.wait()
                    writing.cancel_scope.cancel()
        finally:
            unsubscribe()
            self.session.closing = None
            self.session.end("the connection ended")

    # --- in ---

    async def _read_all(self, read: Read) -> None:
        while True:
            try:
                text = await read()
            except MessageTooLarge:
                limit = self._settings.max_request_bytes
                data = {"code": "request.too_large", "limit_bytes": limit}
                words = f"The message is larger than {limit} bytes (max_request_bytes)"
                self._put(wire.error(None, INVALID_REQUEST, words, data).body)
                continue
            if text is None:
                return
            if text.strip():
                await self._take(text)

    async def _take(self, text: bytes) -> None:
        try:
            if len(text) > self._settings.max_request_bytes:
                raise Malformed(INVALID_REQUEST, f"The message is larger than {self._settings.max_request_bytes} bytes")
            value = parse(text)
            if isinstance(value, list) and self._shaken and self.session.client.protocol_version == BATCHES:
                self._start(self._batch, batch(value))
                return
            taken = message(value)
        except Malformed as problem:
            self._put(wire.error(problem.request_id, problem.code, problem.message).body)
            return
        match taken:
            case Request():
                if taken.method == "initialize":
                    reply = await self._initialize(taken)
                    self._put(reply.body)
                elif taken.id in self.session.in_flight:
                    words = "A request with this id is in flight already"
                    self._put(wire.error(taken.id, INVALID_REQUEST, words).body)
                elif len(self.session.in_flight) >= self._settings.max_in_flight:
                    words = "Too many requests of this connection are in flight"
                    self._put(wire.error(taken.id, REFUSED, words).body)
                else:
                    scope = self.session.in_flight[taken.id] = anyio.CancelScope()
                    self._start(self._request, taken, scope)
            case Notification() | Response():
                self._heard(taken)

    def _heard(self, taken: Notification | Response) -> None:
        match taken:
            case Response():
                body = {"error": taken.error} if taken.error is not None else {"result": taken.result}
                self.session.answered(taken.id, body)
            case Notification(method="notifications/cancelled"):
                self.session.cancel((taken.params or {}).get("requestId"))
            case Notification(method="notifications/roots/list_changed"):
                at = self._gateway.clock.time_ns() / 1e9
                self._gateway.events.publish(
                    RootsChanged(at=at, session_id=self.session.id, principal=self.session.principal.id)
                )
            case Notification():
                pass  # `initialized`, and what nobody needs

    async def _initialize(self, request: Request) -> wire.Reply:
        version = negotiated(request)
        client = introduced(request, version, self._transport)
        if isinstance(client, str):
            return wire.error(request.id, INVALID_PARAMS, client)
        self.session.client = client
        self._shaken = True
        return wire.result_of(request.id, await self._lists.initialize(self.session.principal, version))

    async def _resume(self, opening: bytes) -> None:
        """Take up a connection whose client has shaken hands with another process; nothing is answered."""
        try:
            taken = message(parse(opening))
        except Malformed:
            logger.warning("the opening of a resumed connection cannot be read; it is served as a new one")
            return
        if isinstance(taken, Request) and taken.method == "initialize":
            await self._initialize(taken)

    async def _request(self, request: Request, scope: anyio.CancelScope) -> None:
        """Serve one request. A cancelled one is not answered, as both eras have it on stdio."""
        try:
            with scope:
                reply = await self._reply(request)
                if reply is not None:
                    self._put(reply.body)
        finally:
            self.session.in_flight.pop(request.id, None)

    def _announce(self, request_id: str | int, call_id: str) -> None:
        self._put(ANNOUNCEMENT + orjson.dumps({"id": request_id, "call_id": call_id})[1:])

    async def _reply(self, request: Request) -> wire.Reply | None:
        """The answer; None where it has been written already."""
        try:
            who, meta = self._asked(request)
        except Mismatch as problem:
            return wire.error(request.id, problem.code, problem.message, problem.data)
        if who.modern and request.method == "subscriptions/listen":
            return await self._listen(who, request)
        if not is_call(who, request.method):
            return await answer(who, self._lists, request)
        caller = AgentCaller(
            session=self.session,
            client=who.client,
            modern=who.modern,
            meta=meta,
            put=self._put_droppable,
            ask_seconds=self._settings.ask_seconds,
        )
        if self._announced:
            caller.began = partial(self._announce, request.id)
        try:
            return await perform(who, request, caller)
        except Exception:
            logger.exception("request %s failed", request.method)
            return wire.error(request.id, INTERNAL_ERROR, "The gateway failed")
        finally:
            caller.over = True

    def _asked(self, request: Request) -> tuple[Asked, dict[str, Any]]:
        """In which era a request is made, by whom, and its `_meta`.

        Raises:
            Mismatch: its envelope is incomplete or of an unknown version; or it has none and nobody has shaken hands.
        """
        found = (request.params or {}).get("_meta")
        meta: dict[str, Any] = found if isinstance(found, dict) else {}
        modern = VERSION_KEY in meta or (not self._shaken and request.method != "ping")
        client = self.session.client
        if modern:
            check_envelope(request.method, request.params)
            check_version(meta[VERSION_KEY])
            client = client_of(meta.get(CLIENT_KEY), meta[CAPABILITIES_KEY], MODERN, self._transport)
            if not self._shaken:
                self.session.client = client
        who = Asked(
            gateway=self._gateway,
            settings=self._settings,
            principal=self.session.principal,
            session=self.session,
            client=client,
            modern=modern,
            links=self._links,
            parking=self._parking,
            start=self._start,
        )
        return who, meta

    async def _listen(self, who: Asked, request: Request) -> wire.Reply | None:
        ended = anyio.Event()

        def put(message: bytes, *, final: bool = False) -> None:
            if final:
                self._put(message)
            else:
                self._put_droppable(message)

        async with listen(who, self._lists, request, put, ended.set) as fault:
            if fault is not None:
                return fault
            await ended.wait()
        return None

    async def _batch(self, entries: list[Message | Malformed]) -> None:
        """A JSON-RPC batch (2025-03-26): its answers come together, in one array."""
        replies: list[bytes] = []

        async def serve(request: Request) -> None:
            scope = self.session.in_flight[request.id] = anyio.CancelScope()
            try:
                with scope:
                    reply = await self._reply(request)
                    if reply is not None:
                        replies.append(reply.body)
            finally:
                self.session.in_flight.pop(request.id, None)

        async with anyio.create_task_group() as tasks:
            for entry in entries:
                match entry:
                    case Request(method="initialize"):
                        words = "initialize cannot be part of a batch"
                        replies.append(wire.error(entry.id, INVALID_REQUEST, words).body)
                    case Request():
                        if entry.id in self.session.in_flight:
                            words = "A request with this id is in flight already"
                            replies.append(wire.error(entry.id, INVALID_REQUEST, words).body)
                        else:
                            tasks.start_soon(serve, entry)
                    case Notification() | Response():
                        self._heard(entry)
                    case Malformed():
                        replies.append(wire.error(entry.request_id, entry.code, entry.message).body)
        if replies:
            self._put(b"[" + b",".join(replies) + b"]")

    def _start(self, function: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
        assert self._tasks is not None
        self._tasks.start_soon(function, *arguments)

    # --- out ---

    def _put(self, text: bytes) -> None:
        self._waiting.append(text)
        self._waiting_bytes += len(text)
        self._wake.set()

    def _put_droppable(self, text: bytes) -> None:
        if len(self._waiting) < MAX_WAITING and self._waiting_bytes + len(text) <= MAX_WAITING_BYTES:
            self._put(text)

    def _put_outside(self, text: bytes) -> None:
        """A message outside any call: for clients of the handshake era alone; the others listen for such."""
        if self._shaken:
            self._put_droppable(text)

    def _put_once(self, text: bytes) -> None:
        """The same, unless it waits there already."""
        if text not in self._waiting:
            self._put_outside(text)

    async def _write_all(self) -> None:
        try:
            while True:
                while self._waiting:
                    text = self._waiting[0]
                    await self._write(text)
                    self._waiting.popleft()
                    self._waiting_bytes -= len(text)
                if self._ending:
                    self._written.set()
                    return
                self._wake = anyio.Event()
                await self._wake.wait()
        except OSError as error:
            logger.info("the client's end is closed: %s", error)
            self._scope.cancel()

    def _receive(self, event: Event) -> None:
        """What the gateway says of itself."""
        changed = isinstance(event, ConfigurationChanged) and event.accepted
        if changed and not refreshed(self._gateway, self.session):
            self.session.end("the agent or its key was removed")
        elif (kinds := changed_kinds(event)) and concerns(event, self.session):
            self.session.changed(kinds)


async def serve_connection(
    gateway: Gateway,
    principal: Principal,
    read: Read,
    write: Write,
    *,
    transport: str = "stdio",
    settings: EdgeSettings | None = None,
    session_id: str | None = None,
    opening: bytes | None = None,
    announced: bool = False,
) -> None:
    """Serve one client over a stream of messages until it ends.

    Args:
        read: the next message (see `Read`).
        write: writes one message (see `Write`).
        session_id: of a connection that another process served before (a joiner after a takeover), else a new one.
        opening: that connection's `initialize`, as it was sent; taken without being answered again.
        announced: the other end is a joiner, which is told each call's id (see `ANNOUNCEMENT`).
    """
    connection = Connection(
        gateway,
        principal,
        settings or EdgeSettings(),
        transport=transport,
        session_id=session_id or new_id(),
        write=write,
        announced=announced,
    )
    await connection.serve(read, opening)


# --- the process's own stdin and stdout ---


def take_stdio() -> tuple[int, int]:
    """Descriptors of the real stdin and stdout, taken out of everybody else's reach.

    Call it first: from then on descriptor 1 is stderr and descriptor 0 is empty, so that neither a stray `print` nor a
    child can put a byte into the protocol, or take one out of it.
    """
    sys.stdout.flush()
    reading, writing = os.dup(0), os.dup(1)
    os.set_inheritable(reading, False)
    os.set_inheritable(writing, False)
    os.dup2(2, 1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    if sys.platform == "win32":
        import msvcrt

        for descriptor in (reading, writing):
            msvcrt.setmode(descriptor, os.O_BINARY)  # a line ends with one byte
    return reading, writing


class Lines:
    """Messages of a byte stream, one a line, none longer than `limit`.

    Args:
        receive: the next bytes, b"" at the end.
    """

    def __init__(self, receive: Callable[[], Awaitable[bytes]], limit: int) -> None:
        self._receive = receive
        self.limit = limit
        self._rest = bytearray()
        self._ended = False
        self._searched = 0

    async def read(self) -> bytes | None:
        """The next line, without its end. The last one may lack it."""
        skipping = False
        while True:
            end = self._rest.find(b"\n", self._searched)
            if end >= 0:
                line = bytes(self._rest[:end])
                del self._rest[: end + 1]
                self._searched = 0
                if skipping or len(line) > self.limit + 1:
                    raise MessageTooLarge
                return line.removesuffix(b"\r")
            self._searched = len(self._rest)
            if len(self._rest) > self.limit + 1:
                skipping = True
                self._rest.clear()
                self._searched = 0
            if self._ended:
                line = bytes(self._rest)
                self._rest.clear()
                self._searched = 0
                if skipping:
                    raise MessageTooLarge
                return line or None
            chunk = await self._receive()
            self._ended = not chunk
            self._rest += chunk


@asynccontextmanager
async def stdio_streams(reading: int, writing: int, limit: int) -> AsyncIterator[tuple[Read, Write]]:
    """`read` and `write` over two descriptors: through the event loop where they are pipes or sockets, else in threads."""
    loop = asyncio.get_running_loop()
    transports: list[asyncio.BaseTransport] = []
    try:
        if _pollable(reading):
            reader = asyncio.StreamReader(limit=1_048_576, loop=loop)
            source, _ = await loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader, loop=loop), os.fdopen(reading, "rb", buffering=0)
            )
            transports.append(source)

            async def receive() -> bytes:
                return await reader.read(262_144)
        else:

            async def receive() -> bytes:
                return await anyio.to_thread.run_sync(os.read, reading, 262_144, abandon_on_cancel=True)

        if _pollable(writing):
            sink, protocol = await loop.connect_write_pipe(
                lambda: asyncio.streams.FlowControlMixin(loop=loop), os.fdopen(writing, "wb", buffering=0)
            )
            transports.append(sink)
            stream = asyncio.StreamWriter(sink, protocol, None, loop)

            async def write(text: bytes) -> None:
                if sink.is_closing():
                    raise BrokenPipeError("stdout is closed")
                stream.write(text + b"\n")
                await stream.drain()
        else:

            async def write(text: bytes) -> None:
                await anyio.to_thread.run_sync(_write_whole, writing, text + b"\n")

        yield Lines(receive, limit).read, write
    finally:
        for transport in transports:
            transport.close()


def _pollable(descriptor: int) -> bool:
    if os.name != "posix":
        return False
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _write_whole(descriptor: int, text: bytes) -> None:
    while text:
        text = text[os.write(descriptor, text) :]


async def serve_stdio(gateway: Gateway, principal: Principal, settings: EdgeSettings, taken: tuple[int, int]) -> None:
    """Serve the client on this process's stdin and stdout, which `take_stdio` gave, until it closes them."""
    async with stdio_streams(*taken, settings.max_request_bytes) as (read, write):
        await serve_connection(gateway, principal, read, write, settings=settings)
