"""A tool server that does what a script tells it: the partner of every fault test.

It speaks raw JSON-RPC (no SDK, nothing validated, nothing mended) over stdio, Streamable HTTP and the old HTTP+SSE
transport, in the handshake era and in 2026-07-28, and writes what happens to it into a *ledger*, one JSON object a line,
each line on disk (fsync) before the next step runs. What the ledger does not hold did not happen; what it holds twice
happened twice. That is how a test proves at-most-once.

From a test::

    script = {"tools": [tool("pay", risk="write")], "on": {"tools/call:pay": [{"effect": "paid"}, {"die": 1}]}}
    server = Scripted(tmp_path, script)
    server.command, server.args             # what goes into servers.toml for stdio
    async with server.http() as url: ...    # or: a process that listens; the URL ends in /mcp
    server.url_path                         # "/mcp"; the old transport is at "/sse"
    server.effects("paid")                  # the ledger's entries, across all processes and restarts
    await server.wait_for("effect", label="paid")     # no sleeping: returns when the ledger says so
    server.open_gate("go")                  # lets a {"gate": "go"} step continue

By hand: ``python -m tests.scripted_server --script FILE --ledger FILE (--stdio | --http PORT) [--era both|legacy|modern]``.

**The script** is one JSON object; every key may be left out:

``name``, ``version``, ``instructions``, ``capabilities``
    for the handshake and for ``server/discover``.
``tools``, ``resources``, ``templates``, ``prompts``
    lists of definitions, sent exactly as they stand here, malformed ones included; ``page`` (a number) pages them.
``on``
    what to do for a request: the first of ``"tools/call:NAME"`` (or ``"prompts/get:NAME"``, ``"resources/read:URI"``) and
    ``"METHOD"`` that is there; else a sensible default (a tool echoes its arguments as text). A notification of the
    client (``"notifications/..."``) may have steps, too. A list of steps; or a list of such lists, one for each time the
    request comes, the last one for all further times (counted in the ledger, so across restarts).
``on_start``
    steps before the first byte is read (``delay``, ``hang``, ``die``, ``stdout``, ``stderr``, ``effect``, ``gate``).

**Steps**, objects with one main key, run in order; the first that answers ends the request:

=======================  ===========================================================================================
``effect``: LABEL        writes ``{"event": "effect", "label": LABEL, "arguments": ...}`` to the ledger
``delay``: SECONDS       waits
``gate``: NAME           writes ``{"event": "gate", "gate": NAME}``, then waits until the test opens that gate
``hang``: true           never answers
``progress``: N          ``notifications/progress`` (``total``, ``message``) if the request asked for it; ``token`` overrides
``log``: DATA            ``notifications/message`` (``level``, ``logger``)
``notify``: METHOD       any notification, with ``params``; ``where: "stream"``: on the connection's own stream (legacy
                         GET stream, ``subscriptions/listen``), not in the answer to this request
``ask``: METHOD          ``params``; legacy: a live request to the client, waits for the answer; modern: answers
                         ``input_required`` and goes on with the next step in the retry. Answers collect in ``$answers``.
                         Several asks at once: ``ask: {"key": {"method": ..., "params": ...}, ...}``
``request``: METHOD      ``params``; a live request to the client in whatever era, whose answer is not waited for
``replace``: {...}       replaces ``tools``, ``resources``, ``templates`` or ``prompts`` and sends the ``list_changed``
``result``: OBJECT       answers with it
``text``: STRING         answers with one text block
``echo``: true           answers with the arguments as text and as structured content
``huge``: BYTES          answers with one text block of so many bytes
``error``: {...}         answers with this JSON-RPC error (``code``, ``message``, ``data``)
``answer``: OBJECT       answers with this whole message (no id added: wrong, late and duplicate ids can be made)
``garbage``: STRING      puts these bytes on the wire where a message should be (stdio: a line; HTTP: the body)
``status``: N            HTTP only: this status, with ``headers`` and ``body``
``cut``: BYTES           HTTP: announces a longer body, sends so many bytes, closes; stdio: half a line, closes stdout
``close``: true          closes the connection (stdio: stdout) without an answer; the process lives on
``forget``: true         HTTP: forgets all sessions (they answer 404 from now on), and goes on
``stderr``: STRING       writes it to stderr; ``stdout``: STRING to stdout (noise on stdio)
``die``: CODE            the process ends at once (``os._exit``); ``kill``: N: it sends itself signal N
=======================  ===========================================================================================

In ``result``, ``text``, ``error``, ``answer``, ``params`` and ``notify`` the strings ``"$arguments"``, ``"$meta"``,
``"$answers"``, ``"$headers"``, ``"$id"``, ``"$pid"``, ``"$count"`` (how many times this request came) and ``"$params"``
stand for those values, and ``"$arguments.name"`` for a part of one.

**Ledger events**: ``started`` (pid, argv, environment names, working directory), ``listening`` (port), ``received``
(method, name, id, params, era, headers, session, count, key), ``notified``, ``effect``, ``gate``, ``asked``, ``answered``
(a client's answer to a request of ours), ``replied``, ``cancelled`` (by notification or, modern HTTP, by the closed stream),
``disconnected``, ``eof``, ``ended``. Every entry has ``pid`` and ``at`` (seconds, wall clock).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import fcntl
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Literal

Json = dict[str, Any]
Steps = list[Json]
Era = Literal["both", "legacy", "modern"]

MODERN: Final = "2026-07-28"
HANDSHAKE_VERSIONS: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
_META: Final = "io.modelcontextprotocol/"
_NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri", "completion/complete": "ref"}
_LISTS: Final = {
    "tools/list": "tools",
    "resources/list": "resources",
    "resources/templates/list": "templates",
    "prompts/list": "prompts",
}
_LIST_KEYS: Final = {"templates": "resourceTemplates"}


# --------------------------------------------------------------------------------------------- for tests


def tool(name: str, **extra: Any) -> Json:
    """A tool definition: any arguments unless ``inputSchema`` is given; ``extra`` goes in as it is."""
    return {"name": name, "description": f"{name}, as scripted", "inputSchema": {"type": "object"}, **extra}


@dataclass
class Scripted:
    """One scripted server as a test sees it: how to start it, and its ledger."""

    directory: Path
    """where script and ledger lie; one directory a server"""
    script: Json
    """see the module's docstring"""
    name: str = "scripted"
    """distinguishes several servers in one directory"""
    era: Era = "both"
    """what the server speaks"""

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.script_path.write_text(json.dumps(self.script))
        self.ledger_path.touch()

    @property
    def script_path(self) -> Path:
        return self.directory / f"{self.name}.script.json"

    @property
    def ledger_path(self) -> Path:
        return self.directory / f"{self.name}.ledger.jsonl"

    @property
    def url_path(self) -> str:
        return "/mcp"

    @property
    def command(self) -> str:
        return sys.executable

    @property
    def args(self) -> list[str]:
        """The arguments that make it a stdio server; needs no environment and no working directory."""
        return [*self._program(), "--stdio", "--era", self.era]

    def _program(self) -> list[str]:
        return [str(Path(__file__).resolve()), "--script", str(self.script_path), "--ledger", str(self.ledger_path)]

    def rewrite(self, script: Json) -> None:
        """Changes the script; it holds from the next start of the process."""
        self.script = script
        self.script_path.write_text(json.dumps(script))

    def entries(self, event: str | None = None, **fields: Any) -> list[Json]:
        """The ledger's whole lines so far, those of one event and with these values."""
        lines = self.ledger_path.read_bytes().split(b"\n")[:-1]
        found = (json.loads(line) for line in lines)
        return [
            entry
            for entry in found
            if (event is None or entry["event"] == event) and all(entry.get(k) == v for k, v in fields.items())
        ]

    def effects(self, label: str | None = None) -> list[Json]:
        return self.entries("effect") if label is None else self.entries("effect", label=label)

    def received(self, method: str | None = None) -> list[Json]:
        return self.entries("received") if method is None else self.entries("received", method=method)

    async def wait_for(self, event: str, *, count: int = 1, timeout_seconds: float = 15.0, **fields: Any) -> list[Json]:
        """Returns the entries once there are ``count`` of them; TimeoutError names what the ledger holds instead."""
        deadline = time.monotonic() + timeout_seconds
        while len(found := self.entries(event, **fields)) < count:
            if time.monotonic() > deadline:
                events = [(e["event"], e.get("method") or e.get("label") or e.get("gate")) for e in self.entries()]
                raise TimeoutError(f"no {count} x {event} {fields} in {timeout_seconds} s; the ledger holds {events}")
            await asyncio.sleep(0.01)
        return found

    def gate_path(self, name: str) -> Path:
        return self.ledger_path.with_suffix(f".gate-{name}")

    def open_gate(self, name: str) -> None:
        self.gate_path(name).touch()

    @asynccontextmanager
    async def http(self, port: int = 0) -> AsyncIterator[str]:
        """A process that serves HTTP; yields the URL of ``/mcp`` and ends that process, and only that, at the end."""
        already = len(self.entries("listening"))
        process = await asyncio.create_subprocess_exec(
            self.command, *self._program(), "--http", str(port), "--era", self.era
        )
        try:
            listening = await self.wait_for("listening", count=already + 1)
            yield f"http://127.0.0.1:{listening[-1]['port']}/mcp"
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())


