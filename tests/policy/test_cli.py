"""`gateway policy`: output and exit codes as OPA's users know them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.policy.opa_server import opa_command, run_opa

ROOT = Path(__file__).parents[2]
SHIPPED = str(ROOT / "policies")


def gateway_policy(
    *arguments: str, cwd: Path | None = None, input: str | None = None
) -> subprocess.CompletedProcess[str]:
    """One `gateway policy` command, run to its end."""
    environment = {name: value for name, value in os.environ.items() if name != "GATEWAY_CONFIG"}
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", "policy", *arguments],
        cwd=cwd or ROOT,
        input=input,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**environment, "PYTHONPATH": str(ROOT)},
    )


def question(risk: str = "read", roles: tuple[str, ...] = ("reader",)) -> dict[str, Any]:
    return {
        "subject": {"roles": list(roles)},
        "action": {"name": "tools/call"},
        "resource": {"id": "git/x", "risk": risk},
    }


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """The shipped policies in a directory of one's own."""
    directory = tmp_path / "policies"
    directory.mkdir()
    for file in (ROOT / "policies").iterdir():
        (directory / file.name).write_text(file.read_text())
    return directory


@pytest.mark.rule("policy.cli-check")
def test_check_says_nothing_of_good_policies_and_names_every_fault_of_bad_ones(policies: Path) -> None:
    good = gateway_policy("check", "policies", cwd=policies.parent)
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
    (policies / "mine.rego").write_text("package gateway\n\nallow if x == 1\n\nallow if y == 1\n")
    bad = gateway_policy("check", "policies", cwd=policies.parent)
    assert bad.returncode == 1
    assert bad.stderr.splitlines() == [
        "2 errors occurred:",
        "policies/mine.rego:3:10: rego_unsafe_var_error: var x is unsafe",
        "policies/mine.rego:5:10: rego_unsafe_var_error: var y is unsafe",
    ]
    found = json.loads(gateway_policy("check", "--json", "policies", cwd=policies.parent).stdout)
    assert found["errors"][0] == {
        "message": "var x is unsafe",
        "code": "rego_unsafe_var_error",
        "location": {"file": "policies/mine.rego", "row": 3, "col": 10},
    }


@pytest.mark.rule("policy.cli-check")
def test_check_without_paths_checks_the_configurations_policies(policies: Path) -> None:
    elsewhere = policies.parent / "servers.toml"
    (policies.parent / "mine").mkdir()
    elsewhere.write_text('[policy]\nengine = "embedded:mine"\n[servers.x]\ncommand = "true"\n')
    empty = gateway_policy("check", cwd=policies.parent)
    assert empty.returncode == 1
    assert "there is no policy" in empty.stderr
    elsewhere.write_text('[policy]\nengine = "embedded:policies"\n[servers.x]\ncommand = "true"\n')
    assert gateway_policy("check", cwd=policies.parent).returncode == 0


@pytest.mark.rule("policy.cli-warnings")
def test_check_warns_of_clocks_and_chance_where_the_engine_is_opa(policies: Path) -> None:
    (policies / "mine.rego").write_text("package gateway\n\nallow if time.now_ns() < 0\n")
    assert gateway_policy("check", "policies", cwd=policies.parent).stderr == ""
    (policies.parent / "servers.toml").write_text('[policy]\nengine = "opa+http://127.0.0.1:8181"\n')
    found = gateway_policy("check", cwd=policies.parent)
    assert found.returncode == 0
    assert found.stderr.startswith("policies/mine.rego:3:10: warning: time.now_ns ")


def test_check_warns_of_data_that_its_name_keeps_out(policies: Path) -> None:
    (policies / "roles.json").write_text("{}")
    assert "policies/roles.json: warning: not loaded" in gateway_policy("check", "policies", cwd=policies.parent).stderr


TESTS = """package mine_test

import data.gateway

test_pass if gateway.allow with input as {"subject": {"roles": ["reader"]}, "action": {"name": "tools/call"}, "resource": {"risk": "read"}}

test_fail if {
	print("seen", 1)
	gateway.allow with input as {}
}

test_error if to_number("x") == 1

todo_test_later if false
"""


@pytest.mark.rule("policy.cli-test")
def test_test_runs_test_rules_and_exits_as_opa_does(policies: Path) -> None:
    cwd = policies.parent
    good = gateway_policy("test", "policies", cwd=cwd)
    assert (good.returncode, good.stdout) == (0, "PASS: 6/6\n")
    (policies / "mine_test.rego").write_text(TESTS)
    bad = gateway_policy("test", "policies", cwd=cwd)
    assert bad.returncode == 2
    lines = bad.stdout.splitlines()
    assert "policies/mine_test.rego:7:" in lines
    assert any(line.startswith("data.mine_test.test_fail: FAIL (") for line in lines)
    assert "  seen 1" in lines
    assert any(line.startswith("data.mine_test.test_error: ERROR (") for line in lines)
    assert "data.mine_test.todo_test_later: SKIPPED" in lines
    assert lines[-4:] == ["PASS: 7/10", "FAIL: 1/10", "ERROR: 1/10", "SKIPPED: 1/10"]
    assert not any("test_pass" in line for line in lines)
    (policies / "mine_test.rego").write_text("package mine_test {")
    broken = gateway_policy("test", "policies", cwd=cwd)
    assert broken.returncode == 1
    assert "rego_parse_error" in broken.stderr


