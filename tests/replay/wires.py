"""Clients that say fixed bytes and keep the bytes of what comes back: what byte-equality is measured with."""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

MODERN = "2026-07-28"
META = "io.modelcontextprotocol/"

Answers = dict[str, Any]
"""What a client answers to a tool server's question, by method."""


def envelope(**more: Any) -> dict[str, Any]:
    """`_meta` of a modern request."""
    return {
        f"{META}protocolVersion": MODERN,
        f"{META}clientCapabilities": {"elicitation": {}},
        f"{META}clientInfo": {"name": "wire", "version": "1"},
        **more,
    }


def stdio_lines(
    command: Sequence[str], requests: Sequence[dict[str, Any]], answers: Answers | None = None, *, modern: bool
) -> list[bytes]:
    """Every line that a stdio server says while the requests are put to it one after another.

    A request with the member `requestState: "$state"` gets the state of the `input_required` before it.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/", env=None
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[bytes] = []

    def put(message: dict[str, Any]) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        process.stdin.flush()

    def until(identifier: Any) -> dict[str, Any]:
        assert process.stdout is not None
        while True:
            line = process.stdout.readline()
            if not line:
                assert process.stderr is not None
                raise AssertionError(f"the server ended: {process.stderr.read().decode()[-2000:]}")
            said.append(line)
            message: dict[str, Any] = json.loads(line)
            if message.get("id") == identifier and "method" not in message:
                return message
            if "method" in message and "id" in message:
                put({"id": message["id"], **(answers or {})[message["method"]]})

    try:
        if not modern:
            hello = {"protocolVersion": "2025-11-25", "clientInfo": {"name": "wire", "version": "1"}}
            put({"id": 0, "method": "initialize", "params": {**hello, "capabilities": {"elicitation": {}}}})
            until(0)
            put({"method": "notifications/initialized"})
        state: Any = None
        for number, request in enumerate(requests, start=1):
            params = dict(request.get("params", {}))
            if params.get("requestState") == "$state":
                params["requestState"] = state
            if modern:
                params["_meta"] = envelope(**params.get("_meta", {}))
            put({**request, "id": number, "params": params})
            answer = until(number)
            state = answer.get("result", {}).get("requestState")
    finally:
        process.stdin.close()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        process.stdout.close()
        process.stderr.close()
    return said


def http_bodies(url: str, requests: Sequence[dict[str, Any]], *, modern: bool) -> list[bytes]:
    """The body of every answer of an HTTP server to the requests, one after another."""
    bodies: list[bytes] = []
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}

    def post(message: dict[str, Any], more: dict[str, str]) -> dict[str, str]:
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        request = urllib.request.Request(url, data=data, headers={**headers, **more}, method="POST")
        try:
            answer = urllib.request.urlopen(request, timeout=20)
        except urllib.error.HTTPError as error:  # an error of JSON-RPC has a status of its own in 2026-07-28
            bodies.append(b"%d " % error.code + error.read())
            return {}
        with answer:
            bodies.append(answer.read())
            return {name.lower(): value for name, value in answer.headers.items()}

    more: dict[str, str] = {}
    if not modern:
        hello = {"protocolVersion": "2025-11-25", "clientInfo": {"name": "wire", "version": "1"}, "capabilities": {}}
        back = post({"id": 0, "method": "initialize", "params": hello}, {})
        more = {"mcp-session-id": back["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
        post({"method": "notifications/initialized"}, more)
    for number, request in enumerate(requests, start=1):
        params = dict(request.get("params", {}))
        about = dict(more)
        if modern:
            params["_meta"] = envelope(**params.get("_meta", {}))
            about |= {"mcp-protocol-version": MODERN, "mcp-method": request["method"]}
            if isinstance(named := params.get("uri") or params.get("name"), str):
                about["mcp-name"] = named
        post({**request, "id": number, "params": params}, about)
    return bodies
