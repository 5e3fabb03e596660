"""The system's clock and signals, and the fan-out of events."""

import asyncio
import contextlib
import logging
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import anyio

from gateway.model.events import Event

logger = logging.getLogger("gateway.events")

GATHER_SECONDS: Final = 0.02
"""How long an event may wait for company on its way to those who hear later."""


class SystemClock:
    """The machine's own time."""

    # The functions themselves: a call reads the clock some thirty times.
    time_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)


@contextlib.contextmanager
def on_signals(heard: Callable[[int], None]) -> Iterator[None]:
    """Have `heard` called in the event loop with each SIGINT and SIGTERM while the context is open.

    In a thread that may not say what signals do, nothing is changed.
    """
    loop = asyncio.get_running_loop()
    handled: list[int] = []
    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, heard, int(number))
                handled.append(number)
            except NotImplementedError:  # Windows: the loop is woken, and hears of it then
                before[number] = signal.signal(number, lambda found, _: loop.call_soon_threadsafe(heard, found))
    except (RuntimeError, ValueError):
        pass
    try:
        yield
    finally:
        for each in handled:
            loop.remove_signal_handler(each)
        for each, handler in before.items():
            signal.signal(each, handler)


_Subscriber = tuple[Callable[[Event], None], tuple[type[Event], ...], bool]
_Receivers = tuple[Callable[[Event], None], ...]


class EventFanout:
    """Hands each event to every subscriber: at once, in the publisher's task, or gathered with others a moment later.

    A subscriber's function must be quick (count, append); whoever needs time reads a `stream`, whose queue is bounded.
    """

    def __init__(self) -> None:
        self._subscribers: list[_Subscriber] = []
        self._hearing: dict[type[Event], tuple[_Receivers, _Receivers]] = {}
        """Who hears each class of event, at once and later: most events are calls', and most subscribers want none of them."""
        self._waiting: list[tuple[_Receivers, Event]] = []

    def publish(self, event: Event) -> None:
        hearing = self._hearing.get(type(event))
        if hearing is None:
            found = [one for one in self._subscribers if issubclass(type(event), one[1])]
            hearing = self._hearing[type(event)] = (
                tuple(receive for receive, _, later in found if not later),
                tuple(receive for receive, _, later in found if later),
            )
        at_once, later = hearing
        if later:
            waiting = self._waiting
            waiting.append((later, event))
            if len(waiting) == 1:
                try:
                    asyncio.get_running_loop().call_later(GATHER_SECONDS, self.deliver)
                except RuntimeError:  # no loop, so nobody to wait for
                    self.deliver()
        _hand(at_once, event)

    def deliver(self) -> None:
        """Hand over what waits for those who hear later."""
        waiting, self._waiting = self._waiting, []
        for receivers, event in waiting:
            _hand(receivers, event)

    def subscribe(
        self, receive: Callable[[Event], None], *kinds: type[Event], later: bool = False
    ) -> Callable[[], None]:
        """Have `receive` called with each event of these kinds (all, where none is named). What is returned ends it.

        Args:
            later: not in the publisher's step, which may be an agent's call on its way to its answer, but up to
                `GATHER_SECONDS` after it (or when `deliver` is called); many events at a time are handled faster, too.
        """
        subscriber: _Subscriber = (receive, kinds or (Event,), later)
        self._subscribers = [*self._subscribers, subscriber]
        self._hearing = {}

        def end() -> None:
            self._subscribers = [other for other in self._subscribers if other is not subscriber]
            self._hearing = {}

        return end

    def stream(self, *kinds: type[Event], size: int = 1000) -> "EventStream":
        """A queue of at most `size` events of these kinds (all, where none is named).

        A reader that is slower loses the oldest, counted in `dropped`. Naming kinds keeps calls from waking the reader.
        """
        return EventStream(self, kinds or (Event,), size)


class EventStream:
    """One reader's bounded queue of events: `async with stream: async for event in stream`."""

    def __init__(self, fanout: EventFanout, kinds: tuple[type[Event], ...], size: int) -> None:
        self._fanout, self._kinds, self._size = fanout, kinds, size
        self._queue: deque[Event] = deque()
        self._arrived = anyio.Event()
        self._end: Callable[[], None] | None = None
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """Events that are queued."""
        return len(self._queue)

    async def __aenter__(self) -> "EventStream":
        self._end = self._fanout.subscribe(self._receive, *self._kinds)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._end is not None:
            self._end()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            while self._queue:
                yield self._queue.popleft()
            self._arrived = anyio.Event()
            await self._arrived.wait()

    def _receive(self, event: Event) -> None:
        if len(self._queue) >= self._size:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(event)
        self._arrived.set()


def _hand(receivers: _Receivers, event: Event) -> None:
    for receive in receivers:
        try:
            receive(event)
        except Exception:
            logger.exception("a subscriber failed on %s", event.name)
