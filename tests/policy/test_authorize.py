"""Stage 4: the policy judges the call, and what it demands is carried out."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gateway.model.call import Call, HoldReason, Method, Obligation, TargetType
from gateway.model.errors import PolicyEvaluationError, PolicyTimeout, PolicyUnavailable
from gateway.model.events import CallEnded
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Failed, Held, Proceed, Refuse, Refused, Step, executed
from gateway.ports import UNDEFINED
from gateway.stages.authorize import Authorize, RecentCalls
from tests.building import call, snapshot, tool

pytestmark = pytest.mark.anyio


class Scripted:
    """A policy engine that gives its answers in turn (the last one again and again), and remembers the questions."""

    revision = "rev-1"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.questions: list[Mapping[str, Any]] = []

    async def decide(self, question: Mapping[str, Any], *, timeout_seconds: float) -> Any:
        self.questions.append(json.loads(json.dumps(question)))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def visible(self, questions: Sequence[Mapping[str, Any]]) -> Sequence[bool | None]:
        return [None for _ in questions]


SCHEMA = {"type": "object", "properties": {"limit": {"type": "integer", "maximum": 100}, "password": {}, "text": {}}}


def asked(engine: Scripted, arguments: Any = None, **changes: Any) -> Call:
    entry = tool("query", "db", schema=SCHEMA)
    return call(entry, arguments, snapshot=snapshot(entry, policy=engine), **changes)


def sets(path: str, value: Any) -> dict[str, Any]:
    return {"id": "set_argument", "path": path, "value": value}


@pytest.mark.rule("policy.recorded")
async def test_an_allowed_call_proceeds_with_question_answer_revision_and_id_in_its_facts() -> None:
    engine = Scripted(True)
    verdict = await Authorize().admit(asked(engine, {"text": "x"}))
    assert isinstance(verdict, Proceed)
    assert verdict.call is None
    facts = dict(verdict.facts)
    assert facts["question"] == engine.questions[0]
    assert (facts["answer"], facts["revision"], facts["decision_id"]) == (True, "rev-1", "call-1.1")
    assert facts["elapsed_us"] >= 0
    json.dumps(facts)


@pytest.mark.rule("policy.codes")
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (UNDEFINED, Code.POLICY_UNDEFINED),
        (PolicyEvaluationError("policies/a.rego:3:1: eval_conflict_error: secret detail"), Code.POLICY_ERROR),
        (PolicyTimeout("late"), Code.POLICY_TIMEOUT),
        (PolicyUnavailable("refused"), Code.POLICY_UNAVAILABLE),
        ({"allow": 1}, Code.POLICY_MALFORMED),
        ({"allow": True, "obligations": [{"id": "x"}]}, Code.POLICY_UNKNOWN_OBLIGATION),
        (False, Code.POLICY_DENIED),
    ],
)
async def test_whatever_is_no_permission_is_refused_with_its_own_code(answer: Any, code: Code) -> None:
    verdict = await Authorize().admit(asked(Scripted(answer)))
    assert isinstance(verdict, Refuse)
    assert verdict.code is code
    assert verdict.decision_id == "call-1.1"
    assert "secret" not in verdict.message
    if isinstance(answer, Exception):
        assert verdict.facts["error"] == str(answer)


@pytest.mark.rule("policy.crash")
async def test_an_engine_that_breaks_its_contract_never_lets_a_call_through() -> None:
    with pytest.raises(ZeroDivisionError):
        await Authorize().admit(asked(Scripted(ZeroDivisionError())))


async def test_a_denial_tells_the_model_every_reason() -> None:
    denials = [{"code": "a", "message": "no A"}, {"code": "b", "message": "no B"}]
    verdict = await Authorize().admit(asked(Scripted({"allow": True, "deny": denials})))
    assert isinstance(verdict, Refuse)
    assert list(verdict.policy) == denials
    assert "no A" in verdict.message
    assert "no B" in verdict.message


@pytest.mark.rule("policy.hold-reasons")
async def test_reasons_to_hold_join_those_that_the_call_already_has() -> None:
    known = HoldReason(code="tool", source="tool")
    verdict = await Authorize().admit(
        asked(Scripted({"allow": True, "hold": [{"code": "amount", "reason": "large"}]}), hold_reasons=(known,))
    )
    assert isinstance(verdict, Proceed)
    assert verdict.call is not None
    assert [reason.code for reason in verdict.call.hold_reasons] == ["tool", "amount"]


@pytest.mark.rule("policy.set-argument")
async def test_set_arguments_are_what_the_second_question_and_the_call_hold() -> None:
    engine = Scripted({"allow": True, "obligations": [sets("limit", 100)]})
    verdict = await Authorize().admit(asked(engine, {"limit": 50, "text": "x"}))
    assert isinstance(verdict, Proceed)
    assert verdict.call is not None
    assert verdict.call.arguments == {"limit": 100, "text": "x"}
    assert verdict.call.received_arguments == {"limit": 50, "text": "x"}
    assert [one["arguments"] for one in engine.questions] == [{"limit": 50, "text": "x"}, {"limit": 100, "text": "x"}]
    assert verdict.facts["second"]["decision_id"] == "call-1.2"


async def test_an_argument_that_is_so_already_is_not_asked_about_again() -> None:
    engine = Scripted({"allow": True, "obligations": [sets("limit", 100)]})
    verdict = await Authorize().admit(asked(engine, {"limit": 100}))
    assert isinstance(verdict, Proceed)
    assert len(engine.questions) == 1


@pytest.mark.rule("policy.unstable")
@pytest.mark.parametrize(
    "answers",
    [
        [{"allow": True, "obligations": [sets("limit", 90)]}, {"allow": True, "obligations": [sets("limit", 80)]}],
        [{"allow": True, "obligations": [sets("limit", 90)]}, {"allow": True, "obligations": [sets("text", "x")]}],
        [{"allow": True, "obligations": [sets("limit", 90)]}, {"allow": False}],
        [{"allow": True, "obligations": [sets("limit", 90)]}, {"allow": True, "deny": [{"code": "a", "message": "b"}]}],
        [{"allow": True, "obligations": [sets("limit", 1000)]}],
        [{"allow": True, "obligations": [sets("limit", "ninety")]}],
        [{"allow": True, "obligations": [sets("undeclared", 1)]}],
        [{"allow": True, "obligations": [sets("limit.deeper", 1)]}],
    ],
)
async def test_a_change_that_does_not_hold_is_refused(answers: list[Any]) -> None:
    verdict = await Authorize().admit(asked(Scripted(*answers), {"limit": 50}))
    assert isinstance(verdict, Refuse)
    assert verdict.code is Code.POLICY_UNSTABLE


async def test_a_second_question_without_an_answer_is_refused_with_its_own_code() -> None:
    first = {"allow": True, "obligations": [sets("limit", 90)]}
    for second, code in ((UNDEFINED, Code.POLICY_UNDEFINED), (PolicyTimeout("late"), Code.POLICY_TIMEOUT)):
        verdict = await Authorize().admit(asked(Scripted(first, second), {"limit": 50}))
        assert isinstance(verdict, Refuse)
        assert verdict.code is code
        assert verdict.decision_id == "call-1.2"


async def test_one_and_true_are_different_arguments() -> None:
    engine = Scripted({"allow": True, "obligations": [sets("text", True)]})
    verdict = await Authorize().admit(asked(engine, {"text": 1}))
    assert isinstance(verdict, Proceed)
    assert verdict.call is not None
    assert verdict.call.arguments == {"text": True}
    assert len(engine.questions) == 2


async def test_what_has_no_arguments_cannot_have_them_set() -> None:
    engine = Scripted({"allow": True, "obligations": [sets("uri", "x")]})
    read = asked(engine, method=Method.READ_RESOURCE, type=TargetType.RESOURCE)
    verdict = await Authorize().admit(read)
    assert isinstance(verdict, Refuse)
    assert verdict.code is Code.POLICY_UNSTABLE


async def test_duties_and_reasons_of_both_answers_hold() -> None:
    engine = Scripted(
        {"allow": True, "obligations": [sets("limit", 90), {"id": "limit_result", "max_bytes": 10}], "hold": [{"code": "a", "reason": "x"}]},
        {"allow": True, "obligations": [{"id": "redact_result", "paths": ["x"]}], "hold": [{"code": "b", "reason": "x"}]},
    )  # fmt: skip
    verdict = await Authorize().admit(asked(engine, {"limit": 50}))
    assert isinstance(verdict, Proceed)
    assert verdict.call is not None
    assert {one.id for one in verdict.call.obligations} == {"set_argument", "limit_result", "redact_result"}
    assert [one.code for one in verdict.call.hold_reasons] == ["a", "b"]


@pytest.mark.rule("policy.redact-arguments")
@pytest.mark.parametrize("allow", [True, False])
async def test_redacted_arguments_are_in_the_call_and_not_in_the_facts(allow: bool) -> None:
    duty = {"id": "redact_arguments", "paths": ["password"]}
    engine = Scripted({"allow": allow, "obligations": [duty, sets("password", "hunter3")]})
    verdict = await Authorize().admit(asked(engine, {"password": "hunter2"}))
    assert isinstance(verdict, Proceed | Refuse)
    assert "hunter" not in json.dumps(verdict.facts)
    assert verdict.facts["erased"] == ["password"]
    assert verdict.call is not None
    assert verdict.call.arguments == ({"password": "hunter3"} if allow else {"password": "hunter2"})
    assert any(one.id == "redact_arguments" for one in verdict.call.obligations)


@pytest.mark.rule("policy.shadow")
async def test_a_shadow_policy_is_recorded_and_never_decides() -> None:
    def shadowed(live: Any, shadow: Any) -> Call:
        entry = tool("query", "db", schema=SCHEMA)
        return call(entry, {}, snapshot=snapshot(entry, policy=Scripted(live), shadow=Scripted(shadow)))

    for answer, word in ((False, "deny"), (True, "allow"), ({"allow": 1}, "deny"), (UNDEFINED, "undefined")):
        verdict = await Authorize().admit(shadowed(True, answer))
        assert isinstance(verdict, Proceed)
        assert verdict.facts["shadow"]["decision"] == word
    verdict = await Authorize().admit(shadowed(True, PolicyUnavailable("down")))
    assert isinstance(verdict, Proceed)
    assert verdict.facts["shadow"]["error"] == "down"
    assert isinstance(await Authorize().admit(shadowed(False, True)), Refuse)


# --- settle ---


REDACTS = Obligation(id="redact_result", paths=("**.iban",))


def completed(**parts: Any) -> Completed:
    return Completed(result=json.dumps(parts).encode())


@pytest.mark.rule("policy.redact-result")
async def test_a_result_is_redacted_when_the_call_settles() -> None:
    outcome = completed(content=[], structuredContent={"iban": "DE89"})
    settlement = await Authorize().settle(call(obligations=(REDACTS,)), outcome)
    assert settlement is not None
    assert isinstance(settlement.outcome, Completed)
    assert settlement.outcome.result is not None
    assert b"DE89" not in settlement.outcome.result
    assert settlement.facts["redacted"] == {"count": 1, "paths": ["structuredContent.iban"]}


@pytest.mark.rule("policy.unredactable")
@pytest.mark.parametrize(
    "outcome",
    [
        completed(content=[{"type": "text", "text": "DE89 in words"}]),
        Completed(error=b'{"code": -32000, "message": "no account DE89"}'),
        Completed(result=b"\xff"),
        Completed(result=json.dumps({"content": [{"type": "text", "text": "DE89 " * 100_000}]}).encode()),
    ],
)
async def test_a_result_that_cannot_be_redacted_is_withheld(outcome: Completed) -> None:
    settlement = await Authorize().settle(call(obligations=(REDACTS,)), outcome)
    assert settlement is not None
    assert isinstance(settlement.outcome, Refused)
    assert settlement.outcome.code is Code.RESULT_UNREDACTABLE
    assert executed(settlement.outcome) == "yes"
    assert "DE89" not in settlement.outcome.message


@pytest.mark.rule("policy.limit-result")
async def test_a_result_beyond_the_policys_limit_is_withheld() -> None:
    outcome = completed(content=[{"type": "text", "text": "x" * 100}])
    assert outcome.result is not None
    size = len(outcome.result)
    for limit, passes in ((size, True), (size - 1, False)):
        settlement = await Authorize().settle(
            call(obligations=(Obligation(id="limit_result", max_bytes=limit),)), outcome
        )
        assert settlement is not None
        if passes:
            assert settlement.outcome is None
        else:
            assert isinstance(settlement.outcome, Refused)
            assert settlement.outcome.code is Code.RESULT_TOO_LARGE


async def test_other_outcomes_settle_as_they_are() -> None:
    for outcome in (
        Refused(stage="quota", code=Code.QUOTA_EXHAUSTED, message=""),
        Failed(code=Code.SERVER_LOST, message="", in_doubt=True),
        Held(hold_id="h", expires_at=1, message=""),
    ):
        assert await Authorize().settle(call(obligations=(REDACTS,)), outcome) is None


# --- recent ---


@pytest.mark.rule("policy.recent")
async def test_a_question_shows_the_sessions_last_twenty_calls() -> None:
    engine = Scripted(True)
    stage = Authorize()
    for number in range(25):
        one = asked(engine, id=f"call-{number}", time_ns=1795205460000000000 + number * 10**9)
        await stage.admit(one)
        await stage.settle(one, completed(content=[], isError=number == 24))
    await stage.admit(asked(engine))
    recent = engine.questions[-1]["context"]["recent"]
    assert len(recent) == 20
    assert recent[0] == {"tool": "db/query", "outcome": "completed", "code": None, "time": "2026-11-20T20:11:05Z"}
    assert recent[-1]["outcome"] == "error"
    await stage.admit(asked(engine, session_id="other"))
    assert engine.questions[-1]["context"]["recent"] == []


async def test_recent_calls_tell_how_each_ended() -> None:
    recent = RecentCalls(sessions=2)
    one = asked(Scripted(True))
    for outcome in (
        completed(content=[{"type": "text", "text": '"isError": true'}]),
        Completed(error=b"{}"),
        Refused(stage="quota", code=Code.QUOTA_EXHAUSTED, message=""),
        Failed(code=Code.SERVER_LOST, message="", in_doubt=True),
        Failed(code=Code.SERVER_UNAVAILABLE, message="", in_doubt=False),
        Held(hold_id="h", expires_at=1, message=""),
    ):
        recent.note(one, outcome)
    assert [(item["outcome"], item["code"]) for item in recent.of("session-1")] == [
        ("completed", None),
        ("error", None),
        ("refused", "quota.exhausted"),
        ("in_doubt", "server.lost"),
        ("failed", "server.unavailable"),
    ]


@pytest.mark.rule("policy.recent")
async def test_a_call_that_an_approval_released_is_no_recent_call_and_says_so_in_the_question() -> None:
    engine, stage = Scripted(True), Authorize()
    released = asked(engine, approval={"hold_id": "h"})
    await stage.admit(released)
    await stage.settle(released, completed(content=[]))
    assert engine.questions[-1]["context"]["approval"] == {"hold_id": "h"}
    await stage.admit(asked(engine))
    assert engine.questions[-1]["context"]["recent"] == []


async def test_a_refusal_by_the_policy_is_a_recent_call() -> None:
    engine = Scripted(False)
    stage = Authorize()
    await stage.admit(asked(engine))
    await stage.admit(asked(engine))
    assert [item["code"] for item in engine.questions[-1]["context"]["recent"]] == ["policy.denied"]


def test_calls_that_ended_before_the_policy_are_recent_too_and_ended_sessions_forgotten() -> None:
    recent = RecentCalls()
    one, unknown = asked(Scripted(True)), asked(Scripted(True), server="", name="", target="db__nothing")

    def ended(call: Call, code: Code, *stages: str) -> CallEnded:
        steps = tuple(Step(stage=stage, verdict="proceed", elapsed_us=1) for stage in stages)
        outcome = Refused(stage=stages[-1], code=code, message="")
        return CallEnded(at=1, call=call, outcome=outcome, steps=steps, elapsed_seconds=0, started_ns=0)

    recent.hear(ended(one, Code.SCHEMA_INVALID, "resolve", "interrupt", "validate"))
    recent.hear(ended(one, Code.QUOTA_EXHAUSTED, "resolve", "interrupt", "validate", "authorize", "quota"))
    recent.hear(ended(unknown, Code.REQUEST_INVALID, "resolve"))
    assert [(item["tool"], item["code"]) for item in recent.of("session-1")] == [
        ("db/query", "schema.invalid"),
        ("db__nothing", "request.invalid"),
    ]
    recent.forget("session-1")
    assert recent.of("session-1") == ()


def test_the_longest_idle_session_is_forgotten_first() -> None:
    recent = RecentCalls(sessions=2)
    for session in ("a", "b", "a", "c"):
        recent.note(asked(Scripted(True), session_id=session), completed(content=[]))
    assert [len(recent.of(session)) for session in ("a", "b", "c")] == [2, 0, 1]
