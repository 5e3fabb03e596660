"""What a tool server asks in mid-call reaches the client whose call caused it, or nobody."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.model.verdict import Failed
from gateway.ports import Attempt
from tests.scripted_server import tool
from tests.servers.harness import RecordingCaller, pool, scripted, text

pytestmark = pytest.mark.anyio

LEGACY = ["stdio-legacy", "http-legacy", "sse-legacy"]
EVERYTHING: dict[str, Any] = {"roots": {}, "sampling": {}, "elicitation": {"form": {}}}


def answering(name: str) -> RecordingCaller:
    async def answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"result": {"for": name, "method": request["method"], "extra": {"unknown": 1}}}

    return RecordingCaller(capabilities=EVERYTHING, answer=answer)


@pytest.mark.rule("servers.asks-reach-the-caller")
@pytest.mark.parametrize("wire", LEGACY)
@pytest.mark.parametrize("method", ["sampling/createMessage", "elicitation/create", "roots/list"])
async def test_a_legacy_servers_request_reaches_the_calls_own_client(wire: str, method: str, tmp_path: Path) -> None:
    steps = [{"ask": method, "params": {"deep": {"unknown": [1.5]}}}, {"text": "$answers"}]
    script = {"tools": [tool("t")], "on": {"tools/call:t": steps}}
    async with scripted(wire, tmp_path, script) as (_, settings), pool(settings) as running:
        await running.available("s")
        caller, attempt = answering("me"), Attempt()
        assert "'for': 'me'" in text(await running.call("s", "t", {}, caller=caller, attempt=attempt))
        assert caller.asked == [{"method": method, "params": {"deep": {"unknown": [1.5]}}}]
        assert attempt.asks[0]["method"] == method
        assert attempt.asks[0]["answer"]["result"]["for"] == "me"


@pytest.mark.rule("servers.asks-reach-the-caller")
@pytest.mark.parametrize("wire", LEGACY)
async def test_a_client_that_declines_is_answered_for_with_its_error(wire: str, tmp_path: Path) -> None:
    steps = [{"ask": "elicitation/create", "params": {}}, {"text": "$answers"}]
    script = {"tools": [tool("t")], "on": {"tools/call:t": steps}}
    async with scripted(wire, tmp_path, script) as (_, settings), pool(settings) as running:
        await running.available("s")
        assert "-32601" in text(await running.call("s", "t", {}, caller=RecordingCaller()))


@pytest.mark.rule("servers.asks-reach-the-caller")
async def test_streams_tell_apart_whose_call_it_is_when_many_are_in_flight_at_one_http_session(tmp_path: Path) -> None:
    steps = [{"gate": "all"}, {"ask": "elicitation/create", "params": {"who": "$arguments"}}, {"text": "$answers"}]
    script = {"tools": [tool("t")], "on": {"tools/call:t": steps}}
    async with (
        scripted("http-legacy", tmp_path, script, isolation="principal") as (server, settings),
        pool(settings) as it,
    ):
        await it.available("s")
        callers = [answering(f"<{index}>") for index in range(12)]
        async with anyio.create_task_group() as tasks:
            found: dict[int, str] = {}

            async def one(index: int) -> None:
                outcome = await it.call("s", "t", {"i": index}, caller=callers[index], session=f"session-{index}")
                found[index] = text(outcome)

            for index in range(12):
                tasks.start_soon(one, index)
            await server.wait_for("gate", count=12, gate="all")
            server.open_gate("all")
        assert len(it.servers.states()[0].links) == 2, "the control session and one for the principal"
        for index, caller in enumerate(callers):
            assert f"<{index}>" in found[index]
            assert [asked["params"]["who"]["i"] for asked in caller.asked] == [index]


@pytest.mark.rule("servers.asks-not-attributable")
async def test_on_a_shared_child_with_several_calls_in_flight_it_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = {
        "tools": [tool("t"), tool("wait")],
        "on": {
            "tools/call:t": [{"ask": "sampling/createMessage", "params": {}}, {"text": "$answers"}],
            "tools/call:wait": [{"gate": "go"}, {"text": "waited"}],
        },
    }
    async with (
        scripted("stdio-legacy", tmp_path, script, isolation="shared") as (server, settings),
        pool(settings) as it,
    ):
        await it.available("s")
        waiting, asking = answering("waiting"), answering("asking")
        other = asyncio.create_task(it.call("s", "wait", {}, caller=waiting, session="a"))
        await server.wait_for("gate", gate="go")
        assert "-32000" in text(await it.call("s", "t", {}, caller=asking, session="b"))
        assert waiting.asked == []
        assert asking.asked == []
        assert any("sampling/createMessage is refused" in record.message for record in caplog.records)
        server.open_gate("go")
        await other
        assert "'for': 'asking'" in text(await it.call("s", "t", {}, caller=asking, session="b")), "alone it is known"


@pytest.mark.rule("servers.shared-roots")
async def test_a_shared_child_gets_the_configured_roots_and_no_clients(tmp_path: Path) -> None:
    script = {"tools": [tool("t")], "on": {"tools/call:t": [{"ask": "roots/list", "params": {}}, {"text": "$answers"}]}}
    async with (
        scripted("stdio-legacy", tmp_path, script, isolation="shared", roots=("/srv/a b",)) as (_, settings),
        pool(settings) as running,
    ):
        await running.available("s")
        caller = answering("me")
        assert "file:///srv/a%20b" in text(await running.call("s", "t", {}, caller=caller))
        assert caller.asked == []


@pytest.mark.rule("servers.asks-permitted")
@pytest.mark.parametrize("wire", LEGACY)
async def test_what_asks_does_not_name_is_not_declared_and_refused(wire: str, tmp_path: Path) -> None:
    steps = [{"ask": "sampling/createMessage", "params": {}}, {"text": "$answers"}]
    script = {"tools": [tool("t")], "on": {"tools/call:t": steps}}
    async with (
        scripted(wire, tmp_path, script, asks=frozenset({"roots"})) as (server, settings),
        pool(settings) as running,
    ):
        await running.available("s")
        caller = answering("me")
        assert "-32601" in text(await running.call("s", "t", {}, caller=caller))
        assert caller.asked == []
        assert all(
            not {"sampling", "elicitation"} & set(entry["params"]["capabilities"])
            for entry in server.received("initialize")
        )


@pytest.mark.rule("servers.ping-answered")
@pytest.mark.parametrize("wire", LEGACY)
async def test_pings_are_answered_by_the_gateway_itself(wire: str, tmp_path: Path) -> None:
    script = {"tools": [tool("t")], "on": {"tools/call:t": [{"ask": "ping", "params": {}}, {"text": "$answers"}]}}
    async with scripted(wire, tmp_path, script) as (_, settings), pool(settings) as running:
        await running.available("s")
        caller = RecordingCaller()
        assert text(await running.call("s", "t", {}, caller=caller)) == "[{}]"
        assert caller.asked == []


@pytest.mark.rule("servers.asks-pause-the-clock")
async def test_the_time_a_person_takes_does_not_count_against_the_tools_timeout(tmp_path: Path) -> None:
    steps = [{"ask": "elicitation/create", "params": {}}, {"text": "answered"}]
    script = {
        "tools": [tool("t"), tool("late")],
        "on": {"tools/call:t": steps, "tools/call:late": [steps[0], {"hang": True}]},
    }

    async def slowly(request: Mapping[str, Any]) -> Mapping[str, Any]:
        await asyncio.sleep(1.0)
        return {"result": {"action": "accept"}}

    async with scripted("stdio-legacy", tmp_path, script) as (_, settings), pool(settings) as running:
        await running.available("s")
        caller = RecordingCaller(capabilities=EVERYTHING, answer=slowly)
        await running.call("s", "t", {}, caller=RecordingCaller())
        assert text(await running.call("s", "t", {}, caller=caller, timeout_seconds=0.6)) == "answered"
        assert isinstance(await running.call("s", "late", {}, caller=caller, timeout_seconds=0.6), Failed)


@pytest.mark.rule("servers.asks-reach-the-caller")
async def test_an_answer_that_nobody_needs_any_more_is_not_waited_for(tmp_path: Path) -> None:
    asked = asyncio.Event()
    ended = asyncio.Event()

    async def never(request: Mapping[str, Any]) -> Mapping[str, Any]:
        asked.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()
        raise AssertionError

    steps = [{"request": "elicitation/create", "params": {}}, {"gate": "asked"}, {"text": "without you"}]
    script = {"tools": [tool("t")], "on": {"tools/call:t": steps}}
    async with scripted("stdio-legacy", tmp_path, script) as (server, settings), pool(settings) as running:
        await running.available("s")
        caller = RecordingCaller(capabilities=EVERYTHING, answer=never)
        call = asyncio.create_task(running.call("s", "t", {}, caller=caller))
        await asked.wait()
        server.open_gate("asked")
        assert text(await call) == "without you"
        assert ended.is_set(), "an answer that nobody needs is not waited for"
