"""One connection to one tool server, in whichever era the server speaks: what goes over it, and what comes back to whom.

**Lifetime.** `run` opens the connection, serves it until it is lost or `stop` is called, and closes it, all in the task that
calls it. Others use the link in between: `forward` for calls, `request` for the gateway's own questions.

**Eras.** Inside the gateway a request has one shape, the modern one (DESIGN, "Two protocol eras"). A modern server gets it
nearly as it is: with an envelope of its own that names the *caller's* capabilities. A legacy server gets what the handshake
agreed on; what it asks in mid-call (`sampling/createMessage`, `elicitation/create`, `roots/list`) is put to the call's own
client with `Caller.ask`, just where a modern server would have answered `input_required`.

**Correlation.** Which call does a message belong to that the server sends of itself? Progress says so by its token, and
Streamable HTTP by the stream it comes on. Elsewhere it is known only while a single call is in flight on the connection.
What cannot be attributed is refused and logged, never given to somebody who might not have caused it (CONTRACT 3).
"""

import asyncio
import contextlib
import itertools
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any, Final, Literal, assert_never

import anyio
import anyio.abc

from gateway import __version__
from gateway.config import ServerSettings
from gateway.model.call import Call, Method, TargetType
from gateway.model.refusal import Code
from gateway.model.snapshot import Entry
from gateway.ports import Attempt, Caller
from gateway.servers import headers as http_headers
from gateway.servers import wire
from gateway.servers.endings import error_code, names_our_version, of_answer, outcome, timed_out, too_large, why
from gateway.servers.exchange import Answered, Deadlines, Ending, Exchange, Unanswered
from gateway.servers.listening import Listening
from gateway.servers.streamable import StreamableHttp
from gateway.servers.transport import NotSent, Spawn, StartError, Transport
from gateway.servers.wire import Envelope, Unset

logger = logging.getLogger("gateway.servers")

Era = Literal["modern", "legacy"]

PROBE_SECONDS: Final = 5.0
"""How long `server/discover` may take before `initialize` is tried beside it."""

OPEN_SECONDS: Final = 60.0
"""For starting and agreeing on a protocol; package runners may download first."""

CANCEL_SECONDS: Final = 5.0
"""How long the true outcome of a cancelled call is listened for."""

MAX_MOVES: Final = 4
"""How often a server may move within its host before it has to answer."""

GIVE_UP_SECONDS: Final = 1.0
"""Between telling a server that a call took too long and closing the stream of its answer."""

CONNECT_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 8.0
LEVEL_SECONDS: Final = 5.0
HOUSEKEEPING_SECONDS: Final = 30.0
MAX_HOUSEKEEPING_BYTES: Final = 16 * 1024 * 1024
MAX_OUTSIDE: Final = 1000
MAX_OUTSIDE_BYTES: Final = 1024 * 1024
MAX_RECORDED: Final = 1000
"""Notifications of one call that are kept for its record; all are relayed."""

MAX_REMEMBERED: Final = 4096
"""Request heads and marked arguments that are kept from one call to the next."""


IDENTITY: Final[Mapping[str, Any]] = {"name": "mcp-execution-gateway", "version": __version__}

ASKS: Final[Mapping[str, Literal["roots", "elicitation", "sampling"]]] = {
    "roots/list": "roots",
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
}
"""What a tool server may ask of a client, and the name of it in `asks`."""

LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

_ID = re.compile(rb'"id"\s*:\s*(\d{1,18})')

