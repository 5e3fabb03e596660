"""A call reaches its tool server and comes back, over every transport and in both eras."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.config import ServerSettings
from tests.scripted_server import Era, Scripted, tool
from tests.servers.harness import http, pool, stdio, text

pytestmark = pytest.mark.anyio

WIRES = ["stdio-modern", "stdio-legacy", "http-modern", "http-legacy", "sse-legacy"]


@asynccontextmanager
async def scripted(
    wire: str, directory: Path, script: dict[str, Any], **extra: Any
) -> AsyncIterator[tuple[Scripted, ServerSettings]]:
    """A scripted server on one of `WIRES`, and the settings that reach it."""
    carrier, _, era = wire.partition("-")
    eras: dict[str, Era] = {"modern": "modern", "legacy": "legacy"}
    server = Scripted(directory, script, era=eras.get(era, "both"))
    if carrier == "stdio":
        yield server, stdio("s", server.command, server.args, **extra)
        return
    async with server.http() as url:
        if carrier == "sse":
            yield server, http("s", url.removesuffix("/mcp") + "/sse", transport="sse", **extra)
        else:
            yield server, http("s", url, **extra)


@pytest.mark.parametrize("wire", WIRES)
async def test_a_call_is_forwarded_and_answered(wire: str, tmp_path: Path) -> None:
    async with scripted(wire, tmp_path, {"tools": [tool("echo")]}) as (server, settings), pool(settings) as running:
        await running.available("s")
        assert text(await running.call("s", "echo", {"a": 1})) == '{"a": 1}'
        received = server.received("tools/call")[0]
        assert received["name"] == "echo"
        assert received["params"]["arguments"] == {"a": 1}
        assert received["era"] == wire.partition("-")[2]
