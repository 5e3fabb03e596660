"""The hold as a state machine: digests with published vectors, who may decide, one winner, one use."""

import json
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.decide.hold import (
    Binding,
    DecisionRefused,
    Hold,
    HoldState,
    Operator,
    canonical,
    claim,
    decide,
    expire,
    finish,
    lookup_digest,
    may_decide,
    open_reasons,
    release,
    undecidable,
)
from gateway.model.call import HoldReason
from gateway.model.value import replace

VECTORS = Path(__file__).parents[2] / "docs" / "hold-digests.json"

ANYBODY = HoldReason(code="write", reason="writes are approved")
FINANCE = HoldReason(code="amount", approvers=("group:finance",))
APPROVER = Operator(id="ann", role="approver")
FINANCIER = Operator(id="fay", role="approver", groups=("finance",))


def binding(**changes: Any) -> Binding:
    values: dict[str, Any] = {
        "lookup": lookup_digest(principal="claude", server="git", tool="git_commit", arguments={"message": "x"}),
        "arguments": {"message": "x"},
        "definition_sha256": "d" * 64,
        "server_sha256": "s" * 64,
        "policy_revision": "p" * 64,
        "reasons": ("write",),
    }
    return Binding(**{**values, **changes})


def hold(*reasons: HoldReason, **changes: Any) -> Hold:
    wanted = reasons or (ANYBODY,)
    values: dict[str, Any] = {
        "id": "hold-1",
        "binding": binding(reasons=tuple(sorted(reason.code for reason in wanted))),
        "principal": "claude",
        "session_id": "session-1",
        "client": "tests",
        "server": "git",
        "tool": "git_commit",
        "risk": "write",
        "call_id": "call-1",
        "opened_at": 0.0,
        "expires_at": 100.0,
        "reasons": wanted,
        "received": {"message": "x"},
    }
    return Hold(**{**values, **changes})


def approve(what: Hold, operator: Operator = APPROVER, now: float = 1.0, **more: Any) -> Hold:
    return decide(what, operator, approve=True, now=now, valid_seconds=10.0, **more)


# --- digests ---


@pytest.mark.rule("hold.digest-vectors")
def test_the_published_vectors_are_what_the_digests_give() -> None:
    vectors = json.loads(VECTORS.read_text())
    assert len(vectors["canonical"]) >= 8
    for vector in vectors["canonical"]:
        assert canonical(vector["value"]).decode() == vector["text"]
    for vector in vectors["lookup"]:
        assert lookup_digest(**vector["of"]) == vector["sha256"]
    for vector in vectors["binding"]:
        given = {**vector["of"], "reasons": tuple(vector["of"]["reasons"])}
        assert Binding(**given).digest() == vector["sha256"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), inner, max_size=4)
    ),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None)
