"""`gateway calls`, `sessions`, `tail`, `log`, as an operator runs them: on a store that nobody owns at the moment."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner, Result

from gateway.adapters.journal import open_journal
from gateway.cli.frame import Negative, gateway
from gateway.model.call import Call, Principal, Risk
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Failed, Outcome, Refused, Step
from gateway.ports import Attempt
from tests.journal.building import AT, TestClock, a_call, begin, end

Run = Callable[..., Result]


class Recorded:
    """A store with one call of each outcome, of two agents in two sessions."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "servers.toml"
        self.config.write_text('[servers.git]\ncommand = "git"\n')
        self.path = directory / "gateway.db"
        denied = Refused(
            stage="authorize",
            code=Code.POLICY_DENIED,
            message="The path is outside the root.",
            policy=({"code": "path_outside_root", "message": "no"},),
        )
        lost = Failed(code=Code.SERVER_TIMEOUT, message="No answer within 5 s.", in_doubt=True)
        self.ok = self._call("claude", "session-1")
        self.error = self._call("claude", "session-1")
        self.denied = self._call("claude", "session-1", why="to see what is there")
        self.lost = self._call("cursor", "session-2")
        self.outcomes: list[tuple[Call, Outcome]] = [
            (self.ok, Completed(result=b'{"content":[{"type":"text","text":"hi \\u001b[31mred"}]}')),
            (self.error, Completed(result=b'{"content":[],"isError":true}')),
            (self.denied, denied),
            (self.lost, lost),
        ]
        anyio.run(self._write)

    def _call(self, agent: str, session: str, **changes: Any) -> Call:
        return a_call(Risk.WRITE, principal=Principal(id=agent), session_id=session, **changes)

    async def _write(self) -> None:
        facts = {"question": {"arguments": {"text": "hello"}}, "answer": {"allow": False}, "revision": "r1"}
        steps = [Step(stage="authorize", verdict="refuse", elapsed_us=250, facts=facts)]
        async with open_journal(self.path, clock=TestClock()) as journal:
            for call, outcome in self.outcomes:
                forwarded = not isinstance(outcome, Refused)
                if forwarded:
                    await journal.begin(begin(call))
                attempt = Attempt(sent=True, tries=[{"ended": "answered"}]) if forwarded else None
                await journal.end(end(call, outcome, began=forwarded, attempt=attempt, steps=steps))

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(gateway, ["--config", str(self.config), *arguments])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(tmp_path_factory.mktemp("recorded"))


@pytest.mark.rule("evidence.calls-list")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["lost", "denied", "error", "ok"]),
        (["--agent", "claude"], ["denied", "error", "ok"]),
        (["--agent", "cu*"], ["lost"]),
        (["--tool", "fixture/*", "--limit", "2"], ["lost", "denied"]),
        (["--tool", "other/*"], []),
        (["--outcome", "error"], ["error"]),
        (["--code", "policy.*"], ["denied"]),
        (["--session", "session-2"], ["lost"]),
        (["--since", "2026-01-01"], ["lost", "denied", "error", "ok"]),
        (["--until", "2026-01-01"], []),
    ],
)
def test_calls_are_listed_newest_first_by_filters(recorded: Recorded, options: list[str], expected: list[str]) -> None:
    result = recorded.run("calls", "list", "--json", *options)
    assert result.exit_code == 0, result.output
    ids = [each["id"] for each in json.loads(result.stdout)]
    assert ids == [getattr(recorded, name).id for name in expected]


def test_the_next_page_begins_where_the_last_one_ended(recorded: Recorded) -> None:
    first = json.loads(recorded.run("calls", "list", "--json", "--limit", "3").stdout)
    second = json.loads(recorded.run("calls", "list", "--json", "--before", str(first[-1]["seq"])).stdout)
    assert [each["id"] for each in second] == [recorded.ok.id]


@pytest.mark.rule("evidence.calls-show")
def test_one_page_tells_why_a_call_was_refused(recorded: Recorded) -> None:
    page = recorded.run("calls", "show", recorded.denied.id).stdout
    assert "REFUSED by authorize: policy.denied" in page
    assert "The path is outside the root." in page
    assert "rule path_outside_root" in page
    assert "It did not run at the tool server." in page
    assert "its stated reason (unverified): to see what is there" in page
    assert '"allow": false' in page
    assert "revision r1" in page


@pytest.mark.rule("evidence.calls-show")
def test_one_page_tells_that_a_call_is_in_doubt(recorded: Recorded) -> None:
    page = recorded.run("calls", "show", recorded.lost.id).stdout
    assert "FAILED (in doubt): server.timeout" in page
    assert "Whether it ran is unknown." in page


