"""Amounts with units: `units.parse` (`10G`, `1500m`), `units.parse_bytes` (`4MiB`)."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Final

from gateway.rego.builtins import operands
from gateway.rego.builtins.golang import unicode
from gateway.rego.builtins.operands import string
from gateway.rego.builtins.registry import BuiltinContext, BuiltinError, UnsupportedError, builtin
from gateway.rego.numeric import round_to_precision
from gateway.rego.values import Value, number_from_text

_DECIMAL: Final = {letter: 1000**power for power, letter in enumerate("kmgtpe", 1)}
_BINARY: Final = {letter + "i": 1024**power for power, letter in enumerate("kmgtpe", 1)}

_BYTES: Final = {
    "": 1,
    **{unit + b: size for unit, size in {**_DECIMAL, **_BINARY}.items() for b in ("", "b")},
}
_UNITS: Final = {
    "": Fraction(1),
    "m": Fraction(0.001),
    **{unit: Fraction(size) for unit, size in _BINARY.items()},
    **{unit.capitalize(): Fraction(size) for unit, size in {**_DECIMAL, **_BINARY}.items()},
    **{unit: Fraction(size) for unit, size in _DECIMAL.items() if unit != "m"},
}
_MAX_EXPONENT_DIGITS: Final = 6
_NUMBER: Final = re.compile(r"([-+]?)(?:([0-9]+)\.?([0-9]*)|\.([0-9]+))(?:[eE]([-+]?[0-9]+))?")


def _digit(char: str) -> bool:
    # OPA looks at bytes as if they were Latin-1, where the digits are those of ASCII.
    return "0" <= char <= "9"


def _split(text: str, builtin_name: str) -> tuple[str, str]:
    """The number and the unit that a text starts and ends with."""
    at, end = 0, len(text)
    boundary = -1
    while at < end:
        char = text[at]
        if not _digit(char) and char not in ".eE+-":
            boundary = at
            break
        if char in "eE":
            following = text[at + 1 : at + 2]
            if not following or (not _digit(following) and following not in "+-"):
                boundary = at
                break
            if following in "+-":
                at += 1
            digits = at + 1
            while digits < end and _digit(text[digits]):
                digits += 1
            if digits - at - 1 > _MAX_EXPONENT_DIGITS:
                raise BuiltinError(f"{builtin_name}: exponent too large")
        at += 1
    if boundary < 0:
        return text, ""
    return text[:boundary], text[boundary:]


def _exact(text: str) -> Fraction | None:
    """The number, if it is written as both of Go's big numbers read it; raises for what is too large to compute."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    sign, whole, fraction, bare, exponent = found.groups()
    digits = (whole or "") + (fraction or "") + (bare or "")
    power = int(exponent or 0) - len(fraction or "") - len(bare or "")
    if len(digits) > 4000 or abs(power) > 5000:
        raise UnsupportedError("the amount is too large, or too exact, to be computed")
    value = Fraction(int(digits)) * Fraction(10) ** power
    return -value if sign == "-" else value


@builtin("units.parse_bytes")
def units_parse_bytes(ctx: BuiltinContext, text: Value) -> Value:
    name = "units.parse_bytes"
    source = unicode.to_lower(string(text, 1)).replace('"', "")
    operands.charge_text(ctx, len(source))
    if " " in source:
        raise BuiltinError(f"{name}: spaces not allowed in resource strings")
    number, unit = _split(source, name)
    if not number:
        raise BuiltinError(f"{name}: no byte amount provided")
    size = _BYTES.get(unit)
    if size is None:
        raise BuiltinError(f"{name}: byte unit {unit} not recognized")
    exact = _exact(number)
    if exact is None:
        raise BuiltinError(f"{name}: could not parse byte amount to a number")
    # OPA multiplies in floating point of 64 bits, and cuts off the fraction.
    total = math.trunc(round_to_precision(round_to_precision(exact) * size))
    operands.charge_bits(ctx, total.bit_length())
    return total


@builtin("units.parse")
def units_parse(ctx: BuiltinContext, text: Value) -> Value:
    name = "units.parse"
    source = string(text, 1).replace('"', "")
    operands.charge_text(ctx, len(source))
    if " " in source:
        raise BuiltinError(f"{name}: spaces not allowed in resource strings")
    number, unit = _split(source, name)
    if not number:
        raise BuiltinError(f"{name}: no amount provided")
    # OPA takes the first byte apart; of another character nothing that can be read is left.
    first = unit[:1] if unit[:1].isascii() else "\ufffd" * len(unit[:1].encode())
    unit = first + unicode.to_lower(unit[1:])
    size = _UNITS.get(unit)
    if size is None:
        raise BuiltinError(f"{name}: unit {unit} not recognized")
    exact = _exact(number)
    if exact is None:
        raise BuiltinError(f"{name}: could not parse amount to a number")
    total = exact * size
    if total.denominator == 1:
        operands.charge_bits(ctx, total.numerator.bit_length())
        return total.numerator
    scaled = abs(total) * 10**10
    whole, rest = divmod(scaled.numerator, scaled.denominator)
    if rest * 2 >= scaled.denominator:
        whole += 1
    digits = str(whole).rjust(11, "0")
    return number_from_text(f"{'-' if total < 0 else ''}{digits[:-10]}.{digits[-10:]}")
