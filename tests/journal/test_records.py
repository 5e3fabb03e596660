"""The record format: schemas, redaction, payloads beside the chain, questions that can be put again."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gateway
from gateway.adapters import queries, records
from gateway.adapters.journal import SqlJournal, open_journal
from gateway.model.call import Call, HoldReason, Obligation, Risk, TargetType
from gateway.model.recording import Record, RecordingSettings, RecordType
from gateway.model.refusal import Code
from gateway.model.value import replace
from gateway.model.verdict import Completed, Failed, Held, Outcome, Refused, Step
from gateway.ports import Attempt, End
from tests.journal.building import TestClock, a_call, begin, end

pytestmark = pytest.mark.anyio

SCHEMAS = Path(gateway.__file__).parent / "schemas"


def validator(name: str) -> Any:
    documents = [(path.name, json.loads(path.read_text())) for path in sorted(SCHEMAS.glob("*.json"))]
    registry = jsonschema_rs.Registry([(f"json-schema:///{file}", document) for file, document in documents])
    return jsonschema_rs.validator_for({"$ref": f"json-schema:///{name}.schema.json"}, registry=registry)


@pytest.fixture
async def journal() -> AsyncIterator[SqlJournal]:
    async with open_journal(None, clock=TestClock()) as journal:
        yield journal


async def recorded(journal: SqlJournal, finished: End) -> Record:
    await journal.end(finished)
    await journal.record("state.changed", {"kind": "test", "subject": "x", "state": "y"})
    found = await journal.read(queries.find_call, finished.call.id)
    assert found is not None
    return found


def body(finished: End, **changed: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record's body and its decoded payloads, without a store."""
    encoded = records.encode_end(finished, RecordingSettings(**changed))
    payloads: dict[str, Any] = {each.role: json.loads(each.data) for each in encoded.payloads if each.data is not None}
    return json.loads(encoded.body), payloads


# --- schemas -----------------------------------------------------------------------------------------------------


@pytest.mark.rule("records.schemas")
def test_every_record_type_has_a_published_schema() -> None:
    for type_ in RecordType:
        name = "hold" if type_.startswith("hold.") else type_
        assert (SCHEMAS / f"{name}.schema.json").is_file(), type_
    listed = json.loads((SCHEMAS / "record.schema.json").read_text())["properties"]["type"]["enum"]
    assert sorted(listed) == sorted(RecordType)


OUTCOMES: list[Outcome] = [
    Completed(result=b'{"content":[]}'),
    Completed(error=b'{"code":-32000,"message":"no","data":{"a":1}}'),
    Refused(
        stage="authorize",
        code=Code.POLICY_DENIED,
        message="no",
        policy=({"code": "a", "message": "b"},),
        decision_id="d.1",
    ),
    Held(hold_id="h-1", expires_at=1.0, message="wait"),
    Held(hold_id="h-1", expires_at=1.0, message="it runs", running=True),
    Failed(code=Code.SERVER_TIMEOUT, message="late", in_doubt=True, retry_after_seconds=2.5),
]


