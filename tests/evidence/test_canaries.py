"""Distinctive secrets go in everywhere; then every byte that comes out of a whole gateway is searched for them."""

import base64
import json
import os
import re
import secrets
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
from click.testing import CliRunner

from gateway.cli.frame import gateway
from tests.gateway_process import GatewayProcess, configure, serve
from tests.scripted_server import Scripted, tool

POLICY = {
    "gateway.rego": """package gateway

decision := {"allow": true, "deny": deny, "hold": hold, "obligations": obligations}

deny contains {"code": "no", "message": "never"} if input.resource.name == "denied"

hold contains {"code": "ask", "reason": "a person is asked"} if input.resource.name == "held"

obligations contains {"id": "redact_arguments", "paths": ["**.ssn"]}

obligations contains {"id": "redact_result", "paths": ["**.iban"]} if input.resource.name == "account"
"""
}


def canary(name: str) -> str:
    return f"canary-{name}-{secrets.token_hex(20)}"


@dataclass(kw_only=True)
class Planted:
    """What is looked for. `configured` is in no output at all; `erased` in none that is made of records."""

    configured: dict[str, str]
    erased: dict[str, str]

    def found(self, data: bytes, which: Mapping[str, str]) -> list[str]:
        """The canaries that stand in the bytes, in whatever form."""
        return [name for name, value in which.items() if any(form in data for form in forms(value))]


def forms(value: str) -> list[bytes]:
    return [
        value.encode(),
        urllib.parse.quote(value, safe="").encode(),
        base64.b64encode(value.encode()).rstrip(b"=")[:-1],
        base64.b64encode(f"bob:{value}".encode()).rstrip(b"=")[:-1],
        json.dumps(value)[1:-1].encode(),
    ]