def test_a_call_is_found_by_the_beginning_of_its_id(recorded: Recorded) -> None:
    shown = json.loads(recorded.run("calls", "show", recorded.ok.id[:-1], "--json").stdout)
    assert shown["record"]["body"]["command"]["id"] == recorded.ok.id
    assert shown["payloads"]["request"]["params"]["arguments"] == {"text": "hello"}
    several = recorded.run("calls", "show", recorded.ok.id[:4])
    assert isinstance(several.exception, Negative)
    assert "several begin with" in str(several.exception)
    assert isinstance(recorded.run("calls", "show", "nothing").exception, Negative)


def test_what_a_tool_server_wrote_cannot_steer_the_terminal(recorded: Recorded) -> None:
    assert "\x1b" not in recorded.run("calls", "show", recorded.ok.id).stdout


@pytest.mark.rule("evidence.sessions")
def test_sessions_are_listed_with_the_outcomes_of_their_calls(recorded: Recorded) -> None:
    listed = json.loads(recorded.run("sessions", "list", "--json").stdout)
    assert [(each["id"], each["agent"], each["calls"]) for each in listed] == [
        ("session-2", "cursor", 1),
        ("session-1", "claude", 3),
    ]
    assert (listed[0]["failed"], listed[0]["in_doubt"]) == (1, 1)
    assert (listed[1]["completed"], listed[1]["errors"], listed[1]["refused"]) == (1, 1, 1)
    assert (
        json.loads(recorded.run("sessions", "list", "--json", "--before", "session-2").stdout)[0]["id"] == "session-1"
    )
    text = recorded.run("sessions", "show", "session-1").stdout
    assert text.index(recorded.ok.id) < text.index(recorded.error.id) < text.index(recorded.denied.id)


def test_tail_begins_with_the_newest_lines(recorded: Recorded) -> None:
    lines = recorded.run("tail", "-n", "2", "--no-follow", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [recorded.denied.id, recorded.lost.id]


@pytest.mark.rule("evidence.export-verifies")
def test_an_export_verifies_by_itself_and_a_changed_one_does_not(recorded: Recorded, tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    assert recorded.run("log", "export", "-o", str(file)).exit_code == 0
    assert recorded.run("log", "export").stdout_bytes == file.read_bytes()
    verified = recorded.run("log", "verify", str(file))
    assert "consistent, origin unproven: 6 records, 6 payloads" in verified.stdout
    assert isinstance(verified.exception, Negative)
    stored = recorded.run("log", "verify")
    assert stored.stdout == verified.stdout
    lines = file.read_bytes().splitlines(keepends=True)
    for changed in (
        [line.replace(b"outside", b"inside ") for line in lines],
        [line.replace(b"hello", b"hallo") for line in lines],
        [line for line in lines if b'"seq":3,' not in line],
        [lines[1], lines[0], *lines[2:]],
    ):
        file.write_bytes(b"".join(changed))
        assert recorded.run("log", "verify", str(file)).stdout.startswith("broken at record")


def test_an_export_can_be_narrowed(recorded: Recorded) -> None:
    lines = [json.loads(line) for line in recorded.run("log", "export", "--agent", "cursor").stdout.splitlines()]
    assert [line["body"]["command"]["id"] for line in lines if "version" in line] == [recorded.lost.id]
    assert recorded.run("log", "export", "--since", "2027-01-01").stdout == ""
    assert AT < 1_798_761_600


def test_a_store_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "servers.toml").write_text('[servers.git]\ncommand = "git"\n')
    result = CliRunner().invoke(gateway, ["--config", str(tmp_path / "servers.toml"), "calls", "list"])
    assert "there is no store" in str(result.exception)


@pytest.mark.rule("evidence.export-verifies")
def test_the_verifier_that_the_documentation_prints_agrees(recorded: Recorded, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "records.md").read_text()
    program = text.split("```python\n")[1].split("```")[0]
    file = tmp_path / "log.jsonl"
    assert recorded.run("log", "export", "-o", str(file)).exit_code == 0

    def verified() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=False)

    found = verified()
    assert found.returncode == 0, found.stderr
    head = recorded.run("log", "verify", str(file)).stdout.split()[-1]
    assert found.stdout == f"6 records, head {head}\n"
    file.write_bytes(file.read_bytes().replace(b"hello", b"hallo"))
    assert verified().returncode == 1
