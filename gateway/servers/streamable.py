"""Tool servers over HTTP: Streamable HTTP in both eras, and the HTTP+SSE transport of 2024-11-05.

Streamable HTTP posts each message; the answer is JSON, or an event stream whose last event is the answer. In the modern era
(2026-07-28) that is all. In the handshake era there is a session id, a stream of the server's own messages (GET), an end
(DELETE), and a stream that broke off can be taken up again by its last event's id.

In both, a request that was refused before it was carried out is told from one that may have run by the HTTP status: the
4xx that servers answer before they look into a request are not in doubt; 500, 502 and 504 are.
"""

import asyncio
import base64
import logging
from collections.abc import Callable
from typing import Final
from urllib.parse import urljoin

from gateway.config import ServerSettings
from gateway.model.refusal import Code
from gateway.ports import Attempt
from gateway.servers import wire
from gateway.servers.exchange import Answered, Exchange, Unanswered
from gateway.servers.http1 import MAX_IDLE_SECONDS, AnswerError, ConnectError, Connection, HttpClient, Url
from gateway.servers.sse import Event, EventParser, EventTooLarge
from gateway.servers.transport import NotSent, Receiver, Spawn, StartError

logger = logging.getLogger("gateway.servers.http")

WRITE_IDLE_SECONDS: Final = 2.0
"""A call that may not be repeated uses no connection that was idle for longer: its server may just be closing it."""

MAX_ERROR_BYTES: Final = 1024 * 1024
MAX_REDIRECTS: Final = 3
LINGER_SECONDS: Final = 2.0
"""How long a stream may stay open after the answer came on it."""

RECONNECT_SECONDS: Final = 1.0
MAX_RECONNECT_SECONDS: Final = 30.0
CLOSE_SECONDS: Final = 2.0
ACCEPT_SECONDS: Final = 30.0
"""How long a server may take to accept a message that has no answer."""

MESSAGE_OVERHEAD: Final = 65_536
"""What a message may be larger than the result in it."""

_OWN_HEADERS: Final = frozenset(
    {"content-length", "transfer-encoding", "connection", "host", "content-type", "accept", "accept-encoding"}
    | {"mcp-session-id", "mcp-protocol-version", "mcp-method", "mcp-name", "last-event-id"}
)

_LEGACY_REFUSALS: Final = frozenset({-32000, -32001})
"""With which servers of the handshake era refuse a request without a session."""

_NOT_CARRIED_OUT: Final = frozenset(
    {400, 401, 403, 404, 405, 406, 410, 413, 414, 415, 417, 421, 426, 429, 431, 501, 503}
)


class _Answer:
    """Takes the HTTP answer to one posted message and hands what is in it to the link."""

    __slots__ = ("_body", "_decoder", "_events", "_headers", "_length", "_max", "_overflow", "_transport", "connection", "exchange", "status")  # fmt: skip

    def __init__(self, transport: "StreamableHttp", exchange: Exchange | None, connection: Connection) -> None:
        self._transport = transport
        self.exchange = exchange
        self.connection = connection
        self.status = 0
        self._headers: dict[str, str] = {}
        self._events: EventParser | None = None
        self._body: list[bytes] = []
        self._length = 0
        self._max = (exchange.max_result_bytes if exchange is not None else 0) + MESSAGE_OVERHEAD
        self._overflow = False

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self._headers = headers
        if self._transport.expects_session and status < 300 and (session := headers.get("mcp-session-id")):
            self._transport.take_session(session)
        if status == 200 and headers.get("content-type", "").lower().startswith("text/event-stream"):
            self._events = EventParser(self._event, self._max)
        if status >= 300:
            self._max = MAX_ERROR_BYTES

    def data(self, chunk: bytes) -> None:
        if self._events is not None:
            try:
                self._events.feed(chunk)
            except EventTooLarge:
                self._too_large()
            return
        self._length += len(chunk)
        if self._length > self._max:
            self._too_large()
        self._body.append(chunk)

    def end(self) -> None:
        exchange = self.exchange
        if exchange is not None:
            self._transport.answers.pop(exchange.identifier, None)
            if exchange.ending is not None:
                return
        if self._events is not None:
            self._broken_off("its answer's stream ended without the answer")
        else:
            self._transport.conclude(self.status, self._headers, b"".join(self._body), exchange)

    def lost(self, reason: str) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        self._transport.answers.pop(exchange.identifier, None)
        if self._overflow:
            limit = exchange.max_result_bytes
            exchange.finish(Unanswered(Code.RESULT_TOO_LARGE, f"its result is larger than {limit} bytes", "yes"))
        elif exchange.ending is None:
            self._broken_off(reason)

    def _event(self, event: Event) -> None:
        if event.type == "message" and event.data:
            self._transport.receiver.receive(event.data, self.exchange)
            if self.exchange is not None and self.exchange.ending is not None:
                asyncio.get_running_loop().call_later(LINGER_SECONDS, self.connection.abandon, self)

    def _broken_off(self, reason: str) -> None:
        """Take the stream up again where its server can, else the answer is lost."""
        exchange = self.exchange
        if exchange is None:
            return
        if self._events is not None and (last := self._events.last_event_id) and self._transport.session_id is not None:
            self._transport.resume(exchange, last, self._events.retry_seconds)
            return
        exchange.finish(Unanswered(Code.SERVER_LOST, reason, "unknown"))

    def _too_large(self) -> None:
        self._overflow = self.exchange is not None and self.status < 300
        raise AnswerError("the answer is too large")


