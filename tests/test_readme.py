"""Every command of the README is run, in its order, in a home and a directory of the test's own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from gateway.config import loads
from tests.cli.programs import environment, gateway
from tests.gateway_process import free_port, serve
from tests.nodejs import REAL
from tests.nodejs import environment as node_environment
from tests.replay.wires import http_bodies

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent

OWN_TESTS = {
    "scripts/demo": "test_the_demo_starts_and_says_how_to_connect",
    "scripts/test": "test_the_test_script_runs_tests",
    """for n in 1 2 3 4 5; do gateway call time/get_current_time '{"timezone": "UTC"}'; done""": (
        "test_a_looping_agent_gets_the_message_of_the_readme"
    ),
    "gateway replay serve docs/examples/session.jsonl --port 9000": "test_the_recording_of_the_readme_is_served",
    "claude mcp add --transport http gateway http://127.0.0.1:8080/mcp": "test_claude_code_takes_the_command",
}
"""Commands that have a test of their own; all others are run by `test_the_commands_work_in_their_order`."""

REFUSED = """gateway call time/get_current_time '{"timezone": "Asia/Tokyo"}'"""

BACKTEST = "gateway policy backtest --recording docs/examples/session.jsonl --policies docs/examples/candidate --html report.html"


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every command line of the README."""
    return [line for block in blocks("sh") for line in block.splitlines() if line.strip()]


