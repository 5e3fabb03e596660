"""CONTRACT 5, row by row: what an agent is told of its call."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge import wire
from gateway.model.call import Call
from gateway.model.refusal import CODES, Code
from gateway.model.value import replace
from gateway.model.verdict import Completed, Failed, Held, Outcome, Refused
from tests.building import call
from tests.edge.test_parsing import values

SCHEMA = Path(__file__).parents[2] / "gateway" / "schemas" / "refusal.schema.json"

TOOL_CALL: Call = call()
PROMPT_GET: Call = call(method="prompts/get")

DENIED = Refused(
    stage="authorize",
    code=Code.POLICY_DENIED,
    message="The policy denies it: outside the root",
    policy=({"code": "path_outside_root", "message": "outside the root"},),
    decision_id="decision-1",
)
OVER_QUOTA = Refused(
    stage="quota", code=Code.QUOTA_EXHAUSTED, message="100 calls an hour", rule="agent-hour", retry_after_seconds=12.5
)
HELD = Held(hold_id="hold-1", expires_at=1_795_205_460.0, message="A person decides")
WITHHELD = Refused(stage="authorize", code=Code.RESULT_UNREDACTABLE, message="The result is withheld", executed="yes")
LOST = Failed(code=Code.SERVER_LOST, message="The connection was lost", in_doubt=True)
TIMEOUT = Failed(code=Code.SERVER_TIMEOUT, message="No answer in 60 s", in_doubt=False)
BAD_ARGUMENTS = Refused(
    stage="validate", code=Code.SCHEMA_INVALID, message="The arguments do not meet the schema:\n/path: is not a string"
)
ALL = (DENIED, OVER_QUOTA, HELD, WITHHELD, LOST, TIMEOUT, BAD_ARGUMENTS)


def said(outcome: Outcome, asked: Call = TOOL_CALL, *, modern: bool = False) -> dict[str, Any]:
    answer = orjson.loads(wire.answer("r1", asked, outcome, modern=modern).body)
    assert answer["jsonrpc"] == "2.0"
    assert answer["id"] == "r1"
    return answer  # type: ignore[no-any-return]


@pytest.mark.rule("answer.bad-arguments")
def test_bad_arguments_are_a_tool_error_with_the_paths_that_fail() -> None:
    result = said(BAD_ARGUMENTS)["result"]
    assert result["isError"] is True
    assert "/path: is not a string" in result["content"][0]["text"]
    assert result["_meta"]["gateway/refusal"]["code"] == "schema.invalid"


@pytest.mark.rule("answer.unknown-tool")
def test_an_unknown_target_is_the_json_rpc_error_that_resolve_gives() -> None:
    data = {"code": -32602, "message": "Unknown tool: x"}
    unknown = Refused(stage="resolve", code=Code.REQUEST_INVALID, message="Unknown tool: x", data=data)
    reply = wire.answer(1, TOOL_CALL, unknown, modern=True)
    assert reply.body == b'{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Unknown tool: x"}}'
    assert reply.code == -32602


@pytest.mark.rule("answer.refusal")
@pytest.mark.parametrize("outcome", ALL, ids=lambda outcome: str(getattr(outcome, "code", "held")))
@pytest.mark.parametrize("modern", [True, False])
def test_a_refused_held_or_failed_tool_call_is_a_tool_error_that_says_what_can_be_done(
    outcome: Outcome, modern: bool
) -> None:
    result = said(outcome, modern=modern)["result"]
    refusal = result["_meta"]["gateway/refusal"]
    assert jsonschema_rs.validator_for(wire.refusal_schema()).is_valid(refusal)
    words = result["content"][0]["text"]
    assert result["isError"] is True
    assert refusal["reason"].rstrip(".") in words
    assert refusal["code"] in words
    assert wire.NEXT_STEPS[Code(refusal["code"])] in words
    assert refusal["call_id"] == TOOL_CALL.id
    assert (result.get("resultType") == "complete") is modern


@pytest.mark.rule("answer.refusal-elsewhere")
@pytest.mark.parametrize("outcome", ALL, ids=lambda outcome: str(getattr(outcome, "code", "held")))
def test_for_other_methods_the_same_object_is_the_data_of_a_json_rpc_error(outcome: Outcome) -> None:
    error = said(outcome, PROMPT_GET)["error"]
    assert not -32768 <= error["code"] <= -32000
    assert error["data"] == {**said(outcome)["result"]["_meta"]["gateway/refusal"], "call_id": PROMPT_GET.id}


@pytest.mark.rule("hold.running")
def test_what_is_known_of_a_refusal_is_in_it() -> None:
    assert wire.refusal(TOOL_CALL, DENIED) == {
        "code": "policy.denied",
        "stage": "authorize",
        "reason": "The policy denies it: outside the root",
        "call_id": "call-1",
        "executed": "no",
        "decision_id": "decision-1",
        "policy": [{"code": "path_outside_root", "message": "outside the root"}],
    }
    quota = wire.refusal(TOOL_CALL, OVER_QUOTA)
    assert (quota["rule"], quota["retry_after_seconds"]) == ("agent-hour", 12.5)
    assert "12.5 seconds" in wire.for_the_model(quota)
    held = wire.refusal(TOOL_CALL, HELD)
    assert held["hold"] == {"id": "hold-1", "expires_at": "2026-11-20T20:11:00Z"}
    assert "A person has to approve it: hold hold-1" in wire.for_the_model(held)
    running = wire.refusal(TOOL_CALL, replace(HELD, running=True, message="It runs now"))
    assert (running["code"], running["executed"]) == ("hold.pending", "unknown")
    said = wire.for_the_model(running)
    assert "has to approve" not in said
    assert "Nothing has run" not in said
    assert said.endswith("To learn its outcome, call the same tool with the same arguments again.")
    assert wire.refusal(TOOL_CALL, LOST)["executed"] == "unknown"
    assert "not known whether" in wire.for_the_model(wire.refusal(TOOL_CALL, LOST))
    assert wire.refusal(TOOL_CALL, TIMEOUT)["executed"] == "no"
    assert wire.refusal(TOOL_CALL, WITHHELD)["executed"] == "yes"


@pytest.mark.rule("answer.own-error")
def test_the_tool_servers_own_error_is_untouched() -> None:
    error = b'{"code": -32042, "message" : "x", "data":{"a":[1.0, 1e2]},"unknown":true}'
    reply = wire.answer(5, TOOL_CALL, Completed(error=error), modern=True)
    assert reply == (b'{"jsonrpc":"2.0","id":5,"error":' + error + b"}", -32042)


@pytest.mark.rule("answer.relayed")
def test_a_result_is_relayed_as_the_bytes_received() -> None:
    result = b'{"content":[ {"type":"text","text":"\\u00e9"} ],"unknown":{"b":1.0,"a":1E5},"resultType":"complete"}'
    for modern in (True, False):
        reply = wire.answer(1, TOOL_CALL, Completed(result=result), modern=modern)
        assert reply.body == b'{"jsonrpc":"2.0","id":1,"result":' + result + b"}"


def test_an_answer_is_one_line_whatever_the_server_sent() -> None:
    reply = wire.answer(1, TOOL_CALL, Completed(result=b'{\r\n  "content": [],\n  "a": "b\\n"\n}'), modern=True)
    assert b"\n" not in reply.body
    assert orjson.loads(reply.body)["result"] == {"resultType": "complete", "content": [], "a": "b\n"}


objects = st.dictionaries(
    st.sampled_from(["a", "resultType", "content", "resultTypes"]) | st.text(max_size=3), values, max_size=4
)


@pytest.mark.rule("answer.result-type")
@given(objects, st.booleans())
def test_every_modern_result_has_a_type_and_is_otherwise_unchanged(value: dict[str, Any], indent: bool) -> None:
    if "resultType" in value and not isinstance(value["resultType"], str):
        del value["resultType"]
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else 0)
    assert orjson.loads(wire.with_result_type(text)) == {"resultType": "complete", **value}


@pytest.mark.rule("answer.result-type")
def test_a_result_type_further_in_is_not_taken_for_the_results_own() -> None:
    inner = b'{"structuredContent":{"resultType":"complete"},"text":"\\"resultType\\":\\"complete\\"}"}'
    assert orjson.loads(wire.with_result_type(inner))["resultType"] == "complete"


def test_an_unknown_result_type_passes() -> None:
    result = b'{"resultType":"task","task":{"id":"1"}}'
    assert wire.with_result_type(result) == result


@pytest.mark.rule("answer.cache-scope")
def test_what_one_agent_may_read_is_never_public_to_others() -> None:
    read = call(method="resources/read")
    public = b'{"contents":[],"resultType":"complete","ttlMs":5,"cacheScope":"public"}'
    several = wire.answer(1, read, Completed(result=public), modern=True, private=True)
    assert orjson.loads(several.body)["result"]["cacheScope"] == "private"
    one = wire.answer(1, read, Completed(result=public), modern=True, private=False)
    assert public in one.body


@given(objects)
def test_cache_hints_are_supplied_where_the_server_gave_none(value: Mapping[str, Any]) -> None:
    if value.get("resultType", "complete") != "complete":
        return
    hinted = orjson.loads(wire.with_cache_hints(orjson.dumps(value), private=True))
    assert hinted == {"ttlMs": 0, "cacheScope": "private", **value}


def test_there_is_advice_for_every_code() -> None:
    assert set(wire.NEXT_STEPS) == set(Code) == set(CODES)


@pytest.mark.rule("answer.refusal-schema")
def test_the_published_schema_is_made_from_the_codes() -> None:
    assert SCHEMA.read_text() == wire.schema_text(), (
        "run: python -m gateway.edge.wire > gateway/schemas/refusal.schema.json"
    )
    published = orjson.loads(SCHEMA.read_bytes())
    assert {one["const"] for one in published["properties"]["code"]["oneOf"]} == {code.value for code in Code}
