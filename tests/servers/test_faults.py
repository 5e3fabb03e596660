"""Tool servers that die, hang, answer garbage or send elsewhere: each call's state stays honest, and nobody else suffers."""

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest

from gateway.config import RetrySettings, Secret
from gateway.model.call import Risk
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Failed, Outcome, Refused
from gateway.ports import Attempt
from tests.scripted_server import Scripted, tool
from tests.servers.harness import WIRES, RecordingCaller, http, pool, scripted, stdio, text, tool_settings

pytestmark = pytest.mark.anyio

READ = tool_settings(risk=Risk.READ, retries=RetrySettings(backoff_seconds=0.01))
WRITE = tool_settings(retries=RetrySettings(backoff_seconds=0.01))
TOOLS = {"read_*": READ, "*": WRITE}


def failed(outcome: Outcome) -> Failed:
    assert isinstance(outcome, Failed), outcome
    return outcome


@pytest.mark.rule("servers.lost-write-in-doubt")
@pytest.mark.parametrize("wire", WIRES)
async def test_a_write_whose_server_dies_is_in_doubt_and_not_repeated(wire: str, tmp_path: Path) -> None:
    script = {"tools": [tool("pay")], "on": {"tools/call:pay": [{"effect": "paid"}, {"die": 3}]}}
    async with scripted(wire, tmp_path, script, tools=TOOLS) as (server, settings), pool(settings) as running:
        await running.available("s")
        attempt = Attempt()
        outcome = failed(await running.call("s", "pay", {}, attempt=attempt))
        assert (outcome.code, outcome.in_doubt) == (Code.SERVER_LOST, True)
        assert attempt.sent
        assert len(attempt.tries) == 1
        assert len(server.effects("paid")) == 1


@pytest.mark.rule("servers.next-call-works")
@pytest.mark.parametrize("carrier", ["stdio-modern", "stdio-legacy"])
async def test_after_a_crash_the_next_call_works_at_once(carrier: str, tmp_path: Path) -> None:
    script = {
        "tools": [tool("t")],
        "on": {"tools/call:t": [[{"die": 1}], [{"text": "back"}], [{"die": 1}], [{"text": "again"}]]},
    }
    async with scripted(carrier, tmp_path, script, tools=TOOLS) as (_, settings), pool(settings) as running:
        await running.available("s")
        assert failed(await running.call("s", "t", {})).in_doubt
        assert text(await running.call("s", "t", {})) == "back"
        assert failed(await running.call("s", "t", {})).in_doubt
        assert text(await running.call("s", "t", {})) == "again"
        assert running.servers.states()[0].restarts >= 2


@pytest.mark.rule("servers.reads-retried")
@pytest.mark.parametrize("wire", ["stdio-modern", "stdio-legacy", "http-modern", "http-legacy"])
async def test_a_read_that_was_lost_is_tried_again(wire: str, tmp_path: Path) -> None:
    once = [{"close": True}] if wire.startswith("http") else [{"die": 1}]
    script = {"tools": [tool("read_it")], "on": {"tools/call:read_it": [once, [{"text": "second"}]]}}
    async with scripted(wire, tmp_path, script, tools=TOOLS) as (server, settings), pool(settings) as running:
        await running.available("s")
        attempt = Attempt()
        assert text(await running.call("s", "read_it", {}, attempt=attempt)) == "second"
        assert [each["ended"] for each in attempt.tries] == ["server.lost", "answered"]
        assert len(server.received("tools/call")) == 2


@pytest.mark.rule("servers.reads-retried")
async def test_retries_end_with_the_attempts_that_are_configured(tmp_path: Path) -> None:
    script = {"tools": [tool("read_it")], "on": {"tools/call:read_it": [{"close": True}]}}
    async with scripted("http-modern", tmp_path, script, tools=TOOLS) as (server, settings), pool(settings) as running:
        await running.available("s")
        outcome = failed(await running.call("s", "read_it", {}))
        assert (outcome.code, outcome.in_doubt) == (Code.SERVER_LOST, False)
        assert len(server.received("tools/call")) == 3