@pytest.mark.rule("readme.commands")
@pytest.mark.rule("readme.replay")
def test_the_commands_work_in_their_order(tmp_path: Path) -> None:
    home, where = tmp_path / "home", tmp_path / "mine"
    where.mkdir()
    desktop = home / ".config" / "Claude" / "claude_desktop_config.json"
    desktop.parent.mkdir(parents=True)
    before = json.dumps({"mcpServers": {"time": {"command": "mcp-server-time", "args": ["--local-timezone", "UTC"]}}})
    desktop.write_text(before)
    shutil.copytree(ROOT / "docs" / "examples", where / "docs" / "examples")
    variables = {**environment(home), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    for line in commands():
        if line in OWN_TESTS:
            continue
        if line.startswith("gateway policy check"):
            (policy,) = blocks("rego")
            (where / "policies" / "team.rego").write_text(policy)
        if line.startswith(("gateway call ", "gateway tools")):
            assert (where / "policies" / "team.rego").exists(), "the README's policy is written before it is tried"
        ran = subprocess.run(
            ["sh", "-c", line], cwd=where, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=180, check=False,
        )  # fmt: skip
        expected = 1 if line in (REFUSED, BACKTEST) else 0
        assert ran.returncode == expected, f"{line}: exit {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
        if line == REFUSED:
            assert "policy.denied" in ran.stderr
            assert "Ask for UTC, and convert it yourself." in ran.stderr
        if line == BACKTEST:
            (table,) = [block for block in blocks("text") if block.startswith("the old policy")]
            assert ran.stdout.startswith(table)
            assert "<svg" in (where / "report.html").read_text()
        if line == "gateway install claude-desktop":
            assert list(json.loads(desktop.read_text())["mcpServers"]) == ["gateway"]
        if line == "gateway calls list":
            assert "policy.denied" in ran.stdout
            assert "completed" in ran.stdout
    assert desktop.read_text() == before
    assert (where / "records.jsonl").read_text().count("\n") >= 2


@pytest.mark.rule("readme.commands")
def test_the_commands_with_tests_of_their_own_are_in_the_readme_and_have_them() -> None:
    assert set(OWN_TESTS) <= set(commands())
    assert set(OWN_TESTS.values()) <= set(globals())


def has_environment() -> bool:
    """Was this environment made by scripts/environment, so that scripts take it as it is?"""
    return (BIN.parent / ".installed-dev").exists()


@pytest.mark.rule("start.demo")
def test_the_demo_starts_and_says_how_to_connect(tmp_path: Path) -> None:
    if not has_environment():
        pytest.skip("this environment was not made by scripts/environment: the demo would make another one")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("scripts", "requirements", "policies", "servers.toml", "pyproject.toml", "hatch_build.py"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, checkout / name)
    port = free_port()
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [checkout / "scripts" / "demo", "--port", str(port)],
            cwd="/",
            env={**environment(tmp_path), "GATEWAY_VENV": str(BIN.parent)},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 90
        while "Connect a client" not in (text := (tmp_path / "out").read_text()):
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.1)
        assert f"http://127.0.0.1:{port}/mcp" in text
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.rule("readme.loop")
def test_a_looping_agent_gets_the_message_of_the_readme(tmp_path: Path) -> None:
    shutil.copy(ROOT / "servers.toml", tmp_path)
    shutil.copytree(ROOT / "policies", tmp_path / "policies")
    (line,) = [line for line in commands() if line.startswith("for ")]
    (message,) = [block.strip() for block in blocks("text") if block.startswith("gateway.paused")]
    variables = {**environment(tmp_path), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    with serve(tmp_path / "servers.toml"):
        deadline = time.monotonic() + 60
        while (states := gateway("servers", "--json", home=tmp_path, cwd=tmp_path).out).count('"available"') < 2:
            assert time.monotonic() < deadline, states
        ran = subprocess.run(
            ["sh", "-c", line], cwd=tmp_path, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=180, check=False,
        )  # fmt: skip
    assert ran.returncode == 1, ran.stderr
    assert message in ran.stderr
    assert ran.stdout.count('"timezone"') == 4


@pytest.mark.rule("readme.replay")
def test_the_recording_of_the_readme_is_served(tmp_path: Path) -> None:
    (line,) = [line for line in commands() if line.startswith("gateway replay serve ")]
    port = free_port()
    process = subprocess.Popen(
        [BIN / "gateway", *line.replace("9000", str(port)).split()[1:]],
        cwd=ROOT, env=environment(tmp_path), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert f"at http://127.0.0.1:{port}/mcp" in said, said
        arguments = {"timezone": "Europe/Berlin"}
        call = {"method": "tools/call", "params": {"name": "time__get_current_time", "arguments": arguments}}
        (_, _, answer) = http_bodies(f"http://127.0.0.1:{port}/mcp", [call], modern=False)
        assert b"2026-11-21T02:49:54+01:00" in answer
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert process.stderr is not None
        process.stderr.close()


@pytest.mark.rule("start.test")
def test_the_test_script_runs_tests() -> None:
    if not has_environment():
        pytest.skip("this environment was not made by scripts/environment: the script would install into it")
    done = subprocess.run(
        [ROOT / "scripts" / "test", "tests/test_manifest.py", "--collect-only", "-q"],
        cwd="/", env={**os.environ, "GATEWAY_VENV": str(BIN.parent)}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tests/test_manifest.py: 2" in done.stdout


@pytest.mark.rule("readme.commands")
def test_claude_code_takes_the_command(tmp_path: Path) -> None:
    claude = next(REAL.glob("node_modules/@anthropic-ai/claude-code-*/claude"), None)
    if claude is None:
        pytest.skip("@anthropic-ai/claude-code is not installed: run tests/real/install")
    (line,) = [line for line in commands() if line.startswith("claude ")]
    done = subprocess.run(
        [str(claude), *line.split()[1:]], cwd=tmp_path, env=node_environment(tmp_path), capture_output=True, text=True,
        timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (server,) = [
        project["mcpServers"] for project in json.loads((tmp_path / ".claude.json").read_text())["projects"].values()
    ]
    assert server["gateway"]["url"] == "http://127.0.0.1:8080/mcp"


def test_the_configurations_in_the_readme_are_valid() -> None:
    for block in blocks("toml"):
        tomllib.loads(block)
        assert loads(block).warnings == ()
    for block in blocks("json"):
        (servers,) = json.loads(block).values()
        assert list(servers) == ["gateway"]


def test_the_files_that_the_readme_links_to_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
