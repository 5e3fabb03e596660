"""Raw MCP clients that cost next to nothing: they must never be what is measured.

An HTTP connection is an ``asyncio.Protocol`` with httptools on one kept-alive socket, one request at a time; a stdio peer is a
child process with requests matched by id. A call's bytes are made once and sent as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import urlsplit

import httptools
import orjson

MODERN: Final = "2026-07-28"
LEGACY: Final = "2025-11-25"
_META: Final = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
}


class Wrong(Exception):
    """An answer that is no result: whatever was measured is worth nothing."""


def request(method: str, params: dict[str, Any], *, modern: bool, request_id: int = 1) -> dict[str, Any]:
    """A JSON-RPC request of that era."""
    params = {**params, "_meta": _META} if modern else params
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def call(tool: str, text: str, *, modern: bool, request_id: int = 1) -> dict[str, Any]:
    """A ``tools/call``."""
    return request("tools/call", {"name": tool, "arguments": {"text": text}}, modern=modern, request_id=request_id)


def checked(body: bytes) -> None:
    """Looks for a good result without parsing it in full.

    Raises:
        Wrong: an error, a tool error, or something else.
    """
    if b'"content"' not in body or b'"isError":true' in body:
        raise Wrong(body[:500].decode(errors="replace"))


class _Http(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.future: asyncio.Future[tuple[int, dict[bytes, bytes], bytes]] | None = None
        self._start()

    def _start(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        status, headers, body = self.parser.get_status_code(), self.headers, self.body
        self._start()
        if self.future is not None and not self.future.done():
            self.future.set_result((status, headers, body))


@dataclass
class HttpConnection:
    """One kept-alive connection; `exchange` sends what `prepare` made."""

    url: str
    protocol: _Http
    session: str | None = None
    modern: bool = True

    @classmethod
    async def open(cls, url: str, *, modern: bool = True) -> HttpConnection:
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(_Http, parts.hostname or "127.0.0.1", parts.port or 80)
        connection = cls(url, protocol, modern=modern)
        if not modern:
            params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
            _, headers, _ = await connection.send(connection.prepare(request("initialize", params, modern=False)))
            session = headers.get(b"mcp-session-id")
            connection.session = session.decode() if session else None
            await connection.send(connection.prepare({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        return connection

    def prepare(self, message: dict[str, Any]) -> bytes:
        """The whole HTTP request for a message."""
        parts = urlsplit(self.url)
        body = orjson.dumps(message)
        head = [
            f"POST {parts.path} HTTP/1.1",
            f"host: {parts.netloc}",
            "content-type: application/json",
            "accept: application/json, text/event-stream",
            f"content-length: {len(body)}",
        ]
        if self.modern:
            head += [f"mcp-protocol-version: {MODERN}", f"mcp-method: {message['method']}"]
            if "name" in message.get("params", {}):
                head.append(f"mcp-name: {message['params']['name']}")
        elif self.session is not None:
            head += [f"mcp-protocol-version: {LEGACY}", f"mcp-session-id: {self.session}"]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + body

    async def send(self, prepared: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
        protocol = self.protocol
        assert protocol.transport is not None
        protocol.future = asyncio.get_running_loop().create_future()
        protocol.transport.write(prepared)
        return await protocol.future

    async def exchange(self, prepared: bytes) -> None:
        _, _, body = await self.send(prepared)
        checked(body)

    def close(self) -> None:
        if self.protocol.transport is not None:
            self.protocol.transport.close()


class _Lines(asyncio.SubprocessProtocol):
    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[bytes]] = {}
        self.rest = b""
        self.ended = asyncio.get_running_loop().create_future()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd != 1:
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            # The id is found without parsing the rest, as a client that wants to cost nothing does.
            found = line.find(b'"id":')
            end = found + 5
            while end < len(line) and line[end : end + 1].isdigit():
                end += 1
            number = line[found + 5 : end]
            if number and (future := self.waiting.pop(int(number), None)) is not None and not future.done():
                future.set_result(line)

    def process_exited(self) -> None:
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(ConnectionResetError("the child ended"))
        if not self.ended.done():
            self.ended.set_result(None)


@dataclass
class StdioPeer:
    """A child that speaks MCP on stdio; any number of requests in flight."""

    transport: asyncio.SubprocessTransport
    protocol: _Lines
    modern: bool
    next_id: int = 1000

    @classmethod
    async def open(
        cls, command: list[str], *, modern: bool = True, environment: dict[str, str] | None = None, log: Any = None
    ) -> StdioPeer:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(_Lines, *command, stderr=log or sys.stderr, env=environment)
        peer = cls(transport, protocol, modern)
        if not modern:
            params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
            await peer.send(request("initialize", params, modern=False, request_id=1), 1)
            peer.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        return peer

    @property
    def pid(self) -> int:
        return self.transport.get_pid()

    def write(self, data: bytes) -> None:
        cast(asyncio.WriteTransport, self.transport.get_pipe_transport(0)).write(data)

    async def send(self, message: dict[str, Any], request_id: int) -> bytes:
        return await self._roundtrip(orjson.dumps(message) + b"\n", request_id)

    async def _roundtrip(self, line: bytes, request_id: int) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.protocol.waiting[request_id] = future
        self.write(line)
        return await future

    def prepare(self, message: dict[str, Any]) -> bytes:
        """The line with a hole for the id."""
        return orjson.dumps({**message, "id": "@@"}).replace(b'"@@"', b"%d", 1) + b"\n"

    async def exchange(self, prepared: bytes) -> None:
        self.next_id += 1
        checked(await self._roundtrip(prepared.replace(b"%d", b"%d" % self.next_id, 1), self.next_id))

    async def close(self) -> None:
        pipe = self.transport.get_pipe_transport(0)
        if pipe is not None:
            pipe.close()
        try:
            await asyncio.wait_for(asyncio.shield(self.protocol.ended), 10)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            await self.protocol.ended
        self.transport.close()