@pytest.mark.rule("servers.timeout")
@pytest.mark.parametrize("wire", WIRES)
async def test_a_call_that_hangs_times_out_and_its_server_is_told(wire: str, tmp_path: Path) -> None:
    script = {"tools": [tool("t"), tool("echo")], "on": {"tools/call:t": [{"hang": True}]}}
    async with scripted(wire, tmp_path, script, tools=TOOLS) as (server, settings), pool(settings) as running:
        await running.available("s")
        await running.call("s", "echo", {})
        began = time.monotonic()
        outcome = failed(await running.call("s", "t", {}, timeout_seconds=0.5))
        assert time.monotonic() - began < 2
        assert (outcome.code, outcome.in_doubt) == (Code.SERVER_TIMEOUT, True)
        await server.wait_for("cancelled", running=True)
        assert text(await running.call("s", "echo", {"still": "there"})) == '{"still": "there"}'


@pytest.mark.rule("servers.cancellation")
@pytest.mark.parametrize("wire", WIRES)
async def test_a_cancellation_reaches_the_server(wire: str, tmp_path: Path) -> None:
    script = {"tools": [tool("t")], "on": {"tools/call:t": [{"gate": "never"}]}}
    async with scripted(wire, tmp_path, script) as (server, settings), pool(settings) as running:
        await running.available("s")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: running.call("s", "t", {}))
            await server.wait_for("gate", gate="never")
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr("gateway.servers.link.CANCEL_SECONDS", 0.2)
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await server.wait_for("cancelled", running=True)


@pytest.mark.rule("servers.cancellation")
@pytest.mark.parametrize("wire", ["stdio-legacy", "stdio-modern", "sse-legacy"])
async def test_the_true_outcome_of_a_cancelled_call_is_listened_for(wire: str, tmp_path: Path) -> None:
    """The server finishes what it does in spite of the cancellation: the notification comes, then the answer."""

    async def cancelled(directory: Path, answer: dict[str, Any] | None) -> tuple[Attempt, int]:
        on: dict[str, Any] = {"tools/call:t": [{"effect": "ran"}, {"gate": "never"}]}
        if answer is not None:
            on["notifications/cancelled"] = [{"delay": 0.2}, {"answer": answer}]
        script = {"tools": [tool("t")], "on": on}
        async with scripted(wire, directory, script) as (server, settings), pool(settings) as running:
            await running.available("s")
            attempt = Attempt()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: running.call("s", "t", {}, attempt=attempt))
                await server.wait_for("gate", gate="never")
                tasks.cancel_scope.cancel()
            await server.wait_for("cancelled", running=True)
            return attempt, server.received("tools/call")[-1]["id"]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("gateway.servers.link.CANCEL_SECONDS", 0.1)
        silent, identifier = await cancelled(tmp_path / "silent", None)
        assert silent.outcome is None
        assert silent.tries[-1]["ended"] == "cancelled"
    late = {"jsonrpc": "2.0", "id": identifier, "result": {"content": [{"type": "text", "text": "it ran"}]}}
    stubborn, _ = await cancelled(tmp_path / "stubborn", late)
    assert stubborn.outcome is not None
    assert text(stubborn.outcome) == "it ran"


@pytest.mark.rule("servers.garbage")
@pytest.mark.parametrize("wire", WIRES)
async def test_garbage_of_a_server_never_harms_other_calls(wire: str, tmp_path: Path) -> None:
    rubbish = [
        "hello",
        "{",
        "[]",
        "null",
        "42",
        '{"jsonrpc":"2.0"}',
        '{"id":{},"result":1}',
        "[" * 3000,
        "\u00ff\u0000",
    ]
    calls = {f"g{index}": [{"garbage": each}] for index, each in enumerate(rubbish)}
    script: dict[str, Any] = {
        "tools": [tool("good"), *(tool(name) for name in calls)],
        "on": {"tools/call:good": [{"gate": "go"}, {"text": "well"}]}
        | {f"tools/call:{name}": steps for name, steps in calls.items()},
    }
    async with scripted(wire, tmp_path, script) as (server, settings), pool(settings) as running:
        await running.available("s")
        good = asyncio.create_task(running.call("s", "good", {}))
        await server.wait_for("gate", gate="go")
        for name in calls:
            outcome = failed(await running.call("s", name, {}, timeout_seconds=0.3))
            assert outcome.in_doubt
        server.open_gate("go")
        assert text(await good) == "well"


