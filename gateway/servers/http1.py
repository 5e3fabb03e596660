"""A small HTTP/1.1 client over asyncio: keep-alive connections, answers handed on as they arrive.

A library client costs more than the rest of a forwarded call together (measured: 0.8 ms against 0.1), so the hot path has
its own. What it leaves out is left out on purpose: no redirects (the caller decides), no cookies, no proxies from the
environment, no HTTP/2, no pipelining.

**Connections.** One exchange at a time on each. After an answer that is complete, and whose server keeps the connection
open, it goes back to the pool and is taken from there newest first. How old an idle connection may be is said by who
takes it: a server may close one at any moment, and a request that meets the closing may or may not have been read.
"""

import asyncio
import logging
import os
import socket
import ssl
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast
from urllib.parse import SplitResult, urlsplit

import httptools

logger = logging.getLogger("gateway.servers.http")

MAX_HEADER_BYTES = 65_536
ADDRESS_SECONDS = 2.5
"""For one of several addresses of a host."""

MAX_IDLE_SECONDS = 30.0
MAX_IDLE_CONNECTIONS = 64
"""Of one origin."""


class ConnectError(Exception):
    """No connection: refused, not resolved, no TLS. Nothing was sent. The text says why."""


class Sink(Protocol):
    """Takes one answer. Called by the connection, in this order: `head`, any number of `data`, then `end` or `lost`.

    `lost` may come at any time, and is the last call. What a sink raises in `head` or `data` ends the connection and
    comes back to it as `lost`.
    """

    def head(self, status: int, headers: dict[str, str]) -> None:
        """Status and headers (names in lower case; repeated ones joined by a comma)."""
        ...

    def data(self, chunk: bytes) -> None:
        """Some bytes of the body, decoded."""
        ...

    def end(self) -> None:
        """The body is complete."""
        ...

    def lost(self, reason: str) -> None:
        """The connection ended before the answer did."""
        ...


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """As the `Host` header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"http": 80, "https": 443}[self.scheme]
        return host if self.port == default else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Url:
    """An http(s) URL, split the way requests need it."""

    origin: Origin
    target: str
    """Path and query."""
    username: str | None = None
    password: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Url":
        """
        Raises:
            ValueError: not an absolute http or https URL.
        """
        parts: SplitResult = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("not an http or https URL")
        if any(character <= " " or character == "\x7f" for character in text):
            raise ValueError("the URL has blanks or control characters")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        target.encode("ascii")
        return cls(Origin(parts.scheme, parts.hostname, port), target, parts.username, parts.password)


class Connection(asyncio.Protocol):
    """One connection, and the parser of what comes on it."""

    __slots__ = (
        "_buffer_length",
        "_closed",
        "_decoder",
        "_framed",
        "_header_bytes",
        "_headers",
        "_in_body",
        "_informational",
        "_loop",
        "_on_idle",
        "_parser",
        "_sink",
        "_transport",
        "idle_since",
        "origin",
    )

    def __init__(
        self, origin: Origin, on_idle: "Callable[[Connection], None]", loop: asyncio.AbstractEventLoop
    ) -> None:
        self.origin = origin
        self.idle_since = 0.0
        self._on_idle = on_idle
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._sink: Sink | None = None
        self._closed = False
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._in_body = False
        self._informational = False
        self._framed = False
        self._decoder: Any = None

    # --- for who uses it ---

    @property
    def usable(self) -> bool:
        return not self._closed and self._transport is not None and not self._transport.is_closing()

    def send(self, data: bytes, sink: Sink) -> None:
        """Hand a whole request to the transport; its answer goes to `sink`."""
        assert self._sink is None
        assert self._transport is not None
        self._sink = sink
        self._transport.write(data)

    def abandon(self, sink: Sink) -> None:
        """Close the connection, if `sink` still waits for its answer here. It hears nothing more."""
        if self._sink is sink:
            self._sink = None
            self.close()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._transport is not None:
                self._transport.abort()

    # --- asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        if self._sink is None:
            self.close()  # nobody asked for this
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("the server switched protocols")
        except httptools.HttpParserError as error:
            # An exception of a callback arrives here wrapped, with the original one as its context.
            cause = error.__context__ or error.__cause__
            self._fail(str(cause) if isinstance(cause, AnswerError) else "the answer is not HTTP")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = True
        sink, self._sink = self._sink, None
        if sink is None:
            return
        if error is None and self._in_body and not self._framed:
            sink.end()  # the end of the connection is the end of such a body
        else:
            sink.lost("the connection was closed" if error is None else f"the connection broke ({_text(error)})")

    # --- httptools ---

    def on_message_begin(self) -> None:
        self._headers = {}
        self._header_bytes = 0
        self._framed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value) + 4
        if self._header_bytes > MAX_HEADER_BYTES:
            raise AnswerError(f"the answer's headers are larger than {MAX_HEADER_BYTES} bytes")
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        before = self._headers.get(key)
        self._headers[key] = text if before is None else f"{before}, {text}"

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._informational = True
            return
        headers = self._headers
        self._framed = "content-length" in headers or "transfer-encoding" in headers or status in (204, 304)
        self._in_body = True
        match headers.get("content-encoding", "identity").lower():
            case "identity" | "":
                self._decoder = None
            case "gzip" | "x-gzip" | "deflate":
                self._decoder = zlib.decompressobj(wbits=47)
            case other:
                raise AnswerError(f"the answer is encoded as {other!r}, which was not asked for")
        if self._sink is not None:
            self._sink.head(status, headers)

    def on_body(self, chunk: bytes) -> None:
        if self._sink is None:
            return
        if self._decoder is None:
            self._sink.data(chunk)
            return
        pending = chunk
        while pending and self._sink is not None:
            try:
                decoded = self._decoder.decompress(pending, 65_536)
            except zlib.error:
                raise AnswerError("the answer's compression is broken") from None
            pending = self._decoder.unconsumed_tail
            if decoded:
                self._sink.data(decoded)
            elif not pending:
                break

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
            return
        self._in_body = False
        sink, self._sink = self._sink, None
        if sink is None:
            return
        if self._framed and not self._closed and self._parser.should_keep_alive():
            self.idle_since = self._loop.time()
            self._on_idle(self)
        else:
            self.close()
        sink.end()

    def _fail(self, reason: str) -> None:
        sink, self._sink = self._sink, None
        self.close()
        if sink is not None:
            sink.lost(reason)


class AnswerError(Exception):
    """An answer that cannot be taken; ends the connection. The text says why."""


class HttpClient:
    """The connections of this process to all HTTP tool servers, with one TLS context.

    Args:
        ssl_context: for `https`; absent: made once, when it is first needed, with the system's certificates.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None = None) -> None:
        self._ssl = ssl_context
        self._idle: dict[Origin, list[Connection]] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    def take(self, origin: Origin, max_idle_seconds: float) -> Connection | None:
        """An idle connection that was used within the last `max_idle_seconds`, or None."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle[-1]
            if not connection.usable:
                idle.pop()
                continue
            if connection.idle_since < connection._loop.time() - max_idle_seconds:
                return None
            idle.pop()
            return connection
        return None

    async def connect(self, origin: Origin, timeout_seconds: float) -> Connection:
        """A new connection.

        Raises:
            ConnectError: there is none.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_seconds):
                found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
                for last, (_, _, _, _, address) in (
                    (index == len(found) - 1, each) for index, each in enumerate(found)
                ):
                    try:
                        # An address that does not answer (broken IPv6, say) does not take the time of the others.
                        async with asyncio.timeout(None if last else ADDRESS_SECONDS):
                            return await self._connect_to(origin, str(address[0]), loop)
                    except (TimeoutError, OSError):
                        if last:
                            raise
        except TimeoutError:
            raise ConnectError(f"no connection to {origin.authority} within {timeout_seconds:.3g} s") from None
        except ssl.SSLError as error:
            raise ConnectError(f"no TLS connection to {origin.authority}: {error.reason or error}") from None
        except (OSError, UnicodeError) as error:
            raise ConnectError(f"no connection to {origin.authority}: {_text(error)}") from None
        raise ConnectError(f"no connection to {origin.authority}: it has no address")

    async def _connect_to(self, origin: Origin, address: str, loop: asyncio.AbstractEventLoop) -> Connection:
        secure = origin.scheme == "https"
        _, connection = await loop.create_connection(
            lambda: Connection(origin, self._put_back, loop),
            address,
            origin.port,
            ssl=self._context() if secure else None,
            server_hostname=origin.host if secure else None,
        )
        return connection

    def close(self) -> None:
        """Close every idle connection. Those in use end with what uses them."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()

    def _context(self) -> ssl.SSLContext:
        if self._ssl is None:
            self._ssl = ssl.create_default_context()
            self._ssl.set_alpn_protocols(["http/1.1"])
        return self._ssl

    def _put_back(self, connection: Connection) -> None:
        idle = self._idle.setdefault(connection.origin, [])
        idle.append(connection)
        if len(idle) > MAX_IDLE_CONNECTIONS:
            idle.pop(0).close()
        if self._sweeper is None:
            self._sweeper = connection._loop.call_later(MAX_IDLE_SECONDS, self._sweep, connection._loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        oldest = loop.time() - MAX_IDLE_SECONDS
        for origin, idle in list(self._idle.items()):
            for connection in [each for each in idle if each.idle_since <= oldest or not each.usable]:
                idle.remove(connection)
                connection.close()
            if not idle:
                del self._idle[origin]
        self._sweeper = loop.call_later(MAX_IDLE_SECONDS / 2, self._sweep, loop) if self._idle else None


def _text(error: BaseException) -> str:
    """What went wrong, in the system's words, on one line."""
    number = getattr(error, "errno", None)
    system = os.strerror(number) if isinstance(number, int) and number > 0 else getattr(error, "strerror", None)
    text = system or str(error) or type(error).__name__
    return str(text).split("\n", 1)[0][:200]
