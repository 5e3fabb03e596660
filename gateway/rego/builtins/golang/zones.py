"""Time zones as Go's `time` reads them: TZif files of the `tzdata` package, with the rule for the years after them."""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Final

ALPHA: Final = -(1 << 63)
OMEGA: Final = (1 << 63) - 1
_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class Zone:
    """A name and offset in force."""

    name: str
    offset: int
    """Seconds east of UTC."""
    dst: bool


@dataclass(frozen=True, slots=True)
class Span:
    """What is in force from `start` to before `end`, in Unix seconds."""

    zone: Zone
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Location:
    """A time zone of the database."""

    name: str
    zones: tuple[Zone, ...]
    when: tuple[int, ...]
    """The transitions, in Unix seconds."""
    index: tuple[int, ...]
    """The zone after each transition."""
    extend: str
    """The rule of POSIX TZ for what follows the last transition."""

    def lookup(self, at: int) -> Span:
        """`Location.lookup`: what is in force at a Unix time."""
        if not self.zones:
            return Span(_UTC, ALPHA, OMEGA)
        if not self.when or at < self.when[0]:
            return Span(self.zones[self._first()], ALPHA, self.when[0] if self.when else OMEGA)
        place = bisect_right(self.when, at) - 1
        last = place == len(self.when) - 1
        if last and self.extend:
            # Times of one question lie close together, and computing a year's changes takes longer than all the rest.
            extended = _recent.get(self.extend)
            if extended is not None and extended.start <= at < extended.end and extended.start >= self.when[place]:
                return extended
            extended = _extended(self.extend, self.when[place], at)
            if extended is not None:
                _recent[self.extend] = extended
                return extended
        return Span(self.zones[self.index[place]], self.when[place], OMEGA if last else self.when[place + 1])

    def _first(self) -> int:
        if 0 not in self.index:
            return 0
        if self.when and self.zones[self.index[0]].dst:
            for place in range(self.index[0] - 1, -1, -1):
                if not self.zones[place].dst:
                    return place
        for place, zone in enumerate(self.zones):
            if not zone.dst:
                return place
        return 0


_recent: Final[dict[str, Span]] = {}
"""By the rule of a zone, what it said last."""
_UTC: Final = Zone("UTC", 0, False)
UTC: Final = Location("UTC", (), (), (), "")


def fixed(name: str, offset: int) -> Location:
    """`time.FixedZone`."""
    return Location(name, (Zone(name, offset, False),), (ALPHA,), (0,), "")


@lru_cache(maxsize=512)
def load(name: str) -> Location:
    """`time.LoadLocation` for names other than `Local`.

    Raises:
        ValueError: with Go's message.
    """
    if name in ("", "UTC"):
        return UTC
    if ".." in name or name[0] in "/\\":
        raise ValueError("time: invalid location name")
    parts = name.split("/")
    place = resources.files("tzdata") / "zoneinfo"
    for part in parts:
        if not part or not part.isascii() or "\0" in part:
            raise ValueError(f"unknown time zone {name}")
        place = place / part
    try:
        data = place.read_bytes() if place.is_file() else b""
    except OSError:
        data = b""
    if not data.startswith(b"TZif"):
        raise ValueError(f"unknown time zone {name}")
    return _parse(name, data)


def _parse(name: str, data: bytes) -> Location:
    version = data[4:5]
    header, wide = 0, False
    counts = struct.unpack_from(">6l", data, 20)
    if version in (b"2", b"3", b"4"):
        utc, std, leap, transitions, types, characters = counts
        header = 44 + transitions * 5 + types * 6 + characters + leap * 8 + std + utc
        counts = struct.unpack_from(">6l", data, header + 20)
        wide = True
    _utc, _std, leap, transitions, types, characters = counts
    at = header + 44
    when = struct.unpack_from(f">{transitions}{'q' if wide else 'l'}", data, at)
    at += transitions * (8 if wide else 4)
    index = struct.unpack_from(f">{transitions}B", data, at)
    at += transitions
    raw = [struct.unpack_from(">lBB", data, at + 6 * number) for number in range(types)]
    at += types * 6
    names = data[at : at + characters]
    at += characters + leap * (12 if wide else 8) + _std + _utc
    zones = tuple(
        Zone(names[place : names.index(b"\0", place)].decode("ascii"), offset, bool(dst)) for offset, dst, place in raw
    )
    rest = data[at:]
    extend = rest[1:-1].decode("ascii") if len(rest) > 2 and rest[:1] == b"\n" == rest[-1:] else ""
    if not when:
        when, index = (ALPHA,), (0,)
    return Location(name, zones, tuple(when), tuple(index), extend)


@dataclass(frozen=True, slots=True)
class _Rule:
    kind: str
    """`J` (1 to 365, never the 29th of February), `D` (0 to 365) or `M`."""
    day: int
    week: int
    month: int
    time: int