@pytest.mark.rule("records.schemas")
async def test_the_records_of_a_real_journal_meet_their_schemas(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    async with open_journal(path, clock=TestClock()) as journal:
        for outcome in OUTCOMES:
            call = a_call(
                Risk.WRITE,
                obligations=(Obligation(id="redact_result", paths=("**.x",)),),
                hold_reasons=(HoldReason(code="review", reason="big"),),
                why="because",
            )
            await journal.begin(begin(call))
            attempt = Attempt(sent=True, tries=[{"at": 1.0, "ended": "answered"}], asks=[{"method": "roots/list"}])
            await journal.end(end(call, outcome, attempt=attempt))
        await journal.begin(begin(a_call(Risk.WRITE)))
        await journal.record("auth.refused", {"refused": [{"reason": "no key", "remote": "", "count": 1}]})
        await journal.record("config.changed", {"sha256": "0" * 64, "accepted": True, "message": "start"})
        await journal.record("policy.changed", {"revision": "r"})
        await journal.record("catalogue.changed", {"revision": "r", "servers": ["git"], "kinds": ["tools"]})
        await journal.record(
            "operator.acted", {"operator": "a", "act": "reload", "params": {}, "done": True, "why": ""}
        )
        await journal.record("operator.viewed", {"operator": "on-call", "what": "hold", "id": "h"})
        await journal.keep("configuration", b"[gateway]\n")
        lines = await journal.read(lambda raw: list(queries.export_lines(raw)))
    record, beside = validator("record"), validator("payload")
    types = set()
    for line in lines:
        value = json.loads(line)
        check = record if "version" in value else beside
        assert not list(check.iter_errors(value)), line
        types.add(value.get("type"))
    assert types >= {type_ for type_ in RecordType if not type_.startswith(ELSEWHERE)}


ELSEWHERE = ("hold.", "state.", "process.stopped", "checkpoint", "tombstone")
"""Types of records that this journal, alone, does not write."""


def test_the_schemas_refuse_what_is_no_record() -> None:
    check = validator("record")
    good = {"version": 1, "type": "process.stopped", "writer": "w", "seq": 1, "at": 1.0, "prev": "0" * 64}
    assert check.is_valid({**good, "body": {"unwritten": 0}})
    assert not check.is_valid({**good, "body": {}})
    assert not check.is_valid({**good, "type": "made.up", "body": {}})
    assert not check.is_valid({**good, "body": {"unwritten": 0}, "more": 1})


# --- payloads ----------------------------------------------------------------------------------------------------


@pytest.mark.rule("records.payload-hashes")
async def test_the_chain_holds_salted_hashes_and_no_payload(journal: SqlJournal) -> None:
    call = a_call(Risk.WRITE, {"text": "very-private"})
    found = await recorded(journal, end(call, Completed(result=b'{"content":[{"type":"text","text":"also-private"}]}')))
    assert b"private" not in found.data
    assert found.payloads["request"]["params"]["arguments"]["text"] == "very-private"

    def row(raw: Any) -> Any:
        return raw.execute("SELECT request_salt, request FROM payloads WHERE seq = ?", (found.seq,)).fetchone()

    salt, data = await journal.read(row)
    assert len(salt) == 16
    assert found.body["command"]["request"]["sha256"] == hashlib.sha256(salt + data).hexdigest()


@pytest.mark.rule("records.payload-erasable")
async def test_a_payload_that_is_gone_leaves_a_chain_that_verifies(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    async with open_journal(path, clock=TestClock()) as journal:
        found = await recorded(journal, end(a_call(Risk.WRITE)))
        await journal._connection.run(
            lambda: journal._connection.raw.execute(
                "UPDATE payloads SET response = NULL, response_salt = NULL WHERE seq = ?", (found.seq,)
            )
        )
        verification = await journal.read(queries.verify)
        assert verification.fault is None
        assert verification.erased == 1
        again = await journal.read(queries.find_call, found.body["command"]["id"])
        assert again is not None
        assert set(again.payloads) == {"request"}


async def test_a_changed_payload_is_found(journal: SqlJournal) -> None:
    found = await recorded(journal, end(a_call(Risk.WRITE)))
    await journal._connection.run(
        lambda: journal._connection.raw.execute(
            "UPDATE payloads SET response = CAST(replace(response, 'hello', 'hallo') AS BLOB)"
        )
    )
    fault = (await journal.read(queries.verify)).fault
    assert fault is not None
    assert (fault.seq, fault.reason) == (found.seq, "its response is not what the record says")


async def test_large_payloads_are_compressed_and_come_back_as_they_were(journal: SqlJournal) -> None:
    raw = json.dumps({"content": [{"type": "text", "text": "line\n" * 50_000}]}).encode()
    found = await recorded(journal, end(a_call(Risk.WRITE), Completed(result=raw)))
    assert found.payloads["response"] == {"result": json.loads(raw)}
    size = await journal.read(lambda raw: raw.execute("SELECT max(length(response)) FROM payloads").fetchone()[0])
    assert size < len(raw) / 20
    assert (await journal.read(queries.verify)).fault is None


@pytest.mark.rule("records.payload-limit")
async def test_of_a_payload_beyond_the_limit_only_hash_and_size_are_kept() -> None:
    result = b'{"content":[],"more":"' + b"x" * 2000 + b'"}'
    found, payloads = body(end(a_call(), Completed(result=result)), max_payload_bytes=1000)
    assert "response" not in payloads
    assert found["response"]["kept"] == "hash"
    assert found["response"]["size"] == len(result) + len(b'{"result":}')
    assert len(found["response"]["sha256"]) == 64


def test_results_are_kept_byte_for_byte() -> None:
    raw = b'{ "content" : [], "n": 1.0, "big": 123456789012345678901234567890,\n "e": 1e2, "u": "\\u00e9" }'
    encoded = records.encode_end(end(a_call(), Completed(result=raw)), RecordingSettings())
    [response] = [each for each in encoded.payloads if each.role == "response"]
    assert response.data == b'{"result":' + raw + b"}"


def test_arguments_keep_integers_of_any_size() -> None:
    _, payloads = body(end(a_call(arguments={"n": 2**80, "f": 1.0, "t": True})))
    assert payloads["request"]["params"]["arguments"] == {"n": 2**80, "f": 1.0, "t": True}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=12,
    )
)
@settings(max_examples=150, deadline=None)
def test_arguments_come_back_as_they_were(value: Any) -> None:
    _, payloads = body(end(a_call(arguments={"value": value})))
    assert json.dumps(payloads["request"]["params"]["arguments"]) == json.dumps({"value": value})


