"""Who shares a child or connection with whom, how many there may be, and when they end."""

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.model.call import Method
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Failed
from tests.scripted_server import tool
from tests.servers.harness import Pool, RecordingCaller, eventually, pool, scripted, text

pytestmark = pytest.mark.anyio

PID = {"tools": [tool("t")], "on": {"tools/call:t": [{"text": "$pid"}]}}


async def pids(running: Pool, *who: tuple[str, str]) -> list[str]:
    """The process that answers each (session, principal)."""
    return [text(await running.call("s", "t", {}, session=session, principal=principal)) for session, principal in who]


@pytest.mark.rule("servers.isolation")
@pytest.mark.parametrize("wire", ["stdio-modern", "stdio-legacy"])
@pytest.mark.parametrize(
    ("isolation", "expected"),
    [("session", [0, 1, 2, 0]), ("principal", [0, 0, 1, 0]), ("shared", [0, 0, 0, 0])],
)
async def test_children_are_shared_as_configured(
    wire: str, isolation: str, expected: list[int], tmp_path: Path
) -> None:
    async with scripted(wire, tmp_path, PID, isolation=isolation) as (_, settings), pool(settings) as running:
        await running.available("s")
        found = await pids(running, ("a", "ann"), ("b", "ann"), ("c", "bob"), ("a", "ann"))
        order = list(dict.fromkeys(found))
        assert [order.index(pid) for pid in found] == expected


@pytest.mark.rule("servers.isolation")
async def test_sessions_of_a_legacy_http_server_are_shared_as_configured(tmp_path: Path) -> None:
    script = {"tools": [tool("t")]}
    async with (
        scripted("http-legacy", tmp_path, script, isolation="session") as (server, settings),
        pool(settings) as it,
    ):
        await it.available("s")
        await it.call("s", "t", {}, session="a")
        await it.call("s", "t", {}, session="b")
        await it.call("s", "t", {}, session="a")
        sessions = [entry["session"] for entry in server.received("tools/call")]
        assert sessions[0] == sessions[2] != sessions[1]
        listing = server.received("tools/list")[0]["session"]
        assert listing not in sessions


@pytest.mark.rule("servers.one-child-for-one-client")
async def test_a_modern_child_that_only_listed_becomes_the_first_sessions_own(tmp_path: Path) -> None:
    async with scripted("stdio-modern", tmp_path, PID) as (server, settings), pool(settings) as running:
        await running.available("s")
        await pids(running, ("a", "ann"), ("a", "ann"))
        assert len(server.entries("started")) == 1
        await pids(running, ("b", "ann"))
        assert len(server.entries("started")) == 2


@pytest.mark.rule("servers.idle-closed")
@pytest.mark.parametrize("wire", ["stdio-modern", "stdio-legacy", "http-legacy"])
async def test_idle_links_are_closed_and_opened_again_when_needed(wire: str, tmp_path: Path) -> None:
    async with scripted(wire, tmp_path, PID) as (_, settings), pool(settings, idle_seconds=0.3) as running:
        await running.available("s")
        await pids(running, ("a", "ann"))
        kept = 0 if wire.startswith("stdio") else 1
        await eventually(lambda: len(running.servers.states()[0].links) <= kept)
        assert running.servers.states()[0].state == "available"
        assert running.servers.states()[0].restarts == 0
        await pids(running, ("a", "ann"))


@pytest.mark.rule("servers.idle-closed")
async def test_a_call_in_flight_is_not_idle(tmp_path: Path) -> None:
    script = {"tools": [tool("t")], "on": {"tools/call:t": [{"delay": 1.0}, {"text": "done"}]}}
    async with scripted("stdio-legacy", tmp_path, script) as (_, settings), pool(settings, idle_seconds=0.2) as running:
        await running.available("s")
        assert text(await running.call("s", "t", {})) == "done"


@pytest.mark.rule("servers.capacity")
async def test_beyond_the_cap_a_call_is_refused_and_not_in_doubt(tmp_path: Path) -> None:
    async with scripted("stdio-legacy", tmp_path, PID) as (_, settings), pool(settings, max_links=3) as running:
        await running.available("s")
        await pids(running, ("a", "ann"), ("b", "ann"))
        outcome = await running.call("s", "t", {}, session="c")
        assert isinstance(outcome, Failed)
        assert (outcome.code, outcome.in_doubt) == (Code.SERVER_CAPACITY, False)
        running.servers.session_ended("a")
        await eventually(lambda: len(running.servers.states()[0].links) <= 2)
        await pids(running, ("c", "ann"))


@pytest.mark.rule("servers.session-end-closes")
@pytest.mark.parametrize("wire", ["stdio-modern", "stdio-legacy", "http-legacy"])
async def test_a_sessions_child_or_connection_ends_with_it(wire: str, tmp_path: Path) -> None:
    async with scripted(wire, tmp_path, PID, isolation="session") as (server, settings), pool(settings) as running:
        await running.available("s")
        await pids(running, ("a", "ann"))
        running.servers.session_ended("a")
        if wire.startswith("stdio"):
            await server.wait_for("eof")
        else:
            await server.wait_for("deleted", known=True)


