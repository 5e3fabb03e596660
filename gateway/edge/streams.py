"""Server-sent event streams: messages to one client in order, over as many HTTP responses as its connection needs.

A stream is a short log with positions. Whoever puts a message never waits: a client that reads slowly holds up nobody,
it loses the oldest events (of a stream that keeps them for resuming) or the newest (of one that does not). One response
at a time reads the log; a newer one takes over, which is how `Last-Event-ID` resumes a call that is still running.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

Send = Callable[[dict[str, Any]], Awaitable[None]]

MAX_EVENTS = 1_024
MAX_BYTES = 16_777_216
"""Bounds of what waits in, or is kept by, one stream. One message may be larger than the bound; it is then alone."""

SSE_HEADERS: list[tuple[bytes, bytes]] = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """One stream.

    Args:
        name: first part of the event ids, unique within the session; "" for a stream without ids.
        keep: events stay after they were sent, so that a client can resume.
    """

    __slots__ = ("_bytes", "_events", "_keep", "_last", "_reader", "_wake", "dropped", "ended", "name", "sent")

    def __init__(self, name: str = "", *, keep: bool = False) -> None:
        self.name = name
        self._keep = keep
        self._events: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._last = 0
        self._reader: object | None = None
        self._wake = anyio.Event()
        self.sent = 0
        """The position of the last event that was handed to a response."""
        self.ended = False
        self.dropped = 0

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        return self._bytes

    def put(self, message: bytes, *, final: bool = False) -> None:
        """Append a message, which is one line. The final one ends the stream and is never dropped."""
        if self.ended:
            return
        full = len(self._events) >= MAX_EVENTS or self._bytes + len(message) > MAX_BYTES
        if full and not self._keep and not final and self._events:
            self.dropped += 1
            return
        while (
            self._keep and self._events and (len(self._events) >= MAX_EVENTS or self._bytes + len(message) > MAX_BYTES)
        ):
            self._bytes -= len(self._events.popleft()[1])
            self.dropped += 1
        self._last += 1
        self._events.append((self._last, message))
        self._bytes += len(message)
        self.ended = final
        self._wake.set()

    def put_once(self, message: bytes) -> None:
        """Append a message, unless the same one still waits to be sent: of a storm of changes, one is told."""
        if not any(number > self.sent and waiting == message for number, waiting in self._events):
            self.put(message)

    def end(self) -> None:
        """End without a further message."""
        self.ended = True
        self._wake.set()

    def contains(self, position: int) -> bool:
        """Whether a client may resume after this position."""
        return 0 <= position <= self._last

    async def respond(
        self,
        send: Send,
        headers: list[tuple[bytes, bytes]],
        *,
        after: int,
        ping_seconds: float,
        retry_ms: int | None = None,
    ) -> None:
        """Write the stream as one HTTP response, from behind `after`, until it ends or another response takes over.

        Args:
            retry_ms: not None: open with a priming event, an id without data from which the client can resume (SEP-1699).
        """
        self._reader = me = object()
        self._wake.set()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        chunk = b"" if retry_ms is None else b"id: %s_%d\nretry: %d\ndata: \n\n" % (self.name.encode(), after, retry_ms)
        position = after
        try:
            while True:
                if self._reader is not me:
                    break
                self._wake = wake = anyio.Event()
                for number, message in self._events:
                    if number > position:
                        chunk += self._event(number, message)
                position = self._last
                if chunk:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    chunk = b""
                    self.sent = max(self.sent, position)
                    if not self._keep:
                        self._forget(position)
                    if self._last > position:
                        continue
                if self.ended and self._last <= position:
                    break
                with anyio.move_on_after(ping_seconds) as quiet:
                    await wake.wait()
                if quiet.cancelled_caught:
                    chunk = b": ping\n\n"
        finally:
            if self._reader is me:
                self._reader = None
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _event(self, number: int, message: bytes) -> bytes:
        if self.name:
            return b"id: %s_%d\nevent: message\ndata: %s\n\n" % (self.name.encode(), number, message)
        return b"event: message\ndata: %s\n\n" % message

    def _forget(self, position: int) -> None:
        while self._events and self._events[0][0] <= position:
            self._bytes -= len(self._events.popleft()[1])