@pytest.mark.parametrize(
    ("fact", "read"),
    [
        (2**80, 2**80),
        ((1, 2), [1, 2]),
        ({1: "one", "two": 2}, {"1": "one", "two": 2}),
        (float("nan"), None),
        (MappingProxyType({"a": {"b": [1.5]}}), {"a": {"b": [1.5]}}),
        (Code.POLICY_DENIED, "policy.denied"),
    ],
)
def test_facts_of_any_kind_come_into_the_trail(fact: Any, read: Any) -> None:
    steps = (Step(stage="quota", verdict="proceed", elapsed_us=7, facts={"fact": fact}),)
    [written] = json.loads(records.encode_trail(steps))
    assert written.keys() == {"stage", "verdict", "elapsed_us", "facts"}
    assert (written["stage"], written["verdict"], written["elapsed_us"]) == ("quota", "proceed", 7)
    if read is not None:
        assert written["facts"] == {"fact": read}


# --- what is not recorded ----------------------------------------------------------------------------------------

CANARY = "canary-7f3a"


def everywhere(call: Call, result: bytes) -> End:
    attempt = Attempt(
        sent=True,
        asks=[{"method": "elicitation/create", "params": {"requestedSchema": {}}, "answer": {"password": CANARY}}],
        notifications=[{"method": "notifications/message", "params": {"data": {"user": {"password": CANARY}}}}],
    )
    question = {"arguments": call.arguments, "meta": call.meta, "subject": {"claims": {"password": CANARY}}}
    answer = {"allow": True, "obligations": [{"id": "set_argument", "path": "password", "value": CANARY}]}
    facts = {"question": question, "answer": answer, "revision": "r", "second": {"question": question, "answer": True}}
    steps = [Step(stage="authorize", verdict="proceed", elapsed_us=1, facts=facts)]
    return end(call, Completed(result=result), attempt=attempt, steps=steps)


RESULT = json.dumps(
    {
        "content": [
            {"type": "text", "text": json.dumps({"user": {"password": CANARY}})},
            {
                "type": "resource",
                "resource": {"uri": "x:y", "text": json.dumps([{"password": CANARY, "n": 2**70}])},
            },
        ],
        "structuredContent": {"rows": [{"password": CANARY, "name": "a"}]},
    }
).encode()


@pytest.mark.rule("records.redaction")
@pytest.mark.parametrize("glob", ["**.password", "**.pass*", "**"])
def test_what_is_redacted_is_in_no_byte_of_record_and_payloads(glob: str) -> None:
    arguments = {"login": {"password": CANARY, "user": "u"}}
    call = a_call(
        arguments=arguments,
        meta={"note": {"password": CANARY}},
        params={"name": "fixture__echo", "arguments": arguments, "extra": {"password": CANARY}},
    )
    encoded = records.encode_end(everywhere(call, RESULT), RecordingSettings(redact=(glob,)))
    written = [encoded.body, *[each.data or b"" for each in encoded.payloads]]
    assert not [part for part in written if CANARY.encode() in part]


@pytest.mark.rule("records.redaction")
def test_the_record_says_what_was_erased() -> None:
    call = a_call(arguments={"login": {"password": CANARY, "user": "u"}})
    found, payloads = body(end(call, Completed(result=RESULT)), redact=("**.password",))
    assert payloads["request"]["params"]["arguments"] == {"login": {"password": "***", "user": "u"}}
    assert found["command"]["request"]["erased"] == ["params.arguments.login.password"]
    assert found["response"]["erased"] == [
        "result.content.0.text.user.password",
        "result.content.1.resource.text.0.password",
        "result.structuredContent.rows.0.password",
    ]
    assert payloads["response"]["result"]["structuredContent"] == {"rows": [{"password": "***", "name": "a"}]}
    assert str(2**70) in payloads["response"]["result"]["content"][1]["resource"]["text"]


@pytest.mark.parametrize("glob", ["login.password", "arguments.login.password", "login.*"])
def test_a_path_may_begin_at_the_arguments_or_name_them(glob: str) -> None:
    call = a_call(arguments={"login": {"password": CANARY}})
    _, payloads = body(end(call), redact=(glob,))
    assert payloads["request"]["params"]["arguments"] == {"login": {"password": "***"}}


