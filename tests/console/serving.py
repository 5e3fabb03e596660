"""A whole gateway with its listener, in this process, and operators who talk to it over HTTP."""

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import anyio

from gateway import wiring
from gateway.console.site import Site
from gateway.edge.http import application, mcp_app
from gateway.edge.listener import bound, serve_http
from gateway.model.call import Principal
from tests.running import ALLOW, running, server_table
from tests.scripted_server import Scripted, tool

AGENT_KEY = "agent-key-" + "a1b2c3d4" * 6
KEYS = {
    "vic": "viewer-key-" + "b1c2d3e4" * 6,
    "amy": "approver-key-" + "c1d2e3f4" * 6,
    "otto": "operator-key-" + "d1e2f3a4" * 6,
    "fay": "finance-key-" + "e1f2a3b4" * 6,
}
ROLES = {"vic": "viewer", "amy": "approver", "otto": "operator", "fay": "approver"}
CLAUDE = Principal(id="claude", roles=("reader",))


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


OPERATORS = "\n".join(
    f'[operators.{name}]\nkey_sha256 = "{sha256(key)}"\nrole = "{ROLES[name]}"\n'
    + ('groups = ["finance"]\n' if name == "fay" else "")
    for name, key in KEYS.items()
)
AGENTS = f'[agents.claude]\nkey_sha256 = "{sha256(AGENT_KEY)}"\nroles = ["reader"]\n'


def scripted(directory: Path, *steps: Mapping[str, Any], **more: Any) -> Scripted:
    """A tool server with `pay` and `look`; `steps` come before `pay` answers."""
    on = {
        "tools/call:pay": [{"effect": "paid"}, *(dict(step) for step in steps), {"text": "paid"}],
        "tools/call:look": [{"text": "seen"}],
    }
    return Scripted(directory / "server", {"tools": [tool("pay"), tool("look")], "on": on, **more})


def table(server: Scripted, *, approvals: str = "inline_wait_seconds = 0.1", more: str = "") -> str:
    """A configuration with one tool server, one agent and four operators."""
    return f"{server_table(server)}\n{AGENTS}\n{OPERATORS}\n[approvals]\n{approvals}\n{more}"


@dataclass(kw_only=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    text: str
    json: Any = None


@dataclass(kw_only=True)
class Served:
    """A gateway that listens."""

    runtime: wiring.Runtime
    site: Site
    base: str
    client: aiohttp.ClientSession
    cookies: dict[str, str] = field(default_factory=dict)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        who: str | None = None,
        key: str | None = None,
        body: Any = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request to the operator API, as an operator by name or with any key."""
        sent = dict(headers or {})
        if who is not None or key is not None:
            sent["authorization"] = f"Bearer {KEYS[who] if who is not None else key}"
        options: dict[str, Any] = {"json": body} if body is not None else {"data": data} if data is not None else {}
        async with self.client.request(
            method, self.base + path, headers=sent, allow_redirects=False, **options
        ) as answer:
            text = await answer.text()
            is_json = answer.content_type == "application/json"
            return Answer(
                status=answer.status,
                headers={name.lower(): value for name, value in answer.headers.items()},
                text=text,
                json=await answer.json() if is_json else None,
            )


@asynccontextmanager
async def serving(
    directory: Path, text: str, *, policies: Mapping[str, str] = ALLOW, head: str = ""
) -> AsyncIterator[Served]:
    """The gateway on a free port of the loopback interface."""
    async with running(directory, text, policies=policies, head=head) as runtime:
        site = wiring.operators_site(runtime)
        mcp = mcp_app(runtime.gateway, runtime.edge)
        app = application(mcp, {**wiring.routes(runtime), **site.routes()})
        stop = anyio.Event()
        with bound("127.0.0.1", 0) as listening:
            base = f"http://127.0.0.1:{listening.getsockname()[1]}"
            runtime.url = base
            async with anyio.create_task_group() as tasks:

                async def listen() -> None:
                    await serve_http(mcp, app, listening, stop=stop, drain_seconds=1.0)

                tasks.start_soon(listen)
                jar = aiohttp.DummyCookieJar()
                timeout = aiohttp.ClientTimeout(total=20)
                async with aiohttp.ClientSession(cookie_jar=jar, timeout=timeout) as client:
                    yield Served(runtime=runtime, site=site, base=base, client=client)
                site.close()
                stop.set()
