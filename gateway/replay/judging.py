"""Recorded questions put to a candidate policy: what would be decided now, next to what was (CONTRACT 7).

Theory of operation
-------------------
A call's record holds each question as it was put, its clock and the random seed in it, so that the same policy gives the same
answer. First it is shown that this holds: the old policy, from the snapshot of its revision, is asked again, and how many
recorded decisions it reproduces is counted. Then the candidate is asked. Where it sets arguments, it is asked once more about
the changed call, as the gateway does it.

`judged` is a generator: it yields questions and takes answers, so that the same steps serve the embedded engine, which
answers at once, and an OPA server, which is awaited. Nothing in it knows where records or policies come from.
"""

import json
import time
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import orjson

from gateway.adapters import records
from gateway.adapters.policy_files import PolicyFiles, compile_policies
from gateway.decide.obligations import PathError, set_arguments
from gateway.decide.playback import split
from gateway.decide.policy import Allowed, Denied, NeedsApproval, PolicyDecision, interpret
from gateway.model.call import Method, Obligation
from gateway.model.errors import PolicyEvaluationError, PolicyTimeout, PolicyUnavailable
from gateway.model.refusal import Code
from gateway.ports import UNDEFINED
from gateway.rego import UNDEFINED as NOT_DEFINED
from gateway.rego import EvalError, Policy
from gateway.rego.errors import CANCEL
from gateway.replay.reading import EVERYTHING, Path, matters, reads

Word = Literal["allow", "hold", "deny"]

ANSWER_SECONDS = 5.0
"""How long the candidate may take for one answer; the recorded timeout was for a live call."""


class Failure(NamedTuple):
    """In place of an answer: the engine gave none."""

    code: Code
    message: str


class Ruling(NamedTuple):
    """What a policy says of one call."""

    word: Word
    code: str
    """The gateway's code of a denial, else empty."""
    rules: tuple[Mapping[str, str], ...]
    """`{code, message}` of each rule that denied or held."""


class Item(NamedTuple):
    """One call record as stored: its line and its request's payload (None where that is not there)."""

    record: bytes
    request: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A call that the candidate would decide otherwise."""

    call_id: str
    session_id: str
    at: float
    agent: str
    tool: str
    was: Ruling
    now: Ruling


@dataclass(frozen=True, slots=True, kw_only=True)
class Unjudged:
    """A call of which it cannot be said what would be decided."""

    call_id: str
    agent: str
    tool: str
    why: str


@dataclass(slots=True)
class Tally:
    """What judging many calls found. Adds up over parts of a recording."""

    calls: int = 0
    unasked: int = 0
    """Calls that ended before the policy was asked."""
    reproduced: int = 0
    """Recorded decisions that the old policy makes again, exactly."""
    not_reproduced: list[Unjudged] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    """Recorded decisions that could not be made again, by the reason."""
    pairs: Counter[tuple[Word, Word]] = field(default_factory=Counter)
    """What was decided, and what would be."""
    changed: list[Changed] = field(default_factory=list)
    undecidable: list[Unjudged] = field(default_factory=list)
    limits: bool = False
    """Quotas and interrupts were judged, not a policy."""

    def add(self, other: "Tally") -> None:
        """Count what another part found."""
        self.calls += other.calls
        self.unasked += other.unasked
        self.reproduced += other.reproduced
        self.not_reproduced.extend(other.not_reproduced)
        self.unknown.update(other.unknown)
        self.pairs.update(other.pairs)
        self.changed.extend(other.changed)
        self.undecidable.extend(other.undecidable)

    @property
    def newly_allowed(self) -> list[Changed]:
        """What would run now, and did not, or only after a person had approved it."""
        return [each for each in self.changed if each.now.word == "allow"]

    @property
    def table(self) -> list[tuple[str, str, Word, Word, str, int]]:
        """Agent, tool, was, would be, code, calls: what changes, the most frequent first."""
        counts = Counter((each.agent, each.tool, each.was.word, each.now.word, rule_of(each)) for each in self.changed)
        return [(*key, count) for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def rule_of(each: Changed) -> str:
    """The code that says why: of the rule that fires now, or of the one that does so no more."""
    rules = each.now.rules or each.was.rules
    return ", ".join(dict.fromkeys(rule["code"] for rule in rules)) or each.now.code or each.was.code


# --- engines ----------------------------------------------------------------------------------------------------------


class Judge:
    """A policy of files, compiled, as recorded questions are put to it.

    Raises:
        PolicyLoadError: it does not compile.
    """

    def __init__(self, files: PolicyFiles, decision: str = "gateway/decision") -> None:
        self.revision = files.revision
        self.reads = reads(files.modules)
        self._decide = _prepared(compile_policies(files, decision=decision), decision)

    def answer(self, question: Mapping[str, Any]) -> Any:
        """The document, or a `Failure`."""
        context = question["context"]
        try:
            answer = self._decide(
                question,
                time_ns=context.get("time_ns"),
                seed=context.get("call_id"),
                deadline=time.monotonic() + ANSWER_SECONDS,
            )
        except EvalError as error:
            return Failure(Code.POLICY_TIMEOUT if error.code == CANCEL else Code.POLICY_ERROR, str(error))
        return Failure(Code.POLICY_UNDEFINED, "no answer") if answer is NOT_DEFINED else answer


def _prepared(policy: Policy, decision: str) -> Any:
    return policy.prepare("data." + decision.replace("/", "."))


def failure(error: PolicyTimeout | PolicyUnavailable | PolicyEvaluationError) -> Failure:
    """What a remote engine's failure stands for."""
    match error:
        case PolicyTimeout():
            return Failure(Code.POLICY_TIMEOUT, str(error))
        case PolicyUnavailable():
            return Failure(Code.POLICY_UNAVAILABLE, str(error))
        case _:
            return Failure(Code.POLICY_ERROR, str(error))