@pytest.mark.parametrize("glob", ["user.password", "result.structuredContent.user.password"])
def test_a_path_may_begin_at_a_document_of_the_result(glob: str) -> None:
    result = {
        "content": [{"type": "text", "text": json.dumps({"user": {"password": "b"}})}],
        "structuredContent": {"user": {"password": "b"}},
    }
    _, payloads = body(end(a_call(), Completed(result=json.dumps(result).encode())), redact=(glob,))
    assert payloads["response"]["result"]["structuredContent"] == {"user": {"password": "***"}}


@pytest.mark.rule("records.redact-arguments")
def test_an_obligation_redacts_the_arguments_of_its_own_call() -> None:
    call = a_call(arguments={"iban": "DE00"}, obligations=(Obligation(id="redact_arguments", paths=("**.iban",)),))
    found, payloads = body(end(call))
    assert payloads["request"]["params"]["arguments"] == {"iban": "***"}
    assert found["command"]["request"]["erased"] == ["params.arguments.iban"]


@pytest.mark.rule("records.switches")
def test_arguments_and_results_can_be_left_out_altogether() -> None:
    call = a_call(arguments={"text": CANARY})
    encoded = records.encode_end(
        everywhere(call, RESULT), RecordingSettings(arguments=False, results=False, redact=("**.password",))
    )
    assert not [each.data for each in encoded.payloads if each.data is not None and CANARY.encode() in each.data]
    found = json.loads(encoded.body)
    assert "params.arguments" in found["command"]["request"]["erased"]
    assert found["response"] == {
        "sha256": None,
        "size": len(RESULT),
        "kept": "none",
        "erased": ["result"],
    }


@pytest.mark.rule("records.switches")
@pytest.mark.parametrize(
    ("type", "method", "params"),
    [
        (TargetType.METHOD, "notes/delete", {"id": CANARY, "more": [CANARY]}),
        (
            TargetType.PROMPT,
            "completion/complete",
            {
                "ref": {"type": "ref/prompt", "name": "p"},
                "argument": {"name": "a", "value": CANARY},
                "context": {"arguments": {"b": CANARY}},
            },
        ),
        (
            TargetType.TOOL,
            "tools/call",
            {"name": "t", "arguments": {}, "inputResponses": {"ask": {"result": {"content": {"pin": CANARY}}}}},
        ),
    ],
)
def test_arguments_by_another_name_are_left_out_too(type: TargetType, method: str, params: dict[str, Any]) -> None:
    call = replace(a_call(), type=type, method=method, params=params)
    encoded = records.encode_end(end(call), RecordingSettings(arguments=False))
    assert not [each.data for each in encoded.payloads if each.data is not None and CANARY.encode() in each.data]
    assert json.loads(encoded.body)["command"]["request"]["erased"]


async def test_the_arguments_of_a_begin_are_redacted_too(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    recording = RecordingSettings(redact=("**.password",))
    async with open_journal(path, clock=TestClock(), settings=recording) as journal:
        await journal.begin(begin(a_call(Risk.WRITE, {"password": CANARY})))
        for suffix in ("", "-wal"):
            assert CANARY.encode() not in path.with_name(path.name + suffix).read_bytes()


# --- decisions ---------------------------------------------------------------------------------------------------


@pytest.mark.rule("records.decisions")
def test_a_recorded_question_can_be_put_again_as_it_was() -> None:
    arguments: dict[str, Any] = {"path": "/srv"}
    call = a_call(arguments=arguments, meta={"traceparent": "00-1"})
    changed = a_call(
        arguments={"path": "/srv/safe"}, received_arguments=arguments, params={"arguments": arguments}, meta=call.meta
    )
    first = {"version": 1, "arguments": arguments, "meta": call.meta, "context": {"time_ns": 5}}
    second = {**first, "arguments": changed.arguments}
    facts = {"question": first, "answer": {"allow": True}, "second": {"question": second, "answer": True}}
    steps = [Step(stage="authorize", verdict="proceed", elapsed_us=1, facts={**facts, "revision": "r1"})]
    found, payloads = body(end(changed, steps=steps))
    request = payloads["request"]
    assert [records.question(decision, request) for decision in request["decisions"]] == [first, second]
    assert [decision["answer"] for decision in request["decisions"]] == [{"allow": True}, True]
    assert found["trail"][0]["facts"] == {"revision": "r1", "second": {}}


def test_a_change_of_type_alone_is_a_change() -> None:
    call = a_call(arguments={"n": True}, received_arguments={"n": 1}, params={"arguments": {"n": 1}})
    _, payloads = body(end(call))
    assert payloads["request"]["forwarded"] == {"n": True}
    assert payloads["request"]["params"]["arguments"]["n"] == 1
