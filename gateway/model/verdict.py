"""What a stage says (`Verdict`), and what became of the call (`Outcome`).

Three words on purpose: a *policy decision* is what Rego says, a *verdict* is what a stage says, an *outcome* is what
became of the call. Both unions are closed; a `match` on them ends in `assert_never`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.model.call import Call
from gateway.model.refusal import Code

Executed = Literal["no", "yes", "unknown"]
"""Whether the call ran at its tool server."""

Facts = Mapping[str, Any]
"""What a stage found, JSON values only: it goes into the trail and the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One durable write that belongs to a call and is committed in the same transaction as its begin or its outcome."""

    kind: str
    """Names the table or record that the journal adapter writes it to (`quota.reserved`, `hold.claimed`, ...)."""
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proceed:
    """The stage lets the call through."""

    call: Call | None = None
    """The call that later stages see, where this stage changed it."""
    facts: Facts = field(default_factory=dict)
    writes: tuple[Write, ...] = ()
    """Committed with the journal's begin, before anything is forwarded."""


PROCEED = Proceed()
"""Nothing to add: the common case, without an allocation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """The stage stops the call. The message is written for the model that reads it."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """The call waits for a person. The edge waits in-band for a bounded time, then answers with the handle."""

    hold_id: str
    expires_at: float
    message: str
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The stage has the call's outcome already (kept under its idempotency key, or from a recording)."""

    outcome: "Outcome"
    facts: Facts = field(default_factory=dict)


Verdict = Proceed | Refuse | Park | Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The tool server answered: with a result (a tool's own error included) or with a JSON-RPC error of its own."""

    result: bytes | None = None
    """The JSON text of the result object, as received unless an obligation changed it."""
    error: bytes | None = None
    """The JSON text of the JSON-RPC error object, as received. Exactly one of the two is set."""
    source: str = "server"
    """`server`, `idempotency` or `recording`."""
    received: bytes | None = None
    """The result as it was received, where an obligation changed it afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The call waits for a person's decision."""

    hold_id: str
    expires_at: float
    message: str
    decision_id: str | None = None
    call_id: str | None = None
    """As in `Refused`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of the trail: what one stage said, and how long it took."""

    stage: str
    verdict: str
    """`proceed`, `refuse`, `park`, `answer`; `forwarded` for the forward; `crashed` where the stage failed."""
    elapsed_us: int
    facts: Facts = field(default_factory=dict)


@dataclass(slots=True)
class Trail:
    """Why a call ended as it did: its steps in order, growing while the call runs."""

    steps: list[Step] = field(default_factory=list)


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
