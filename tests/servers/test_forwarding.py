"""A call reaches its tool server and comes back, over every transport and in both eras, and nothing is lost on the way."""

import asyncio
import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.model.call import Method
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Failed, Refused
from gateway.ports import Attempt
from tests.scripted_server import tool
from tests.servers.harness import WIRES, RecordingCaller, pool, result, scripted, text, tool_settings

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both event loops: their transports differ."""
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


@pytest.mark.rule("servers.transports")
@pytest.mark.parametrize("wire", WIRES)
async def test_a_call_is_forwarded_and_answered(wire: str, tmp_path: Path) -> None:
    async with scripted(wire, tmp_path, {"tools": [tool("echo")]}) as (server, settings), pool(settings) as running:
        await running.available("s")
        assert text(await running.call("s", "echo", {"a": 1})) == '{"a": 1}'
        received = server.received("tools/call")[0]
        assert received["name"] == "echo"
        assert received["params"]["arguments"] == {"a": 1}
        assert received["era"] == wire.partition("-")[2]


@pytest.mark.rule("servers.era-negotiated")
@pytest.mark.parametrize("carrier", ["stdio", "http"])
async def test_a_server_of_both_eras_is_spoken_to_in_the_modern_one(carrier: str, tmp_path: Path) -> None:
    async with scripted(f"{carrier}-", tmp_path, {"tools": [tool("echo")]}) as (server, settings), pool(settings) as it:
        await it.available("s")
        await it.call("s", "echo", {})
        assert {entry["era"] for entry in server.received()} == {"modern"}
        assert it.servers.states()[0].era == "modern"


@pytest.mark.rule("servers.era-negotiated")
@pytest.mark.parametrize(
    "step", [{"die": 1}, {"error": {"code": -32601, "message": "no"}}, {"error": {"code": -32602, "message": "no"}}]
)
async def test_a_server_that_cannot_be_probed_is_greeted_the_old_way(step: dict[str, Any], tmp_path: Path) -> None:
    script = {"tools": [tool("echo")], "on": {"server/discover": [step]}}
    async with scripted("stdio-legacy", tmp_path, script) as (server, settings), pool(settings) as running:
        await running.available("s")
        assert text(await running.call("s", "echo", {})) == "{}"
        assert running.servers.states()[0].era == "legacy"
        discovered = len(server.received("server/discover"))
        await running.call("s", "echo", {}, session="another")
        assert len(server.received("server/discover")) == discovered, "the era is remembered"


@pytest.mark.rule("servers.era-negotiated")
async def test_a_server_that_answers_the_probe_late_is_still_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.servers.link.PROBE_SECONDS", 0.3)
    for era in ("modern", "legacy"):
        script = {"tools": [tool("echo")], "on_start": [{"delay": 1.0}]}
        async with scripted(f"stdio-{era}", tmp_path / era, script) as (_, settings), pool(settings) as running:
            await running.available("s")
            assert running.servers.states()[0].era == era


@pytest.mark.rule("servers.result-bytes-untouched")
@pytest.mark.parametrize("wire", WIRES)
async def test_a_result_passes_as_the_bytes_received(wire: str, tmp_path: Path) -> None:
    exact = (
        '{"content": [ ],  "structuredContent":{"f":1.0,"e":1E+2,"big":123456789012345678901234567890,'
        '"esc":"\\u00e9\\/\\ud83d\\ude00","dup":1,"dup":2},"unknownField":{"x":null}, "resultType":"surprise"}'
    )
    wrapped = '{"jsonrpc":"2.0","id":%ID%,"result":' + exact + "}"
    async with scripted(wire, tmp_path, {"tools": [tool("t")]}) as (server, settings):
        # The id is the gateway's own: learnt from a first call, counted on from there.
        async with pool(settings) as running:
            await running.available("s")
            await running.call("s", "t", {})
            following = server.received("tools/call")[-1]["id"] + 1
        server.rewrite({"tools": [tool("t")]})
    server_script = {
        "tools": [tool("t")],
        "on": {"tools/call:t": [[{"echo": True}], [{"garbage": wrapped.replace("%ID%", str(following))}]]},
    }
    async with scripted(wire, tmp_path / "second", server_script) as (_, settings), pool(settings) as running:
        await running.available("s")
        await running.call("s", "t", {})
        outcome = await running.call("s", "t", {}, timeout_seconds=5)
        assert isinstance(outcome, Completed), outcome
        assert outcome.result == exact.encode()


@pytest.mark.rule("servers.result-bytes-untouched")
@pytest.mark.parametrize("wire", WIRES)
async def test_results_of_several_megabytes_arrive_whole(wire: str, tmp_path: Path) -> None:
    script = {"tools": [tool("big")], "on": {"tools/call:big": [{"huge": 8_000_000}]}}
    async with scripted(wire, tmp_path, script) as (_, settings), pool(settings) as running:
        await running.available("s")
        assert text(await running.call("s", "big", {})) == "x" * 8_000_000


@pytest.mark.rule("servers.result-bytes-untouched")
@pytest.mark.parametrize("wire", WIRES)
async def test_a_request_of_several_megabytes_arrives_whole(wire: str, tmp_path: Path) -> None:
    script = {"tools": [tool("t")], "on": {"tools/call:t": [{"text": "ok"}]}}
    async with scripted(wire, tmp_path, script) as (server, settings), pool(settings) as running:
        await running.available("s")
        assert text(await running.call("s", "t", {"x": "y" * 3_000_000})) == "ok"
        assert len(server.received("tools/call")[0]["params"]["arguments"]["x"]) == 3_000_000


@pytest.mark.rule("servers.result-too-large")
@pytest.mark.parametrize("wire", WIRES)
async def test_a_result_beyond_the_limit_is_withheld_and_said_to_have_run(wire: str, tmp_path: Path) -> None:
    script = {
        "tools": [tool("big"), tool("small")],
        "on": {"tools/call:big": [{"huge": 500_000}], "tools/call:small": [{"huge": 900}]},
    }
    limits = {"big": tool_settings(max_result_bytes=100_000), "small": tool_settings(max_result_bytes=500)}
    defaults = tool_settings(max_result_bytes=100_000)
    async with scripted(wire, tmp_path, script, defaults=defaults, tools=limits) as (_, settings), pool(settings) as it:
        await it.available("s")
        for name in ("big", "small"):
            outcome = await it.call("s", name, {}, timeout_seconds=5)
            assert isinstance(outcome, Refused), outcome
            assert (outcome.code, outcome.executed) == (Code.RESULT_TOO_LARGE, "yes")


@pytest.mark.rule("servers.errors-untouched")
@pytest.mark.parametrize("wire", WIRES)
async def test_a_tool_servers_own_error_passes_with_code_and_data(wire: str, tmp_path: Path) -> None:
    error = {"code": -31999, "message": "no such thing", "data": {"k": [1, None]}, "more": True}
    script = {"tools": [tool("t")], "on": {"tools/call:t": [{"error": error}]}}
    async with scripted(wire, tmp_path, script) as (_, settings), pool(settings) as running:
        await running.available("s")
        outcome = await running.call("s", "t", {})
        assert isinstance(outcome, Completed)
        assert outcome.result is None
        assert json.loads(outcome.error or b"") == error


@pytest.mark.rule("servers.errors-untouched")
async def test_a_modern_servers_errors_with_an_http_status_pass_as_well(tmp_path: Path) -> None:
    error = {"code": -32021, "message": "needs sampling", "data": {"requiredCapabilities": {"sampling": {}}}}
    script = {"tools": [tool("t")], "on": {"tools/call:t": [{"error": error}]}}
    async with scripted("http-modern", tmp_path, script) as (_, settings), pool(settings) as running:
        await running.available("s")
        outcome = await running.call("s", "t", {})
        assert isinstance(outcome, Completed)
        assert json.loads(outcome.error or b"") == error


@pytest.mark.rule("servers.request-serialised-from-judged")
@pytest.mark.parametrize("wire", WIRES)
async def test_the_request_is_written_from_the_call_with_the_servers_own_names(wire: str, tmp_path: Path) -> None:
    async with scripted(wire, tmp_path, {"tools": [tool("t")]}) as (server, settings), pool(settings) as running:
        await running.available("s")
        call = running.make(
            "s",
            "t",
            {"judged": True},
            params={"name": "s__t", "arguments": {"judged": False}, "future": {"field": 1}},
            meta={"traceparent": "00-1-2-01", "com.example/x": 1, "progressToken": "theirs"},
        )
        await running.servers.forward(call, RecordingCaller(), Attempt())
        params = server.received("tools/call")[0]["params"]
        assert params["name"] == "t"
        assert params["arguments"] == {"judged": True}
        assert params["future"] == {"field": 1}
        assert params["_meta"]["traceparent"] == "00-1-2-01"
        assert params["_meta"]["com.example/x"] == 1
        assert "progressToken" not in params["_meta"]


@pytest.mark.rule("servers.caller-capabilities")
@pytest.mark.parametrize("carrier", ["stdio", "http"])
async def test_a_modern_server_sees_the_callers_capabilities_and_not_the_gateways(carrier: str, tmp_path: Path) -> None:
    script = {"tools": [tool("t")]}
    async with (
        scripted(f"{carrier}-modern", tmp_path, script, asks=frozenset({"roots", "elicitation"})) as (server, settings),
        pool(settings) as running,
    ):
        await running.available("s")
        caller = RecordingCaller(capabilities={"sampling": {}, "elicitation": {"url": {}}, "x": 1}, log_level="debug")
        await running.call("s", "t", {}, caller=caller)
        meta = server.received("tools/call")[0]["params"]["_meta"]
        assert meta["io.modelcontextprotocol/clientCapabilities"] == {"elicitation": {"url": {}}, "x": 1}
        assert meta["io.modelcontextprotocol/clientInfo"] == {"name": "tester", "version": "1"}
        assert meta["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
        assert meta["io.modelcontextprotocol/logLevel"] == "debug"


@pytest.mark.rule("servers.caller-capabilities")
@pytest.mark.parametrize("wire", ["stdio-legacy", "http-legacy", "sse-legacy"])
async def test_a_legacy_server_is_told_the_capabilities_of_the_client_behind_the_connection(
    wire: str, tmp_path: Path
) -> None:
    async with scripted(wire, tmp_path, {"tools": [tool("t")]}) as (server, settings), pool(settings) as running:
        await running.available("s")
        meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "keep": 1}
        first = RecordingCaller(capabilities={"roots": {}})
        call = running.make("s", "t", {}, meta=meta, caller=first)
        await running.servers.forward(call, first, Attempt())
        await running.call("s", "t", {}, session="two", caller=RecordingCaller(capabilities={"elicitation": {}}))
        told = [entry["params"]["capabilities"] for entry in server.received("initialize")]
        assert told[-2:] == [{"roots": {}}, {"elicitation": {}}]
        assert server.received("tools/call")[0]["params"]["_meta"] == {"keep": 1}


@pytest.mark.rule("servers.progress-and-logs")
@pytest.mark.parametrize("wire", WIRES)
async def test_progress_and_logs_are_relayed_in_order_before_the_result(wire: str, tmp_path: Path) -> None:
    steps = [
        {"progress": 1, "total": 3, "message": "one"},
        {"log": {"any": "thing"}, "level": "warning"},
        {"progress": 2},
        {"notify": "notifications/com.example/odd", "params": {"x": [1]}},
        {"text": "done"},
    ]
    script = {"tools": [tool("t")], "on": {"tools/call:t": steps}}
    async with scripted(wire, tmp_path, script) as (server, settings), pool(settings) as running:
        await running.available("s")
        caller, attempt = RecordingCaller(wants_progress=True, log_level="debug"), Attempt()
        assert text(await running.call("s", "t", {}, caller=caller, attempt=attempt)) == "done"
        assert [method.removeprefix("notifications/") for method, _ in caller.notified] == [
            "progress",
            "message",
            "progress",
            "com.example/odd",
        ]
        assert caller.notified[0][1]["message"] == "one"
        assert caller.notified[1][1]["data"] == {"any": "thing"}
        assert [entry["method"] for entry in attempt.notifications] == [method for method, _ in caller.notified]
        token = server.received("tools/call")[0]["params"]["_meta"]["progressToken"]
        assert token == server.received("tools/call")[0]["id"], "a token of the gateway's own"


@pytest.mark.rule("servers.late-answers-go-nowhere")
@pytest.mark.parametrize("wire", WIRES)
async def test_answers_with_a_foreign_id_and_progress_with_a_foreign_token_go_nowhere(
    wire: str, tmp_path: Path
) -> None:
    alien: dict[str, Any] = {"jsonrpc": "2.0", "id": 987654, "result": {"content": [], "leak": 1}}
    script = {
        "tools": [tool("t"), tool("u")],
        "on": {
            "tools/call:t": [
                {"progress": 1, "token": 987654},
                {"progress": 2, "token": "theirs"},
                {"notify": "notifications/progress", "params": {"progress": 3}},
                {"delay": 0.05},
                {"text": "own"},
            ],
            "tools/call:u": [{"answer": alien}],
        },
    }
    async with scripted(wire, tmp_path, script) as (_, settings), pool(settings) as running:
        await running.available("s")
        caller = RecordingCaller(wants_progress=True)
        stray = asyncio.create_task(running.call("s", "u", {}, timeout_seconds=1.0))
        assert text(await running.call("s", "t", {}, caller=caller)) == "own"
        assert caller.notified == []
        assert isinstance(await stray, Failed)


@pytest.mark.rule("servers.late-answers-go-nowhere")
async def test_a_duplicate_answer_goes_nowhere(tmp_path: Path) -> None:
    script = {
        "tools": [tool("t")],
        "on": {"tools/call:t": [{"stdout": '{"jsonrpc":"2.0","id":3,"result":{}}\n'}, {"text": "second"}]},
    }
    async with scripted("stdio-modern", tmp_path, script) as (_, settings), pool(settings) as running:
        await running.available("s")
        outcomes = [await running.call("s", "t", {}) for _ in range(4)]
        assert all(isinstance(outcome, Completed) for outcome in outcomes)


@pytest.mark.rule("servers.reserved-keys-stripped")
@pytest.mark.parametrize("wire", WIRES)
async def test_keys_under_gateway_are_stripped_from_whatever_a_server_sends(wire: str, tmp_path: Path) -> None:
    meta = {"gateway/refusal": {"code": "policy.denied"}, "kept": 1}
    answer = {
        "content": [{"type": "text", "text": "gateway/x in text stays", "_meta": {"gateway/x": 1}}],
        "structuredContent": {"gateway/refusal": "an argument, not meta", "f": 1.0},
        "_meta": meta,
    }
    steps = [{"notify": "notifications/odd", "params": {"_meta": meta, "a": 1}}, {"result": answer}]
    script = {"tools": [tool("t", _meta=meta)], "on": {"tools/call:t": steps}}
    async with scripted(wire, tmp_path, script) as (_, settings), pool(settings) as running:
        await running.available("s")
        assert running.entry("s", "t").definition["_meta"] == {"kept": 1}
        caller = RecordingCaller()
        outcome = await running.call("s", "t", {}, caller=caller)
        found = result(outcome)
        assert {name for name in found["_meta"] if name.startswith("gateway/")} == set()
        assert found["_meta"]["kept"] == 1
        assert found["content"][0]["_meta"] == {}
        assert found["content"][0]["text"] == "gateway/x in text stays"
        assert found["structuredContent"] == {"gateway/refusal": "an argument, not meta", "f": 1.0}
        assert isinstance(outcome, Completed)
        assert b"1.0" in (outcome.result or b"")
        assert caller.notified[0][1]["_meta"] == {"kept": 1}


@pytest.mark.rule("servers.methods")
@pytest.mark.parametrize("wire", WIRES)
async def test_prompts_resources_and_completions_are_forwarded_like_tools(wire: str, tmp_path: Path) -> None:
    script = {
        "tools": [tool("t")],
        "prompts": [{"name": "p", "arguments": [{"name": "x"}]}],
        "resources": [{"uri": "file:///a", "name": "a"}],
        "templates": [{"uriTemplate": "file:///{x}", "name": "any"}],
    }
    async with scripted(wire, tmp_path, script) as (server, settings), pool(settings) as running:
        await running.available("s")
        prompt = await running.call("s", "p", {"x": "1"}, method=Method.GET_PROMPT)
        assert json.loads(result(prompt)["messages"][0]["content"]["text"])["name"] == "p"
        read = await running.call("s", "file:///a", method=Method.READ_RESOURCE)
        assert result(read)["contents"][0]["uri"] == "file:///a"
        params = {"ref": {"type": "ref/prompt", "name": "s__p"}, "argument": {"name": "x", "value": "1"}}
        argument = {"name": "x", "value": "judged"}
        completed = await running.call("s", "p", argument, method=Method.COMPLETE, params=params)
        assert "completion" in result(completed)
        received = server.received("completion/complete")[0]["params"]
        assert received["ref"] == {"type": "ref/prompt", "name": "p"}
        assert received["argument"] == argument


@pytest.mark.rule("servers.request-headers")
async def test_headers_of_a_modern_request_repeat_its_body(tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
            "flag": {"type": "boolean", "x-mcp-header": "Flag"},
        },
    }
    script = {"tools": [tool("t", inputSchema=schema)], "resources": [{"uri": "x://ü", "name": "a"}]}
    async with scripted("http-modern", tmp_path, script) as (server, settings), pool(settings) as running:
        await running.available("s")
        await running.call("s", "t", {"region": "Zürich\r\nX-Evil: 1", "deep": {"n": 7}, "flag": True})
        headers = server.received("tools/call")[0]["headers"]
        assert headers["mcp-protocol-version"] == "2026-07-28"
        assert headers["mcp-method"] == "tools/call"
        assert headers["mcp-name"] == "t"
        assert headers["mcp-param-region"].startswith("=?base64?")
        assert (headers["mcp-param-n"], headers["mcp-param-flag"]) == ("7", "true")
        assert "x-evil" not in headers
        await running.call("s", "x://ü", method=Method.READ_RESOURCE)
        assert server.received("resources/read")[0]["headers"]["mcp-name"].startswith("=?base64?")


@pytest.mark.rule("servers.input-required-passes")
@pytest.mark.parametrize("carrier", ["stdio", "http"])
async def test_a_modern_servers_need_for_input_passes_and_is_recorded(carrier: str, tmp_path: Path) -> None:
    steps = [{"ask": "elicitation/create", "params": {"message": "sure?"}}, {"text": "$answers"}]
    script = {"tools": [tool("t")], "on": {"tools/call:t": steps}}
    async with scripted(f"{carrier}-modern", tmp_path, script) as (server, settings), pool(settings) as running:
        await running.available("s")
        attempt = Attempt()
        needs = result(await running.call("s", "t", {}, attempt=attempt))
        assert needs["resultType"] == "input_required"
        assert attempt.asks[0]["method"] == "elicitation/create"
        again = {
            "requestState": needs["requestState"],
            "inputResponses": {"input": {"action": "accept", "content": {}}},
        }
        assert "accept" in text(await running.call("s", "t", {}, params=again))
        assert not server.entries("tampered")


@pytest.mark.rule("servers.asks-permitted")
async def test_a_modern_server_that_asks_what_it_may_not_is_refused(tmp_path: Path) -> None:
    script = {"tools": [tool("t")], "on": {"tools/call:t": [{"ask": "sampling/createMessage", "params": {}}]}}
    async with (
        scripted("http-modern", tmp_path, script, asks=frozenset({"roots"})) as (_, settings),
        pool(settings) as running,
    ):
        await running.available("s")
        outcome = await running.call("s", "t", {})
        assert isinstance(outcome, Refused)
        assert outcome.code is Code.RESULT_INVALID


@pytest.mark.rule("servers.attempt-sent")
@pytest.mark.parametrize("wire", WIRES)
async def test_sent_is_said_before_the_first_byte_and_not_earlier(wire: str, tmp_path: Path) -> None:
    script = {"tools": [tool("t")], "on": {"tools/call:t": [{"gate": "go"}, {"text": "ok"}]}}
    async with scripted(wire, tmp_path, script) as (server, settings), pool(settings) as running:
        await running.available("s")
        attempt = Attempt()
        assert not attempt.sent
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: running.call("s", "t", {}, attempt=attempt))
            await server.wait_for("gate", gate="go")
            assert attempt.sent
            server.open_gate("go")
        assert attempt.tries[0]["ended"] == "answered"


@pytest.mark.rule("servers.doubtful-json")
@pytest.mark.parametrize("wire", WIRES)
async def test_a_result_with_half_a_character_is_withheld_at_once_and_said_to_have_run(
    wire: str, tmp_path: Path
) -> None:
    """JavaScript servers that cut a text in the middle of an emoji send these."""
    half: dict[str, Any] = {"content": [{"type": "text", "text": "cut \ud83d"}]}
    script = {
        "tools": [tool("t"), tool("odd", description="half \ud83d")],
        "on": {"tools/call:t": [{"log": "half \ud83d"}, {"result": half}]},
    }
    async with scripted(wire, tmp_path, script) as (_, settings), pool(settings) as running:
        await running.available("s")
        assert [entry.name for entry in running.servers.catalogues()["s"].entries] == ["t"], "the other tool's own loss"
        caller = RecordingCaller(log_level="debug")
        outcome = await running.call("s", "t", {}, caller=caller, timeout_seconds=10)
        assert isinstance(outcome, Refused), outcome
        assert (outcome.code, outcome.executed) == (Code.RESULT_INVALID, "yes")
        assert str(caller.notified[0][1]["data"]).strip("\ufffd") == "half "
