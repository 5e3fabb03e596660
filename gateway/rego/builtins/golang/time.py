"""Go's `time`: instants in a location, layouts (`Mon Jan _2 15:04:05 2006`), durations.

The process's own zone counts as UTC, so that results do not depend on where they are computed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from gateway.rego.builtins.golang import zones
from gateway.rego.builtins.golang.zones import UTC, Location, civil_from_days, days_from_civil, days_in, is_leap

NANOSECONDS: Final = 1_000_000_000

LAYOUTS: Final = {
    "ANSIC": "Mon Jan _2 15:04:05 2006",
    "UnixDate": "Mon Jan _2 15:04:05 MST 2006",
    "RubyDate": "Mon Jan 02 15:04:05 -0700 2006",
    "RFC822": "02 Jan 06 15:04 MST",
    "RFC822Z": "02 Jan 06 15:04 -0700",
    "RFC850": "Monday, 02-Jan-06 15:04:05 MST",
    "RFC1123": "Mon, 02 Jan 2006 15:04:05 MST",
    "RFC1123Z": "Mon, 02 Jan 2006 15:04:05 -0700",
    "RFC3339": "2006-01-02T15:04:05Z07:00",
    "RFC3339Nano": "2006-01-02T15:04:05.999999999Z07:00",
}
"""The layouts that OPA knows by name."""

_LONG_DAYS: Final = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_SHORT_DAYS: Final = tuple(name[:3] for name in _LONG_DAYS)
_LONG_MONTHS: Final = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_SHORT_MONTHS: Final = tuple(name[:3] for name in _LONG_MONTHS)


@dataclass(frozen=True, slots=True)
class Time:
    """An instant, and the zone it is read in."""

    ns: int
    """Nanoseconds since the epoch; of any size."""
    location: Location

    def zone(self) -> zones.Zone:
        return self.location.lookup(self.ns // NANOSECONDS).zone

    def _local(self) -> tuple[int, int]:
        return divmod(self.ns // NANOSECONDS + self.zone().offset, 86_400)

    def date(self) -> tuple[int, int, int]:
        """Year, month, day."""
        return civil_from_days(self._local()[0])

    def clock(self) -> tuple[int, int, int]:
        """Hour, minute, second."""
        seconds = self._local()[1]
        return seconds // 3600, seconds // 60 % 60, seconds % 60

    def weekday(self) -> str:
        return _LONG_DAYS[(self._local()[0] + 4) % 7]

    def format(self, layout: str) -> str:
        """`Time.Format`."""
        return _format(self, layout)


def date(
    year: int, month: int, day: int, hour: int, minute: int, second: int, nanosecond: int, location: Location
) -> Time:
    """`time.Date`: every part may be outside its range."""
    years, month_index = divmod(month - 1, 12)
    days = days_from_civil(year + years, month_index + 1, 1) + day - 1
    unix = days * 86_400 + hour * 3600 + minute * 60 + second + nanosecond // NANOSECONDS
    span = location.lookup(unix)
    offset = span.zone.offset
    if offset:
        utc = unix - offset
        if utc < span.start or utc >= span.end:
            offset = location.lookup(utc).zone.offset
        unix -= offset
    return Time(unix * NANOSECONDS + nanosecond % NANOSECONDS, location)


# Layouts

_DIGIT_ITEMS: Final = {"1": "zero_month", "2": "zero_day", "3": "zero_hour12", "4": "zero_minute", "5": "zero_second"}


@dataclass(frozen=True, slots=True)
class _Item:
    prefix: str
    """The literal text before it."""
    kind: str
    """What it stands for; empty at the end of the layout."""
    text: str = ""
    """Itself, as in the layout."""


def _next(layout: str, at: int) -> tuple[str, int, int]:
    """The kind of the first layout element from `at` on, its start and its end."""
    size = len(layout)
    for i in range(at, size):
        match layout[i]:
            case "J":
                if layout.startswith("January", i):
                    return "long_month", i, i + 7
                if layout.startswith("Jan", i) and not _lower_at(layout, i + 3):
                    return "month", i, i + 3
            case "M":
                if layout.startswith("Monday", i):
                    return "long_weekday", i, i + 6
                if layout.startswith("Mon", i) and not _lower_at(layout, i + 3):
                    return "weekday", i, i + 3
                if layout.startswith("MST", i):
                    return "tz", i, i + 3
            case "0":
                following = layout[i + 1 : i + 2]
                if following and following in "123456":
                    return ("year" if following == "6" else _DIGIT_ITEMS[following]), i, i + 2
                if layout.startswith("002", i):
                    return "zero_yearday", i, i + 3
            case "1":
                return ("hour", i, i + 2) if layout.startswith("15", i) else ("num_month", i, i + 1)
            case "2":
                return ("long_year", i, i + 4) if layout.startswith("2006", i) else ("day", i, i + 1)
            case "_":
                if layout.startswith("_2006", i):
                    return "long_year", i + 1, i + 5
                if layout.startswith("_2", i):
                    return "under_day", i, i + 2
                if layout.startswith("__2", i):
                    return "under_yearday", i, i + 3
            case "3":
                return "hour12", i, i + 1
            case "4":
                return "minute", i, i + 1
            case "5":
                return "second", i, i + 1
            case "P" | "p":
                if layout.startswith(("PM", "pm"), i):
                    return layout[i : i + 2], i, i + 2
            case "-" | "Z":
                for zone in ("070000", "07:00:00", "0700", "07:00", "07"):
                    if layout.startswith(zone, i + 1):
                        return layout[i] + zone, i, i + 1 + len(zone)
            case "." | ",":
                digit = layout[i + 1 : i + 2]
                if digit and digit in "09":
                    end = i + 1
                    while end < size and layout[end] == digit:
                        end += 1
                    if not _digit_at(layout, end):
                        return "fraction" + digit, i, end
            case _:
                pass
    return "", size, size


def _lower_at(text: str, at: int) -> bool:
    return at < len(text) and "a" <= text[at] <= "z"


def _digit_at(text: str, at: int) -> bool:
    return at < len(text) and "0" <= text[at] <= "9"


@lru_cache(maxsize=256)
def _items(layout: str) -> tuple[_Item, ...]:
    out: list[_Item] = []
    at = 0
    while True:
        kind, start, end = _next(layout, at)
        out.append(_Item(layout[at:start], kind, layout[start:end]))
        if not kind:
            return tuple(out)
        at = end


def _signed(number: int, width: int) -> str:
    return ("-" if number < 0 else "") + str(abs(number)).rjust(width, "0")


def _format(time: Time, layout: str) -> str:
    zone = time.zone()
    year, month, day = time.date()
    hour, minute, second = time.clock()
    year_day = days_from_civil(year, month, day) - days_from_civil(year, 1, 1) + 1
    out: list[str] = []
    for item in _items(layout):
        out.append(item.prefix)
        match item.kind:
            case "":
                break
            case "year":
                out.append(_signed(abs(year) % 100, 2))
            case "long_year":
                out.append(_signed(year, 4))
            case "month":
                out.append(_SHORT_MONTHS[month - 1])
            case "long_month":
                out.append(_LONG_MONTHS[month - 1])
            case "num_month":
                out.append(str(month))
            case "zero_month":
                out.append(f"{month:02}")
            case "weekday":
                out.append(time.weekday()[:3])
            case "long_weekday":
                out.append(time.weekday())
            case "day":
                out.append(str(day))
            case "under_day":
                out.append(f"{day:2}")
            case "zero_day":
                out.append(f"{day:02}")
            case "under_yearday":
                out.append(f"{year_day:3}")
            case "zero_yearday":
                out.append(f"{year_day:03}")
            case "hour":
                out.append(f"{hour:02}")
            case "hour12":
                out.append(str(hour % 12 or 12))
            case "zero_hour12":
                out.append(f"{hour % 12 or 12:02}")
            case "minute":
                out.append(str(minute))
            case "zero_minute":
                out.append(f"{minute:02}")
            case "second":
                out.append(str(second))
            case "zero_second":
                out.append(f"{second:02}")
            case "PM":
                out.append("PM" if hour >= 12 else "AM")
            case "pm":
                out.append("pm" if hour >= 12 else "am")
            case "tz":
                out.append(zone.name or _offset_text("-0700", zone.offset))
            case "fraction0" | "fraction9":
                out.append(_fraction(time.ns % NANOSECONDS, item.text, trim=item.kind == "fraction9"))
            case kind:
                out.append(_offset_text(kind, zone.offset))
    return "".join(out)


def _offset_text(kind: str, offset: int) -> str:
    if kind[0] == "Z" and offset == 0:
        return "Z"
    # Go divides the signed offset by 60 towards zero, and prints `+00` for what is less than a minute west.
    minutes = int(offset / 60)
    sign = "-" if minutes < 0 else "+"
    seconds = -offset if minutes < 0 else offset
    minutes = abs(minutes)
    parts = [f"{minutes // 60:02}"]
    if len(kind) > 3:
        parts.append(f"{minutes % 60:02}")
    if kind.count("00") == 2 or kind == "-070000" or kind == "Z070000":
        parts.append(f"{int(seconds - int(seconds / 60) * 60):02}")
    return sign + (":" if ":" in kind else "").join(parts)


def _fraction(nanosecond: int, text: str, *, trim: bool) -> str:
    digits = len(text) - 1
    if trim and nanosecond == 0:
        return ""
    shown = f"{nanosecond:09}"[: min(digits, 9)]
    if trim:
        shown = shown.rstrip("0")
        return text[0] + shown if shown else ""
    return text[0] + shown


# Parsing


class ParseError(ValueError):
    """A value does not fit its layout; the message is Go's."""


