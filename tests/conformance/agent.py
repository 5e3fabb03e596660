"""A client for the suite's client role, directly or with a gateway in between; the suite appends the URL of its server.

``python -m tests.conformance.agent [--gateway] URL``

It does what an agent does: lists everything, calls every tool it sees, reads and gets the rest, answers what it is asked.
With ``--gateway`` the suite's server is a tool server of a gateway, and what the suite looks at is the gateway's own client.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, MCPError, types
from pydantic import ValidationError

from tests.gateway_process import configure, http_server, serve


async def elicit(context: Any, params: Any) -> types.ElicitResult:
    """Accepts with the defaults that the form has (SEP-1034)."""
    properties: dict[str, Any] = getattr(params, "requested_schema", {}).get("properties", {})
    content = {name: schema["default"] for name, schema in properties.items() if "default" in schema}
    return types.ElicitResult(action="accept", content=content)


async def sample(context: Any, params: Any) -> types.CreateMessageResult:
    return types.CreateMessageResult(role="assistant", content=types.TextContent(text="an answer"), model="test")


async def roots(context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[])


def arguments_for(schema: dict[str, Any]) -> dict[str, Any]:
    """Something of the right type for every property."""
    values = {"number": 5, "integer": 5, "boolean": True, "array": [], "object": {}}
    return {
        name: values.get(part.get("type", "string"), "something")
        for name, part in schema.get("properties", {}).items()
        if isinstance(part, dict) and "$ref" not in part
    }


async def drive(client: Client) -> None:
    """Uses everything that the server offers."""
    tools = (await client.list_tools()).tools
    given = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}").get("toolCalls")
    calls = [(c["name"], c["arguments"]) for c in given or []]
    calls = calls or [(tool.name, arguments_for(tool.input_schema)) for tool in tools]

    async def call(name: str, arguments: dict[str, Any]) -> None:
        # What a server does wrong on purpose is for the suite to judge, not for us.
        with contextlib.suppress(MCPError, ValidationError):
            await client.call_tool(name, arguments)

    async with anyio.create_task_group() as group:
        for name, arguments in calls:
            group.start_soon(call, name, arguments)
    with contextlib.suppress(MCPError, ValidationError):
        for resource in (await client.list_resources()).resources:
            await client.read_resource(resource.uri)
    with contextlib.suppress(MCPError, ValidationError):
        for prompt in (await client.list_prompts()).prompts:
            await client.get_prompt(prompt.name, {a.name: "something" for a in prompt.arguments or []})


async def run(url: str) -> None:
    mode: Any = "legacy" if os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "") < "2026" else "auto"
    async with Client(
        url, mode=mode, elicitation_callback=elicit, sampling_callback=sample, list_roots_callback=roots
    ) as client:
        await drive(client)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateway", action="store_true")
    parser.add_argument("url")
    arguments = parser.parse_args()
    if not arguments.gateway:
        anyio.run(run, arguments.url)
        return
    with tempfile.TemporaryDirectory() as directory:
        config = configure(Path(directory), http_server("suite", arguments.url), head='tool_names = "{tool}"')
        with serve(config) as gateway:
            try:
                anyio.run(run, gateway.url)
            finally:
                print(gateway.log[-4000:], file=sys.stderr)


if __name__ == "__main__":
    main()
