"""The gateway goes into a client's file, its servers go out, and everything comes back byte for byte."""

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from gateway.clients import installing
from gateway.clients.drafts import is_gateway
from gateway.clients.installing import InstallError, carry_out, plan, still_direct, undo
from gateway.clients.known import Entry, Place, Surroundings
from gateway.config import Configuration, key_digest, load

KEY = "kQ2vX0sU7bM4nY9zR1tW6cE3fG8hJ5pA"
DESKTOP = """{
  // my servers
  "mcpServers": {
    "time": {"command": "%s", "args": ["--clock"]},
    "other": {"command": "other-server"}
  },
  "globalShortcut": "Ctrl+X",   // mine
}
"""


def here(tmp_path: Path) -> Surroundings:
    return Surroundings(home=tmp_path / "home", directory=tmp_path / "project", platform="linux", environment={})


def program(tmp_path: Path, name: str = "time-server") -> Path:
    file = tmp_path / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("#!/usr/bin/env python3\n")
    file.chmod(0o755)
    return file


def configured(tmp_path: Path, extra: str = "") -> Configuration:
    file = tmp_path / "servers.toml"
    file.write_text(f'[servers.time]\ncommand = "{program(tmp_path)}"\nargs = ["--clock"]\n{extra}')
    return load(file)


def desktop(tmp_path: Path, text: str | None = None) -> Path:
    file = tmp_path / "home" / ".config" / "Claude" / "claude_desktop_config.json"
    file.parent.mkdir(parents=True)
    file.write_bytes((DESKTOP % program(tmp_path) if text is None else text).encode())
    file.chmod(0o640)
    return file


@pytest.mark.rule("install.moves-servers")
def test_the_gateway_goes_in_and_the_servers_that_it_has_go_out(tmp_path: Path) -> None:
    configuration, file = configured(tmp_path), desktop(tmp_path)
    made = plan("claude-desktop", configuration, here(tmp_path))
    assert [entry.name for entry in made.moved] == ["time"]
    assert [entry.name for entry in made.direct] == ["other"]
    backups = carry_out(made, tmp_path / "state")
    text = file.read_text()
    assert "// my servers" in text
    assert '"globalShortcut": "Ctrl+X",   // mine' in text
    assert '"time"' not in text
    assert '"other": {"command": "other-server"}' in text
    (backup,) = backups
    assert backup.read_text() == DESKTOP % program(tmp_path)
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.rule("install.absolute")
def test_everything_in_the_entry_is_absolute_and_every_command_resolves_on_its_path(tmp_path: Path) -> None:
    program(tmp_path, "bare-server")
    configuration = configured(
        tmp_path, "[servers.bare]\ncommand = 'bare-server'\n[servers.web]\nurl='https://h/mcp'\n"
    )
    desktop(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
        entry = plan("claude-desktop", configuration, here(tmp_path)).entry
    path = entry["env"]["PATH"]
    assert os.path.isabs(entry["command"])
    assert os.access(entry["command"], os.X_OK)
    assert os.path.isabs(entry["args"][entry["args"].index("--config") + 1])
    assert all(os.path.isabs(part) for part in path.split(os.pathsep))
    for command in ("bare-server", "python3"):
        assert shutil.which(command, path=path)


def test_a_command_that_is_not_there_stops_the_install(tmp_path: Path) -> None:
    file = desktop(tmp_path)
    before = file.read_bytes()
    with pytest.raises(InstallError, match=r"servers\.gone\.command: 'no-such-program' is not found"):
        plan("claude-desktop", configured(tmp_path, "[servers.gone]\ncommand='no-such-program'\n"), here(tmp_path))
    assert file.read_bytes() == before


@pytest.mark.rule("install.undo")
@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{}",
        '{"mcpServers":{}}',
        '\ufeff{\r\n\t"mcpServers": {}\r\n}\r\n',
        '{"a": "no servers"}\n\n\n',
        '{"mcpServers": {"x": {"command": "é"}}}',
    ],
)
def test_undo_gives_every_byte_back(tmp_path: Path, text: str | None) -> None:
    configuration, file = configured(tmp_path), desktop(tmp_path, text)
    before = file.read_bytes()
    carry_out(plan("claude-desktop", configuration, here(tmp_path)), tmp_path / "state")
    assert file.read_bytes() != before
    (done,) = undo("claude-desktop", tmp_path / "state")
    assert file.read_bytes() == before
    assert done.exactly
    with pytest.raises(InstallError, match="no install"):
        undo("claude-desktop", tmp_path / "state")


