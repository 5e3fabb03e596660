"""Whether two globs of a small language (`.`, `*`, `+`, `[a-z]`, `\\`) match some string in common.

This is the algorithm of github.com/yashtewari/glob-intersection 0.2.0, which OPA uses, with its answers also where they
are not those of set theory; there it is recursion, exponential at worst, here a table over the pairs of positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.rego.builtins.registry import BuiltinError, UnsupportedError

MAX_TOKENS: Final = 500
"""Tokens of a glob; longer ones are refused."""

_MAX_SET: Final = 1 << 16


@dataclass(slots=True)
class _Token:
    runes: frozenset[str] | None
    """The characters it matches; None is the dot."""
    kind: str
    """`character`, `dot` or `set`."""
    flag: str = ""
    """``, `*` or `+`."""

    def matches(self, other: _Token) -> bool:
        if self.runes is None or other.runes is None:
            return True
        return not self.runes.isdisjoint(other.runes)

    def same(self, other: _Token) -> bool:
        return self.kind == other.kind and self.runes == other.runes


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def error(self, message: str) -> BuiltinError:
        return BuiltinError(f"input:{self.text}, pos:{self.at}, {message}: the input provided is invalid")

    def rune(self) -> tuple[str, bool]:
        char = self.text[self.at]
        if char != "\\":
            self.at += 1
            return char, False
        if self.at == len(self.text) - 1:
            raise self.error("input ends with a \\ (escape) character")
        self.at += 2
        return self.text[self.at - 1], True

    def tokens(self) -> list[_Token]:
        out: list[_Token] = []
        while self.at < len(self.text):
            out.append(self.token())
            if len(out) > MAX_TOKENS:
                raise UnsupportedError(f"globs of more than {MAX_TOKENS} tokens are not compared")
        return out

    def token(self) -> _Token:
        char, escaped = self.rune()
        if escaped or char not in ".[]+*":
            token = _Token(frozenset(char), "character")
        elif char == ".":
            token = _Token(None, "dot")
        elif char == "[":
            token = self.set_token()
        elif char == "]":
            raise self.error("set-close ']' with no preceding '['")
        else:
            raise self.error(f"flag '{char}' must be preceded by a non-flag")
        if self.at < len(self.text):
            before = self.at
            following, escaped = self.rune()
            if not escaped and following in "+*":
                token.flag = following
            else:
                self.at = before
        return token

    def set_token(self) -> _Token:
        runes: set[str] = set()
        previous: str | None = None
        while self.at < len(self.text):
            char, escaped = self.rune()
            if escaped or char not in "-]":
                runes.add(char)
                previous = char
            elif char == "]":
                return _Token(frozenset(runes), "set")
            else:
                if previous is None:
                    raise self.error("range character '-' must be preceded by a Unicode character")
                if self.at >= len(self.text) - 1:
                    raise self.error("range character '-' must be followed by a Unicode character")
                last, escaped = self.rune()
                if not escaped and last in "]-":
                    raise self.error("range character '-' cannot be followed by a special symbol")
                if last < previous:
                    raise self.error(f"range is out of order: '{last}' comes before '{previous}' in Unicode")
                if ord(last) - ord(previous) > _MAX_SET:
                    raise UnsupportedError("a range of characters is too wide to be compared")
                runes.update(map(chr, range(ord(previous), ord(last) + 1)))
                previous = None
        raise self.error("found [ without matching ]")


def _simplified(tokens: list[_Token]) -> list[_Token]:
    out: list[_Token] = []
    for token in tokens:
        if out and token.flag and out[-1].flag and token.same(out[-1]):
            out[-1].flag = "+" if "+" in (token.flag, out[-1].flag) else "*"
        else:
            out.append(token)
    return out


def _trimmed(first: list[_Token], second: list[_Token]) -> tuple[list[_Token], list[_Token]] | None:
    left = 0
    while left < len(first) and left < len(second) and not first[left].flag and not second[left].flag:
        if not first[left].matches(second[left]):
            return None
        left += 1
    left = max(0, left - 1)
    right1, right2 = len(first) - 1, len(second) - 1
    while right1 >= left and right2 >= left and not first[right1].flag and not second[right2].flag:
        if not first[right1].matches(second[right2]):
            return None
        right1 -= 1
        right2 -= 1
    if right1 < len(first) - 1:
        right1 += 1
        right2 += 1
    return first[left : right1 + 1], second[left : right2 + 1]


def globs_intersect(first: str, second: str, charge: Callable[[int], None]) -> bool:
    """Whether some string is matched by both globs.

    Raises:
        BuiltinError: one of them is malformed.
    """
    tokens = _simplified(_Reader(first).tokens()), _simplified(_Reader(second).tokens())
    trimmed = _trimmed(*tokens)
    if trimmed is None:
        return False
    one, two = trimmed
    rows, columns = len(one), len(two)
    charge(rows * columns)
    table = _Table(one, two)
    for i in range(rows, -1, -1):
        for j in range(columns, -1, -1):
            table.fill(i, j, charge)
    return table.normal[0][0]


class _Table:
    """`intersectNormal` for every pair of suffixes; each cell depends on cells further on alone."""

    def __init__(self, one: list[_Token], two: list[_Token]) -> None:
        self.globs = one, two
        self.normal = [[False] * (len(two) + 1) for _ in range(len(one) + 1)]

    def fill(self, i: int, j: int, charge: Callable[[int], None]) -> None:
        one, two = self.globs
        if i == len(one) or j == len(two):
            self.normal[i][j] = i == len(one) and j == len(two)
        elif not one[i].flag and not two[j].flag:
            self.normal[i][j] = one[i].matches(two[j]) and self.normal[i + 1][j + 1]
        else:
            charge(1 + (len(one) - i + len(two) - j) // 16)
            side, starred, other = (0, i, j) if one[i].flag else (1, j, i)
            flag = self.globs[side][starred].flag
            self.normal[i][j] = self.plus(side, starred, other) if flag == "+" else self.star(side, starred, other)

    def at(self, side: int, starred: int, other: int) -> bool:
        return self.normal[starred][other] if side == 0 else self.normal[other][starred]

    def plus(self, side: int, plussed: int, other: int) -> bool:
        token, facing = self.globs[side][plussed], self.globs[1 - side][other]
        if not token.matches(facing):
            return False
        if self.star(side, plussed, other + 1):
            return True
        return facing.flag != "" and self.at(side, plussed + 1, other)

    def star(self, side: int, starred: int, other: int) -> bool:
        mine, theirs = self.globs[side], self.globs[1 - side]
        token = mine[starred]
        following = mine[starred + 1] if starred + 1 < len(mine) else None
        for at in range(other, len(theirs)):
            if following is not None and theirs[at].matches(following) and self.at(side, starred + 1, at):
                return True
            if not theirs[at].matches(token):
                return False
        return following is None
