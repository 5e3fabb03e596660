"""Quotas and interrupts of another configuration, on recorded calls: the stages themselves, on a clock that the recording sets.

Each recorded call arrives when it arrived and ends when it ended, in one order of time. What the recording stopped for its
own limits, and another configuration lets through, is taken to have completed with nothing, at once: what it would have
done nobody knows. What the policy or a person stopped stays stopped, behind the interrupts and before the quotas, as in the
chain.
"""

import heapq
from collections.abc import Callable, Sequence
from typing import Any, Final

from gateway.adapters.recordings import CallRecord, commitment
from gateway.decide.interrupt import Rule
from gateway.decide.pause import Stop, Stops
from gateway.decide.quota import Ledger, Quota
from gateway.model.call import Call, Client, Principal, Risk, TargetType
from gateway.model.refusal import Code
from gateway.model.snapshot import Entry, Snapshot
from gateway.model.verdict import Completed, Failed, Outcome, Proceed, Refuse, Refused
from gateway.replay.judging import Changed, Ruling, Tally, Unjudged
from gateway.stages.interrupt import Interrupt
from gateway.stages.quota import Quotas

STOPPED_BETWEEN: Final = frozenset({"validate", "authorize", "deduplicate", "hold"})
"""The stages between interrupts and quotas."""

LIMITS: Final = frozenset({"interrupt", "quota"})

ARGUMENTS: Final = frozenset({"identical_calls"})
RESULTS: Final = frozenset({"repeated_result", "result_bytes"})
"""Kinds of interrupts that look at arguments, and at results."""


class _Clock:
    """The recording's time."""

    now = 0.0

    def time_ns(self) -> int:
        return int(self.now * 1e9)

    def monotonic_ns(self) -> int:
        return int(self.now * 1e9)


async def limited(
    calls: Sequence[CallRecord],
    quotas: tuple[Quota, ...],
    interrupts: tuple[Rule, ...],
    snapshot: Snapshot,
    cost: Callable[[str, str], float | None] = lambda server, tool: None,
) -> Tally:
    """What the limits would have stopped.

    Args:
        snapshot: stands in every call; nothing of it is looked at.
        cost: a tool's fixed cost, by server and tool.
    """
    clock, stops, ledger, tally = _Clock(), Stops(), Ledger(), Tally(limits=True)

    def stop(stop: Stop) -> None:
        stops.put(stop)

    first = Interrupt(
        stops=stops, rules=lambda: interrupts, quotas=lambda: quotas, ledger=ledger, stop=stop, clock=clock
    )
    second = Quotas(lambda: quotas, ledger, clock)
    kinds = {rule.kind for rule in interrupts}
    ends: list[tuple[float, int, Call, Outcome, bool]] = []
    waiting: set[str] = set()
    """The holds that calls met so far."""

    async def settle(until: float) -> None:
        while ends and ends[0][0] <= until:
            at, _, call, outcome, counted = heapq.heappop(ends)
            clock.now = at
            if counted:
                await second.settle(call, outcome)
            await first.settle(call, outcome)

    for number, each in enumerate(sorted(calls, key=lambda one: (one.command["received_at"], one.seq))):
        command, tally.calls = each.command, tally.calls + 1
        if not command["server"] or command.get("waited_for") or command["replay_of"]:
            tally.unasked += 1
            continue
        call = _call(each, snapshot, cost, waiting)
        about = {"call_id": call.id, "agent": call.principal.id, "tool": f"{call.server}/{call.name}"}
        if why := _unknown(each, kinds):
            tally.undecidable.append(Unjudged(**about, why=why))
            continue
        await settle(call.received_at)
        clock.now = call.received_at
        recorded = each.body["outcome"]
        stage = recorded.get("stage") if recorded["kind"] == "refused" else None
        was = _was(recorded) if stage in LIMITS else Ruling("allow", "", ())
        verdict = await first.admit(call)
        now = Ruling("allow", "", ())
        if isinstance(verdict, Refuse):
            now = _ruling(verdict)
        else:
            passed = verdict.call if isinstance(verdict, Proceed) and verdict.call is not None else call
            if reasons := passed.hold_reasons:
                rules = tuple({"code": reason.code, "message": reason.reason} for reason in reasons)
                now = Ruling("hold", "", rules)
            counted = False
            if stage not in STOPPED_BETWEEN and recorded["kind"] != "held":
                taken = await second.admit(call)
                if isinstance(taken, Refuse):
                    now = _ruling(taken)
                else:
                    counted = True
            if now.word != "deny":
                elapsed = 0 if stage in LIMITS else each.body["elapsed_us"] or 0
                heapq.heappush(ends, (call.received_at + elapsed / 1e6, number, call, _outcome(each, stage), counted))
            else:
                await first.settle(call, _refused(now))
        tally.pairs[was.word, now.word] += 1
        if was.word != now.word:
            tally.changed.append(Changed(**about, session_id=call.session_id, at=call.received_at, was=was, now=now))
    return tally


