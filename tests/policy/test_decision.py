"""The policy question, and what each answer of the policy means (CONTRACT 4)."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.decide.policy import (
    Allowed,
    Denied,
    NeedsApproval,
    PolicyDecision,
    interpret,
    question,
    rfc3339,
    visibility_question,
)
from gateway.model.call import Client, Method, Principal, TargetType
from gateway.model.refusal import Code
from tests.building import call, tool

SCHEMA = json.loads((Path(__file__).parents[2] / "gateway/schemas/policy-input.schema.json").read_text())
RECENT = ({"tool": "git/git_log", "outcome": "completed", "code": None, "time": "2026-11-20T20:10:00Z"},)


@pytest.mark.rule("policy.question")
def test_the_question_has_the_form_of_the_contract() -> None:
    entry = tool("git_log", "git", annotations={"readOnlyHint": True}, definition_sha256="ab" * 32)
    asked = question(
        call(
            entry,
            {"repo_path": "/srv/repo"},
            principal=Principal(id="claude", roles=("reader",), claims={"team": "x"}),
            meta={"a": 1},
            trace_id="t",
            client=Client(name="c", version="1", protocol_version="2025-11-25", transport="http"),
        ),
        RECENT,
    )
    assert asked == {
        "version": 1,
        "subject": {"type": "agent", "id": "claude", "roles": ["reader"], "claims": {"team": "x"}},
        "action": {"name": "tools/call"},
        "resource": {
            "type": "tool",
            "id": "git/git_log",
            "server": "git",
            "name": "git_log",
            "risk": "read",
            "annotations": {"readOnlyHint": True},
            "definition_sha256": "ab" * 32,
        },
        "arguments": {"repo_path": "/srv/repo"},
        "meta": {"a": 1},
        "context": {
            "time": "2026-11-20T20:11:00Z",
            "time_ns": 1795205460000000000,
            "session_id": "session-1",
            "call_id": "call-1",
            "trace_id": "t",
            "client": {"name": "c", "version": "1", "protocol_version": "2025-11-25", "transport": "http"},
            "approval": None,
            "recent": list(RECENT),
        },
    }


@pytest.mark.rule("policy.question-schema")
def test_every_question_meets_the_published_schema_which_names_all_its_fields() -> None:
    validator = jsonschema_rs.Draft202012Validator(SCHEMA)
    entry = tool("git_log", "git")
    for asked in (
        question(call(entry), RECENT),
        question(call(entry, method=Method.READ_RESOURCE, type=TargetType.RESOURCE, arguments=None)),
        visibility_question(Principal(id="x"), entry),
    ):
        assert not list(validator.iter_errors(asked))

    def closed(schema: dict[str, Any], value: Any, path: str) -> None:
        for name, item in value.items():
            below = schema["properties"][name]
            if below.get("additionalProperties") is False:
                closed(below, item, f"{path}.{name}")
            else:
                assert path + "." + name in OPEN or not isinstance(item, dict), path + "." + name

    OPEN = {
        "input.arguments",
        "input.meta",
        "input.subject.claims",
        "input.resource.annotations",
        "input.context.client",
    }
    closed(SCHEMA, question(call(entry), RECENT), "input")


def test_a_request_without_arguments_asks_with_none() -> None:
    asked = question(
        call(tool(), method=Method.READ_RESOURCE, type=TargetType.RESOURCE, name="doc://x", arguments=None)
    )
    assert asked["resource"]["type"] == "resource"
    assert asked["arguments"] == {}


def test_a_method_of_an_extension_is_asked_about_with_its_params() -> None:
    asked = question(
        call(method="tasks/get", type=TargetType.METHOD, server="git", name="tasks/get", params={"id": "1"})
    )
    assert (asked["action"]["name"], asked["resource"]["type"], asked["arguments"]) == (
        "tasks/get",
        "method",
        {"id": "1"},
    )


@pytest.mark.rule("policy.visible-question")
def test_the_question_of_a_list_holds_nothing_of_a_single_call() -> None:
    asked = visibility_question(Principal(id="claude", roles=("reader",)), tool("git_log", "git"))
    assert asked["action"] == {"name": "tools/list"}
    assert asked["resource"]["id"] == "git/git_log"
    assert (asked["arguments"], asked["meta"], asked["context"]) == ({}, {}, {"approval": None, "recent": []})


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1795205460000000000, "2026-11-20T20:11:00Z"),
        (1795205460120000000, "2026-11-20T20:11:00.12Z"),
        (1795205460000000001, "2026-11-20T20:11:00.000000001Z"),
    ],
)
def test_time_is_written_as_go_writes_it(time_ns: int, text: str) -> None:
    assert rfc3339(time_ns) == text


DENIAL = {"code": "path", "message": "outside the root"}
HOLD = {"code": "amount", "reason": "a large amount"}
REDACT = {"id": "redact_result", "paths": ["**.iban"]}


def word(decision: PolicyDecision) -> str:
    match decision:
        case Allowed():
            return "allow"
        case NeedsApproval():
            return "hold"
        case Denied():
            return decision.code.value


@pytest.mark.rule("policy.precedence")
@pytest.mark.parametrize(
    ("document", "decision"),
    [
        ({"allow": True}, "allow"),
        ({"allow": True, "deny": [], "hold": [], "obligations": []}, "allow"),
        ({"allow": True, "obligations": [REDACT]}, "allow"),
        ({"allow": True, "hold": [HOLD]}, "hold"),
        ({"allow": True, "deny": [DENIAL]}, "policy.denied"),
        ({"allow": True, "deny": [DENIAL], "hold": [HOLD]}, "policy.denied"),
        ({"allow": False, "hold": [HOLD]}, "policy.denied"),
        ({"hold": [HOLD]}, "policy.denied"),
        ({"allow": False}, "policy.denied"),
        ({}, "policy.denied"),
        ({"deny": [DENIAL]}, "policy.denied"),
    ],
)
def test_any_deny_denies_then_no_allow_then_any_hold(document: Any, decision: str) -> None:
    assert word(interpret(document)) == decision


@pytest.mark.rule("policy.short-forms")
@pytest.mark.parametrize(
    ("document", "decision"),
    [
        (True, "allow"),
        (False, "policy.denied"),
        ({"allowed": True}, "allow"),
        ({"allowed": False}, "policy.denied"),
        ({"allowed": True, "reason": "because"}, "allow"),
        ({"allow": False, "reason": "because"}, "policy.denied"),
    ],
)
def test_the_short_forms_are_accepted(document: Any, decision: str) -> None:
    found = interpret(document)
    assert word(found) == decision
    if isinstance(document, dict) and document.get("reason") and isinstance(found, Denied):
        assert "because" in found.message


def test_a_denial_carries_every_rule_that_denied() -> None:
    found = interpret({"allow": True, "deny": [DENIAL, {"code": "b", "message": "second"}]})
    assert isinstance(found, Denied)
    assert found.policy == (DENIAL, {"code": "b", "message": "second"})
    assert "outside the root" in found.message
    assert "second" in found.message


def test_a_hold_reason_is_read_with_its_approvers() -> None:
    found = interpret(
        {"allow": True, "hold": [{**HOLD, "approvers": ["group:finance"], "expires_seconds": 3600, "distinct": True}]}
    )
    assert isinstance(found, NeedsApproval)
    (reason,) = found.reasons
    assert (reason.code, reason.approvers, reason.expires_seconds, reason.distinct, reason.source) == (
        "amount",
        ("group:finance",),
        3600.0,
        True,
        "policy",
    )


MALFORMED: list[tuple[Any, str]] = [
    (None, "it is null"),
    (1, "it is a number"),
    ("allow", "it is a string"),
    ([], "it is an array"),
    ({"allow": 1}, "`allow` is a number"),
    ({"allow": "true"}, "`allow` is a string"),
    ({"allow": None}, "`allow` is null"),
    ({"allow": {}}, "`allow` is an object"),
    ({"allowed": 1}, "`allowed` is a number"),
    ({"allow": True, "allowed": True}, "both `allow` and `allowed`"),
    ({"allow": True, "reason": 1}, "`reason` is a number"),
    ({"allow": True, "denies": [DENIAL]}, "the field 'denies'"),
    ({"allow": True, "deny": DENIAL}, "`deny` is an object"),
    ({"allow": True, "deny": None}, "`deny` is null"),
    ({"allow": True, "deny": {}}, "`deny` is an object"),
    ({"allow": True, "deny": False}, "`deny` is a boolean"),
    ({"allow": True, "deny": ["no"]}, "`deny[0]` is a string"),
    ({"allow": True, "deny": [{"code": "x"}]}, "`deny[0]` has no `message`"),
    ({"allow": True, "deny": [DENIAL, {"message": "x"}]}, "`deny[1]` has no `code`"),
    ({"allow": True, "deny": [{"code": 1, "message": "x"}]}, "`deny[0].code` is a number"),
    ({"allow": True, "deny": [{"code": "", "message": "x"}]}, "`deny[0].code` is empty"),
    ({"allow": True, "deny": [{**DENIAL, "x": 1}]}, "`deny[0]` has the field 'x'"),
    ({"allow": True, "hold": True}, "`hold` is a boolean"),
    ({"allow": True, "hold": [{"code": "x"}]}, "`hold[0]` has no `reason`"),
    ({"allow": True, "hold": [{**HOLD, "approver": ["a"]}]}, "`hold[0]` has the field 'approver'"),
    ({"allow": True, "hold": [{**HOLD, "approvers": "a"}]}, "`hold[0].approvers` is not an array"),
    ({"allow": True, "hold": [{**HOLD, "approvers": []}]}, "`hold[0].approvers` is empty"),
    ({"allow": True, "hold": [{**HOLD, "approvers": [1]}]}, "`hold[0].approvers` is not an array"),
    ({"allow": True, "hold": [{**HOLD, "expires_seconds": "1h"}]}, "`hold[0].expires_seconds`"),
    ({"allow": True, "hold": [{**HOLD, "expires_seconds": True}]}, "`hold[0].expires_seconds`"),
    ({"allow": True, "hold": [{**HOLD, "expires_seconds": 0}]}, "`hold[0].expires_seconds`"),
    ({"allow": True, "hold": [{**HOLD, "expires_seconds": None}]}, "`hold[0].expires_seconds`"),
    ({"allow": True, "hold": [{**HOLD, "distinct": 1}]}, "`hold[0].distinct` is a number"),
    ({"allow": True, "obligations": [{"paths": ["a"]}]}, "`obligations[0]` has no `id`"),
    ({"allow": True, "obligations": [{"id": "redact_result"}]}, "`obligations[0].paths`"),
    ({"allow": True, "obligations": [{"id": "redact_result", "paths": []}]}, "`obligations[0].paths`"),
    ({"allow": True, "obligations": [{"id": "redact_result", "paths": "a"}]}, "`obligations[0].paths`"),
    ({"allow": True, "obligations": [{"id": "redact_result", "paths": [1]}]}, "`obligations[0].paths`"),
    ({"allow": True, "obligations": [{"id": "redact_arguments", "paths": ["a..b"]}]}, "empty segment"),
    ({"allow": True, "obligations": [{"id": "redact_result", "path": "a", "paths": ["a"]}]}, "the field 'path'"),
    ({"allow": True, "obligations": [{"id": "set_argument", "path": "a"}]}, "has no `value`"),
    ({"allow": True, "obligations": [{"id": "set_argument", "value": 1}]}, "has no `path`"),
    ({"allow": True, "obligations": [{"id": "set_argument", "path": "a.*", "value": 1}]}, "wildcard"),
    (
        {
            "allow": True,
            "obligations": [
                {"id": "set_argument", "path": "a", "value": {}},
                {"id": "set_argument", "path": "a.b", "value": 1},
            ],
        },
        "sets the argument 'a' twice",
    ),
    ({"allow": True, "obligations": [{"id": "limit_result", "max_bytes": "1"}]}, "`obligations[0].max_bytes`"),
    ({"allow": True, "obligations": [{"id": "limit_result", "max_bytes": True}]}, "`obligations[0].max_bytes`"),
    ({"allow": True, "obligations": [{"id": "limit_result", "max_bytes": -1}]}, "`obligations[0].max_bytes`"),
]


@pytest.mark.rule("policy.malformed")
@pytest.mark.parametrize(("document", "says"), MALFORMED, ids=[json.dumps(one)[:60] for one, _ in MALFORMED])
def test_a_malformed_answer_is_denied_and_says_what_is_wrong(document: Any, says: str) -> None:
    found = interpret(document)
    assert isinstance(found, Denied)
    assert found.code is Code.POLICY_MALFORMED
    assert says in found.message


@pytest.mark.rule("policy.unknown-obligation")
def test_an_obligation_that_the_gateway_does_not_know_denies() -> None:
    found = interpret({"allow": True, "obligations": [{"id": "rate_limit", "per": "minute"}]})
    assert isinstance(found, Denied)
    assert found.code is Code.POLICY_UNKNOWN_OBLIGATION
    assert "rate_limit" in found.message


def test_a_denial_keeps_what_the_policy_wants_out_of_the_records() -> None:
    obligation = {"id": "redact_arguments", "paths": ["password"]}
    for document in ({"allow": False, "obligations": [obligation]}, {"deny": [DENIAL], "obligations": [obligation]}):
        found = interpret(document)
        assert isinstance(found, Denied)
        assert [one.id for one in found.obligations] == ["redact_arguments"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
DENIALS = st.fixed_dictionaries({"code": st.text(min_size=1, max_size=8), "message": st.text(min_size=1, max_size=8)})
ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        "allow": st.booleans() | JSON,
        "allowed": st.booleans(),
        "reason": st.text(max_size=5) | JSON,
        "deny": st.lists(DENIALS | JSON, max_size=2) | JSON,
        "hold": st.lists(st.just(HOLD) | JSON, max_size=2) | JSON,
        "obligations": st.lists(st.just(REDACT) | JSON, max_size=2) | JSON,
        "extra": JSON,
    },
)


@pytest.mark.rule("policy.precedence")
@given(JSON | ANSWERS)
def test_whatever_the_answer_is_only_a_clear_permission_allows(document: Any) -> None:
    found = interpret(document)
    permits = document is True or (
        isinstance(document, dict)
        and (document.get("allow") is True or document.get("allowed") is True)
        and document.get("deny", []) == []
    )
    if isinstance(found, Denied):
        assert found.message
    else:
        assert permits
    if isinstance(found, NeedsApproval):
        assert document["hold"]
    if isinstance(found, Allowed) and isinstance(document, dict):
        assert document.get("hold", []) == []
