"""Stage 2: is the gateway, agent, session, server or tool stopped; is a declared interrupt met; what merely arrives counts.

A rule's `hold` becomes a reason for the hold stage. A rule's pause or kill is put in force at once, recorded, and stops
this very call.

A call that waits for a person's approval, polls for it or was released by it is the call that came first, once more: it does
not count again, and what a rule held stays held for it, whatever the rule would say by now. A repetition of what a person
denied counts, and meets the denial. Nor does a round count that brings what the tool server asked for in the one before.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

import orjson

from gateway.decide.hold import LIVE, Hold, HoldState
from gateway.decide.interrupt import Arrival, Ending, Rule, Watch
from gateway.decide.pause import Stop, Stops, client_key
from gateway.decide.quota import Exhausted, Ledger, Quota
from gateway.model.call import Call, HoldReason, TargetType
from gateway.model.refusal import Code
from gateway.model.value import replace
from gateway.model.verdict import PROCEED, Completed, Failed, Held, Outcome, Proceed, Refuse, Refused, Verdict, executed
from gateway.ports import Clock, Settlement
from gateway.stages.quota import refused

MAX_SUBJECTS = 10_000
"""Sessions and agents whose state a rule keeps; the least recent are forgotten first."""


PENDING_OR_USED = LIVE - {HoldState.DENIED}
"""States of a hold in which the next identical call waits for it, is released by it, or picks its outcome up."""

HEAR_ENDINGS = frozenset({"failures", "result_bytes", "repeated_result"})
"""The kinds of rules that need to know how calls ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """What watches the calls of one agent and session, and what it needs to know of them."""

    rules: Sequence[Rule]
    watches: tuple[Watch, ...]
    hearing: tuple[Watch, ...]
    """Those that ask how calls end."""
    identity: bool
    """Whether any asks for the digest of a call."""
    result: bool
    """Whether any asks for the digest of a result."""
    learning: tuple[Watch, ...]
    """Those that hold a tool until it was used."""


