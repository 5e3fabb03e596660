"""The second stage of a recording that is served: each call is answered as it was then, or refused.

There is no third stage, and no port to a tool server: what the recording does not hold is refused with `replay.missing`.
What the tool server said within the call is said again in its order, what it asked the client is asked again, and a client
that answers otherwise than it did is on another way than the recorded one, so that its call ends there.
"""

import time
from collections import deque
from collections.abc import Callable

import anyio

from gateway.decide.playback import Missing, RecordedCall, Said, Tape, differences
from gateway.model.call import Call
from gateway.model.events import CallEnded, Event
from gateway.model.refusal import Code
from gateway.model.verdict import Answer, Facts, Failed, Outcome, Refuse, Refused, Verdict
from gateway.ports import Caller, Settlement

CANCEL_SECONDS = 5.0
"""How long beyond the recorded time a call that the agent cancelled is left open for it to do so again."""


MAX_MISSING = 1000


class Playback:
    """Answers calls from tapes, one for each session of the agents.

    Args:
        tape: the tape of a session.
        caller: the agent's side of a call that is on its way.
        played: told of each recorded call once it was answered.
        timing: keep the recorded distances of what was said, and the recorded duration.
    """

    name = "playback"

    def __init__(
        self,
        *,
        tape: Callable[[str], Tape],
        caller: Callable[[str], Caller | None],
        played: Callable[[Tape], None] = lambda tape: None,
        timing: bool = False,
    ) -> None:
        self._tape, self._caller, self._played, self._timing = tape, caller, played, timing
        self.missing: deque[str] = deque(maxlen=MAX_MISSING)
        """Why each call that was not recorded was refused."""
        self._open: dict[tuple[str, int], tuple[RecordedCall, anyio.Event]] = {}
        """The recorded calls that are being played, by session and number."""

    async def admit(self, call: Call) -> Verdict:
        """The recorded outcome; refused where there is none."""
        tape = self._tape(call.session_id)
        found = tape.take(call.method, call.params)
        if isinstance(found, Missing):
            return self._refuse(found.message, {})
        key = (call.session_id, found.number)
        self._open[key] = found, anyio.Event()
        try:
            return await self._play(call, found)
        finally:
            self._open.pop(key)[1].set()
            self._played(tape)

    async def settle(self, call: Call, outcome: Outcome) -> Settlement | None:
        """Never called: this stage lets nothing through."""
        return None

    def hear(self, event: Event) -> None:
        """A call that `resolve` refused (an unknown tool) was recorded as that, too: it is played."""
        if isinstance(event, CallEnded) and isinstance(event.outcome, Refused) and event.outcome.stage == "resolve":
            tape = self._tape(event.call.session_id)
            found = tape.take(event.call.method, event.call.params, unresolved=True)
            if isinstance(found, Missing):
                self.missing.append(found.message)
            self._played(tape)

    def _refuse(self, message: str, facts: Facts) -> Refuse:
        self.missing.append(message)
        return Refuse(code=Code.REPLAY_MISSING, message=message, facts=facts)

    async def _play(self, call: Call, found: RecordedCall) -> Verdict:
        facts = {"recorded": found.id, "number": found.number}
        if found.outcome is None:
            message = f"{found.tool} is recorded as call {found.number}, and cannot be played: {found.unplayable}."
            return self._refuse(message, facts)
        began = time.monotonic()
        caller = self._caller(call.id)
        for one in found.said:
            await self._until(began, one.at - found.received_at)
            if caller is not None and (fault := await _say(caller, one)) is not None:
                return self._refuse(fault, facts)
        if isinstance(found.outcome, Failed) and found.outcome.code is Code.CANCELLED:
            # Nobody was told of this outcome: the agent had gone. It is given the time to go again.
            await anyio.sleep(found.ended_at - found.received_at + CANCEL_SECONDS)
        await self._until(began, found.ended_at - found.received_at)
        await self._in_turn(call.session_id, found)
        return Answer(outcome=found.outcome, facts=facts)

    async def _until(self, began: float, offset: float) -> None:
        """Wait until so long after the call began, if the recorded timing is wanted."""
        if self._timing and (left := began + offset - time.monotonic()) > 0:
            await anyio.sleep(left)

    async def _in_turn(self, session_id: str, found: RecordedCall) -> None:
        """Of the calls that are on their way, those answer first that did so in the recording."""
        while True:
            earlier = [
                done
                for (session, _), (other, done) in self._open.items()
                if session == session_id and other is not found and other.ended_at < found.ended_at
            ]
            if not earlier:
                return
            await earlier[0].wait()


async def _say(caller: Caller, one: Said) -> str | None:
    """Say or ask it again; what is wrong where the client's answer is another."""
    if one.answer is None:
        await caller.notify(one.method, one.params)
        return None
    answers = await caller.ask({"ask": {"method": one.method, "params": one.params}})
    answer = answers.get("ask", {})
    if not (parts := differences(one.answer, answer)):
        return None
    return (
        f"In the recording the tool server asked the client ({one.method}), and the client answers otherwise now: "
        f"{'; '.join(str(part) for part in parts[:3])}."
    )