# --------------------------------------------------------------------------------------------- the ledger


class Ledger:
    """Appends lines that are on disk before it returns; several processes may share one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, event: str, **fields: Any) -> None:
        entry = {"event": event, "pid": os.getpid(), "at": time.time(), **fields}
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            os.write(self._fd, json.dumps(entry, default=str).encode() + b"\n")
            os.fsync(self._fd)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def count(self, key: str) -> int:
        """How many requests with this key came, to any process."""
        needle = {"event": "received", "key": key}
        count = 0
        for line in self._path.read_bytes().split(b"\n")[:-1]:
            entry = json.loads(line)
            count += all(entry.get(k) == v for k, v in needle.items())
        return count

    def gate(self, name: str) -> Path:
        return self._path.with_suffix(f".gate-{name}")


# --------------------------------------------------------------------------------------------- transports


class Channel:
    """Where the messages about one request go."""

    async def send(self, message: Json) -> None:
        """One JSON-RPC message."""
        raise NotImplementedError

    async def raw(self, data: bytes) -> None:
        """Bytes in place of a message."""
        raise NotImplementedError

    async def cut(self, count: int) -> None:
        """So many bytes of something longer, then the end."""
        raise NotImplementedError

    async def close(self) -> None:
        """The end of the connection without an answer."""
        raise NotImplementedError

    async def status(self, status: int, headers: dict[str, str], body: bytes) -> None:
        raise RuntimeError("a status needs HTTP")


class StdioChannel(Channel):
    async def send(self, message: Json) -> None:
        await self.raw(json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass"))

    async def raw(self, data: bytes) -> None:
        # Blocking on purpose: a client that does not read stops this server, as it stops real ones.
        view = memoryview(data + b"\n")
        while view:
            view = view[os.write(1, view) :]

    async def cut(self, count: int) -> None:
        os.write(1, (b'{"jsonrpc":"2.0","id":"' + b"x" * count)[:count])
        await self.close()

    async def close(self) -> None:
        sys.stdout.close()
        with contextlib.suppress(OSError):
            os.close(1)


class HttpChannel(Channel):
    """The answer to one POST: JSON if the first message is the response, else an event stream."""

    def __init__(self, writer: asyncio.StreamWriter, *, headers: dict[str, str], stream: bool = False) -> None:
        self._writer = writer
        self._headers = headers
        self._always_stream = stream
        self.streaming = False
        self.finished = False
        self._event = 0

    async def send(self, message: Json) -> None:
        body = json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass")
        is_response = "method" not in message
        if self.finished:
            return
        if not self.streaming and is_response and not self._always_stream:
            await self.status(200, {"content-type": "application/json"}, body)
            return
        await self.begin_stream()
        self._event += 1
        await self._chunk(b"event: message\r\ndata: " + body + b"\r\n\r\n")
        if is_response:
            await self.end_stream()

    async def begin_stream(self) -> None:
        if self.streaming:
            return
        self.streaming = True
        head = {"content-type": "text/event-stream", "cache-control": "no-cache", **self._headers}
        await self._head(200, head | {"transfer-encoding": "chunked"})

    async def comment(self) -> None:
        await self._chunk(b": here\r\n\r\n")

    async def event(self, name: str, data: str) -> None:
        await self._chunk(f"event: {name}\r\ndata: {data}\r\n\r\n".encode())

    async def end_stream(self) -> None:
        self.finished = True
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    async def raw(self, data: bytes) -> None:
        if self.streaming:
            await self._chunk(b"data: " + data + b"\r\n\r\n")
            await self.end_stream()
        else:
            await self.status(200, {"content-type": "application/json"}, data)

    async def cut(self, count: int) -> None:
        if self.streaming:
            self._writer.write(b"fffff\r\ndata: " + b"x" * count)
        else:
            await self._head(200, {"content-type": "application/json", "content-length": str(count + 1000)})
            self._writer.write((b'{"jsonrpc":"2.0","id":"' + b"x" * count)[:count])
        await self._writer.drain()
        await self.close()

    async def close(self) -> None:
        self.finished = True
        self._writer.close()

    async def status(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.finished = True
        await self._head(status, {"content-length": str(len(body)), **self._headers, **headers})
        self._writer.write(body)
        await self._writer.drain()

    async def _head(self, status: int, headers: dict[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{k}: {v}" for k, v in headers.items())]
        self._writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")

    async def _chunk(self, data: bytes) -> None:
        self._writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self._writer.drain()


@dataclass
class Session:
    """What belongs to one connection (stdio, the old SSE) or one handshake-era HTTP session."""

    id: str | None = None
    version: str = HANDSHAKE_VERSIONS[0]
    stream: Channel | None = None
    """where messages go that belong to no request"""
    tasks: dict[Any, asyncio.Task[None]] = field(default_factory=dict)
    cancelled: set[Any] = field(default_factory=set)


class Ended(Exception):
    """A step has answered, or nobody is there any more to answer."""


# --------------------------------------------------------------------------------------------- the server


class ScriptedServer:
    """Carries out one script over any transport."""

    def __init__(self, script: Json, ledger: Ledger, era: Era) -> None:
        self.script = script
        self.ledger = ledger
        self.era = era
        self.sessions: dict[str, Session] = {}
        self.listeners: dict[Any, tuple[Channel, Json]] = {}
        self._waiting: dict[str, asyncio.Future[Json]] = {}
        self._asked = 0
        self._sessions_made = 0
        self._background: set[asyncio.Task[None]] = set()

    # -- one message in

    async def receive(self, message: Any, channel: Channel, session: Session, headers: dict[str, str]) -> None:
        """Carries out what one message asks; returns when it is answered (or never will be)."""
        if isinstance(message, list):
            for entry in message:
                await self.receive(entry, channel, session, headers)
            return
        if not isinstance(message, dict):
            await channel.send({"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "not an object"}})
            return
        method = message.get("method")
        if method is None:
            self._take_answer(message)
            return
        params = message.get("params") or {}
        meta = params.get("_meta") or {}
        modern = f"{_META}protocolVersion" in meta
        name = params.get(_NAMED[method]) if method in _NAMED else None
        key = f"{method}:{name}" if isinstance(name, str) else method
        event = "received" if "id" in message else "notified"
        self.ledger.write(
            event,
            method=method,
            name=name,
            key=key,
            id=message.get("id"),
            params=params,
            era="modern" if modern else "legacy",
            headers=headers,
            session=session.id,
        )
        request = Request(self, message.get("id"), method, params, channel, session, headers, modern)
        if "id" not in message:
            if method == "notifications/cancelled":
                self._cancel(session, params.get("requestId"))
            await self._carry_out(request, self._steps(key, method) or [])
            return
        if (modern and self.era == "legacy") or (not modern and self.era == "modern" and method != "server/discover"):
            await request.error(self._wrong_era(method, modern))
            return
        steps = self._steps(key, method)
        task = asyncio.current_task()
        assert task is not None
        session.tasks[message["id"]] = task
        try:
            if steps is None:
                await self._default(request)
            else:
                await self._carry_out(request, steps)
                if not request.ended:
                    await self._default(request)
        except Ended:
            pass
        except asyncio.CancelledError:
            if message["id"] not in session.cancelled:
                raise
            # Cancelled by the client: as the specification has it, nothing is answered.
        finally:
            session.tasks.pop(message["id"], None)

    def _wrong_era(self, method: str, modern: bool) -> Json:
        if not modern:
            return {
                "code": -32022,
                "message": "Unsupported protocol version",
                "data": {"supported": [MODERN], "requested": None},
            }
        if method == "server/discover":
            return {"code": -32601, "message": f"Method not found: {method}"}
        return {"code": -32000, "message": "Bad Request: Unsupported protocol version"}

    def _cancel(self, session: Session, request_id: Any) -> None:
        task = session.tasks.get(request_id)
        self.ledger.write("cancelled", id=request_id, running=task is not None)
        if task is not None:
            session.cancelled.add(request_id)
            task.cancel()

    def _steps(self, key: str, method: str) -> Steps | None:
        steps = self.script.get("on", {}).get(key)
        counted = key
        if steps is None:
            steps, counted = self.script.get("on", {}).get(method), key
        if steps and isinstance(steps[0], list):
            turn = max(self.ledger.count(counted), 1)
            steps = steps[min(turn, len(steps)) - 1]
        return steps  # type: ignore[no-any-return]

    def _take_answer(self, message: Json) -> None:
        future = self._waiting.pop(str(message.get("id")), None)
        self.ledger.write("answered", id=message.get("id"), message=message, expected=future is not None)
        if future is not None and not future.done():
            future.set_result(message)

    async def ask(self, channel: Channel, method: str, params: Json) -> Json:
        """A live request to the client; its answer, whole."""
        request_id = self.post(method, params)
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        await channel.send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
        return await future

    def post(self, method: str, params: Json) -> str:
        self._asked += 1
        request_id = f"ask-{os.getpid()}-{self._asked}"
        self.ledger.write("asked", id=request_id, method=method, params=params)
        return request_id

    # -- steps

    async def _carry_out(self, request: Request, steps: Steps) -> None:
        first = request.resume_at(len(steps)) if request.is_retry else 0
        for index in range(first, len(steps)):
            await self.step(request, steps[index], index)

    async def step(self, request: Request, step: Json, index: int) -> None:
        channel = request.channel
        match step:
            case {"effect": label}:
                self.ledger.write("effect", label=label, id=request.id, arguments=request.params.get("arguments"))
            case {"delay": seconds}:
                await asyncio.sleep(seconds)
            case {"gate": name}:
                self.ledger.write("gate", gate=name, id=request.id)
                while not self.ledger.gate(name).exists():  # noqa: ASYNC110 - another process opens it
                    await asyncio.sleep(0.01)
            case {"hang": _}:
                await asyncio.get_running_loop().create_future()
            case {"progress": progress}:
                token = step.get("token", request.meta.get("progressToken"))
                if token is not None:
                    params: Json = {"progressToken": token, "progress": progress}
                    params.update((k, request.fill(step[k])) for k in ("total", "message") if k in step)
                    await channel.send(_notification("notifications/progress", params))
            case {"log": data}:
                params = {"level": step.get("level", "info"), "data": request.fill(data)}
                if "logger" in step:
                    params["logger"] = step["logger"]
                await channel.send(_notification("notifications/message", params))
            case {"notify": method}:
                params = request.fill(step.get("params", {}))
                if step.get("where") == "stream":
                    await self.announce(method, params, request.session)
                else:
                    await channel.send(_notification(method, params))
            case {"ask": asked}:
                await request.ask(asked, step.get("params", {}), index)
            case {"request": method}:
                params = request.fill(step.get("params", {}))
                request_id = self.post(method, params)
                await channel.send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})
            case {"replace": lists}:
                self.script.update(lists)
                for name in lists:
                    topic = "resources" if name == "templates" else name
                    await self.announce(f"notifications/{topic}/list_changed", {}, request.session)
            case {"result": result}:
                await request.reply(request.fill(result))
            case {"text": text}:
                await request.reply({"content": [{"type": "text", "text": str(request.fill(text))}]})
            case {"echo": _}:
                await request.echo()
            case {"huge": count}:
                await request.reply({"content": [{"type": "text", "text": "x" * count}]})
            case {"error": error}:
                await request.error(request.fill(error))
            case {"answer": message}:
                await request.end(channel.send(request.fill(message)))
            case {"garbage": text}:
                await request.end(channel.raw(text.encode("utf-8", "surrogatepass")))
            case {"status": status}:
                body = str(request.fill(step.get("body", ""))).encode()
                await request.end(channel.status(status, step.get("headers", {}), body))
            case {"cut": count}:
                await request.end(channel.cut(count))
            case {"close": _}:
                await request.end(channel.close())
            case {"forget": _}:
                self.sessions.clear()
            case {"stderr": text}:
                os.write(2, text.encode())
            case {"stdout": text}:
                os.write(1, text.encode())
            case {"die": code}:
                self.ledger.write("ended", code=code)
                os._exit(code)
            case {"kill": number}:
                self.ledger.write("ended", signal=number)
                os.kill(os.getpid(), number)
                await asyncio.get_running_loop().create_future()
            case _:
                raise ValueError(f"no such step: {step}")

    async def announce(self, method: str, params: Json, session: Session) -> None:
        """A notification that belongs to no request: to the session's own stream and to everyone who listens."""
        streams = [s.stream for s in {id(s): s for s in (session, *self.sessions.values())}.values()]
        for stream in streams:
            if stream is not None:
                await stream.send(_notification(method, params))
        for listen_id, (channel, _) in list(self.listeners.items()):
            tagged = {**params, "_meta": {**params.get("_meta", {}), f"{_META}subscriptionId": listen_id}}
            await channel.send(_notification(method, tagged))

    # -- what a request does that the script says nothing of

    async def _default(self, request: Request) -> None:
        script, method, params = self.script, request.method, request.params
        match method:
            case "initialize":
                asked = params.get("protocolVersion")
                request.session.version = asked if asked in HANDSHAKE_VERSIONS else HANDSHAKE_VERSIONS[0]
                result = {"protocolVersion": request.session.version, **self.describe()}
                await request.reply(result | ({"_meta": script["meta"]} if "meta" in script else {}))
            case "server/discover":
                about = self.describe()
                about["_meta"] = {f"{_META}serverInfo": about.pop("serverInfo")}
                await request.reply({"supportedVersions": [MODERN], **about, **_cache_hints()})
            case "tools/list" | "resources/list" | "resources/templates/list" | "prompts/list":
                await request.reply(self._list(_LISTS[method], params) | (_cache_hints() if request.modern else {}))
            case "tools/call":
                if not any(
                    isinstance(t, dict) and t.get("name") == params.get("name") for t in script.get("tools", [])
                ):
                    await request.error({"code": -32602, "message": f"Unknown tool: {params.get('name')}"})
                await request.echo()
            case "resources/read":
                content = {
                    "uri": params.get("uri"),
                    "mimeType": "text/plain",
                    "text": f"contents of {params.get('uri')}",
                }
                await request.reply({"contents": [content]} | (_cache_hints() if request.modern else {}))
            case "prompts/get":
                text = json.dumps({"name": params.get("name"), "arguments": params.get("arguments", {})})
                await request.reply({"messages": [{"role": "user", "content": {"type": "text", "text": text}}]})
            case "completion/complete":
                await request.reply({"completion": {"values": [], "total": 0, "hasMore": False}})
            case "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe":
                await request.reply({})
            case "subscriptions/listen":
                await self._listen(request)
            case _:
                await request.error({"code": -32601, "message": f"Method not found: {method}"})

    def describe(self) -> Json:
        script = self.script
        present = {
            "tools": {"listChanged": True},
            **({"resources": {"subscribe": True, "listChanged": True}} if "resources" in script else {}),
            **({"prompts": {"listChanged": True}} if "prompts" in script else {}),
            "logging": {},
        }
        about: Json = {
            "capabilities": script.get("capabilities", present),
            "serverInfo": {"name": script.get("name", "scripted"), "version": script.get("version", "1.0")},
        }
        if "instructions" in script:
            about["instructions"] = script["instructions"]
        return about

    def _list(self, name: str, params: Json) -> Json:
        items = self.script.get(name, [])
        key = _LIST_KEYS.get(name, name)
        page = self.script.get("page")
        if page is None:
            return {key: items}
        start = int(params.get("cursor") or 0)
        end = start + page
        return {key: items[start:end]} | ({"nextCursor": str(end)} if end < len(items) else {})

    async def _listen(self, request: Request) -> None:
        channel = request.channel
        if isinstance(channel, HttpChannel):
            await channel.begin_stream()
        asked = request.params.get("notifications", {})
        meta = {f"{_META}subscriptionId": request.id}
        acknowledged = {"notifications": asked, "_meta": meta}
        await channel.send(_notification("notifications/subscriptions/acknowledged", acknowledged))
        self.listeners[request.id] = (channel, asked)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.listeners.pop(request.id, None)