class _Bad(Exception):
    pass


def quote(text: str) -> str:
    """The quoting of package `time`: every byte outside ASCII as `\\x..`."""
    out = ['"']
    for char in text:
        if char >= "\x80" or char < " ":
            out.extend(f"\\x{byte:02x}" for byte in char.encode())
        else:
            out.append("\\" + char if char in '"\\' else char)
    return "".join(out) + '"'


def _failure(layout: str, value: str, element: str, rest: str, message: str = "") -> ParseError:
    if message:
        return ParseError(f"parsing time {quote(value)}{message}")
    return ParseError(f"parsing time {quote(value)} as {quote(layout)}: cannot parse {quote(rest)} as {quote(element)}")


_RFC3339: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]+)?(?:Z|([-+])([0-9]{2}):([0-9]{2}))"
)


def _parse_rfc3339(value: str) -> Time | None:
    found = _RFC3339.fullmatch(value)
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(found[group]) for group in range(1, 7))
    if not (1 <= month <= 12 and 1 <= day <= days_in(month, year) and hour < 24 and minute < 60 and second < 60):
        return None
    nanosecond = int(found[7][1:10].ljust(9, "0")) if found[7] else 0
    offset = 0
    if found[8]:
        if int(found[9]) > 23 or int(found[10]) > 59:
            return None
        offset = (int(found[9]) * 60 + int(found[10])) * 60 * (-1 if found[8] == "-" else 1)
    return date(year, month, day, hour, minute, second - offset, nanosecond, UTC)


