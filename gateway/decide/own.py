"""The gateway's own tools, which stand beside those of the tool servers: pure descriptions and pure answers.

`gateway__holds` tells an agent what became of the calls of its own that had to wait for a person. It is offered to agents
that have had a hold, and to nobody else. It decides and changes nothing.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Final

import rfc8785

from gateway.decide.hold import Hold, HoldState
from gateway.decide.schema import compile_schema
from gateway.model.call import Risk, TargetType
from gateway.model.snapshot import Entry

SERVER: Final = "gateway"
"""The reserved server name that the gateway's own tools have in records and refusals."""

HOLDS: Final = "gateway__holds"

MAX_TOLD: Final = 50
"""Holds in one answer, the newest first."""

_STRING: Final = {"type": "string"}

_HOLDS: Final[dict[str, Any]] = {
    "name": HOLDS,
    "title": "Your calls that wait for approval",
    "description": (
        "Tells what became of your own calls that a person has to approve: which wait, which were approved or denied, by whom "
        "and with what comment, and what to do next. It changes nothing. To use an approval, call the approved tool again with "
        "exactly the same arguments."
    ),
    "inputSchema": {
        "type": "object",
        "properties": {"id": {"type": "string", "description": "One hold; absent: all of yours, the newest first."}},
        "additionalProperties": False,
    },
    "outputSchema": {
        "type": "object",
        "required": ["holds"],
        "properties": {
            "holds": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["id", "tool", "state", "opened_at", "expires_at", "why", "next"],
                    "properties": {
                        "id": _STRING,
                        "tool": _STRING,
                        "arguments": {"description": "As you sent them."},
                        "state": {"enum": [str(state) for state in HoldState]},
                        "opened_at": {"type": "number", "description": "Seconds since the epoch, as all times here."},
                        "expires_at": {"type": "number"},
                        "valid_until": {"type": "number", "description": "Until when an approval can be used."},
                        "why": _STRING,
                        "decisions": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "operator": _STRING,
                                    "approved": {"type": "boolean"},
                                    "at": {"type": "number"},
                                    "comment": _STRING,
                                },
                            },
                        },
                        "next": {"type": "string", "description": "What to do."},
                    },
                },
            }
        },
    },
    "annotations": {"readOnlyHint": True, "idempotentHint": True, "openWorldHint": False},
}

HOLDS_ENTRY: Final = Entry(
    type=TargetType.TOOL,
    server=SERVER,
    name="holds",
    exposed=HOLDS,
    definition=_HOLDS,
    definition_sha256=hashlib.sha256(rfc8785.dumps(_HOLDS)).hexdigest(),
    risk=Risk.READ,
    idempotent=True,
    annotations=_HOLDS["annotations"],
    arguments=compile_schema(_HOLDS["inputSchema"], undeclared="refuse"),
)

ENTRIES: Final = {HOLDS: HOLDS_ENTRY}
"""The gateway's own tools by their name towards agents."""

_NEXT: Final = {
    HoldState.PENDING: "Nobody has decided yet. Tell the user that it waits; ask again later, or call the tool again with the same arguments.",
    HoldState.APPROVED: "Approved. Call the tool again with exactly the same arguments; it runs once.",
    HoldState.DENIED: "Denied. Do not call it again; tell the user.",
    HoldState.EXPIRED: "Nobody decided in time. Calling the tool again asks again.",
    HoldState.CLAIMED: "It runs now, and its outcome goes to the call that runs. To be given it here as well, call the tool again with the same arguments.",
    HoldState.DONE: "It ran, and its outcome was given to you. Calling the tool again asks again.",
    HoldState.VOID: "What would have run was not what was approved. Calling the tool again asks again.",
    HoldState.LAPSED: "The approval was not used in time. Calling the tool again asks again.",
}


_KEPT: Final = (
    "It ran, and its outcome is kept for you. Call the tool again with the same arguments: you are given it once."
)


def told(
    holds: Iterable[Hold], principal: str, wanted: str | None = None, *, kept: Callable[[str], bool]
) -> dict[str, Any]:
    """What the tool answers: the holds of this principal and of nobody else, as time has left them.

    Args:
        holds: newest first.
        wanted: the one hold that was asked for; another principal's is not there.
        kept: whether the outcome of a hold's call, by its id, is kept for whoever calls again.
    """
    own = (hold for hold in holds if hold.principal == principal and (wanted is None or hold.id == wanted))
    return {"holds": [_told(hold, kept(hold.id)) for hold, _ in zip(own, range(MAX_TOLD), strict=False)]}


def _told(hold: Hold, kept: bool) -> dict[str, Any]:
    said: dict[str, Any] = {
        "id": hold.id,
        "tool": f"{hold.server}/{hold.tool}",
        "arguments": hold.received,
        "state": str(hold.state),
        "opened_at": hold.opened_at,
        "expires_at": hold.expires_at,
        "why": "; ".join(reason.reason or reason.code for reason in hold.reasons),
        "decisions": [
            {"operator": word.operator, "approved": word.approve, "at": word.at, "comment": word.comment}
            for word in hold.decisions
        ],
        "next": _KEPT if hold.state is HoldState.DONE and kept else _NEXT[hold.state],
    }
    if hold.valid_until is not None:
        said["valid_until"] = hold.valid_until
    return said
