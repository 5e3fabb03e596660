"""Stage 4, `authorize`: the policy judges the call.

Theory of operation
-------------------
The call becomes a question, the policy port answers it within its time, and the answer is read by the pure functions of
`decide/policy.py`. Whatever is not a clear permission (no answer, an error, a timeout, an answer of another form) is a
refusal with a code of its own. There is no path from an exception in here to a forward: what is not foreseen is raised,
and the engine refuses.

Where the policy sets arguments, the changed call is validated again and put to the policy once more, as it will be sent.
If the policy then wants another change, or denies, nothing is sent: what is judged is what is forwarded.

When the call settles, the result is redacted and measured as the policy demands. A result for which that fails is
withheld, whatever the failure was.
"""

import json
import logging
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, assert_never

import anyio.to_thread

from gateway.decide.obligations import (
    PathError,
    Unredactable,
    globs_of,
    parse_exactly,
    redact,
    redact_error,
    redact_result,
    result_limit,
    set_arguments,
)
from gateway.decide.policy import (
    RECENT_CALLS,
    Allowed,
    Denied,
    NeedsApproval,
    PolicyDecision,
    interpret,
    question,
    rfc3339,
)
from gateway.model.call import Call, HoldReason, Method, Obligation
from gateway.model.errors import PolicyEvaluationError, PolicyTimeout, PolicyUnavailable
from gateway.model.events import CallEnded, Event
from gateway.model.refusal import Code
from gateway.model.value import replace
from gateway.model.verdict import Completed, Failed, Held, Outcome, Proceed, Refuse, Refused, Verdict
from gateway.ports import UNDEFINED, PolicyEngine, Settlement

logger = logging.getLogger("gateway.stages.authorize")

_IN_A_THREAD = 262_144
"""Results of more bytes are redacted in a thread, so that other calls do not wait for it."""

_NAMED_PATHS = 100
"""How many erased paths a record names; all are counted."""


class RecentCalls:
    """What each session did last, for `context.recent`: in memory, bounded, forgotten with the process.

    Args:
        sessions: how many sessions are remembered; the longest idle is forgotten first.
    """

    def __init__(self, *, sessions: int = 10_000) -> None:
        self._sessions = sessions
        self._calls: OrderedDict[str, deque[Mapping[str, Any]]] = OrderedDict()

    def of(self, session_id: str) -> Sequence[Mapping[str, Any]]:
        """The session's last calls, oldest first: `{tool, outcome, code, time}`."""
        return tuple(self._calls.get(session_id, ()))

    def note(self, call: Call, outcome: Outcome) -> None:
        """Remember how a call ended. One that is held has not ended; one that an approval released, or that picked an outcome
        up, does not count.

        `outcome` is `completed`, `error` (the tool's own), `refused`, `failed` or `in_doubt`; `code` is the gateway's, or
        null.
        """
        if call.apart or call.approval is not None:
            return
        said: tuple[str, str | None]
        match outcome:
            case Held():
                return
            case Completed():
                said = ("error" if _is_error(outcome) else "completed", None)
            case Refused():
                said = ("refused", outcome.code.value)
            case Failed():
                said = ("in_doubt" if outcome.in_doubt else "failed", outcome.code.value)
            case _:
                assert_never(outcome)
        calls = self._calls.get(call.session_id)
        if calls is None:
            calls = self._calls[call.session_id] = deque(maxlen=RECENT_CALLS)
            if len(self._calls) > self._sessions:
                self._calls.popitem(last=False)
        else:
            self._calls.move_to_end(call.session_id)
        tool = f"{call.server}/{call.name}" if call.server else call.target
        calls.append({"tool": tool, "outcome": said[0], "code": said[1], "time": rfc3339(call.time_ns)})

    def hear(self, event: Event) -> None:
        """Note the calls that ended before they reached the policy, which the stage itself does not see."""
        if isinstance(event, CallEnded):
            for step in event.steps:
                if step.stage == Authorize.name:
                    return
            self.note(event.call, event.outcome)

    def forget(self, session_id: str) -> None:
        """The session has ended."""
        self._calls.pop(session_id, None)


_MAY_BE_ERROR = re.compile(rb'"isError"\s*:\s*true')


