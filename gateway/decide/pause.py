"""What is paused or killed, and whether that stops a call. Looked up in constant time.

A session that was paused or killed is not escaped by reconnecting: a new session of the same (principal, client name) meets
the same stop until it is resumed or its time has passed. Sessions of the pair that made calls before are left alone: a client
may have several, and one that loops does not stop its neighbours.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from gateway.model.call import Call, TargetType

Subject = Literal["gateway", "agent", "session", "server", "tool"]
Key = tuple[str, str]

MAX_SESSIONS = 10_000
"""Sessions that are known to have made calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """One pause or kill."""

    subject: Subject
    name: str
    """The agent's, session's or server's id, `server/tool`, or "" for the gateway."""
    killed: bool = False
    """Ended for good (until resumed); calls in flight were cancelled."""
    reason: str = ""
    by: str = ""
    """The operator, or `interrupt:NAME`."""
    at: float = 0.0
    until: float | None = None
    """Seconds since the epoch; None: until an operator resumes."""
    client: str = ""
    """Of a session: `principal\\0client name`, which a new session does not escape."""

    @property
    def key(self) -> Key:
        return (self.subject, self.name)


class Stops:
    """All stops in force. One atomic step a method."""

    def __init__(self) -> None:
        self._by_key: dict[Key, Stop] = {}
        self._by_client: dict[str, dict[Key, tuple[Stop, set[str]]]] = {}
        """Of each client whose session is stopped: the stops, each with the sessions that it leaves alone."""
        self._seen: OrderedDict[str, str] = OrderedDict()
        """Session to client, of those that made a call which met no stop. Who is forgotten counts as new."""

    def __iter__(self) -> Iterator[Stop]:
        return iter(tuple(self._by_key.values()))

    def put(self, stop: Stop, there: Iterable[str] = ()) -> None:
        """Take in a stop; one of the same subject is replaced. A kill is not softened into a pause.

        Args:
            there: further sessions of its client that were there before it, as a process before this one knew them.
        """
        before = self._by_key.get(stop.key)
        if before is not None and before.killed and not stop.killed:
            stop = replace(stop, killed=True, until=before.until)
        self._by_key[stop.key] = stop
        if stop.client:
            others = {session for session, client in self._seen.items() if client == stop.client}.union(there)
            self._by_client.setdefault(stop.client, {})[stop.key] = stop, others - {stop.name}

    def resume(self, subject: Subject, name: str) -> Stop | None:
        """Lift a stop; the one that was in force, or None."""
        stop = self._by_key.pop((subject, name), None)
        if stop is not None and (of_client := self._by_client.get(stop.client)) is not None:
            of_client.pop(stop.key, None)
            if not of_client:
                del self._by_client[stop.client]
        return stop

    def forget(self, session_id: str) -> None:
        """A session has ended; one of that name is a new one."""
        client = self._seen.pop(session_id, None)
        for _, others in self._by_client.get(client or "", {}).values():
            others.discard(session_id)

    def stopping(self, call: Call, now: float) -> Stop | None:
        """The stop that a call meets: the widest first. Stops whose time has passed are lifted."""
        if self._by_key and (stop := self._met(call, now)) is not None:
            return stop
        if call.session_id not in self._seen:
            self._seen[call.session_id] = client_key(call.principal.id, call.client.name)
            if len(self._seen) > MAX_SESSIONS:
                self._seen.popitem(last=False)
        return None

    def _met(self, call: Call, now: float) -> Stop | None:
        keys: list[Key] = [
            ("gateway", ""),
            ("agent", call.principal.id),
            ("session", call.session_id),
            ("server", call.server),
        ]
        if call.type is TargetType.TOOL:
            keys.append(("tool", f"{call.server}/{call.name}"))
        for key in keys:
            if (stop := self._by_key.get(key)) is not None and self._holds(stop, now):
                return stop
        if self._by_client:
            of_client = self._by_client.get(client_key(call.principal.id, call.client.name), {})
            for stop, others in tuple(of_client.values()):
                if call.session_id not in others and self._holds(stop, now):
                    return stop
        return None

    def _holds(self, stop: Stop, now: float) -> bool:
        if stop.until is None or now < stop.until:
            return True
        self.resume(stop.subject, stop.name)
        return False


def client_key(principal: str, client: str) -> str:
    """What stays the same when a client reconnects."""
    return f"{principal}\0{client}"
