"""The book of approval holds: in memory for speed, in the store for good, in the chain as evidence.

Every change is committed before it counts: a decision and its signed record, the notification that goes with an opening,
the claim with the begin of the call that uses it (one transaction). The memory is rebuilt from the store at start, with
the holds' clocks as they were; a claim whose call did not end becomes an outcome in doubt, given once.

What is live is in memory, with the `FINISHED` newest of those that are over; older ones are read from the store. With a
hold's end, what redaction erases goes from its arguments; signed decisions never hold it. The rest goes when the records of
its time do (`gateway.adapters.retention`).
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import anyio
import orjson

from gateway.adapters.sealing import Seal
from gateway.adapters.signing import APPROVAL_TYPE, Signer, statement
from gateway.adapters.writes import Chained, Statement, WriteKind
from gateway.decide.hold import (
    LIVE,
    Binding,
    Decision,
    DecisionRefused,
    Hold,
    HoldState,
    Operator,
    claim,
    decide,
    elicitation,
    erase,
    expire,
    finish,
    forget,
    may_decide,
    open_reasons,
    release,
)
from gateway.model.call import Call, HoldReason
from gateway.model.errors import JournalUnavailable
from gateway.model.events import OwnToolsChanged, StateChanged
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Failed, Outcome, Refused, Write, needs_input
from gateway.ports import Clock, Events

logger = logging.getLogger("gateway.holds")

PURPOSE = "hold"

FINISHED = 500
"""Holds that are over, in memory."""

LISTED = 1000
"""Holds in a list, where nobody said how many."""

DELIVERED = "delivered"
"""In the store: done, and its outcome is kept for nobody."""

TABLES = """
    CREATE TABLE holds (
        id TEXT PRIMARY KEY,
        state TEXT NOT NULL,
        at REAL NOT NULL,
        data BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE hold_decisions (
        number INTEGER PRIMARY KEY,
        hold_id TEXT NOT NULL,
        at REAL NOT NULL,
        data BLOB NOT NULL
    );
    CREATE INDEX hold_decisions_by_hold ON hold_decisions (hold_id, number);
    CREATE INDEX holds_live ON holds (state) WHERE state IN ('pending', 'approved', 'denied', 'claimed', 'done');
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldSettings:
    """`[approvals]`."""

    inline_wait_seconds: float = 25.0
    expires_seconds: float = 3600.0
    approval_valid_seconds: float = 900.0
    on_expiry: str = "reject"
    max_pending_agent: int = 5
    max_pending_gateway: int = 200


@dataclass(slots=True)
class _Ended:
    """What a claiming call ended with, while somebody is to be told."""

    outcome: Outcome
    left: int
    """How many are, whoever they are: the claiming call's client (or who calls next, where it left), and who waits in-band."""
    told: set[str]
    """Sessions that asked while it ran, and were told to come back for it."""


class Records(Protocol):
    """What the book needs of the journal."""

    async def record(self, type: str, body: Mapping[str, Any], writes: tuple[Write, ...] = ()) -> None: ...

    async def read(self, query: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...


class HoldBook:
    """All holds of one store. Its owner alone has one."""

    def __init__(
        self,
        *,
        journal: Records,
        seal: Seal,
        signer: Signer,
        clock: Clock,
        events: Events,
        settings: Callable[[], HoldSettings],
        operators: Callable[[], Sequence[Operator]],
        redact: Callable[[Any, Sequence[str]], tuple[Any, Sequence[str]]],
        notifications: Callable[[Hold], tuple[Write, ...]] = lambda hold: (),
    ) -> None:
        self._journal, self._seal, self._signer = journal, seal, signer
        self._clock, self._events = clock, events
        self.settings, self.operators, self._notifications = settings, operators, notifications
        self._redact = redact
        """Arguments as records have them, and the paths of what was erased."""
        self._holds: dict[str, Hold] = {}
        self._finished: dict[str, None] = {}
        """Those of them that are over, oldest first."""
        self._live: dict[str, str] = {}
        """Lookup digest to the id of the hold that the next identical call meets."""
        self._ended: dict[str, _Ended] = {}
        """By hold."""
        self._told: dict[str, set[str]] = {}
        """By hold whose call runs: the sessions that were told so."""
        self._by_call: dict[str, str] = {}
        """Claiming call to its hold, from its end until its client got the outcome."""
        self._waiters: dict[str, int] = {}
        self._changed: dict[str, anyio.Event] = {}
        self._lock = anyio.Lock()
        self._had: set[str] = set()

    @property
    def inline_wait_seconds(self) -> float:
        return self.settings().inline_wait_seconds

    # --- reading ---

    def live(self, lookup: str) -> Hold | None:
        """The hold that a call with this lookup digest meets now."""
        identifier = self._live.get(lookup)
        return self.get(identifier) if identifier is not None else None

    def get(self, identifier: str) -> Hold | None:
        """One hold, as time has left it."""
        hold = self._holds.get(identifier)
        return self._aged(hold, self._now()) if hold is not None else None

    def all(self) -> Iterator[Hold]:
        """Every hold in memory, newest first."""
        now = self._now()
        return iter([self._aged(hold, now) for hold in reversed(self._holds.values())])

    async def find(self, part: str) -> Sequence[Hold]:
        """The holds with this id, or where there is none, those whose id begins or ends so."""
        if (hold := self.get(part)) is not None:
            return (hold,)
        found = {hold.id: hold for hold in self._opened(await self._journal.read(_fitting, part))}
        if part in found:
            return (found[part],)
        here = {hold.id: hold for hold in self.all() if hold.id.startswith(part) or hold.id.endswith(part)}
        return tuple({**found, **here}.values())

    async def page(self, state: str, before: str | None, limit: int | None) -> Sequence[Hold]:
        """Holds in a state, or in `all`, newest first; with `before` (an id) older ones, `LISTED` of them where nobody says how many."""
        wanted = LISTED if limit is None else limit
        rows: Sequence[tuple[str, bytes]] = ()
        if state not in (HoldState.PENDING, HoldState.APPROVED, HoldState.CLAIMED):
            stored = (HoldState.DONE, DELIVERED) if state == HoldState.DONE else (state,)
            rows = await self._journal.read(
                _page, None if state == "all" else stored, before, wanted + len(self._holds)
            )
        # What is in memory is what counts; it is looked at last, so that nothing falls between the two.
        found = {hold.id: hold for hold in self._opened([row for row in rows if row[0] not in self._holds])}
        here = (hold for hold in self.all() if before is None or hold.id < before)
        found |= {hold.id: hold for hold in here if state in ("all", hold.state)}
        return sorted(found.values(), key=lambda hold: hold.id, reverse=True)[:wanted]

    def _opened(self, rows: Sequence[tuple[str, bytes]]) -> Iterator[Hold]:
        now = self._now()
        for _, data in rows:
            yield self._aged(from_json(orjson.loads(self._seal.open(data, PURPOSE))["hold"]), now)

    def _aged(self, hold: Hold, now: float) -> Hold:
        """As time has left it; what expiry approves waits until that is recorded (`expire`)."""
        return hold if self._approved_by_expiry(hold) else expire(hold, now)

    def _approved_by_expiry(self, hold: Hold) -> bool:
        return hold.state is HoldState.PENDING and hold.risk == "read" and self.settings().on_expiry == "approve"

    @property
    def had(self) -> AbstractSet[str]:
        """The agents that have had a hold: they may ask for their state. The same set, which grows."""
        return self._had

    def keeps_outcome(self, identifier: str, session_id: str) -> bool:
        """Whether what a hold's call ended with is kept for this session's next identical call."""
        return (ended := self._ended.get(identifier)) is not None and (ended.left > 0 or session_id in ended.told)

    def pending(self, principal: str | None = None) -> int:
        """How many calls wait for a decision, of one agent or of all."""
        return sum(
            1
            for hold in self.all()
            if hold.state is HoldState.PENDING and (principal is None or hold.principal == principal)
        )

    # --- what the stage does ---

    async def open(self, hold: Hold) -> Hold:
        """Open a hold, or join the one that is open for the same lookup.

        Raises:
            JournalUnavailable: it is not durable, so it is not open.
        """
        async with self._lock:
            existing = self.live(hold.lookup)
            if existing is not None and existing.state is HoldState.PENDING:
                return existing
            writes = (Write(kind="hold.insert", data=self._row(hold, "")), *self._notifications(hold))
            await self._journal.record("hold.opened", public(hold), writes)
            first = hold.principal not in self._had
            self._keep(hold)
        self._tell(hold)
        if first:
            self._events.publish(OwnToolsChanged(at=self._now(), principal=hold.principal))
        return hold

    def claim(self, hold: Hold, binding: Binding, call_id: str) -> tuple[Hold, Write | None]:
        """Use the approval, in one step with the check; the write belongs into the call's begin. `void`: it does not fit."""
        after = claim(hold, binding, call_id, self._now())
        if after.state is not HoldState.CLAIMED or hold.state is not HoldState.APPROVED:
            return after, None
        self._keep(after)
        return after, Write(kind="hold.claimed", data=self._row(after, hold.state))

    async def void(self, hold: Hold, found: Binding) -> None:
        """Record that an approval met another call than it was given for."""
        after = self._forgotten(replace(hold, state=HoldState.VOID))
        body = {
            "id": hold.id,
            "approved": hold.binding.digest(),
            "found": found.digest(),
            "differs": _differs(hold.binding, found),
        }
        await self._journal.record("hold.voided", body, (Write(kind="hold.update", data=self._row(after, hold.state)),))
        self._keep(after)
        self._tell(after)

    def settle(self, call_id: str, hold_id: str, outcome: Outcome) -> tuple[Write, ...]:
        """The claiming call ended; the writes belong into its end.

        A call that did not run gives the approval back, and so does a round that ended with a need for input: the round
        that brings it is the same logical call.
        """
        hold = self._holds.get(hold_id)
        if hold is None or hold.state is not HoldState.CLAIMED or hold.claimed_by != call_id:
            return ()
        told = self._told.pop(hold_id, set())
        if did_not_run(outcome) or needs_input(outcome):
            after = release(hold)
        else:
            after = finish(hold)
            self._ended[hold_id] = _Ended(outcome, self._waiters.get(hold_id, 0) + 1, told)
            self._by_call[call_id] = hold_id
        self._keep(after)
        self._tell(after)
        return (Write(kind="hold.settled", data=self._row(after, "")),)

    def tell_running(self, hold: Hold, session_id: str) -> None:
        """A session asked while the claiming call runs: what that comes to is kept for it, beside the call's own client."""
        self._told.setdefault(hold.id, set()).add(session_id)

    async def take_outcome(self, hold: Hold, session_id: str) -> Outcome | None:
        """The outcome that is kept for an identical call, taken by asking for it. None: it is kept for nobody, or for others.

        Raises:
            JournalUnavailable: that it was taken could not be made durable, so it was not.
        """
        if (ended := self._ended.get(hold.id)) is None:
            return None
        mine = ended.left > 0 or session_id in ended.told
        if mine:
            ended.left = max(0, ended.left - 1)
            ended.told.discard(session_id)
        else:
            ended.told.clear()  # another call of the same takes its place
        await self._drop_told(hold, ended)
        return ended.outcome if mine else None

    async def _drop_told(self, hold: Hold, ended: _Ended) -> None:
        """Keep an outcome no longer, once everybody who is to be told was."""
        if ended.left or ended.told:
            return
        del self._ended[hold.id]
        if self._live.get(hold.lookup) == hold.id:
            del self._live[hold.lookup]
        after = self._forgotten(hold)
        try:
            await self._journal.record(
                "hold.delivered", {"id": hold.id}, (Write(kind="hold.settled", data=self._row(after, "")),)
            )
        except JournalUnavailable:
            ended.left = 1
            self._ended[hold.id] = ended
            self._live.setdefault(hold.lookup, hold.id)
            raise
        self._keep(after)

    async def delivered(self, call_id: str) -> None:
        """The claiming call's own client got the outcome: it is not kept for it any more.

        A client that went away after forwarding began never comes here; the next identical call is given the outcome, once.
        """
        hold_id = self._by_call.pop(call_id, None)
        if hold_id is not None and (hold := self._holds.get(hold_id)) is not None:
            try:
                if (ended := self._ended.get(hold_id)) is not None:
                    ended.left = max(0, ended.left - 1)
                    await self._drop_told(hold, ended)
            except JournalUnavailable as error:
                logger.error("that the outcome of hold %s was delivered is not recorded: %s", hold_id, error)

    async def wait(self, identifier: str, seconds: float) -> bool:
        """Wait until something changes about a hold that is pending or in use; False where nothing did in time."""
        hold = self.get(identifier)
        if hold is None or hold.state not in (HoldState.PENDING, HoldState.CLAIMED):
            return True
        event = self._changed.setdefault(identifier, anyio.Event())
        self._waiters[identifier] = self._waiters.get(identifier, 0) + 1
        try:
            # A pending hold changes by itself when its time is over; one in use has outlived its time or will.
            ages = hold.state is HoldState.PENDING and not self._approved_by_expiry(hold)
            left = hold.expires_at - self._now() + 0.01 if ages else seconds
            with anyio.move_on_after(max(0.0, min(seconds, left))):
                await event.wait()
        finally:
            self._waiters[identifier] -= 1
            if not self._waiters[identifier]:
                del self._waiters[identifier]
        after = self.get(identifier)
        return after is None or after.state is not hold.state

    # --- a client's user, asked by elicitation ---

    def elicitation(self, identifier: str, operator: str) -> Mapping[str, Any] | None:
        """The question that puts a hold to a client's user; None where that operator cannot decide on it, now."""
        hold, who = self.get(identifier), self._operator(operator)
        if hold is None or who is None or hold.state is not HoldState.PENDING or who.id == hold.principal:
            return None
        return elicitation(hold) if any(may_decide(who, reason) for reason in open_reasons(hold)) else None

    async def elicited(self, identifier: str, operator: str, *, approve: bool, comment: str) -> None:
        """Take the word of a client's user; a hold that was decided meanwhile stays as it is."""
        if (who := self._operator(operator)) is None:
            return
        try:
            await self.decide(identifier, who, approve=approve, comment=comment, channel="elicitation")
        except (DecisionRefused, KeyError) as refused:
            logger.info("an elicited answer to hold %s decides nothing: %s", identifier, refused)
        except JournalUnavailable as error:
            logger.error(
                "an elicited answer to hold %s could not be recorded and does not count: %s", identifier, error
            )

    def _operator(self, identifier: str) -> Operator | None:
        return next((one for one in self.operators() if one.id == identifier), None)

    # --- what operators do ---

    async def decide(
        self,
        identifier: str,
        operator: Operator,
        *,
        approve: bool,
        comment: str = "",
        channel: str = "cli",
        arguments: Any = None,
        narrow: bool = False,
        seen: str | None = None,
    ) -> Hold:
        """Take a decision, commit it with its signed record, wake who waits.

        Raises:
            DecisionRefused: it is decided or over, or this operator may not.
            ValueError: there is no such hold.
            JournalUnavailable: it is not durable, so it was not taken.
        """
        async with self._lock:
            if (hold := self._holds.get(identifier)) is None:
                (hold,) = await self.find(identifier)  # one that is over: refused with its state
            after = decide(
                hold,
                operator,
                approve=approve,
                now=self._now(),
                valid_seconds=self.settings().approval_valid_seconds,
                comment=comment,
                channel=channel,
                arguments=arguments,
                narrow=narrow,
                seen=seen,
            )
            await self._decided(hold, after)
        self._tell(after)
        return after

    async def expire(self) -> float:
        """Expire what is due; the seconds until the next. `on_expiry = "approve"` approves reads, recorded as such."""
        now = self._now()
        due = [hold for hold in self._holds.values() if expire(hold, now) is not hold]
        for hold in due:
            async with self._lock:
                if self._holds.get(hold.id) is not hold:
                    continue
                settings = self.settings()
                if self._approved_by_expiry(hold):
                    word = Decision(
                        operator="expiry",
                        approve=True,
                        at=now,
                        reasons=tuple(r.code for r in hold.reasons),
                        channel="expiry",
                    )
                    after = replace(
                        hold,
                        state=HoldState.APPROVED,
                        decisions=(*hold.decisions, word),
                        decided_at=now,
                        valid_until=now + settings.approval_valid_seconds,
                    )
                    await self._decided(hold, after)
                else:
                    after = self._forgotten(expire(hold, now))
                    body = {"id": hold.id, "state": str(after.state)}
                    await self._journal.record(
                        "hold.expired", body, (Write(kind="hold.update", data=self._row(after, hold.state)),)
                    )
                    self._keep(after)
            self._tell(after)
        ends = [
            hold.valid_until if hold.state is HoldState.APPROVED and hold.valid_until is not None else hold.expires_at
            for hold in self._holds.values()
            if hold.state in (HoldState.PENDING, HoldState.DENIED, HoldState.APPROVED)
        ]
        return max(0.05, min(ends) - now) if ends else 3600.0

    async def _decided(self, before: Hold, after: Hold) -> None:
        """Commit a decision with its signed statement. The lock is held.

        The statement names what was decided on by the digests of all of it, and shows it as records do.
        """
        word = after.decisions[-1]
        arguments, redacted = self._redact(after.binding.arguments, after.redact)
        received, _ = self._redact(after.received, after.redact)
        envelope = self._signer.envelope(
            statement(
                {
                    "hold": after.id,
                    "binding": after.binding.digest(),
                    "lookup": after.lookup,
                    "agent": after.principal,
                    "tool": f"{after.server}/{after.tool}",
                    "arguments": arguments,
                    "narrowed": after.narrowed,
                    "received": received,
                    "redacted": list(redacted),
                    "definition_sha256": after.binding.definition_sha256,
                    "server_sha256": after.binding.server_sha256,
                    "policy_revision": after.binding.policy_revision,
                    "reasons": [asdict(reason) for reason in after.reasons],
                    "question": after.question,
                    "operator": word.operator,
                    "approve": word.approve,
                    "settles": word.reasons,
                    "comment": word.comment,
                    "channel": word.channel,
                    "at": word.at,
                    "state": str(after.state),
                    "valid_until": after.valid_until,
                }
            ),
            APPROVAL_TYPE,
        )
        row = {**self._row(after, before.state), "envelope": self._seal.seal(orjson.dumps(envelope), PURPOSE)}
        body = {
            "id": after.id,
            "binding": after.binding.digest(),
            "operator": word.operator,
            "approve": word.approve,
            "channel": word.channel,
            "state": str(after.state),
            "keyid": self._signer.public.id,
            "signature": envelope["signatures"][0]["sig"],
        }
        await self._journal.record("hold.decided", body, (Write(kind="hold.decided", data=row),))
        self._keep(after)

    # --- keeping ---

    async def load(self) -> None:
        """Rebuild the memory from the store."""
        for identifier, data in await self._journal.read(_rows, FINISHED):
            stored = orjson.loads(self._seal.open(data, PURPOSE))
            hold = from_json(stored["hold"])
            if hold.state is HoldState.CLAIMED:
                hold = finish(hold)
                message = "The gateway stopped while the call ran; whether it took effect is not known."
                lost = Failed(code=Code.SERVER_LOST, message=message, in_doubt=True, sent=True)
                self._ended[identifier] = _Ended(lost, 1, set())
            elif hold.state is HoldState.DONE and stored.get("outcome") is not None:
                self._ended[identifier] = _Ended(outcome_from_json(stored["outcome"]), 1, set())
            self._keep(hold)

    def envelopes(self, raw: Any, identifier: str) -> list[Mapping[str, Any]]:
        """The signed statements of a hold, in order. For `journal.read`."""
        found = raw.execute(
            "SELECT data FROM hold_decisions WHERE hold_id = ? ORDER BY number", (identifier,)
        ).fetchall()
        return [orjson.loads(self._seal.open(data, PURPOSE)) for (data,) in found]

    @asynccontextmanager
    async def erasing(self, call_id: str) -> AsyncIterator[tuple[Write, ...]]:
        """Erase what is held of a call's arguments: at once, or where a person may still decide, with the hold's end.

        The writes have to be durable when the context is left. Signed decisions hold the arguments too, and go.
        """
        async with self._lock:
            stored = {hold.id: hold for hold in self._opened(await self._journal.read(_of_call, call_id))}
            # In memory first: what is claimed or decided while this is committed is written without them too.
            found = [self._holds.get(identifier, hold) for identifier, hold in stored.items()]
            erased = [erase(hold, over=self._over(hold)) for hold in found]
            for hold in erased:
                if hold.id in self._holds:
                    self._keep(hold)
            yield tuple(Write(kind="hold.erased", data=self._row(hold, "")) for hold in erased)

    def forget_before(self, at: float) -> None:
        """Records up to then were dropped: what ended before goes from memory too."""
        for identifier in [name for name in self._finished if self._holds[name].opened_at < at]:
            self._release(identifier)

    def _forgotten(self, hold: Hold) -> Hold:
        return forget(hold, lambda arguments: self._redact(arguments, hold.redact)[0])

    def _over(self, hold: Hold) -> bool:
        """Whether nothing can come of it any more, and nobody is to be told what did."""
        return hold.state not in LIVE or (hold.state is HoldState.DONE and hold.id not in self._ended)

    def _release(self, identifier: str) -> None:
        del self._finished[identifier]
        hold = self._holds.pop(identifier)
        self._by_call.pop(hold.claimed_by or "", None)
        if self._live.get(hold.lookup) == identifier:
            del self._live[hold.lookup]

    def _keep(self, hold: Hold) -> None:
        self._holds[hold.id] = hold
        self._had.add(hold.principal)
        if self._over(hold):
            self._finished[hold.id] = None
            if len(self._finished) > FINISHED:
                self._release(next(iter(self._finished)))
        if not self._over(hold):
            self._live[hold.lookup] = hold.id
        elif self._live.get(hold.lookup) == hold.id and hold.state is not HoldState.EXPIRED:
            del self._live[hold.lookup]

    def _row(self, hold: Hold, before: str) -> dict[str, Any]:
        ended = self._ended.get(hold.id)
        stored = {"hold": asdict(hold), "outcome": outcome_to_json(ended.outcome) if ended is not None else None}
        delivered = hold.state is HoldState.DONE and ended is None
        return {
            "id": hold.id,
            "state": DELIVERED if delivered else str(hold.state),
            "before": str(before),
            "at": self._now(),
            "call_id": hold.claimed_by,
            "data": self._seal.seal(orjson.dumps(stored), PURPOSE),
        }

    def _tell(self, hold: Hold) -> None:
        if (event := self._changed.pop(hold.id, None)) is not None:
            event.set()
        self._events.publish(
            StateChanged(
                at=self._now(),
                kind="hold",
                subject=hold.id,
                state=str(hold.state),
                facts={"agent": hold.principal, "tool": f"{hold.server}/{hold.tool}", "session": hold.session_id},
            )
        )

    def _now(self) -> float:
        return self._clock.time_ns() / 1e9


def did_not_run(outcome: Outcome) -> bool:
    """Whether a claimed call certainly had no effect, so that its approval is still unused."""
    match outcome:
        case Refused():
            return outcome.executed == "no"
        case Failed():
            return not outcome.in_doubt and not outcome.sent
        case _:
            return False


def public(hold: Hold) -> dict[str, Any]:
    """What the chain says of a hold: everything but arguments and question, which may hold secrets."""
    return {
        "id": hold.id,
        "lookup": hold.lookup,
        "agent": hold.principal,
        "session_id": hold.session_id,
        "call_id": hold.call_id,
        "tool": f"{hold.server}/{hold.tool}",
        "risk": hold.risk,
        "reasons": [asdict(reason) for reason in hold.reasons],
        "opened_at": hold.opened_at,
        "expires_at": hold.expires_at,
        "state": str(hold.state),
    }


def from_json(value: Mapping[str, Any]) -> Hold:
    """A hold as `dataclasses.asdict` and JSON left it."""
    binding = {**value["binding"], "reasons": tuple(value["binding"]["reasons"])}
    return Hold(
        **{
            **value,
            "binding": Binding(**binding),
            "reasons": tuple(
                HoldReason(**{**reason, "approvers": tuple(reason["approvers"])}) for reason in value["reasons"]
            ),
            "decisions": tuple(Decision(**{**word, "reasons": tuple(word["reasons"])}) for word in value["decisions"]),
            "redact": tuple(value.get("redact", ())),
            "state": HoldState(value["state"]),
        }
    )


def outcome_to_json(outcome: Outcome | None) -> Any:
    match outcome:
        case Completed():
            return {
                "kind": "completed",
                "result": None if outcome.result is None else outcome.result.decode(),
                "error": None if outcome.error is None else outcome.error.decode(),
            }
        case Failed():
            return {
                "kind": "failed",
                "code": str(outcome.code),
                "message": outcome.message,
                "in_doubt": outcome.in_doubt,
                "sent": outcome.sent,
            }
        case Refused():
            return {
                "kind": "refused",
                "stage": outcome.stage,
                "code": str(outcome.code),
                "message": outcome.message,
                "executed": outcome.executed,
            }
        case _:
            return None


def outcome_from_json(value: Mapping[str, Any]) -> Outcome:
    match value["kind"]:
        case "completed":
            return Completed(
                result=None if value["result"] is None else value["result"].encode(),
                error=None if value["error"] is None else value["error"].encode(),
                source="hold",
            )
        case "failed":
            return Failed(
                code=Code(value["code"]), message=value["message"], in_doubt=value["in_doubt"], sent=value["sent"]
            )
        case _:
            return Refused(
                stage=value["stage"], code=Code(value["code"]), message=value["message"], executed=value["executed"]
            )


def _differs(approved: Binding, found: Binding) -> list[str]:
    names = ("arguments", "definition_sha256", "server_sha256", "policy_revision", "reasons")
    return [name for name in names if getattr(approved, name) != getattr(found, name)]


def _rows(raw: Any, finished: int) -> list[tuple[str, bytes]]:
    """Every hold that is live, and the newest that are over, oldest first."""
    live = "SELECT id, data FROM holds WHERE state IN ('pending', 'approved', 'denied', 'claimed', 'done')"
    newest = "SELECT id, data FROM holds ORDER BY id DESC LIMIT ?"
    return sorted({*raw.execute(live).fetchall(), *raw.execute(newest, (finished,)).fetchall()})


def _of_call(raw: Any, call_id: str) -> list[tuple[str, bytes]]:
    """The holds that a call opened or used, by the chain."""
    chained = (
        "SELECT json_extract(CAST(data AS TEXT), '$.body.id') FROM records WHERE type IN ('hold.opened', 'hold.claimed')"
        " AND type <> 'call' AND json_extract(CAST(data AS TEXT), '$.body.call_id') = ?"
    )
    return list(raw.execute(f"SELECT id, data FROM holds WHERE id IN ({chained})", (call_id,)).fetchall())


def _page(raw: Any, states: Sequence[str] | None, before: str | None, limit: int) -> list[tuple[str, bytes]]:
    query = "SELECT id, data FROM holds WHERE (? IS NULL OR id < ?)"
    if states is not None:
        query += f" AND state IN ({', '.join('?' * len(states))})"
    values = (before, before, *map(str, states or ()), limit)
    return list(raw.execute(f"{query} ORDER BY id DESC LIMIT ?", values).fetchall())


def _fitting(raw: Any, part: str) -> list[tuple[str, bytes]]:
    """By the whole id, or where there is none, by its beginning or end. A few at most: who asks has to write more."""
    exact = raw.execute("SELECT id, data FROM holds WHERE id = ?", (part,)).fetchall()
    if exact or not part:
        return list(exact)
    length = len(part)
    query = "SELECT id, data FROM holds WHERE substr(id, 1, ?) = ? OR substr(id, -?) = ? LIMIT 3"
    return list(raw.execute(query, (length, part, length, part)).fetchall())


# --- what the writes mean in SQL ---


def _insert(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    sql = "INSERT INTO holds (id, state, at, data) VALUES (?, ?, ?, ?)"
    return (Statement(sql=sql, parameters=(data["id"], data["state"], data["at"], data["data"]), rows=1),)


def _update(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    sql = "UPDATE holds SET state = ?, at = ?, data = ? WHERE id = ? AND state = ?"
    return (
        Statement(sql=sql, parameters=(data["state"], data["at"], data["data"], data["id"], data["before"]), rows=1),
    )


def _decided(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    sql = "INSERT INTO hold_decisions (hold_id, at, data) VALUES (?, ?, ?)"
    return (*_update(call, at, data), Statement(sql=sql, parameters=(data["id"], data["at"], data["envelope"])))


def _claimed(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    return (*_update(call, at, data), Chained(type="hold.claimed", body={"id": data["id"], "call_id": data["call_id"]}))


def _settled(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    sql = "UPDATE holds SET state = ?, at = ?, data = ? WHERE id = ?"
    return (Statement(sql=sql, parameters=(data["state"], data["at"], data["data"], data["id"])),)


def _erased(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    sql = "DELETE FROM hold_decisions WHERE hold_id = ?"
    return (*_settled(call, at, data), Statement(sql=sql, parameters=(data["id"],)))


WRITES: Mapping[str, WriteKind] = {
    "hold.erased": _erased,
    "hold.insert": _insert,
    "hold.update": _update,
    "hold.decided": _decided,
    "hold.claimed": _claimed,
    "hold.settled": _settled,
}