def _is_error(outcome: Completed) -> bool:
    """Whether the tool itself says that it failed. Results are parsed only where they may say so."""
    if outcome.error is not None:
        return True
    if outcome.result is None or b'"isError"' not in outcome.result or _MAY_BE_ERROR.search(outcome.result) is None:
        return False
    try:
        result = parse_exactly(outcome.result)
    except ValueError:
        return True
    return isinstance(result, dict) and result.get("isError") is True


class Authorize:
    """Asks the snapshot's policy engine, and carries out what it demands.

    A snapshot's shadow is asked the same beside it; what it says is recorded and has no effect.

    Args:
        timeout_seconds: how long an engine may take for one answer, now (`[policy] timeout_seconds`).
        recent: what the sessions did last. This stage notes every call that reaches it, before the call is answered; it
            hears of the others by `RecentCalls.hear`.
    """

    name = "authorize"

    def __init__(
        self, *, timeout_seconds: Callable[[], float] = lambda: 0.5, recent: RecentCalls | None = None
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self.recent = recent if recent is not None else RecentCalls()

    # --- admit ---

    async def admit(self, call: Call) -> Verdict:
        """Proceed with the policy's obligations and reasons to hold in the call, or refuse with the policy's code.

        The facts are `{question, answer, revision, decision_id, elapsed_us}`, with `second` of the same form where the
        policy was asked again, `error` where it did not answer, and `shadow` where there is one.
        """
        verdict = await self._judge(call)
        if isinstance(verdict, Refuse):
            self.recent.note(call, Refused(stage=self.name, code=verdict.code, message=verdict.message))
        return verdict

    async def _judge(self, call: Call) -> Verdict:
        facts: dict[str, Any] = {}
        decision = await self._ask(call, facts, number=1)
        if call.snapshot.shadow is not None:
            facts["shadow"] = await self._ask_shadow(call.snapshot.shadow, facts["question"])
        match decision:
            case Denied():
                return _refuse(call, decision, facts)
            case Allowed(obligations=obligations):
                if not obligations:
                    return Proceed(facts=facts)
                reasons: tuple[HoldReason, ...] = ()
            case NeedsApproval(obligations=obligations, reasons=reasons):
                pass
            case _:
                assert_never(decision)
        changed = _with_arguments(call, obligations)
        if isinstance(changed, str):
            return _unstable(call, obligations, changed, facts)
        if changed is not call:
            problems = _problems(changed)
            if problems:
                return _unstable(call, obligations, f"with the arguments that the policy sets, {problems}", facts)
            facts["second"] = second = dict[str, Any]()
            again = await self._ask(changed, second, number=2)
            obligations = _union(obligations, again.obligations)
            match again:
                case Denied(code=Code.POLICY_DENIED):
                    return _unstable(call, obligations, again.message, facts, again)
                case Denied():
                    return _refuse(call, replace(again, obligations=obligations), facts)
                case Allowed():
                    pass
                case NeedsApproval():
                    reasons = _union(reasons, again.reasons)
                case _:
                    assert_never(again)
            if _with_arguments(changed, again.obligations) is not changed:
                return _unstable(call, obligations, "asked again, it wants other arguments.", facts)
            call = changed
        _erase_arguments(facts, obligations)
        return Proceed(
            call=replace(call, obligations=obligations, hold_reasons=_union(call.hold_reasons, reasons)), facts=facts
        )

    async def _ask(self, call: Call, facts: dict[str, Any], *, number: int) -> PolicyDecision:
        """One question and its decision; what was asked and answered goes into `facts`."""
        engine = call.snapshot.policy
        asked = question(call, self.recent.of(call.session_id))
        facts["question"] = asked
        facts["decision_id"] = f"{call.id}.{number}"
        began = time.perf_counter_ns()
        try:
            answer = await engine.decide(asked, timeout_seconds=self.timeout_seconds())
        except PolicyTimeout as error:
            decision: PolicyDecision = _failure(Code.POLICY_TIMEOUT, facts, error)
        except PolicyUnavailable as error:
            decision = _failure(Code.POLICY_UNAVAILABLE, facts, error)
        except PolicyEvaluationError as error:
            decision = _failure(Code.POLICY_ERROR, facts, error)
        else:
            # Read before anything is awaited: of a remote engine it is the revision that gave this very answer.
            facts["revision"] = engine.revision
            if answer is UNDEFINED:
                decision = _failure(Code.POLICY_UNDEFINED, facts, None)
            else:
                facts["answer"] = answer
                decision = interpret(answer)
        facts.setdefault("revision", engine.revision)
        facts["elapsed_us"] = (time.perf_counter_ns() - began) // 1000
        return decision

    async def _ask_shadow(self, engine: PolicyEngine, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """What another policy says of the same question. Nothing here can change the live decision."""
        try:
            answer = await engine.decide(asked, timeout_seconds=self.timeout_seconds())
        except (PolicyTimeout, PolicyUnavailable, PolicyEvaluationError) as error:
            return {"revision": engine.revision, "error": str(error)}
        if answer is UNDEFINED:
            return {"revision": engine.revision, "decision": "undefined"}
        return {"revision": engine.revision, "answer": answer, "decision": _word(interpret(answer))}

    # --- settle ---

    async def settle(self, call: Call, outcome: Outcome) -> Settlement | None:
        """Redact and measure the result as the policy demands; a result for which that is impossible is withheld."""
        settlement = await self._fulfil(call, outcome) if call.obligations else None
        self.recent.note(call, settlement.outcome if settlement is not None and settlement.outcome else outcome)
        return settlement

    async def _fulfil(self, call: Call, outcome: Outcome) -> Settlement | None:
        if not isinstance(outcome, Completed):
            return None
        globs = globs_of(call.obligations, "redact_result")
        facts: dict[str, Any] = {}
        new = outcome
        if globs:
            try:
                new, erased = await _redacted(outcome, globs)
            except Unredactable as problem:
                return self._withhold(call, Code.RESULT_UNREDACTABLE, f"{problem}", facts)
            except Exception:
                # Whatever it is, it must not let the result pass as it came.
                logger.exception("redacting the result of call %s failed", call.id)
                return self._withhold(call, Code.RESULT_UNREDACTABLE, "redacting it failed", facts)
            facts["redacted"] = {"count": len(erased), "paths": list(erased[:_NAMED_PATHS])}
        limit = result_limit(call.obligations)
        size = len(new.result if new.result is not None else new.error or b"")
        if limit is not None and size > limit:
            facts["size"] = size
            return self._withhold(call, Code.RESULT_TOO_LARGE, f"it has {size} bytes, and {limit} are allowed", facts)
        return Settlement(outcome=new if new is not outcome else None, facts=facts)

    def _withhold(self, call: Call, code: Code, why: str, facts: dict[str, Any]) -> Settlement:
        """The call ran, and its result stays here."""
        demand = (
            "the policy wants parts of the result erased"
            if code is Code.RESULT_UNREDACTABLE
            else "the policy limits the result"
        )
        message = f"The call was executed, and its result is withheld: {demand}, and {why}. Do not repeat the call for this reason."
        number = 2 if any(obligation.id == "set_argument" for obligation in call.obligations) else 1
        facts["withheld"] = code.value
        refused = Refused(
            stage=self.name, code=code, message=message, executed="yes", decision_id=f"{call.id}.{number}"
        )
        return Settlement(outcome=refused, facts=facts)


_FAILURES = {
    Code.POLICY_UNDEFINED: "The policy has no answer for this call, and what has no answer is denied.",
    Code.POLICY_ERROR: "The policy failed while it judged this call, so the call is denied. The operator can see the error.",
    Code.POLICY_TIMEOUT: "The policy did not judge this call in time, so the call is denied. Trying again later may help.",
    Code.POLICY_UNAVAILABLE: "The policy engine cannot be reached, so the call is denied. Trying again later may help.",
}


def _failure(code: Code, facts: dict[str, Any], error: Exception | None) -> Denied:
    """A denial because there is no answer; the details go to the operator, not to the agent."""
    if error is not None:
        facts["error"] = str(error)
        logger.warning("%s: %s", code.value, error)
    return Denied(code=code, message=_FAILURES[code])


def _refuse(call: Call, decision: Denied, facts: dict[str, Any]) -> Refuse:
    obligations = decision.obligations
    _erase_arguments(facts, obligations)
    return Refuse(
        code=decision.code,
        message=decision.message,
        facts=facts,
        call=replace(call, obligations=obligations) if obligations else None,
        policy=decision.policy,
        decision_id=facts.get("second", facts)["decision_id"],
    )


def _unstable(
    call: Call, obligations: tuple[Obligation, ...], why: str, facts: dict[str, Any], denied: Denied | None = None
) -> Refuse:
    facts["unstable"] = why
    decision = Denied(
        code=Code.POLICY_UNSTABLE,
        message=f"The policy changes this call's arguments, and the changed call may not be sent: {why}",
        policy=denied.policy if denied is not None else (),
        obligations=obligations,
    )
    return _refuse(call, decision, facts)


def _with_arguments(call: Call, obligations: Sequence[Obligation]) -> Call | str:
    """The call with the arguments that the policy sets; the same object where nothing changes; else what is wrong."""
    settings = [obligation for obligation in obligations if obligation.id == "set_argument"]
    if not settings:
        return call
    if call.method not in (Method.CALL_TOOL, Method.GET_PROMPT):
        return f"a request {call.method} has no arguments to set."
    try:
        arguments = set_arguments(call.arguments or {}, settings)
    except PathError as error:
        return f"{error}."
    if _same(arguments, call.arguments or {}):
        return call
    return replace(call, arguments=arguments)


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same, types included (`1` is neither `1.0` nor `true`)."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _problems(call: Call) -> str:
    """What the tool's own schema says against the arguments, or ""."""
    if call.entry is None or call.entry.arguments is None:
        return ""
    problems = call.entry.arguments.problems(call.arguments if call.arguments is not None else {})
    return "; ".join(f"{problem.path or 'the arguments'}: {problem.message}" for problem in problems)


def _union(first: tuple[Any, ...], second: tuple[Any, ...]) -> tuple[Any, ...]:
    """The items of both, each once, in order."""
    return first + tuple(item for item in second if item not in first)


def _erase_arguments(facts: dict[str, Any], obligations: Sequence[Obligation]) -> None:
    """What the policy wants out of the records goes out of the questions and answers in the trail too."""
    globs = globs_of(obligations, "redact_arguments")
    if not globs:
        return
    for asked in (facts, facts.get("second")):
        if not asked:
            continue
        arguments, erased = redact(asked["question"]["arguments"], globs)
        asked["question"] = {**asked["question"], "arguments": arguments}
        asked["erased"] = list(erased[:_NAMED_PATHS])
        answer = asked.get("answer")
        if isinstance(answer, dict) and answer.get("obligations"):
            asked["answer"] = {**answer, "obligations": [_without_value(item, globs) for item in answer["obligations"]]}
    if isinstance(shadow := facts.get("shadow"), dict):
        facts["shadow"] = {name: value for name, value in shadow.items() if name != "answer"}


def _without_value(obligation: Any, globs: Sequence[str]) -> Any:
    """A `set_argument` of the answer, its value blank where the path or a part of the value is to be erased."""
    if obligation.get("id") != "set_argument":
        return obligation
    setting = Obligation(id="set_argument", path=obligation["path"], value=obligation["value"])
    try:
        _, erased = redact(set_arguments({}, [setting]), globs)
    except PathError:
        erased = ("?",)
    return {**obligation, "value": None} if erased else obligation


async def _redacted(outcome: Completed, globs: Sequence[str]) -> tuple[Completed, tuple[str, ...]]:
    """The outcome with what the globs name erased. Raises `Unredactable`."""
    if outcome.result is not None:
        work = partial(redact_result, outcome.result, globs)
        if len(outcome.result) > _IN_A_THREAD:
            result, erased = await anyio.to_thread.run_sync(work)
        else:
            result, erased = work()
        return (replace(outcome, result=result, received=outcome.result) if erased else outcome), erased
    error, erased = redact_error(outcome.error or b"{}", globs)
    return (replace(outcome, error=error, received=outcome.error) if erased else outcome), erased


def _word(decision: PolicyDecision) -> str:
    match decision:
        case Allowed():
            return "allow"
        case NeedsApproval():
            return "hold"
        case Denied():
            return "deny"
        case _:
            assert_never(decision)
