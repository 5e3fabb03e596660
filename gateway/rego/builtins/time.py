"""Times in nanoseconds since the epoch: `time.*`, with Go's layouts, durations and zones.

The present is the query's time and comes from the caller.
"""

from __future__ import annotations

import math
import re
from typing import Final

from gateway.rego.builtins import operands
from gateway.rego.builtins.golang import time as gotime
from gateway.rego.builtins.golang import zones
from gateway.rego.builtins.golang.fmt import format_float
from gateway.rego.builtins.golang.time import NANOSECONDS, Time
from gateway.rego.builtins.golang.unicode import quote
from gateway.rego.builtins.operands import INT64_MAX, INT64_MIN, string
from gateway.rego.builtins.registry import BuiltinContext, BuiltinError, UnsupportedError, builtin, operand_error
from gateway.rego.numeric import to_fraction
from gateway.rego.values import Value


@builtin("time.now_ns")
def time_now_ns(ctx: BuiltinContext) -> Value:
    return now(ctx)


def now(ctx: BuiltinContext) -> int:
    """The query's time.

    Raises:
        UnsupportedError: the caller gave none.
    """
    if ctx.time_ns is None:
        raise UnsupportedError("the present is not known: the caller gave no time")
    return ctx.time_ns


def _nanoseconds(time: Time) -> int:
    if not INT64_MIN <= time.ns <= INT64_MAX:
        raise BuiltinError("time outside of valid range")
    return time.ns


_EXPECTED: Final = "either number (ns) or [number (ns), string (tz)]"


def _time(value: Value) -> tuple[Time, str]:
    """The instant and the layout that an argument names: a number, or `[number, zone, layout]`."""
    location, layout = zones.UTC, ""
    if type(value) is list:
        if not value:
            raise operand_error(1, value, _EXPECTED)
        number = operands.number(value[0], 1)
        if len(value) > 1:
            name = string(value[1], 1)
            if name == "Local":
                raise UnsupportedError("the zone of the process is not taken for a result")
            try:
                location = zones.load(name)
            except ValueError as error:
                raise BuiltinError(str(error)) from None
        if len(value) > 2:
            layout = string(value[2], 1)
    elif operands.is_number(value):
        number = value
    else:
        raise operand_error(1, value, _EXPECTED)
    if type(number) is int and -(2**63) <= number < 2**63:
        return Time(number, location), layout
    exact = to_fraction(number)
    if exact.denominator != 1 or not INT64_MIN <= exact <= INT64_MAX:
        raise BuiltinError("timestamp too big")
    return Time(math.trunc(exact), location), layout


@builtin("time.parse_ns")
def time_parse_ns(ctx: BuiltinContext, layout: Value, value: Value) -> Value:
    form, text = string(layout, 1), string(value, 2)
    operands.charge_text(ctx, len(form) + len(text))
    return _parsed(gotime.LAYOUTS.get(form, form), text)


@builtin("time.parse_rfc3339_ns")
def time_parse_rfc3339_ns(ctx: BuiltinContext, value: Value) -> Value:
    return _parsed(gotime.LAYOUTS["RFC3339"], string(value, 1))


def _parsed(layout: str, text: str) -> int:
    try:
        return _nanoseconds(gotime.parse(layout, text))
    except gotime.ParseError as error:
        raise BuiltinError(str(error)) from None


@builtin("time.format")
def time_format(ctx: BuiltinContext, value: Value) -> Value:
    time, layout = _time(value)
    operands.charge_text(ctx, len(layout))
    return time.format(gotime.LAYOUTS.get(layout, layout) if layout else gotime.LAYOUTS["RFC3339Nano"])


@builtin("time.date")
def time_date(ctx: BuiltinContext, value: Value) -> Value:
    return list(_time(value)[0].date())


@builtin("time.clock")
def time_clock(ctx: BuiltinContext, value: Value) -> Value:
    return list(_time(value)[0].clock())


@builtin("time.weekday")
def time_weekday(ctx: BuiltinContext, value: Value) -> Value:
    return _time(value)[0].weekday()


@builtin("time.add_date")
def time_add_date(ctx: BuiltinContext, value: Value, years: Value, months: Value, days: Value) -> Value:
    time, _ = _time(value)
    by = operands.int64(years, 2), operands.int64(months, 3), operands.int64(days, 4)
    if any(abs(part) > 10**9 for part in by):
        # Go's integers overflow at some of these, silently.
        if any(abs(part) > 10**11 for part in by):
            raise UnsupportedError("the dates are too far off to be added")
        raise BuiltinError("time outside of valid range")
    year, month, day = time.date()
    clock = time.clock()
    added = gotime.date(year + by[0], month + by[1], day + by[2], *clock, time.ns % NANOSECONDS, time.location)
    return _nanoseconds(added)


@builtin("time.diff")
def time_diff(ctx: BuiltinContext, first: Value, second: Value) -> Value:
    one, two = _time(first)[0], _time(second)[0]
    two = Time(two.ns, one.location)
    if one.ns > two.ns:
        one, two = two, one
    (year1, month1, day1), (hour1, minute1, second1) = one.date(), one.clock()
    (year2, month2, day2), (hour2, minute2, second2) = two.date(), two.clock()
    years, months, days = year2 - year1, month2 - month1, day2 - day1
    hours, minutes, seconds = hour2 - hour1, minute2 - minute1, second2 - second1
    if seconds < 0:
        seconds, minutes = seconds + 60, minutes - 1
    if minutes < 0:
        minutes, hours = minutes + 60, hours - 1
    if hours < 0:
        hours, days = hours + 24, days - 1
    if days < 0:
        days, months = days + zones.days_in(month1, year1), months - 1
    if months < 0:
        months, years = months + 12, years - 1
    return [years, months, days, hours, minutes, seconds]


_EXTENDED: Final = re.compile(r"([-+]?)((?:[0-9.]+(?:ms|us|µs|ns|[a-z]))+)")
_SEGMENT: Final = re.compile(r"([0-9.]+)(ms|us|µs|ns|[a-z])")
_HOURS: Final = {"d": 24, "w": 7 * 24, "y": 365 * 24}


@builtin("time.parse_duration_ns")
def time_parse_duration_ns(ctx: BuiltinContext, value: Value) -> Value:
    text = string(value, 1)
    if len(text) > 10_000:
        raise UnsupportedError("the duration is too long to be read")
    if not any(unit in text for unit in _HOURS):
        return _duration(text)
    # OPA takes days, weeks and years too, and rewrites them to hours.
    found = _EXTENDED.fullmatch(text)
    if found is None:
        raise BuiltinError(f"time: invalid duration {quote(text)}")
    out = [found[1]]
    for digits, unit in _SEGMENT.findall(found[2]):
        if unit not in _HOURS:
            out.append(digits + unit)
            continue
        if digits.count(".") > 1 or digits == ".":
            raise BuiltinError(f"time: invalid duration {quote(text)}")
        hours = float(digits) * _HOURS[unit]
        if not math.isfinite(hours):
            raise BuiltinError(f"time: invalid duration {quote(text)}")
        out.append(format_float(hours, "f") + "h")
    try:
        return gotime.parse_duration("".join(out))
    except gotime.DurationError as error:
        message = str(error)
        raise BuiltinError(f"{message[: message.rindex(' ')]} {quote(text)}") from None


def _duration(text: str) -> int:
    try:
        return gotime.parse_duration(text)
    except gotime.DurationError as error:
        raise BuiltinError(str(error)) from None
