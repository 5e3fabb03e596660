"""The chain driver: the order of the stages, the journal and the cancellation rules, and the only way to a tool server.

A call meets the stages in order. Each that lets it through is settled once, in reverse, with what became of the call.

    admit 1 ─ admit 2 ─ … ─ admit n ─ journal begin ─ forward
                                                         │
    settle 1 ─ settle 2 ─ … ─ settle n ──────────────────┘ ─ journal end ─ event

Rules, each with a test (tests/test_engine.py):

1. The begin is durable before the forward; where it cannot be, nothing is forwarded.
2. Admitted stages settle in reverse, each exactly once, even if another's settle raises.
3. Settling and the journal's end run shielded from cancellation, for at most `FINISH_SECONDS`.
4. A call that was cancelled or lost after its first byte left is in doubt unless it is idempotent.
5. A stage that crashes refuses the call.
6. A settle that crashes while the call has obligations withholds the result: nothing leaks because redaction failed.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, assert_never

import anyio

from gateway.decide.obligations import withholds_notifications
from gateway.model.call import Call
from gateway.model.errors import JournalUnavailable
from gateway.model.events import CallEnded, CallForwarded, CallStarted
from gateway.model.refusal import Code
from gateway.model.verdict import (
    Answer,
    Completed,
    Failed,
    Held,
    Outcome,
    Park,
    Proceed,
    Refuse,
    Refused,
    Step,
    Write,
    executed,
)
from gateway.ports import Attempt, Begin, Caller, Clock, End, Events, Forwarder, Journal, Stage

logger = logging.getLogger("gateway.engine")

FINISH_SECONDS = 10.0
"""The bound of settling and of the journal's end after a cancellation."""


class Withholding:
    """The agent's side of a call whose result is to be redacted: what is said in mid-call is not relayed, only asked."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.capabilities = caller.capabilities
        self.wants_progress = False
        self.log_level = caller.log_level

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Dropped: progress and log messages may hold what the policy wants erased from the result."""

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """As the caller's."""
        return await self._caller.ask(requests)


class Running:
    """One call on its way: what status shows, and where an operator takes hold of it."""

    __slots__ = ("admitted", "attempt", "began", "call", "killed", "scope", "stage", "started_ns", "steps", "writes")

    def __init__(self, call: Call, started_ns: int) -> None:
        self.call = call
        self.started_ns = started_ns
        self.stage = ""
        """The stage it is in, `forward` or `settle`."""
        self.scope = anyio.CancelScope()
        self.killed: str | None = None
        """The reason, once an operator or an interrupt has killed it."""
        self.steps: list[Step] = []
        self.admitted: list[tuple[Stage, Call]] = []
        self.writes: list[Write] = []
        self.began = False
        self.attempt: Attempt | None = None


