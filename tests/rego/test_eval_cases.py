"""The corners of the language, by what OPA answered."""

from __future__ import annotations

import pytest

from tests.rego.eval_cases import EvalCase, agree, engine_answers, expected, read_cases
from tests.rego.fuzz import as_doubles

CASES = read_cases()
KNOWN = expected()


@pytest.mark.rule("rego.recorded-answers")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_document_has_the_value_or_the_error_that_opa_gave(case: EvalCase) -> None:
    recorded = KNOWN[case.name]
    for strict in (True, False):
        theirs = recorded["strict"] if strict else recorded.get("lenient", recorded["strict"])
        ours = as_doubles(engine_answers(case, strict=strict))
        assert theirs.keys() <= ours.keys()
        assert {document: ours[document] for document in theirs if not agree(ours[document], theirs[document])} == {}


def test_the_cases_have_names_of_their_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES) == len(KNOWN)