@pytest.mark.rule("servers.session-end-closes")
async def test_a_session_that_ends_lets_its_calls_in_flight_end_first(tmp_path: Path) -> None:
    script = {"tools": [tool("t")], "on": {"tools/call:t": [{"gate": "go"}, {"text": "whole"}]}}
    async with scripted("stdio-legacy", tmp_path, script) as (server, settings), pool(settings) as running:
        await running.available("s")
        call = asyncio.create_task(running.call("s", "t", {}))
        await server.wait_for("gate", gate="go")
        running.servers.session_ended("session-1")
        server.open_gate("go")
        assert text(await call) == "whole"


RESOURCES: dict[str, Any] = {
    "tools": [tool("touch")],
    "resources": [{"uri": "file:///a", "name": "a"}, {"uri": "file:///b", "name": "b"}],
    "on": {
        "tools/call:touch": [
            {"notify": "notifications/resources/updated", "params": {"uri": "file:///a", "x": 1}, "where": "stream"},
            {"text": "touched"},
        ]
    },
}


@pytest.mark.rule("servers.updates-reach-subscribers")
@pytest.mark.parametrize("wire", ["stdio-modern", "stdio-legacy", "http-modern", "http-legacy", "sse-legacy"])
async def test_updates_reach_the_sessions_that_subscribed_and_no_others(wire: str, tmp_path: Path) -> None:
    async with scripted(wire, tmp_path, RESOURCES, isolation="shared") as (server, settings), pool(settings) as running:
        await running.available("s")
        mine, other = running.channel("mine"), running.channel("other")
        if wire == "http-legacy":
            await server.wait_for("stream")
        for session, uri in (("mine", "file:///a"), ("other", "file:///b")):
            await running.call("s", uri, method=Method.SUBSCRIBE, session=session)
        await running.call("s", "touch", {}, session="other")
        with anyio.fail_after(10):
            await mine.heard.wait()
        # (On stdio the scripted server sends it twice: of itself, and to those who listen.)
        update = ("notifications/resources/updated", {"uri": "file:///a", "x": 1})
        assert [each for each in mine.notified if each != update] == []
        assert other.notified == []
        running.servers.unsubscribe("mine", "file:///a")
        if "legacy" in wire:
            await server.wait_for("received", method="resources/unsubscribe")
        else:
            await server.wait_for("received", method="subscriptions/listen", count=4)


@pytest.mark.rule("servers.updates-reach-subscribers")
@pytest.mark.parametrize("wire", ["stdio-modern", "stdio-legacy"])
async def test_subscriptions_are_renewed_after_a_crash(wire: str, tmp_path: Path) -> None:
    script = {
        **RESOURCES,
        "tools": [tool("touch"), tool("crash")],
        "on": {**RESOURCES["on"], "tools/call:crash": [{"die": 1}]},
    }
    async with scripted(wire, tmp_path, script) as (server, settings), pool(settings) as running:
        await running.available("s")
        channel = running.channel("session-1")
        await running.call("s", "file:///a", method=Method.SUBSCRIBE)
        method = "subscriptions/listen" if "modern" in wire else "resources/subscribe"
        before = len(server.received(method))
        await running.call("s", "crash", {})
        await server.wait_for("received", method=method, count=before + 1)
        await running.call("s", "touch", {})
        with anyio.fail_after(10):
            await channel.heard.wait()


@pytest.mark.rule("servers.messages-outside-calls")
async def test_a_legacy_childs_log_messages_outside_calls_reach_its_own_session(tmp_path: Path) -> None:
    script = {
        "tools": [tool("t")],
        "on": {"logging/setLevel": [{"log": "level set"}, {"result": {}}]},
    }
    async with scripted("stdio-legacy", tmp_path, script) as (server, settings), pool(settings) as running:
        await running.available("s")
        mine, other = running.channel("session-1"), running.channel("session-2")
        await running.call("s", "t", {}, session="session-1")
        await running.call("s", "t", {}, session="session-2")
        running.servers.set_log_level("session-1", "debug")
        with anyio.fail_after(10):
            await mine.heard.wait()
        assert mine.notified[0][1]["data"] == "level set"
        assert other.notified == []
        assert server.received("logging/setLevel")[0]["params"]["level"] == "debug"


@pytest.mark.rule("servers.messages-outside-calls")
async def test_a_log_level_that_was_set_before_holds_for_a_link_that_is_opened_later(tmp_path: Path) -> None:
    async with (
        scripted("stdio-legacy", tmp_path, {"tools": [tool("t")]}) as (server, settings),
        pool(settings) as running,
    ):
        await running.available("s")
        running.servers.set_log_level("session-1", "error")
        await running.call("s", "t", {}, caller=RecordingCaller())
        assert (await server.wait_for("received", method="logging/setLevel"))[0]["params"]["level"] == "error"


