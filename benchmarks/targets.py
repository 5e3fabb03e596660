"""Echo tool servers to measure against, each as fast as its kind can be.

``python -m benchmarks.targets bare|sdk (--http PORT | --stdio) [--era both|legacy|modern]``

``bare`` speaks MCP as raw JSON without the SDK (uvicorn with uvloop and httptools, orjson; on stdio, plain lines): the hard
denominator. ``sdk`` is the SDK's low-level server, as a real Python tool server has it. Both speak both protocol eras (``bare``
also one alone, to measure the translation) and have two tools: ``echo``, which a configuration calls a read, and ``write``,
which it calls a write; both only answer.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import orjson
import uvicorn

Json = dict[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MODERN: Final = "2026-07-28"
HANDSHAKE: Final = ("2025-11-25", "2025-06-18", "2025-03-26")
SERVER_INFO: Final = {"name": "echo", "version": "1.0.0"}
_VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
_SERVER_KEY: Final = "io.modelcontextprotocol/serverInfo"

SCHEMA: Final[Json] = {
    "type": "object",
    "properties": {"text": {"type": "string", "maxLength": 65536}},
    "required": ["text"],
    "additionalProperties": False,
}
TOOLS: Final[list[Json]] = [
    {"name": "echo", "description": "Answers with its text", "inputSchema": SCHEMA},
    {"name": "write", "description": "Answers with its text, as a write would", "inputSchema": SCHEMA},
]


ERA = "both"
"""What the bare server speaks; set once, before it serves."""


def answer(message: Json) -> Json | None:
    """What the bare server answers to one message; None for a notification."""
    if "id" not in message:
        return None
    params = message.get("params") or {}
    modern = _VERSION_KEY in (params.get("_meta") or {})
    if ERA != "both" and modern != (ERA == "modern"):
        if modern:
            return _error(message, -32601, f"Method not found: {message['method']}")
        data = {"supported": [MODERN], "requested": params.get("protocolVersion")}
        return _error(message, -32022, "Unsupported protocol version", data)
    match message["method"]:
        case "tools/call" if params.get("name") in ("echo", "write"):
            result: Json = {"content": [{"type": "text", "text": params["arguments"]["text"]}]}
        case "tools/list":
            result = {"tools": TOOLS}
            if modern:
                result |= {"ttlMs": 60_000, "cacheScope": "public"}
        case "initialize":
            asked = params.get("protocolVersion")
            version = asked if asked in HANDSHAKE else HANDSHAKE[0]
            return _result(
                message, {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": SERVER_INFO}
            )
        case "server/discover":
            hints = {"ttlMs": 60_000, "cacheScope": "public"}
            result = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}, **hints}
        case "ping":
            result = {}
        case method:
            return _error(message, -32601, f"Method not found: {method}")
    if modern:
        result["resultType"] = "complete"
        result["_meta"] = {_SERVER_KEY: SERVER_INFO}
    return _result(message, result)


def _result(message: Json, result: Json) -> Json:
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


def _error(message: Json, code: int, text: str, data: Json | None = None) -> Json:
    error = {"code": code, "message": text, **({"data": data} if data else {})}
    return {"jsonrpc": "2.0", "id": message["id"], "error": error}


# ------------------------------------------------------------------------------------------------ bare

_JSON: Final = (b"content-type", b"application/json")
_STATUSES: Final = {-32601: 404, -32022: 400}


async def bare_application(scope: Scope, receive: Receive, send: Send) -> None:
    """The bare server as an ASGI application."""
    if scope["type"] != "http":
        return
    if scope["method"] != "POST":
        status = 200 if scope["method"] == "DELETE" else 405
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
        return
    event = await receive()
    body: bytes = event["body"]
    while event.get("more_body"):
        event = await receive()
        body += event["body"]
    message = orjson.loads(body)
    reply = answer(message)
    payload = b"" if reply is None else orjson.dumps(reply)
    status = 202 if reply is None else _STATUSES.get(reply.get("error", {}).get("code"), 200)
    headers = [_JSON, (b"content-length", str(len(payload)).encode())]
    if message.get("method") == "initialize":
        headers.append((b"mcp-session-id", b"session-1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": payload})


def bare_stdio() -> None:
    """The bare server on stdio: read a line, write a line."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    for line in iter(source.readline, b""):
        reply = answer(orjson.loads(line))
        if reply is not None:
            sink.write(orjson.dumps(reply) + b"\n")
            sink.flush()


# ------------------------------------------------------------------------------------------------ SDK


def sdk_server() -> Any:
    """The echo tools on the SDK's low-level server."""
    from mcp import types
    from mcp.server import Server

    async def list_tools(_: Any, __: Any) -> types.ListToolsResult:
        return types.ListToolsResult.model_validate({"tools": TOOLS})

    async def call_tool(_: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        block = types.TextContent(text=(params.arguments or {})["text"])
        return types.CallToolResult(content=[block])

    return Server(
        "echo",
        version="1.0.0",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        # Without this the SDK lists all tools again for every call.
        get_tool_input_schema=lambda name: SCHEMA if name in ("echo", "write") else None,
    )


def sdk_stdio() -> None:
    import anyio
    from mcp.server.stdio import stdio_server

    async def run() -> None:
        server = sdk_server()
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    anyio.run(run)


# ------------------------------------------------------------------------------------------------ start


def serve(application: Any, port: int) -> None:
    listening = socket.create_server(("127.0.0.1", port), backlog=1024)
    print(f"listening on http://127.0.0.1:{listening.getsockname()[1]}/mcp", file=sys.stderr, flush=True)
    # Longer than any pause of a benchmark: a closed idle connection would be measured as the gateway's.
    config = uvicorn.Config(
        application, log_level="warning", access_log=False, timeout_keep_alive=600, timeout_graceful_shutdown=1
    )
    uvicorn.Server(config).run(sockets=[listening])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["bare", "sdk"])
    transport = parser.add_mutually_exclusive_group(required=True)
    transport.add_argument("--stdio", action="store_true")
    transport.add_argument("--http", type=int, metavar="PORT")
    parser.add_argument("--era", choices=["both", "legacy", "modern"], default="both", help="of the bare server")
    arguments = parser.parse_args()
    global ERA
    ERA = arguments.era
    match arguments.kind, arguments.stdio:
        case "bare", True:
            bare_stdio()
        case "bare", False:
            serve(bare_application, arguments.http)
        case "sdk", True:
            sdk_stdio()
        case _:
            serve(sdk_server().streamable_http_app(json_response=True), arguments.http)


if __name__ == "__main__":
    main()
