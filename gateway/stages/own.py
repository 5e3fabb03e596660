"""Answers calls of the gateway's own tools, for `resolve`: they go to no tool server, and no policy is asked about them."""

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet

import orjson

from gateway.decide.hold import Hold
from gateway.decide.own import HOLDS, told
from gateway.model.call import Call, Principal
from gateway.model.refusal import Code
from gateway.model.verdict import Answer, Completed, Refuse, Verdict
from gateway.stages.validate import argument_problems, listing


class OwnTools:
    """The gateway's own tools over the book of holds.

    Args:
        holds: every hold, newest first, as time has left it.
        had: the principals that ever had one.
        kept: whether the outcome of a hold's call is kept for this session, should it call again: hold id, session id.
    """

    def __init__(
        self, holds: Callable[[], Iterator[Hold]], had: AbstractSet[str], kept: Callable[[str, str], bool]
    ) -> None:
        self._holds, self._had, self._kept = holds, had, kept

    def offered(self, principal: Principal) -> tuple[str, ...]:
        """The names of the own tools that this principal is shown."""
        return (HOLDS,) if principal.id in self._had else ()

    def answer(self, call: Call) -> Verdict:
        """The outcome of a call that `resolve` found to be of an own tool."""
        if problems := argument_problems(call):
            return Refuse(
                code=Code.SCHEMA_INVALID,
                message=f"The arguments of {call.target} do not meet its schema. Mend and call again:\n{listing(problems)}",
                facts={"problems": [{"path": problem.path, "message": problem.message} for problem in problems]},
                call=call,
            )
        said = told(
            self._holds(),
            call.principal.id,
            (call.arguments or {}).get("id"),
            kept=lambda hold_id: self._kept(hold_id, call.session_id),
        )
        text = orjson.dumps(said)
        result = {
            "content": [{"type": "text", "text": text.decode()}],
            "structuredContent": said,
            "isError": False,
        }
        return Answer(outcome=Completed(result=orjson.dumps(result), source="gateway"), call=call)
