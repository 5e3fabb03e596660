"""Recorded questions put to a candidate policy: what is reproduced, what changes, and what nobody can say."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.replay.reading import matters, reads
from tests.gateway_process import PROGRAM
from tests.policy.opa_server import opa_server
from tests.running import execute, running, server_table
from tests.scripted_server import Scripted, tool

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "session.jsonl"

HEAD = "package gateway\n\n"
DECISION = 'decision := {"allow": allow, "deny": deny, "hold": hold, "obligations": obligations}\n'
EMPTY = (
    "default allow := false\ndeny contains {} if false\nhold contains {} if false\nobligations contains {} if false\n"
)

OLD = (
    HEAD
    + DECISION
    + EMPTY
    + """allow if true
deny contains {"code": "too_many", "message": "too many"} if input.arguments.limit > 5
hold contains {"code": "ask", "reason": "ask first"} if input.arguments.big
obligations contains {"id": "set_argument", "path": "limit", "value": 3} if input.arguments.limit == 4
"""
)


def run(*arguments: str, code: int, cwd: Path | None = None) -> str:
    done = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=90, cwd=cwd)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def candidate(directory: Path, text: str) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "gateway.rego").write_text(text)
    return str(directory)


async def recorded(directory: Path, *, more: str = "") -> Path:
    """A store with calls that the old policy allowed, denied, held and changed."""
    server = Scripted(directory / "server", {"tools": [tool("look"), tool("write")]})
    text = server_table(server, more='risk = "read"') + "\n[approvals]\ninline_wait_seconds = 0\n" + more
    async with running(directory, text, policies={"gateway.rego": OLD}) as runtime:
        for arguments in (
            {"limit": 1, "password": "hunter2"},
            {"limit": 4},
            {"limit": 9, "password": "hunter2"},
            {"big": True},
            {"limit": 2},
        ):
            await execute(runtime, "s__look", arguments)
        await execute(runtime, "s__nothing")
    return directory / "servers.toml"


def judged(config: Path, policies: str, *, code: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        run("policy", "backtest", "--config", str(config), "--policies", policies, "--json", code=code)
    )
    return found


@pytest.mark.anyio
@pytest.mark.rule("replay.reproduces")
async def test_the_old_policy_reproduces_every_decision_and_decides_nothing_otherwise(tmp_path: Path) -> None:
    config = await recorded(tmp_path)
    found = judged(config, candidate(tmp_path / "same", OLD), code=0)
    assert (found["calls"], found["not_asked"], found["judged"]) == (6, 1, 5)
    assert found["reproduced"] == 6  # the one whose arguments it set was asked about twice
    assert found["not_reproduced"] == []
    assert found["differences"] == found["undecidable"] == []


@pytest.mark.anyio
@pytest.mark.rule("replay.backtest")
async def test_what_becomes_allowed_denied_and_held_is_said_with_its_call_and_rule(tmp_path: Path) -> None:
    config = await recorded(tmp_path)
    text = OLD.replace("input.arguments.limit > 5", "input.arguments.limit == 1").replace(
        "if input.arguments.big", "if input.arguments.limit == 2"
    )
    found = judged(config, candidate(tmp_path / "other", text), code=1)
    changes = {(each["was"], each["now"], each["code"]): each["calls"] for each in found["changes"]}
    assert changes == {
        ("allow", "deny", "too_many"): 1,
        ("deny", "allow", "too_many"): 1,
        ("hold", "allow", "ask"): 1,
        ("allow", "hold", "ask"): 1,
    }
    assert found["newly_allowed"] == 2
    assert found["reproduced"] == 6
    denied = next(each for each in found["differences"] if each["now"]["decision"] == "deny")
    assert denied["now"]["rules"] == [{"code": "too_many", "message": "too many"}]
    shown = run("calls", "show", denied["call_id"], "--config", str(config), code=0)
    assert "COMPLETED" in shown


@pytest.mark.anyio
@pytest.mark.rule("replay.backtest")
async def test_arguments_that_the_candidate_sets_are_judged_again(tmp_path: Path) -> None:
    config = await recorded(tmp_path)
    text = OLD.replace('"value": 3} if input.arguments.limit == 4', '"value": 9} if input.arguments.limit == 2')
    found = judged(config, candidate(tmp_path / "sets", text), code=0)
    [change] = found["changes"]
    assert (change["was"], change["now"], change["code"]) == ("allow", "deny", "too_many")


@pytest.mark.anyio
@pytest.mark.rule("replay.undecidable")
async def test_a_call_whose_erased_part_the_candidate_reads_is_undecidable_and_never_judged(tmp_path: Path) -> None:
    config = await recorded(tmp_path, more='[recording]\nredact = ["**.password"]\n')
    assert b"hunter2" not in (tmp_path / "gateway.db").read_bytes()
    assert judged(config, candidate(tmp_path / "same", OLD), code=0)["undecidable"] == []
    text = OLD + 'deny contains {"code": "stars", "message": "!"} if input.arguments.password == "***"\n'
    found = judged(config, candidate(tmp_path / "reads", text), code=1)
    assert len(found["undecidable"]) == 2
    assert "arguments.password" in found["undecidable"][0]["why"]
    assert found["differences"] == []


@pytest.mark.rule("replay.undecidable")
@pytest.mark.parametrize(
    ("rule", "looks"),
    [
        ("input.arguments.user == 1", False),
        ("input.arguments.password == 1", True),
        ("input.arguments[_] == 1", True),
        ("x := input.arguments; x.password == 1", True),
        ("some k; input.arguments[k].deep == 1", True),
        ('object.get(input.arguments, "password", 1) == 1', True),
        ("walk(input, [_, 1])", True),
        ("x := input; x.arguments.user == 1", True),
        ("f(1) with input.arguments.password as 2", False),
        ("every v in input.arguments { v == 1 }", True),
        ("input.arguments.password.inner == 1", True),
        ("input.meta.password == 1", False),
        ('x := sprintf("%v", [input["arguments"]]); x == ""', True),
    ],
)
def test_what_a_policy_looks_at_is_found_in_its_text(rule: str, looks: bool) -> None:
    found = reads({"a.rego": f"package gateway\n\nallow if {{ {rule} }}\n"})
    assert matters([("arguments", "password")], found) is looks


def test_an_import_of_a_part_of_the_question_reads_it() -> None:
    found = reads({"a.rego": "package gateway\n\nimport input.arguments as args\n\nallow if args.user == 1\n"})
    assert matters([("arguments", "password")], found)


@pytest.mark.rule("replay.backtest-example")
def test_the_recording_of_the_repository_is_judged_as_the_readme_says(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    said = run(
        *("policy", "backtest", "--recording", str(EXAMPLE), "--policies", "docs/examples/candidate"),
        *("--html", str(page)),
        code=1,
        cwd=ROOT,
    )
    assert said.startswith("the old policy reproduces 12 of 12 recorded decisions\n")
    assert "3      local  time/get_current_time  allowed  denied   only_utc" in said
    assert said.endswith("newly allowed: 2\n")
    text = page.read_text()
    assert "<svg" in text
    assert "http" not in text.replace("http-equiv", "")
    assert "<script" not in text
    run("policy", "backtest", "--recording", str(EXAMPLE), "--policies", "policies", code=0, cwd=ROOT)
    run("replay", "rejudge", str(EXAMPLE), "--policies", "policies", code=0, cwd=ROOT)


def test_a_policy_that_was_not_kept_is_said_to_be_missing(tmp_path: Path) -> None:
    lines = EXAMPLE.read_bytes().splitlines(keepends=True)
    file = tmp_path / "without.jsonl"
    file.write_bytes(b"".join(line for line in lines if b'"kind":"policy"' not in line))
    said = run("replay", "rejudge", str(file), "--policies", "policies", code=0, cwd=ROOT)
    assert "the old policy reproduces 0 of 0 recorded decisions; 12 could not be asked again" in said


def test_several_processes_find_what_one_does(tmp_path: Path) -> None:
    from gateway.adapters.policy_files import read_policies
    from gateway.adapters.recordings import requests_of, snapshots_of
    from gateway.model.recording import CallFilter
    from gateway.replay.backtest import ALONE, backtest
    from gateway.replay.judging import Item

    with EXAMPLE.open("rb") as lines:
        items = [Item(*pair) for pair in requests_of(lines, CallFilter())]
    with EXAMPLE.open("rb") as lines:
        kept = snapshots_of(lines, "policy")
    many = items * (ALONE // len(items) + 2)
    files = read_policies(ROOT / "docs" / "examples" / "candidate")
    one, two = (backtest(many, files, "gateway/decision", kept, jobs=jobs) for jobs in (1, 2))
    assert one.reproduced == two.reproduced == one.calls == len(many)
    assert one.table == two.table


@pytest.mark.rule("replay.backtest-opa")
def test_an_opa_server_is_a_candidate_and_decides_as_the_embedded_engine_does() -> None:
    candidate_files = ROOT / "docs" / "examples" / "candidate"
    with opa_server(*(str(file) for file in sorted(candidate_files.glob("*.rego")))) as url:
        arguments = ("policy", "backtest", "--recording", str(EXAMPLE), "--json", "--policies")
        remote = json.loads(run(*arguments, f"opa+{url}", code=1))
    here = json.loads(run(*arguments, str(candidate_files), code=1))
    assert remote["reproduced"] == here["reproduced"] == 12
    assert remote["changes"] == here["changes"]
    assert remote["newly_allowed"] == 2
