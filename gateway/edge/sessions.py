"""Agents' sessions in both eras (CONTRACT 3, "Sessions"), and what is kept for each.

    stdio              the connection
    handshake HTTP     the id that `initialize` answered, unguessable and bound to the principal that opened it
    2026-07-28 HTTP    `_meta["gateway/session"]`, scoped to the principal; else one per (principal, client name)

A session is also the gateway's way to its client outside any call: changes of lists, resource updates, log messages.
Whoever puts something there never waits.
"""

import asyncio
import hashlib
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from gateway.control import Gateway, new_id
from gateway.edge import wire
from gateway.edge.protocol import LIST_CHANGED, LOG_LEVELS, LOG_MESSAGE, RESOURCE_UPDATED, SUBSCRIPTION_KEY
from gateway.edge.settings import EdgeSettings
from gateway.edge.streams import EventStream
from gateway.model.call import Client, Principal
from gateway.model.events import CatalogueChanged, ConfigurationChanged, Event, OwnToolsChanged, SubscriptionEnded

logger = logging.getLogger("gateway.edge")

MAX_STREAMS = 64
"""Event streams of one session that are kept for resuming."""
MAX_KEPT_BYTES = 33_554_432
"""Of all of a session's kept streams together."""


@dataclass(slots=True, eq=False)
class Listener:
    """One open `subscriptions/listen` stream."""

    subscription_id: str | int
    """The id of the listen request, which every frame carries."""
    kinds: frozenset[str]
    """Of `tools`, `prompts`, `resources`."""
    uris: frozenset[str]
    put: Callable[[bytes], None]
    end: Callable[[], None]
    """Ends the stream in good order, with its result."""

    def frame(self, method: str, params: Mapping[str, Any] | None) -> bytes:
        """A notification that carries the subscription's id."""
        body = dict(params or {})
        meta = body.get("_meta")
        body["_meta"] = {**(meta if isinstance(meta, dict) else {}), SUBSCRIPTION_KEY: self.subscription_id}
        return wire.notification(method, body)

    def wants(self, uri: str) -> bool:
        """The resource itself, or one below it (the specification allows updates of sub-resources)."""
        return uri in self.uris or any(uri.startswith(one.rstrip("/") + "/") for one in self.uris)


@dataclass(slots=True, eq=False)
class Ask:
    """A request of ours that the client has not answered yet."""

    answered: anyio.Event = field(default_factory=anyio.Event)
    answer: Mapping[str, Any] = field(default_factory=dict)