@pytest.mark.rule("servers.doubtful-json")
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
async def test_a_result_with_a_number_that_json_does_not_have_is_refused_at_once(
    wire: str, number: str, tmp_path: Path
) -> None:
    value = float(number)
    script: dict[str, Any] = {
        "tools": [tool("mean"), {**tool("odd"), "x": value}],
        "on": {
            "tools/call:mean": [
                {"notify": "notifications/message", "params": {"data": value}},
                {"result": {"structuredContent": {"mean": value}}},
            ]
        },
    }
    async with scripted(wire, tmp_path, script) as (_, settings), pool(settings) as running:
        await running.available("s")
        outcome = await running.call("s", "mean", {}, timeout_seconds=30)
        assert isinstance(outcome, Refused), outcome
        assert (outcome.code, outcome.executed) == (Code.RESULT_INVALID, "yes")
        assert "NaN" in outcome.message
        removed = running.servers.catalogues()["s"].removed
        assert len(removed) == 1
        assert "cannot be read" in removed[0].reason


@pytest.mark.rule("servers.garbage")
async def test_noise_on_a_childs_standard_output_is_skipped(tmp_path: Path) -> None:
    noise = "Starting up...\n\n\x1b[31mred\x1b[0m\n"
    script = {
        "tools": [tool("t")],
        "on_start": [{"stdout": noise}],
        "on": {"tools/call:t": [{"stdout": "log line\n"}, {"text": "ok"}]},
    }
    async with scripted("stdio-legacy", tmp_path, script) as (_, settings), pool(settings) as running:
        await running.available("s")
        assert text(await running.call("s", "t", {})) == "ok"


@pytest.mark.rule("servers.refused-not-in-doubt")
@pytest.mark.parametrize("wire", ["http-modern", "http-legacy", "sse-legacy"])
async def test_a_refused_connection_is_not_in_doubt(wire: str, tmp_path: Path) -> None:
    script = {"tools": [tool("t")]}
    async with contextlib.AsyncExitStack() as stack:
        going = await stack.enter_async_context(contextlib.AsyncExitStack())
        server, settings = await going.enter_async_context(scripted(wire, tmp_path, script, tools=TOOLS))
        running = await stack.enter_async_context(pool(settings))
        await running.available("s")
        entry = running.entry("s", "t")
        await going.aclose()
        attempt = Attempt()
        outcome = failed(await running.call("s", "t", {}, entry=entry, attempt=attempt))
        assert (outcome.code, outcome.in_doubt) == (Code.SERVER_UNAVAILABLE, False)
        assert server.received("tools/call") == []


@pytest.mark.rule("servers.heals")
async def test_a_server_that_returns_is_available_again_and_its_entries_stay_known(tmp_path: Path) -> None:
    server = Scripted(tmp_path, {"tools": [tool("t")]})
    async with server.http() as url:
        port = int(url.split(":")[2].split("/")[0])
        async with pool(http("s", url)) as running:
            await running.available("s")
            entry = running.entry("s", "t")
    async with pool(http("s", url)) as running:
        await running.until(lambda: running.servers.states()[0].state == "unavailable")
        assert failed(await running.call("s", "t", {}, entry=entry)).code is Code.SERVER_UNAVAILABLE
        async with server.http(port):
            await running.available("s")
            assert text(await running.call("s", "t", {})) == "{}"
        outcome = failed(await running.call("s", "t", {}))
        assert not outcome.in_doubt
        await running.until(lambda: not running.servers.catalogues()["s"].available)
        assert running.entry("s", "t").definition == entry.definition


