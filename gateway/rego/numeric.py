"""Arithmetic with OPA's results.

OPA adds, subtracts and multiplies integers exactly, whatever their size; anything with a fraction is computed by Go's
`big.Float` with a mantissa of 64 bits, and the result is written with the fewest digits that tell it apart at that
precision. Both are reproduced here digit by digit: `0.1 + 0.2` is `0.3` in OPA and here, not `0.30000000000000004`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

from gateway.rego.values import NumberText, Value, number_text, to_decimal, to_int

_PRECISION: Final = 64
_MAX_DIGITS: Final = 40


class ArithmeticFailure(Exception):
    """What OPA reports as the builtin's error: `divide by zero`, `modulo by zero`, ..."""


def round_to_precision(value: Fraction, precision: int = _PRECISION) -> Fraction:
    """`value` rounded to a mantissa of `precision` bits, to nearest even."""
    if not value:
        return value
    exponent = value.numerator.bit_length() - value.denominator.bit_length() - precision
    scale = Fraction(2) ** exponent
    mantissa = round(value / scale)  # Python rounds half to even
    while mantissa.bit_length() > precision:
        exponent += 1
        scale = Fraction(2) ** exponent
        mantissa = round(value / scale)
    if abs(mantissa).bit_length() < precision:
        exponent -= precision - abs(mantissa).bit_length()
        scale = Fraction(2) ** exponent
        mantissa = round(value / scale)
    return mantissa * scale


def to_fraction(number: Value) -> Fraction:
    """The number as a `big.Float` of 64 bits holds it."""
    return round_to_precision(Fraction(to_decimal(number)))


def from_fraction(value: Fraction) -> Value:
    """The number that OPA writes for a `big.Float`: integers in full, others with the fewest digits."""
    if value.denominator == 1:
        if abs(value.numerator) < 2**_PRECISION:
            return value.numerator
        negative, digits, exponent = _shortest(value)
        return int(digits) * 10 ** (exponent - len(digits)) * (-1 if negative else 1)
    text = _general_format(*_shortest(value))
    as_float = float(text)
    return as_float if repr(as_float) == text else NumberText(text)


def _shortest(value: Fraction) -> tuple[bool, str, int]:
    """(negative, digits, exponent): the shortest `0.digits * 10**exponent` that rounds to `value` at 64 bits."""
    negative, exact = value < 0, abs(value)
    mantissa_bits = exact.numerator.bit_length() - exact.denominator.bit_length()
    unit = Fraction(2) ** (mantissa_bits - _PRECISION)
    if exact / unit < 2 ** (_PRECISION - 1):
        unit /= 2
    elif exact / unit >= 2**_PRECISION:
        unit *= 2
    mantissa = exact / unit
    inclusive = mantissa.denominator == 1 and mantissa.numerator % 2 == 0
    upper = exact + unit / 2
    lower = exact - (unit / 4 if mantissa == 2 ** (_PRECISION - 1) else unit / 2)

    exponent = math.floor(math.log10(mantissa.numerator / mantissa.denominator) + math.log10(2) * _log2(unit)) + 1
    while exact >= Fraction(10) ** exponent:
        exponent += 1
    while exact < Fraction(10) ** (exponent - 1):
        exponent -= 1
    for count in range(1, _MAX_DIGITS):
        scale = Fraction(10) ** (exponent - count)
        down = exact // scale
        up = down + 1
        down_fits = down * scale > lower or (inclusive and down * scale == lower) or down * scale == exact
        up_fits = up * scale < upper or (inclusive and up * scale == upper)
        if not (down_fits or up_fits):
            continue
        if down_fits and up_fits:
            rest = exact / scale - down
            chosen = up if rest > Fraction(1, 2) or (rest == Fraction(1, 2) and down % 2) else down
        else:
            chosen = down if down_fits else up
        digits = str(chosen)
        return negative, digits.rstrip("0") or "0", exponent + (len(digits) - count)
    raise AssertionError("a mantissa of 64 bits needs at most 21 digits")