def as_answer(answer: Any) -> Any:
    """The port's answer as this module has it."""
    return Failure(Code.POLICY_UNDEFINED, "no answer") if answer is UNDEFINED else answer


# --- one call ---------------------------------------------------------------------------------------------------------


def judge_all(items: Iterable[Item], candidate: Judge, old: Mapping[str, Judge | str]) -> Tally:
    """Judge records, one after another.

    Args:
        old: by revision the policy that decided, or why it is not there.
    """
    tally = Tally()
    answer = candidate.answer
    for item in items:
        steps = judged(item, tally, candidate.reads, old)
        try:
            question = next(steps)
            while True:
                question = steps.send(answer(question))
        except StopIteration:
            pass
    return tally


def judged(
    item: Item, tally: Tally, candidate_reads: Iterable[Path], old: Mapping[str, Judge | str]
) -> Generator[Mapping[str, Any], Any, None]:
    """The steps of judging one call: yields questions for the candidate, takes its answers, and counts what comes of it."""
    body = orjson.loads(item.record)["body"]
    command = body["command"]
    tally.calls += 1
    if not any(step["stage"] == "authorize" for step in body["trail"]):
        tally.unasked += 1
        return
    tool = f"{command['server']}/{command['name']}" if command["server"] else command["target"]
    about = {"call_id": command["id"], "agent": command["principal"]["id"], "tool": tool}
    request = None if item.request is None else records.load(item.request)
    decisions = [one for one in (request or {}).get("decisions", ()) if one["stage"] == "authorize"]
    if request is None or not decisions:
        tally.unknown["the question was not kept"] += 1
        tally.undecidable.append(Unjudged(**about, why="the question was not kept"))
        return
    gone: Sequence[str] = command["request"]["erased"]
    asked = [records.question(one, request) for one in decisions]
    erased = (
        [erased_paths(one, gone, number) for number, one in enumerate(decisions)] if gone else [()] * len(decisions)
    )
    _reproduce(tally, about, decisions, asked, erased, gone, old.get(command["policy_revision"]))
    if gone and matters(erased[0], candidate_reads):
        places = ", ".join(sorted({".".join(path) for path in erased[0]}))
        tally.undecidable.append(Unjudged(**about, why=f"erased, and the policy looks at it: {places}"))
        return
    was = _was(body, decisions)
    now = yield from _ruling(asked[0], command["method"])
    tally.pairs[was.word, now.word] += 1
    if was.word != now.word:
        tally.changed.append(
            Changed(**about, session_id=command["session_id"], at=command["received_at"], was=was, now=now)
        )


def _reproduce(
    tally: Tally,
    about: Mapping[str, Any],
    decisions: Sequence[Mapping[str, Any]],
    asked: Sequence[Mapping[str, Any]],
    erased: Sequence[Sequence[Path]],
    gone: Sequence[str],
    judge: Judge | str | None,
) -> None:
    """Whether the old policy gives each recorded answer again."""
    for number, (decision, question) in enumerate(zip(decisions, asked, strict=True)):
        if not isinstance(judge, Judge):
            tally.unknown[judge or "its policy was not kept"] += 1
        elif gone and matters(erased[number], judge.reads):
            tally.unknown["erased, and the policy looks at it"] += 1
        else:
            recorded, found = decision["answer"], judge.answer(question)
            exact = not any(path.startswith(f"decisions.{number}.answer") for path in gone)
            if isinstance(found, Failure):
                same = recorded is None
            elif exact and (found == recorded or orjson.loads(records.dump(found)) == recorded):
                same = True
            else:
                same = not exact and _same_decision(found, recorded)
            if same:
                tally.reproduced += 1
            else:
                said = found.message if isinstance(found, Failure) else records.dump(found).decode()[:200]
                tally.not_reproduced.append(Unjudged(**about, why=f"now it says {said}"))


