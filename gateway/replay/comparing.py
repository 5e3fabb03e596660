"""What came of a call then and now, and two sessions next to each other: the places at which they differ."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.adapters import records
from gateway.decide.obligations import redact
from gateway.decide.playback import Difference, RecordedCall, differences
from gateway.model.verdict import Completed, Failed, Held, Outcome, Refused


def said(outcome: Outcome | None) -> Mapping[str, Any] | None:
    """An outcome as a document: `{result}`, `{error}` or `{refused}` with the code; None where it is not known."""
    match outcome:
        case None:
            return None
        case Completed(result=bytes(result)):
            return {"result": records.load(result)}
        case Completed(error=bytes(error)):
            return {"error": records.load(error)}
        case Refused(data=Mapping() as data):
            return {"error": {"code": data["code"], "message": data["message"]}}
        case Refused() | Failed():
            return {"refused": outcome.code.value}
        case Held():
            return {"refused": "hold.pending"}
        case _:
            return None


def parted(left: Any, right: Any, ignored: Sequence[str] = ()) -> list[Difference]:
    """Where two documents differ, but for what the path globs name.

    Raises:
        GlobError: a glob cannot be read.
    """
    if ignored:
        globs = [*ignored, *(f"*.{glob}" for glob in ignored), *(f"**.text.{glob}" for glob in ignored)]
        left, right = redact(left, globs)[0], redact(right, globs)[0]
    return differences(left, right)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """One place at which two sessions are not the same."""

    number: int
    """The place among the calls, from 1."""
    what: str
    """`call` (another tool or method), `arguments`, `result`, or `end` (one of the sessions has no such call)."""
    left: str
    """What the first session has there, in short."""
    right: str
    differences: tuple[Difference, ...] = ()


def partings(
    left: Sequence[RecordedCall], right: Sequence[RecordedCall], ignored: Sequence[str] = ()
) -> Iterator[Parting]:
    """Where two runs part, in order. After another call or an end nothing further is compared: they are on different ways.

    What was erased on either side is not compared.
    """
    for number, (one, other) in enumerate(zip(left, right, strict=False), start=1):
        if (one.method, one.tool) != (other.method, other.tool):
            yield Parting(number=number, what="call", left=_short(one), right=_short(other))
            return
        unknown = (*one.unknown, *other.unknown)
        if parts := differences(_shown(one, ignored), _shown(other, ignored), unknown):
            yield Parting(
                number=number, what="arguments", left=_short(one), right=_short(other), differences=tuple(parts)
            )
        before, after = said(one.outcome), said(other.outcome)
        if before is None or after is None:
            continue
        if parts := parted(before, after, ignored):
            yield Parting(number=number, what="result", left=_short(one), right=_short(other), differences=tuple(parts))
    if len(left) != len(right):
        number = min(len(left), len(right)) + 1
        longer = left if len(left) > len(right) else right
        there, nothing = _short(longer[number - 1]), "no further call"
        first, second = (there, nothing) if longer is left else (nothing, there)
        yield Parting(number=number, what="end", left=first, right=second)


def _shown(call: RecordedCall, ignored: Sequence[str]) -> Any:
    if not ignored:
        return call.params
    return redact(call.params, [*ignored, *(f"arguments.{glob}" for glob in ignored)])[0]


def _short(call: RecordedCall) -> str:
    return call.tool if call.method == "tools/call" else f"{call.method} {call.target}"