def _extended(text: str, last: int, at: int) -> Span | None:
    """`tzset`: what the rule says of a time after the last transition."""
    name, rest = _zone_name(text)
    offset, rest = _offset(rest)
    if not name or offset is None:
        return None
    offset = -offset
    if not rest or rest[0] == ",":
        return Span(Zone(name, offset, False), last, OMEGA)
    dst_name, rest = _zone_name(rest)
    if not dst_name:
        return None
    if not rest or rest[0] == ",":
        dst_offset = offset + 3600
    else:
        found, rest = _offset(rest)
        if found is None:
            return None
        dst_offset = -found
    rest = rest or ",M3.2.0,M11.1.0"
    if rest[0] not in ",;":
        return None
    start, rest = _rule(rest[1:])
    if start is None or not rest.startswith(","):
        return None
    end, rest = _rule(rest[1:])
    if end is None or rest:
        return None
    year, year_day, seconds = _year_parts(at)
    second_of_year = year_day * _DAY + seconds
    year_start = at - second_of_year
    starts, ends = _rule_time(year, start, offset), _rule_time(year, end, dst_offset)
    dst, standard = True, False
    if ends < starts:
        starts, ends = ends, starts
        name, dst_name = dst_name, name
        offset, dst_offset = dst_offset, offset
        dst, standard = standard, dst
    if second_of_year < starts:
        return Span(Zone(name, offset, standard), year_start, starts + year_start)
    if second_of_year >= ends:
        return Span(Zone(name, offset, standard), ends + year_start, year_start + 365 * _DAY)
    return Span(Zone(dst_name, dst_offset, dst), starts + year_start, ends + year_start)


@lru_cache(maxsize=1024)
def _zone_name(text: str) -> tuple[str, str]:
    if not text:
        return "", text
    if text[0] != "<":
        for at, char in enumerate(text):
            if char in "0123456789,-+":
                return ("", text) if at < 3 else (text[:at], text[at:])
        return ("", text) if len(text) < 3 else (text, "")
    close = text.find(">")
    return ("", text) if close < 0 else (text[1:close], text[close + 1 :])


@lru_cache(maxsize=1024)
def _offset(text: str) -> tuple[int | None, str]:
    sign = 1
    if text[:1] in ("+", "-"):
        sign = -1 if text[0] == "-" else 1
        text = text[1:]
    hours, text = _number(text, 0, 24 * 7)
    if hours is None:
        return None, text
    total = hours * 3600
    for unit in (60, 1):
        if not text.startswith(":"):
            break
        part, text = _number(text[1:], 0, 59)
        if part is None:
            return None, text
        total += part * unit
    return sign * total, text


def _number(text: str, low: int, high: int) -> tuple[int | None, str]:
    end = 0
    while end < len(text) and "0" <= text[end] <= "9":
        end += 1
    if not end or end > 6 or not low <= int(text[:end]) <= high:
        return None, text
    return int(text[:end]), text[end:]


@lru_cache(maxsize=1024)
def _rule(text: str) -> tuple[_Rule | None, str]:
    week = month = 0
    kind = "D"
    if text.startswith("J"):
        kind = "J"
        day, text = _number(text[1:], 1, 365)
    elif text.startswith("M"):
        kind = "M"
        found, text = _number(text[1:], 1, 12)
        if found is None or not text.startswith("."):
            return None, text
        month = found
        found, text = _number(text[1:], 1, 5)
        if found is None or not text.startswith("."):
            return None, text
        week = found
        day, text = _number(text[1:], 0, 6)
    else:
        day, text = _number(text, 0, 365)
    if day is None:
        return None, text
    time: int | None = 7200
    if text.startswith("/"):
        time, text = _offset(text[1:])
        if time is None:
            return None, text
    assert time is not None
    return _Rule(kind, day, week, month, time), text


@lru_cache(maxsize=4096)
def _rule_time(year: int, rule: _Rule, offset: int) -> int:
    if rule.kind == "J":
        seconds = (rule.day - 1) * _DAY
        if is_leap(year) and rule.day >= 60:
            seconds += _DAY
    elif rule.kind == "D":
        seconds = rule.day * _DAY
    else:
        first = days_from_civil(year, rule.month, 1)
        weekday = (first + 4) % 7
        day = (rule.day - weekday) % 7
        for _ in range(1, rule.week):
            if day + 7 >= days_in(rule.month, year):
                break
            day += 7
        seconds = (day + first - days_from_civil(year, 1, 1)) * _DAY
    return seconds + rule.time - offset


def is_leap(year: int) -> bool:
    """Whether a year of the proleptic Gregorian calendar has 366 days."""
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def days_in(month: int, year: int) -> int:
    """The days of a month."""
    return 29 if month == 2 and is_leap(year) else (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01, of any year; the day may lie outside its month."""
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def civil_from_days(days: int) -> tuple[int, int, int]:
    """Year, month and day of so many days since 1970-01-01."""
    days += 719_468
    era = days // 146_097
    of_era = days - era * 146_097
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    part = (5 * of_year + 2) // 153
    month = part + 3 if part < 10 else part - 9
    return year_of_era + era * 400 + (month <= 2), month, of_year - (153 * part + 2) // 5 + 1


def _year_parts(at: int) -> tuple[int, int, int]:
    days, seconds = divmod(at, _DAY)
    year = civil_from_days(days)[0]
    return year, days - days_from_civil(year, 1, 1), seconds
