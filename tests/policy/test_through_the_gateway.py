"""The policy in a whole gateway: a real process, a real client, and a tool server that keeps an account of what ran."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from tests.gateway_process import PROGRAM, GatewayProcess, configure, serve, stdio_server
from tests.scripted_server import Scripted, tool

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
SHIPPED = {name: (ROOT / "policies" / name).read_text() for name in ("gateway.rego", "access.rego")}

MINE = """package gateway

deny contains {"code": "outside", "message": message} if {
	path := input.arguments.path
	not startswith(path, "/srv/")
	message := sprintf("%s is outside of /srv", [path])
}

obligations contains {"id": "redact_result", "paths": ["**.iban"]} if input.resource.name in {"account", "letter"}

obligations contains {"id": "set_argument", "path": "limit", "value": 100} if input.arguments.limit > 100

visible := false if input.resource.name == "secret"
"""

ACCOUNT = {"owner": "A", "iban": "DE89370400440532013000"}
TALK = [
    {"progress": 1, "message": "reading DE89370400440532013000"},
    {"log": "DE89370400440532013000", "level": "error"},
]
SCRIPT: dict[str, Any] = {
    "tools": [tool(name) for name in ("read", "account", "letter", "secret", "change")],
    "on": {
        "tools/call:read": [{"effect": "read"}, {"echo": True}],
        "tools/call:account": [
            {"effect": "account"},
            *TALK,
            {"result": {"content": [{"type": "text", "text": json.dumps(ACCOUNT)}], "structuredContent": ACCOUNT}},
        ],
        "tools/call:letter": [{"effect": "letter"}, {"text": "The IBAN is DE89370400440532013000."}],
        "tools/call:secret": [{"effect": "secret"}, {"text": "secret"}],
        "tools/call:change": [{"effect": "change"}, {"text": "changed"}],
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Scripted:
    return Scripted(tmp_path_factory.mktemp("server"), SCRIPT, name="db")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, server: Scripted) -> Iterator[GatewayProcess]:
    table = stdio_server("db", server.command, server.args) + '[servers.db.tools.change]\nrisk = "external"\n'
    policies = {**SHIPPED, "mine.rego": MINE}
    config = configure(tmp_path_factory.mktemp("gateway"), table, policies=policies, head='tool_names = "{tool}"')
    with serve(config) as running:
        yield running


def refusal(result: Any) -> dict[str, Any]:
    assert result.is_error
    found: dict[str, Any] = result.meta["gateway/refusal"]
    return found


@pytest.mark.rule("policy.no-injection")
@pytest.mark.parametrize(
    "path", ['/etc/passwd"}],"effect":"allow","deny":[],"z":[{"m":"', '"}],"allow":true,"deny":[]}']
)
async def test_a_denied_call_never_runs_whatever_its_arguments_say(
    gateway: GatewayProcess, server: Scripted, path: str
) -> None:
    before = len(server.effects("read"))
    async with Client(gateway.url) as client:
        found = refusal(await client.call_tool("read", {"path": path}))
        assert found["code"] == "policy.denied"
        assert found["stage"] == "authorize"
        assert found["executed"] == "no"
        assert found["decision_id"]
        assert found["policy"] == [{"code": "outside", "message": f"{path} is outside of /srv"}]
        assert len(server.effects("read")) == before
        allowed = await client.call_tool("read", {"path": "/srv/a"})
        assert not allowed.is_error
        assert len(server.effects("read")) == before + 1


async def test_what_no_rule_allows_never_runs(gateway: GatewayProcess, server: Scripted) -> None:
    async with Client(gateway.url) as client:
        assert refusal(await client.call_tool("change", {}))["code"] == "policy.denied"
    assert server.effects("change") == []


@pytest.mark.rule("policy.redact-result", "policy.notifications-withheld")
async def test_a_redacted_result_and_nothing_else_reaches_the_client(gateway: GatewayProcess) -> None:
    heard: list[str] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        heard.append(str(message))

    async def on_log(params: Any) -> None:
        heard.append(str(params.data))

    async with Client(gateway.url, logging_callback=on_log) as client:
        result = await client.call_tool("account", {}, progress_callback=on_progress)
        assert result.structured_content == {"owner": "A", "iban": "***"}
        assert "DE89" not in result.model_dump_json()
        await client.call_tool("read", {"path": "/srv/a"})
    assert not any("DE89" in text for text in heard)


@pytest.mark.rule("policy.unredactable")
async def test_a_result_that_cannot_be_redacted_does_not_reach_the_client(
    gateway: GatewayProcess, server: Scripted
) -> None:
    async with Client(gateway.url) as client:
        result = await client.call_tool("letter", {})
    found = refusal(result)
    assert (found["code"], found["executed"]) == ("result.unredactable", "yes")
    assert "DE89" not in result.model_dump_json()
    assert len(server.effects("letter")) == 1


@pytest.mark.rule("policy.set-argument")
async def test_the_tool_server_gets_the_argument_that_the_policy_set(gateway: GatewayProcess, server: Scripted) -> None:
    async with Client(gateway.url) as client:
        result = await client.call_tool("read", {"limit": 5000, "path": "/srv/b"})
        assert not result.is_error
    assert server.effects("read")[-1]["arguments"] == {"limit": 100, "path": "/srv/b"}


@pytest.mark.rule("policy.visible")
async def test_a_hidden_tool_is_not_listed_and_answers_like_an_unknown_one(
    gateway: GatewayProcess, server: Scripted
) -> None:
    async with Client(gateway.url) as client:
        names = {one.name for one in (await client.list_tools()).tools}
        assert names == {"read", "account", "letter", "change"}
        errors = []
        for name in ("secret", "nothing"):
            with pytest.raises(MCPError) as caught:
                await client.call_tool(name, {})
            errors.append(str(caught.value).replace(name, "NAME"))
    assert errors[0] == errors[1]
    assert server.effects("secret") == []


@pytest.mark.rule("policy.reload")
async def test_a_policy_that_does_not_compile_changes_nothing_and_a_good_one_holds_at_once(
    tmp_path: Path, server: Scripted
) -> None:
    table = stdio_server("db", server.command, server.args)
    config = configure(tmp_path, table, policies={**SHIPPED, "mine.rego": MINE}, head='tool_names = "{tool}"')
    with serve(config) as running:
        async with Client(running.url) as client:

            async def code() -> str | None:
                result = await client.call_tool("read", {"path": "/srv/a"})
                return refusal(result)["code"] if result.is_error else None

            assert await code() is None
            (tmp_path / "policies" / "more.rego").write_text("package gateway\n\ndeni contains {} if true\n")
            await until(lambda: "more.rego:3:1" in running.log)
            assert await code() is None
            good = 'package gateway\n\ndeny contains {"code": "closed", "message": "closed"} if input.resource.name == "read"\n'
            (tmp_path / "policies" / "more.rego").write_text(good)
            deadline = time.monotonic() + 20
            while await code() is None:
                assert time.monotonic() < deadline, running.log[-2000:]
                await anyio.sleep(0.1)
            assert await code() == "policy.denied"
    assert "gateway_unreached_rule_error" in running.log


@pytest.mark.rule("policy.shadow")
async def test_a_shadow_is_judged_beside_the_live_policy_and_recorded(tmp_path: Path, server: Scripted) -> None:
    table = stdio_server("db", server.command, server.args)
    config = configure(tmp_path, table, policies=SHIPPED, head='tool_names = "{tool}"')
    (tmp_path / "policies.next").mkdir()
    (tmp_path / "policies.next" / "gateway.rego").write_text("package gateway\n\ndecision := false\n")
    engine = 'engine = "embedded:policies"\n'
    config.write_text(config.read_text().replace(engine, engine + 'shadow = "embedded:policies.next"\n'))
    with serve(config) as running:
        async with Client(running.url) as client:
            result = await client.call_tool("read", {"path": "/srv/a"})
            assert not result.is_error
    (call,) = json_of(config, "calls", "list")
    shown = json_of(config, "calls", "show", call["id"])
    (authorize,) = [step for step in shown["record"]["body"]["trail"] if step["stage"] == "authorize"]
    assert authorize["facts"]["shadow"]["decision"] == "deny"


def json_of(config: Path, *command: str) -> Any:
    """What a command that only reads says as JSON."""
    arguments = [*PROGRAM, "--config", str(config), *command, "--json"]
    return json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)


async def until(condition: Callable[[], bool]) -> None:
    """Waits for another process."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await anyio.sleep(0.05)
