"""A session is recorded with real servers, the servers go, and the same client gets the same bytes from the recording."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from gateway.testing import replayed
from tests.gateway_process import PROGRAM, configure, serve, stdio_server
from tests.real.servers import SERVERS, Workplace
from tests.replay.wires import http_bodies, stdio_lines
from tests.running import server_table
from tests.scripted_server import Scripted, tool

POLICY = {
    "gateway.rego": """package gateway

decision := {"allow": true, "deny": deny, "hold": set(), "obligations": obligations}

deny contains {"code": "no_secrets", "message": "secrets stay here"} if input.arguments.secret

obligations contains {"id": "redact_result", "paths": ["**.iban"]} if input.arguments.iban
"""
}

SCRIPT = {
    "instructions": "Look before you leap.",
    "tools": [
        tool("look", title="Aufmerksam 👀", annotations={"readOnlyHint": True}),
        tool("work"),
        tool("fail"),
        tool("ask"),
        tool("account", outputSchema={"type": "object"}),
    ],
    "resources": [{"uri": "test://a", "name": "a"}],
    "prompts": [{"name": "greet"}],
    "on": {
        "tools/call:look": [{"result": {"content": [{"type": "text", "text": "Grüße  🌍"}], "x-unknown": [1.0, 1e5]}}],
        "tools/call:work": [
            {"progress": 1, "total": 3, "message": "one"},
            {"log": {"step": 2}, "level": "info"},
            {"progress": 2, "total": 3},
            {"text": "worked"},
        ],
        "tools/call:fail": [
            [{"error": {"code": -32050, "message": "own error", "data": {"why": [1, 2]}}}],
            [{"result": {"content": [{"type": "text", "text": "tool error"}], "isError": True}}],
        ],
        "tools/call:ask": [
            {"ask": "elicitation/create", "params": {"message": "name?", "requestedSchema": {"type": "object"}}},
            {"result": {"content": [{"type": "text", "text": "$answers"}]}},
        ],
        "tools/call:account": [{"result": {"content": [], "structuredContent": {"iban": "DE1", "of": "Ada"}}}],
        "resources/read:test://a": [{"result": {"contents": [{"uri": "test://a", "text": "A"}]}}],
        "prompts/get:greet": [{"result": {"messages": []}}],
    },
}


def called(name: str, arguments: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    return {"method": "tools/call", "params": {"name": name, "arguments": arguments or {}, **params}}


REQUESTS = [
    {"method": "tools/list"},
    {"method": "prompts/list"},
    {"method": "resources/list"},
    called("s__look", {"a": 1, "b": {"c": [1, 2.5, None, "ü"]}}),
    called("s__work", _meta={"progressToken": "p-1"}),
    called("s__fail"),
    called("s__fail"),
    called("s__look", {"secret": True}),
    called("s__nothing", {"x": 1}),
    called("s__account", {"iban": True}),
    {"method": "resources/read", "params": {"uri": "test://a"}},
    {"method": "resources/read", "params": {"uri": "test://nowhere"}},
    {"method": "prompts/get", "params": {"name": "s__greet"}},
    called("s__look", {"a": 1, "b": {"c": [1, 2.5, None, "ü"]}}),
]

ANSWERS = {"elicitation/create": {"result": {"action": "accept", "content": {"name": "Ada"}}}}


def exported(directory: Path, config: Path, *, session: str | None = None) -> Path:
    """The recording as a user exports it."""
    file = directory / "session.jsonl"
    chosen = ["--session", session] if session is not None else []
    command = [*PROGRAM, "log", "export", "--config", str(config), *chosen, "-o", str(file)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    return file


def settled(lines: list[bytes]) -> list[bytes]:
    """What was said once the tool servers were known: the handshake of a gateway that has just started knows none.

    The id of a request of the gateway's own is the connection's, and new each time.
    """
    known = [line for line in lines if b'"id":0,' not in line and b"/list_changed" not in line]
    return [re.sub(rb'"gateway-[0-9a-f]+-', b'"gateway-', line) for line in known]


def gone(server: Scripted) -> None:
    """The tool server cannot be started any more."""
    server.script_path.unlink()


@pytest.mark.rule("replay.serve-byte-equal")
@pytest.mark.parametrize("server_era", ["legacy", "modern"])
@pytest.mark.parametrize("modern", [False, True], ids=["handshake-client", "modern-client"])
def test_a_recorded_stdio_session_is_served_byte_for_byte(server_era: Any, modern: bool, tmp_path: Path) -> None:
    server = Scripted(tmp_path / "server", SCRIPT, era=server_era)
    config = configure(tmp_path, server_table(server), policies=POLICY)
    requests = list(REQUESTS)
    if not modern:
        requests.append(called("s__ask"))
    elif server_era == "modern":
        # The state is the tool server's own, so that it is in the recording.
        answers = {"ask": ANSWERS["elicitation/create"]["result"]}
        requests += [called("s__ask"), called("s__ask", requestState="$state", inputResponses=answers)]
    live = stdio_lines([*PROGRAM, "stdio", "--config", str(config)], requests, ANSWERS, modern=modern)
    file = exported(tmp_path, config)
    gone(server)
    again = stdio_lines([*PROGRAM, "replay", "serve", str(file), "--stdio"], requests, ANSWERS, modern=modern)
    assert settled(again) == settled(live)
    assert any(b"notifications/progress" in line for line in live)
    assert len(live) >= len(requests)


@pytest.mark.rule("replay.serve-byte-equal")
@pytest.mark.parametrize("modern", [False, True], ids=["handshake-client", "modern-client"])
def test_a_recorded_http_session_is_served_byte_for_byte(modern: bool, tmp_path: Path) -> None:
    server = Scripted(tmp_path / "server", SCRIPT)
    config = configure(tmp_path, server_table(server), policies=POLICY)
    with serve(config) as running:
        http_bodies(running.url, [{"method": "tools/list"}], modern=True)  # waits for the tool servers
        live = http_bodies(running.url, REQUESTS, modern=modern)
    file = exported(tmp_path, config)
    gone(server)
    with replayed(file) as again:
        assert http_bodies(again.url, REQUESTS, modern=modern) == live
        again.assert_complete()


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    place = Workplace(tmp_path / "place", "")
    place.prepare()
    return place


async def a_session(client: Client, place: Workplace) -> list[Any]:
    """What an agent does with the time and git servers, and all that it gets."""
    got: list[Any] = [
        await client.list_tools(),
        await client.call_tool("time__get_current_time", {"timezone": "Europe/Berlin"}),
        await client.call_tool("git__git_log", {"repo_path": str(place.repository)}),
        await client.call_tool("time__get_current_time", {"timezone": "Nowhere/Else"}),
        await client.call_tool("git__git_status", {"repo_path": str(place.repository)}),
        await client.call_tool("git__git_log", {"repo_path": "/nowhere"}),
        await client.call_tool("time__get_current_time", {"timezone": "Europe/Berlin"}),
    ]
    return [result.model_dump() for result in got]


@pytest.mark.anyio
@pytest.mark.rule("replay.serve-real-servers")
@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize("mode", ["auto", "legacy", "2026-07-28"])
async def test_a_client_of_real_servers_gets_the_same_with_the_servers_gone(
    transport: str, mode: Any, workplace: Workplace, tmp_path: Path
) -> None:
    tables = ""
    for name in ("time", "git"):
        command, args = SERVERS[name].launch(workplace)
        tables += stdio_server(name, command, args)
    config = configure(tmp_path, tables)
    if transport == "stdio":
        program = StdioServerParameters(command=PROGRAM[0], args=[*PROGRAM[1:], "stdio", "--config", str(config)])
        async with Client(program, mode=mode) as client:
            live = await a_session(client, workplace)
    else:
        with serve(config) as running:
            async with Client(running.url, mode=mode) as client:
                live = await a_session(client, workplace)
    file = exported(tmp_path, config)
    shutil.rmtree(workplace.directory)
    config.unlink()
    with replayed(file) as again:
        stdio = StdioServerParameters(command=again.command, args=list(again.args))
        async with Client(stdio if transport == "stdio" else again.url, mode=mode) as client:
            assert await a_session(client, workplace) == live
        if transport == "http":
            again.assert_complete()
