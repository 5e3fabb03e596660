"""What a stage says (`Verdict`), and what became of the call (`Outcome`).

Three words on purpose: a *policy decision* is what Rego says, a *verdict* is what a stage says, an *outcome* is what
became of the call. Both unions are closed; a `match` on them ends in `assert_never`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, ClassVar, Literal

import orjson

from gateway.model.call import Call
from gateway.model.refusal import Code
from gateway.model.value import Value, field

Executed = Literal["no", "yes", "unknown"]
"""Whether the call ran at its tool server."""

Facts = Mapping[str, Any]
"""What a stage found, JSON values only: it goes into the trail and the record."""


class Write(Value, frozen=True, kw_only=True):
    """One durable write that belongs to a call and is committed in the same transaction as its begin or its outcome."""

    kind: str
    """Names the table or record that the journal adapter writes it to (`quota.reserved`, `hold.claimed`, ...)."""
    data: Mapping[str, Any]


class Proceed(Value, frozen=True, kw_only=True):
    """The stage lets the call through."""

    word: ClassVar[str] = "proceed"
    """What the trail calls it."""
    call: Call | None = None
    """The call that later stages see, where this stage changed it."""
    facts: Facts = field(default_factory=dict)
    writes: tuple[Write, ...] = ()
    """Committed with the journal's begin, before anything is forwarded."""


PROCEED = Proceed()
"""Nothing to add: the common case, without an allocation."""


class Refuse(Value, frozen=True, kw_only=True):
    """The stage stops the call. The message is written for the model that reads it."""

    word: ClassVar[str] = "refuse"
    """What the trail calls it."""
    code: Code
    message: str
    retry_after_seconds: float | None = None
    facts: Facts = field(default_factory=dict)
    call: Call | None = None
    """As in `Proceed`, where a stage learnt something about the call (its server, say) before it refused."""
    policy: tuple[Mapping[str, str], ...] = ()
    """`{code, message}` of each rule that denied."""
    rule: str | None = None
    """The quota, interrupt or breaker that refused, by name."""
    decision_id: str | None = None
    data: Mapping[str, Any] | None = None
    """The JSON-RPC error, where the contract demands one in place of a tool error (`{code, message, data}`)."""


class Park(Value, frozen=True, kw_only=True):
    """The call waits for a person. The edge waits in-band for a bounded time, then answers with the handle."""

    word: ClassVar[str] = "park"
    """What the trail calls it."""
    hold_id: str
    expires_at: float
    message: str
    running: bool = False
    """As in `Held`."""
    facts: Facts = field(default_factory=dict)


class Answer(Value, frozen=True, kw_only=True):
    """The stage has the call's outcome (kept under its idempotency key, from a recording, or of the gateway's own tool)."""

    word: ClassVar[str] = "answer"
    """What the trail calls it."""
    outcome: "Outcome"
    facts: Facts = field(default_factory=dict)
    call: Call | None = None
    """As in `Refuse`."""


Verdict = Proceed | Refuse | Park | Answer


class Completed(Value, frozen=True, kw_only=True):
    """The tool server answered: with a result (a tool's own error included) or with a JSON-RPC error of its own."""

    result: bytes | None = None
    """The JSON text of the result object, as received unless an obligation changed it."""
    error: bytes | None = None
    """The JSON text of the JSON-RPC error object, as received. Exactly one of the two is set."""
    source: str = "server"
    """`server`, `idempotency`, `recording`, or `gateway` for the gateway's own tools."""
    received: bytes | None = None
    """The result as it was received, where an obligation changed it afterwards."""


class Refused(Value, frozen=True, kw_only=True):
    """A stage stopped the call, or its result was withheld (`executed` says which)."""

    stage: str
    code: Code
    message: str
    executed: Executed = "no"
    retry_after_seconds: float | None = None
    policy: tuple[Mapping[str, str], ...] = ()
    rule: str | None = None
    decision_id: str | None = None
    data: Mapping[str, Any] | None = None
    call_id: str | None = None
    """Of the call that ended so, where it is not the one that was asked: the recorded one's, where a recording answers; the
    last round's of a call that was held and went through the chain again."""


class Held(Value, frozen=True, kw_only=True):
    """The call waits for a person's decision."""

    hold_id: str
    expires_at: float
    message: str
    running: bool = False
    """It was approved, and runs now for another call of the same: this one did not run, the tool may have."""
    decision_id: str | None = None
    call_id: str | None = None
    """As in `Refused`."""


class Failed(Value, frozen=True, kw_only=True):
    """The call was on its way and got no answer. `in_doubt`: it may have run, and nobody knows."""

    code: Code
    message: str
    in_doubt: bool
    """It may have run, nobody knows, and it may not be repeated: an idempotent call is never in doubt."""
    sent: bool = False
    """The first byte had left. An idempotent call that was sent may have run, which harms nothing."""
    retry_after_seconds: float | None = None
    call_id: str | None = None
    """As in `Refused`."""


Outcome = Completed | Refused | Held | Failed


class Step(Value, frozen=True, kw_only=True):
    """One line of the trail: what one stage said, and how long it took."""

    stage: str
    verdict: str
    """`proceed`, `refuse`, `park`, `answer`; `forwarded` for the forward; `crashed` where the stage failed."""
    elapsed_us: int
    facts: Facts = field(default_factory=dict)


@dataclass(slots=True)
class Trail:
    """Why a call ended as it did: its steps in order, growing while the call runs."""

    steps: list[Step] = dataclass_field(default_factory=list)


def input_required(outcome: Outcome) -> dict[str, Any] | None:
    """The result's members, where the tool server needs input first (2026-07-28): the call goes on in another round."""
    if not isinstance(outcome, Completed) or outcome.result is None or b'"input_required"' not in outcome.result:
        return None
    members = orjson.loads(outcome.result)
    if isinstance(members, dict) and members.get("resultType") == "input_required":
        return members
    return None


def needs_input(outcome: Outcome) -> bool:
    """Whether it does."""
    return input_required(outcome) is not None


def executed(outcome: Outcome) -> Executed:
    """Whether the call ran, as `gateway/refusal` says it."""
    match outcome:
        case Completed():
            return "yes"
        case Refused():
            return outcome.executed
        case Held():
            return "no"
        case Failed():
            return "unknown" if outcome.in_doubt or outcome.sent else "no"
