"""Many clients of both eras at once on one tool server: what belongs to one never reaches another."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, types

from tests.gateway_process import configure, http_server, serve, stdio_server
from tests.scripted_server import Scripted, tool

pytestmark = pytest.mark.anyio

ASKING = [
    {"progress": 1, "total": 2, "message": "$arguments.token"},
    {
        "ask": "elicitation/create",
        "params": {
            "mode": "form",
            "message": "$arguments.token",
            "requestedSchema": {"type": "object", "properties": {"word": {"type": "string"}}},
        },
    },
    {"progress": 2, "total": 2, "message": "$arguments.token"},
    {"result": {"content": [], "structuredContent": {"token": "$arguments.token", "answers": "$answers"}}},
]
SCRIPT: dict[str, Any] = {"tools": [tool("whisper")], "on": {"tools/call:whisper": ASKING}}


class Agent:
    """A client with a secret of its own in each call: whatever it hears must be that secret."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.token = ""
        self.heard: list[str] = []

    async def elicit(self, context: Any, params: Any) -> types.ElicitResult:
        self.heard.append(params.message)
        return types.ElicitResult(action="accept", content={"word": f"answer to {params.message} by {self.number}"})

    async def run(self, url: str, mode: Any, tool_name: str, calls: int) -> None:
        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            self.heard.append(str(message))

        # All of them count their requests' ids from the same number.
        info = types.Implementation(name=self.name, version="1")
        async with Client(url, mode=mode, elicitation_callback=self.elicit, client_info=info) as client:
            for turn in range(calls):
                self.token = f"agent {self.number}, call {turn}"
                self.heard.clear()
                result = await client.call_tool(tool_name, {"token": self.token}, progress_callback=on_progress)
                assert not result.is_error, result
                assert result.structured_content is not None
                assert result.structured_content["token"] == self.token
                answers = result.structured_content["answers"]
                assert [answer["content"]["word"] for answer in answers] == [f"answer to {self.token} by {self.number}"]
                assert set(self.heard) == {self.token}


async def crowd(
    url: str, modes: tuple[str, ...], tool_name: str, *, agents: int, calls: int, one_name: bool = True
) -> None:
    """So many agents at the same time, the modes in turn, all of the same name or each with its own."""
    with anyio.fail_after(240):
        async with anyio.create_task_group() as group:
            for number in range(agents):
                name = "everybody" if one_name else f"agent-{number}"
                group.start_soon(Agent(number, name).run, url, modes[number % len(modes)], tool_name, calls)


@asynccontextmanager
async def behind_a_gateway(directory: Path, server: Scripted, transport: str) -> AsyncIterator[str]:
    async def run(table: str) -> AsyncIterator[str]:
        # Nothing of this is about limits.
        table += "max_concurrency = 400\n"
        config = configure(directory, table, head="[pools]\nread = { max_concurrency = 400 }\n")
        with serve(config) as gateway:
            yield gateway.url

    if transport == "stdio":
        async for url in run(stdio_server("crowd", server.command, server.args)):
            yield url
    else:
        async with server.http() as target:
            async for url in run(http_server("crowd", target, isolation="session")):
                yield url


async def test_the_scripted_server_itself_keeps_many_clients_apart(tmp_path: Path) -> None:
    server = Scripted(tmp_path, SCRIPT)
    async with server.http() as url:
        await crowd(url, ("legacy", "2026-07-28"), "whisper", agents=20, calls=3)


@pytest.mark.rule("relay.many-clients")
@pytest.mark.parametrize("era", ["both", "legacy", "modern"])
@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_twenty_clients_of_both_eras_never_hear_each_other(transport: str, era: Any, tmp_path: Path) -> None:
    server = Scripted(tmp_path / "server", SCRIPT, era=era)
    async with behind_a_gateway(tmp_path / "gateway", server, transport) as url:
        # Clients of 2026-07-28 that have the same name are one session to the gateway, with one child. A legacy child says on
        # stdio nothing of which call its question is about, so with several in flight the gateway refuses it (CONTRACT 3).
        alone = transport == "stdio" and era == "legacy"
        await crowd(url, ("legacy", "2026-07-28"), "crowd__whisper", agents=20, calls=3, one_name=not alone)


@pytest.mark.slow
@pytest.mark.rule("relay.many-clients")
async def test_two_hundred_clients_of_both_eras_never_hear_each_other(tmp_path: Path) -> None:
    server = Scripted(tmp_path / "server", SCRIPT)
    async with behind_a_gateway(tmp_path / "gateway", server, "http") as url:
        await crowd(url, ("legacy", "2026-07-28"), "crowd__whisper", agents=200, calls=3)
