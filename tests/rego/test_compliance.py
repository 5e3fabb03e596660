"""OPA's own compliance suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rego.compliance import cases, run, table

KNOWN = {"aggregates/count with invalid utf-8 chars (0xFFFD)"}
"""Strings of this engine hold text: bytes that are not UTF-8 are an error (so: a denial), where OPA carries them on."""


@pytest.mark.slow
@pytest.mark.rule("rego.compliance")
def test_every_compliance_case_passes_or_is_refused_for_a_named_reason(
    rego_cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = [run(category, case) for category, case in cases(rego_cases)]
    with capsys.disabled():
        print("\n" + table(outcomes))
    assert outcomes
    wrong = {outcome.note: outcome.reason for outcome in outcomes if outcome.verdict == "wrong"}
    assert wrong.keys() <= KNOWN, "\n".join(f"{note}: {reason}" for note, reason in wrong.items())
    assert all("not UTF-8" in reason for reason in wrong.values()), "an error, never a wrong result"