@given(value=JSON)
def test_the_canonical_form_is_rfc_8785_as_far_as_that_goes(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@given(a=st.integers(2**53, 2**64), b=st.integers(2**53, 2**64))
def test_integers_that_doubles_cannot_tell_apart_have_different_digests(a: int, b: int) -> None:
    assert (canonical([a]) == canonical([b])) is (a == b)


def test_depth_costs_no_stack() -> None:
    value: Any = 1
    for _ in range(20_000):
        value = [value]
    assert canonical(value).startswith(b"[[[")


@pytest.mark.rule("hold.bound-to-one-call")
@pytest.mark.parametrize(
    "change",
    [
        {"arguments": {"message": "y"}},
        {"arguments": {"message": "x", "more": None}},
        {"definition_sha256": "e" * 64},
        {"server_sha256": "t" * 64},
        {"policy_revision": "q" * 64},
        {"reasons": ("another", "write")},
        {"lookup": "0" * 64},
    ],
)
def test_an_approval_is_void_for_a_call_that_differs_in_anything(change: dict[str, Any]) -> None:
    approved = approve(hold())
    assert claim(approved, approved.binding, "call-2", 2.0).state is HoldState.CLAIMED
    assert claim(approved, replace(approved.binding, **change), "call-2", 2.0).state is HoldState.VOID


# --- who decides ---


@pytest.mark.rule("hold.approvers")
@pytest.mark.parametrize(
    ("operator", "reason", "may"),
    [
        (APPROVER, ANYBODY, True),
        (Operator(id="vic", role="viewer"), ANYBODY, False),
        (Operator(id="odd", role=""), ANYBODY, False),
        (APPROVER, FINANCE, False),
        (FINANCIER, FINANCE, True),
        (Operator(id="fay", role="viewer", groups=("finance",)), FINANCE, False),
        (APPROVER, HoldReason(code="x", approvers=("ann",)), True),
        (APPROVER, HoldReason(code="x", approvers=("bob",)), False),
        (Operator(id="finance", role="approver"), FINANCE, False),
    ],
)
def test_a_reason_is_decided_by_its_approvers_alone(operator: Operator, reason: HoldReason, may: bool) -> None:
    assert may_decide(operator, reason) is may
    if not may:
        with pytest.raises(DecisionRefused):
            approve(hold(reason), operator)


@pytest.mark.rule("hold.approvers")
def test_each_reason_needs_its_own_approvers() -> None:
    waiting = approve(hold(ANYBODY, FINANCE), APPROVER)
    assert waiting.state is HoldState.PENDING
    assert [reason.code for reason in open_reasons(waiting)] == ["amount"]
    assert approve(waiting, FINANCIER).state is HoldState.APPROVED


@pytest.mark.rule("hold.approvers")
def test_distinct_reasons_need_different_people() -> None:
    two = (HoldReason(code="a", distinct=True), HoldReason(code="b", distinct=True))
    once = approve(hold(*two), APPROVER)
    assert once.state is HoldState.PENDING
    with pytest.raises(DecisionRefused):
        approve(once, APPROVER)
    assert approve(once, FINANCIER).state is HoldState.APPROVED
    assert undecidable(two, [APPROVER]) is not None
    assert undecidable(two, [APPROVER, FINANCIER]) is None


@pytest.mark.rule("hold.nobody-configured")
def test_a_hold_that_nobody_configured_can_decide_is_known_before_it_opens() -> None:
    assert undecidable((ANYBODY,), []) is ANYBODY
    assert undecidable((ANYBODY, FINANCE), [APPROVER]) is FINANCE
    assert undecidable((ANYBODY, FINANCE), [FINANCIER]) is None


@pytest.mark.rule("hold.never-the-agent")
def test_an_agent_never_decides_on_its_own_call() -> None:
    with pytest.raises(DecisionRefused, match="own"):
        approve(hold(), Operator(id="claude", role="operator"))


@pytest.mark.rule("hold.one-decision")
def test_of_two_decisions_the_first_wins() -> None:
    denied = decide(hold(), APPROVER, approve=False, now=1.0, valid_seconds=10.0)
    assert denied.state is HoldState.DENIED
    with pytest.raises(DecisionRefused, match="denied"):
        approve(denied, FINANCIER)
    with pytest.raises(DecisionRefused, match="approved"):
        decide(approve(hold()), FINANCIER, approve=False, now=1.0, valid_seconds=10.0)


def test_narrowed_arguments_are_what_is_bound_and_the_received_ones_stay() -> None:
    approved = approve(hold(), arguments={"message": "shorter"}, narrow=True)
    assert approved.binding.arguments == {"message": "shorter"}
    assert approved.received == {"message": "x"}
    assert claim(approved, hold().binding, "call-2", 2.0).state is HoldState.VOID


# --- any order of events ---


class AnyOrder(RuleBasedStateMachine):
    """Decisions, uses, endings, time and changed calls in any order: never two wins, never a second use."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.hold = hold(expires_at=50.0)
        self.approvals = self.denials = self.uses = 0
        self.ran = False

    @rule(seconds=st.floats(0.0, 30.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.hold = expire(self.hold, self.now)

    @rule(
        yes=st.booleans(),
        operator=st.sampled_from(
            [APPROVER, FINANCIER, Operator(id="claude", role="operator"), Operator(id="v", role="viewer")]
        ),
    )
    def somebody_decides(self, yes: bool, operator: Operator) -> None:
        try:
            self.hold = decide(self.hold, operator, approve=yes, now=self.now, valid_seconds=10.0)
        except DecisionRefused:
            return
        assert operator.id not in ("claude", "v")
        self.approvals += yes
        self.denials += not yes

    @rule(same=st.booleans())
    def a_call_arrives(self, same: bool) -> None:
        before = self.hold
        found = before.binding if same else replace(before.binding, policy_revision="changed")
        self.hold = claim(before, found, "call", self.now)
        if before.state is not HoldState.CLAIMED and self.hold.state is HoldState.CLAIMED:
            assert same
            assert before.state is HoldState.APPROVED
            assert before.valid_until is not None
            assert self.now < before.valid_until
            self.uses += 1

    @rule(ran=st.booleans())
    def the_call_ends(self, ran: bool) -> None:
        if self.hold.state is HoldState.CLAIMED:
            self.hold = finish(self.hold) if ran else release(self.hold)
            self.ran = self.ran or ran
            self.uses -= not ran

    @invariant()
    def one_decision_wins(self) -> None:
        assert self.approvals + self.denials <= 1

    @invariant()
    def an_approval_is_used_at_most_once_and_only_after_it_was_given(self) -> None:
        assert self.uses <= 1
        assert not self.ran or (self.approvals == 1 and self.hold.state is HoldState.DONE)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