def parse(layout: str, value: str) -> Time:
    """`time.Parse`. Raises ParseError."""
    if layout in (LAYOUTS["RFC3339"], LAYOUTS["RFC3339Nano"]):
        quick = _parse_rfc3339(value)
        if quick is not None:
            return quick
    return _Parser(layout, value).parse()


class _Parser:
    def __init__(self, layout: str, value: str) -> None:
        self.layout, self.whole, self.value = layout, value, value
        self.range = ""
        self.am = self.pm = False
        self.year = self.hour = self.minute = self.second = self.nanosecond = 0
        self.month = self.day = self.year_day = -1
        self.utc = False
        self.offset: int | None = None
        self.zone = ""

    def skip(self, prefix: str) -> None:
        value, at, i = self.value, 0, 0
        while i < len(prefix):
            if prefix[i] == " ":
                if at < len(value) and value[at] != " ":
                    self.value = value[at:]
                    raise _Bad
                while i < len(prefix) and prefix[i] == " ":
                    i += 1
                while at < len(value) and value[at] == " ":
                    at += 1
                continue
            if at >= len(value) or value[at] != prefix[i]:
                self.value = value[at:]
                raise _Bad
            i += 1
            at += 1
        self.value = value[at:]

    def number(self, *, fixed: bool) -> int:
        value = self.value
        if not _digit_at(value, 0) or (fixed and not _digit_at(value, 1)):
            raise _Bad
        size = 2 if _digit_at(value, 1) else 1
        self.value = value[size:]
        return int(value[:size])

    def lookup(self, names: tuple[str, ...]) -> int:
        for at, name in enumerate(names):
            head = self.value[: len(name)]
            if len(head) == len(name) and head.isascii() and head.lower() == name.lower():
                self.value = self.value[len(name) :]
                return at
        raise _Bad

    def take(self, count: int) -> str:
        # Go counts bytes; what is not ASCII fails either way.
        if len(self.value.encode()) < count or len(self.value) < count:
            raise _Bad
        head, self.value = self.value[:count], self.value[count:]
        return head

    def parse(self) -> Time:
        items = _items(self.layout)
        for place, item in enumerate(items):
            try:
                self.skip(item.prefix)
            except _Bad:
                raise _failure(self.layout, self.whole, item.prefix, self.value) from None
            if not item.kind:
                if self.value:
                    message = f": extra text: {quote(self.value)}"
                    raise _failure(self.layout, self.whole, "", self.value, message)
                break
            hold = self.value
            try:
                self.element(item, items[place + 1].kind)
            except _Bad:
                if not self.range:
                    raise _failure(self.layout, self.whole, item.text, hold) from None
            if self.range:
                message = f": {self.range} out of range"
                raise _failure(self.layout, self.whole, item.text, self.value, message)
        return self.finish()

    def element(self, item: _Item, following: str) -> None:
        match item.kind:
            case "year":
                two = _integer(self.take(2))
                self.year = two + (1900 if two >= 69 else 2000)
            case "long_year":
                if not _digit_at(self.value, 0):
                    raise _Bad
                self.year = _integer(self.take(4))
            case "month":
                self.month = self.lookup(_SHORT_MONTHS) + 1
            case "long_month":
                self.month = self.lookup(_LONG_MONTHS) + 1
            case "num_month" | "zero_month":
                self.month = self.number(fixed=item.kind == "zero_month")
                if not 1 <= self.month <= 12:
                    self.range = "month"
            case "weekday":
                self.lookup(_SHORT_DAYS)
            case "long_weekday":
                self.lookup(_LONG_DAYS)
            case "day" | "under_day" | "zero_day":
                if item.kind == "under_day" and self.value.startswith(" "):
                    self.value = self.value[1:]
                self.day = self.number(fixed=item.kind == "zero_day")
            case "under_yearday" | "zero_yearday":
                self.yearday(under=item.kind == "under_yearday")
            case "hour":
                self.hour = self.number(fixed=False)
                if self.hour >= 24:
                    self.range = "hour"
            case "hour12" | "zero_hour12":
                self.hour = self.number(fixed=item.kind == "zero_hour12")
                if self.hour > 12:
                    self.range = "hour"
            case "minute" | "zero_minute":
                self.minute = self.number(fixed=item.kind == "zero_minute")
                if self.minute >= 60:
                    self.range = "minute"
            case "second" | "zero_second":
                self.seconds(item, following)
            case "PM" | "pm":
                half = self.take(2)
                if half not in (("PM", "AM") if item.kind == "PM" else ("pm", "am")):
                    raise _Bad
                self.pm, self.am = self.pm or half.lower() == "pm", self.am or half.lower() == "am"
            case "tz":
                self.abbreviation()
            case "fraction0":
                self.fraction(len(item.text))
            case "fraction9":
                if len(self.value) >= 2 and self.value[0] in ".," and _digit_at(self.value, 1):
                    self.fraction(1 + _digits(self.value, 1))
            case kind:
                self.numeric_zone(kind)

    def yearday(self, *, under: bool) -> None:
        for _ in range(2):
            if under and self.value.startswith(" "):
                self.value = self.value[1:]
        size = min(3, _digits(self.value, 0))
        if size == 0 or (not under and size != 3):
            raise _Bad
        self.year_day, self.value = int(self.value[:size]), self.value[size:]

    def seconds(self, item: _Item, following: str) -> None:
        self.second = self.number(fixed=item.kind == "zero_second")
        if self.second >= 60:
            self.range = "second"
            return
        # A fraction may follow the seconds where the layout has none.
        value = self.value
        if len(value) >= 2 and value[0] in ".," and _digit_at(value, 1) and not following.startswith("fraction"):
            self.fraction(1 + _digits(value, 1))

    def fraction(self, size: int) -> None:
        value = self.value
        if len(value) < size or value[0] not in ".,":
            raise _Bad
        digits = value[1 : min(size, 10)]
        number = _integer(digits)
        self.value = value[size:]
        if number < 0:
            self.range = "fractional second"
            return
        self.nanosecond = number * 10 ** (9 - len(digits))

    def abbreviation(self) -> None:
        value = self.value
        if value.startswith("UTC"):
            self.utc, self.value = True, value[3:]
            return
        size = _abbreviation_length(value)
        if size == 0:
            raise _Bad
        self.zone, self.value = value[:size], value[size:]

    def numeric_zone(self, kind: str) -> None:
        value = self.value
        if kind[0] == "Z" and value.startswith("Z"):
            self.utc, self.value = True, value[1:]
            return
        shape = kind[1:]
        size = len(kind)
        if len(value) < size:
            raise _Bad
        for at, char in enumerate(shape, 1):
            if char == ":" and value[at] != ":":
                raise _Bad
        text, self.value = value[:size], value[size:]
        step = 3 if ":" in shape else 2
        fields = [text[at : at + 2] for at in range(1, size, step)]
        bad = False
        numbers = [0, 0, 0]
        for at, field in enumerate(fields):
            if len(field) != 2 or not (_digit_at(field, 0) and _digit_at(field, 1)):
                bad = True
                break
            numbers[at] = int(field)
        hours, minutes, seconds = numbers
        for number, limit, name in ((hours, 24, "hour"), (minutes, 60, "minute"), (seconds, 60, "second")):
            if number > limit:
                self.range = f"time zone offset {name}"
        self.offset = (hours * 60 + minutes) * 60 + seconds
        if text[0] == "-":
            self.offset = -self.offset
        elif text[0] != "+":
            bad = True
        if bad:
            raise _Bad

    def finish(self) -> Time:
        if self.pm and self.hour < 12:
            self.hour += 12
        elif self.am and self.hour == 12:
            self.hour = 0
        if self.year_day >= 0:
            self.from_year_day()
        else:
            self.month = 1 if self.month < 0 else self.month
            self.day = 1 if self.day < 0 else self.day
        if not 1 <= self.day <= days_in(self.month, self.year):
            raise self.inconsistent("day out of range")
        parts = (self.year, self.month, self.day, self.hour, self.minute, self.second, self.nanosecond)
        time = date(*parts, UTC)
        if self.utc:
            return time
        if self.offset is not None and self.offset != -1:
            location = UTC if self.offset == 0 and self.zone in ("", "UTC") else zones.fixed(self.zone, self.offset)
            return Time(time.ns - self.offset * NANOSECONDS, location)
        if self.zone:
            offset = 0
            if len(self.zone) > 3 and self.zone.startswith("GMT"):
                offset = int(self.zone[3:]) * 3600
            # The offset is how Go prints the time again; it does not move the instant.
            return Time(time.ns, zones.fixed(self.zone, offset))
        return time

    def from_year_day(self) -> None:
        day_of_year, month, day = self.year_day, 0, 0
        if is_leap(self.year):
            if day_of_year == 60:
                month, day = 2, 29
            elif day_of_year > 60:
                day_of_year -= 1
        if not 1 <= day_of_year <= 365:
            raise self.inconsistent("day-of-year out of range")
        if month == 0:
            _, month, day = civil_from_days(days_from_civil(2001, 1, 1) + day_of_year - 1)
        if self.month >= 0 and self.month != month:
            raise self.inconsistent("day-of-year does not match month")
        if self.day >= 0 and self.day != day:
            raise self.inconsistent("day-of-year does not match day")
        self.month, self.day = month, day

    def inconsistent(self, what: str) -> ParseError:
        return _failure(self.layout, self.whole, "", self.value, f": {what}")


