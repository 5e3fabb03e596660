"""What all commands share: exit codes, one-line errors, `--config` everywhere, a quick start."""

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli.frame import COMMANDS, SECTIONS
from tests.cli.programs import gateway


@pytest.mark.rule("cli.exit-codes")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["chek"], "gateway: there is no command 'chek'; did you mean 'check'?"),
        (["check", "--nope"], "gateway check: No such option"),
        (["serve", "--port", "x"], "gateway serve: Invalid value for '--port'"),
        (["check"], "there is no configuration"),
        (["check", "--config", "none.toml"], "none.toml: cannot be read: No such file or directory"),
        (["--config", "none.toml", "check"], "none.toml: cannot be read: No such file or directory"),
        (["import"], "gateway import: Missing argument 'SOURCE'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], says: str) -> None:
    ran = gateway(*arguments, home=tmp_path, cwd=tmp_path)
    assert ran.code == 2
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    assert line.startswith(says)


@pytest.mark.rule("cli.exit-codes")
def test_a_wrong_configuration_names_file_line_key_and_mend_and_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "servers.toml").write_text("[servers.x]\ncomand = 'a'\n[listen]\nhost = '0.0.0.0'\n")
    ran = gateway("check", home=tmp_path, cwd=tmp_path)
    assert ran.code == 2
    assert ran.err.splitlines() == ['servers.toml:2: servers.x.comand: unknown key; did you mean "command"?']


@pytest.mark.rule("cli.config-everywhere")
def test_every_command_takes_config(tmp_path: Path) -> None:
    for name in COMMANDS:
        ran = gateway(name, "--help", home=tmp_path)
        assert ran.code == 0, (name, ran.err)
        assert "--config PATH" in ran.out, name


def test_the_overview_names_every_command_once() -> None:
    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(COMMANDS)


def test_the_overview_starts_quickly_because_no_command_is_imported(tmp_path: Path) -> None:
    code = "import sys; from gateway.cli.frame import gateway; gateway(['--help'], standalone_mode=False); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    for module in ("gateway.wiring", "mcp", "pydantic", "cryptography", "gateway.rego"):
        assert f"'{module}'" not in done.stdout
    assert "Start:" in done.stdout


def test_python_dash_m_is_the_command_too(tmp_path: Path) -> None:
    for module in ("gateway", "gateway.cli"):
        done = subprocess.run(
            [sys.executable, "-m", module, "--version"], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.strip()


@pytest.mark.rule("cli.relative-to-file")
def test_a_configuration_is_used_the_same_way_from_everywhere(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "p.rego").write_text(
        'package gateway\ndefault allow := false\ndecision := {"allow": allow}\n'
    )
    file = tmp_path / "servers.toml"
    file.write_text("[policy]\nengine = 'embedded:policies'\n[servers.x]\ncommand = './bin/x'\n")
    here = gateway("check", "--json", home=tmp_path, cwd=tmp_path)
    root = gateway("check", "--json", "--config", file, home=tmp_path, cwd="/")
    variable = gateway("check", "--json", home=tmp_path, cwd="/", GATEWAY_CONFIG=str(file))
    assert here.code == 0, here.err
    assert here.json() == root.json() == variable.json()


def test_stdio_without_a_key_is_refused_where_there_are_agents(tmp_path: Path) -> None:
    from gateway.config import key_digest

    key = "kQ2vX0sU7bM4nY9zR1tW6cE3fG8hJ5pA"
    (tmp_path / "servers.toml").write_text(f"[agents.a]\nkey_sha256 = '{key_digest(key)}'\n")
    cases: list[tuple[list[str], dict[str, str], str]] = [
        ([], {}, "name one with --agent"),
        (["--agent", "a"], {}, "GATEWAY_AGENT_KEY is not set"),
        (["--agent", "a"], {"GATEWAY_AGENT_KEY": "wrong"}, "not the key of"),
        (["--agent", "b"], {"GATEWAY_AGENT_KEY": key}, "not the key of"),
    ]
    for arguments, extra, says in cases:
        ran = gateway("stdio", *arguments, home=tmp_path, cwd=tmp_path, seconds=60, **extra)
        assert (ran.code, ran.out) == (2, "")
        assert says in ran.err