LIST_CHANGES: Final[Mapping[str, str]] = {
    "notifications/tools/list_changed": "tools",
    "notifications/prompts/list_changed": "prompts",
    "notifications/resources/list_changed": "resources",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkKey:
    """Whose a link is. Links of different keys share no connection, child or session of the server."""

    isolation: Literal["session", "principal", "shared"]
    owner: str = ""
    """The session's or principal's id; "" where it is shared, or the gateway's own."""
    capabilities: str = ""
    """The clients' capabilities in canonical JSON, since a legacy server was told them; "" where it is shared."""
    control: bool = False
    """The gateway's own, for lists and changes; always shared."""


class RequestFailed(Exception):
    """One of the gateway's own requests failed. The text says why; `code` is the server's, where it answered."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.code = code


Outside = Callable[["Link", str, Mapping[str, Any]], Awaitable[None]]
"""Takes a notification that belongs to no call."""


class Link:
    """One connection to one tool server.

    Args:
        settings: of the server.
        key: whose it is.
        make_transport: given the link's own way to run tasks.
        capabilities: of the clients behind it, as a legacy server is told them; already without what `asks` forbids.
        client: name and version of the client behind it.
        known_era: what the server spoke before; None: find out.
        outside: takes notifications that belong to no call.
        changed: called with the kind of list (`tools`, ...) that the server says has changed; "" for any.
        log_level: what the session behind it asked for, for legacy servers.
    """

    def __init__(
        self,
        *,
        settings: ServerSettings,
        key: LinkKey,
        make_transport: Callable[[Spawn], Transport],
        capabilities: Mapping[str, Any],
        client: Mapping[str, Any],
        known_era: Era | None,
        outside: Outside,
        changed: Callable[[str], None],
        log_level: str | None = None,
    ) -> None:
        self.listens = key.control
        """It is where the gateway hears of changed lists."""
        self.quiet = asyncio.Event()
        """Set while no call is in flight."""
        self.quiet.set()
        self.settings = settings
        self.key = key
        self.transport = make_transport(self.spawn)
        self.era: Era | None = known_era
        self.protocol_version = ""
        self.server_capabilities: Mapping[str, Any] = {}
        self.server_info: Mapping[str, Any] = {}
        self.instructions = ""
        self.in_flight: dict[int, Exchange] = {}
        self.calls: dict[int, Exchange] = {}
        """Those in flight that are agents' calls, the oldest first."""
        self.sessions: set[str] = set()
        """Sessions that used this link."""
        self.subscriptions: dict[str, set[str]] = {}
        """Resource URI to the sessions that want to hear of its changes."""
        self.used_at = asyncio.get_running_loop().time()
        self.opened_at: float | None = None
        self.ended: str | None = None
        """Why it is over; None while it is not."""
        self.broke = False
        """It ended by itself, not because the gateway ended it."""
        self.carried = 0
        """How many calls went over it."""
        self._capabilities = capabilities
        self._client = client
        self._outside = outside
        self.changed = changed
        self._log_level = log_level
        self._ids = itertools.count(1)
        self._deadlines = Deadlines()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._stopping = asyncio.Event()
        self._messages: asyncio.Queue[tuple[str, Mapping[str, Any]]] = asyncio.Queue(MAX_OUTSIDE)
        self._asking: dict[Any, anyio.CancelScope] = {}
        self._elicitations: dict[str, str] = {}
        self._heads: dict[tuple[str, str | None], bytes] = {}
        self._marks: dict[str, http_headers.Marked] = {}
        self.listening = Listening(self)

    # --- lifetime ---

    async def run(self, opened: "asyncio.Future[None]") -> None:
        """Open, serve, close.

        `opened` is resolved when calls may be forwarded, or gets a `StartError` where it never comes to that.
        """
        failure: StartError | None = None
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                try:
                    failure = await self._open()
                    if failure is None:
                        self.opened_at = self.used_at = asyncio.get_running_loop().time()
                        if not opened.done():
                            opened.set_result(None)
                        await self._stopping.wait()
                finally:
                    tasks.cancel_scope.cancel()
        finally:
            self._end(str(failure) if failure is not None else "the gateway closes the connection")
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await self.transport.close()
            if not opened.done():
                opened.set_exception(failure or StartError(self.ended or "the gateway closes the connection"))
                opened.exception()  # taken as seen, also where nobody waits any more

    async def _open(self) -> StartError | None:
        """Start and agree on an era; why not, where it comes to nothing."""
        try:
            with anyio.fail_after(OPEN_SECONDS):
                await self.transport.start(self)
                await self._negotiate()
        except TimeoutError:
            return StartError(f"it was not ready within {OPEN_SECONDS:g} s")
        except StartError as error:
            return error
        except wire.Garbage as error:
            return StartError(f"it cannot be understood: {error}")
        assert self._tasks is not None
        self._tasks.start_soon(self._tell_outside)
        if self.era == "modern" and self.listens:
            self.listening.start()
        return None

    @property
    def open(self) -> bool:
        return self.opened_at is not None and self.ended is None

    @property
    def idle(self) -> bool:
        """Nothing is in flight on it and nobody waits to hear from it."""
        return not self.calls and not self.subscriptions

    def stop(self, reason: str) -> None:
        """End it from our side; calls in flight are lost."""
        if self.ended is None:
            self.ended = reason
        self._stopping.set()

    def missed(self) -> None:
        if self.listens:
            self.changed("")

    def lost(self, reason: str) -> None:
        if self.ended is None:
            self.ended = reason
            self.broke = True
            self._end(reason)
        self._stopping.set()

    def _end(self, reason: str) -> None:
        if self.ended is None:
            self.ended = reason
        for exchange in list(self.in_flight.values()):
            exchange.finish(Unanswered(Code.SERVER_LOST, reason, "unknown"))

    def spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        if self._tasks is not None and self.ended is None:
            self._tasks.start_soon(self._guarded, work)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """One task's failure ends neither the connection nor the calls on it."""
        try:
            await work()
        except NotSent as error:
            logger.debug("%s: %s", self.settings.name, error)
        except Exception:  # whatever it is, it is this connection's alone
            logger.exception("%s: a task of its connection failed", self.settings.name)

    # --- agreeing on an era ---

    async def _negotiate(self) -> None:
        if self.era == "legacy":
            await self._initialize(None)
            return
        # A child's silence may mean that it is still starting; over HTTP it is an answer of its own.
        for attempt in range(MAX_MOVES):
            envelope = self.own_envelope()
            probe = await self.begin("server/discover", {"_meta": envelope})
            with anyio.move_on_after(PROBE_SECONDS):
                await self.drain(probe)
            ending = probe.ending
            moved = isinstance(ending, Unanswered) and ending.forgotten and ending.status is None
            # Refused, but with our version among those it names: as the specification has it, we ask again with that one.
            if not moved and not (attempt == 0 and names_our_version(ending)):
                break
        if isinstance(ending, Unanswered) and ending.ran == "no" and ending.status in (None, 401, 403):
            raise StartError(ending.reason)
        if self.ended is not None:
            raise StartError(self.ended)
        if not self._discovered(ending):
            await self._initialize(probe)

    def _discovered(self, ending: Ending | None) -> bool:
        """Take the answer to `server/discover`; False where it is none of a modern server."""
        if not isinstance(ending, Answered) or ending.result is None:
            return False
        result = wire.parse(ending.result)
        versions = result.get("supportedVersions")
        if not isinstance(versions, list) or wire.MODERN not in versions:
            return False
        self.era = "modern"
        self.protocol_version = wire.MODERN
        meta = result.get("_meta")
        about = meta.get(wire.SERVER_KEY) if isinstance(meta, dict) else None
        self._describe(result, about if isinstance(about, dict) else result.get("serverInfo"))
        return True

    async def _initialize(self, probe: Exchange | None) -> None:
        """The handshake. `probe` may still be answered meanwhile, by a modern server that was slow to start."""
        transport = self.transport
        if isinstance(transport, StreamableHttp):
            transport.begin_session()
        self.era = "legacy"
        exchange = await self.begin(
            "initialize",
            {"protocolVersion": wire.HANDSHAKE[0], "capabilities": self._capabilities, "clientInfo": self._client},
        )
        await self.drain(exchange)
        self.done(exchange)
        ending = exchange.ending
        if not isinstance(ending, Answered) or ending.result is None:
            if probe is not None and self._discovered(probe.ending):
                return
            raise StartError(why(ending))
        if probe is not None:
            self.done(probe)
        result = wire.parse(ending.result)
        version = result.get("protocolVersion")
        if version not in wire.HANDSHAKE:
            raise StartError(f"it speaks protocol version {str(version)[:40]!r}, which the gateway does not")
        self.protocol_version = version
        self._describe(result, result.get("serverInfo"))
        if isinstance(transport, StreamableHttp):
            transport.agree(version)
        try:
            await transport.send(wire.notification("notifications/initialized", {}), None)
        except NotSent as error:
            raise StartError(str(error)) from None
        if isinstance(transport, StreamableHttp):
            transport.listen()
        if self._log_level is not None and "logging" in self.server_capabilities:
            level = self._log_level
            self.spawn(lambda: self.set_log_level(level))

    def _describe(self, result: Mapping[str, Any], about: Any) -> None:
        capabilities, instructions = result.get("capabilities"), result.get("instructions")
        self.server_capabilities = capabilities if isinstance(capabilities, dict) else {}
        self.instructions = instructions if isinstance(instructions, str) else ""
        self.server_info = about if isinstance(about, dict) else {}

    # --- the gateway's own requests ---

    async def request(
        self, method: str, params: Mapping[str, Any], *, timeout_seconds: float = HOUSEKEEPING_SECONDS
    ) -> bytes:
        """The result of one of the gateway's own requests, as JSON text.

        Raises:
            RequestFailed: an error, or no answer.
        """
        if self.era == "modern":
            params = {**params, "_meta": self.own_envelope()}
        exchange = await self.begin(method, params)
        exchange.expire_at(asyncio.get_running_loop().time() + timeout_seconds)
        try:
            await self.drain(exchange)
        finally:
            self.done(exchange)
        ending = exchange.ending
        if isinstance(ending, Answered) and ending.result is not None:
            return ending.result
        raise RequestFailed(f"{method}: {why(ending)}", error_code(ending))

    async def begin(self, method: str, params: Mapping[str, Any]) -> Exchange:
        """Send a request of the gateway's own. What cannot be sent is an exchange that has ended."""
        exchange = Exchange(next(self._ids), MAX_HOUSEKEEPING_BYTES, self._deadlines)
        self.in_flight[exchange.identifier] = exchange
        about = self._http_headers(method, params) if self.era != "legacy" else b""
        try:
            await self.transport.send(
                wire.request(exchange.identifier, method, params), exchange, headers=about, repeatable=True
            )
        except NotSent as error:
            exchange.finish(Unanswered(Code.SERVER_UNAVAILABLE, str(error), "no"))
        return exchange

    async def drain(self, exchange: Exchange) -> None:
        """Wait for the ending; what comes before it means nothing here."""
        while await exchange.next() is not None:
            pass

    def done(self, exchange: Exchange) -> None:
        exchange.finish(Unanswered(Code.SERVER_TIMEOUT, "nobody waits any more", "unknown"))
        self.in_flight.pop(exchange.identifier, None)
        self.transport.drop(exchange)

    async def set_log_level(self, level: str) -> None:
        """Tell a legacy server which messages the session behind it wants; a modern one is told with each request."""
        self._log_level = level
        if self.era == "legacy" and "logging" in self.server_capabilities:
            try:
                await self.request("logging/setLevel", {"level": level}, timeout_seconds=LEVEL_SECONDS)
            except RequestFailed as error:
                logger.info("%s: %s", self.settings.name, error)

    # --- calls ---

    async def forward(self, call: Call, caller: Caller, attempt: Attempt, deadline: float) -> Ending:
        """Send one call and serve what comes back until it has an ending.

        When cancelled: the server is told, its answer is listened for, what was heard goes into `attempt.outcome`.
        """
        if call.method == Method.SUBSCRIBE and self.era == "modern":
            return await self.listening.subscribe(call.session_id, call.name, deadline)
        if self.era == "legacy" and caller.log_level in LOG_LEVELS:
            await self._agree_on_level(caller.log_level)
        entry = call.entry
        assert entry is not None
        loop = asyncio.get_running_loop()
        identifier = next(self._ids)
        exchange = Exchange(identifier, entry.max_result_bytes, self._deadlines)
        params = self._params(call, caller, identifier)
        try:
            data = wire.request(identifier, call.method, params)
            about = self._http_headers(call.method, params, entry) if self.era == "modern" else b""
        except (TypeError, ValueError) as error:
            return Unanswered(Code.REQUEST_INVALID, f"the request cannot be written ({error})", "no")
        self.in_flight[identifier] = self.calls[identifier] = exchange
        self.quiet.clear()
        self.sessions.add(call.session_id)
        self.carried += 1
        try:
            try:
                await self.transport.send(
                    data,
                    exchange,
                    headers=about,
                    repeatable=entry.idempotent,
                    attempt=attempt,
                    timeout_seconds=max(0.0, min(CONNECT_SECONDS, deadline - loop.time())),
                )
            except NotSent as error:
                return Unanswered(Code.SERVER_UNAVAILABLE, str(error), "no")
            exchange.expire_at(deadline)
            try:
                await self._serve(exchange, call, caller, attempt)
            except asyncio.CancelledError:
                if (heard := await self._cancel(exchange)) is not None:
                    attempt.outcome = outcome(heard, call)
                raise
        finally:
            exchange.expire_at(None)
            if not isinstance(exchange.ending, Answered) and (
                self.transport.stateless or not timed_out(exchange.ending)
            ):
                self.transport.drop(exchange)
            self.in_flight.pop(identifier, None)
            self.calls.pop(identifier, None)
            if not self.calls:
                self.quiet.set()
            self.used_at = loop.time()
        ending = exchange.ending
        assert ending is not None
        if isinstance(ending, Unanswered):
            if timed_out(ending) and not self.transport.stateless:
                self.spawn(partial(self._give_up, exchange))
        elif call.method == Method.SUBSCRIBE and ending.result is not None:
            self.subscriptions.setdefault(call.name, set()).add(call.session_id)
        if exchange.dropped:
            logger.warning("%s: %d messages of one call were dropped", self.settings.name, exchange.dropped)
        return ending

    async def _agree_on_level(self, wanted: str) -> None:
        """A legacy server knows one level a connection: this client's own, or the lowest that anybody behind it wants."""
        now = self._log_level
        if now == wanted or "logging" not in self.server_capabilities:
            return
        if now is None or self.key.isolation == "session" or LOG_LEVELS.index(wanted) < LOG_LEVELS.index(now):
            await self.set_log_level(wanted)

    async def roots_changed(self) -> None:
        """The client behind this connection has other roots now."""
        if self.era == "legacy":
            with contextlib.suppress(NotSent):
                await self.transport.send(wire.notification("notifications/roots/list_changed", {}), None)

    async def _serve(self, exchange: Exchange, call: Call, caller: Caller, attempt: Attempt) -> None:
        """Relay notifications in order and put requests to the client, until the exchange has ended."""
        message = await exchange.next()
        while message is not None and isinstance(message.id, Unset):
            await self._relay(message, caller, attempt)
            message = await exchange.next()
        if message is None:
            return
        async with anyio.create_task_group() as tasks:
            while message is not None:
                if isinstance(message.id, Unset):
                    await self._relay(message, caller, attempt)
                else:
                    tasks.start_soon(self._ask, message, exchange, call, caller, attempt)
                message = await exchange.next()
            tasks.cancel_scope.cancel()

    async def _relay(self, message: Envelope, caller: Caller, attempt: Attempt) -> None:
        method, params = wire.notified(message)
        if len(attempt.notifications) < MAX_RECORDED:
            attempt.notifications.append({"method": method, "params": params, "at": time.time()})
        await caller.notify(method, params)

    async def _ask(self, message: Envelope, exchange: Exchange, call: Call, caller: Caller, attempt: Attempt) -> None:
        """Put a legacy server's request to the call's own client. The call's time stands still meanwhile."""
        method, params = wire.notified(message)
        identifier = message.id
        if method == "elicitation/create" and isinstance(elicitation := params.get("elicitationId"), str):
            if len(self._elicitations) >= MAX_REMEMBERED:
                self._elicitations.clear()
            self._elicitations[elicitation] = call.session_id
        asked = {"method": method, "params": params, "at": time.time()}
        exchange.pause()
        try:
            with anyio.CancelScope() as scope:
                self._asking[identifier] = scope
                answers = await caller.ask({"ask": {"method": method, "params": params}})
        finally:
            self._asking.pop(identifier, None)
            exchange.resume()
        if scope.cancelled_caught:
            attempt.asks.append({**asked, "answer": None, "withdrawn": True})
            return
        body = answers.get("ask") or _error(wire.INTERNAL_ERROR, "The client gave no answer")
        attempt.asks.append({**asked, "answer": body})
        try:
            await self.transport.send(wire.answer(identifier, body), None)
        except NotSent as error:
            logger.info("%s: its %s is not answered: %s", self.settings.name, method, error)

    async def _cancel(self, exchange: Exchange) -> Ending | None:
        """Tell the server that nobody wants the answer any more; what it answers all the same, within the grace period."""
        with anyio.CancelScope(shield=True):
            if exchange.ending is None and not self.transport.stateless:
                exchange.expire_at(None)
                with anyio.move_on_after(CANCEL_SECONDS):
                    await self.tell_cancelled(exchange.identifier, "the client cancelled the request")
                    await self.drain(exchange)
        return exchange.ending

    async def _give_up(self, exchange: Exchange) -> None:
        """Tell the server that its answer would come too late; only then close what it would come on."""
        await self.tell_cancelled(exchange.identifier, "it took too long")
        await asyncio.sleep(GIVE_UP_SECONDS)
        self.transport.drop(exchange)

    async def tell_cancelled(self, identifier: int, reason: str) -> None:
        try:
            data = wire.notification("notifications/cancelled", {"requestId": identifier, "reason": reason})
            await self.transport.send(data, None)
        except NotSent as error:
            logger.debug("%s: cancellation not sent: %s", self.settings.name, error)

    # --- what is sent ---

    def _params(self, call: Call, caller: Caller, identifier: int) -> dict[str, Any]:
        """The request's params, from the value that was judged: names as the server has them, `_meta` for this hop."""
        params = dict(call.params)
        match call.method:
            case Method.CALL_TOOL | Method.GET_PROMPT:
                params["name"] = call.name
                if call.arguments is not None:
                    params["arguments"] = call.arguments
                else:
                    params.pop("arguments", None)
            case Method.READ_RESOURCE | Method.SUBSCRIBE:
                params["uri"] = call.name
            case Method.COMPLETE:
                key = "name" if call.type is TargetType.PROMPT else "uri"
                params["ref"] = {**params["ref"], key: call.name}
                if call.arguments is not None:
                    params["argument"] = call.arguments
            case _:
                pass
        meta = {name: value for name, value in call.meta.items() if name not in wire.ENVELOPE_KEYS}
        if caller.wants_progress:
            meta["progressToken"] = identifier
        else:
            meta.pop("progressToken", None)
        if self.era == "modern":
            capabilities = permitted_capabilities(call.client.capabilities, self.settings)
            meta.update(self._envelope(capabilities, call.client.info or self._client, caller.log_level))
        if meta:
            params["_meta"] = meta
        return params

    def own_envelope(self) -> dict[str, Any]:
        """For the gateway's own requests."""
        return self._envelope(self._capabilities, self._client, None)

    def _envelope(
        self, capabilities: Mapping[str, Any], client: Mapping[str, Any], log_level: str | None
    ) -> dict[str, Any]:
        """What a modern request says of itself."""
        envelope: dict[str, Any] = {
            wire.VERSION_KEY: wire.MODERN,
            wire.CAPABILITIES_KEY: capabilities,
            wire.CLIENT_KEY: client,
        }
        if log_level is not None:
            envelope[wire.LOG_LEVEL_KEY] = log_level
        return envelope

    def _http_headers(self, method: str, params: Mapping[str, Any], entry: Entry | None = None) -> bytes:
        """The headers that repeat a modern request's body; none where there are no headers."""
        if not isinstance(self.transport, StreamableHttp):
            return b""
        member = http_headers.NAMED.get(method)
        name = str(params[member]) if member is not None else None
        if (fixed := self._heads.get((method, name))) is None:
            fixed = http_headers.lines(
                ("mcp-protocol-version", wire.MODERN), ("mcp-method", http_headers.encoded(method))
            )
            if name is not None:
                fixed += http_headers.lines(("mcp-name", http_headers.encoded(name)))
            if len(self._heads) >= MAX_REMEMBERED:
                self._heads.clear()
            self._heads[method, name] = fixed
        if entry is None or method != Method.CALL_TOOL or "arguments" not in params:
            return fixed
        if (marks := self._marks.get(entry.definition_sha256)) is None:
            marks = http_headers.marked(entry.definition.get("inputSchema"))
            if len(self._marks) >= MAX_REMEMBERED:
                self._marks.clear()
            self._marks[entry.definition_sha256] = marks
        return fixed + http_headers.lines(*http_headers.of_arguments(marks, params["arguments"])) if marks else fixed

    # --- what is received ---

    def receive(self, data: bytes, exchange: Exchange | None) -> None:
        try:
            message = wire.decode(data)
        except wire.Garbage as error:
            if data.lstrip()[:1] == b"[" and self._receive_batch(data, exchange):
                return
            logger.warning("%s: not a JSON-RPC message (%s): %.100r", self.settings.name, error, data[:100])
            return
        self._dispatch(message, exchange)

    def _receive_batch(self, data: bytes, exchange: Exchange | None) -> bool:
        """Batches existed in 2025-03-26 alone; a server that still sends one is understood."""
        try:
            for part in wire.decode_batch(data):
                self._dispatch(wire.decode(part), exchange)
        except wire.Garbage:
            return False
        return True

    def _dispatch(self, message: Envelope, exchange: Exchange | None) -> None:
        if isinstance(message.method, Unset):
            self._answered(message, exchange)
        elif isinstance(message.id, Unset):
            self._notified(message, message.method, exchange)
        else:
            self._asked(message, message.method, exchange)

    def _answered(self, message: Envelope, origin: Exchange | None) -> None:
        identifier = message.id
        exchange = self.in_flight.get(identifier) if type(identifier) is int else None
        if exchange is None and identifier is None and not isinstance(message.error, Unset):
            exchange = origin  # an error about a request whose id the server could not read
        if exchange is None or (origin is not None and exchange is not origin):
            logger.warning("%s: an answer to no request in flight (id %.40r)", self.settings.name, identifier)
            return
        if isinstance(message, wire.Doubtful) and exchange.identifier in self.calls:
            # What reads it next, here or at the agent, may take it for something else or for nothing.
            reason = "its answer holds what not every reader of JSON takes (half a surrogate pair, NaN, or a number without bounds)"
            exchange.finish(Unanswered(Code.RESULT_INVALID, reason, "yes"))
            return
        exchange.finish(of_answer(message, exchange.max_result_bytes))

    def oversized(self, head: bytes, tail: bytes) -> None:
        """Which call is it that gets nothing? Its id stands at one end; else it is the only one in flight, or unknown."""
        exchange: Exchange | None = None
        for part in (head, tail):
            for found in _ID.finditer(part):
                exchange = exchange or self.in_flight.get(int(found.group(1)))
        if exchange is None and len(self.calls) == 1:
            exchange = next(iter(self.calls.values()))
        if exchange is None:
            logger.warning("%s: a message beyond all bounds, of no known call, was thrown away", self.settings.name)
            return
        exchange.finish(too_large(exchange.max_result_bytes))

    def _notified(self, message: Envelope, method: str, origin: Exchange | None) -> None:
        if method in LIST_CHANGES:
            self.changed(LIST_CHANGES[method])
            return
        match method:
            case "notifications/progress":
                token = wire.member(message, "progressToken")
                exchange = self.calls.get(token) if type(token) is int else None
                if exchange is not None and (origin is None or origin is exchange):
                    exchange.post(message)
                else:
                    logger.debug("%s: progress of no call in flight", self.settings.name)
            case "notifications/cancelled":
                withdrawn = wire.member(message, "requestId")
                if isinstance(withdrawn, str | int | float) and (scope := self._asking.get(withdrawn)) is not None:
                    scope.cancel()
            case "notifications/subscriptions/acknowledged":
                meta = wire.member(message, "_meta")
                token = meta.get(wire.SUBSCRIPTION_KEY) if isinstance(meta, dict) else None
                listening = origin or (self.in_flight.get(token) if type(token) is int else None)
                if listening is not None and listening.identifier not in self.calls:
                    listening.post(message)
            case "notifications/resources/updated" | "notifications/elicitation/complete":
                self._put_outside(message)
            case _:
                if (exchange := self._related(origin)) is not None:
                    exchange.post(message)
                else:
                    self._put_outside(message)

    def _asked(self, message: Envelope, method: str, origin: Exchange | None) -> None:
        if method == "ping":
            self._reply(message, {"result": {}})
            return
        ask = ASKS.get(method)
        if ask is None or self.era == "modern":
            self._refuse(message, wire.METHOD_NOT_FOUND, f"Method not found: {method}")
        elif ask not in self.settings.asks:
            self._refuse(message, wire.METHOD_NOT_FOUND, f"{method} is not permitted to this server")
        elif ask == "roots" and self.key.isolation == "shared":
            self._reply(message, {"result": {"roots": [root(each) for each in self.settings.roots]}})
        elif (exchange := self._related(origin)) is not None:
            exchange.post(message)
        elif ask == "roots" and self.key.isolation == "session" and self.calls:
            # All calls on this link are of one client, and which of them it is makes no difference to its roots.
            next(iter(self.calls.values())).post(message)
        else:
            text = "The gateway cannot tell whose call this belongs to"
            self._refuse(message, wire.NOT_ATTRIBUTABLE, text)

    def _related(self, origin: Exchange | None) -> Exchange | None:
        """The call that a message belongs to, where that is known."""
        if origin is not None:
            return self.calls.get(origin.identifier)
        if len(self.calls) == 1:
            return next(iter(self.calls.values()))
        return None

    def _refuse(self, message: Envelope, code: int, text: str) -> None:
        logger.warning("%s: its %s is refused: %s", self.settings.name, message.method, text)
        self._reply(message, _error(code, text))

    def _reply(self, message: Envelope, body: Mapping[str, Any]) -> None:
        self.spawn(partial(self.transport.send, wire.answer(message.id, body), None))

    # --- messages outside calls ---

    def _put_outside(self, message: Envelope) -> None:
        size = 0 if isinstance(message.params, Unset) else len(memoryview(message.params))
        try:
            if size > MAX_OUTSIDE_BYTES:
                raise asyncio.QueueFull
            self._messages.put_nowait(wire.notified(message))
        except asyncio.QueueFull:
            logger.warning("%s: it sends more messages than can be delivered; some were dropped", self.settings.name)

    async def _tell_outside(self) -> None:
        while True:
            method, params = await self._messages.get()
            await self._guarded(partial(self._outside, self, method, params))

    def audience(self, method: str, params: Mapping[str, Any]) -> set[str]:
        """The sessions that a message outside any call belongs to; none where that cannot be known."""
        match method:
            case "notifications/resources/updated":
                uri = str(params.get("uri"))
                found = self.subscriptions.get(uri)
                if found is None:  # an update may name a part of what was subscribed to
                    found = set().union(*(who for base, who in self.subscriptions.items() if uri.startswith(base)))
                return set(found)
            case "notifications/elicitation/complete":
                session = self._elicitations.pop(str(params.get("elicitationId")), None)
                return {session} if session is not None else set()
            case _:
                pass
        match self.key.isolation:
            case "session":
                return {self.key.owner} if self.key.owner else set()
            case "principal":
                return set(self.sessions)
            case "shared":
                return set()
            case _:
                assert_never(self.key.isolation)

    # --- subscriptions ---

    def unsubscribe(self, session_id: str, uri: str | None = None) -> None:
        """Forget one subscription of a session, or all of them."""
        for each in [uri] if uri is not None else list(self.subscriptions):
            wanting = self.subscriptions.get(each)
            if wanting is None or session_id not in wanting:
                continue
            wanting.discard(session_id)
            if wanting:
                continue
            del self.subscriptions[each]
            if self.era == "modern":
                self.listening.start()
            else:
                self.spawn(partial(self._unsubscribe, each))

    async def _unsubscribe(self, uri: str) -> None:
        try:
            await self.request("resources/unsubscribe", {"uri": uri})
        except RequestFailed as error:
            logger.info("%s: %s", self.settings.name, error)

    async def resubscribe(self, subscriptions: Mapping[str, set[str]]) -> None:
        """Take over what a link before this one was subscribed to."""
        for uri, sessions in subscriptions.items():
            self.subscriptions.setdefault(uri, set()).update(sessions)
        if not subscriptions:
            return
        if self.era == "modern":
            self.listening.start()
            return
        for uri in subscriptions:
            try:
                await self.request("resources/subscribe", {"uri": uri})
            except RequestFailed as error:
                logger.info("%s: %s", self.settings.name, error)


def permitted_capabilities(capabilities: Mapping[str, Any], settings: ServerSettings) -> dict[str, Any]:
    """A client's capabilities as a tool server is told them: without what `asks` keeps from it."""
    return {
        name: value
        for name, value in capabilities.items()
        if name not in ("roots", "elicitation", "sampling") or name in settings.asks
    }


def root(place: str) -> dict[str, Any]:
    """A root as MCP has it, of an absolute path or a URI."""
    uri = place if "://" in place else PurePath(place).as_uri()
    return {"uri": uri, "name": place.rstrip("/").rsplit("/", 1)[-1] or place}


def _error(code: int, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}