class _Stream:
    """Takes an event stream that belongs to no single message (GET)."""

    __slots__ = ("_done", "_event", "_events", "_max", "_oversized", "connection", "reason", "status")

    def __init__(
        self,
        event: Callable[[Event], None],
        max_bytes: int,
        connection: Connection,
        oversized: Callable[[bytes, bytes], None],
    ) -> None:
        self.connection = connection
        self._oversized = oversized
        self.status = 0
        self.reason = ""
        self._event = event
        self._max = max_bytes
        self._events: EventParser | None = None
        self._done = asyncio.Event()

    @property
    def last_event_id(self) -> str | None:
        return self._events.last_event_id if self._events is not None else None

    @property
    def retry_seconds(self) -> float | None:
        return self._events.retry_seconds if self._events is not None else None

    async def ended(self) -> None:
        """Returns when the stream is over; closes it where this is cancelled."""
        try:
            await self._done.wait()
        finally:
            self.connection.abandon(self)

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        if status == 200 and headers.get("content-type", "").lower().startswith("text/event-stream"):
            self._events = EventParser(self._event, self._max, self._oversized)
        else:
            raise AnswerError(f"it answers {status} in place of a stream")

    def data(self, chunk: bytes) -> None:
        if self._events is not None:
            self._events.feed(chunk)

    def end(self) -> None:
        self.reason = "its stream ended"
        self._done.set()

    def lost(self, reason: str) -> None:
        self.reason = reason
        self._done.set()


