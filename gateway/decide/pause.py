"""What is paused or killed, and whether that stops a call. Looked up in constant time.

A session that was paused or killed is not escaped by reconnecting: with the session its (principal, client name) is
stopped, and a new session of the same pair meets the same stop until it is resumed or its time has passed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from gateway.model.call import Call, TargetType

Subject = Literal["gateway", "agent", "session", "server", "tool"]
Key = tuple[str, str]


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
        self._by_client: dict[str, Stop] = {}

    def __iter__(self) -> Iterator[Stop]:
        return iter(tuple(self._by_key.values()))

    def put(self, stop: Stop) -> None:
        """Take in a stop; one of the same subject is replaced. A kill is not softened into a pause."""
        before = self._by_key.get(stop.key)
        if before is not None and before.killed and not stop.killed:
            stop = replace(stop, killed=True, until=before.until)
        self._by_key[stop.key] = stop
        if stop.client:
            self._by_client[stop.client] = stop

    def resume(self, subject: Subject, name: str) -> Stop | None:
        """Lift a stop; the one that was in force, or None."""
        stop = self._by_key.pop((subject, name), None)
        if stop is not None and stop.client:
            self._by_client.pop(stop.client, None)
        return stop

    def stopping(self, call: Call, now: float) -> Stop | None:
        """The stop that a call meets: the widest first. Stops whose time has passed are lifted."""
        if not self._by_key:
            return None
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
        escaped = self._by_client.get(client_key(call.principal.id, call.client.name))
        return escaped if escaped is not None and self._holds(escaped, now) else None

    def _holds(self, stop: Stop, now: float) -> bool:
        if stop.until is None or now < stop.until:
            return True
        self.resume(stop.subject, stop.name)
        return False


def client_key(principal: str, client: str) -> str:
    """What stays the same when a client reconnects."""
    return f"{principal}\0{client}"
