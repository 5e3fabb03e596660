"""The kinds of values that `servers.toml` writes as strings: durations, sizes, windows, globs, names."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, StringConstraints, WithJsonSchema

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
CalendarUnit = Literal["hour", "day", "week", "month"]
_CALENDAR: dict[str, CalendarUnit] = {"hour": "hour", "day": "day", "week": "week", "month": "month"}


def parse_duration(value: Any) -> Any:
    """`"90s"`, `"15m"`, `"1h"`, `"30d"` to seconds.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(value, str) or not (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)", value.strip())):
        raise ValueError(f'{value!r} is not a duration; write a number and ms, s, m, h, d or w, as in "15m"')
    return float(match[1]) * _UNITS[match[2]]


def parse_size(value: Any) -> Any:
    """`"10GiB"`, `"500MB"` or a number of bytes to bytes.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if not isinstance(value, str) or not (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)", value.strip())):
        raise ValueError(
            f'{value!r} is not a size; write bytes, or a number and KiB, MiB, GiB, KB, MB, GB, as in "10GiB"'
        )
    return int(float(match[1]) * _SIZES[match[2]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rolling:
    """The last so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """The current hour, day, ISO week or month, in one time zone."""

    unit: CalendarUnit
    zone: str
    """An IANA name, as `Europe/Berlin`."""


def parse_window(value: Any) -> Any:
    """`"1h"` (rolling) or `"day@Europe/Berlin"` (calendar).

    Raises:
        ValueError: neither, or an unknown zone.
    """
    if isinstance(value, Rolling | Calendar):
        return value
    if isinstance(value, str) and "@" in value:
        unit, _, zone = value.partition("@")
        if unit not in _CALENDAR:
            raise ValueError(f"{value!r}: before the @ stands one of {', '.join(_CALENDAR)}")
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f'{value!r}: {zone!r} is no time zone; write one as "Europe/Berlin"') from None
        return Calendar(unit=_CALENDAR[unit], zone=zone)
    try:
        seconds = parse_duration(value)
    except ValueError:
        raise ValueError(f'{value!r} is not a window; write "1h" (rolling) or "day@Europe/Berlin" (calendar)') from None
    if seconds <= 0:
        raise ValueError(f"{value!r}: a window is longer than nothing")
    return Rolling(seconds=seconds)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    """A glob as a pattern: `**` is any text, `*` any text without `/`, `?` one character other than `/`."""
    out = []
    at = 0
    while at < len(pattern):
        if pattern.startswith("**", at):
            out.append(".*")
            at += 2
        elif pattern[at] == "*":
            out.append("[^/]*")
            at += 1
        elif pattern[at] == "?":
            out.append("[^/]")
            at += 1
        else:
            out.append(re.escape(pattern[at]))
            at += 1
    return re.compile("".join(out), re.DOTALL)


def glob_matches(pattern: str, text: str) -> bool:
    """Does `text` match the glob `pattern` as a whole? `*` stops at `/`, `**` does not, `?` is one character."""
    return _compiled(pattern).fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class ItemGlob:
    """What `allow` and `deny` of a server hold: `git_*` for tools, `resource:**`, `prompt:review-*`."""

    type: Literal["tool", "prompt", "resource"]
    pattern: str

    @classmethod
    def parse(cls, text: str) -> "ItemGlob":
        for kind in ("resource", "prompt"):
            if text.startswith(kind + ":"):
                return cls(kind, text.removeprefix(kind + ":"))
        return cls("tool", text)

    def matches(self, type: str, name: str) -> bool:
        return type == self.type and glob_matches(self.pattern, name)

    def __str__(self) -> str:
        return self.pattern if self.type == "tool" else f"{self.type}:{self.pattern}"


@dataclass(frozen=True, slots=True)
class ToolGlob:
    """`server/tool` with globs in both parts; the second part may be `resource:…` or `prompt:…`. `*` alone is `*/*`."""

    server: str
    item: ItemGlob

    @classmethod
    def parse(cls, text: str) -> "ToolGlob":
        """
        Raises:
            ValueError: there is no `/`, or nothing on one side of it.
        """
        if text == "*":
            return cls("*", ItemGlob("tool", "*"))
        server, slash, item = text.partition("/")
        if not (server and slash and item):
            raise ValueError(f'{text!r} does not name a tool; write "server/tool", as in "git/git_*"')
        return cls(server, ItemGlob.parse(item))

    def matches(self, server: str, name: str, type: str = "tool") -> bool:
        return glob_matches(self.server, server) and self.item.matches(type, name)

    def __str__(self) -> str:
        return f"{self.server}/{self.item}"


def _written_tool_glob(value: Any) -> Any:
    if isinstance(value, str):
        ToolGlob.parse(value)
    return value


Duration = Annotated[float, BeforeValidator(parse_duration), WithJsonSchema({"type": "string", "title": "duration"})]
"""Seconds, written `"15m"`."""

Size = Annotated[int, BeforeValidator(parse_size), WithJsonSchema({"type": "string", "title": "size"})]
"""Bytes, written `"10GiB"`."""

Window = Annotated[
    Rolling | Calendar, BeforeValidator(parse_window), WithJsonSchema({"type": "string", "title": "window"})
]
"""Written `"1h"` or `"day@Europe/Berlin"`."""

ToolPattern = Annotated[
    str, BeforeValidator(_written_tool_glob), WithJsonSchema({"type": "string", "title": "server/tool"})
]
"""A `ToolGlob` as written."""

SERVER_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
AGENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
RULE_NAME = re.compile(r"[a-z0-9-]{1,40}")

RuleName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,40}$")]
NonEmpty = Annotated[str, StringConstraints(min_length=1)]
