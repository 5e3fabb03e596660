"""Streamable HTTP at `/mcp`, both protocol eras, as one bare ASGI application: the hot path of the gateway.

    POST, envelope in `_meta`      2026-07-28: one self-contained request, one answer; closing the response cancels
    POST, `initialize`             opens a handshake-era session; its id comes in `Mcp-Session-Id`
    POST, `Mcp-Session-Id`         a request, notification or answer of that session (2025-03-26: or a batch)
    GET, `Mcp-Session-Id`          the session's standing stream; with `Last-Event-ID` any of its streams goes on
    DELETE, `Mcp-Session-Id`       ends the session

A request is answered as plain JSON where nothing had to be said before its answer; the first notification, a question to
the client, or `ping_seconds` of silence turn the answer into an event stream. The usual request costs no task and no
timer that fires: a call that lasts longer than `watch_seconds` gets a task that waits for its client to go away.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from typing import Any, Final

import anyio
import anyio.abc

from gateway.control import Gateway
from gateway.edge import wire
from gateway.edge.answering import answer, client_of, introduced, negotiated
from gateway.edge.calls import AgentCaller, Asked, Links, is_call, perform
from gateway.edge.headers import (
    PARAM_PREFIX,
    VERSION,
    DeclaredHeaders,
    Mismatch,
    check_envelope,
    check_headers,
    check_version,
    collect,
)
from gateway.edge.lists import Lists
from gateway.edge.parking import Parking
from gateway.edge.parsing import Malformed, Message, Notification, Request, Response, batch, message, parse
from gateway.edge.protocol import (
    BATCHES,
    CAPABILITIES_KEY,
    CLIENT_KEY,
    DEFAULT_LEGACY,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LEGACY_VERSIONS,
    MODERN,
    REFUSED,
    REQUEST_CANCELLED,
    SESSION_KEY,
    STATUS,
    VERSION_KEY,
)
from gateway.edge.security import Asgi, HostCheck, Receive, Scope, refuse, respond
from gateway.edge.sessions import CONCERNING_SESSIONS, Session, Sessions
from gateway.edge.settings import EdgeSettings
from gateway.edge.streams import SSE_HEADERS, EventStream, Send
from gateway.edge.subscriptions import listen
from gateway.model.call import Method, Principal
from gateway.model.events import AuthenticationRefused, RootsChanged

logger = logging.getLogger("gateway.edge")

SESSION_HEADER: Final = b"mcp-session-id"
_NO_META: Mapping[str, Any] = {}


@lru_cache(maxsize=256)
def accepts(value: bytes) -> tuple[bool, bool]:
    """Whether an `Accept` header takes JSON, and whether it takes event streams. An empty one takes both."""
    kinds = {part.partition(";")[0].strip().lower() for part in value.decode("latin-1").split(",")}
    everything = "*/*" in kinds or kinds == {""}
    json = everything or bool(kinds & {"application/json", "application/*"})
    return json, everything or bool(kinds & {"text/event-stream", "text/*"})


class Exchange:
    """The answer to one POST: plain JSON, or an event stream once something has to be said before it.

    Args:
        stream: makes the stream when it is first needed; a handshake-era one stays with its session for resuming.
        priming: milliseconds for `retry:`, where the stream opens with a priming event.
    """

    __slots__ = ("_app", "_done", "_extra", "_make", "_priming", "_send", "_stream", "_watching", "streams")

    def __init__(
        self,
        app: "McpApp",
        send: Send,
        *,
        streams: bool,
        make: Any = EventStream,
        extra: list[tuple[bytes, bytes]] | None = None,
        priming: int | None = None,
    ) -> None:
        self._app = app
        self._send = send
        self._make = make
        self._extra = extra
        self._priming = priming
        self._stream: EventStream | None = None
        self._done: anyio.Event | None = None
        self._watching: anyio.CancelScope | None = None
        self.streams = streams
        """The client takes an event stream."""

    def said(self) -> Callable[[bytes], None] | None:
        """What says something before the answer; None where the client takes no stream."""
        return self._say if self.streams else None

    def _say(self, text: bytes) -> None:
        self._open().put(text)

    def watch(self, receive: Receive, gone: Callable[[], None] | None) -> None:
        """From `watch_seconds` on, notice that the client has gone (and call `gone`, if any), and break long silence."""
        self._app.lasting.add(self, partial(self._watch, receive, gone))

    async def finish(self, status: int, body: bytes) -> None:
        """Give the answer."""
        self.close()
        if self._stream is None:
            await respond(self._send, status, body, extra=self._extra)
            return
        self._stream.put(body, final=True)
        assert self._done is not None
        await self._done.wait()

    def close(self) -> None:
        """Stop watching."""
        self._app.lasting.drop(self)
        if self._watching is not None:
            self._watching.cancel()

    async def abandon(self) -> None:
        """End without an answer: the client is gone."""
        self.close()
        if self._stream is not None:
            self._stream.end()

    def _open(self) -> EventStream:
        if self._stream is None:
            self._stream = self._make()
            self._done = anyio.Event()
            self._app.start(self._respond)
        return self._stream

    async def _respond(self) -> None:
        assert self._stream is not None
        assert self._done is not None
        try:
            await self._stream.respond(
                self._send,
                SSE_HEADERS + self._extra if self._extra else SSE_HEADERS,
                after=0,
                ping_seconds=self._app.settings.ping_seconds,
                retry_ms=self._priming,
            )
        finally:
            self._done.set()

    async def _watch(self, receive: Receive, gone: Callable[[], None] | None) -> None:
        with anyio.CancelScope() as self._watching:
            while True:
                with anyio.move_on_after(self._app.settings.ping_seconds) as silent:
                    if (await receive())["type"] == "http.disconnect":
                        if gone is not None:
                            gone()
                        return
                if silent.cancelled_caught and self.streams:
                    self._open()


class _Lasting:
    """The exchanges that are open, oldest first: one timer for all of them, where each of its own would cost a call more than
    most of what is done for it.

    Args:
        seconds: how old an exchange gets before its task is started.
        start: starts a task.
    """

    def __init__(self, seconds: float, start: Callable[[Any], None]) -> None:
        self._seconds, self._start = seconds, start
        self._open: dict[Exchange, tuple[float, Any]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, exchange: Exchange, task: Any) -> None:
        loop = asyncio.get_running_loop()
        self._open[exchange] = (loop.time() + self._seconds, task)
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._due, loop)

    def drop(self, exchange: Exchange) -> None:
        self._open.pop(exchange, None)

    def _due(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time() + 0.001
        while self._open:
            exchange, (due, task) = next(iter(self._open.items()))
            if due > now:
                self._timer = loop.call_at(due, self._due, loop)
                return
            del self._open[exchange]
            self._start(task)


class McpApp:
    """The ASGI application of `/mcp`. Serves between `running()`'s entry and exit."""

    def __init__(self, gateway: Gateway, settings: EdgeSettings) -> None:
        self.gateway = gateway
        self.settings = settings
        self.sessions = Sessions(gateway, settings)
        self.lists = Lists(gateway, settings)
        self.links = Links()
        self.parking = Parking(
            seconds=settings.parked_seconds,
            limit=settings.max_parked,
            per_principal=settings.max_parked_per_principal,
        )
        self.lasting = _Lasting(settings.watch_seconds, self.start)
        self._declared = DeclaredHeaders()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._open = 0
        self._draining = False
        self._drained: anyio.Event | None = None
        """Set when nothing is open any more; there is one while somebody waits for that."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Own the tasks of streams, watchers and the sweep of idle sessions; end every session on the way out."""
        unsubscribe = self.gateway.events.subscribe(self.sessions.receive, *CONCERNING_SESSIONS)
        try:
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self.sessions.sweep)
                self._tasks.start_soon(self.parking.sweep)
                try:
                    yield
                finally:
                    self.sessions.end_all("the gateway stops")
                    self._tasks.cancel_scope.cancel()
        finally:
            self._tasks = None
            unsubscribe()

    async def drain(self, seconds: float) -> bool:
        """Take no new requests, end the streams, and wait for what is in flight, at most so long. False: something is."""
        self._draining = True
        for session in self.sessions:
            for listener in list(session.listeners):
                listener.end()
            if (standing := session.streams.get("0")) is not None:
                standing.end()
        with anyio.move_on_after(seconds):
            while self._open:
                self._drained = anyio.Event()
                await self._drained.wait()
        return self._open == 0

    def start(self, task: Any) -> None:
        """Run a task that the application owns."""
        if self._tasks is not None:
            self._tasks.start_soon(task)

    # --- the application ---

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request. `Host` and `Origin` were checked before (`application`)."""
        if self._draining or self._tasks is None:
            await refuse(send, 503, "The gateway is stopping", extra=[(b"retry-after", b"5")])
            return
        self._open += 1
        answering = _Answering(scope, send)
        try:
            await self._serve(scope, receive, answering)
        except Exception:
            logger.exception("a request failed")
            if not answering.begun:
                await respond(send, 500, wire.error(None, INTERNAL_ERROR, "The gateway failed").body)
        finally:
            self._open -= 1
            if not self._open and self._drained is not None:
                self._drained.set()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, repeated = collect(scope["headers"])
        principal = self._authenticate(headers, repeated, scope)
        if principal is None:
            challenge = [(b"www-authenticate", b'Bearer realm="mcp"')]
            await refuse(send, 401, "An agent's key is needed: Authorization: Bearer KEY", extra=challenge)
            return
        match scope["method"]:
            case "POST":
                await self._post(headers, repeated, principal, receive, send)
            case "GET":
                await self._get(headers, principal, receive, send)
            case "DELETE":
                await self._delete(headers, principal, send)
            case _:
                await refuse(send, 405, "Only POST, GET and DELETE", extra=[(b"allow", b"POST, GET, DELETE")])

    def _authenticate(self, headers: Mapping[bytes, bytes], repeated: set[bytes], scope: Scope) -> Principal | None:
        credential = headers.get(b"authorization")
        key: str | None = None
        if credential is not None and credential[:7].lower() == b"bearer " and b"authorization" not in repeated:
            key = credential[7:].strip().decode("latin-1") or None
        principal = self.gateway.authenticate(key)
        if principal is None:
            self.gateway.events.publish(
                AuthenticationRefused(
                    at=self.gateway.clock.time_ns() / 1e9,
                    reason="no key" if key is None else "unknown key",
                    remote=str((scope.get("client") or ("",))[0]),
                )
            )
        return principal

    # --- POST ---

    async def _post(
        self,
        headers: dict[bytes, bytes],
        repeated: set[bytes],
        principal: Principal,
        receive: Receive,
        send: Send,
    ) -> None:
        kind = headers.get(b"content-type", b"")
        if kind != b"application/json" and kind.partition(b";")[0].strip().lower() != b"application/json":
            await refuse(send, 415, "Content-Type has to be application/json")
            return
        json, streams = accepts(headers.get(b"accept", b""))
        if not json:
            await refuse(send, 406, "Accept has to include application/json (and should include text/event-stream)")
            return
        body = await self._body(headers, receive, send)
        if body is None:
            return
        version = headers.get(VERSION)
        legacy = version is None or version.decode("latin-1") in LEGACY_VERSIONS
        try:
            value = parse(body)
            if isinstance(value, list) and legacy:
                await self._batch(value, headers, principal, streams, send)
                return
            asked = message(value)
            if legacy and not _enveloped(asked):
                await self._legacy(asked, headers, principal, streams, receive, send)
                return
        except Malformed as problem:
            reply = wire.error(problem.request_id, problem.code, problem.message)
            await respond(send, 400, reply.body)
            return
        await self._modern(asked, headers, repeated, principal, streams, receive, send)

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> bytes | None:
        """The request's body; None where the request has been answered, or its client has gone.

        How long it may take is the listener's to watch (`gateway.edge.listener`).
        """
        limit = self.settings.max_request_bytes
        declared = headers.get(b"content-length")
        if declared is not None and declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
            await self._too_large(send)
            return None
        part = await receive()
        if part["type"] == "http.request" and not part.get("more_body"):
            whole: bytes = part.get("body", b"")
            if len(whole) <= limit:
                return whole
        chunks = bytearray()
        while part["type"] == "http.request":
            chunks += part.get("body", b"")
            if len(chunks) > limit:
                await self._too_large(send)
                return None
            if not part.get("more_body"):
                return bytes(chunks)
            part = await receive()
        return None

    async def _too_large(self, send: Send) -> None:
        limit = self.settings.max_request_bytes
        data = {"code": "request.too_large", "limit_bytes": limit}
        reply = wire.error(None, INVALID_REQUEST, f"The request is larger than {limit} bytes (max_request_bytes)", data)
        # Not closed at once: the client is still sending, and would meet a reset connection in place of the answer.
        await respond(send, 413, reply.body)

    # --- 2026-07-28 ---

    async def _modern(
        self,
        asked: Message,
        headers: Mapping[bytes, bytes],
        repeated: set[bytes],
        principal: Principal,
        streams: bool,
        receive: Receive,
        send: Send,
    ) -> None:
        try:
            match asked:
                case Request():
                    meta = check_envelope(asked.method, asked.params)
                    assert asked.params is not None
                    version = meta[VERSION_KEY]
                    check_headers(headers, repeated, asked.method, asked.params, version)
                    check_version(version)
                    if asked.method == Method.CALL_TOOL:
                        await self._check_params(asked.params, headers, repeated, principal)
                case Notification():
                    # No notification goes from client to server over HTTP in this era; those that come are let go.
                    check_version((headers.get(VERSION) or b"").decode("latin-1"))
                    await _accepted(send)
                    return
                case Response():
                    raise Mismatch(INVALID_REQUEST, "Requests are never sent to clients in 2026-07-28, nor answered")
        except Mismatch as problem:
            identifier = asked.id if isinstance(asked, Request) else None
            reply = wire.error(identifier, problem.code, problem.message, problem.data)
            await respond(send, STATUS.get(problem.code, 400), reply.body)
            return
        client = client_of(meta.get(CLIENT_KEY), meta[CAPABILITIES_KEY], MODERN, "http")
        named = meta.get(SESSION_KEY)
        if named is not None and (not isinstance(named, str) or not 1 <= len(named) <= 128):
            text = f"params._meta[{SESSION_KEY!r}] is not a string of 1 to 128 characters"
            await respond(send, 400, wire.error(asked.id, INVALID_PARAMS, text).body)
            return
        session = self.sessions.of(principal, client, named)
        if session is None:
            await self._too_many(asked.id, send)
            return
        who = Asked(
            gateway=self.gateway,
            settings=self.settings,
            principal=principal,
            session=session,
            client=client,
            modern=True,
            links=self.links,
            parking=self.parking,
            start=self.start,
        )
        if session.active >= self.settings.max_in_flight:
            reply = wire.error(asked.id, REFUSED, "Too many requests of this session are in flight")
            await respond(send, 503, reply.body, extra=[(b"retry-after", b"1")])
            return
        session.enter()
        try:
            if asked.method == "subscriptions/listen":
                if not streams:
                    await refuse(send, 406, "Accept has to include text/event-stream to listen")
                    return
                await self._listen(who, asked, receive, send)
            elif is_call(who, asked.method):
                await self._modern_call(who, asked, meta, streams, receive, send)
            else:
                reply = await answer(who, self.lists, asked)
                await respond(send, STATUS.get(reply.code, 200), reply.body)
        finally:
            session.leave()

    async def _modern_call(
        self,
        who: Asked,
        request: Request,
        meta: Mapping[str, Any],
        streams: bool,
        receive: Receive,
        send: Send,
    ) -> None:
        exchange = Exchange(self, send, streams=streams)
        caller = AgentCaller(session=who.session, client=who.client, modern=True, meta=meta, put=exchange.said())
        with anyio.CancelScope() as scope:
            exchange.watch(receive, scope.cancel)
            try:
                reply = await perform(who, request, caller)
            except Exception:
                logger.exception("request %s failed", request.method)
                reply = wire.error(request.id, INTERNAL_ERROR, "The gateway failed")
            finally:
                caller.over = True
                exchange.close()
        if scope.cancelled_caught:
            await exchange.abandon()
            return
        await exchange.finish(STATUS.get(reply.code, 200), reply.body)

    async def _check_params(
        self, params: Mapping[str, Any], headers: Mapping[bytes, bytes], repeated: set[bytes], principal: Principal
    ) -> None:
        """`Mcp-Param-*` against the arguments, by the schema of the tool that this principal may see."""
        arguments = params.get("arguments")
        if not arguments and not any(name.startswith(PARAM_PREFIX) for name in headers):
            return
        name = params.get("name")
        entry = (await self.gateway.view(principal)).tools.get(name) if isinstance(name, str) else None
        if entry is not None:
            self._declared.check(entry, arguments, headers, repeated)

    async def _listen(self, who: Asked, request: Request, receive: Receive, send: Send) -> None:
        """A `subscriptions/listen` stream, until the client closes it or the gateway ends it."""
        stream = EventStream()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
            async with listen(who, self.lists, request, stream.put, stream.end) as fault:
                if fault is not None:
                    await respond(send, STATUS.get(fault.code, 200), fault.body)
                else:
                    await stream.respond(send, SSE_HEADERS, after=0, ping_seconds=self.settings.ping_seconds)
            tasks.cancel_scope.cancel()

    async def _too_many(self, request_id: str | int, send: Send) -> None:
        reply = wire.error(request_id, REFUSED, "Too many sessions are open; end some, or wait until they are idle")
        await respond(send, 503, reply.body, extra=[(b"retry-after", b"60")])

    # --- the handshake era ---

    async def _legacy(
        self,
        asked: Message,
        headers: Mapping[bytes, bytes],
        principal: Principal,
        streams: bool,
        receive: Receive,
        send: Send,
    ) -> None:
        if isinstance(asked, Request) and asked.method == "initialize":
            await self._initialize(asked, principal, send)
            return
        session = await self._session(headers, principal, send, asked.id if isinstance(asked, Request) else None)
        if session is None:
            return
        session.enter()
        try:
            match asked:
                case Request():
                    await self._legacy_request(asked, session, principal, headers, streams, receive, send)
                case Notification():
                    self._notified(asked, session)
                    await _accepted(send)
                case Response():
                    body = {"error": asked.error} if asked.error is not None else {"result": asked.result}
                    session.answered(asked.id, body)
                    await _accepted(send)
        finally:
            session.leave()

    async def _initialize(self, request: Request, principal: Principal, send: Send) -> None:
        version = negotiated(request)
        client = introduced(request, version, "http")
        if isinstance(client, str):
            await respond(send, 400, wire.error(request.id, INVALID_PARAMS, client).body)
            return
        session = self.sessions.open(principal, client)
        if session is None:
            await self._too_many(request.id, send)
            return
        result = await self.lists.initialize(principal, version)
        extra = [(SESSION_HEADER, session.id.encode("ascii"))]
        await respond(send, 200, wire.result_of(request.id, result).body, extra=extra)

    async def _session(
        self, headers: Mapping[bytes, bytes], principal: Principal, send: Send, request_id: str | int | None
    ) -> Session | None:
        """The session that the request belongs to; None where the request has been answered with an error."""
        identifier = headers.get(SESSION_HEADER)
        if identifier is None:
            text = "The header Mcp-Session-Id is missing: open a session with initialize"
            await respond(send, 400, wire.error(request_id, INVALID_REQUEST, text).body)
            return None
        session = self.sessions.find(identifier.decode("latin-1"), principal)
        if session is None:
            text = "Session not found: open a new one with initialize"
            await respond(send, 404, wire.error(request_id, INVALID_REQUEST, text).body)
        return session

    async def _legacy_request(
        self,
        request: Request,
        session: Session,
        principal: Principal,
        headers: Mapping[bytes, bytes],
        streams: bool,
        receive: Receive,
        send: Send,
    ) -> None:
        who = self._who(session, principal)
        if not is_call(who, request.method):
            reply = await answer(who, self.lists, request)
            await respond(send, 200, reply.body)
            return
        version = (headers.get(VERSION) or b"").decode("latin-1") or session.client.protocol_version
        exchange = Exchange(
            self,
            send,
            streams=streams,
            make=session.open_stream,
            extra=[(SESSION_HEADER, session.id.encode("ascii"))],
            priming=self.settings.retry_ms if version >= "2025-11-25" else None,
        )
        exchange.watch(receive, None)  # a lost connection is no cancellation in this era: the client may resume
        try:
            reply = await self._legacy_call(who, request, exchange.said())
        finally:
            exchange.close()
        await exchange.finish(200, reply.body)

    async def _legacy_call(self, who: Asked, request: Request, put: Any) -> wire.Reply:
        session = who.session
        if request.id in session.in_flight:
            return wire.error(request.id, INVALID_REQUEST, "A request with this id is in flight already")
        if len(session.in_flight) >= self.settings.max_in_flight:
            return wire.error(request.id, REFUSED, "Too many requests of this session are in flight")
        meta = (request.params or {}).get("_meta")
        caller = AgentCaller(
            session=session,
            client=who.client,
            modern=False,
            meta=meta if isinstance(meta, dict) else _NO_META,
            put=put,
            ask_seconds=self.settings.ask_seconds,
        )
        with anyio.CancelScope() as scope:
            session.in_flight[request.id] = scope
            try:
                return await perform(who, request, caller)
            except Exception:
                logger.exception("request %s failed", request.method)
                return wire.error(request.id, INTERNAL_ERROR, "The gateway failed")
            finally:
                caller.over = True
                session.in_flight.pop(request.id, None)
        return wire.error(request.id, REQUEST_CANCELLED, "Request cancelled")

    def _who(self, session: Session, principal: Principal) -> Asked:
        return Asked(
            gateway=self.gateway,
            settings=self.settings,
            principal=principal,
            session=session,
            client=session.client,
            modern=False,
            links=self.links,
            parking=self.parking,
            start=self.start,
        )

    def _notified(self, notification: Notification, session: Session) -> None:
        """A client's notification. Those that nobody needs are let go, as the protocol has it."""
        match notification.method:
            case "notifications/cancelled":
                session.cancel((notification.params or {}).get("requestId"))
            case "notifications/roots/list_changed":
                at = self.gateway.clock.time_ns() / 1e9
                self.gateway.events.publish(RootsChanged(at=at, session_id=session.id, principal=session.principal.id))
            case _:
                pass

    async def _batch(
        self,
        values: list[Any],
        headers: Mapping[bytes, bytes],
        principal: Principal,
        streams: bool,
        send: Send,
    ) -> None:
        """A JSON-RPC batch, of a 2025-03-26 session alone; each entry is a message, and each call a `Call`, of its own."""
        session = await self._session(headers, principal, send, None)
        if session is None:
            return
        if session.client.protocol_version != BATCHES:
            raise Malformed(INVALID_REQUEST, f"Batches exist in protocol version {BATCHES} alone")
        entries = batch(values)
        exchange = Exchange(
            self,
            send,
            streams=streams,
            make=session.open_stream,
            extra=[(SESSION_HEADER, session.id.encode("ascii"))],
        )
        who = self._who(session, principal)
        replies: list[bytes] = []

        async def serve(request: Request) -> None:
            if request.method == "initialize":
                reply = wire.error(request.id, INVALID_REQUEST, "initialize cannot be part of a batch")
            elif is_call(who, request.method):
                reply = await self._legacy_call(who, request, exchange.said())
            else:
                reply = await answer(who, self.lists, request)
            replies.append(reply.body)

        session.enter()
        try:
            async with anyio.create_task_group() as tasks:
                for entry in entries:
                    match entry:
                        case Request():
                            tasks.start_soon(serve, entry)
                        case Notification():
                            self._notified(entry, session)
                        case Response():
                            body = {"error": entry.error} if entry.error is not None else {"result": entry.result}
                            session.answered(entry.id, body)
                        case Malformed():
                            replies.append(wire.error(entry.request_id, entry.code, entry.message).body)
        finally:
            session.leave()
        if replies:
            await exchange.finish(200, b"[" + b",".join(replies) + b"]")
        else:
            await _accepted(send)

    # --- GET and DELETE ---

    async def _get(self, headers: Mapping[bytes, bytes], principal: Principal, receive: Receive, send: Send) -> None:
        version = (headers.get(VERSION) or b"").decode("latin-1")
        if version and version not in LEGACY_VERSIONS:
            await refuse(send, 405, "There is no GET in this protocol version", extra=[(b"allow", b"POST")])
            return
        if not accepts(headers.get(b"accept", b""))[1]:
            await refuse(send, 406, "Accept has to include text/event-stream")
            return
        session = await self._session(headers, principal, send, None)
        if session is None:
            return
        stream, after = session.streams["0"], session.streams["0"].sent
        if (last := headers.get(b"last-event-id")) is not None:
            found = session.stream_after(last.decode("latin-1"))
            if found is None:
                await refuse(send, 404, "What came after that Last-Event-ID is not kept any more")
                return
            stream, after = found
        session.enter()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
                primed = (version or session.client.protocol_version or DEFAULT_LEGACY) >= "2025-11-25"
                await stream.respond(
                    send,
                    [*SSE_HEADERS, (SESSION_HEADER, session.id.encode("ascii"))],
                    after=after,
                    ping_seconds=self.settings.ping_seconds,
                    retry_ms=self.settings.retry_ms if primed else None,
                )
                tasks.cancel_scope.cancel()
        finally:
            session.leave()

    async def _delete(self, headers: Mapping[bytes, bytes], principal: Principal, send: Send) -> None:
        version = (headers.get(VERSION) or b"").decode("latin-1")
        if version and version not in LEGACY_VERSIONS:
            await refuse(send, 405, "There is no DELETE in this protocol version", extra=[(b"allow", b"POST")])
            return
        session = await self._session(headers, principal, send, None)
        if session is not None:
            self.sessions.end(session, "deleted by its client")
            await respond(send, 200, b"{}")