def _integer(text: str) -> int:
    """`atoi`: a sign and digits."""
    bare = text[1:] if text[:1] in ("-", "+") else text
    if not bare or not (bare.isascii() and bare.isdigit()):
        raise _Bad
    return int(text)


def _digits(text: str, at: int) -> int:
    end = at
    while _digit_at(text, end):
        end += 1
    return end - at


def _abbreviation_length(value: str) -> int:
    if len(value) < 3:
        return 0
    if value.startswith(("ChST", "MeST")):
        return 4
    if value.startswith("GMT"):
        return 3 + _signed_offset(value[3:])
    if value[0] in "+-":
        return _signed_offset(value)
    upper = 0
    while upper < 6 and upper < len(value) and "A" <= value[upper] <= "Z":
        upper += 1
    if upper == 5:
        return 5 if value[4] == "T" else 0
    if upper == 4:
        return 4 if value[3] == "T" or value.startswith("WITA") else 0
    return 3 if upper == 3 else 0


def _signed_offset(value: str) -> int:
    if value[:1] not in ("+", "-"):
        return 0
    size = _digits(value, 1)
    if size == 0 or size > 19 or int(value[1 : 1 + size]) > 23:
        return 0
    return 1 + size


# Durations


class DurationError(ValueError):
    """A duration cannot be read; the message is Go's."""


