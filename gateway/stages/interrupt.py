"""Stage 2: is the gateway, agent, session, server or tool stopped; is a declared interrupt met; what merely arrives counts.

A rule's `hold` becomes a reason for the hold stage. A rule's pause or kill is put in force at once, recorded, and stops
this very call. Calls that wait for approval, poll for it, or were released by it do not count again.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import assert_never

import orjson

from gateway.decide.interrupt import Arrival, Ending, Rule, Watch
from gateway.decide.pause import Stop, Stops, client_key
from gateway.decide.quota import Exhausted, Ledger, Quota
from gateway.model.call import Call, HoldReason, TargetType
from gateway.model.refusal import Code
from gateway.model.verdict import PROCEED, Completed, Failed, Held, Outcome, Proceed, Refuse, Refused, Verdict
from gateway.ports import Clock, Settlement
from gateway.stages.quota import refused

MAX_SUBJECTS = 10_000
"""Sessions and agents whose state a rule keeps; the least recent are forgotten first."""


class Interrupt:
    """Checks stops, counts arrivals, watches for declared patterns.

    Args:
        stops: what is paused or killed now; shared with the operators' acts.
        rules: the declared interrupts, as configured now.
        quotas: those with `count = "arrived"` are counted here, before anything can refuse.
        stop: puts a pause or kill in force: durable, recorded, calls in flight cancelled on a kill.
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
    ) -> None:
        self._stops, self._rules, self._quotas, self._ledger = stops, rules, quotas, ledger
        self._stop, self._clock = stop, clock
        self._watches: dict[tuple[Rule, str], Watch] = {}

    async def admit(self, call: Call) -> Verdict:
        now = self._clock.time_ns() / 1e9
        if (stop := self._stops.stopping(call, now)) is not None:
            return stopped(stop, now)
        arrived = [quota for quota in self._quotas() if quota.count == "arrived"]
        if arrived and isinstance(taken := self._ledger.take(arrived, call, now), Exhausted):
            return refused(taken)
        rules = self._rules()
        if not rules or call.type is not TargetType.TOOL:
            return PROCEED
        arrival = Arrival(at=now, server=call.server, tool=call.name, digest=identity(call))
        met = [rule for rule in rules if self._watch(rule, call).arrive(arrival)]
        return self._met(met, call, now) if met else PROCEED

    async def settle(self, call: Call, outcome: Outcome) -> Settlement | None:
        if call.type is not TargetType.TOOL or not (rules := self._rules()):
            return None
        ending = _ending(outcome, self._clock.time_ns() / 1e9)
        for rule in rules:
            self._watch(rule, call).end(ending)
        return None

    def _met(self, met: Sequence[Rule], call: Call, now: float) -> Verdict:
        """What the rules that are met ask for: the first that stops the call stops it, holds are gathered."""
        holds: list[HoldReason] = []
        for rule in met:
            reason = rule.reason or f"the interrupt {rule.name!r} is met"
            match rule.then:
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

    def _watch(self, rule: Rule, call: Call) -> Watch:
        key = (rule, call.principal.id if rule.per == "agent" else call.session_id)
        watch = self._watches.pop(key, None) or Watch(rule)
        self._watches[key] = watch  # the most recent last
        if len(self._watches) > MAX_SUBJECTS:
            del self._watches[next(iter(self._watches))]
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


def _ending(outcome: Outcome, now: float) -> Ending:
    match outcome:
        case Completed(result=bytes(result)):
            failed = b'"isError":true' in result or (
                b'"isError"' in result and orjson.loads(result).get("isError") is True
            )
            digest = hashlib.blake2b(result, digest_size=16).digest()
            return Ending(at=now, failed=failed, result_bytes=len(result), result_digest=digest)
        case Completed() | Failed():
            return Ending(at=now, failed=True)
        case Refused() | Held():
            return Ending(at=now, failed=False)
        case _:
            assert_never(outcome)