class _Discarded:
    """Takes an answer that nobody needs."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = asyncio.Event()

    def head(self, status: int, headers: dict[str, str]) -> None:
        pass

    def data(self, chunk: bytes) -> None:
        pass

    def end(self) -> None:
        self.done.set()

    def lost(self, reason: str) -> None:
        self.done.set()


class StreamableHttp:
    """Streamable HTTP as a transport. Which era it speaks is decided by the link (`begin_session`).

    Args:
        settings: of its tool server.
        client: the connections.
        max_message_bytes: of a message on the server's own stream.
        spawn: runs a coroutine as long as the link lives.
    """

    correlates = True
    pid: int | None = None

    def __init__(
        self,
        settings: ServerSettings,
        client: HttpClient,
        max_message_bytes: int,
        spawn: Spawn,
    ) -> None:
        self.stateless = True
        self.session_id: str | None = None
        self.expects_session = False
        self.receiver: Receiver
        self.answers: dict[int, _Answer] = {}
        self._settings = settings
        self._client = client
        self._max = max_message_bytes
        self._spawn = spawn
        self._url: Url
        self._fixed = b""
        self._post = b""
        self._version = ""
        self._redirects = 0

    async def start(self, receiver: Receiver) -> None:
        self.receiver = receiver
        assert self._settings.url is not None
        try:
            self._url = Url.parse(self._settings.url.reveal())
        except (ValueError, UnicodeError) as error:
            raise StartError(f"{self._settings.url}: {error}", permanent=True) from None
        self._fixed = fixed_headers(self._settings, self._url)
        self._aim()

    def _aim(self) -> None:
        """The head of every POST, as far as it is always the same."""
        kinds = b"content-type: application/json\r\naccept: application/json, text/event-stream\r\n"
        self._post = b"".join((b"POST ", self._url.target.encode("ascii"), self._fixed, kinds))

    def begin_session(self) -> None:
        """From now on this is a handshake-era connection: the next answer (to `initialize`) may bring a session id."""
        self.stateless = False
        self.session_id = None
        self.expects_session = True

    def agree(self, version: str) -> None:
        """Name this protocol version in every request."""
        self.expects_session = False
        self._version = version

    def listen(self) -> None:
        """Open the server's own stream (handshake era), and again when it breaks; not every server has one."""
        self._spawn(self._listen)

    async def send(
        self,
        data: bytes,
        exchange: Exchange | None,
        *,
        headers: bytes = b"",
        repeatable: bool = False,
        attempt: Attempt | None = None,
        timeout_seconds: float = 10.0,
    ) -> None:
        session = b"" if self.stateless else self._session_headers()
        whole = b"%b%b%bcontent-length: %d\r\n\r\n%b" % (self._post, headers, session, len(data), data)
        connection = self._client.take(self._url.origin, MAX_IDLE_SECONDS if repeatable else WRITE_IDLE_SECONDS)
        if connection is None:
            try:
                connection = await self._client.connect(self._url.origin, timeout_seconds)
            except ConnectError as error:
                raise NotSent(str(error)) from None
            if exchange is not None and exchange.ending is not None:  # it was given up meanwhile
                connection.close()
                raise NotSent("there was no time left to send it")
        answer = _Answer(self, exchange, connection)
        if exchange is not None:
            self.answers[exchange.identifier] = answer
        if attempt is not None:
            attempt.sent = True
        connection.send(whole, answer)
        if exchange is None:
            asyncio.get_running_loop().call_later(ACCEPT_SECONDS, connection.abandon, answer)

    def drop(self, exchange: Exchange) -> None:
        if (answer := self.answers.pop(exchange.identifier, None)) is not None:
            answer.connection.abandon(answer)

    async def close(self) -> None:
        for answer in list(self.answers.values()):
            answer.connection.abandon(answer)
        self.answers.clear()
        if self.session_id is None:
            return
        done = _Discarded()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                connection = await self._connection(CLOSE_SECONDS)
                request = (b"DELETE ", self._url.target.encode("ascii"), self._fixed, self._session_headers())
                try:
                    connection.send(b"".join((*request, b"content-length: 0\r\n\r\n")), done)
                    await done.done.wait()
                finally:
                    connection.abandon(done)
        except (TimeoutError, ConnectError):
            pass

    # --- answers ---

    def conclude(self, status: int, headers: dict[str, str], body: bytes, exchange: Exchange | None) -> None:
        """What a complete answer that is no stream means."""
        if 200 <= status < 300:
            if body.strip():
                self.receiver.receive(body, exchange)
            if exchange is not None and exchange.ending is None:
                reason = f"it answers {status} without an answer to the request"
                exchange.finish(Unanswered(Code.SERVER_LOST, reason, "unknown"))
            return
        if exchange is None:
            logger.info("%s: answers %d to a message that needs no answer", self._settings.name, status)
            return
        if 300 <= status < 400:
            exchange.finish(self._redirected(status, headers.get("location", "")))
            return
        error = _json_rpc_error(body)
        if status == 404 and self.session_id is not None and (error is None or error[0] in (-32001, -32000, -32600)):
            reason = "it does not know the session any more"
            exchange.finish(Unanswered(Code.SERVER_LOST, reason, "no", status=status, forgotten=True))
        elif error is not None and error[0] == wire.UNSUPPORTED_VERSION:
            reason = "it does not speak this protocol version"
            refused = Unanswered(Code.SERVER_UNAVAILABLE, reason, "no", status=status, error=error[1], forgotten=True)
            exchange.finish(refused)
        elif error is not None and self.stateless and status == 400 and error[0] in _LEGACY_REFUSALS:
            # No error of 2026-07-28: somebody else answers here now.
            gone = Unanswered(
                Code.SERVER_UNAVAILABLE, "it answers 400", "no", status=status, error=error[1], forgotten=True
            )
            exchange.finish(gone)
        elif error is not None:
            exchange.finish(Answered(error=error[1]))
        else:
            exchange.finish(_by_status(status, headers))

    def resume(self, exchange: Exchange, last_event_id: str, retry_seconds: float | None) -> None:
        """Take up an answer's stream that ended before the answer (2025-11-25, "Resumability")."""

        async def resume() -> None:
            event_id, delay = last_event_id, retry_seconds
            while exchange.ending is None:
                await asyncio.sleep(RECONNECT_SECONDS if delay is None else delay)
                try:
                    stream = await self._get(lambda event: self._resumed(event, exchange), event_id)
                except ConnectError as error:
                    exchange.finish(Unanswered(Code.SERVER_LOST, str(error), "unknown"))
                    return
                await stream.ended()
                if stream.status != 200 or stream.last_event_id in (None, event_id):
                    exchange.finish(Unanswered(Code.SERVER_LOST, stream.reason, "unknown"))
                    return
                event_id, delay = stream.last_event_id or event_id, stream.retry_seconds

        self._spawn(resume)

    def _resumed(self, event: Event, exchange: Exchange) -> None:
        if event.type == "message" and event.data:
            self.receiver.receive(event.data, exchange)

    def _redirected(self, status: int, location: str) -> Unanswered:
        """Followed only within the same origin, and only where the method stays; else refused."""
        target: Url | None = None
        here = self._url.origin
        try:
            target = Url.parse(urljoin(f"{here.scheme}://{here.authority}{self._url.target}", location))
        except (ValueError, UnicodeError):
            target = None
        if target is not None and target.origin == here and status in (307, 308) and self._redirects < MAX_REDIRECTS:
            self._redirects += 1
            self._url = Url(here, target.target, self._url.username, self._url.password)
            self._aim()
            return Unanswered(Code.SERVER_UNAVAILABLE, "it moved within its host", "no", forgotten=True)
        where = target.origin.authority if target is not None else "nowhere"
        return Unanswered(Code.SERVER_UNAVAILABLE, f"it redirects ({status}) to {where}, which is not followed", "no")

    def take_session(self, session: str) -> None:
        self.expects_session = False
        if session.isascii() and session.isprintable() and len(session) <= 1024:
            self.session_id = session
        else:
            logger.warning("%s: its session id is not one that HTTP can carry", self._settings.name)

    def _session_headers(self) -> bytes:
        version = f"mcp-protocol-version: {self._version}\r\n" if self._version else ""
        session = f"mcp-session-id: {self.session_id}\r\n" if self.session_id is not None else ""
        return (version + session).encode("ascii")

    # --- the server's own stream ---

    async def _listen(self) -> None:
        event_id: str | None = None
        pause = RECONNECT_SECONDS
        had_one = False
        while True:
            began = asyncio.get_running_loop().time()
            try:
                stream = await self._get(lambda event: self._unrelated(event), event_id)
                if had_one and event_id is None:
                    self.receiver.missed()
                await stream.ended()
            except ConnectError as error:
                logger.debug("%s: no stream: %s", self._settings.name, error)
            else:
                if had_one and stream.status == 404:
                    self.receiver.lost("it does not know the session any more")
                    return
                if stream.status in (400, 404, 405, 406, 501):
                    return
                had_one = had_one or stream.status == 200
                event_id = stream.last_event_id or event_id
                if stream.retry_seconds is not None:
                    pause = stream.retry_seconds
            if asyncio.get_running_loop().time() - began > MAX_RECONNECT_SECONDS:
                pause = RECONNECT_SECONDS
            await asyncio.sleep(pause)
            pause = min(max(pause, 0.1) * 2, MAX_RECONNECT_SECONDS)

    def _unrelated(self, event: Event) -> None:
        if event.type == "message" and event.data:
            self.receiver.receive(event.data, None)

    async def _get(self, event: Callable[[Event], None], last_event_id: str | None) -> _Stream:
        connection = await self._connection(10.0)
        stream = _Stream(event, self._max, connection, self.receiver.oversized)
        resumed = b""
        if last_event_id is not None and last_event_id.isprintable():
            resumed = b"last-event-id: %s\r\n" % last_event_id.encode("utf-8")
        request = (b"GET ", self._url.target.encode("ascii"), self._fixed, b"accept: text/event-stream\r\n")
        connection.send(b"".join((*request, self._session_headers(), resumed, b"\r\n")), stream)
        return stream

    async def _connection(self, timeout_seconds: float) -> Connection:
        taken = self._client.take(self._url.origin, WRITE_IDLE_SECONDS)
        return taken if taken is not None else await self._client.connect(self._url.origin, timeout_seconds)


