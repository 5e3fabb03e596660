"""Clients that people use, against a server of ours directly and through the gateway, over HTTP and stdio."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway_process import PROGRAM, configure, http_server, listening, serve, stdio_server
from tests.nodejs import REAL, TESTS, environment, installed, node

FIXTURE = [sys.executable, str(TESTS / "fixture_server.py"), "--stdio"]


@pytest.fixture(scope="module", params=["direct", "gateway"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The fixture server's own URL, and that of a gateway in front of it."""
    with listening("tests.fixture_server") as fixture:
        if request.param == "direct":
            yield fixture
            return
        directory = tmp_path_factory.mktemp("gateway")
        config = configure(directory, http_server("fixture", fixture), head='tool_names = "{tool}"')
        with serve(config) as gateway:
            yield gateway.url


@pytest.fixture(params=["direct", "gateway"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The fixture server on stdio, and ``gateway stdio`` in front of it."""
    if request.param == "direct":
        return FIXTURE
    servers = stdio_server("fixture", FIXTURE[0], FIXTURE[1:])
    config = configure(tmp_path / "gateway", servers, head='tool_names = "{tool}"')
    return [*PROGRAM, "stdio", "--config", str(config)]


def inspector(home: Path, *arguments: str) -> dict[str, object]:
    """What MCP Inspector's command line prints."""
    program = installed(REAL, "@modelcontextprotocol", "inspector", "clients", "launcher", "build", "index.js")
    run = subprocess.run(
        [str(node()), str(program), "--cli", *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        env=environment(home),
        cwd=home,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    printed: dict[str, object] = json.loads(run.stdout)
    return printed


@pytest.mark.rule("relay.real-clients")
@pytest.mark.parametrize("era", ["legacy", "auto", "modern"])
def test_the_inspector_lists_and_calls_over_http(era: str, url: str, tmp_path: Path) -> None:
    at = [url, "--transport", "http", "--protocol-era", era]
    tools = inspector(tmp_path, *at, "--method", "tools/list")["tools"]
    assert isinstance(tools, list)
    assert "test_simple_text" in [tool["name"] for tool in tools]
    result = inspector(tmp_path, *at, "--method", "tools/call", "--tool-name", "test_simple_text")
    assert "simple text response" in json.dumps(result)
    contents = inspector(tmp_path, *at, "--method", "resources/read", "--uri", "test://static-text")
    assert "static text resource" in json.dumps(contents)
    prompt = ["--prompt-name", "test_prompt_with_arguments", "--prompt-args", "arg1=one", "arg2=two"]
    assert "arg1='one'" in json.dumps(inspector(tmp_path, *at, "--method", "prompts/get", *prompt))


@pytest.mark.rule("relay.real-clients")
@pytest.mark.parametrize("era", ["legacy", "auto", "modern"])
def test_the_inspector_lists_and_calls_over_stdio(era: str, command: list[str], tmp_path: Path) -> None:
    entry = {"command": command[0], "args": command[1:]}
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": {"here": entry}}))
    at = ["--config", str(tmp_path / "mcp.json"), "--server", "here", "--protocol-era", era]
    tools = inspector(tmp_path, *at, "--method", "tools/list")["tools"]
    assert isinstance(tools, list)
    assert "test_simple_text" in [tool["name"] for tool in tools]
    result = inspector(tmp_path, *at, "--method", "tools/call", "--tool-name", "test_simple_text")
    assert "simple text response" in json.dumps(result)


def claude(home: Path, *arguments: str) -> str:
    """What Claude Code prints; needs no login for this, but a home of its own."""
    package = next(REAL.glob("node_modules/@anthropic-ai/claude-code-*/claude"), None)
    if package is None:
        pytest.skip("@anthropic-ai/claude-code is not installed: run tests/real/install")
    run = subprocess.run(
        [str(package), *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        env=environment(home, DISABLE_TELEMETRY="1", DISABLE_AUTOUPDATER="1"),
        cwd=home,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.rule("relay.real-clients")
def test_claude_code_connects_over_http(url: str, tmp_path: Path) -> None:
    claude(tmp_path, "mcp", "add", "--scope", "local", "--transport", "http", "here", url)
    assert "✔ Connected" in claude(tmp_path, "mcp", "list")


@pytest.mark.rule("relay.real-clients")
def test_claude_code_connects_over_stdio(command: list[str], tmp_path: Path) -> None:
    claude(tmp_path, "mcp", "add", "--scope", "local", "here", "--", *command)
    assert "✔ Connected" in claude(tmp_path, "mcp", "list")
