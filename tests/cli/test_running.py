"""Commands beside a running gateway: what they show, what they change, whose key they need."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.config import key_digest
from tests.cli.programs import GATEWAY, Ran, environment, gateway

AGENT, OPERATOR, VIEWER = (prefix + "Q2vX0sU7bM4nY9zR1tW6cE3fG8hJ5pA" for prefix in ("a", "o", "v"))
SERVERS = f"""[servers.time]
command = "mcp-server-time"
args = ["--local-timezone", "UTC"]
risk = "read"

[agents.desk]
key_sha256 = "{key_digest(AGENT)}"
roles = ["reader"]

[operators.ann]
key_sha256 = "{key_digest(OPERATOR)}"
role = "operator"

[operators.eve]
key_sha256 = "{key_digest(VIEWER)}"
"""
CALL = ("call", "time/get_current_time", '{"timezone": "Asia/Tokyo"}', "--json")


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway in a process of its own, and its directory."""

    directory: Path

    def __call__(self, *arguments: str, key: str | None = None) -> Ran:
        extra = {"GATEWAY_OPERATOR_KEY": key} if key is not None else {}
        config = ("--config", str(self.directory / "servers.toml"))
        return gateway(*arguments, *config, home=self.directory, seconds=120, **extra)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if shutil.which("mcp-server-time", path=str(GATEWAY.parent)) is None:
        pytest.skip("mcp-server-time is not installed beside the gateway")
    directory = tmp_path_factory.mktemp("running")
    (directory / "servers.toml").write_text(SERVERS)
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(GATEWAY), "serve", "--config", str(directory / "servers.toml"), "--port", "0"],
            cwd="/",
            env=environment(directory),
            stdout=log,
            stderr=log,
        )
    found = Running(directory)
    try:
        deadline = time.monotonic() + 60
        while "available" not in found("servers").out:
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline, (directory / "log").read_text()
        yield found
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.mark.rule("cli.status")
def test_status_tells_what_the_gateway_is_doing(running: Running) -> None:
    ran = running("status", "--json")
    assert ran.code == 0, ran.err
    found = ran.json()
    assert {"running", "held", "open_breakers", "refusals", "journal", "servers"} <= set(found)
    assert found["configuration"]["file"] == str(running.directory / "servers.toml")
    text = running("status").out
    assert "in flight" in text
    assert "journal" in text


def test_servers_and_tools_are_listed(running: Running) -> None:
    (server,) = running("servers", "--json").json()
    assert (server["name"], server["state"], server["risk"]) == ("time", "available", "read")
    tools = running("tools", "--agent", "desk", "--json").json()
    assert [tool["tool"] for tool in tools] == ["time/get_current_time", "time/convert_time"]
    assert "time/get_current_time" in running("tools", "--agent", "desk").out


@pytest.mark.rule("cli.operator-key")
def test_acting_as_an_agent_needs_an_operator_s_key(running: Running) -> None:
    as_desk = (*CALL, "--agent", "desk")
    without = running(*as_desk)
    assert without.code == 2
    assert "GATEWAY_OPERATOR_KEY" in without.err
    for key in (AGENT, VIEWER, "wrong"):
        refused = running(*as_desk, key=key)
        assert refused.code == 1, refused.out
        assert "operator" in refused.err
    done = running(*as_desk, key=OPERATOR)
    assert done.code == 0, done.err
    assert "Asia/Tokyo" in json.dumps(done.json()["result"])
    call_id = done.json()["call_id"]
    assert call_id in running("calls", "list").out


@pytest.mark.rule("cli.operator-key")
@pytest.mark.parametrize(
    "act",
    [
        ("pause",),
        ("resume",),
        ("kill",),
        ("reload",),
        ("holds", "approve", "x"),
        ("holds", "deny", "x"),
        ("breakers", "trip", "time"),
    ],
)
def test_what_changes_state_needs_an_operator_s_key(running: Running, act: tuple[str, ...]) -> None:
    assert running(*act).code == 2
    for key in (AGENT, VIEWER, "wrong"):
        ran = running(*act, key=key)
        assert (ran.code, ran.out) == (1, "")
        assert len(ran.err.splitlines()) == 1
        assert key not in ran.err


