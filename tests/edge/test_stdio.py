"""A connection of messages in both eras, and the process's own stdin and stdout."""

import os
import subprocess
import sys
from typing import Any

import anyio
import orjson
import pytest

from gateway.edge.protocol import CAPABILITIES_KEY, SUBSCRIPTION_KEY, VERSION_KEY
from gateway.edge.stdio import Lines, MessageTooLarge, stdio_streams
from gateway.model.call import Call
from gateway.model.events import CatalogueChanged, RootsChanged, SessionEnded
from gateway.model.verdict import Completed, Outcome
from gateway.ports import Caller
from tests.building import tool
from tests.edge.serving import (
    connected,
    initialize_request,
    modern_request,
    resource,
    text_result,
    world,
)

pytestmark = pytest.mark.anyio

INITIALIZE = initialize_request()["params"]
ENVELOPE = {VERSION_KEY: "2026-07-28", CAPABILITIES_KEY: {}}


def modern(params: Any = None, **meta: Any) -> dict[str, Any]:
    """Params with the envelope."""
    return {**(params or {}), "_meta": {**ENVELOPE, **meta}}


async def never(call: Call, caller: Caller) -> Outcome:
    await anyio.sleep_forever()
    raise AssertionError


@pytest.mark.rule("stdio.both-eras")
async def test_discover_and_then_initialize_on_one_connection_both_work() -> None:
    async with connected(world()) as wire:
        discovered = await wire.request("server/discover", modern(), "server-discover-probe-1")
        assert discovered["result"]["supportedVersions"] == ["2026-07-28"]
        shaken = await wire.request("initialize", INITIALIZE)
        assert shaken["result"]["protocolVersion"] == "2025-11-25"
        await wire.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert "resultType" not in (await wire.request("tools/list"))["result"]
        assert "resultType" in (await wire.request("tools/list", modern()))["result"], "judged by what it carries"
        assert (await wire.request("ping"))["result"] == {}


@pytest.mark.rule("stdio.both-eras")
async def test_a_modern_client_needs_no_handshake_and_a_legacy_one_does() -> None:
    made = world()
    async with connected(made) as wire:
        called = await wire.request("tools/call", modern({"name": "fixture__echo", "arguments": {"text": "a"}}))
        assert called["result"]["content"][0]["text"] == "a"
        assert called["result"]["resultType"] == "complete"
        refused = await wire.request("tools/list")
        assert refused["error"]["code"] == -32602
        assert "_meta" in refused["error"]["message"]
        assert (await wire.request("ping"))["result"] == {}
        unknown = await wire.request("tools/list", modern(**{VERSION_KEY: "2099-01-01"}))
        assert unknown["error"]["data"]["supported"] == ["2026-07-28"]
    assert made.script.calls[0].client.transport == "stdio"


async def test_the_whole_connection_is_one_session() -> None:
    made = world()
    async with connected(made, session_id="given") as wire:
        await wire.request("tools/call", modern({"name": "fixture__echo"}, **{"gateway/session": "other"}))
        await wire.request("initialize", INITIALIZE)
        await wire.request("tools/call", {"name": "fixture__echo"})
        assert await made.gateway.channel("given") is not None
    assert {call.session_id for call in made.script.calls} == {"given"}
    assert [event.session_id for event in made.published if isinstance(event, SessionEnded)] == ["given"]
    assert await made.gateway.channel("given") is None


@pytest.mark.rule("stdio.resume")
async def test_a_connection_is_taken_up_again_with_its_opening_and_its_session() -> None:
    made = world()
    opening = orjson.dumps(initialize_request("2025-06-18", "first", elicitation={}))
    async with connected(made, session_id="known", opening=opening) as wire:
        await wire.request("tools/call", {"name": "fixture__echo"}, 2)
        assert wire.silent(), "the opening is not answered again"
    call = made.script.calls[0]
    assert (call.session_id, call.client.protocol_version) == ("known", "2025-06-18")
    assert call.client.capabilities == {"elicitation": {}}


@pytest.mark.rule("stdio.eof")
async def test_when_the_input_ends_what_is_in_flight_is_cancelled() -> None:
    made = world(plays={"echo": never})
    async with connected(made) as wire:
        await wire.send(
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": modern({"name": "fixture__echo"})}
        )
        with anyio.fail_after(5):
            while not made.script.calls:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        wire.close()
        await made.journal.ended.wait()
    assert made.script.cancelled == ["echo"]


async def test_answers_that_are_ready_are_still_written_after_the_input_has_ended() -> None:
    made = world()
    async with connected(made) as wire:
        await wire.send({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE})
        wire.close()
        assert (await wire.receive())["id"] == 1


