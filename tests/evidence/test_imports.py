"""An export on another machine: everything that reads a store reads it as well, and its chain still verifies."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli.frame import Negative, gateway
from tests.journal.test_commands import Recorded

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "session.jsonl"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(scope="module")
def export(recorded: Recorded) -> Path:
    path = recorded.path.parent / "records.jsonl"
    assert recorded.run("log", "export", "-o", str(path)).exit_code == 0
    return path


def run(*arguments: str) -> Result:
    """Without a configuration: none is needed."""
    return CliRunner().invoke(gateway, ["--config", "/nowhere/servers.toml", *arguments])


READS = [
    ("calls", "list", "--json"),
    ("calls", "list", "--outcome", "refused", "--json"),
    ("sessions", "list", "--json"),
    ("sessions", "show", "session-1", "--json"),
    ("tail", "--no-follow", "--json"),
    ("log", "export"),
]


@pytest.mark.rule("evidence.import")
@pytest.mark.parametrize("arguments", READS, ids=" ".join)
def test_what_reads_the_store_reads_an_export_of_it_the_same(
    recorded: Recorded, export: Path, arguments: tuple[str, ...]
) -> None:
    own, imported = recorded.run(*arguments), run(*arguments, "--recording", str(export))
    assert own.exit_code == imported.exit_code == 0, imported.output
    assert own.stdout == imported.stdout


@pytest.mark.rule("evidence.import")
def test_every_call_has_its_page_in_an_export(recorded: Recorded, export: Path) -> None:
    for call, _ in recorded.outcomes:
        own, imported = (
            recorded.run("calls", "show", call.id),
            run("calls", "show", call.id, "--recording", str(export)),
        )
        assert own.stdout == imported.stdout


@pytest.mark.rule("evidence.import")
def test_an_export_becomes_a_store_whose_chain_verifies_and_that_every_reader_takes(
    recorded: Recorded, export: Path, tmp_path: Path
) -> None:
    store = tmp_path / "there" / "copy.db"
    made = run("log", "import", str(export), "--store", str(store))
    assert made.exit_code == 0, made.output
    assert store.stat().st_mode & 0o777 == 0o600
    own, there = (run("log", "verify", str(path), "--json") for path in (recorded.path, store))
    assert isinstance(own.exception, Negative)  # no key is pinned
    assert json.loads(own.stdout) == json.loads(there.stdout)
    assert json.loads(there.stdout)["fault"] is None
    assert run("log", "export", "--recording", str(store)).stdout_bytes == export.read_bytes()
    again = run("log", "import", str(export), "--store", str(store))
    assert isinstance(again.exception, Exception)
    assert "there already" in str(again.exception)


@pytest.mark.rule("evidence.import")
def test_an_export_that_was_changed_is_not_imported_and_leaves_nothing(export: Path, tmp_path: Path) -> None:
    lines = export.read_bytes().splitlines(keepends=True)
    (place,) = [number for number, line in enumerate(lines) if b'"role":"response"' in line and b"hi " in line]
    for bad in (lines[place].replace(b"hi ", b"ho "), b'{"type":"call"}\n', b"nonsense\n", lines[place - 2]):
        changed = tmp_path / "changed.jsonl"
        changed.write_bytes(b"".join([*lines[:place], bad, *lines[place + 1 :]]))
        found = run("log", "import", str(changed), "--store", str(tmp_path / "copy.db"))
        assert f"line {place + 1}:" in str(found.exception)
        assert not list(tmp_path.glob("copy.db*"))


@pytest.mark.rule("evidence.import")
def test_sessions_of_one_export_are_compared() -> None:
    found = run("sessions", "diff", "01a1fbcb", "01a1fbcb", "--recording", str(EXAMPLE))
    assert found.exit_code == 0, found.output
    assert found.stdout.startswith("the same: 1")


@pytest.mark.rule("evidence.import")
def test_a_copied_store_is_judged_again_as_its_export_is(tmp_path: Path) -> None:
    store = tmp_path / "copy.db"
    assert run("log", "import", str(EXAMPLE), "--store", str(store)).exit_code == 0
    candidate = str(EXAMPLE.parent / "candidate")
    tables = [
        run("policy", "backtest", "--recording", str(source), "--policies", candidate, "--json").stdout
        for source in (EXAMPLE, store)
    ]
    assert tables[0] == tables[1]
    assert json.loads(tables[0])["calls"] == 12


def test_the_command_line_needs_no_configuration_for_a_recording(tmp_path: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("gateway"), "calls", "list", "--recording", EXAMPLE],
        cwd=tmp_path, env={"HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("time/get_current_time") >= 3