@dataclass
class Request:
    """One request under way."""

    server: ScriptedServer
    id: Any
    method: str
    params: Json
    channel: Channel
    session: Session
    headers: dict[str, str]
    modern: bool
    ended: bool = False
    answers: list[Any] = field(default_factory=list)
    taken: bool = False
    """whether this retry's answers went to the step that asked"""

    @property
    def meta(self) -> Json:
        return self.params.get("_meta") or {}

    @property
    def is_retry(self) -> bool:
        return self.modern and "requestState" in self.params

    def fill(self, value: Any) -> Any:
        """The value with ``$...`` replaced."""
        variables: dict[str, Callable[[], Any]] = {
            "$arguments": lambda: self.params.get("arguments"),
            "$meta": lambda: self.meta,
            "$params": lambda: self.params,
            "$answers": lambda: self.answers,
            "$headers": lambda: self.headers,
            "$id": lambda: self.id,
            "$pid": os.getpid,
            "$count": lambda: self.server.ledger.count(f"{self.method}:{self.params.get('name')}"),
        }
        match value:
            case str() if value in variables:
                return variables[value]()
            case str() if (head := value.partition(".")[0]) in variables and "." in value:
                found = variables[head]()
                for key in value.split(".")[1:]:
                    found = found[key] if isinstance(found, dict) and key in found else None
                return found
            case dict():
                return {k: self.fill(v) for k, v in value.items()}
            case list():
                return [self.fill(v) for v in value]
            case _:
                return value

    async def ask(self, asked: Any, params: Json, index: int) -> None:
        """Legacy: asks now. Modern: answers ``input_required``, or takes the answers out of the retry."""
        several = asked if isinstance(asked, dict) else {"input": {"method": asked, "params": params}}
        several = self.fill(several)
        if not self.modern:
            for entry in several.values():
                answer = await self.server.ask(self.channel, entry["method"], entry.get("params", {}))
                self.answers.append(answer.get("result", answer.get("error")))
            return
        if self.is_retry and self._state()["at"] == index and not self.taken:
            self.taken = True
            given = self.params.get("inputResponses") or {}
            self.answers.extend(given.get(key) for key in several)
            return
        state = _seal({"at": index, "answers": self.answers})
        await self.reply({"resultType": "input_required", "inputRequests": several, "requestState": state})

    def _state(self) -> Json:
        return _unseal(self.params["requestState"]) or {"at": -1, "answers": []}

    def resume_at(self, count: int) -> int:
        """The step that asked; a state that is not byte for byte ours starts nothing."""
        state = _unseal(self.params["requestState"])
        if state is None or not 0 <= state["at"] < count:
            self.server.ledger.write("tampered", id=self.id, state=self.params["requestState"])
            return count
        self.answers = list(state["answers"])
        return int(state["at"])

    async def echo(self) -> None:
        arguments = self.params.get("arguments") or {}
        text = json.dumps(arguments, ensure_ascii=False)
        await self.reply({"content": [{"type": "text", "text": text}], "structuredContent": arguments})

    async def reply(self, result: Json) -> None:
        if self.modern:
            about = {f"{_META}serverInfo": self.server.describe()["serverInfo"]}
            result = {"resultType": "complete", **result, "_meta": {**about, **result.get("_meta", {})}}
        self.server.ledger.write("replied", id=self.id, method=self.method)
        await self.end(self.channel.send({"jsonrpc": "2.0", "id": self.id, "result": result}))

    async def error(self, error: Json) -> None:
        self.server.ledger.write("replied", id=self.id, method=self.method, error=error)
        message = {"jsonrpc": "2.0", "id": self.id, "error": error}
        statuses = {-32601: 404, -32020: 400, -32021: 400, -32022: 400, -32000: 400}
        unsupported = self.modern or error.get("code") == -32022
        if isinstance(self.channel, HttpChannel) and unsupported and error.get("code") in statuses:
            body = json.dumps(message).encode()
            head = {"content-type": "application/json"}
            await self.end(self.channel.status(statuses[error["code"]], head, body))
        await self.end(self.channel.send(message))

    async def end(self, sending: Any) -> None:
        await sending
        self.ended = True
        raise Ended