@pytest.mark.rule("stdio.cancel")
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_cancelled_request_reaches_the_tool_and_is_not_answered(era: str) -> None:
    made = world(tool("echo"), tool("slow"), plays={"slow": never})
    async with connected(made) as wire:
        if era == "legacy":
            await wire.request("initialize", INITIALIZE)
        params: dict[str, Any] = {"name": "fixture__slow"}
        slow = {
            "jsonrpc": "2.0",
            "id": "c",
            "method": "tools/call",
            "params": params if era == "legacy" else modern(params),
        }
        await wire.send(slow)
        with anyio.fail_after(5):
            while not made.script.calls:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        await wire.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "c"}})
        with anyio.fail_after(5):
            await made.journal.ended.wait()
        assert (await wire.request("ping", identifier="c"))["result"] == {}, "the id is free again"
    assert made.script.cancelled == ["slow"]


@pytest.mark.rule("stdio.concurrent")
async def test_a_slow_call_holds_up_no_other_and_an_id_in_flight_is_not_taken_twice() -> None:
    release = anyio.Event()

    async def slow(call: Call, caller: Caller) -> Outcome:
        await release.wait()
        return text_result("slow")

    made = world(tool("echo"), tool("slow"), plays={"slow": slow})
    async with connected(made) as wire:
        await wire.request("initialize", INITIALIZE)
        await wire.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "fixture__slow"}})
        assert (await wire.request("tools/call", {"name": "fixture__echo"}, 2))["id"] == 2
        assert (await wire.request("ping", identifier=1))["error"]["code"] == -32600
        release.set()
        assert (await wire.receive())["result"]["content"][0]["text"] == "slow"


@pytest.mark.rule("stdio.slow-reader")
async def test_a_client_that_does_not_read_blocks_neither_calls_nor_the_reading_of_its_own_messages() -> None:
    async def chatty(call: Call, caller: Caller) -> Outcome:
        for number in range(10_000):
            await caller.notify("notifications/message", {"level": "info", "data": number})
        return text_result("done")

    made = world(plays={"echo": chatty})
    async with connected(made) as wire:
        await wire.request("initialize", INITIALIZE)
        wire.blocked = anyio.Event()
        await wire.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "fixture__echo"}})
        with anyio.fail_after(5):
            await made.journal.ended.wait()
        await wire.send({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})
        with anyio.fail_after(5):
            while not any(isinstance(event, RootsChanged) for event in made.published):  # noqa: ASYNC110
                await anyio.sleep(0.01)
        wire.blocked.set()
        while (answer := await wire.receive()).get("id") != 1:
            assert answer["method"] == "notifications/message"
        assert answer["result"]["content"][0]["text"] == "done", "answers are never dropped"


async def test_questions_of_a_tool_server_are_put_to_a_handshake_client() -> None:
    async def play(call: Call, caller: Caller) -> Outcome:
        answers = await caller.ask({"k": {"method": "sampling/createMessage", "params": {"x": 1}}})
        return text_result(orjson.dumps(answers["k"]).decode())

    made = world(plays={"echo": play})
    async with connected(made) as wire:
        await wire.request("initialize", initialize_request(sampling={})["params"])
        await wire.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "fixture__echo"}})
        asked = await wire.receive()
        assert (asked["method"], asked["params"]) == ("sampling/createMessage", {"x": 1})
        await wire.send({"jsonrpc": "2.0", "id": "nobody", "result": {}})
        await wire.send({"jsonrpc": "2.0", "id": asked["id"], "result": {"role": "assistant"}})
        answer = await wire.receive()
    assert orjson.loads(answer["result"]["content"][0]["text"]) == {"result": {"role": "assistant"}}


async def test_a_question_is_taken_back_when_its_call_is_cancelled() -> None:
    async def play(call: Call, caller: Caller) -> Outcome:
        await caller.ask({"k": {"method": "roots/list"}})
        raise AssertionError

    made = world(plays={"echo": play})
    async with connected(made) as wire:
        await wire.request("initialize", initialize_request(roots={})["params"])
        await wire.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "fixture__echo"}})
        asked = await wire.receive()
        await wire.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
        taken_back = await wire.receive()
    assert taken_back["method"] == "notifications/cancelled"
    assert taken_back["params"]["requestId"] == asked["id"]


@pytest.mark.rule("stdio.listen")
async def test_a_listen_stream_shares_the_connection_and_ends_by_cancellation() -> None:
    async def play(call: Call, caller: Caller) -> Outcome:
        return Completed(result=b"{}")

    made = world(tool("echo"), resource("test://a"), plays={"test://a": play})
    async with connected(made) as wire:
        filters = {"toolsListChanged": True, "resourceSubscriptions": ["test://a"]}
        body, _ = modern_request("subscriptions/listen", {"notifications": filters}, identifier="s")
        await wire.send(body)
        acknowledged = await wire.receive()
        assert acknowledged["params"]["notifications"] == filters
        assert acknowledged["params"]["_meta"] == {SUBSCRIPTION_KEY: "s"}
        made.events.publish(CatalogueChanged(at=0, revision="2", kinds=("tools",)))
        changed = await wire.receive()
        assert (changed["method"], changed["params"]["_meta"]) == (
            "notifications/tools/list_changed",
            {SUBSCRIPTION_KEY: "s"},
        )
        await wire.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "s"}})
        assert (await wire.request("ping"))["result"] == {}
        made.events.publish(CatalogueChanged(at=0, revision="3", kinds=("tools",)))
        assert (await wire.request("ping"))["result"] == {}, "nothing came before it"


