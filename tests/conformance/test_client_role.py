"""The suite's client role: the gateway as the client of a tool server, with the SDK's client in front of it.

Only what a gateway does is asked for: its tool servers are reached with keys from the configuration, so the scenarios of
OAuth logins are no business of it.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nodejs import CONFORMANCE, installed, node

SCENARIOS = [
    ("2025-11-25", "initialize"),
    ("2025-11-25", "tools_call"),
    ("2025-11-25", "elicitation-sep1034-client-defaults"),
    ("2025-11-25", "sse-retry"),
    ("2026-07-28", "tools_call"),
    ("2026-07-28", "request-metadata"),
    ("2026-07-28", "sep-2322-client-request-state"),
    ("2026-07-28", "http-standard-headers"),
    ("2026-07-28", "http-custom-headers"),
    ("2026-07-28", "http-invalid-tool-headers"),
    ("2026-07-28", "json-schema-ref-no-deref"),
]

EXPECTED_FAILURES = {
    # The scenario calls a tool with null for a property whose schema says boolean. The gateway validates arguments against
    # the tool's own schema and answers the agent with a tool error; no request comes to be in which a header could be left out.
    "http-custom-headers": {"sep-2243-client-omit-null"},
}
"""Checks that fail through the gateway, and why; one that passes after all fails the test."""

_FAILURE = re.compile(r"\[(\S+)\s*\]\s+(?:\x1b\[\d+m)?FAILURE")


def check(version: str, scenario: str, directory: Path, *options: str) -> set[str]:
    """Runs a scenario; the checks that failed."""
    program = installed(CONFORMANCE, "conformance-0.2", "dist", "index.js")
    agent = shlex.join([sys.executable, "-m", "tests.conformance.agent", *options])
    command = ["client", "--command", agent, "--scenario", scenario, "--spec-version", version, "-o", str(directory)]
    run = subprocess.run(
        [str(node()), str(program), *command, "--timeout", "60000"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=CONFORMANCE.parents[1],
        check=False,
    )
    said = run.stdout + run.stderr
    counts = re.search(r"Passed: (\d+)/(\d+), (\d+) failed", said)
    assert counts is not None, said[-4000:]
    assert int(counts[1]) > 0, said[-4000:]
    failing = set(_FAILURE.findall(said))
    assert len(failing) <= int(counts[3]), said[-6000:]
    assert (int(counts[3]) > 0) == bool(failing) == (run.returncode != 0), said[-6000:]
    return failing


@pytest.mark.rule("conformance.fixture")
@pytest.mark.parametrize(("version", "scenario"), SCENARIOS)
def test_the_client_that_drives_it_is_itself_conformant(version: str, scenario: str, tmp_path: Path) -> None:
    assert check(version, scenario, tmp_path) == set()


@pytest.mark.rule("conformance.client-role")
@pytest.mark.parametrize(("version", "scenario"), SCENARIOS)
def test_the_gateway_is_a_conformant_client_of_its_tool_servers(version: str, scenario: str, tmp_path: Path) -> None:
    failing = check(version, scenario, tmp_path, "--gateway")
    assert failing == EXPECTED_FAILURES.get(scenario, set())
