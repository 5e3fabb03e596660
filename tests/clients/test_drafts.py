"""Clients' entries become tables: names, references, secrets."""

from pathlib import Path
from typing import Any

import pytest

from gateway.clients.drafts import Draft, draft, is_gateway, server_name
from gateway.clients.known import Entry, Place, Surroundings
from gateway.config import loads
from gateway.config.types import SERVER_NAME


def around(tmp_path: Path, **environment: str) -> Surroundings:
    return Surroundings(home=tmp_path, directory=tmp_path, platform="linux", environment=environment)


def made(tmp_path: Path, raw: dict[str, Any], name: str = "x", client: str = "cursor", **environment: str) -> Draft:
    place = Place(client=client, file=tmp_path / "project" / ".cursor" / "mcp.json", keys=("mcpServers",))
    return draft(Entry(place=place, name=name, raw=raw), (), around(tmp_path, **environment))


@pytest.mark.parametrize(
    ("name", "taken", "expected"),
    [
        ("git", [], "git"),
        ("GitHub (work)", [], "github-work"),
        ("git", ["git"], "git-2"),
        ("git", ["git", "git-2"], "git-3"),
        ("gateway", [], "gateway-2"),
        ("Ünïcode", [], "n-code"),
        ("✨", [], "server"),
        ("a" * 50, [], "a" * 31),
        ("a" * 50, ["a" * 31], "a" * 29 + "-2"),
        ("a_b.c", [], "a-b-c"),
    ],
)
def test_names_are_made_to_fit(name: str, taken: list[str], expected: str) -> None:
    assert server_name(name, taken) == expected
    assert SERVER_NAME.fullmatch(expected)


@pytest.mark.rule("import.secrets-to-files")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("GITHUB_TOKEN", "anything-at-all"),
        ("api_key", "short"),
        ("DB_PASSWORD", "hunter2"),
        ("PLAIN_NAME", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"),
        ("WHATEVER", "sk-proj-abc"),
        ("BLOB", "Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA=="),
    ],
)
def test_what_looks_like_a_secret_goes_to_a_file(tmp_path: Path, key: str, value: str) -> None:
    one = made(tmp_path, {"command": "s", "env": {key: value}})
    assert one.env == {key: f"${{file:secrets/x.{key}}}"}
    assert one.secrets == {f"x.{key}": value}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("LOG_LEVEL", "debug"),
        ("ROOT", "/home/somebody/with/a/long/path/1"),
        ("HOST", "mcp1.internal.example-company.com"),
        ("N", ""),
    ],
)
def test_what_looks_harmless_stays_readable(tmp_path: Path, key: str, value: str) -> None:
    one = made(tmp_path, {"command": "s", "env": {key: value}})
    assert one.env == {key: value}
    assert one.secrets == {}


def test_a_bearer_token_keeps_its_scheme(tmp_path: Path) -> None:
    one = made(tmp_path, {"url": "https://h/mcp", "headers": {"Authorization": "Bearer abc"}})
    assert one.headers == {"Authorization": "Bearer ${file:secrets/x.Authorization}"}
    assert one.secrets == {"x.Authorization": "abc"}


@pytest.mark.rule("import.references")
def test_each_client_s_references_become_the_gateway_s(tmp_path: Path) -> None:
    env = {
        "A": "${A_VALUE}",
        "B": "${env:B_VALUE}",
        "C": "${UNSET_HERE:-fallback}",
        "D": "pre-${A_VALUE}-post",
        "E": "${input:my-key}",
        "F": "${workspaceFolder}/x",
        "G": "${strange thing}",
        "H": "${userHome}",
    }
    one = made(tmp_path, {"command": "s", "env": env}, A_VALUE="1", B_VALUE="2")
    assert one.env == {
        "A": "${env:A_VALUE}",
        "B": "${env:B_VALUE}",
        "C": "fallback",
        "D": "pre-${env:A_VALUE}-post",
        "E": "${env:MY_KEY}",
        "F": f"{tmp_path}/project/x",
        "G": "$${strange thing}",
        "H": str(tmp_path),
    }
    assert one.notes == ["set the environment variable MY_KEY for E"]


def test_references_in_a_command_line_are_replaced_now_because_the_gateway_replaces_none_there(tmp_path: Path) -> None:
    one = made(tmp_path, {"command": "${BIN}/s", "args": ["${DIR}", "${NOPE}"]}, BIN="/opt", DIR="/data")
    assert (one.command, one.args) == ("/opt/s", ["/data", "${NOPE}"])
    assert any("NOPE" in note for note in one.notes)


def test_mcp_remote_is_replaced_by_a_connection_of_the_gateway_s_own(tmp_path: Path) -> None:
    raw = {
        "command": "npx",
        "args": ["-y", "mcp-remote@latest", "https://h/sse", "--header", "Authorization: Bearer t0k"],
    }
    one = made(tmp_path, raw)
    assert (one.command, one.url, one.transport) == (None, "https://h/sse", "sse")
    assert one.headers == {"Authorization": "Bearer ${file:secrets/x.Authorization}"}
    kept = made(
        tmp_path, {"command": "npx", "args": ["mcp-remote", "https://h/mcp", "--static-oauth-client-info", "{}"]}
    )
    assert kept.command == "npx"


def test_an_env_file_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# c\nexport A=1\nB = 'two words'\nMY_TOKEN=t\n")
    one = made(tmp_path, {"command": "s", "envFile": f"{tmp_path}/.env", "env": {"A": "9"}})
    assert one.env == {"A": "9", "B": "two words", "MY_TOKEN": "${file:secrets/x.MY_TOKEN}"}


def test_an_entry_that_says_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither command nor url"):
        made(tmp_path, {"type": "stdio"})


@pytest.mark.parametrize(
    ("raw", "own"),
    [
        ({"command": "/x/bin/gateway", "args": ["stdio", "--config", "c"]}, True),
        ({"command": "uvx", "args": ["mcp-execution-gateway==1.0", "stdio"]}, True),
        ({"command": "python", "args": ["-m", "gateway", "stdio"]}, True),
        ({"url": "http://localhost:8080/mcp"}, True),
        ({"command": "npx", "args": ["mcp-remote", "http://127.0.0.1:8080/mcp"]}, True),
        ({"url": "http://localhost:8081/mcp"}, False),
        ({"command": "server", "args": ["--stdio"]}, False),
        ({"command": "node", "args": ["server.js", "stdio"]}, False),
    ],
)
def test_the_gateway_knows_itself(tmp_path: Path, raw: dict[str, Any], own: bool) -> None:
    place = Place(client="cursor", file=tmp_path / "f", keys=("mcpServers",))
    assert is_gateway(Entry(place=place, name="n", raw=raw), loads("")) is own


def test_a_draft_knows_whether_a_server_is_there_already(tmp_path: Path) -> None:
    servers = loads("[servers.a]\ncommand='uvx'\nargs=['s']\n[servers.b]\nurl='https://h/mcp/'\n").servers
    assert made(tmp_path, {"command": "/usr/bin/uvx", "args": ["s"]}).is_server(servers["a"])
    assert not made(tmp_path, {"command": "uvx", "args": ["t"]}).is_server(servers["a"])
    assert made(tmp_path, {"url": "https://h/mcp"}).is_server(servers["b"])
    assert not made(tmp_path, {"url": "https://h/mcp"}).is_server(servers["a"])
