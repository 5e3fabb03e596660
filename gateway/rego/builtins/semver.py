"""Semantic versions: `semver.compare`, `semver.is_valid`, with OPA's own reading of them (a leading `v` is taken)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from gateway.rego.builtins import operands
from gateway.rego.builtins.operands import string
from gateway.rego.builtins.registry import BuiltinContext, BuiltinError, UnsupportedError, builtin
from gateway.rego.values import Value, to_rego


@dataclass(frozen=True, slots=True)
class _Version:
    numbers: tuple[int, int, int]
    pre_release: str


_IDENTIFIERS: Final = re.compile(r"[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*")
_NUMERIC: Final = re.compile(r"0|[1-9][0-9]*")


def _parse(text: str) -> _Version | None:
    text = text.removeprefix("v")
    text, plus, metadata = text.partition("+")
    if plus and not _IDENTIFIERS.fullmatch(metadata):
        return None
    text, dash, pre_release = text.partition("-")
    if dash:
        if not _IDENTIFIERS.fullmatch(pre_release):
            return None
        if any(len(part) > 1 and part[0] == "0" and _decimal(part) for part in pre_release.split(".")):
            return None
    parts = text.split(".")
    if len(parts) != 3 or not all(len(part) < 20 and _NUMERIC.fullmatch(part) for part in parts):
        return None
    major, minor, patch = (int(part) for part in parts)
    if max(major, minor, patch) > operands.INT64_MAX:
        return None
    return _Version((major, minor, patch), pre_release)


def _decimal(text: str) -> bool:
    return all("0" <= char <= "9" for char in text)


def _clamped(text: str) -> int:
    """`strconv.Atoi` with its error ignored: what is too large is the largest."""
    return min(int(text), operands.INT64_MAX) if len(text) < 30 else operands.INT64_MAX


def _compare(first: _Version, second: _Version) -> int:
    if first.numbers != second.numbers:
        return 1 if first.numbers > second.numbers else -1
    one, two = first.pre_release, second.pre_release
    if one == two:
        return 0
    if not one or not two:
        return 1 if not one else -1
    parts1, parts2 = one.split("."), two.split(".")
    for part1, part2 in zip(parts1, parts2, strict=False):
        number1, number2 = _decimal(part1), _decimal(part2)
        if number1 != number2:
            return -1 if number1 else 1
        if number1:
            int1, int2 = _clamped(part1), _clamped(part2)
            if int1 != int2:
                return 1 if int1 > int2 else -1
        elif part1 != part2:
            return 1 if part1 > part2 else -1
    if len(parts1) == len(parts2):
        # Only numbers beyond 64 bits differ. OPA takes them for equal and never returns.
        raise UnsupportedError("the pre-releases differ in numbers that are too large")
    return 1 if len(parts1) > len(parts2) else -1


@builtin("semver.compare")
def semver_compare(ctx: BuiltinContext, first: Value, second: Value) -> Value:
    one, two = string(first, 1), string(second, 2)
    version1, version2 = _parse(one), _parse(two)
    if version1 is None:
        raise BuiltinError(f"operand 1: string {to_rego(one)} is not a valid SemVer")
    if version2 is None:
        raise BuiltinError(f"operand 2: string {to_rego(two)} is not a valid SemVer")
    return _compare(version1, version2)


@builtin("semver.is_valid")
def semver_is_valid(ctx: BuiltinContext, version: Value) -> Value:
    return type(version) is str and _parse(string(version, 1)) is not None
