"""The HTTP listener: uvicorn on httptools, with deadlines for clients that send slowly and a limit on headers.

A client that opens a connection and sends a byte a minute (slow loris, A24) costs a connection for `body_seconds` at most:
the time runs from the connection's opening, or a request's first byte, to the request's end.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Final

import anyio
import anyio.abc
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.edge.http import McpApp
from gateway.edge.security import Asgi

MAX_HEADER_BYTES: Final = 65_536
"""Of one request's headers, names and values."""

KEEP_ALIVE_SECONDS: Final = 75
"""How long an idle connection is kept: longer than what clients' pools count on."""


class _Impatient(HttpToolsProtocol):
    """uvicorn's protocol with a deadline for each request's arrival."""

    seconds: float = 30.0
    _arrival: asyncio.TimerHandle | None = None
    _header_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_bytes = 0
        if self._arrival is None:
            self._expect()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES:
            raise ValueError("headers too large")  # uvicorn answers 400 and closes
        super().on_header(name, value)

    def on_message_complete(self) -> None:
        self._arrived()
        super().on_message_complete()

    def _expect(self) -> None:
        self._arrival = self.loop.call_later(self.seconds, self._too_slow)

    def _arrived(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _too_slow(self) -> None:
        self._arrival = None
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: the process's owner has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


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
    protocol = type("Impatient", (_Impatient,), {"seconds": mcp.settings.body_seconds})
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
        task_status.started()
        await server.serve(sockets=[listening])
        tasks.cancel_scope.cancel()


async def _until_stopped(mcp: McpApp, server: _Server, stop: anyio.Event, drain_seconds: float) -> None:
    await stop.wait()
    await mcp.drain(drain_seconds)
    server.should_exit = True
