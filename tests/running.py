"""A whole gateway in this process: built by `wiring.build` around a configuration that the test writes.

Its tool servers are real processes, its journal a real file; only the edge is left out: calls go in through
`Gateway.execute`, as every edge does it.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import orjson

from gateway import wiring
from gateway.config import load
from gateway.model.call import LOCAL, Client, Principal
from gateway.model.verdict import Completed, Outcome
from tests.gateway_process import configure
from tests.scripted_server import Scripted

ALLOW = {
    "gateway.rego": """package gateway

allow := true

decision := {"allow": allow, "deny": set(), "hold": hold, "obligations": set()}

hold contains {"code": "write", "reason": "writes are approved"} if {
\tinput.arguments.held
}
"""
}
"""Allows everything, and holds what has an argument `held` that is true."""


def server_table(server: Scripted, *, name: str = "s", more: str = "") -> str:
    """The `[servers.NAME]` table that starts a scripted server, one child for everybody."""
    return (
        f"[servers.{name}]\ncommand = {json.dumps(server.command)}\nargs = {json.dumps(server.args)}\n"
        f'isolation = "shared"\n{more}\n'
    )


OPERATORS = f"""
[operators.ann]
key_sha256 = "{"a" * 64}"
role = "operator"
[operators.fay]
key_sha256 = "{"b" * 64}"
role = "approver"
groups = ["finance"]
"""


class Silent:
    """A client that takes notifications and answers nothing."""

    capabilities: Mapping[str, Any] = {}
    log_level: str | None = None

    def __init__(self, *, progress: bool = False) -> None:
        self.wants_progress = progress
        self.heard: list[tuple[str, Mapping[str, Any]]] = []

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        self.heard.append((method, params))

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        return {key: {"error": {"code": -32601, "message": "cannot be asked"}} for key in requests}


@asynccontextmanager
async def running(
    directory: Path, text: str, *, policies: Mapping[str, str] = ALLOW, head: str = ""
) -> AsyncIterator[wiring.Runtime]:
    """A gateway whose tool servers have all been reached."""
    path = configure(directory, text, policies=policies, head=head)
    async with wiring.build(load(path), watch=False) as runtime:
        await until(lambda: all(state.state == "available" for state in runtime.servers.states()))
        yield runtime


async def execute(
    runtime: wiring.Runtime,
    tool: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    meta: Mapping[str, Any] | None = None,
    principal: Principal = LOCAL,
    session: str = "session-1",
    client: str = "tests",
    caller: Silent | None = None,
) -> Outcome:
    """Call a tool by its name towards agents."""
    params: dict[str, Any] = {"name": tool, "arguments": dict(arguments or {})}
    if meta:
        params["_meta"] = dict(meta)
    call = runtime.gateway.call(
        method="tools/call", params=params, principal=principal, session_id=session, client=Client(name=client)
    )
    return await runtime.gateway.execute(call, caller or Silent())


def text_of(outcome: Outcome) -> str:
    """The text of a completed call's first content block."""
    assert isinstance(outcome, Completed), outcome
    assert outcome.result is not None
    return str(orjson.loads(outcome.result)["content"][0]["text"])


async def until(met: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait for a condition that nothing announces, looking often; fails where it is not met in time."""
    with anyio.fail_after(seconds):
        while not met():  # noqa: ASYNC110 - nothing tells of it
            await anyio.sleep(0.01)
