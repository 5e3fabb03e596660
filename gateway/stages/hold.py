"""Stage 6: are there reasons to hold that no approval covers. Parks the call, or claims the approval, once.

The stage starts nothing: an approval is used by the waiter or by the next identical call, which comes here again through
all stages before, so that schema, policy and stops are judged anew.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from gateway.decide.hold import Binding, Hold, HoldState, expiry, lookup_of, undecidable
from gateway.model.call import Call
from gateway.model.ids import new_id
from gateway.model.refusal import Code
from gateway.model.verdict import PROCEED, Answer, Outcome, Park, Proceed, Refuse, Verdict
from gateway.ports import Clock, HoldBook, Settlement

DECIDED = frozenset({HoldState.DENIED, HoldState.APPROVED, HoldState.CLAIMED, HoldState.DONE})
"""States that hold for the next identical call also where nothing would hold it by now: a person said no; or said yes, perhaps
to other arguments, which is used up by this call; or it runs; or it ran and its outcome was not told yet."""


class Holds:
    """Parks calls that a person has to approve, and lets approved ones through.

    Args:
        server: the fingerprint of a tool server's command or URL, as configured now.
    """

    name = "hold"

    def __init__(self, book: HoldBook, server: Callable[[str], str], clock: Clock) -> None:
        self._book, self._server, self._clock = book, server, clock
        self._had = book.had
        self._claims: dict[str, str] = {}
        """Call id to the hold that it claimed."""
        self._looked_up = ("", "")
        """Of the call that was last asked for: its id and its lookup digest."""

    async def admit(self, call: Call) -> Verdict:
        if call.hold_reasons:
            hold = self._book.live(self._lookup(call))
        elif (hold := self.met(call)) is None or hold.state not in DECIDED:
            return PROCEED
        binding = self._binding(call)
        if hold is None:
            return await self._open(call, binding)
        match hold.state:
            case HoldState.PENDING:
                return parked(hold)
            case HoldState.DENIED:
                return denied(hold, self._now())
            case HoldState.EXPIRED if call.waited_for == hold.id:
                return Refuse(
                    code=Code.HOLD_EXPIRED,
                    message=f"Nobody decided on {call.target} in time. Nothing was run. Tell the user; calling again asks again.",
                    rule=hold.id,
                    facts={"hold": hold.id},
                )
            case HoldState.CLAIMED:
                self._book.tell_running(hold, call.session_id)
                return running(hold)
            case HoldState.DONE:
                if (outcome := await self._book.take_outcome(hold, call.session_id)) is not None:
                    return Answer(outcome=outcome, facts={"hold": hold.id, "claimed_by": hold.claimed_by})
                return await self._open(call, binding) if call.hold_reasons else PROCEED
            case HoldState.APPROVED:
                return await self._use(call, hold, binding)
            case HoldState.EXPIRED | HoldState.VOID | HoldState.LAPSED:
                return await self._open(call, binding)
            case _:
                assert_never(hold.state)

    async def settle(self, call: Call, outcome: Outcome) -> Settlement | None:
        if (hold_id := self._claims.pop(call.id, None)) is None:
            return None
        writes = self._book.settle(call.id, hold_id, outcome)
        return Settlement(writes=writes) if writes else None

    def claimed(self, call_id: str) -> str | None:
        """The hold that a running call has claimed."""
        return self._claims.get(call_id)

    def approval(self, call: Call) -> Hold | None:
        """The approval that this exact call has, for `resolve`: None in the common case, without a digest."""
        hold = self.met(call)
        return hold if hold is not None and hold.state is HoldState.APPROVED else None

    def met(self, call: Call) -> Hold | None:
        """The hold that this exact call meets: None in the common case, without a digest."""
        return self._book.live(self._lookup(call)) if call.principal.id in self._had else None

    # --- parts ---

    async def _use(self, call: Call, hold: Hold, binding: Binding) -> Verdict:
        """Claim the approval, or void it where it was given for another call.

        It covers the reasons that it was given for: some of them may be gone by now, as where the arguments were narrowed.
        """
        if set(binding.reasons) <= set(hold.binding.reasons):
            binding = replace(binding, reasons=hold.binding.reasons)
        after, write = self._book.claim(hold, binding, call.id)
        if write is not None:
            self._claims[call.id] = hold.id
            return Proceed(
                writes=(write,), facts={"hold": hold.id, "approved_by": [word.operator for word in hold.decisions]}
            )
        if after.state is not HoldState.VOID:
            return parked(after)
        await self._book.void(hold, binding)
        if not call.hold_reasons:
            return _mismatch(call, hold, None) if hold.narrowed else PROCEED
        verdict = await self._open(call, binding)
        return _mismatch(call, hold, verdict.hold_id) if isinstance(verdict, Park) else verdict

    async def _open(self, call: Call, binding: Binding) -> Verdict:
        settings, book = self._book.settings(), self._book
        if (reason := undecidable(call.hold_reasons, book.operators())) is not None:
            wanted = ", ".join(reason.approvers) or "an operator"
            return Refuse(
                code=Code.HOLD_DENIED,
                message=(
                    f"{call.target} needs a person's approval ({reason.code}), and nobody is configured who could give it "
                    f"({wanted}). Nothing was run. Tell the user."
                ),
                facts={"reason": reason.code, "approvers": list(reason.approvers)},
            )
        if (
            book.pending(call.principal.id) >= settings.max_pending_agent
            or book.pending() >= settings.max_pending_gateway
        ):
            return Refuse(
                code=Code.HOLD_LIMIT,
                message=(
                    f"{book.pending(call.principal.id)} calls of this agent wait for approval already. Nothing was run. "
                    "Wait until some are decided; do not ask for more."
                ),
                retry_after_seconds=60.0,
                facts={"pending": book.pending(call.principal.id)},
            )
        now = self._now()
        hold = await book.open(
            Hold(
                id=new_id(),
                binding=binding,
                principal=call.principal.id,
                session_id=call.session_id,
                client=call.client.name,
                server=call.server,
                tool=call.name,
                risk=str(call.risk),
                call_id=call.id,
                opened_at=now,
                expires_at=expiry(call.hold_reasons, settings.expires_seconds, now),
                reasons=call.hold_reasons,
                question={"action": call.method, "meta": dict(call.meta), "why": call.why},
                received=call.asked,
                redact=tuple(
                    path
                    for obligation in call.obligations
                    if obligation.id == "redact_arguments"
                    for path in obligation.paths
                ),
            )
        )
        return parked(hold)

    def _binding(self, call: Call) -> Binding:
        return Binding(
            lookup=self._lookup(call),
            arguments=call.sent,
            definition_sha256=call.entry.definition_sha256 if call.entry is not None else "",
            server_sha256=self._server(call.server),
            policy_revision=call.snapshot.policy.revision,
            reasons=tuple(sorted({reason.code for reason in call.hold_reasons})),
        )

    def _lookup(self, call: Call) -> str:
        call_id, digest = self._looked_up
        if call_id != call.id:
            digest = lookup_of(call)
            self._looked_up = call.id, digest
        return digest

    def _now(self) -> float:
        return self._clock.time_ns() / 1e9


def parked(hold: Hold) -> Park:
    """The call waits, with words that tell a model what to do."""
    why = "; ".join(reason.reason or reason.code for reason in hold.reasons)
    return Park(
        hold_id=hold.id,
        expires_at=hold.expires_at,
        message=(
            f"{hold.server}/{hold.tool} waits for a person's approval ({why}). Nothing was run yet. Hold {hold.id}. "
            "Tell the user that it waits. To pick it up, call the same tool again with exactly the same arguments; "
            "do not change them and do not try another way."
        ),
        facts={"hold": hold.id},
    )


def running(hold: Hold) -> Park:
    """What was approved runs now, for another call: not to be told as if it waited."""
    return Park(
        hold_id=hold.id,
        expires_at=hold.expires_at,
        running=True,
        message=(
            f"{hold.server}/{hold.tool} was approved and runs now, for an earlier call with the same arguments. Hold {hold.id}. "
            "It has no outcome yet. Do not try it another way."
        ),
        facts={"hold": hold.id, "claimed_by": hold.claimed_by},
    )


def _mismatch(call: Call, hold: Hold, new: str | None) -> Refuse:
    """An approval met another call than it was given for, and is void."""
    what = (
        f"A new approval was asked for: hold {new}. Call again with the same arguments to use it."
        if new is not None
        else "Call again to have it judged anew."
    )
    return Refuse(
        code=Code.HOLD_MISMATCH,
        message=(
            f"{call.target} was approved, but what would run now is not what was approved (the arguments, the tool, "
            f"its server or the policy changed). Nothing was run. {what}"
        ),
        rule=hold.id,
        facts={"hold": hold.id, "new_hold": new},
    )


def denied(hold: Hold, now: float) -> Refuse:
    """A person said no; the same call is not asked again until the hold expires."""
    word = hold.decisions[-1]
    comment = f" They say: {word.comment}" if word.comment else ""
    return Refuse(
        code=Code.HOLD_DENIED,
        message=f"{hold.server}/{hold.tool} was denied by {word.operator}.{comment} Nothing was run. Do not call it again; tell the user.",
        retry_after_seconds=max(0.0, hold.expires_at - now),
        rule=hold.id,
        facts={"hold": hold.id, "operator": word.operator},
    )
