"""Types and conversions: `type_name`, `is_*`, `to_number`, and the deprecated `cast_*`."""

from __future__ import annotations

import math
import re
from typing import Final

from gateway.rego.builtins import operands
from gateway.rego.builtins.golang import unicode
from gateway.rego.builtins.golang.json import MAX_DIGITS
from gateway.rego.builtins.registry import (
    BuiltinContext,
    BuiltinError,
    UnsupportedError,
    builtin,
    operand_error,
)
from gateway.rego.values import RegoSet, Value, number_from_text
from gateway.rego.values import type_name as name_of


@builtin("type_name")
def type_name(ctx: BuiltinContext, value: Value) -> Value:
    return name_of(value)


@builtin("is_number")
def is_number(ctx: BuiltinContext, value: Value) -> Value:
    return operands.is_number(value)


@builtin("is_string")
def is_string(ctx: BuiltinContext, value: Value) -> Value:
    return type(value) is str


@builtin("is_boolean")
def is_boolean(ctx: BuiltinContext, value: Value) -> Value:
    return type(value) is bool


@builtin("is_array")
def is_array(ctx: BuiltinContext, value: Value) -> Value:
    return type(value) is list


@builtin("is_set")
def is_set(ctx: BuiltinContext, value: Value) -> Value:
    return type(value) is RegoSet


@builtin("is_object")
def is_object(ctx: BuiltinContext, value: Value) -> Value:
    return type(value) is dict


@builtin("is_null")
def is_null(ctx: BuiltinContext, value: Value) -> Value:
    return value is None


_JSON_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_GO_DECIMAL: Final = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_GO_HEXADECIMAL: Final = re.compile(r"[-+]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)[pP][-+]?[0-9]+")


@builtin("to_number")
def to_number(ctx: BuiltinContext, value: Value) -> Value:
    if value is None:
        return 0
    if type(value) is bool:
        return int(value)
    if operands.is_number(value):
        return value
    if type(value) is not str:
        raise operand_error(1, value, "null", "boolean", "number", "string")
    return _parsed(value)


def _parsed(text: str) -> Value:
    bare = text.lstrip("+-").lower()
    if bare in ("inf", "infinity", "nan"):
        raise operand_error(1, text, "valid number string")
    if _GO_HEXADECIMAL.fullmatch(text):
        raise UnsupportedError("hexadecimal floating-point numbers are not read")
    if "_" in text:
        raise UnsupportedError("digits separated by underscores are not read")
    if not _GO_DECIMAL.fullmatch(text):
        raise BuiltinError(f"strconv.ParseFloat: parsing {unicode.quote(text)}: invalid syntax")
    if not math.isfinite(float(text)):
        raise BuiltinError(f"strconv.ParseFloat: parsing {unicode.quote(text)}: value out of range")
    if not _JSON_NUMBER.fullmatch(text):
        # OPA keeps the text as it is, `007` or `.5`, and a result with it in is not even JSON.
        raise UnsupportedError(f"{unicode.quote(text)} is a number to OPA, but not as JSON writes one")
    if len(text) > MAX_DIGITS:
        raise UnsupportedError(f"numbers of more than {MAX_DIGITS} digits are not read")
    number = number_from_text(text)
    check_exponent(text)
    return number


_MAX_BINARY_EXPONENT: Final = 100_000


def check_exponent(text: str) -> None:
    """OPA's limit on the numbers it takes: `invalid number: number too big`."""
    mantissa, letter, exponent = text.lower().partition("e")
    if not letter:
        return
    if abs(int(exponent)) + len(mantissa) <= _MAX_BINARY_EXPONENT // 4:
        return
    digits = mantissa.lstrip("-").replace(".", "")
    if not digits.strip("0"):
        return
    whole = mantissa.lstrip("-").partition(".")[0]
    leading = len(whole) if whole.strip("0") else -(len(digits) - len(digits.lstrip("0"))) + len(whole)
    if abs(int(exponent) + leading) > 10**6:
        raise BuiltinError("invalid number: number too big")
    binary = (int(exponent) + leading) * math.log2(10)
    if abs(abs(binary) - _MAX_BINARY_EXPONENT) < 8:
        raise UnsupportedError("the number's exponent is at the limit of what OPA takes")
    if abs(binary) > _MAX_BINARY_EXPONENT:
        raise BuiltinError("invalid number: number too big")


@builtin("cast_array")
def cast_array(ctx: BuiltinContext, value: Value) -> Value:
    if type(value) is RegoSet:
        return list(value.sorted())
    return _cast(value, list, "array", "set")


@builtin("cast_set")
def cast_set(ctx: BuiltinContext, value: Value) -> Value:
    if type(value) is list:
        return RegoSet(value)
    return _cast(value, RegoSet, "array", "set")


@builtin("cast_string")
def cast_string(ctx: BuiltinContext, value: Value) -> Value:
    return _cast(value, str, "string")


@builtin("cast_boolean")
def cast_boolean(ctx: BuiltinContext, value: Value) -> Value:
    return _cast(value, bool, "boolean")


@builtin("cast_null")
def cast_null(ctx: BuiltinContext, value: Value) -> Value:
    return _cast(value, type(None), "null")


@builtin("cast_object")
def cast_object(ctx: BuiltinContext, value: Value) -> Value:
    return _cast(value, dict, "object")


def _cast(value: Value, kind: type, *expected: str) -> Value:
    if type(value) is kind:
        return value
    raise operand_error(1, value, *expected)