@pytest.mark.rule("install.undo")
def test_a_file_that_was_not_there_is_gone_again(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    carry_out(plan("cursor", configuration, here(tmp_path)), tmp_path / "state")
    file = tmp_path / "home" / ".cursor" / "mcp.json"
    assert list(json.loads(file.read_text())["mcpServers"]) == ["gateway"]
    undo("cursor", tmp_path / "state")
    assert not file.exists()


@pytest.mark.rule("install.undo")
def test_what_the_client_changed_since_stays(tmp_path: Path) -> None:
    configuration, file = configured(tmp_path), desktop(tmp_path)
    carry_out(plan("claude-desktop", configuration, here(tmp_path)), tmp_path / "state")
    file.write_text(file.read_text().replace("Ctrl+X", "Ctrl+Y"))
    (done,) = undo("claude-desktop", tmp_path / "state")
    text = file.read_text()
    assert not done.exactly
    assert "Ctrl+Y" in text
    assert "gateway" not in text
    assert '"time"' in text


def test_two_installs_are_undone_one_after_the_other(tmp_path: Path) -> None:
    configuration, file = configured(tmp_path), desktop(tmp_path)
    first = file.read_bytes()
    carry_out(plan("claude-desktop", configuration, here(tmp_path), keep_direct=True), tmp_path / "state")
    second = file.read_bytes()
    carry_out(plan("claude-desktop", configuration, here(tmp_path)), tmp_path / "state")
    undo("claude-desktop", tmp_path / "state")
    assert file.read_bytes() == second
    undo("claude-desktop", tmp_path / "state")
    assert file.read_bytes() == first


@pytest.mark.rule("install.keep-direct")
def test_keep_direct_leaves_the_servers(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    desktop(tmp_path)
    made = plan("claude-desktop", configuration, here(tmp_path), keep_direct=True)
    assert made.moved == []
    assert [entry.name for entry in made.direct] == ["time", "other"]


def test_claude_code_loses_its_servers_in_every_scope(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    time = {"type": "stdio", "command": str(program(tmp_path)), "args": ["--clock"]}
    user = tmp_path / "home" / ".claude.json"
    user.parent.mkdir()
    user.write_text(json.dumps({"numStartups": 4, "projects": {"/p": {"mcpServers": {"t": time}}}}, indent=2))
    project = tmp_path / "project" / ".mcp.json"
    project.parent.mkdir()
    project.write_text(json.dumps({"mcpServers": {"clock": time}}))
    carry_out(plan("claude-code", configuration, here(tmp_path)), tmp_path / "state")
    data = json.loads(user.read_text())
    assert data["numStartups"] == 4
    assert data["projects"] == {"/p": {"mcpServers": {}}}
    assert data["mcpServers"]["gateway"]["type"] == "stdio"
    assert json.loads(project.read_text()) == {"mcpServers": {}}
    assert still_direct(configuration, here(tmp_path)) == []


def test_with_agents_the_client_needs_one_and_its_key(tmp_path: Path) -> None:
    configuration = configured(tmp_path, f"[agents.desk]\nkey_sha256='{key_digest(KEY)}'\n")
    for agent, key, text in (
        (None, KEY, "--agent"),
        ("x", KEY, "--agent"),
        ("desk", None, "GATEWAY_AGENT_KEY"),
        ("desk", "wrong", "GATEWAY_AGENT_KEY"),
    ):
        with pytest.raises(InstallError, match=text):
            plan("cursor", configuration, here(tmp_path), agent=agent, agent_key=key)
    entry = plan("cursor", configuration, here(tmp_path), agent="desk", agent_key=KEY).entry
    assert entry["args"][-2:] == ["--agent", "desk"]
    assert entry["env"]["GATEWAY_AGENT_KEY"] == KEY


def test_a_file_that_changed_since_the_plan_is_not_overwritten(tmp_path: Path) -> None:
    configuration, file = configured(tmp_path), desktop(tmp_path)
    made = plan("claude-desktop", configuration, here(tmp_path))
    file.write_text("{}")
    with pytest.raises(InstallError, match="has just changed"):
        carry_out(made, tmp_path / "state")
    assert file.read_text() == "{}"


def test_from_the_cache_of_uvx_the_client_gets_uvx_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = str(tmp_path / "cache" / "uv" / "archive-v0" / "abc")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(InstallError, match="uvx"):
        installing.program(cache)
    uvx = program(tmp_path, "uvx")
    command, arguments = installing.program(cache)
    assert command == str(uvx)
    assert arguments[0].startswith("mcp-execution-gateway==")
    entry = Entry(
        place=Place(client="cursor", file=tmp_path / "f", keys=()),
        name="g",
        raw={"command": command, "args": [*arguments, "stdio"]},
    )
    assert is_gateway(entry)


@pytest.mark.rule("doctor.bypass")
def test_what_a_client_still_reaches_directly_is_named(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    desktop(tmp_path)
    assert [(entry.name, known) for entry, known in still_direct(configuration, here(tmp_path))] == [
        ("time", True),
        ("other", False),
    ]
