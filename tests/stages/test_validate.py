"""Stage 3: bad arguments come back with the places to mend; bad results as configured."""

from typing import Any

import pytest

from gateway.decide.schema import compile_schema
from gateway.model.refusal import Code
from gateway.model.verdict import PROCEED, Completed, Refuse, Refused
from gateway.stages.validate import Validate
from tests.building import call, tool

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.rule("wire.bad-arguments")
@pytest.mark.parametrize("arguments", [{}, {"a": "x"}, {"a": 1, "b": 2}])
async def test_arguments_that_do_not_meet_the_schema_are_refused_with_their_paths(arguments: dict[str, Any]) -> None:
    verdict = await Validate().admit(call(tool(schema=SCHEMA), arguments))
    assert isinstance(verdict, Refuse)
    assert verdict.code is Code.SCHEMA_INVALID
    for problem in verdict.facts["problems"]:
        assert problem["message"] in verdict.message


async def test_arguments_that_meet_the_schema_pass_and_missing_ones_count_as_empty() -> None:
    assert await Validate().admit(call(tool(schema=SCHEMA), {"a": 1})) is PROCEED
    assert await Validate().admit(call(tool(), arguments=None)) is PROCEED


@pytest.mark.rule("results.validated")
@pytest.mark.parametrize(
    ("mode", "result", "refused", "warned"),
    [
        ("warn", b'{"structuredContent":{"a":"x"}}', False, True),
        ("refuse", b'{"structuredContent":{"a":"x"}}', True, True),
        ("refuse", b'{"content":[]}', True, True),
        ("refuse", b'{"structuredContent":{"a":1}}', False, False),
        ("refuse", b'{"isError":true,"content":[]}', False, False),
        ("refuse", b'{"resultType":"input_required","requestState":"x"}', False, False),
        ("off", b'{"structuredContent":{"a":"x"}}', False, False),
    ],
)
async def test_results_are_checked_as_configured(mode: str, result: bytes, refused: bool, warned: bool) -> None:
    entry = tool(results=compile_schema(SCHEMA), validate_results=mode)
    settlement = await Validate().settle(call(entry), Completed(result=result))
    assert (settlement is not None and bool(settlement.facts)) is warned
    outcome = settlement.outcome if settlement is not None else None
    assert isinstance(outcome, Refused) is refused
    if isinstance(outcome, Refused):
        assert (outcome.code, outcome.executed) == (Code.RESULT_INVALID, "yes")


async def test_the_result_is_judged_as_it_was_received_not_as_it_was_redacted() -> None:
    entry = tool(results=compile_schema(SCHEMA), validate_results="refuse")
    outcome = Completed(result=b'{"structuredContent":{"a":"***"}}', received=b'{"structuredContent":{"a":1}}')
    assert await Validate().settle(call(entry), outcome) is None
