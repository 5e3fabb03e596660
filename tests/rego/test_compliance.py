"""OPA's own compliance suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rego.compliance import cases, run, table


@pytest.mark.slow
@pytest.mark.rule("rego.compliance")
def test_every_compliance_case_passes_or_is_refused_for_a_named_reason(
    rego_cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = [run(category, case) for category, case in cases(rego_cases)]
    with capsys.disabled():
        print("\n" + table(outcomes))
    assert outcomes
    wrong = [f"{outcome.note}: {outcome.reason}" for outcome in outcomes if outcome.verdict == "wrong"]
    assert not wrong, "\n".join(wrong)