def _log2(unit: Fraction) -> int:
    return unit.numerator.bit_length() - unit.denominator.bit_length()


def _general_format(negative: bool, digits: str, exponent: int) -> str:
    """Go's `%g` with the fewest digits: in scientific notation below 1e-4 and from 1e6 on."""
    sign = "-" if negative else ""
    power = exponent - 1
    if power < -4 or power >= 6:
        mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
        return f"{sign}{mantissa}e{'-' if power < 0 else '+'}{abs(power):02d}"
    if exponent <= 0:
        return f"{sign}0.{'0' * -exponent}{digits}"
    return f"{sign}{digits[:exponent]}.{digits[exponent:]}"


def add(a: Value, b: Value) -> Value:
    if type(a) is int and type(b) is int:
        return a + b
    x, y = to_int(a), to_int(b)
    if x is not None and y is not None:
        return x + y
    return from_fraction(round_to_precision(to_fraction(a) + to_fraction(b)))


def subtract(a: Value, b: Value) -> Value:
    if type(a) is int and type(b) is int:
        return a - b
    x, y = to_int(a), to_int(b)
    if x is not None and y is not None:
        return x - y
    return from_fraction(round_to_precision(to_fraction(a) - to_fraction(b)))


def multiply(a: Value, b: Value) -> Value:
    if type(a) is int and type(b) is int:
        return a * b
    x, y = to_int(a), to_int(b)
    if x is not None and y is not None:
        return x * y
    return from_fraction(round_to_precision(to_fraction(a) * to_fraction(b)))


def divide(a: Value, b: Value) -> Value:
    """Raises `ArithmeticFailure` for a zero divisor."""
    if type(a) is int and type(b) is int and b and a % b == 0 and abs(a) < 2**53:
        return a // b
    divisor = to_fraction(b)
    if not divisor:
        raise ArithmeticFailure("divide by zero")
    return from_fraction(round_to_precision(to_fraction(a) / divisor))


def remainder(a: Value, b: Value) -> Value:
    """Go's `%`: the sign of the dividend. Raises `ArithmeticFailure` for a zero divisor and for fractions."""
    x, y = to_int(a), to_int(b)
    if x is None or y is None:
        raise ArithmeticFailure("modulo on floating-point number")
    if y == 0:
        raise ArithmeticFailure("modulo by zero")
    result = abs(x) % abs(y)
    return result if x >= 0 else -result


def absolute(a: Value) -> Value:
    if type(a) is int and abs(a) < 2**31:
        return abs(a)
    return from_fraction(abs(to_fraction(a)))


def round_half_away(a: Value) -> Value:
    if type(a) is int and abs(a) < 2**31:
        return a
    value = to_fraction(a)
    half = Fraction(1, 2)
    return math.trunc(round_to_precision(value - half if value < 0 else value + half))


def ceiling(a: Value) -> Value:
    """OPA's `ceil`, which for numbers between -1 and 0 answers 1 (its zero has lost the sign)."""
    if type(a) is int and abs(a) < 2**31:
        return a
    value = to_fraction(a)
    whole = math.trunc(value)
    return whole if whole < 0 or whole == value else whole + 1


def floor(a: Value) -> Value:
    """OPA's `floor`, which for numbers between -1 and 0 answers 0 (its zero has lost the sign)."""
    if type(a) is int and abs(a) < 2**31:
        return a
    value = to_fraction(a)
    whole = math.trunc(value)
    return whole if whole >= 0 or whole == value else whole - 1


__all__ = [
    "ArithmeticFailure",
    "absolute",
    "add",
    "ceiling",
    "divide",
    "floor",
    "from_fraction",
    "multiply",
    "number_text",
    "remainder",
    "round_half_away",
    "round_to_precision",
    "subtract",
    "to_fraction",
]
