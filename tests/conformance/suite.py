"""Runs a set of the official conformance suite against a URL, and reads what came of each scenario."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.nodejs import CONFORMANCE, environment, installed, node

SETS: Final = {
    "0.1.16": ("conformance-0.1", ["--suite", "all"]),
    "2025-11-25": ("conformance-0.2", ["--requirements", "2025-11-25", "--timeout", "20000"]),
    "2026-07-28": ("conformance-0.2", ["--requirements", "2026-07-28", "--timeout", "20000"]),
}
"""The package that has the set, and how it is asked for."""

_SUMMARY: Final = re.compile(r"^[✓✗] (\S+): (\d+) passed, (\d+) failed")
_NOT_SCORED: Final = re.compile(r"^\s+[✓✗] (\S+) \(")


@dataclass(frozen=True, slots=True)
class Scenario:
    """What came of one scenario."""

    name: str
    passed: int
    """checks"""
    failed: int
    problems: list[str] = field(default_factory=list)
    """what the failed checks said"""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a set."""

    scored: dict[str, Scenario]
    not_scored: dict[str, Scenario]
    """run for information: extensions, and what came into the suite after the revision"""

    @property
    def failing(self) -> set[str]:
        return {name for name, scenario in self.scored.items() if scenario.failed}

    def __str__(self) -> str:
        good = len(self.scored) - len(self.failing)
        checks = sum(s.passed for s in self.scored.values()), sum(s.failed for s in self.scored.values())
        lines = [f"{good} of {len(self.scored)} scenarios, {checks[0]} checks passed, {checks[1]} failed"]
        for name in sorted(self.failing):
            lines += [f"  {name}", *(f"    {problem[:500]}" for problem in self.scored[name].problems)]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the list of expected failures says of one set."""

    scenarios: int
    failing: dict[str, str]
    """scenario to reason"""


def expected(target: str, which: str) -> Expected:
    """The entry of ``expected.toml`` for what the suite is pointed at and the set."""
    entry = tomllib.loads((CONFORMANCE / "expected.toml").read_text())[target][which]
    return Expected(entry["scenarios"], entry.get("failing", {}))


def run(which: str, url: str, directory: Path, *, timeout_seconds: float = 300) -> Report:
    """Runs a set; files of the run lie in `directory`. Skips the test where Node or the suite is missing."""
    package, selection = SETS[which]
    program = installed(CONFORMANCE, package, "dist", "index.js")
    output = directory / "results"
    command = [node(), program, "server", "--url", url, *selection, "-o", output]
    process = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        env=environment(directory),
        cwd=directory,
        check=False,
    )
    (directory / "suite.log").write_text(process.stdout + process.stderr)
    _, found, summary = process.stdout.partition("=== SUMMARY ===")
    if not found:
        raise AssertionError(f"the suite did not come to its summary:\n{(process.stdout + process.stderr)[-4000:]}")
    results, _, unscored = summary.partition("\nNot scored for")
    skipped = {match[1] for line in unscored.splitlines() if (match := _NOT_SCORED.match(line))}
    problems = dict(_problems(output))
    scenarios = {
        match[1]: Scenario(match[1], int(match[2]), int(match[3]), problems.get(match[1], []))
        for line in results.splitlines()
        if (match := _SUMMARY.match(line))
    }
    return Report(
        scored={name: scenario for name, scenario in scenarios.items() if name not in skipped},
        not_scored={name: scenario for name, scenario in scenarios.items() if name in skipped},
    )


def _problems(output: Path) -> Iterator[tuple[str, list[str]]]:
    for path in sorted(output.glob("*/checks.json")):
        name = re.sub(r"-\d{4}-\d\d-\d\dT[\d-]+Z$", "", path.parent.name).removeprefix("server-")
        checks = json.loads(path.read_text())
        failures = [f"{c['id']}: {c.get('errorMessage')}" for c in checks if c.get("status") == "FAILURE"]
        # A scenario may itself be named "server-...".
        yield name, failures
        yield f"server-{name}", failures