class Interrupt:
    """Checks stops, counts arrivals, watches for declared patterns.

    Args:
        stops: what is paused or killed now; shared with the operators' acts.
        rules: the declared interrupts, as configured now.
        quotas: those with `count = "arrived"` are counted here, before anything can refuse.
        stop: puts a pause or kill in force: durable, recorded, calls in flight cancelled on a kill.
        met: the hold that this exact call meets, if any.
    """

    name = "interrupt"

    def __init__(
        self,
        *,
        stops: Stops,
        rules: Callable[[], Sequence[Rule]],
        quotas: Callable[[], Sequence[Quota]],
        ledger: Ledger,
        stop: Callable[[Stop], None],
        clock: Clock,
        met: Callable[[Call], Hold | None] = lambda call: None,
    ) -> None:
        self._stops, self._rules, self._quotas, self._ledger = stops, rules, quotas, ledger
        self._stop, self._clock, self._hold = stop, clock, met
        self._states: dict[tuple[Rule, str], Watch] = {}
        self._watches: dict[tuple[str, str], Watching] = {}
        self._picked: tuple[Sequence[Quota], tuple[Quota, ...]] = ((), ())

    async def admit(self, call: Call) -> Verdict:
        now = self._clock.time_ns() / 1e9
        if (stop := self._stops.stopping(call, now)) is not None:
            return stopped(stop, now)
        # A call that waited in-band has arrived once, before it waited.
        arrived = self._arrived() if call.waited_for is None else ()
        if arrived and isinstance(taken := self._ledger.take(arrived, call, now), Exhausted):
            return refused(taken)
        rules = self._rules()
        if (hold := self._hold(call)) is not None:
            return self._once_more(call, hold, rules, now)
        if not rules or call.apart or call.continues or call.type is not TargetType.TOOL:
            return PROCEED
        met = self._arrive(rules, call, now)
        return self._met(met, call, now) if met else PROCEED

    async def settle(self, call: Call, outcome: Outcome) -> Settlement | None:
        if call.type is not TargetType.TOOL or not (rules := self._rules()):
            return None
        watching = self._watching(rules, call)
        if watching.hearing and not call.apart:
            ending = _ending(outcome, self._clock.time_ns() / 1e9, digest=watching.result)
            for watch in watching.hearing:
                watch.end(ending)
        if watching.learning and executed(outcome) != "no":
            for watch in watching.learning:
                watch.used(call.server, call.name)
        return None

    def _once_more(self, call: Call, hold: Hold, rules: Sequence[Rule], now: float) -> Verdict:
        """A call that meets a hold: the reasons that rules gave for it are reasons still, as long as they are configured."""
        waited = call.waited_for == hold.id
        if not waited and hold.state not in LIVE:
            kept: tuple[HoldReason, ...] = ()
        else:
            sources = {f"interrupt:{rule.name}" for rule in rules if rule.then == "hold"}
            kept = tuple(reason for reason in hold.reasons if reason.source in sources)
        apart = waited or hold.state in PENDING_OR_USED
        if kept or apart:
            call = replace(call, apart=apart, hold_reasons=(*call.hold_reasons, *kept))
        counts = rules and not (apart or call.continues) and call.type is TargetType.TOOL
        if counts and (met := self._arrive(rules, call, now)):
            return self._met(met, call, now)
        return Proceed(call=call)

    def _arrive(self, rules: Sequence[Rule], call: Call, now: float) -> list[Rule]:
        """Take a call in; the rules that it meets."""
        watching = self._watching(rules, call)
        digest = identity(call) if watching.identity else b""
        arrival = Arrival(at=now, server=call.server, tool=call.name, digest=digest)
        return [watch.rule for watch in watching.watches if watch.arrive(arrival)]

    def _arrived(self) -> tuple[Quota, ...]:
        """The quotas that count what merely arrives; picked once a configuration."""
        every = self._quotas()
        if every is not self._picked[0]:
            self._picked = every, tuple(quota for quota in every if quota.count == "arrived")
        return self._picked[1]

    def _met(self, met: Sequence[Rule], call: Call, now: float) -> Verdict:
        """What the rules that are met ask for: the first that stops the call stops it, holds are gathered."""
        holds: list[HoldReason] = []
        known = {held.source for held in call.hold_reasons}
        for rule in met:
            reason = rule.reason or f"the interrupt {rule.name!r} is met"
            match rule.then:
                case "hold" if f"interrupt:{rule.name}" in known:
                    pass
                case "hold":
                    holds.append(HoldReason(code=rule.name, reason=reason, source=f"interrupt:{rule.name}"))
                case "deny":
                    return Refuse(
                        code=Code.INTERRUPT_DENIED,
                        message=(
                            f"Stopped by the interrupt {rule.name!r}: {reason}. Nothing was run. "
                            "Do not call this again in the same way; try something else, or tell the user."
                        ),
                        rule=rule.name,
                        facts={"interrupt": rule.name},
                    )
                case "pause-session" | "pause-agent" | "kill-session" | "kill-agent":
                    killed, agent = rule.then.startswith("kill"), rule.then.endswith("agent")
                    stop = Stop(
                        subject="agent" if agent else "session",
                        name=call.principal.id if agent else call.session_id,
                        killed=killed,
                        reason=reason,
                        by=f"interrupt:{rule.name}",
                        at=now,
                        until=None if rule.for_seconds is None else now + rule.for_seconds,
                        client="" if agent else client_key(call.principal.id, call.client.name),
                    )
                    self._stop(stop)
                    return replace(stopped(stop, now), rule=rule.name, facts={"interrupt": rule.name})
                case _:
                    assert_never(rule.then)
        facts = {"interrupts": [rule.name for rule in met]}
        return Proceed(call=replace(call, hold_reasons=(*call.hold_reasons, *holds)), facts=facts)

    def _watching(self, rules: Sequence[Rule], call: Call) -> Watching:
        """The watches of all rules for this call's agent and session, in the rules' order.

        Rules that a reload left as they were keep what they have seen.
        """
        key = (call.principal.id, call.session_id)
        known = self._watches.get(key)
        if known is None or known.rules is not rules:
            made = tuple(self._watch(rule, key[0] if rule.per == "agent" else key[1]) for rule in rules)
            known = self._watches[key] = Watching(
                rules=rules,
                watches=made,
                hearing=tuple(watch for watch in made if watch.rule.kind in HEAR_ENDINGS),
                identity=any(watch.rule.kind == "identical_calls" for watch in made),
                result=any(watch.rule.kind == "repeated_result" for watch in made),
                learning=tuple(watch for watch in made if watch.rule.learns),
            )
            if len(self._watches) > MAX_SUBJECTS:
                del self._watches[next(iter(self._watches))]
        return known

    def _watch(self, rule: Rule, subject: str) -> Watch:
        key = (rule, subject)
        watch = self._states.pop(key, None) or Watch(rule)
        self._states[key] = watch  # the most recently asked for last
        if len(self._states) > MAX_SUBJECTS:
            del self._states[next(iter(self._states))]
        return watch


def identity(call: Call) -> bytes:
    """Equal for calls of the same tool with the same arguments, whatever the order of their keys."""
    arguments = orjson.dumps(call.received_arguments, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(f"{call.server}\0{call.name}\0".encode() + arguments, digest_size=16).digest()


def stopped(stop: Stop, now: float) -> Refuse:
    """The refusal of a call that meets a stop."""
    what = {"gateway": "The gateway", "agent": "This agent", "session": "This session"}.get(stop.subject, stop.name)
    by = stop.by.removeprefix("interrupt:")
    why = f" by the interrupt {by!r}" if by != stop.by else f" by the operator {by}" if by else ""
    left = None if stop.until is None else max(0.0, stop.until - now)
    end = (
        "Stop here and tell the user." if left is None else f"It goes on in {left:.0f} s. Stop here and tell the user."
    )
    return Refuse(
        code=Code.KILLED if stop.killed else Code.GATEWAY_PAUSED,
        message=f"{what} was {'stopped' if stop.killed else 'paused'}{why}: {stop.reason or 'no reason given'}. Nothing was run. {end}",
        retry_after_seconds=left,
        rule=stop.by or None,
        facts={"stop": {"subject": stop.subject, "name": stop.name, "killed": stop.killed}},
    )


def _ending(outcome: Outcome, now: float, *, digest: bool) -> Ending:
    match outcome:
        case Completed(result=bytes(result)):
            failed = b'"isError":true' in result or (
                b'"isError"' in result and orjson.loads(result).get("isError") is True
            )
            hashed = hashlib.blake2b(result, digest_size=16).digest() if digest else b""
            return Ending(at=now, failed=failed, result_bytes=len(result), result_digest=hashed)
        case Completed() | Failed():
            return Ending(at=now, failed=True)
        case Refused() | Held():
            return Ending(at=now, failed=False)
        case _:
            assert_never(outcome)
