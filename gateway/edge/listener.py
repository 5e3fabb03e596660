"""The HTTP listener: uvicorn on httptools, with deadlines for clients that send slowly and a limit on headers.

A client that opens a connection and sends a byte a minute (slow loris, A24) costs a connection for `body_seconds` at most:
the time runs from the connection's opening, or a request's first byte, to the request's end.
"""

import asyncio
import contextlib
import math
import socket
from collections.abc import Iterator
from typing import Any, Final, cast
from urllib.parse import unquote

import anyio
import anyio.abc
import httptools
import uvicorn
from uvicorn._types import HTTPScope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.edge.http import McpApp
from gateway.edge.security import Asgi

MAX_HEADER_BYTES: Final = 65_536
"""Of one request's headers, names and values."""

KEEP_ALIVE_SECONDS: Final = 75
"""How long an idle connection is kept: longer than what clients' pools count on."""

_NEVER: Final = math.inf


class _Cycle(RequestResponseCycle):
    """uvicorn's request and response, with a way to give a whole answer at once.

    The application finds `answer` as the ASGI extension `gateway.answer`: a response in one piece needs no two messages, and
    its headers, which are the gateway's own, no searching for what they must not hold.
    """

    def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """Write the response. False, and nothing was done, where it has to go the usual way.

        Args:
            headers: with the body's length; none about the connection.
        """
        if self.response_started or self.disconnected or self.flow.write_paused:
            return False
        self.response_started = self.response_complete = True
        parts = [STATUS_LINE[status]]
        for name, value in self.default_headers:
            parts += (name, b": ", value, b"\r\n")
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        if self.scope["method"] != "HEAD":
            parts.append(body)
        self.transport.write(b"".join(parts))
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        return True


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol with a deadline for each request's arrival.

    A request sets instants, no timers: `_Server` looks at every connection now and then.
    """

    seconds: float = 30.0
    _header_bytes = 0
    _arrival = _NEVER
    """When the request that is arriving has to be here."""
    _rest = _NEVER
    """When the connection, on which nothing happens, is closed."""

    def overdue(self, now: float) -> bool:
        """Whether the connection has to be closed at this instant of the loop's clock."""
        return now >= self._arrival or now >= self._rest

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._arrival = self.loop.time() + self.seconds

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._header_bytes = 0
        if self._arrival == _NEVER:
            self._arrival = self.loop.time() + self.seconds

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES:
            raise ValueError("headers too large")  # uvicorn answers 400 and closes
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self.parser
        version = parser.get_http_version()
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        cycle = _Cycle(
            scope=cast(
                HTTPScope,
                scope := {
                    "type": "http",
                    "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
                    "http_version": version,
                    "server": self.server,
                    "client": self.client,
                    "scheme": self.scheme,
                    "method": parser.get_method().decode("ascii"),
                    "root_path": "",
                    "path": unquote(path) if "%" in path else path,
                    "raw_path": url.path,
                    "query_string": url.query or b"",
                    "headers": self.headers,
                    "state": self.app_state.copy(),
                },
            ),
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        scope["extensions"] = {"gateway.answer": cycle.answer}
        self.scope = cycle.scope
        before, self.cycle = self.cycle, cycle
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:  # a pipelined request waits for the answer to the one before
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def on_message_complete(self) -> None:
        self._arrival = _NEVER
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._rest = self.loop.time() + self.timeout_keep_alive

    def _unset_keepalive_if_required(self) -> None:
        self._rest = _NEVER


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: the process's owner has its own. It closes connections whose time is over."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def close_overdue(self, every_seconds: float) -> None:
        """Never returns."""
        while True:
            await anyio.sleep(every_seconds)
            now = anyio.current_time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, _Protocol) and connection.overdue(now):
                    connection.transport.close()


def bound(host: str, port: int) -> socket.socket:
    """A listening socket, bound before anything else starts, so that a taken port is said at once.

    Raises:
        OSError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off for what is accepted: without it a call costs 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(1_024)
    except OSError:
        listening.close()
        raise
    return listening


async def serve_http(
    mcp: McpApp,
    app: Asgi,
    listening: socket.socket,
    *,
    stop: anyio.Event,
    drain_seconds: float = 10.0,
    task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` on the socket until `stop` is set; then take no more, drain for at most so long, and return.

    `mcp.running()` is entered here.
    """
    protocol = type("Protocol", (_Protocol,), {"seconds": mcp.settings.body_seconds})
    config = uvicorn.Config(
        app,
        http=protocol,
        loop="none",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    async with mcp.running(), anyio.create_task_group() as tasks:
        tasks.start_soon(_until_stopped, mcp, server, stop, drain_seconds)
        tasks.start_soon(server.close_overdue, min(1.0, mcp.settings.body_seconds / 4))
        task_status.started()
        await server.serve(sockets=[listening])
        tasks.cancel_scope.cancel()


async def _until_stopped(mcp: McpApp, server: _Server, stop: anyio.Event, drain_seconds: float) -> None:
    await stop.wait()
    await mcp.drain(drain_seconds)
    server.should_exit = True