@pytest.mark.rule("servers.dead-harms-nobody")
async def test_dead_and_slow_servers_never_keep_others_waiting(tmp_path: Path) -> None:
    hanging = Scripted(tmp_path, {"on_start": [{"hang": True}]}, name="hanging")
    dying = Scripted(tmp_path, {"on_start": [{"stderr": "no config\n"}, {"die": 2}]}, name="dying")
    good = Scripted(tmp_path, {"tools": [tool("echo")]}, name="good")
    settings = [stdio(each.name, each.command, each.args) for each in (hanging, dying, good)]
    missing = stdio("missing", "no-such-program-anywhere", [])
    nowhere = http("nowhere", "http://127.0.0.1:9/mcp")
    async with pool(*settings, missing, nowhere) as running:
        began = time.monotonic()
        await running.available("good")
        assert text(await running.call("good", "echo", {})) == "{}"
        assert time.monotonic() - began < 10
        await running.until(
            lambda: all(
                running.servers.catalogues()[name].reason not in ("", "not reached yet")
                for name in ("dying", "missing", "nowhere")
            )
        )
        reasons = {name: each.reason for name, each in running.servers.catalogues().items()}
        assert "status 2" in reasons["dying"]
        assert "no config" in reasons["dying"]
        assert "not found" in reasons["missing"]
        assert "127.0.0.1:9" in reasons["nowhere"]


