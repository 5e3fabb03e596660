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
    """(negative, digits, exponent): the `0.digits * 10**exponent` that Go prints for a `big.Float` of 64 bits.

    This is Go's `roundShortest`, digit by digit. It is nearly the shortest text that rounds to the value: where the upper
    bound has one digit more than the value and nothing behind it, Go has lost sight of it further on, and rounds down.
    """
    negative, exact = value < 0, abs(value)
    unit = Fraction(2) ** (exact.numerator.bit_length() - exact.denominator.bit_length() - _PRECISION)
    while exact / unit >= 2**_PRECISION:
        unit *= 2
    while exact / unit < 2 ** (_PRECISION - 1):
        unit /= 2
    inclusive = (exact / unit) % 2 == 0
    digits, exponent = _decimal(exact)
    lower, upper = _decimal(exact - unit / 2)[0], _decimal(exact + unit / 2)[0]
    for at, digit in enumerate(digits):
        below, above = lower[at : at + 1] or "0", upper[at : at + 1] or "0"
        down = below != digit or (inclusive and at + 1 == len(lower))
        up = digit != above and (inclusive or chr(ord(digit) + 1) < above or at + 1 < len(upper))
        count = at + 1
        if not (down or up) or count >= len(digits):
            continue
        if up and (not down or _rounds_up(digits, count)):
            kept = digits[:count].rstrip("9")
            if not kept:
                return negative, "1", exponent + 1
            return negative, kept[:-1] + chr(ord(kept[-1]) + 1), exponent
        return negative, digits[:count].rstrip("0"), exponent
    return negative, digits, exponent


def _rounds_up(digits: str, count: int) -> bool:
    if digits[count] == "5" and count + 1 == len(digits):
        return digits[count - 1] in "13579"
    return digits[count] >= "5"


def _decimal(value: Fraction) -> tuple[str, int]:
    """The first digits and the exponent of a positive number; a last digit stands for any number of them."""
    power = value.numerator.bit_length() - value.denominator.bit_length()
    exponent = math.floor(power * math.log10(2)) + 1
    while value >= Fraction(10) ** exponent:
        exponent += 1
    while value < Fraction(10) ** (exponent - 1):
        exponent -= 1
    scaled = value * Fraction(10) ** (_MAX_DIGITS - exponent)
    digits = str(scaled.numerator // scaled.denominator)
    return (digits.rstrip("0") if scaled.denominator == 1 else digits + "1"), exponent


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
    return _signed_zero(round_to_precision(to_fraction(a) * to_fraction(b)), a, b)


def divide(a: Value, b: Value) -> Value:
    """Raises `ArithmeticFailure` for a zero divisor."""
    if type(a) is int and type(b) is int and a and b and a % b == 0 and abs(a) < 2**53:
        return a // b
    divisor = to_fraction(b)
    if not divisor:
        raise ArithmeticFailure("divide by zero")
    return _signed_zero(round_to_precision(to_fraction(a) / divisor), a, b)


def _signed_zero(result: Fraction, a: Value, b: Value) -> Value:
    """The result of a product or quotient, whose zero has a sign in Go."""
    if not result and number_text(a).startswith("-") != number_text(b).startswith("-"):
        return NumberText("-0")
    return from_fraction(result)


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
