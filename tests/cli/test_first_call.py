"""From nothing to the first allowed call, as a user with only the package goes: `init --from`, `install`, the client starts it."""

import json
import time
from pathlib import Path

import pytest

from gateway.config import key_digest
from tests.cli.programs import gateway, stdio_client

TWO_MINUTES = 120


def desktop(home: Path) -> Path:
    """A desktop client's file with three servers: two programs from PyPI."""
    file = home / ".config" / "Claude" / "claude_desktop_config.json"
    file.parent.mkdir(parents=True)
    servers = {
        "Time": {"command": "mcp-server-time", "args": ["--local-timezone", "UTC"]},
        "git": {"command": "mcp-server-git", "args": [], "env": {"GIT_TOKEN": "not-so-secret"}},
        "files": {"command": "mcp-server-time", "args": ["--local-timezone", "Asia/Tokyo"]},
    }
    file.write_text(json.dumps({"mcpServers": servers, "globalShortcut": "Ctrl+Space"}, indent=2))
    return file


@pytest.mark.rule("start.two-minutes")
@pytest.mark.rule("install.as-desktop-clients-do")
def test_from_a_desktop_configuration_with_three_servers_to_the_first_allowed_call_in_two_minutes(
    tmp_path: Path,
) -> None:
    began = time.monotonic()
    home = tmp_path / "home"
    file = desktop(home)
    before = file.read_bytes()
    where = tmp_path / "gw"
    where.mkdir()

    init = gateway("init", "--from", "claude-desktop", "--json", home=home, cwd=where, seconds=TWO_MINUTES)
    assert init.code == 0, init.err
    made = init.json()
    assert made["servers"] == ["time", "git", "files"]

    install = gateway("install", "claude-desktop", "--json", home=home, cwd=where)
    assert install.code == 0, install.err
    assert sorted(install.json()["moved"]) == ["Time", "files", "git"]
    client = json.loads(file.read_text())
    assert list(client["mcpServers"]) == ["gateway"]
    entry = client["mcpServers"]["gateway"]

    # As desktop clients start it: in `/`, with HOME and what the file says.
    with stdio_client(entry["command"], entry["args"], {"HOME": str(home), **entry["env"]}, tmp_path / "log") as agent:
        assert "serverInfo" in agent.initialize()["result"]
        deadline = time.monotonic() + 60
        while True:
            answer = agent.call("time__get_current_time", {"timezone": "Asia/Tokyo"})
            if "result" in answer and not answer["result"].get("isError"):
                break
            assert time.monotonic() < deadline, (answer, (tmp_path / "log").read_text()[-3000:])
            time.sleep(0.2)
        assert "Asia/Tokyo" in json.dumps(answer["result"])
    assert time.monotonic() - began < TWO_MINUTES
    assert (where / "gateway.db").exists()
    assert not Path("/gateway.db").exists()

    undone = gateway("install", "claude-desktop", "--undo", home=home, cwd=where)
    assert undone.code == 0, undone.err
    assert file.read_bytes() == before


@pytest.mark.rule("init.operator-key")
def test_init_shows_the_operator_s_key_once_and_stores_its_digest(tmp_path: Path) -> None:
    ran = gateway("init", "--operator", "ann", home=tmp_path, cwd=tmp_path)
    assert ran.code == 0, ran.err
    key = next(line for line in ran.out.splitlines() if line.startswith("operator ann")).rpartition(" ")[2]
    text = (tmp_path / "servers.toml").read_text()
    assert len(key) >= 40
    assert key not in text
    assert key_digest(key) in text
    assert "[operators.ann]" in text
    assert "same-call-loop" in text
    assert "identical_calls = 20" in text
    assert list((tmp_path / "policies").glob("*.rego"))


def test_what_init_wrote_passes_check(tmp_path: Path) -> None:
    gateway("init", home=tmp_path, cwd=tmp_path)
    ran = gateway("check", home=tmp_path, cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert ran.err == ""


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "servers.toml").write_text("# mine\n")
    ran = gateway("init", home=tmp_path, cwd=tmp_path)
    assert ran.code == 2
    assert ran.err.splitlines() == [f"{tmp_path / 'servers.toml'}: is there already; name another with --config PATH"]
    assert (tmp_path / "servers.toml").read_text() == "# mine\n"
    assert not (tmp_path / "policies").exists()


@pytest.mark.rule("import.table")
def test_import_prints_the_proposed_risks_as_a_table(tmp_path: Path) -> None:
    desktop(tmp_path)
    (tmp_path / "servers.toml").write_text("[servers.mine]\ncommand = 'x'\n")
    ran = gateway("import", "claude-desktop", home=tmp_path, cwd=tmp_path)
    assert ran.code == 0, ran.err
    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[0][:3] == ["TOOL", "PROPOSED", "RISK"]
    assert ["time/get_current_time", "read"] in [line[:2] for line in lines]
    assert ["git/git_commit", "write"] in [line[:2] for line in lines]
    text = (tmp_path / "servers.toml").read_text()
    assert text.startswith("[servers.mine]\ncommand = 'x'\n")
    assert text.count("# proposed") == len(lines) - 1
    assert "not-so-secret" not in text + ran.out + ran.err
    again = gateway("import", "claude-desktop", "--dry-run", "--json", home=tmp_path, cwd=tmp_path)
    assert again.json()["servers"] == []


@pytest.mark.rule("doctor.bypass")
def test_doctor_names_what_a_client_still_reaches_directly(tmp_path: Path) -> None:
    desktop(tmp_path)
    file = tmp_path / "servers.toml"
    file.write_text("[servers.time]\ncommand = 'mcp-server-time'\nargs = ['--local-timezone', 'UTC']\n")
    ran = gateway("doctor", "--json", home=tmp_path, cwd=tmp_path)
    assert ran.code == 1, ran.err
    found = {(one["state"], one["about"]) for one in ran.json() if "directly" in one["text"]}
    assert found == {("failed", "claude-desktop"), ("warning", "claude-desktop")}
    assert any("Time" in one["text"] and "past the gateway" in one["text"] for one in ran.json())


@pytest.mark.rule("doctor.sqlite")
def test_doctor_warns_of_an_sqlite_that_can_corrupt(tmp_path: Path) -> None:
    import sqlite3

    (tmp_path / "servers.toml").write_text("")
    found = [one for one in gateway("doctor", "--json", home=tmp_path, cwd=tmp_path).json() if one["about"] == "sqlite"]
    (one,) = found
    assert one["state"] == ("warning" if sqlite3.sqlite_version_info < (3, 51, 3) else "ok")
    assert sqlite3.sqlite_version in one["text"]


def test_import_needs_none_of_the_secrets_that_the_gateway_runs_with(tmp_path: Path) -> None:
    desktop(tmp_path)
    (tmp_path / "servers.toml").write_text("[agents.a]\nkey = '${env:ONLY_WHERE_IT_RUNS}'\n")
    ran = gateway("import", "claude-desktop", "--json", home=tmp_path, cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert len(ran.json()["servers"]) == 3
    assert gateway("check", home=tmp_path, cwd=tmp_path).code == 2
