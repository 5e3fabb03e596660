"""What arguments must be, with OPA's words where they are not."""

from __future__ import annotations

import re
from typing import Final

from gateway.rego.builtins.registry import (
    BuiltinContext,
    OperandError,
    UnsupportedError,
    element_error,
    operand_error,
)
from gateway.rego.values import RegoSet, Value, number_text, to_int

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
_TEXT_PER_STEP: Final = 256

MAX_BITS: Final = 1 << 20
"""Integers that a builtin computes have at most so many bits; more is refused."""


def is_number(value: Value) -> bool:
    """Whether the value is a number."""
    return not isinstance(value, (str, bool, list, dict, RegoSet)) and value is not None


_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def unicode_text(text: str) -> str:
    """The text, if it is Unicode. Halves of surrogate pairs, which JSON can write, are refused: UTF-8 has none."""
    if not text.isascii() and _SURROGATE.search(text):
        raise UnsupportedError("a string holds half of a surrogate pair, and is no Unicode text")
    return text


def string(value: Value, position: int) -> str:
    """The argument as a string."""
    if type(value) is str:
        return value if value.isascii() else unicode_text(value)
    raise operand_error(position, value, "string")


def number(value: Value, position: int) -> Value:
    """The argument as a number."""
    if is_number(value):
        return value
    raise operand_error(position, value, "number")


def array(value: Value, position: int) -> list[Value]:
    """The argument as an array."""
    if type(value) is list:
        return value
    raise operand_error(position, value, "array")


def object_(value: Value, position: int) -> dict[Value, Value]:
    """The argument as an object."""
    if type(value) is dict:
        return value
    raise operand_error(position, value, "object")


def set_(value: Value, position: int) -> RegoSet:
    """The argument as a set."""
    if type(value) is RegoSet:
        return value
    raise operand_error(position, value, "set")


def elements(value: Value, position: int) -> list[Value]:
    """The elements of an array or set."""
    if type(value) is list:
        return value
    if type(value) is RegoSet:
        return value.sorted()
    raise operand_error(position, value, "set", "array")


def strings(value: Value, position: int) -> list[str]:
    """The elements of an array or set of strings."""
    if type(value) is not list and type(value) is not RegoSet:
        raise operand_error(position, value, "array", "set")
    items = elements(value, position)
    for item in items:
        if type(item) is not str:
            raise element_error(position, value, item, "string")
        unicode_text(item)
    return items


def as_int64(value: Value) -> int | None:
    """`ast.Number.Int64`: integers of 64 bits, also when written with zeros behind the point; not `1e3`."""
    if type(value) is int:
        return value if INT64_MIN <= value <= INT64_MAX else None
    text = number_text(value)
    digits = text.lstrip("+-") if text[:1] in "+-" else text
    if len(digits) > 19 or "e" in text or "E" in text:
        return None
    whole, _, fraction = digits.partition(".")
    if fraction.strip("0"):
        return None
    result = int(whole or "0") * (-1 if text.startswith("-") else 1)
    return result if INT64_MIN <= result <= INT64_MAX else None


def int64(value: Value, position: int) -> int:
    """The argument as an integer of 64 bits (OPA's `IntOperand`)."""
    if type(value) is int and INT64_MIN <= value <= INT64_MAX:
        return value
    result = as_int64(number(value, position))
    if result is None:
        raise OperandError(f"operand {position} must be integer number but got floating-point number")
    return result


def big_int(value: Value, position: int) -> int:
    """The argument as an integer of any size (OPA's `BigIntOperand`)."""
    if type(value) is int:
        return value
    if not is_number(value):
        raise operand_error(position, value, "integer")
    result = to_int(value)
    if result is None:
        raise OperandError(f"operand {position} must be integer number but got floating-point number")
    return result


def charge_text(ctx: BuiltinContext, length: int) -> None:
    """Charges for handling so many characters."""
    if length >= _TEXT_PER_STEP:
        ctx.charge(length // _TEXT_PER_STEP)


def charge_bits(ctx: BuiltinContext, bits: int) -> None:
    """Charges for an integer of so many bits, and refuses one that is too large to compute with."""
    if bits > MAX_BITS:
        raise UnsupportedError(f"integers of more than {MAX_BITS} bits are not computed")
    if bits > 4096:
        ctx.charge(bits // 256)


def decoded(data: bytes) -> str:
    """Bytes as a string. OPA's strings may hold any bytes; these hold Unicode, and refuse what is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UnsupportedError("the result is not UTF-8, which strings of this engine cannot hold") from None
