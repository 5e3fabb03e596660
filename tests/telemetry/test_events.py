"""The fan-out of events: who hears them at once, and who a moment later."""

import asyncio
import io
import json
import logging
from pathlib import Path

import pytest

from gateway.adapters.system import EventFanout
from gateway.model.events import AuthenticationRefused, Event, ServerChanged
from gateway.model.verdict import Completed
from gateway.telemetry import configure_logging
from tests.running import execute, running, server_table
from tests.scripted_server import Scripted, tool

CHANGED = ServerChanged(at=0.0, server="s", state="available")
REFUSED = AuthenticationRefused(at=0.0, reason="no key", remote="")


@pytest.mark.anyio
@pytest.mark.rule("events.later")
async def test_those_who_hear_later_hear_everything_in_order_after_the_publisher_s_step() -> None:
    events = EventFanout()
    at_once: list[Event] = []
    later: list[Event] = []
    events.subscribe(at_once.append)
    heard = asyncio.Event()
    events.subscribe(later.append, ServerChanged, later=True)
    events.subscribe(lambda _: heard.set(), later=True)
    for event in (CHANGED, REFUSED, CHANGED):
        events.publish(event)
    assert at_once == [CHANGED, REFUSED, CHANGED]
    assert later == []
    async with asyncio.timeout(5):
        await heard.wait()
    assert later == [CHANGED, CHANGED]
    events.publish(CHANGED)
    events.deliver()
    assert len(later) == 3
    await asyncio.sleep(0.02)
    assert len(later) == 3, "nothing is heard twice"


@pytest.mark.rule("events.later")
def test_where_no_loop_runs_nothing_is_kept_back() -> None:
    events = EventFanout()
    later: list[Event] = []
    events.subscribe(later.append, later=True)
    events.publish(CHANGED)
    assert later == [CHANGED]


@pytest.mark.anyio
@pytest.mark.rule("events.later")
async def test_a_subscriber_that_fails_keeps_nobody_else_from_hearing(caplog: pytest.LogCaptureFixture) -> None:
    def fails(_: Event) -> None:
        raise RuntimeError("broken")

    events = EventFanout()
    heard: list[Event] = []
    events.subscribe(fails, later=True)
    events.subscribe(heard.append, later=True)
    events.publish(CHANGED)
    events.publish(REFUSED)
    events.deliver()
    assert heard == [CHANGED, REFUSED]
    assert caplog.text.count("a subscriber failed") == 2


@pytest.mark.anyio
@pytest.mark.rule("events.later")
async def test_the_last_call_before_the_end_has_its_log_line(tmp_path: Path) -> None:
    server = Scripted(tmp_path / "server", {"tools": [tool("look")], "on": {"tools/call:look": [{"text": "seen"}]}})
    stream, root = io.StringIO(), logging.getLogger()
    before = root.handlers[:]
    handler = configure_logging(stream, as_json=True)
    try:
        async with running(tmp_path, server_table(server)) as runtime:
            outcome = await execute(runtime, "s__look", {})
        handler.close()
    finally:
        root.handlers[:] = before
    assert isinstance(outcome, Completed)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["outcome"] for line in lines if line["logger"] == "gateway.calls"] == ["completed"]
