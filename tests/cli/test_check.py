"""`check` finds what is wrong before the gateway starts, or says that nothing is."""

import sys
from pathlib import Path

import pytest

from gateway.config import key_digest
from tests.cli.programs import Ran, gateway

KEY = "kQ2vX0sU7bM4nY9zR1tW6cE3fG8hJ5pA"
OPERATOR = f"[operators.ann]\nkey_sha256 = '{key_digest(KEY)}'\nrole = 'approver'\ngroups = ['finance']\n"
ALLOW = 'package gateway\n\ndefault allow := false\n\ndecision := {"allow": allow, "hold": hold}\n'


def check(tmp_path: Path, *arguments: str) -> Ran:
    return gateway("check", *arguments, home=tmp_path, cwd=tmp_path, seconds=120)


def policies(tmp_path: Path, text: str) -> None:
    (tmp_path / "policies").mkdir(exist_ok=True)
    (tmp_path / "policies" / "p.rego").write_text(text)


@pytest.mark.rule("check.policies")
def test_policies_that_do_not_load_are_told_by_file_line_and_column_and_exit_with_2(tmp_path: Path) -> None:
    (tmp_path / "servers.toml").write_text("")
    policies(tmp_path, "package gateway\n\nallow if input.subject.role == 1\n")
    ran = check(tmp_path)
    assert ran.code == 2
    assert ran.out == ""
    assert "policies/p.rego:3:" in ran.err


@pytest.mark.rule("check.undecidable-holds")
def test_holds_that_nobody_could_decide_are_warned_of(tmp_path: Path) -> None:
    hold = (
        ALLOW
        + 'hold contains {"code": "c", "reason": "r", "approvers": ["group:finance"]} if input.resource.risk == "write"\n'
    )
    policies(tmp_path, hold)
    tool = "[servers.x]\ncommand = 'x'\n[servers.x.tools.t]\napproval = 'hold'\n"
    (tmp_path / "servers.toml").write_text(tool)
    warnings = check(tmp_path, "--json").json()["warnings"]
    assert [warning.partition(": ")[0] for warning in warnings] == ["servers.x.tools.t.approval", "p.rego", "p.rego"]
    (tmp_path / "servers.toml").write_text(tool + OPERATOR)
    assert check(tmp_path, "--json").json()["warnings"] == []
    (tmp_path / "servers.toml").write_text(OPERATOR.replace("'finance'", "'ops'"))
    assert check(tmp_path, "--json").json()["warnings"] == [
        'p.rego: "group:finance" is the group of no operator who may approve'
    ]


@pytest.mark.rule("check.reports-collisions")
def test_what_cannot_be_offered_is_reported_once_servers_are_connected(tmp_path: Path) -> None:
    server = tmp_path / "server.py"
    server.write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    m = json.loads(line)\n"
        "    if m.get('method') == 'initialize':\n"
        "        r = {'protocolVersion': '2025-11-25', 'capabilities': {'tools': {}}, 'serverInfo': {'name': 's', 'version': '1'}}\n"
        "    elif m.get('method') == 'tools/list':\n"
        "        r = {'tools': [{'name': 'same', 'inputSchema': {'type': 'object'}}, {'name': 'bad', 'inputSchema': 7}]}\n"
        "    elif 'id' in m:\n"
        "        print(json.dumps({'jsonrpc': '2.0', 'id': m['id'], 'error': {'code': -32601, 'message': 'no'}}), flush=True)\n"
        "        continue\n"
        "    else:\n"
        "        continue\n"
        "    print(json.dumps({'jsonrpc': '2.0', 'id': m['id'], 'result': r}), flush=True)\n"
    )
    table = f"command = '{sys.executable}'\nargs = ['{server}']\n"
    (tmp_path / "servers.toml").write_text(
        f"[gateway]\ntool_names = '{{server}}__{{tool}}'\n[servers.a]\n{table}[servers.gone]\ncommand = 'no-such-program'\n"
    )
    ran = check(tmp_path, "--connect", "--json")
    assert ran.code == 1
    found = ran.json()
    assert list(found["unavailable"]) == ["gone"]
    assert [(item["server"], item["name"]) for item in found["removed"]] == [("a", "bad")]
    assert check(tmp_path).code == 0