def _same_decision(left: Any, right: Any) -> bool:
    """Whether two answers come to the same, as far as erased parts let it be said."""
    one, other = _read(left), _read(right)
    return type(one) is type(other) and _ruling_of(one)[2] == _ruling_of(other)[2]


def erased_paths(decision: Mapping[str, Any], gone: Sequence[str], number: int) -> tuple[Path, ...]:
    """The paths of a question (as `input` has them) that were erased before it was recorded."""
    prefixes: dict[str, Path] = {f"decisions.{number}.question": ()}
    match decision.get("arguments"):
        case "received":
            prefixes["params.arguments"] = ("arguments",)
        case "forwarded":
            prefixes["forwarded"] = ("arguments",)
    if decision.get("meta"):
        prefixes["meta"] = ("meta",)
    found: list[Path] = []
    for path in gone:
        for prefix, place in prefixes.items():
            if path == prefix or path.startswith(prefix + "."):
                found.append((*place, *split(path[len(prefix) + 1 :])))
    return tuple(found)


def _was(body: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]]) -> Ruling:
    """What was decided: by the outcome where the policy stage refused, else by the recorded answers."""
    outcome = body["outcome"]
    if outcome["kind"] == "refused" and outcome["stage"] == "authorize" and body["executed"] == "no":
        return Ruling("deny", outcome["code"], tuple(outcome["policy"]))
    held: list[Mapping[str, str]] = []
    for decision in decisions:
        ruling = _ruling_of(_read(decision["answer"]))
        if ruling.word == "deny":
            return ruling
        held.extend(ruling.rules)
    return Ruling("hold" if held else "allow", "", tuple(held))


def _ruling(question: Mapping[str, Any], method: str) -> Generator[Mapping[str, Any], Any, Ruling]:
    """The candidate's ruling, asked again where it sets arguments: as `stages/authorize.py` does it."""
    first = _read((yield question))
    ruling = _ruling_of(first)
    settings = [each for each in first.obligations if each.id == "set_argument"]
    if ruling.word == "deny" or not settings:
        return ruling
    changed = _set(question, settings, method)
    if changed is None:
        return _unstable("the arguments that the policy sets cannot be set")
    if changed is question:
        return ruling
    second = _read((yield changed))
    again = _ruling_of(second)
    if again.word == "deny":
        return again if again.code != Code.POLICY_DENIED else _unstable("the changed call is denied", again.rules)
    wants = [each for each in second.obligations if each.id == "set_argument"]
    if wants and _set(changed, wants, method) is not changed:
        return _unstable("asked again, it wants other arguments")
    held = tuple(dict.fromkeys((rule["code"], rule["message"]) for rule in (*ruling.rules, *again.rules)))
    rules = tuple({"code": code, "message": message} for code, message in held)
    return Ruling("hold" if rules else "allow", "", rules)


def _unstable(message: str, rules: tuple[Mapping[str, str], ...] = ()) -> Ruling:
    return Ruling("deny", Code.POLICY_UNSTABLE.value, rules or ({"code": "policy.unstable", "message": message},))


def _set(question: Mapping[str, Any], settings: Sequence[Obligation], method: str) -> Mapping[str, Any] | None:
    """The question about the call with the arguments set; the same where nothing changes; None where it cannot be."""
    if method not in (Method.CALL_TOOL, Method.GET_PROMPT):
        return None
    try:
        arguments = set_arguments(question["arguments"], settings)
    except PathError:
        return None
    if json.dumps(arguments, sort_keys=True) == json.dumps(question["arguments"], sort_keys=True):
        return question
    return {**question, "arguments": arguments}


def _read(answer: Any) -> PolicyDecision:
    if isinstance(answer, Failure):
        return Denied(code=answer.code, message=answer.message)
    return interpret(answer)


def _ruling_of(decision: PolicyDecision) -> Ruling:
    match decision:
        case Denied():
            return Ruling("deny", decision.code.value, decision.policy)
        case NeedsApproval():
            rules = tuple({"code": reason.code, "message": reason.reason} for reason in decision.reasons)
            return Ruling("hold", "", rules)
        case Allowed():
            return Ruling("allow", "", ())


__all__ = ["EVERYTHING", "Changed", "Failure", "Item", "Judge", "Ruling", "Tally", "Unjudged", "judge_all", "judged"]
