"""A client's servers are found where it keeps them and written into `servers.toml`."""

import json
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.clients.importing import Import, ServerUnreachable, gather, propose, write
from gateway.clients.known import ClientFileError, Surroundings, places
from gateway.config import Configuration, load
from gateway.model.call import Risk

TOOLS: list[dict[str, Any]] = [
    {"name": "read_it", "annotations": {"readOnlyHint": True}},
    {"name": "send it", "annotations": {"readOnlyHint": True, "openWorldHint": True}},
    {"name": "do_it"},
    {"name": "break_it", "annotations": {"readOnlyHint": False, "destructiveHint": True}},
]


async def list_tools(configuration: Configuration, server: str) -> Sequence[Mapping[str, Any]]:
    """Stands where the tool server would be: secrets must be resolvable by the time it is asked."""
    settings = configuration.servers[server]
    if server == "dead":
        raise ServerUnreachable("no such program")
    assert all(secret.reveal() for secret in settings.env.values())
    return TOOLS


def here(tmp_path: Path, platform: str = "linux") -> Surroundings:
    return Surroundings(home=tmp_path / "home", directory=tmp_path / "project", platform=platform, environment={})


def put(file: Path, value: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(value if isinstance(value, str) else json.dumps(value, indent=2))


SERVER = {"command": "uvx", "args": ["mcp-server-time"]}


@pytest.mark.rule("import.clients")
@pytest.mark.parametrize(
    ("client", "platform", "file", "content"),
    [
        ("claude-desktop", "linux", "home/.config/Claude/claude_desktop_config.json", {"mcpServers": {"t": SERVER}}),
        (
            "claude-desktop",
            "darwin",
            "home/Library/Application Support/Claude/claude_desktop_config.json",
            {"mcpServers": {"t": SERVER}},
        ),
        (
            "claude-desktop",
            "win32",
            "home/AppData/Roaming/Claude/claude_desktop_config.json",
            {"mcpServers": {"t": SERVER}},
        ),
        ("claude-code", "linux", "home/.claude.json", {"mcpServers": {"t": SERVER}, "other": 1}),
        ("claude-code", "linux", "home/.claude.json", {"projects": {"/p": {"mcpServers": {"t": SERVER}}, "/q": {}}}),
        ("claude-code", "linux", "project/.mcp.json", {"mcpServers": {"t": SERVER}}),
        ("cursor", "linux", "home/.cursor/mcp.json", {"mcpServers": {"t": SERVER}}),
        ("cursor", "linux", "project/.cursor/mcp.json", {"mcpServers": {"t": SERVER}}),
        ("vscode", "linux", "home/.config/Code/User/mcp.json", {"servers": {"t": SERVER}, "inputs": []}),
        ("vscode", "darwin", "home/Library/Application Support/Code/User/mcp.json", {"servers": {"t": SERVER}}),
        (
            "vscode",
            "linux",
            "project/.vscode/mcp.json",
            '{"servers": {"t": {"command": "uvx", "args": ["mcp-server-time"],},}, // x\n}',
        ),
    ],
)
def test_servers_are_found_where_each_client_keeps_them(
    tmp_path: Path, client: str, platform: str, file: str, content: object
) -> None:
    put(tmp_path / file, content)
    found = gather(places(client, here(tmp_path, platform)), None, here(tmp_path, platform))
    assert [(server.draft.name, server.draft.command) for server in found.servers] == [("t", "uvx")]


def test_a_file_of_any_client_can_be_named(tmp_path: Path) -> None:
    put(tmp_path / "a.json", {"mcpServers": {"t": SERVER}})
    put(tmp_path / "b.json", {"servers": {"t": SERVER}})
    put(tmp_path / "c.json", {"else": 1})
    put(tmp_path / "d.json", "{\n\n oops")
    for name in ("a.json", "b.json"):
        assert len(gather(places(str(tmp_path / name), here(tmp_path)), None, here(tmp_path)).servers) == 1
    for name, text in (
        ("c.json", "neither mcpServers nor servers"),
        ("d.json", "d.json:3: not JSON"),
        ("e.json", "no such file"),
    ):
        with pytest.raises(ClientFileError, match=text):
            places(str(tmp_path / name), here(tmp_path))


async def imported(tmp_path: Path, servers: Mapping[str, object], configuration: Configuration | None = None) -> Import:
    put(tmp_path / "client.json", {"mcpServers": servers})
    found = gather(places(str(tmp_path / "client.json"), here(tmp_path)), configuration, here(tmp_path))
    await propose(found, list_tools)
    return found


@pytest.mark.anyio
@pytest.mark.rule("import.proposed-risks")
async def test_every_tool_gets_a_risk_proposed_from_its_hints_and_marked(tmp_path: Path) -> None:
    found = await imported(tmp_path, {"Time": SERVER})
    configuration = write(found, tmp_path / "servers.toml")
    text = (tmp_path / "servers.toml").read_text()
    server = configuration.servers["time"]
    assert [server.risk_of(tool["name"], {}) for tool in TOOLS] == [Risk.READ, Risk.EXTERNAL, Risk.WRITE, Risk.WRITE]
    risks = [line for line in text.splitlines() if "risk =" in line]
    assert len(risks) == len(TOOLS)
    assert all("# proposed" in line for line in risks)
    assert load(tmp_path / "servers.toml").servers["time"] == server


@pytest.mark.anyio
@pytest.mark.rule("import.secrets-to-files")
async def test_secrets_lie_in_files_of_mode_0600_that_git_ignores(tmp_path: Path) -> None:
    found = await imported(tmp_path, {"gh": {"command": "s", "env": {"GITHUB_TOKEN": "ghp_secret1"}}})
    configuration = write(found, tmp_path / "servers.toml")
    assert "ghp_secret1" not in (tmp_path / "servers.toml").read_text()
    file = tmp_path / "secrets" / "gh.GITHUB_TOKEN"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert (tmp_path / "secrets" / ".gitignore").read_text() == "*\n"
    assert configuration.servers["gh"].env["GITHUB_TOKEN"].reveal() == "ghp_secret1"


@pytest.mark.anyio
async def test_a_server_that_cannot_be_asked_is_taken_over_with_the_reason(tmp_path: Path) -> None:
    found = await imported(tmp_path, {"dead": {"command": "none"}, "t": SERVER})
    configuration = write(found, tmp_path / "servers.toml")
    assert "# could not be asked for its tools, so all of them are write: no such program" in configuration.text
    assert configuration.servers["dead"].risk_of("any", {}) is Risk.WRITE
    assert configuration.servers["t"].tools


@pytest.mark.anyio
async def test_a_second_import_adds_only_what_is_new_and_leaves_the_rest_of_the_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "servers.toml"
    file.write_text("# mine\n[servers.mine]\ncommand = 'x' # keep")
    configuration = write(await imported(tmp_path, {"t": SERVER}, load(file)), file)
    assert configuration.text.startswith("# mine\n[servers.mine]\ncommand = 'x' # keep\n")
    again = await imported(tmp_path, {"t": SERVER, "u": {"url": "https://h/mcp"}, "t2": SERVER}, configuration)
    assert [server.draft.name for server in again.servers] == ["u"]
    assert again.skipped == [("t", "is there already, as t"), ("t2", "is there already, as t")]


@pytest.mark.anyio
async def test_names_that_collide_are_made_different(tmp_path: Path) -> None:
    found = await imported(tmp_path, {"a b": {"command": "1"}, "a.b": {"command": "2"}, "gateway": {"command": "3"}})
    assert [server.draft.name for server in found.servers] == ["a-b", "a-b-2", "gateway-2"]


@pytest.mark.anyio
async def test_hostile_names_stay_inside_their_strings(tmp_path: Path) -> None:
    evil = 'x"\n[agents]\n#\x7f'
    found = await imported(
        tmp_path, {evil: {"command": 'c"\n', "args": ['"]\n[agents]', "\x7f"], "env": {'k"\n': "v"}}}
    )
    configuration = write(found, tmp_path / "servers.toml")
    (server,) = configuration.servers.values()
    assert configuration.local_only
    assert (server.command, server.args) == ('c"\n', ('"]\n[agents]', "\x7f"))
    assert server.env['k"\n'].reveal() == "v"