class Receiver(BaseHTTPRequestHandler):
    """Takes webhooks and spans, and keeps their bytes."""

    got: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        type(self).got.append((self.path, f"{self.headers}".encode() + body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


@contextmanager
def receiver() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    kept: list[tuple[str, bytes]] = []
    handler = type("Handler", (Receiver,), {"got": kept})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", kept
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Agent:
    """A client of 2025-11-25 over HTTP."""

    url: str
    key: str
    session: dict[str, str] = field(default_factory=dict)
    number: int = 0

    def start(self) -> None:
        hello = {"protocolVersion": "2025-11-25", "clientInfo": {"name": "bird", "version": "1"}, "capabilities": {}}
        _, headers = self._post({"id": 0, "method": "initialize", "params": hello})
        self.session = {"mcp-session-id": headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
        self._post({"method": "notifications/initialized"})

    def call(self, name: str, arguments: Mapping[str, Any], **meta: Any) -> bytes:
        self.number += 1
        params = {"name": name, "arguments": dict(arguments), **({"_meta": meta} if meta else {})}
        return self._post({"id": self.number, "method": "tools/call", "params": params})[0]

    def tools(self) -> list[str]:
        self.number += 1
        data, _ = self._post({"id": self.number, "method": "tools/list", "params": {}})
        text = data.decode()
        message = json.loads(text if text.startswith("{") else text.partition("data: ")[2].partition("\n")[0])
        return [each["name"] for each in message["result"]["tools"]]

    def _post(self, message: Mapping[str, Any]) -> tuple[bytes, Mapping[str, str]]:
        headers = {
            "content-type": "application/json", "accept": "application/json, text/event-stream",
            "authorization": f"Bearer {self.key}", **self.session,
        }  # fmt: skip
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        with urllib.request.urlopen(
            urllib.request.Request(self.url, data=data, headers=headers, method="POST"), timeout=20
        ) as answer:
            return answer.read(), {name.lower(): value for name, value in answer.headers.items()}


def script(planted: Planted) -> dict[str, Any]:
    """Tools that repeat every secret that a tool server can know."""
    c, e = planted.configured, planted.erased
    known = " ".join(c.values())
    return {
        "instructions": f"Use {known}",
        "version": f"1.0 {known}",
        "prompts": [{"name": "p", "description": f"Log in with {known}"}],
        "resources": [{"uri": "doc://one", "name": "one", "description": known}],
        "tools": [
            tool("leak", description=f"Logs in with {known}"), tool("echo"), tool("fail"), tool("bad"), tool("account"), tool("denied"), tool("held"), tool("die"),
            tool("strict", inputSchema={"type": "object", "properties": {"pin": {"type": "integer"}, "ssn": {"type": "integer"}}}),
        ],
        "on": {
            "tools/call:leak": [
                {"stderr": f"on stderr: {known}\n"},
                {"log": f"in a log message: {known}", "level": "warning"},
                {"result": {
                    "content": [{"type": "text", "text": known}, {"type": "text", "text": json.dumps({"pin": e["result"]})}],
                    "structuredContent": {"all": list(c.values()), "pin": e["result"]},
                }},
            ],
            "tools/call:echo": [{"echo": True}],
            "tools/call:fail": [{"error": {"code": -32001, "message": f"cannot log in with {known}", "data": {"x": known}}}],
            "tools/call:bad": [
                {"result": {"isError": True, "content": [{"type": "text", "text": f"bad token {known}"}]}}
            ],
            "tools/call:account": [
                {"result": {"content": [{"type": "text", "text": json.dumps({"iban": e["iban"]})}],
                            "structuredContent": {"iban": e["iban"]}}}
            ],
            "tools/call:die": [{"effect": "died"}, {"stderr": f"fatal: {known}\n"}, {"die": 3}],
            "tools/call:headers": [
                {"result": {"content": [{"type": "text", "text": "x"}], "structuredContent": {"h": "$headers"}}}
            ],
        },
    }  # fmt: skip


def configuration(directory: Path, leaky: Scripted, port: int, hooks: str) -> Path:
    text = f"""
[listen]
[agents.claude]
key = "${{env:CANARY_AGENT}}"
[operators.ann]
key = "${{env:CANARY_OPERATOR}}"
role = "operator"
[recording]
redact = ["**.password", "**.pin"]
[approvals]
inline_wait_seconds = 0.1
[[approvals.notify]]
url = "{hooks}/hook?token=${{env:CANARY_HOOKURL}}"
secret = "${{env:CANARY_HOOK}}"
payload = "full"
[servers.leaky]
command = {json.dumps(leaky.command)}
args = {json.dumps(leaky.args)}
isolation = "shared"
env = {{ TOKEN = "${{env:CANARY_ENV}}", OTHER = "${{file:secret.txt}}" }}
[servers.web]
url = "http://bob:${{env:CANARY_USERINFO}}@127.0.0.1:{port}/mcp?key=${{env:CANARY_QUERY}}"
headers = {{ "X-Api" = "key ${{env:CANARY_HEADER}}" }}
[servers.gone]
url = "http://bob:${{env:CANARY_USERINFO}}@127.0.0.1:9/mcp?key=${{env:CANARY_QUERY}}"
headers = {{ Authorization = "Bearer ${{env:CANARY_HEADER}}" }}
"""
    return configure(directory, text, policies=POLICY)


def outputs(running: GatewayProcess, config: Path, operator: str) -> Iterator[tuple[str, bytes]]:
    """Everything that operators can see of a running gateway, by name."""
    base = running.base

    def get(path: str, **headers: str) -> bytes:
        try:
            with urllib.request.urlopen(urllib.request.Request(base + path, headers=headers), timeout=20) as answer:
                return bytes(answer.read()) + f"{answer.headers}".encode()
        except urllib.error.HTTPError as error:
            return bytes(error.read())

    bearer = {"Authorization": f"Bearer {operator}"}
    for path in ("/metrics", "/healthz", "/readyz"):
        yield path, get(path)
    calls = json.loads(get("/api/v1/calls", **bearer).rpartition(b"}")[0].decode() + "}")["calls"]
    holds = json.loads(get("/api/v1/holds", **bearer).rpartition(b"]")[0].decode() + "]")
    api = [
        "status",
        "agents",
        "tools",
        "calls",
        "calls/statistics",
        "sessions",
        "holds",
        "servers",
        "quotas",
        "dead-letters",
        "policy",
    ]
    api += [f"calls/{call['id']}" for call in calls]
    api += [f"sessions/{session}" for session in {call["session_id"] for call in calls}]
    api += [f"holds/{hold['id']}" for hold in holds]
    for path in api:
        yield f"/api/v1/{path}", get(f"/api/v1/{path}", **bearer)
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    with opener.open(f"{base}/console/login", timeout=20) as answer:
        (token,) = set(re.findall(r'name="token" value="([^"]+)"', answer.read().decode()))
    form = urllib.parse.urlencode({"key": operator, "token": token}).encode()
    opener.open(urllib.request.Request(f"{base}/console/login", data=form, headers={"origin": base}), timeout=20)
    pages = ["", "calls", "sessions", "holds", "charts", "dead-letters"]
    pages += [f"calls/{call['id']}" for call in calls] + [f"holds/{hold['id']}" for hold in holds]
    for page in pages:
        with opener.open(f"{base}/console/{page}", timeout=20) as answer:
            body = answer.read()
            assert b"Log in" not in body[:2000]
            yield f"/console/{page}", body
    commands = [
        ["status"], ["servers"], ["servers", "--json"], ["check"], ["doctor"], ["tools", "--agent", "claude"], ["calls", "list"],
        ["sessions", "list"], ["tail", "--no-follow"], ["quotas"], ["holds", "list"], ["dead-letters", "list"],
        ["log", "export"], ["log", "export", "--format", "otlp"], ["log", "export", "--format", "opa"], ["breakers"],
        *(["calls", "show", call["id"], *more] for call in calls for more in ([], ["--json"])),
        *(["holds", "show", hold["id"]] for hold in holds),
        *(["sessions", "show", session, *more] for session in {call["session_id"] for call in calls} for more in ([], ["--json"])),
    ]  # fmt: skip
    for command in commands:
        done = CliRunner().invoke(gateway, ["--config", str(config), *command])
        yield f"gateway {' '.join(command)}", done.output_bytes + str(done.exception or "").encode()


def command_lines(pid: int) -> bytes:
    """Of a process and its children, as `ps` shows them."""
    found = Path(f"/proc/{pid}/cmdline").read_bytes() if Path(f"/proc/{pid}/cmdline").exists() else b""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += command_lines(int(child))
    return found


@pytest.mark.rule("evidence.canaries")
def test_no_canary_comes_out_of_any_sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = "whsec_" + base64.b64encode(os.urandom(32)).decode()
    names = ("env", "header", "userinfo", "query", "agent", "operator", "hookurl")
    configured = {name: canary(name) for name in names} | {"file": canary("file"), "hook": hook}
    planted = Planted(
        configured=configured,
        erased={name: canary(name) for name in ("password", "result", "ssn", "iban", "pin", "held", "lost")},
    )
    for name in (*names, "hook"):
        monkeypatch.setenv(f"CANARY_{name.upper()}", configured[name])
    monkeypatch.setenv("GATEWAY_OPERATOR_KEY", configured["operator"])
    monkeypatch.setenv("GATEWAY_LOG_LEVEL", "debug")
    work, servers = tmp_path / "gateway", tmp_path / "servers"
    work.mkdir()
    (work / "secret.txt").write_text(configured["file"])
    leaky = Scripted(servers, script(planted), name="leaky")
    said = {"tools": [tool("headers")], "on": script(planted)["on"]}
    web = Scripted(servers, said, name="web")

    def look(config: Path, received: list[tuple[str, bytes]]) -> None:
        with serve(config) as running:
            agent = Agent(running.url, configured["agent"])
            drive(agent, planted)
            seen = dict(outputs(running, config, configured["operator"]))
            seen["command lines"] = command_lines(running.pid)
        seen["the log"] = running.log.encode()
        for file in work.rglob("*"):
            if file.is_file() and file.name != "secret.txt":
                seen[f"file {file.name}"] = file.read_bytes()
        for path, body in received:
            own = {name: value for name, value in configured.items() if name != "hookurl" or "/hook" not in path}
            assert not planted.found(body, own), path
            assert not planted.found(body, erased_in(path, planted)), path
        assert any("/v1/traces" in path for path, _ in received)
        assert any(path.startswith("/hook") for path, _ in received)
        leaks = {
            where: found
            for where, data in seen.items()
            if (found := planted.found(data, planted.configured) + planted.found(data, erased_in(where, planted)))
        }
        assert not leaks, "\n" + "\n".join(f"{where}: {found}" for where, found in leaks.items())
        for where in ("gateway log export", "gateway log export --format otlp", "gateway log export --format opa"):
            assert seen[where].count(b"canary-") == 0
            assert len(seen[where]) > 3000

    async def run() -> None:
        async with web.http() as url:
            with receiver() as (hooks, received):
                monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", hooks)
                monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
                config = configuration(work, leaky, urllib.parse.urlsplit(url).port or 0, hooks)
                await anyio.to_thread.run_sync(look, config, received)

    anyio.run(run)


def erased_in(where: str, planted: Planted) -> dict[str, str]:
    """What is erased there.

    A policy's `redact_arguments` is for records: who decides about a hold sees the rest. The API's answer for one hold has
    what will be forwarded, for an operator whose looking is recorded; the console and webhooks have not.
    """
    seen = set()
    if "holds/" in where or "holds show" in where or where.startswith("/hook"):
        seen = {"ssn"}
    if where.startswith(("/api/v1/holds/", "gateway holds show")):
        seen = {"ssn", "held"}
    return {name: value for name, value in planted.erased.items() if name not in seen}


def drive(agent: Agent, planted: Planted) -> None:
    """Real calls: allowed, denied, failed, held and approved, in doubt, refused by the schema. What is relayed is whole."""
    c, e = planted.configured, planted.erased
    agent.start()
    while not {"leaky__leak", "web__headers"} <= set(agent.tools()):
        pass
    everything = agent.call("leaky__leak", {})
    assert all(value.encode() in everything for value in c.values())
    assert e["password"].encode() in agent.call("leaky__echo", {"password": e["password"]})
    assert c["env"].encode() in agent.call("leaky__leak", {"deep": [{"ssn": e["ssn"]}]})
    assert c["env"].encode() in agent.call("leaky__fail", {"password": e["password"]})
    assert c["file"].encode() in agent.call("leaky__bad", {"password": e["password"]})
    assert e["iban"].encode() not in agent.call("leaky__account", {})
    assert b"policy.denied" in agent.call("leaky__denied", {"password": e["password"], "ssn": e["ssn"]})
    assert b"hold.pending" in agent.call("leaky__held", {"password": e["held"], "ssn": e["ssn"]})
    assert b"isError" in agent.call("leaky__strict", {"pin": e["pin"]})
    assert c["header"].encode() in agent.call("web__headers", {})
    key = {"gateway/idempotency-key": "k-1"}
    agent.call("leaky__echo", {"password": e["password"]}, **key)
    agent.call("leaky__echo", {"password": e["password"]}, **key)
    assert b"gateway/refusal" in agent.call("leaky__die", {"password": e["lost"]})