class Session:
    """One agent's session. A `SessionChannel` (see `gateway.ports`).

    Args:
        put: takes a message outside any call (a handshake-era client's standing stream); None where there is none.
        put_once: the same, but lets a message go that waits there already.
    """

    def __init__(
        self,
        *,
        gateway: Gateway,
        session_id: str,
        principal: Principal,
        client: Client,
        modern: bool,
        put: Callable[[bytes], None] | None,
        put_once: Callable[[bytes], None] | None,
        now: float,
    ) -> None:
        self.id = session_id
        self.principal = principal
        self.client = client
        self.modern = modern
        self.used_at = now
        """On the event loop's clock."""
        self.active = 0
        """Requests and streams that are open: such a session is not idle."""
        self.log_level: str | None = None
        """From `logging/setLevel`."""
        self.in_flight: dict[str | int, anyio.CancelScope] = {}
        self.subscribed: set[str] = set()
        """Resources by `resources/subscribe`."""
        self.listeners: list[Listener] = []
        self.streams: OrderedDict[str, EventStream] = OrderedDict()
        """Of handshake-era HTTP, by name, for resuming; "0" is the standing one."""
        self.credential = credential(gateway, principal)
        """The key that proved the principal when the session was opened: with it, the session goes."""
        self.ended = False
        self.closing: Callable[[], None] | None = None
        """Ends the connection that the session is (stdio)."""
        self._gateway = gateway
        self._put = put
        self._put_once = put_once
        self._asks: dict[str, Ask] = {}
        self._asked = 0
        self._nonce = secrets.token_hex(4)
        """Ids of our own requests are of this process: an answer meant for another, before a takeover, goes nowhere."""
        self._streams_opened = 0

    def enter(self) -> None:
        """A request or stream of it is open: it is not idle."""
        self.active += 1

    def leave(self) -> None:
        """One of them is over; idleness counts from here."""
        self.active -= 1
        self.used_at = asyncio.get_running_loop().time()

    # --- outside any call: `gateway.ports.SessionChannel` ---

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Deliver a notification to the client, where it has asked for such."""
        if method == RESOURCE_UPDATED:
            uri = params.get("uri")
            if self._put is not None and self.subscribed:
                self._put(wire.notification(method, params))
            for listener in self.listeners:
                if isinstance(uri, str) and listener.wants(uri):
                    listener.put(listener.frame(method, params))
        elif method == LOG_MESSAGE:
            if self._put is not None and self.logs(params.get("level")):
                self._put(wire.notification(method, params))
        elif method in LIST_CHANGED.values():
            self.changed(kind for kind, name in LIST_CHANGED.items() if name == method)
        elif self._put is not None:
            self._put(wire.notification(method, params))

    def changed(self, kinds: Iterable[str]) -> None:
        """Tell the client which lists changed."""
        for kind in kinds:
            if (method := LIST_CHANGED.get(kind)) is None:
                continue
            if self._put_once is not None:
                self._put_once(wire.notification(method, None))
            for listener in self.listeners:
                if kind in listener.kinds:
                    listener.put(listener.frame(method, None))

    def logs(self, level: Any) -> bool:
        """Whether a handshake-era client wants log messages of this level: all, until it sets one."""
        if self.log_level is None or level not in LOG_LEVELS:
            return True
        return LOG_LEVELS.index(level) >= LOG_LEVELS.index(self.log_level)

    # --- what we ask of the client ---

    def ask(self) -> tuple[str, Ask]:
        """A new request of ours and its id. Whoever asks forgets it afterwards."""
        self._asked += 1
        identifier = f"gateway-{self._nonce}-{self._asked}"
        self._asks[identifier] = ask = Ask()
        return identifier, ask

    def answered(self, identifier: str | int, answer: Mapping[str, Any]) -> bool:
        """Take the client's answer. A late, second or foreign one goes nowhere: False."""
        ask = self._asks.pop(identifier, None) if isinstance(identifier, str) else None
        if ask is None:
            return False
        ask.answer = answer
        ask.answered.set()
        return True

    def forget(self, identifier: str) -> None:
        """Nobody waits for this answer any more."""
        self._asks.pop(identifier, None)

    # --- requests in flight ---

    def cancel(self, request_id: Any) -> bool:
        """The client cancelled a request; False where it is not in flight."""
        scope = self.in_flight.get(request_id) if isinstance(request_id, (str, int)) else None
        if scope is None:
            return False
        scope.cancel()
        return True

    # --- streams that can be resumed (handshake-era HTTP) ---

    def open_stream(self) -> EventStream:
        """A stream for one request's answer."""
        self._streams_opened += 1
        stream = EventStream(str(self._streams_opened), keep=True)
        self.streams[stream.name] = stream
        kept = sum(other.size for other in self.streams.values())
        for name, other in list(self.streams.items()):
            if len(self.streams) <= MAX_STREAMS and kept <= MAX_KEPT_BYTES:
                break
            if name != "0" and other.ended and other is not stream:
                kept -= other.size
                del self.streams[name]
        return stream

    def stream_after(self, event_id: str) -> tuple[EventStream, int] | None:
        """The stream of an event id, and the position in it; None where it is not kept (any more)."""
        name, _, number = event_id.rpartition("_")
        stream = self.streams.get(name)
        if stream is None or not number.isascii() or not number.isdigit() or len(number) > 12:
            return None
        return (stream, int(number)) if stream.contains(int(number)) else None

    # --- subscriptions ---

    def unsubscribe(self, uris: Iterable[str]) -> None:
        """Say that these resources' updates are no longer wanted, where no other stream of the session wants them."""
        for uri in uris:
            if uri in self.subscribed or any(uri in listener.uris for listener in self.listeners):
                continue
            self._gateway.events.publish(
                SubscriptionEnded(
                    at=self._gateway.clock.time_ns() / 1e9,
                    session_id=self.id,
                    principal=self.principal.id,
                    uri=uri,
                )
            )

    def end(self, reason: str) -> None:
        """Cancel what is in flight, end the streams, and tell everybody who keeps something for the session."""
        if self.ended:
            return
        self.ended = True
        for scope in list(self.in_flight.values()):
            scope.cancel()
        for listener in list(self.listeners):
            listener.end()
        for stream in self.streams.values():
            stream.end()
        self._gateway.end_session(self.id, self.principal.id, reason)
        if self.closing is not None:
            self.closing()