@pytest.mark.rule("servers.redirects-refused")
async def test_a_redirect_to_another_host_is_refused_and_one_within_it_followed(tmp_path: Path) -> None:
    class Elsewhere:
        hits = 0

        async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.hits += 1
            writer.close()

    elsewhere = Elsewhere()
    other = await asyncio.start_server(elsewhere, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    away = {"status": 307, "headers": {"location": f"http://127.0.0.1:{port}/mcp"}}
    script = {"tools": [tool("t")], "on": {"tools/call:t": [away]}}
    secret = {"authorization": Secret("Bearer canary")}
    async with other:
        async with (
            scripted("http-modern", tmp_path, script, headers=secret) as (_, settings),
            pool(settings) as running,
        ):
            await running.available("s")
            outcome = failed(await running.call("s", "t", {}))
            assert (outcome.code, outcome.in_doubt) == (Code.SERVER_UNAVAILABLE, False)
            assert "redirects" in outcome.message
            assert elsewhere.hits == 0
        moved = Scripted(tmp_path / "moved", {"tools": [tool("t")]})
        async with moved.http() as url:

            async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(
                    f"HTTP/1.1 308 Permanent Redirect\r\nlocation: {url}\r\ncontent-length: 0\r\n\r\n".encode()
                )
                await writer.drain()

            front = await asyncio.start_server(redirect, "127.0.0.1", 0)
            async with front:
                start = f"http://127.0.0.1:{front.sockets[0].getsockname()[1]}/mcp"
                async with pool(http("s", start)) as running:
                    await running.until(lambda: bool(running.servers.catalogues()["s"].reason != "not reached yet"))
                    assert "redirects (308)" in running.servers.catalogues()["s"].reason


@pytest.mark.rule("servers.redirects-refused")
async def test_a_server_that_moved_within_its_host_is_followed(tmp_path: Path) -> None:
    script = {
        "tools": [tool("t")],
        "on": {"server/discover": [[{"status": 307, "headers": {"location": "/mcp?moved=1"}}], []]},
    }
    async with scripted("http-modern", tmp_path, script) as (_, settings), pool(settings) as running:
        await running.available("s")
        assert text(await running.call("s", "t", {})) == "{}"


@pytest.mark.rule("servers.http-status")
@pytest.mark.parametrize(
    ("status", "code", "in_doubt"),
    [
        (401, Code.SERVER_UNAVAILABLE, False),
        (403, Code.SERVER_UNAVAILABLE, False),
        (404, Code.SERVER_UNAVAILABLE, False),
        (413, Code.SERVER_UNAVAILABLE, False),
        (429, Code.SERVER_UNAVAILABLE, False),
        (503, Code.SERVER_UNAVAILABLE, False),
        (500, Code.SERVER_LOST, True),
        (502, Code.SERVER_LOST, True),
        (504, Code.SERVER_LOST, True),
        (202, Code.SERVER_LOST, True),
    ],
)
async def test_what_an_http_status_says_of_a_call(status: int, code: Code, in_doubt: bool, tmp_path: Path) -> None:
    script = {"tools": [tool("t")], "on": {"tools/call:t": [{"status": status, "headers": {"retry-after": "7"}}]}}
    async with scripted("http-modern", tmp_path, script, tools=TOOLS) as (_, settings), pool(settings) as running:
        await running.available("s")
        outcome = failed(await running.call("s", "t", {}))
        assert (outcome.code, outcome.in_doubt) == (code, in_doubt)
        if code is Code.SERVER_UNAVAILABLE:
            assert outcome.retry_after_seconds == 7


@pytest.mark.rule("servers.lost-write-in-doubt")
@pytest.mark.parametrize("step", [{"cut": 40}, {"close": True}])
async def test_an_answer_that_breaks_off_leaves_a_write_in_doubt(step: dict[str, Any], tmp_path: Path) -> None:
    for always_stream in (False, True):
        script = {
            "tools": [tool("t"), tool("echo")],
            "always_stream": always_stream,
            "on": {"tools/call:t": [*([{"log": "x"}] if always_stream else []), step]},
        }
        directory = tmp_path / str(always_stream)
        async with scripted("http-modern", directory, script, tools=TOOLS) as (_, settings), pool(settings) as running:
            await running.available("s")
            outcome = failed(await running.call("s", "t", {}))
            assert (outcome.code, outcome.in_doubt) == (Code.SERVER_LOST, True)
            assert text(await running.call("s", "echo", {})) == "{}"


@pytest.mark.rule("servers.session-renewed")
async def test_a_session_that_the_server_forgot_is_renewed_without_a_repeated_effect(tmp_path: Path) -> None:
    script = {
        "tools": [tool("t"), tool("drop")],
        "on": {
            "tools/call:t": [{"effect": "ran"}, {"text": "ok"}],
            "tools/call:drop": [{"forget": True}, {"text": "gone"}],
        },
    }
    async with scripted("http-legacy", tmp_path, script, tools=TOOLS) as (server, settings), pool(settings) as running:
        await running.available("s")
        assert text(await running.call("s", "drop", {})) == "gone"
        attempt = Attempt()
        assert text(await running.call("s", "t", {}, attempt=attempt)) == "ok"
        assert len(server.effects("ran")) == 1
        assert [each["ended"] for each in attempt.tries] == ["server.lost", "answered"]


@pytest.mark.rule("servers.stale-connections")
async def test_a_write_uses_no_connection_that_was_idle_for_longer_than_two_seconds(tmp_path: Path) -> None:
    from gateway.servers import http1

    taken: list[float] = []
    take = http1.HttpClient.take

    def remembered(self: http1.HttpClient, origin: http1.Origin, max_idle_seconds: float) -> Any:
        taken.append(max_idle_seconds)
        return take(self, origin, max_idle_seconds)

    script = {"tools": [tool("pay"), tool("read_it")]}
    async with scripted("http-modern", tmp_path, script, tools=TOOLS) as (_, settings), pool(settings) as running:
        await running.available("s")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(http1.HttpClient, "take", remembered)
            await running.call("s", "pay", {})
            await running.call("s", "read_it", {})
        assert taken == [2.0, 30.0]


@pytest.mark.rule("servers.stale-connections")
async def test_an_idle_connection_that_the_server_closed_is_not_used(tmp_path: Path) -> None:
    script = {"tools": [tool("t"), tool("bye")], "on": {"tools/call:bye": [{"text": "ok"}, {"close": True}]}}
    async with scripted("http-modern", tmp_path, script, tools=TOOLS) as (server, settings), pool(settings) as running:
        await running.available("s")
        for _ in range(5):
            outcomes = await asyncio.gather(*(running.call("s", "t", {}) for _ in range(8)))
            assert all(isinstance(outcome, Completed) for outcome in outcomes)
        assert len(server.received("tools/call")) == 40


@pytest.mark.rule("servers.sse-resumed")
async def test_a_legacy_stream_that_ended_before_the_answer_is_taken_up_again(tmp_path: Path) -> None:
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def send(status: str, head: str, body: str = "") -> None:
            writer.write(f"HTTP/1.1 {status}\r\n{head}content-length: {len(body)}\r\n\r\n{body}".encode())

        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
                )
                message = json.loads(await reader.readexactly(length)) if length else {}
                requests.append(head)
                json_head = "content-type: application/json\r\n"
                method, identifier = message.get("method"), message.get("id")
                if head.startswith(b"GET") and b"last-event-id: e-7" in head:
                    answer = {
                        "jsonrpc": "2.0",
                        "id": last["id"],
                        "result": {"content": [{"type": "text", "text": "resumed"}]},
                    }
                    body = f"id: e-8\ndata: {json.dumps(answer)}\n\n"
                    send("200 OK", "content-type: text/event-stream\r\n", body)
                elif head.startswith(b"GET"):
                    send("405 Method Not Allowed", "")
                elif method == "initialize":
                    about = {
                        "protocolVersion": "2025-11-25",
                        "capabilities": {"tools": {}},
                        "serverInfo": {"name": "x", "version": "1"},
                    }
                    answer = {"jsonrpc": "2.0", "id": identifier, "result": about}
                    send("200 OK", json_head + "mcp-session-id: s1\r\n", json.dumps(answer))
                elif method == "tools/list":
                    send(
                        "200 OK",
                        json_head,
                        json.dumps({"jsonrpc": "2.0", "id": identifier, "result": {"tools": [tool("t")]}}),
                    )
                elif method == "tools/call":
                    last["id"] = identifier
                    send("200 OK", "content-type: text/event-stream\r\n", "id: e-7\nretry: 50\ndata: \n\n")
                elif identifier is not None:
                    send(
                        "400 Bad Request",
                        json_head,
                        json.dumps({"jsonrpc": "2.0", "id": identifier, "error": {"code": -32601, "message": "?"}}),
                    )
                else:
                    send("202 Accepted", "")
        writer.close()

    last: dict[str, Any] = {}
    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening, pool(http("s", f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/mcp")) as running:
        await running.available("s")
        assert text(await running.call("s", "t", {})) == "resumed"


@pytest.mark.rule("servers.flood-bounded")
async def test_a_flood_of_notifications_costs_bounded_memory_and_the_answer_still_comes(tmp_path: Path) -> None:
    line = json.dumps({"jsonrpc": "2.0", "method": "notifications/odd", "params": {"x": "y" * 50}}) + "\n"
    script = {"tools": [tool("t")], "on": {"tools/call:t": [{"stdout": line * 5000}, {"text": "ok"}]}}

    class Slow(RecordingCaller):
        async def notify(self, method: str, params: Any) -> None:
            await asyncio.sleep(0)
            await super().notify(method, params)

    async with scripted("stdio-legacy", tmp_path, script) as (_, settings), pool(settings) as running:
        await running.available("s")
        caller = Slow()
        assert text(await running.call("s", "t", {}, caller=caller)) == "ok"
        assert 0 < len(caller.notified) <= 5000


@pytest.mark.rule("servers.era-found-again")
@pytest.mark.parametrize(("before", "after"), [("modern", "legacy"), ("legacy", "modern")])
async def test_a_server_that_comes_back_in_another_era_is_found_out_again(
    before: Literal["modern", "legacy"], after: Literal["modern", "legacy"], tmp_path: Path
) -> None:
    old = Scripted(tmp_path, {"tools": [tool("t")]}, name="old", era=before)
    new = Scripted(tmp_path, {"tools": [tool("t")]}, name="new", era=after)
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(contextlib.AsyncExitStack())
        url = await first.enter_async_context(old.http())
        running = await stack.enter_async_context(pool(http("s", url)))
        await running.available("s")
        await running.call("s", "t", {})
        await first.aclose()
        await stack.enter_async_context(new.http(int(url.split(":")[2].split("/")[0])))
        async with asyncio.timeout(20):
            while True:
                outcome = await running.call("s", "t", {})
                if isinstance(outcome, Completed) and outcome.result is not None:
                    break
                await asyncio.sleep(0.2)
        await running.available("s")
        assert running.servers.states()[0].era == after
        assert new.received("tools/call")[-1]["era"] == after
