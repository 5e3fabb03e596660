"""Numbers: `abs`, `ceil`, `floor`, `round`, ranges, bits, and `rand.intn` from the caller's seed."""

from __future__ import annotations

import hashlib
from typing import Final

from gateway.rego import numeric
from gateway.rego.builtins import operands
from gateway.rego.builtins.registry import BuiltinContext, BuiltinError, OperandError, UnsupportedError, builtin
from gateway.rego.values import Value

_WORD: Final = (1 << 64) - 1

MAX_RANGE: Final = 5_000_000
"""Numbers; larger ranges are refused, whatever the budget."""


@builtin("abs")
def abs_(ctx: BuiltinContext, value: Value) -> Value:
    return numeric.absolute(operands.number(value, 1))


@builtin("ceil")
def ceil(ctx: BuiltinContext, value: Value) -> Value:
    return numeric.ceiling(operands.number(value, 1))


@builtin("floor")
def floor(ctx: BuiltinContext, value: Value) -> Value:
    return numeric.floor(operands.number(value, 1))


@builtin("round")
def round_(ctx: BuiltinContext, value: Value) -> Value:
    return numeric.round_half_away(operands.number(value, 1))


@builtin("numbers.range")
def numbers_range(ctx: BuiltinContext, first: Value, last: Value) -> Value:
    return _range(ctx, operands.big_int(first, 1), operands.big_int(last, 2), 1)


@builtin("numbers.range_step")
def numbers_range_step(ctx: BuiltinContext, first: Value, last: Value, step: Value) -> Value:
    low, high, by = operands.big_int(first, 1), operands.big_int(last, 2), operands.big_int(step, 3)
    if by <= 0:
        raise BuiltinError("numbers.range_step: step must be a positive integer")
    return _range(ctx, low, high, by)


def _range(ctx: BuiltinContext, first: int, last: int, step: int) -> list[Value]:
    count = abs(last - first) // step + 1
    if count > MAX_RANGE:
        raise UnsupportedError(f"ranges of more than {MAX_RANGE} numbers are not generated")
    ctx.charge(count * (1 + max(first.bit_length(), last.bit_length()) // 256))
    return list(range(first, last + 1, step) if first <= last else range(first, last - 1, -step))


@builtin("bits.and")
def bits_and(ctx: BuiltinContext, first: Value, second: Value) -> Value:
    return operands.big_int(first, 1) & operands.big_int(second, 2)


@builtin("bits.or")
def bits_or(ctx: BuiltinContext, first: Value, second: Value) -> Value:
    return operands.big_int(first, 1) | operands.big_int(second, 2)


@builtin("bits.xor")
def bits_xor(ctx: BuiltinContext, first: Value, second: Value) -> Value:
    return operands.big_int(first, 1) ^ operands.big_int(second, 2)


@builtin("bits.negate")
def bits_negate(ctx: BuiltinContext, value: Value) -> Value:
    return ~operands.big_int(value, 1)


def _shift(value: Value) -> int:
    shift = operands.big_int(value, 2)
    if shift < 0:
        raise OperandError("operand 2 must be an unsigned integer number but got a negative integer")
    return shift & _WORD


@builtin("bits.lsh")
def bits_lsh(ctx: BuiltinContext, value: Value, shift: Value) -> Value:
    number, by = operands.big_int(value, 1), _shift(shift)
    if number:
        operands.charge_bits(ctx, number.bit_length() + by)
        return number << by
    return 0


@builtin("bits.rsh")
def bits_rsh(ctx: BuiltinContext, value: Value, shift: Value) -> Value:
    return operands.big_int(value, 1) >> _shift(shift)


@builtin("rand.intn")
def rand_intn(ctx: BuiltinContext, name: Value, bound: Value) -> Value:
    text, n = operands.string(name, 1), abs(operands.int64(bound, 2))
    if n == 0:
        return 0
    return int.from_bytes(derive(ctx, "rand.intn", f"{text}-{n}", 32)) % n


def derive(ctx: BuiltinContext, builtin_name: str, of: str, size: int) -> bytes:
    """Pseudo-random bytes that the caller's seed, the builtin and its arguments determine.

    Raises:
        UnsupportedError: the caller gave no seed.
    """
    if ctx.seed is None:
        raise UnsupportedError("the result is random, and the caller gave no seed")
    return hashlib.shake_256(f"{ctx.seed!r}\0{builtin_name}\0{of}".encode()).digest(size)