async def test_changes_are_told_to_a_handshake_client_and_not_before_it_has_shaken_hands() -> None:
    made = world()
    async with connected(made) as wire:
        made.events.publish(CatalogueChanged(at=0, revision="2", kinds=("tools",)))
        assert (await wire.request("ping"))["result"] == {}
        await wire.request("initialize", INITIALIZE)
        made.events.publish(CatalogueChanged(at=0, revision="3", kinds=("prompts",)))
        assert (await wire.receive())["method"] == "notifications/prompts/list_changed"


async def test_batches_are_for_2025_03_26_alone() -> None:
    entries = [{"jsonrpc": "2.0", "id": 1, "method": "ping"}, {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}]
    async with connected(world()) as wire:
        await wire.send(entries)
        assert (await wire.receive())["error"]["code"] == -32600
        await wire.request("initialize", initialize_request("2025-03-26")["params"])
        await wire.send(entries)
        assert {one["id"] for one in await wire.receive()} == {1, 2}
        await wire.request("initialize", INITIALIZE)
        await wire.send(entries)
        assert (await wire.receive())["error"]["code"] == -32600


@pytest.mark.rule("answer.malformed")
@pytest.mark.parametrize(
    "text", [b"{", b"[" * 60_000, b'{"jsonrpc":"2.0","id":5}', b"5", b'{"a":1' + b"0" * 400 + b"}"]
)
async def test_malformed_messages_are_answered_and_the_connection_goes_on(text: bytes) -> None:
    async with connected(world()) as wire:
        await wire.send(text)
        assert (await wire.receive())["error"]["code"] in (-32700, -32600)
        await wire.send(b"  \r")
        assert (await wire.request("ping"))["result"] == {}


async def test_too_many_requests_at_once_are_refused_not_queued() -> None:
    made = world(plays={"echo": never})
    async with connected(made, max_in_flight=2) as wire:
        for number in range(3):
            params = modern({"name": "fixture__echo"})
            await wire.send({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
        refused = await wire.receive()
    assert refused["id"] == 2
    assert not -32768 <= refused["error"]["code"] <= -32000


# --- lines ---


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000])
async def test_lines_are_cut_wherever_the_chunks_are(size: int) -> None:
    text = b"one\n\ntwo\r\n" + b"x" * 30 + b"\nthree\n" + b"y" * 10 + b"\nlast"
    chunks = [text[at : at + size] for at in range(0, len(text), size)] + [b""]
    source = iter(chunks)

    async def receive() -> bytes:
        return next(source)

    lines = Lines(receive, 10)
    found: list[Any] = []
    while True:
        try:
            line = await lines.read()
        except MessageTooLarge:
            found.append("too large")
            continue
        if line is None:
            break
        found.append(line)
    assert found == [b"one", b"", b"two", "too large", b"three", b"y" * 10, b"last"]


@pytest.mark.parametrize("kind", ["pipe", "file"])
async def test_descriptors_of_every_kind_are_served(kind: str, tmp_path: Any) -> None:
    if kind == "pipe":
        reading, to_it = os.pipe()
        from_it, writing = os.pipe()
        os.write(to_it, b"hello\n")
        os.close(to_it)
    else:
        (tmp_path / "in").write_bytes(b"hello\n")
        reading = os.open(tmp_path / "in", os.O_RDONLY)
        writing = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
        from_it = os.open(tmp_path / "out", os.O_RDONLY)
    async with stdio_streams(reading, writing, 1_000) as (read, write):
        assert await read() == b"hello"
        assert await read() is None
        await write(b"there")
    assert os.read(from_it, 100) == b"there\n"


PROGRAM = """
import os, sys, anyio
from gateway.edge.stdio import serve_stdio, take_stdio
taken = take_stdio()
print("a stray print")
os.write(1, b"a stray write")
os.system("echo a stray child; cat")
from gateway.edge.settings import EdgeSettings
from gateway.model.call import LOCAL
from tests.edge.serving import world
anyio.run(serve_stdio, world().gateway, LOCAL, EdgeSettings(), taken)
"""


@pytest.mark.rule("stdio.clean-stdout")
def test_nothing_but_mcp_is_ever_on_stdout() -> None:
    requests = [
        initialize_request(),
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "fixture__echo", "arguments": {"text": "x"}},
        },
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        lines = []
        for request in requests:
            process.stdin.write(orjson.dumps(request) + b"\n")
            process.stdin.flush()
            lines.append(orjson.loads(process.stdout.readline()))
        rest, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert [line["id"] for line in lines] == [0, 1]
    assert rest == b""
    assert process.returncode == 0
    for words in (b"a stray print", b"a stray write", b"a stray child"):
        assert words in errors