def test_a_call_that_is_refused_ends_with_1_and_says_why(running: Running) -> None:
    bad = running("call", "time/get_current_time", "{}", "--agent", "desk", key=OPERATOR)
    assert bad.code == 1
    assert "timezone" in bad.err + bad.out
    unknown = running("call", "time/nope", "{}", "--agent", "desk", key=OPERATOR)
    assert unknown.code == 1
    assert running("call", "time/x", "not json", "--agent", "desk", key=OPERATOR).code == 2
    assert running("call", "time/x", "[]", "--agent", "desk", key=OPERATOR).code == 2
    assert running("call", "time/x", "{}", "--agent", "nobody", key=OPERATOR).code == 2


def test_a_pause_stops_calls_until_it_is_lifted(running: Running) -> None:
    paused = running("pause", "--agent", "desk", "--reason", "lunch", "--for", "10m", key=OPERATOR)
    assert paused.code == 0, paused.err
    assert paused.out.startswith("paused: agent desk, until ")
    refused = running(*CALL, "--agent", "desk", key=OPERATOR)
    assert refused.code == 1
    assert "gateway.paused" in refused.out
    assert running("resume", "--agent", "desk", key=OPERATOR).out == "resumed: agent desk\n"
    assert running(*CALL, "--agent", "desk", key=OPERATOR).code == 0
    assert running("resume", "--agent", "desk", key=OPERATOR).code == 1


@pytest.mark.rule("cli.reload")
def test_reload_takes_a_changed_file_over_and_an_invalid_one_changes_nothing(running: Running) -> None:
    file = running.directory / "servers.toml"
    try:
        file.write_text(SERVERS + "\n[servers.time.tools.convert_time]\nrisk = 'write'\n")
        ran = running("reload", "--json", key=OPERATOR)
        assert ran.code == 0, ran.err
        risks = {tool["tool"]: tool["risk"] for tool in running("tools", "--agent", "desk", "--json").json()}
        assert risks["time/convert_time"] == "write"
    finally:
        file.write_text(SERVERS)
    assert running("reload", key=OPERATOR).code == 0


def test_a_second_gateway_on_the_same_store_is_refused_with_the_owner_s_name(running: Running) -> None:
    ran = running("serve", "--port", "0")
    assert ran.code == 1
    assert "in use by `gateway serve`" in ran.err


def test_without_a_gateway_commands_say_so(tmp_path: Path) -> None:
    (tmp_path / "servers.toml").write_text(SERVERS)
    for command in (["status"], ["quotas"], ["holds", "list"], ["reload"]):
        ran = gateway(*command, home=tmp_path, cwd=tmp_path, seconds=60, GATEWAY_OPERATOR_KEY=OPERATOR)
        assert ran.code == 1, command
        assert "no gateway runs on the store" in ran.err


def test_a_call_without_a_running_gateway_is_judged_and_recorded_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "servers.toml").write_text(SERVERS)
    arguments = (*CALL, "--agent", "desk")
    refused = gateway(*arguments, home=tmp_path, cwd=tmp_path, seconds=120, GATEWAY_OPERATOR_KEY=VIEWER)
    assert refused.code == 1
    done = gateway(*arguments, home=tmp_path, cwd=tmp_path, seconds=120, GATEWAY_OPERATOR_KEY=OPERATOR)
    assert done.code == 0, done.err
    listed = gateway("calls", "list", home=tmp_path, cwd=tmp_path)
    assert done.json()["call_id"] in listed.out


@pytest.mark.rule("telemetry.metrics")
def test_the_endpoints_beside_mcp_tell_health_readiness_and_metrics(running: Running) -> None:
    assert running(*CALL, "--agent", "desk", key=OPERATOR).code == 0
    text = (running.directory / "log").read_text()
    base = next(
        re.findall(r"listening on (http://[^/]+)/mcp", line)[0] for line in text.splitlines() if "listening on" in line
    )
    answers = {}
    for path in ("/healthz", "/readyz", "/metrics"):
        with urllib.request.urlopen(base + path, timeout=10) as answer:
            assert answer.status == 200
            answers[path] = answer.read().decode()
    assert json.loads(answers["/healthz"]) == {"status": "ok"}
    assert json.loads(answers["/readyz"]) == {"status": "ready"}
    assert 'gateway_server_available{server="time"} 1.0' in answers["/metrics"]
    assert "gateway_journal_lag_seconds" in answers["/metrics"]
    assert (
        'gateway_calls_total{code="",outcome="completed",server="time",tool="get_current_time"}' in answers["/metrics"]
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(base + "/metrics", headers={"Host": "evil.example"}), timeout=10)
    assert refused.value.code == 421