def _notification(method: str, params: Json) -> Json:
    return {"jsonrpc": "2.0", "method": method, "params": params}


def _cache_hints() -> Json:
    return {"ttlMs": 0, "cacheScope": "private"}


def _seal(state: Json) -> str:
    # Not secret: the digest only shows that it came back byte for byte.
    body = base64.urlsafe_b64encode(json.dumps(state).encode()).decode()
    return f"{body}.{hashlib.sha256(body.encode()).hexdigest()[:16]}"


def _unseal(state: Any) -> Json | None:
    body, _, digest = str(state).partition(".")
    if hashlib.sha256(body.encode()).hexdigest()[:16] != digest:
        return None
    unsealed: Json = json.loads(base64.urlsafe_b64decode(body))
    return unsealed


# --------------------------------------------------------------------------------------------- stdio


async def serve_stdio(server: ScriptedServer) -> None:
    """Reads lines until the end of input; every message is a task of its own."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=64 * 1024 * 1024)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    channel = StdioChannel()
    session = Session(stream=channel)
    tasks: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        try:
            message = json.loads(line)
        except ValueError:
            await channel.send({"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "Parse error"}})
            continue
        task = asyncio.create_task(_quietly(server.receive(message, channel, session, {})))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        # In order up to the first wait, so that an answer to the first request is not overtaken by accident.
        await asyncio.sleep(0)
    server.ledger.write("eof")


async def _quietly(work: Any) -> None:
    with contextlib.suppress(Ended, BrokenPipeError, ConnectionError):
        await work


# --------------------------------------------------------------------------------------------- HTTP


@dataclass(frozen=True)
class HttpRequest:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


async def _read_request(reader: asyncio.StreamReader) -> HttpRequest | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *rest = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in rest if line)}
    body = b""
    try:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int((await reader.readline()).strip() or b"0", 16):
                body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        else:
            body = await reader.readexactly(int(headers.get("content-length", 0)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return HttpRequest(method, path, headers, body)


class HttpFront:
    """HTTP/1.1 with keep-alive; one exchange after the other on a connection, and the client's closing seen at once."""

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server
        self._old_streams: dict[str, Session] = {}
        self._made = 0

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests: asyncio.Queue[HttpRequest | None] = asyncio.Queue()
        current: asyncio.Task[None] | None = None

        async def read() -> None:
            while (request := await _read_request(reader)) is not None:
                requests.put_nowait(request)
            requests.put_nowait(None)
            if current is not None:
                current.cancel()

        reading = asyncio.create_task(read())
        try:
            while (request := await requests.get()) is not None:
                current = asyncio.create_task(_quietly(self._exchange(request, writer)))
                await asyncio.wait([current])
                if current.cancelled():
                    self._server.ledger.write("disconnected", path=request.path, method=request.method)
                elif (failure := current.exception()) is not None:
                    raise failure
                current = None
                if writer.is_closing():
                    break
        finally:
            reading.cancel()
            if not writer.is_closing():
                writer.close()

    async def _exchange(self, request: HttpRequest, writer: asyncio.StreamWriter) -> None:
        path, _, query = request.path.partition("?")
        match (request.method, path):
            case ("POST", "/mcp"):
                await self._post(request, writer)
            case ("GET", "/mcp"):
                await self._get(request, writer)
            case ("DELETE", "/mcp"):
                known = self._server.sessions.pop(request.headers.get("mcp-session-id", ""), None)
                self._server.ledger.write("deleted", session=request.headers.get("mcp-session-id"), known=bool(known))
                await HttpChannel(writer, headers={}).status(200 if known else 404, {}, b"")
            case ("GET", "/sse"):
                await self._old_stream(writer)
            case ("POST", "/messages"):
                await self._old_post(query.removeprefix("session="), request, writer)
            case _:
                await HttpChannel(writer, headers={}).status(404, {}, b"not here")

    async def _post(self, request: HttpRequest, writer: asyncio.StreamWriter) -> None:
        server = self._server
        channel = HttpChannel(writer, headers={}, stream=bool(server.script.get("always_stream")))
        try:
            message = json.loads(request.body)
        except ValueError:
            await channel.status(400, {"content-type": "application/json"}, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}')  # fmt: skip
            return
        first = message[0] if isinstance(message, list) and message else message
        first = first if isinstance(first, dict) else {}
        modern = f"{_META}protocolVersion" in ((first.get("params") or {}).get("_meta") or {})
        if modern and server.era == "legacy":
            body = json.dumps({"jsonrpc": "2.0", "id": None, "error": server._wrong_era("", True)}).encode()
            server.ledger.write("received", method=first.get("method"), era="modern", id=first.get("id"), refused=True)
            await channel.status(400, {"content-type": "application/json"}, body)
            return
        session = Session()
        if not modern:
            if first.get("method") == "initialize" and server.era != "modern":
                self._made += 1
                session.id = f"session-{os.getpid()}-{self._made}"
                server.sessions[session.id] = session
                channel = HttpChannel(writer, headers={"mcp-session-id": session.id})
            elif (session_id := request.headers.get("mcp-session-id")) is not None:
                known = server.sessions.get(session_id)
                if known is None:
                    server.ledger.write("refused", session=session_id, method=first.get("method"))
                    await channel.status(404, {"content-type": "application/json"}, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}')  # fmt: skip
                    return
                session = known
        wants_answer = any(
            isinstance(entry, dict) and "method" in entry and "id" in entry
            for entry in (message if isinstance(message, list) else [message])
        )
        try:
            await server.receive(message, channel, session, request.headers)
        except asyncio.CancelledError:
            if modern:
                server.ledger.write("cancelled", id=first.get("id"), running=True, by="closed stream")
            raise
        finally:
            if not channel.finished and not writer.is_closing():
                if not wants_answer:
                    await channel.status(202, {}, b"")
                elif channel.streaming:
                    await channel.end_stream()
                else:
                    await channel.close()

    async def _get(self, request: HttpRequest, writer: asyncio.StreamWriter) -> None:
        session = self._server.sessions.get(request.headers.get("mcp-session-id", ""))
        channel = HttpChannel(writer, headers={})
        if session is None or self._server.script.get("no_get_stream"):
            await channel.status(405 if session else 404, {}, b"")
            return
        await channel.begin_stream()
        await channel.comment()
        session.stream = channel
        self._server.ledger.write("stream", session=session.id)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            session.stream = None

    async def _old_stream(self, writer: asyncio.StreamWriter) -> None:
        self._made += 1
        session_id = f"sse-{os.getpid()}-{self._made}"
        channel = HttpChannel(writer, headers={})
        await channel.begin_stream()
        await channel.event("endpoint", f"/messages?session={session_id}")
        self._old_streams[session_id] = Session(id=session_id, stream=_OldStream(channel))
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            del self._old_streams[session_id]

    async def _old_post(self, session_id: str, request: HttpRequest, writer: asyncio.StreamWriter) -> None:
        session = self._old_streams.get(session_id)
        channel = HttpChannel(writer, headers={})
        if session is None or session.stream is None:
            await channel.status(404, {}, b"no such session")
            return
        message = json.loads(request.body)
        await channel.status(202, {}, b"Accepted")
        task = asyncio.create_task(_quietly(self._server.receive(message, session.stream, session, request.headers)))
        self._server._background.add(task)
        task.add_done_callback(self._server._background.discard)


