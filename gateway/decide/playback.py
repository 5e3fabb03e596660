"""A recorded session as a tape: which recorded call answers a request, and why none does. Pure.

Theory of operation
-------------------
*Strict* order is the order that the recording shows, no more: a call is next once every call that had ended before it began
was played. So what the agent did one after another has to come one after another again, and what it did at once may come in
any order. *Loose* takes any recorded call with the same method and params. Each recorded call answers once.

Requests are compared by method and params, `_meta` apart (trace ids and progress tokens are new each time), as JSON: the
order of keys says nothing, `1` is not `1.0`. What was erased from the recorded request (`[recording] redact`) is not
compared; what stands in its place never is.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.model.verdict import Outcome

SHOWN = 3
"""How many differences a message names."""

SHOWN_CHARACTERS = 80
"""Of a value in a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """Something that the tool server said within a call: a notification, or a question with the client's answer."""

    at: float
    """Seconds since the epoch."""
    method: str
    params: Mapping[str, Any]
    answer: Mapping[str, Any] | None = None
    """`{"result": ...}` or `{"error": ...}`: it was a question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """One request of an agent and what became of it, as recorded."""

    id: str
    """The id of the call that ended it."""
    number: int
    """Its place among the session's requests, from 1."""
    method: str
    target: str
    params: Mapping[str, Any]
    """As received, without `_meta`."""
    unknown: tuple[str, ...] = ()
    """Paths below `params` that were erased before anything was written."""
    tool: str = ""
    """`server/name`, or what the agent named where nothing was resolved."""
    server: str = ""
    """Empty where nothing was resolved."""
    risk: str = "write"
    received_at: float
    ended_at: float
    outcome: Outcome | None = None
    """None where it cannot be played."""
    unplayable: str = ""
    """Why it cannot be played."""
    said: tuple[Said, ...] = ()
    """In the order in which it was said; empty where it was kept from the agent."""
    view_sha256: str = ""
    seq: int = 0
    """Of the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """The recording does not answer a request."""

    message: str


@dataclass(slots=True)
class Tape:
    """The state of one playback.

    Args:
        calls: in the order in which they were received.
        loose: any recorded call with the same method and params answers.
    """

    calls: Sequence[RecordedCall]
    loose: bool = False
    _played: set[int] = field(default_factory=set)
    _first: int = 0
    """Every call before it was played."""

    @property
    def next(self) -> RecordedCall | None:
        """The first call that was not played; None at the end."""
        return self.calls[self._first] if self._first < len(self.calls) else None

    @property
    def left(self) -> int:
        """How many calls were not played."""
        return len(self.calls) - len(self._played)

    def take(self, method: str, params: Mapping[str, Any], *, unresolved: bool = False) -> RecordedCall | Missing:
        """The recorded call that answers a request, which is then played; or why there is none.

        Args:
            unresolved: only one that named nothing that was there.
        """
        target = _target(params) or method
        for call in self._eligible():
            if call.method != method or call.target != target or (unresolved and call.server):
                continue
            if not differences(call.params, params, call.unknown):
                self._play(call)
                return call
        return Missing(message=self._why(method, params))

    def _eligible(self) -> Iterator[RecordedCall]:
        if self.loose:
            for call in self.calls:
                if call.number not in self._played:
                    # What cannot be compared at all cannot be told from another call of the same tool.
                    if "arguments" in call.unknown or "" in call.unknown:
                        continue
                    yield call
            return
        soonest_end = float("inf")
        for call in self.calls[self._first :]:
            if call.number in self._played:
                continue
            if call.received_at >= soonest_end:
                return
            soonest_end = min(soonest_end, call.ended_at)
            yield call

    def _play(self, call: RecordedCall) -> None:
        self._played.add(call.number)
        while self._first < len(self.calls) and self.calls[self._first].number in self._played:
            self._first += 1

    def _why(self, method: str, params: Mapping[str, Any]) -> str:
        """What is recorded that comes nearest, for a person who looks for the mend."""
        asked = _name(method, params)
        total = len(self.calls)
        if not total:
            return f"The recording holds no calls, so {asked} is not in it."
        alike = [call for call in self.calls if call.method == method and call.target == (_target(params) or method)]
        same = [call for call in alike if not differences(call.params, params, call.unknown)]
        waiting = self.next
        there = (
            "" if waiting is None else f" Next in the recording is call {waiting.number} of {total}, {_call(waiting)}."
        )
        if waiting is None and not self.loose:
            there = f" All {total} recorded calls were played."
        if same:
            first = next((call for call in same if call.number not in self._played), None)
            if first is None:
                times = "once" if len(same) == 1 else f"{len(same)} times"
                return f"{asked} is recorded {times}, and was played {times}.{there}"
            if self.loose:
                return f"{asked} is recorded as call {first.number}, but without its arguments, so it cannot be told which it is."
            return f"{asked} is recorded as call {first.number} of {total}, which is not next.{there}"
        if not alike:
            return f"The recording holds no call of {asked}.{there}"
        left = [call for call in alike if call.number not in self._played] or alike
        nearest = min(left, key=lambda call: len(differences(call.params, params, call.unknown)))
        parts = differences(nearest.params, params, nearest.unknown)
        more = f" and at {len(parts) - SHOWN} more places" if len(parts) > SHOWN else ""
        return (
            f"The recording holds no such call of {asked}; the nearest is call {nearest.number} of {total}, which differs: "
            f"{'; '.join(str(part) for part in parts[:SHOWN])}{more}.{'' if self.loose else there}"
        )


def _name(method: str, params: Mapping[str, Any]) -> str:
    target = _target(params)
    return f"{method} {target}" if target else method


def _call(call: RecordedCall) -> str:
    return f"{call.method} {call.target}" if call.target != call.method else call.method


def _target(params: Mapping[str, Any]) -> str:
    for member in ("name", "uri"):
        if isinstance(found := params.get(member), str):
            return found
    reference = params.get("ref")
    if isinstance(reference, Mapping):
        return str(reference.get("name") or reference.get("uri") or "")
    return ""


# --- comparing JSON values --------------------------------------------------------------------------------------------

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Difference:
    """One place at which two JSON values differ."""

    path: str
    """Keys and indexes between dots; dots within a key behind a backslash. Empty: the whole."""
    left: Any
    right: Any

    def __str__(self) -> str:
        return f"{self.path or 'the whole'} is {shown(self.left)} there and {shown(self.right)} here"


def shown(value: Any) -> str:
    """A value in a message, cut."""
    if value is _ABSENT:
        return "absent"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def plain(value: Any) -> Any:
    """A side of a difference for JSON output: None where it is absent."""
    return None if value is _ABSENT else value


def differences(left: Any, right: Any, unknown: Sequence[str] = ()) -> list[Difference]:
    """Where two JSON values differ, in the order of the left one.

    Args:
        unknown: paths (as in `Difference`) at and below which nothing is compared.
    """
    found: list[Difference] = []
    _compare(left, right, (), {split(path) for path in unknown}, found)
    return found


def split(path: str) -> tuple[str, ...]:
    """The segments of a concrete path."""
    if not path:
        return ()
    return tuple(part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", path))


def join(path: Sequence[str]) -> str:
    """The text of a path's segments."""
    return ".".join(part.replace(".", "\\.") for part in path)


def _compare(
    left: Any, right: Any, path: tuple[str, ...], unknown: set[tuple[str, ...]], found: list[Difference]
) -> None:
    if unknown:
        if path in unknown:
            return
        if isinstance(left, str) and any(each[: len(path)] == path for each in unknown):
            return  # JSON within a string, a part of which was erased
    match left, right:
        case Mapping(), Mapping():
            for key in [*left, *(key for key in right if key not in left)]:
                _compare(left.get(key, _ABSENT), right.get(key, _ABSENT), (*path, str(key)), unknown, found)
        case list() | tuple(), list() | tuple():
            for index in range(max(len(left), len(right))):
                _compare(
                    left[index] if index < len(left) else _ABSENT,
                    right[index] if index < len(right) else _ABSENT,
                    (*path, str(index)),
                    unknown,
                    found,
                )
        case _:
            if type(left) is not type(right) or left != right:
                found.append(Difference(join(path), left, right))