def _call(each: CallRecord, snapshot: Snapshot, cost: Callable[[str, str], float | None], waiting: set[str]) -> Call:
    """The call as the stages take it; one that polled for a hold or was released by it counts no further."""
    command = each.command
    hold = _hold(each)
    apart = hold in waiting
    if hold:
        waiting.add(hold)
    request = each.request() or {}
    params = request.get("params", {})
    arguments = params.get("arguments")
    server, name, risk, type_ = command["server"], command["name"], Risk(command["risk"]), TargetType(command["type"])
    return Call(
        id=command["id"],
        method=command["method"],
        type=type_,
        target=command["target"],
        arguments=arguments,
        received_arguments=arguments,
        params=params,
        meta={},
        principal=Principal(id=command["principal"]["id"], roles=tuple(command["principal"]["roles"])),
        session_id=command["session_id"],
        continues=command["logical_id"] != command["id"],
        apart=apart,
        client=Client(name=command["client"]["name"]),
        snapshot=snapshot,
        received_at=command["received_at"],
        time_ns=command["time_ns"],
        server=server,
        name=name,
        risk=risk,
        entry=Entry(
            type=type_,
            server=server,
            name=name,
            exposed=command["target"],
            definition={},
            definition_sha256="",
            risk=risk,
            idempotent=command["idempotent"],
            cost=cost(server, name),
        ),
    )


def _hold(each: CallRecord) -> str:
    """The hold that a call waited for, or whose approval or outcome it took."""
    outcome = each.body["outcome"]
    if outcome["kind"] == "held":
        return str(outcome["hold_id"])
    for step in each.body["trail"]:
        if step["stage"] == "hold" and step["verdict"] in ("proceed", "answer"):
            return str(step["facts"].get("hold") or "")
    return ""


def _unknown(each: CallRecord, kinds: set[Any]) -> str:
    """Why it cannot be said whether an interrupt is met; empty where it can."""
    if kinds & ARGUMENTS:
        asked = commitment(each.body, "request") or {}
        if "request" not in each.payloads or any(path.startswith("params") for path in asked.get("erased", ())):
            return "erased, and an interrupt compares arguments"
    said = commitment(each.body, "response") if kinds & RESULTS else None
    if said is not None and (said["erased"] or "response" not in each.payloads):
        return "erased, and an interrupt compares results"
    return ""


def _was(recorded: Any) -> Ruling:
    rules = ({"code": recorded["rule"], "message": recorded["message"]},) if recorded["rule"] else ()
    return Ruling("deny", recorded["code"], rules)


def _ruling(verdict: Refuse) -> Ruling:
    rules = ({"code": verdict.rule, "message": verdict.message},) if verdict.rule else ()
    return Ruling("deny", verdict.code.value, rules)


def _refused(now: Ruling) -> Refused:
    return Refused(stage="quota", code=Code(now.code), message="")


def _outcome(each: CallRecord, stage: str | None) -> Outcome:
    """What the stages learn of how a call ended."""
    recorded = each.body["outcome"]
    data = each.payloads.get("response", b"")
    if stage in LIMITS:
        return Completed(result=b"{}")
    match recorded["kind"]:
        case "completed" if data.startswith(b'{"result":'):
            return Completed(result=data[len(b'{"result":') : -1])
        case "completed":
            return Completed(error=data[len(b'{"error":') : -1] or b"{}") if data else Completed(result=b"{}")
        case "failed":
            return Failed(
                code=Code(recorded["code"]),
                message="",
                in_doubt=recorded["in_doubt"],
                sent=each.body["executed"] == "unknown",
            )
        case _:
            return Refused(stage=stage or "hold", code=Code(recorded.get("code", "hold.pending")), message="")