@pytest.mark.rule("servers.messages-outside-calls")
async def test_what_belongs_to_nobody_of_a_shared_child_reaches_nobody(tmp_path: Path) -> None:
    script = {
        "tools": [tool("t"), tool("wait")],
        "on": {"tools/call:t": [{"log": "whose?"}, {"text": "x"}], "tools/call:wait": [{"gate": "go"}, {"text": "y"}]},
    }
    async with (
        scripted("stdio-legacy", tmp_path, script, isolation="shared") as (server, settings),
        pool(settings) as it,
    ):
        await it.available("s")
        channels = [it.channel("a"), it.channel("b")]
        callers = [RecordingCaller(log_level="debug"), RecordingCaller(log_level="debug")]
        waiting = asyncio.create_task(it.call("s", "wait", {}, session="a", caller=callers[0]))
        await server.wait_for("gate", gate="go")
        await it.call("s", "t", {}, session="b", caller=callers[1])
        server.open_gate("go")
        await waiting
        assert [each.notified for each in channels] == [[], []]
        assert [each.notified for each in callers] == [[], []]


@pytest.mark.rule("servers.log-level-agreed")
@pytest.mark.parametrize("wire", ["stdio-legacy", "http-legacy", "sse-legacy"])
async def test_a_legacy_server_learns_the_log_level_that_a_call_brings(wire: str, tmp_path: Path) -> None:
    script = {"tools": [tool("t")]}
    async with scripted(wire, tmp_path, script, isolation="session") as (server, settings), pool(settings) as running:
        await running.available("s")
        for level in ("info", "info", None, "debug", "error"):
            await running.call("s", "t", {}, caller=RecordingCaller(log_level=level))
        told = [entry["params"]["level"] for entry in server.received("logging/setLevel")]
        assert told == ["info", "debug", "error"]


@pytest.mark.rule("servers.log-level-agreed")
async def test_what_several_share_is_only_ever_made_to_say_more(tmp_path: Path) -> None:
    script = {"tools": [tool("t")]}
    async with (
        scripted("stdio-legacy", tmp_path, script, isolation="shared") as (server, settings),
        pool(settings) as it,
    ):
        await it.available("s")
        for session, level in (("a", "warning"), ("b", "info"), ("a", "error"), ("b", "debug")):
            await it.call("s", "t", {}, session=session, caller=RecordingCaller(log_level=level))
        told = [entry["params"]["level"] for entry in server.received("logging/setLevel")]
        assert told == ["warning", "info", "debug"]


@pytest.mark.rule("servers.roots-changed")
async def test_changed_roots_are_told_to_the_legacy_servers_of_that_session(tmp_path: Path) -> None:
    async with (
        scripted("stdio-legacy", tmp_path, {"tools": [tool("t")]}) as (server, settings),
        pool(settings) as running,
    ):
        await running.available("s")
        await running.call("s", "t", {}, session="a")
        await running.call("s", "t", {}, session="b")
        running.servers.roots_changed("a")
        told = await server.wait_for("notified", method="notifications/roots/list_changed")
        pids = [entry["pid"] for entry in server.received("tools/call")]
        assert [entry["pid"] for entry in told] == [pids[0]]


@pytest.mark.rule("servers.subscription-honest")
@pytest.mark.parametrize(
    "steps",
    [
        [{"notify": "notifications/subscriptions/acknowledged", "params": {"notifications": {}}}, {"hang": True}],
        [{"error": {"code": -32601, "message": "Method not found"}}],
    ],
    ids=["not granted", "unknown"],
)
async def test_a_subscription_that_a_modern_server_does_not_grant_is_an_error(
    steps: list[dict[str, Any]], tmp_path: Path
) -> None:
    script = {**RESOURCES, "on": {"subscriptions/listen": steps}}
    async with scripted("http-modern", tmp_path, script) as (_, settings), pool(settings) as running:
        await running.available("s")
        outcome = await running.call("s", "file:///a", method=Method.SUBSCRIBE, timeout_seconds=10)
        assert isinstance(outcome, Completed)
        assert outcome.result is None
        assert outcome.error is not None


@pytest.mark.rule("servers.subscription-honest")
@pytest.mark.parametrize("wire", ["http-modern", "stdio-modern"])
async def test_nothing_is_missed_while_a_modern_subscription_is_renewed(wire: str, tmp_path: Path) -> None:
    """The new stream is acknowledged before the old one is closed: in the ledger, no moment without a listener."""
    async with scripted(wire, tmp_path, RESOURCES, isolation="shared") as (server, settings), pool(settings) as running:
        await running.available("s")
        for session in ("a", "b", "c"):
            await running.call("s", "file:///a", method=Method.SUBSCRIBE, session=session)
            await running.call("s", "file:///b", method=Method.SUBSCRIBE, session=session)
        await server.wait_for("cancelled", count=2)
        open_now = 0
        began = False
        for entry in server.entries():
            if entry["event"] == "received" and entry["method"] == "subscriptions/listen":
                open_now, began = open_now + 1, True
            elif entry["event"] == "cancelled":
                open_now -= 1
            assert not began or open_now >= 1
