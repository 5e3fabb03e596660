"""The scripted server itself: what fault tests conclude from it must be so."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters, types
from mcp.client.sse import sse_client

from tests.scripted_server import MODERN, Scripted, tool

pytestmark = pytest.mark.anyio

ENVELOPE = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}


def stdio(server: Scripted) -> StdioServerParameters:
    return StdioServerParameters(command=server.command, args=server.args)


def texts(result: types.CallToolResult) -> list[str]:
    return [block.text for block in result.content if isinstance(block, types.TextContent)]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_tool_without_a_script_echoes_over_stdio(tmp_path: Path, mode: Any) -> None:
    server = Scripted(tmp_path, {"tools": [tool("echo")]})
    async with Client(stdio(server), mode=mode) as client:
        assert [t.name for t in (await client.list_tools()).tools] == ["echo"]
        result = await client.call_tool("echo", {"word": "häuser"})
    assert result.structured_content == {"word": "häuser"}
    assert server.received("tools/call")[0]["params"]["arguments"] == {"word": "häuser"}


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_asks_progress_and_logs_in_the_middle_of_a_call_over_http(tmp_path: Path, mode: Any) -> None:
    question = {"message": "sure?", "mode": "form", "requestedSchema": {"type": "object", "properties": {}}}
    steps = [
        {"effect": "before"},
        {"progress": 1, "total": 2},
        {"ask": "elicitation/create", "params": question},
        {"effect": "after"},
        {"result": {"content": [], "structuredContent": {"answers": "$answers"}}},
    ]
    server = Scripted(tmp_path, {"tools": [tool("ask")], "on": {"tools/call:ask": steps}})
    seen: list[float] = []

    async def elicit(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"word": "yes"})

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with (
        server.http() as url,
        Client(url, mode=mode, elicitation_callback=elicit) as client,
    ):
        result = await client.call_tool("ask", {}, progress_callback=on_progress)
    assert result.structured_content is not None
    assert result.structured_content["answers"][0]["content"] == {"word": "yes"}
    assert [entry["label"] for entry in server.effects()] == ["before", "after"]
    assert seen[:1] == [1]


async def test_a_list_of_step_lists_is_counted_across_restarts(tmp_path: Path) -> None:
    turns = [[{"effect": "tried"}, {"die": 3}], [{"effect": "tried"}, {"text": "done"}]]
    server = Scripted(tmp_path, {"tools": [tool("flaky")], "on": {"tools/call:flaky": turns}})
    async with Client(stdio(server), mode="legacy") as client:
        with pytest.raises(MCPError):
            await client.call_tool("flaky", {})
    async with Client(stdio(server), mode="legacy") as client:
        assert texts(await client.call_tool("flaky", {})) == ["done"]
    pids = {entry["pid"] for entry in server.effects("tried")}
    assert len(pids) == 2
    assert server.entries("ended", code=3)


async def test_errors_keep_code_and_data(tmp_path: Path) -> None:
    error = {"code": -31999, "message": "no", "data": {"why": [1, 2]}}
    server = Scripted(tmp_path, {"tools": [tool("fail")], "on": {"tools/call:fail": [{"error": error}]}})
    async with Client(stdio(server), mode="legacy") as client:
        with pytest.raises(MCPError) as raised:
            await client.call_tool("fail", {})
    assert raised.value.error.code == -31999
    assert raised.value.error.data == {"why": [1, 2]}


async def test_a_closed_response_stream_is_recorded_as_a_cancellation(tmp_path: Path) -> None:
    steps = [{"gate": "there"}]
    server = Scripted(tmp_path, {"tools": [tool("slow")], "on": {"tools/call:slow": steps}})
    body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "slow", "_meta": ENVELOPE}}
    async with server.http() as url, httpx2.AsyncClient() as client:
        with pytest.raises(httpx2.ReadTimeout):
            await client.post(url, json=body, timeout=httpx2.Timeout(5, read=0.3))
        assert await server.wait_for("cancelled", id=7)
        assert not server.entries("replied")


async def test_garbage_a_status_and_a_cut_body_reach_the_client_as_they_are(tmp_path: Path) -> None:
    on = {
        "tools/call:garbage": [{"garbage": "<html>"}],
        "tools/call:busy": [{"status": 503, "headers": {"retry-after": "1"}, "body": "busy"}],
        "tools/call:cut": [{"cut": 10}],
    }
    server = Scripted(tmp_path, {"tools": [], "on": on})

    def call(name: str) -> dict[str, Any]:
        params = {"name": name, "_meta": ENVELOPE}
        return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}

    async with server.http() as url, httpx2.AsyncClient() as client:
        assert (await client.post(url, json=call("garbage"))).text == "<html>"
        busy = await client.post(url, json=call("busy"))
        assert (busy.status_code, busy.headers["retry-after"], busy.text) == (503, "1", "busy")
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.post(url, json=call("cut"))


async def test_a_tampered_state_runs_nothing_of_the_rest(tmp_path: Path) -> None:
    steps = [{"ask": "roots/list"}, {"effect": "after"}, {"text": "done"}]
    server = Scripted(tmp_path, {"tools": [tool("ask")], "on": {"tools/call:ask": steps}})
    params: dict[str, Any] = {"name": "ask", "_meta": ENVELOPE}
    async with server.http() as url, httpx2.AsyncClient() as client:
        asked = await client.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        state = asked.json()["result"]["requestState"]
        assert asked.json()["result"]["inputRequests"]["input"]["method"] == "roots/list"
        params |= {"inputResponses": {"input": {"roots": []}}, "requestState": "x" + state}
        await client.post(url, json={"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params})
        assert server.entries("tampered")
        assert not server.effects("after")
        params["requestState"] = state
        done = await client.post(url, json={"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": params})
    assert json.dumps(done.json()["result"]["content"]) == '[{"type": "text", "text": "done"}]'
    assert len(server.effects("after")) == 1


async def test_the_old_transport_and_lists_that_change(tmp_path: Path) -> None:
    on = {"tools/call:grow": [{"replace": {"tools": [tool("grow"), tool("more")]}}, {"text": "grown"}]}
    server = Scripted(tmp_path, {"tools": [tool("grow")], "on": on})
    async with (
        server.http() as url,
        Client(sse_client(url.replace("/mcp", "/sse")), mode="legacy") as client,
    ):
        assert texts(await client.call_tool("grow", {})) == ["grown"]
        assert [t.name for t in (await client.list_tools()).tools] == ["grow", "more"]


@pytest.mark.parametrize(("era", "status", "code"), [("legacy", 400, -32000), ("modern", 400, -32022)])
async def test_a_server_of_one_era_refuses_the_other(tmp_path: Path, era: Any, status: int, code: int) -> None:
    server = Scripted(tmp_path, {"tools": [tool("echo")]}, era=era)
    params: dict[str, Any] = {"name": "echo", "_meta": ENVELOPE} if era == "legacy" else {"name": "echo"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    async with server.http() as url, httpx2.AsyncClient() as client:
        answer = await client.post(url, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert not server.entries("replied", error=None)