class _Answering:
    """A response's `send` that remembers whether the response has begun."""

    __slots__ = ("_send", "_whole", "begun")

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        self._whole = scope.get("extensions", {}).get("gateway.answer")
        self.begun = False

    async def __call__(self, part: dict[str, Any]) -> None:
        self.begun = True
        await self._send(part)

    def whole(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """Give the whole answer at once, where the server takes it so."""
        if self._whole is None or not self._whole(status, headers, body):
            return False
        self.begun = True
        return True


def _enveloped(asked: Message) -> bool:
    """Whether a request carries the stateless envelope (its reserved key exists nowhere else)."""
    if not isinstance(asked, Request) or asked.params is None or asked.method == "initialize":
        return False
    meta = asked.params.get("_meta")
    return isinstance(meta, dict) and VERSION_KEY in meta


async def _accepted(send: Send) -> None:
    await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def mcp_app(gateway: Gateway, settings: EdgeSettings) -> McpApp:
    """The application of `/mcp`; serves while its `running()` is entered."""
    return McpApp(gateway, settings)


def application(mcp: McpApp, routes: Mapping[str, Asgi] | None = None) -> Asgi:
    """The whole listener: `/mcp`, and beside it what `wiring` mounts, all behind the `Host` and `Origin` check.

    Args:
        routes: ASGI applications by path; a path that ends in `/` serves everything below it. The longest wins.
    """
    check = HostCheck(mcp.settings)
    exact = dict(routes or {})
    below = sorted((path for path in exact if path.endswith("/")), key=len, reverse=True)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await _lifespan(receive, send)
        fault = check.fault(scope["headers"])
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif fault is not None:
            await refuse(send, *fault)
        elif (path := scope["path"]) == "/mcp" or path == "/mcp/":
            await mcp(scope, receive, send)
        elif (found := exact.get(path)) is not None:
            await found(scope, receive, send)
        else:
            for prefix in below:
                if path.startswith(prefix) or path == prefix[:-1]:
                    return await exact[prefix](scope, receive, send)
            await refuse(send, 404, "Nothing is served at this path; MCP is at /mcp")
        return None

    return app


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        match (await receive())["type"]:
            case "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            case "lifespan.shutdown":
                await send({"type": "lifespan.shutdown.complete"})
                return
