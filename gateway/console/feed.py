"""What happens, as server-sent events: typed, numbered, without arguments or results.

Theory of operation
-------------------
One `Feed` hears every event of the gateway and keeps a summary of the last `KEPT` in a ring: plain values, never the call
itself, which may be large. A reader has a place in the ring and is woken when there is more; one that comes back names the
last id it saw (`Last-Event-ID`) and goes on behind it, and so does a page, which names the `place` it was rendered at: what
happens between its rendering and its first event is not lost. Who was too slow, or names an id of a process that is gone, is told
`reset` and has to look anew. Nothing here waits for a reader, and where nobody has read for `FORGOTTEN_SECONDS` nothing is
summed up either: calls do not pay for a console that is closed.
"""

import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

import anyio

from gateway.console.requests import encoded
from gateway.model.call import Call
from gateway.model.events import (
    AuthenticationRefused,
    CallEnded,
    CallForwarded,
    CallStarted,
    CatalogueChanged,
    ConfigurationChanged,
    Event,
    ServerChanged,
    SessionEnded,
    StateChanged,
)
from gateway.model.verdict import Completed, Failed, Held, Refused

KEPT: Final = 2_000
"""Events that a reader who comes back can still be given."""

FORGOTTEN_SECONDS: Final = 120.0
"""After the last reader left; one that comes back later is told `reset`."""

PING_SECONDS: Final = 15.0
"""Between two signs of life."""

MAX_READERS: Final = 64

RETRY_MS: Final = 1_000
"""How soon a reader whose stream broke should come back."""


class TooManyReaders(Exception):
    """`MAX_READERS` streams are open."""


@dataclass(frozen=True, slots=True)
class _Kept:
    number: int
    name: str
    data: dict[str, Any]


class Feed:
    """The last events, and whoever reads them."""

    def __init__(self, *, kept: int = KEPT) -> None:
        self._ring: deque[_Kept] = deque(maxlen=kept)
        self._number = 0
        self._era = secrets.token_hex(4)
        """Of this process: numbers begin anew with each."""
        self._more = anyio.Event()
        self._waiting = False
        self._readers = 0
        self._left = time.monotonic()
        """When the last reader left."""
        self._closed = False

    @property
    def place(self) -> str:
        """The id of the last event: who reads from behind it hears all that happens from now on."""
        return f"{self._era}-{self._number}"

    def receive(self, event: Event) -> None:
        """Take an event in; for `EventFanout.subscribe`."""
        if not self._readers and time.monotonic() - self._left > FORGOTTEN_SECONDS:
            self._number += 1
            self._ring.clear()
            return
        data = summary(event)
        if data is None:
            return
        self._number += 1
        self._ring.append(_Kept(self._number, event.name, data))
        if self._waiting:
            self._wake()

    def close(self) -> None:
        """End every stream: the gateway stops."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._waiting = False
        self._more.set()
        self._more = anyio.Event()

    async def stream(self, last_id: str | None, allowed: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Server-sent events from now on, or from behind `last_id`.

        Args:
            allowed: asked again and again; once it says no (a key was removed), the stream ends.

        Raises:
            TooManyReaders: so many streams are open already.
        """
        if self._readers >= MAX_READERS:
            raise TooManyReaders
        self._readers += 1
        try:
            place, lost = self._place(last_id)
            yield b"retry: %d\n\n" % RETRY_MS
            if lost:
                yield self._message(place, "reset", {"reason": "events between were not kept; look anew"})
            while not self._closed and allowed():
                batch = self._after(place)
                if batch is None:
                    place = self._number
                    yield self._message(place, "reset", {"reason": "you were too slow; look anew"})
                elif batch:
                    place = batch[-1].number
                    yield b"".join(self._message(kept.number, kept.name, kept.data) for kept in batch)
                else:
                    self._waiting = True
                    more = self._more
                    with anyio.move_on_after(PING_SECONDS) as pause:
                        await more.wait()
                    if pause.cancelled_caught:
                        yield b": still here\n\n"
        finally:
            self._readers -= 1
            self._left = time.monotonic()

    def _place(self, last_id: str | None) -> tuple[int, bool]:
        """The number behind which to go on, and whether events in between are lost."""
        if not last_id:
            return self._number, False
        era, _, number = last_id.partition("-")
        if era != self._era or not number.isascii() or not number.isdigit() or len(number) > 18:
            return self._number, True
        place = int(number)
        oldest = self._ring[0].number if self._ring else self._number + 1
        if place > self._number or place < oldest - 1:
            return self._number, True
        return place, False

    def _after(self, place: int) -> list[_Kept] | None:
        """What came after a number; None where some of it is not kept any more."""
        if place == self._number:
            return []
        first = self._ring[0].number
        if place < first - 1:
            return None
        return list(self._ring)[place - first + 1 :]

    def _message(self, number: int, name: str, data: Any) -> bytes:
        return b"id: %s-%d\nevent: %s\ndata: %s\n\n" % (
            self._era.encode(), number, name.encode(), encoded(data),
        )  # fmt: skip


def summary(event: Event) -> dict[str, Any] | None:
    """An event as operators see it: who, what, how it ended. Nothing that may hold secrets. None: not for them."""
    match event:
        case CallStarted() | CallForwarded():
            return {"at": event.at, **_call(event.call)}
        case CallEnded(outcome=outcome):
            ended: dict[str, Any] = {"at": event.at, **_call(event.call), "elapsed_seconds": event.elapsed_seconds}
            match outcome:
                case Completed():
                    return {**ended, "outcome": "completed", "code": None}
                case Refused() | Failed():
                    kind = "refused" if isinstance(outcome, Refused) else "failed"
                    return {**ended, "outcome": kind, "code": str(outcome.code)}
                case Held():
                    return {**ended, "outcome": "held", "code": "hold.pending", "hold_id": outcome.hold_id}
        case ServerChanged():
            return {"at": event.at, "server": event.server, "state": event.state, "reason": event.reason}
        case CatalogueChanged():
            return {"at": event.at, "revision": event.revision, "servers": list(event.servers)}
        case ConfigurationChanged():
            return {"at": event.at, "accepted": event.accepted, "sha256": event.sha256, "message": event.message}
        case SessionEnded():
            return {"at": event.at, "session_id": event.session_id, "agent": event.principal, "reason": event.reason}
        case StateChanged():
            return {
                "at": event.at, "kind": event.kind, "subject": event.subject, "state": event.state,
                "facts": dict(event.facts),
            }  # fmt: skip
        case AuthenticationRefused():
            return {"at": event.at, "reason": event.reason}
        case _:
            return None
    return None


def _call(call: Call) -> dict[str, Any]:
    return {
        "call_id": call.id,
        "agent": call.principal.id,
        "tool": f"{call.server}/{call.name}" if call.server else call.target,
        "session_id": call.session_id,
    }