class _OldStream(Channel):
    """The event stream of the old transport: it never ends with a response."""

    def __init__(self, channel: HttpChannel) -> None:
        self._channel = channel

    async def send(self, message: Json) -> None:
        await self._channel.event("message", json.dumps(message))

    async def raw(self, data: bytes) -> None:
        await self._channel.event("message", data.decode("utf-8", "replace"))

    async def cut(self, count: int) -> None:
        await self._channel.cut(count)

    async def close(self) -> None:
        await self._channel.close()


async def serve_http(server: ScriptedServer, port: int) -> None:
    front = HttpFront(server)
    listening = await asyncio.start_server(front.connection, "127.0.0.1", port, limit=64 * 1024 * 1024)
    actual = listening.sockets[0].getsockname()[1]
    server.ledger.write("listening", port=actual)
    print(f"listening on http://127.0.0.1:{actual}/mcp", file=sys.stderr, flush=True)
    async with listening:
        await listening.serve_forever()


async def _run(arguments: argparse.Namespace) -> None:
    ledger = Ledger(arguments.ledger)
    script = json.loads(arguments.script.read_text())
    server = ScriptedServer(script, ledger, arguments.era)
    ledger.write("started", argv=sys.argv, environment=sorted(os.environ), cwd=os.getcwd())
    start = Request(server, None, "start", {}, StdioChannel(), Session(), {}, False)
    with contextlib.suppress(Ended):
        for index, step in enumerate(script.get("on_start", [])):
            await server.step(start, step, index)
    if arguments.stdio:
        await serve_stdio(server)
    else:
        await serve_http(server, arguments.http)
    # Requests under way end with the process, as in most real servers.
    ledger.write("ended", code=0)
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", type=Path, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    transport = parser.add_mutually_exclusive_group(required=True)
    transport.add_argument("--stdio", action="store_true")
    transport.add_argument("--http", type=int, metavar="PORT")
    parser.add_argument("--era", choices=["both", "legacy", "modern"], default="both")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