class OldSse:
    """The HTTP+SSE transport of 2024-11-05: one stream for everything that comes, one address for everything that goes."""

    correlates = False
    stateless = False
    pid: int | None = None

    def __init__(
        self,
        settings: ServerSettings,
        client: HttpClient,
        max_message_bytes: int,
        spawn: Spawn,
    ) -> None:
        self._settings = settings
        self._client = client
        self._max = max_message_bytes
        self._spawn = spawn
        self._receiver: Receiver | None = None
        self._stream: _Stream | None = None
        self._url: Url
        self._fixed = b""
        self._endpoint: asyncio.Future[str] | None = None

    async def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        assert self._settings.url is not None
        text = self._settings.url.reveal()
        try:
            self._url = Url.parse(text)
        except (ValueError, UnicodeError) as error:
            raise StartError(f"{self._settings.url}: {error}", permanent=True) from None
        self._fixed = fixed_headers(self._settings, self._url)
        self._endpoint = asyncio.get_running_loop().create_future()
        try:
            connection = await self._client.connect(self._url.origin, 10.0)
        except ConnectError as error:
            raise StartError(str(error)) from None
        stream = self._stream = _Stream(self._event, self._max, connection, receiver.oversized)
        request = (b"GET ", self._url.target.encode("ascii"), self._fixed, b"accept: text/event-stream\r\n\r\n")
        connection.send(b"".join(request), stream)
        self._spawn(self._watch)
        endpoint = await self._endpoint
        try:
            posted_to = Url.parse(urljoin(text, endpoint))
        except (ValueError, UnicodeError):
            raise StartError(f"it names {endpoint[:100]!r} as its endpoint, which is no address") from None
        if posted_to.origin != self._url.origin:
            raise StartError(f"it names an endpoint on another host ({posted_to.origin.authority}), which is refused")
        self._url = posted_to

    async def _watch(self) -> None:
        assert self._stream is not None
        await self._stream.ended()
        assert self._endpoint is not None
        if not self._endpoint.done():
            self._endpoint.set_exception(StartError(self._stream.reason))
        elif self._receiver is not None:
            self._receiver.lost(self._stream.reason)

    def _event(self, event: Event) -> None:
        assert self._receiver is not None
        assert self._endpoint is not None
        if event.type == "endpoint" and not self._endpoint.done():
            self._endpoint.set_result(event.data.decode("utf-8", "replace").strip())
        elif event.type == "message" and event.data:
            self._receiver.receive(event.data, None)

    async def send(
        self,
        data: bytes,
        exchange: Exchange | None,
        *,
        headers: bytes = b"",
        repeatable: bool = False,
        attempt: Attempt | None = None,
        timeout_seconds: float = 10.0,
    ) -> None:
        idle = MAX_IDLE_SECONDS if repeatable else WRITE_IDLE_SECONDS
        connection = self._client.take(self._url.origin, idle)
        if connection is None:
            try:
                connection = await self._client.connect(self._url.origin, timeout_seconds)
            except ConnectError as error:
                raise NotSent(str(error)) from None
        if attempt is not None:
            attempt.sent = True
        head = (b"POST ", self._url.target.encode("ascii"), self._fixed, b"content-type: application/json\r\n")
        accepted = _Accepted(exchange)
        connection.send(b"".join((*head, b"content-length: %d\r\n\r\n" % len(data), data)), accepted)
        asyncio.get_running_loop().call_later(ACCEPT_SECONDS, connection.abandon, accepted)

    def drop(self, exchange: Exchange) -> None:
        pass

    async def close(self) -> None:
        if self._stream is not None:
            self._stream.connection.abandon(self._stream)