_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": NANOSECONDS,
    "m": 60 * NANOSECONDS,
    "h": 3600 * NANOSECONDS,
}
_LIMIT: Final = 1 << 63


def parse_duration(text: str) -> int:
    """`time.ParseDuration`: nanoseconds. Raises DurationError."""
    invalid = DurationError(f"time: invalid duration {quote(text)}")
    rest = text[1:] if text[:1] in ("-", "+") else text
    negative = text.startswith("-")
    if rest == "0":
        return 0
    if not rest:
        raise invalid
    total = 0
    while rest:
        if rest[0] != "." and not _digit_at(rest, 0):
            raise invalid
        size = _digits(rest, 0)
        whole = int(rest[:size] or "0") if size <= 40 else _LIMIT + 1
        if whole > _LIMIT:
            raise invalid
        rest = rest[size:]
        fraction, scale, has_fraction = 0, 1.0, False
        if rest.startswith("."):
            count = _digits(rest, 1)
            has_fraction = count > 0
            fraction, scale = _leading_fraction(rest[1 : 1 + count])
            rest = rest[1 + count :]
        if not size and not has_fraction:
            raise invalid
        end = 0
        while end < len(rest) and rest[end] != "." and not _digit_at(rest, end):
            end += 1
        if end == 0:
            raise DurationError(f"time: missing unit in duration {quote(text)}")
        unit = _UNITS.get(rest[:end])
        if unit is None:
            raise DurationError(f"time: unknown unit {quote(rest[:end])} in duration {quote(text)}")
        rest = rest[end:]
        if whole > _LIMIT // unit:
            raise invalid
        whole *= unit
        if fraction:
            whole += int(float(fraction) * (float(unit) / scale))
            if whole > _LIMIT:
                raise invalid
        total += whole
        if total > _LIMIT:
            raise invalid
    if not negative and total > _LIMIT - 1:
        raise invalid
    return -total if negative else total


def _leading_fraction(digits: str) -> tuple[int, float]:
    number, scale = 0, 1.0
    for digit in digits:
        if number > (_LIMIT - 1) // 10:
            break
        following = number * 10 + ord(digit) - 48
        if following > _LIMIT:
            break
        number = following
        scale *= 10
    return number, scale
