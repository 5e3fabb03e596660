"""What a client sees that comes right after the gateway's start, as desktop clients do."""

import time
from pathlib import Path

import anyio
import pytest
from mcp import Client

from tests.gateway_process import configure, serve, stdio_server
from tests.scripted_server import Scripted, tool

pytestmark = pytest.mark.anyio


def table(server: Scripted, name: str) -> str:
    return stdio_server(name, server.command, server.args)


@pytest.mark.rule("relay.first-list")
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_list_asked_for_while_a_server_starts_has_its_tools(mode: str, tmp_path: Path) -> None:
    slow = Scripted(tmp_path, {"tools": [tool("late")], "on_start": [{"gate": "started"}]})
    with serve(configure(tmp_path / "gateway", table(slow, "slow"))) as gateway:
        await slow.wait_for("gate", gate="started")
        async with Client(gateway.url, mode=mode) as client, anyio.create_task_group() as group:
            listed: list[str] = []

            async def ask() -> None:
                listed.extend(found.name for found in (await client.list_tools()).tools)

            group.start_soon(ask)
            slow.open_gate("started")
        assert listed == ["slow__late"]


@pytest.mark.rule("relay.first-list")
async def test_a_server_that_never_starts_keeps_the_others_tools_from_nobody(tmp_path: Path) -> None:
    hanging = Scripted(tmp_path, {"on_start": [{"hang": True}]}, name="hanging")
    good = Scripted(tmp_path, {"tools": [tool("echo")]}, name="good")
    config = configure(tmp_path / "gateway", table(hanging, "hanging") + table(good, "good"))
    began = time.monotonic()
    with serve(config) as gateway:
        async with Client(gateway.url, mode="legacy") as client:
            assert time.monotonic() - began < 10, "start and handshake wait for no tool server"
            with anyio.fail_after(15):
                assert [found.name for found in (await client.list_tools()).tools] == ["good__echo"]
            # The first time is over: from now on nobody waits for that server any more.
            with anyio.fail_after(2):
                await client.list_tools()
                assert not (await client.call_tool("good__echo", {})).is_error