class _Accepted:
    """Takes the answer to a message that was posted in the old transport: only a refusal says anything."""

    __slots__ = ("_exchange", "_headers", "_status")

    def __init__(self, exchange: Exchange | None) -> None:
        self._exchange = exchange
        self._status = 0
        self._headers: dict[str, str] = {}

    def head(self, status: int, headers: dict[str, str]) -> None:
        self._status = status
        self._headers = headers

    def data(self, chunk: bytes) -> None:
        pass

    def end(self) -> None:
        if self._exchange is not None and self._status >= 300:
            self._exchange.finish(_by_status(self._status, self._headers))

    def lost(self, reason: str) -> None:
        if self._exchange is not None:
            self._exchange.finish(Unanswered(Code.SERVER_LOST, reason, "unknown"))


def fixed_headers(settings: ServerSettings, url: Url) -> bytes:
    """The rest of the request line and the headers that every request carries, from ` HTTP/1.1` on.

    Raises:
        StartError: a configured header that HTTP cannot carry.
    """
    lines = [
        " HTTP/1.1",
        f"host: {url.origin.authority}",
        "accept-encoding: identity",
        "user-agent: mcp-execution-gateway",
    ]
    configured = {name.lower(): (name, secret) for name, secret in settings.headers.items()}
    if url.username is not None and "authorization" not in configured:
        pair = f"{url.username}:{url.password or ''}".encode()
        lines.append(f"authorization: Basic {base64.b64encode(pair).decode('ascii')}")
    for lower, (name, secret) in configured.items():
        value = secret.reveal().strip()
        if lower in _OWN_HEADERS or lower.startswith("mcp-param-"):
            logger.warning("%s: the header %s is the gateway's own and is not sent as configured", settings.name, name)
            continue
        if lower == "user-agent":
            lines.remove("user-agent: mcp-execution-gateway")
        if not name.isascii() or any(c in name for c in " :\r\n\t\0") or not name.isprintable():
            raise StartError(f"the header name {name!r} is not one that HTTP can carry", permanent=True)
        if any(c in value for c in "\r\n\0") or not _latin(value):
            raise StartError(f"the value of the header {name} is not one that HTTP can carry", permanent=True)
        lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n").encode("latin-1")


def _latin(value: str) -> bool:
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def _json_rpc_error(body: bytes) -> tuple[int | None, bytes] | None:
    """Code and text of the JSON-RPC error in an answer's body, if there is one."""
    if not body.strip():
        return None
    try:
        envelope = wire.decode(body)
        if isinstance(envelope.error, wire.Unset):
            return None
        text = wire.relayed(envelope.error)
        error = wire.parse(text)
    except wire.Garbage:
        return None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    code = error.get("code")
    return (code if isinstance(code, int) else None), text


def _by_status(status: int, headers: dict[str, str]) -> Unanswered:
    """What an HTTP error without a JSON-RPC error in it says of the call."""
    if status in _NOT_CARRIED_OUT:
        after = headers.get("retry-after", "")
        retry = float(after) if after.isdigit() and len(after) < 6 else None
        return Unanswered(
            Code.SERVER_UNAVAILABLE, f"it answers {status}", "no", retry_after_seconds=retry, status=status
        )
    return Unanswered(Code.SERVER_LOST, f"it answers {status}", "unknown", status=status)