@pytest.mark.rule("policy.cli-test")
def test_verbose_run_and_json_choose_what_is_printed(policies: Path) -> None:
    (policies / "mine_test.rego").write_text(TESTS)
    verbose = gateway_policy("test", "-v", "--run", r"mine_test\.test_pass$", "policies", cwd=policies.parent)
    assert verbose.returncode == 0
    assert "data.mine_test.test_pass: PASS (" in verbose.stdout
    assert verbose.stdout.splitlines()[-1] == "PASS: 1/1"
    found = json.loads(gateway_policy("test", "--format", "json", "policies", cwd=policies.parent).stdout)
    named = {one["name"]: one for one in found}
    assert named["test_fail"]["fail"] is True
    assert "error" in named["test_error"]
    assert named["todo_test_later"]["skip"] is True
    assert named["test_pass"]["location"] == {"file": "policies/mine_test.rego", "row": 5, "col": 1}


@pytest.mark.rule("policy.cli-test")
def test_coverage_is_opas_report_and_its_threshold_decides(policies: Path) -> None:
    found = gateway_policy("test", "--coverage", "policies", cwd=policies.parent)
    assert found.returncode == 0
    report = json.loads(found.stdout)
    assert report["coverage"] > 90
    assert "policies/access.rego" in report["files"]
    (policies / "more.rego").write_text("package gateway\n\nallow if {\n\tinput.version == 7\n\tinput.meta.never\n}\n")
    low = gateway_policy("test", "--threshold", "100", "policies", cwd=policies.parent)
    assert low.returncode == 2
    assert "Code coverage threshold not met" in low.stderr


@pytest.mark.rule("policy.cli-eval")
def test_eval_answers_as_opa_does(policies: Path) -> None:
    file = policies.parent / "input.json"
    file.write_text(json.dumps(question("write")))
    found = gateway_policy("eval", "-d", "policies", "-i", "input.json", "data.gateway.decision", cwd=policies.parent)
    assert found.returncode == 0
    (solution,) = json.loads(found.stdout)["result"]
    (expression,) = solution["expressions"]
    assert expression["text"] == "data.gateway.decision"
    assert expression["value"]["allow"] is True
    assert [one["code"] for one in expression["value"]["hold"]] == ["write"]
    stdin = gateway_policy("eval", "-I", "-f", "raw", "data.gateway.allow", input=json.dumps(question("external")))
    assert stdin.stdout == "false\n"


@pytest.mark.rule("policy.cli-eval")
@pytest.mark.parametrize(
    "arguments",
    [
        ["1 > 2"],
        ["x := 1; x > 0; 1 in [1, 2]"],
        ["some x in [1, 2]"],
        ["data.nope"],
        ["data.nope", "--fail"],
        ["1 == 1", "--fail-defined"],
        ["not false"],
        ['"é\\n"', "--format", "raw"],
        ["[x | some x in {3, 1}]", "--format", "values"],
        ["x = 1; y = [x]", "--format", "bindings"],
        ["foo(1)"],
        ["1 +"],
    ],
)
def test_eval_prints_and_exits_like_the_real_opa(arguments: list[str], policies: Path) -> None:
    ours = gateway_policy("eval", "-d", "policies", *arguments, cwd=policies.parent)
    theirs = run_opa("eval", "-d", "policies", *arguments, cwd=policies.parent)
    assert ours.returncode == theirs.returncode
    if theirs.returncode == 2:
        assert [one["code"] for one in json.loads(ours.stdout)["errors"]] == [
            one["code"] for one in json.loads(theirs.stdout)["errors"]
        ]
    elif "raw" in arguments or "bindings" in arguments:
        assert ours.stdout.split() == theirs.stdout.split()
    else:
        assert json.loads(ours.stdout) == json.loads(theirs.stdout)


def test_eval_of_an_input_that_is_no_json_is_wrong_usage(policies: Path) -> None:
    assert gateway_policy("eval", "-I", "data", input="{").returncode == 2
    assert gateway_policy("eval", "-i", "absent.json", "data").returncode == 2


@pytest.mark.rule("policy.cli-bench")
def test_bench_measures(policies: Path) -> None:
    found = gateway_policy("bench", "-I", "--count", "50", "--json", "-d", SHIPPED, input=json.dumps(question()))
    assert found.returncode == 0
    rows = json.loads(found.stdout)
    assert rows["samples"] == 50
    assert 0 < rows["histogram_timer_rego_query_eval_ns_min"] <= rows["ns/op"]


@pytest.mark.rule("policy.cli-doctor")
def test_doctor_finds_no_difference_in_the_shipped_policies(policies: Path) -> None:
    opa_command()
    found = gateway_policy("doctor", "policies", cwd=policies.parent)
    assert found.returncode == 0, found.stdout
    assert "tests: 6 of 6 alike" in found.stdout
    assert "data.gateway.decision: 60 of 60 answers alike" in found.stdout
    assert found.stdout.splitlines()[-1] == "no difference"


@pytest.mark.rule("policy.cli-doctor")
def test_doctor_reports_a_difference(policies: Path) -> None:
    """Another OPA than the real one: it answers that nothing is allowed."""
    other = policies.parent / "opa"
    other.write_text(
        f"""#!{sys.executable}
import json, sys
match sys.argv[1]:
    case "version": print("Version: 0.0.1")
    case "test": print("[]")
    case "eval": print(json.dumps({{"result": [{{"expressions": [{{"value": {{}}}}]}}]}}))
"""
    )
    other.chmod(0o755)
    found = gateway_policy("doctor", "--opa", str(other), "policies", cwd=policies.parent)
    assert found.returncode == 1
    assert (
        "DIFFERENT: data.gateway_test.test_a_writer_writes is PASS on the embedded engine and absent on OPA"
        in found.stdout
    )
    assert "undefined on OPA" in found.stdout
    assert gateway_policy("doctor", "--opa", "/nowhere/opa", "policies", cwd=policies.parent).returncode == 1