class Engine:
    """Runs calls through a fixed tuple of stages.

    Args:
        stages: in order; built once, in `wiring`.
        forwarder: the one way to a tool server, or None where a stage answers every call (a recording is served).
    """

    def __init__(
        self, *, stages: Sequence[Stage], forwarder: Forwarder | None, journal: Journal, clock: Clock, events: Events
    ) -> None:
        self.stages = tuple(stages)
        self._forwarder = forwarder
        self._journal = journal
        self._clock = clock
        self._now = clock.monotonic_ns
        self._events = events
        self._running: dict[str, Running] = {}
        self._idle: anyio.Event | None = None
        """Set when nothing runs any more; there is one while somebody waits for that."""

    # --- what operators see and do ---

    def running(self) -> Iterator[Running]:
        """The calls on their way, oldest first."""
        return iter(tuple(self._running.values()))

    def kill(self, call_id: str, reason: str) -> bool:
        """Cancel a call; its agent gets `killed`. False where it is not running, or has its outcome and settles."""
        if (run := self._running.get(call_id)) is None or run.stage == "settle":
            return False
        run.killed = reason
        run.scope.cancel()
        return True

    async def drained(self) -> None:
        """Returns when no call is running."""
        while self._running:
            if self._idle is None or self._idle.is_set():
                self._idle = anyio.Event()
            await self._idle.wait()

    # --- the walk ---

    async def execute(self, call: Call, caller: Caller) -> Outcome:
        """The outcome of the call. Raises nothing but the cancellation of the task it runs in, after it has settled."""
        run = Running(call, self._now())
        self._running[call.id] = run
        self._events.publish(CallStarted(at=call.received_at, call=call))
        try:
            with run.scope as scope:
                try:
                    outcome = await self._walk(run, caller)
                except anyio.get_cancelled_exc_class():
                    outcome = await self._settled(run, _interrupted(run))
                    raise
                if scope.cancel_called:
                    return await self._settled(run, outcome)
                # The call's own scope becomes the shield: `kill` leaves a call alone that settles.
                run.stage = "settle"
                scope.shield, scope.deadline = True, asyncio.get_running_loop().time() + FINISH_SECONDS
                return await self._finish(run, outcome)
            if run.killed is None:
                logger.error("call %s could not be settled within %s s", call.id, FINISH_SECONDS)
            return outcome  # the call was killed: its scope was cancelled, not the task
        finally:
            del self._running[call.id]
            if not self._running and self._idle is not None:
                self._idle.set()

    async def _walk(self, run: Running, caller: Caller) -> Outcome:
        """Through the stages and, where all let it, to the tool server."""
        call, steps, admitted, now = run.call, run.steps, run.admitted, self._now
        before = now()
        for stage in self.stages:
            run.stage = name = stage.name
            try:
                verdict = await stage.admit(call)
            except JournalUnavailable as error:
                return self._unrecorded(run, name, before, error)
            except Exception:
                logger.exception("stage %s failed on call %s", name, call.id)
                steps.append(Step(stage=name, verdict="crashed", elapsed_us=(now() - before) // 1000))
                return Refused(
                    stage=name, code=Code.GATEWAY_INTERNAL, message=f"The gateway failed in its stage {name}."
                )
            # A stage ends where the next one begins: one reading of the clock a stage.
            after = now()
            steps.append(
                Step(stage=name, verdict=verdict.word, elapsed_us=(after - before) // 1000, facts=verdict.facts)
            )
            before = after
            match verdict:
                case Proceed():
                    if verdict.call is not None:
                        run.call = call = verdict.call
                    if verdict.writes:
                        run.writes.extend(verdict.writes)
                    admitted.append((stage, call))
                case Refuse():
                    if verdict.call is not None:
                        run.call = verdict.call
                    return Refused(
                        stage=name,
                        code=verdict.code,
                        message=verdict.message,
                        retry_after_seconds=verdict.retry_after_seconds,
                        policy=verdict.policy,
                        rule=verdict.rule,
                        decision_id=verdict.decision_id,
                        data=verdict.data,
                    )
                case Park():
                    return Held(
                        hold_id=verdict.hold_id,
                        expires_at=verdict.expires_at,
                        message=verdict.message,
                        running=verdict.running,
                    )
                case Answer():
                    if verdict.call is not None:
                        run.call = verdict.call
                    return verdict.outcome
                case _:
                    assert_never(verdict)
        if self._forwarder is None:
            return Refused(
                stage="forward", code=Code.REPLAY_MISSING, message="No tool server can be reached from here."
            )
        return await self._forward(run, self._forwarder, caller)

    async def _forward(self, run: Running, forwarder: Forwarder, caller: Caller) -> Outcome:
        """Journal, then act."""
        run.stage = "journal"
        run.began = True  # handed over: a cancelled wait may have been committed all the same
        before = self._now()
        try:
            await self._journal.begin(
                Begin(call=run.call, steps=run.steps, at=self._clock.time_ns() / 1e9, writes=tuple(run.writes))
            )
        except JournalUnavailable as error:
            run.began = False
            return self._unrecorded(run, "journal", before, error)
        after = self._now()
        run.steps.append(Step(stage="journal", verdict="proceed", elapsed_us=(after - before) // 1000))
        self._events.publish(CallForwarded(at=self._clock.time_ns() / 1e9, call=run.call))
        run.stage = "forward"
        run.attempt = attempt = Attempt()
        try:
            heard = Withholding(caller) if withholds_notifications(run.call) else caller
            return await forwarder.forward(run.call, heard, attempt)
        except Exception:
            logger.exception("forwarding call %s failed", run.call.id)
            return attempt.outcome or _lost(
                run, Code.GATEWAY_INTERNAL, "The gateway failed while it forwarded the call."
            )
        finally:
            run.steps.append(Step(stage="forward", verdict="forwarded", elapsed_us=self._since(after)))

    async def _settled(self, run: Running, outcome: Outcome) -> Outcome:
        """Finish, whatever happens to the task meanwhile, within the bound."""
        with anyio.move_on_after(FINISH_SECONDS, shield=True):
            return await self._finish(run, outcome)
        logger.error("call %s could not be settled within %s s", run.call.id, FINISH_SECONDS)
        return outcome

    async def _finish(self, run: Running, outcome: Outcome) -> Outcome:
        """Settle in reverse, record, tell."""
        run.stage = "settle"
        writes: list[Write] = []
        for stage, call in reversed(run.admitted):
            before = self._now()
            try:
                settlement = await stage.settle(call, outcome)
            except Exception:
                logger.exception("settling %s failed on call %s", stage.name, call.id)
                run.steps.append(Step(stage=stage.name, verdict="settle crashed", elapsed_us=self._since(before)))
                if run.call.obligations and isinstance(outcome, Completed):
                    outcome = Refused(
                        stage=stage.name,
                        code=Code.RESULT_UNREDACTABLE,
                        message="The call ran, but its result could not be treated as the policy demands and is withheld.",
                        executed=executed(outcome),
                    )
                continue
            if settlement is None:
                continue
            if settlement.outcome is not None:
                outcome = settlement.outcome
            if settlement.writes:
                writes.extend(settlement.writes)
            if settlement.facts:
                run.steps.append(
                    Step(stage=stage.name, verdict="settled", elapsed_us=self._since(before), facts=settlement.facts)
                )
        ended_at = self._clock.time_ns() / 1e9
        elapsed_ns = self._now() - run.started_ns
        try:
            await self._journal.end(
                End(
                    call=run.call,
                    steps=run.steps,
                    outcome=outcome,
                    attempt=run.attempt,
                    began=run.began,
                    at=ended_at,
                    elapsed_us=elapsed_ns // 1000,
                    writes=tuple(writes),
                )
            )
        except JournalUnavailable as error:
            # What ran, ran: the agent gets the truth. After a restart the call is in doubt, since its end is not recorded.
            logger.error("the end of call %s is not recorded: %s", run.call.id, error)
        self._events.publish(
            CallEnded(
                at=ended_at,
                call=run.call,
                outcome=outcome,
                steps=tuple(run.steps),
                elapsed_seconds=elapsed_ns / 1e9,
                started_ns=run.started_ns,
            )
        )
        return outcome

    def _unrecorded(self, run: Running, stage: str, before_ns: int, error: JournalUnavailable) -> Refused:
        """No record, no call."""
        run.steps.append(Step(stage=stage, verdict="refuse", elapsed_us=self._since(before_ns)))
        logger.error("the journal cannot be used: %s", error)
        return Refused(
            stage=stage,
            code=Code.JOURNAL_UNAVAILABLE,
            message="The call was not made: it could not be recorded. Try again later.",
        )

    def _since(self, before_ns: int) -> int:
        return (self._now() - before_ns) // 1000


def _interrupted(run: Running) -> Outcome:
    """The outcome of a call whose task or scope was cancelled."""
    if run.attempt is not None and run.attempt.outcome is not None:
        return run.attempt.outcome
    if run.killed is not None:
        return _lost(run, Code.KILLED, f"The call was stopped: {run.killed}.")
    return _lost(run, Code.CANCELLED, "The call was cancelled.")


def _lost(run: Running, code: Code, message: str) -> Failed:
    """A failure that is in doubt where the first byte had left and the call is not idempotent."""
    sent = run.attempt is not None and run.attempt.sent
    idempotent = run.call.entry is not None and run.call.entry.idempotent
    return Failed(code=code, message=message, in_doubt=sent and not idempotent, sent=sent)
