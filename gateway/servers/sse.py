"""Server-sent events, read incrementally and bounded (WHATWG HTML, "Server-sent events")."""

import re
from collections.abc import Callable
from dataclasses import dataclass

_BOUNDARY = re.compile(rb"\r\n\r\n|\n\n|\n\r\n|\r\n\n|\r\r")
"""An empty line. A further `\n` that belongs to it opens the next event as one more empty line, which means nothing."""
_LINES = re.compile(rb"\r\n|\n|\r")

MIN_RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 60.0


class EventTooLarge(Exception):
    """One event is larger than the bound."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its type (`message` where it names none), its data, and the stream's last event id by then."""

    type: str
    data: bytes


class EventParser:
    """Turns chunks into events.

    Args:
        receive: called with each event that has data.
        max_bytes: of one event.
        oversized: called with the first and last bytes of an event that is larger, which is skipped; absent: such an
            event is an error.
    """

    __slots__ = (
        "_buffer",
        "_first",
        "_head",
        "_max",
        "_oversized",
        "_receive",
        "_scanned",
        "last_event_id",
        "retry_seconds",
    )

    def __init__(
        self,
        receive: Callable[[Event], None],
        max_bytes: int,
        oversized: Callable[[bytes, bytes], None] | None = None,
    ) -> None:
        self._receive = receive
        self._max = max_bytes
        self._oversized = oversized
        self._head: bytes | None = None
        self._buffer = bytearray()
        self._scanned = 0
        self._first = True
        self.last_event_id: str | None = None
        """Where the stream can be taken up again, if its server supports that."""
        self.retry_seconds: float | None = None
        """How long the server asks to wait before reconnecting, within bounds: it never makes us a flood, nor gives us up."""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the stream.

        Raises:
            EventTooLarge: an event outgrows its bound.
        """
        buffer = self._buffer
        buffer += chunk
        if self._first:
            if len(buffer) < 3 and b"\xef\xbb\xbf".startswith(bytes(buffer)):
                return
            self._first = False
            if buffer.startswith(b"\xef\xbb\xbf"):
                del buffer[:3]
        start = 0
        while found := _BOUNDARY.search(buffer, max(start, self._scanned)):
            block = bytes(buffer[start : found.start()])
            start = self._scanned = found.end()
            self._event(block)
        if start:
            del buffer[:start]
        self._scanned = max(0, len(buffer) - 3)
        if len(buffer) > self._max:
            if self._oversized is None:
                raise EventTooLarge
            if self._head is None:
                self._head = bytes(buffer[:512])
            del buffer[:-512]
            self._scanned = max(0, len(buffer) - 3)

    def _event(self, block: bytes) -> None:
        if self._head is not None or len(block) > self._max:
            if self._oversized is None:
                raise EventTooLarge
            head, self._head = self._head or block[:512], None
            self._oversized(head, block[-512:])
            return
        data: list[bytes] = []
        type_ = "message"
        for line in _LINES.split(block):
            name, _, value = line.partition(b":")
            if value[:1] == b" ":
                value = value[1:]
            match name:
                case b"data":
                    data.append(value)
                case b"event":
                    type_ = value.decode("utf-8", "replace") or "message"
                case b"id" if b"\0" not in value:
                    self.last_event_id = value.decode("utf-8", "replace")
                case b"retry" if value.isdigit():
                    asked = int(value) / 1000 if len(value) < 6 else MAX_RETRY_SECONDS
                    self.retry_seconds = min(max(asked, MIN_RETRY_SECONDS), MAX_RETRY_SECONDS)
                case _:
                    pass
        if data:
            self._receive(Event(type_, data[0] if len(data) == 1 else b"\n".join(data)))
