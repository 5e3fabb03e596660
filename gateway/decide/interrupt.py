"""Declared interrupts, as pure functions on a small state a rule and subject: each call costs constant time.

What a rule watches for (`when`), at the moment a call arrives, the call itself included:

| kind              | met when, within the time                                                     |
|-------------------|-------------------------------------------------------------------------------|
| `identical_calls` | the same tool was called with the same arguments n times                      |
| `calls`           | n calls were made                                                             |
| `distinct_tools`  | n different tools were called                                                 |
| `first_seen_tool` | the subject has never called this tool before; with `hold`: never used it     |
| `sequence`        | calls matched the globs one after another (others may lie between), this last |
| `failures`        | n calls failed (before this one)                                              |
| `result_bytes`    | results had n bytes together (before this one)                                |
| `repeated_result` | n results in a row of different calls were the same (before this one)         |
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Literal

from gateway.decide.catalogue import matches
from gateway.model.value import Value

Kind = Literal[
    "identical_calls",
    "calls",
    "distinct_tools",
    "first_seen_tool",
    "sequence",
    "failures",
    "result_bytes",
    "repeated_result",
]
Then = Literal["deny", "hold", "pause-session", "pause-agent", "kill-session", "kill-agent"]

MAX_DIGESTS = 1000
"""Different calls that are told apart a rule and subject; the least recent are forgotten first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One `[[interrupts]]` table."""

    name: str
    kind: Kind
    count: int = 1
    """The n of the table above; bytes for `result_bytes`."""
    within_seconds: float = 60.0
    sequence: tuple[str, ...] = ()
    """Globs `server/tool`, for `sequence`."""
    per: Literal["agent", "session"] = "agent"
    then: Then = "deny"
    for_seconds: float | None = None
    """How long a pause lasts; None: until an operator resumes."""
    reason: str = ""

    @property
    def learns(self) -> bool:
        """Whether a tool is known only once it was used: a call that waits for a person's word is not yet a use."""
        return self.kind == "first_seen_tool" and self.then == "hold"


class Arrival(Value, frozen=True, kw_only=True):
    """What a rule needs to know of a call."""

    at: float
    server: str
    tool: str
    digest: bytes
    """Of tool and arguments: equal for identical calls. Empty where no rule asks for it."""


class Ending(Value, frozen=True, kw_only=True):
    """What a rule needs to know of how a call ended."""

    at: float
    failed: bool
    result_bytes: int = 0
    result_digest: bytes = b""


@dataclass(slots=True)
class Watch:
    """The state of one rule for one subject."""

    rule: Rule
    times: deque[float] = field(default_factory=deque)
    by_digest: OrderedDict[bytes, deque[float]] = field(default_factory=OrderedDict)
    tools: OrderedDict[str, float] = field(default_factory=OrderedDict)
    seen: set[str] = field(default_factory=set)
    progress: list[float] = field(default_factory=list)
    """For `sequence`: of each step that was reached, the latest time at which its first step was taken."""
    sizes: deque[tuple[float, int]] = field(default_factory=deque)
    total: int = 0
    results: deque[tuple[float, bytes]] = field(default_factory=deque)

    def arrive(self, arrival: Arrival) -> bool:
        """Take the call in; whether the rule is met by it."""
        rule, now = self.rule, arrival.at
        since = now - rule.within_seconds
        match rule.kind:
            case "identical_calls":
                times = self.by_digest.get(arrival.digest)
                if times is None:
                    times = self.by_digest[arrival.digest] = deque(maxlen=rule.count)
                self.by_digest.move_to_end(arrival.digest)
                if len(self.by_digest) > MAX_DIGESTS:
                    self.by_digest.popitem(last=False)
                times.append(now)
                return len(times) == rule.count and times[0] >= since
            case "calls":
                self.times.append(now)
                return self._recent(since) >= rule.count
            case "distinct_tools":
                tool = f"{arrival.server}/{arrival.tool}"
                self.tools[tool] = now
                self.tools.move_to_end(tool)
                while next(iter(self.tools.values())) < since:
                    self.tools.popitem(last=False)
                return len(self.tools) >= rule.count
            case "first_seen_tool":
                tool = f"{arrival.server}/{arrival.tool}"
                new = tool not in self.seen
                if not rule.learns:
                    self.seen.add(tool)
                return new
            case "sequence":
                return self._advance(arrival.server, arrival.tool, now, since)
            case "failures":
                return self._recent(since) >= rule.count
            case "result_bytes":
                while self.sizes and self.sizes[0][0] < since:
                    self.total -= self.sizes.popleft()[1]
                return self.total >= rule.count
            case "repeated_result":
                return (
                    len(self.results) == rule.count
                    and self.results[0][0] >= since
                    and len({digest for _, digest in self.results}) == 1
                )

    def end(self, ending: Ending) -> None:
        """Take in how a call ended."""
        match self.rule.kind:
            case "failures":
                if ending.failed:
                    self.times.append(ending.at)
                    self._recent(ending.at - self.rule.within_seconds)
            case "result_bytes":
                self.sizes.append((ending.at, ending.result_bytes))
                self.total += ending.result_bytes
            case "repeated_result":
                if ending.result_digest:
                    self.results.append((ending.at, ending.result_digest))
                    if len(self.results) > self.rule.count:
                        self.results.popleft()
            case _:
                pass

    def used(self, server: str, tool: str) -> None:
        """Take in that a tool was used, or may have been, for a rule that learns."""
        self.seen.add(f"{server}/{tool}")

    def _recent(self, since: float) -> int:
        """How many of `times` lie within; never more than count are kept."""
        while self.times and (self.times[0] < since or len(self.times) > self.rule.count):
            self.times.popleft()
        return len(self.times)

    def _advance(self, server: str, tool: str, now: float, since: float) -> bool:
        """One step of the sequence automaton: `progress[i]` is the latest begin of a run that has matched i+1 globs."""
        globs = self.rule.sequence
        if len(self.progress) != len(globs):
            self.progress = [float("-inf")] * len(globs)
        for index in range(len(globs) - 1, -1, -1):
            if not matches(globs[index], server, tool):
                continue
            begun = now if index == 0 else self.progress[index - 1]
            if begun >= since:
                self.progress[index] = max(self.progress[index], begun)
                if index == len(globs) - 1:
                    self.progress[index] = float("-inf")
                    return True
        return False