class Sessions:
    """The sessions of the HTTP edge."""

    def __init__(self, gateway: Gateway, settings: EdgeSettings) -> None:
        self._gateway = gateway
        self._settings = settings
        self._legacy: dict[str, Session] = {}
        self._modern: dict[tuple[str, str, str], Session] = {}
        self._count: dict[str, int] = {}

    def __iter__(self) -> Iterator[Session]:
        return iter((*self._legacy.values(), *self._modern.values()))

    # --- handshake era ---

    def open(self, principal: Principal, client: Client) -> Session | None:
        """Open a session for an `initialize`; None where there are too many."""
        if not self._room(principal):
            return None
        standing = EventStream("0", keep=True)
        session = self._new(secrets.token_hex(16), principal, client, modern=False, standing=standing)
        session.streams["0"] = standing
        self._legacy[session.id] = session
        return session

    def find(self, session_id: str, principal: Principal) -> Session | None:
        """The session of that id. Another principal's is not found, like one that never was."""
        session = self._legacy.get(session_id)
        if session is None or session.principal.id != principal.id or session.ended:
            return None
        session.used_at = asyncio.get_running_loop().time()
        return session

    # --- 2026-07-28 ---

    def of(self, principal: Principal, client: Client, named: str | None) -> Session | None:
        """The session that a self-contained request belongs to, made where it is the first; None: too many."""
        key = (principal.id, "named", named) if named is not None else (principal.id, "client", client.name)
        session = self._modern.get(key)
        if session is None:
            if not self._room(principal):
                return None
            # An agent's own name for its session means the same one after a restart.
            identifier = (
                hashlib.sha256(f"{principal.id}\0{named}".encode()).hexdigest()[:32] if named is not None else new_id()
            )
            session = self._modern[key] = self._new(identifier, principal, client, modern=True, standing=None)
        session.used_at = asyncio.get_running_loop().time()
        return session

    # --- the end ---

    def end(self, session: Session, reason: str) -> None:
        """End a session and forget it."""
        if self._legacy.pop(session.id, None) is None:
            for key, other in list(self._modern.items()):
                if other is session:
                    del self._modern[key]
        left = self._count.get(session.principal.id, 1) - 1
        if left > 0:
            self._count[session.principal.id] = left
        else:
            self._count.pop(session.principal.id, None)
        session.end(reason)

    def end_all(self, reason: str) -> None:
        """End every session (shutdown)."""
        for session in (*self._legacy.values(), *self._modern.values()):
            self.end(session, reason)

    async def sweep(self) -> None:
        """End what was idle for `session_idle_seconds`, for ever."""
        while True:
            await anyio.sleep(max(1.0, min(60.0, self._settings.session_idle_seconds / 4)))
            self.end_idle()

    def end_idle(self) -> None:
        """End the sessions that have had nothing open for `session_idle_seconds`."""
        before = asyncio.get_running_loop().time() - self._settings.session_idle_seconds
        for session in (*self._legacy.values(), *self._modern.values()):
            if not session.active and session.used_at <= before:
                self.end(session, "idle")

    def receive(self, event: Event) -> None:
        """What the gateway says of itself: changed lists go to every client, removed agents' sessions end."""
        kinds = changed_kinds(event)
        if isinstance(event, ConfigurationChanged) and event.accepted:
            for session in (*self._legacy.values(), *self._modern.values()):
                if not refreshed(self._gateway, session):
                    self.end(session, "the agent or its key was removed")
        if kinds:
            for session in (*self._legacy.values(), *self._modern.values()):
                if concerns(event, session):
                    session.changed(kinds)

    def _room(self, principal: Principal) -> bool:
        """Whether one more session may be opened; an idle one of the same principal makes way."""
        total = len(self._legacy) + len(self._modern)
        own = self._count.get(principal.id, 0)
        if own < self._settings.max_sessions_per_principal and total < self._settings.max_sessions:
            return True
        idle = [
            session
            for session in (*self._legacy.values(), *self._modern.values())
            if session.principal.id == principal.id and not session.active
        ]
        if not idle:
            return False
        self.end(min(idle, key=lambda session: session.used_at), "made way for a newer one")
        return True

    def _new(
        self,
        session_id: str,
        principal: Principal,
        client: Client,
        *,
        modern: bool,
        standing: EventStream | None,
    ) -> Session:
        session = Session(
            gateway=self._gateway,
            session_id=session_id,
            principal=principal,
            client=client,
            modern=modern,
            put=standing.put if standing is not None else None,
            put_once=standing.put_once if standing is not None else None,
            now=asyncio.get_running_loop().time(),
        )
        self._count[principal.id] = self._count.get(principal.id, 0) + 1
        self._gateway.open_session(session_id, session)
        return session


CONCERNING_SESSIONS = (CatalogueChanged, ConfigurationChanged, OwnToolsChanged)
"""The events by which lists change, or sessions end."""


def changed_kinds(event: Event) -> tuple[str, ...]:
    """Which lists may be others after this event. A new configuration or policy may change what is visible."""
    match event:
        case CatalogueChanged():
            return event.kinds or tuple(LIST_CHANGED)
        case ConfigurationChanged(accepted=True):
            return tuple(LIST_CHANGED)
        case OwnToolsChanged():
            return ("tools",)
        case _:
            return ()


def concerns(event: Event, session: Session) -> bool:
    """Whether a change of lists is one for this session's principal."""
    return not isinstance(event, OwnToolsChanged) or event.principal == session.principal.id


def credential(gateway: Gateway, principal: Principal) -> bytes | None:
    """What proves this principal in the configuration as it is now; None where nobody needs a proof, b"" where none is."""
    if gateway.agents is None:
        return None
    return next((agent.key_sha256 for agent in gateway.agents if agent.principal.id == principal.id), b"")


def refreshed(gateway: Gateway, session: Session) -> bool:
    """Take the session's principal as the configuration has it now; False where the agent or its key was removed."""
    if credential(gateway, session.principal) != session.credential or session.credential == b"":
        return False
    for agent in gateway.agents or ():
        if agent.principal.id == session.principal.id:
            session.principal = agent.principal
    return True
