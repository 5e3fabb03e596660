"""The globs of github.com/gobwas/glob 1.0.0, which OPA uses, as regular expressions for RE2: linear in the text.

`*` (no separators), `**` (anything), `?`, `[a-z]`, `[!a-z]`, `[abc]`, `[!abc]`, `{a,b}`, `\\` before a special
character. The lexer is that library's, with its errors and its odd cases; what a pattern matches is regular.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

import re2

MAX_PATTERN_LENGTH: Final = 10_000
"""Characters; longer patterns are refused."""
_MAX_DEPTH: Final = 200


class GlobError(ValueError):
    """The pattern is malformed; the message is the library's."""


class Unsupported(ValueError):
    """The pattern is beyond what is compiled here."""


_SPECIAL: Final = frozenset("*?\\[]{}")


def quote_meta(text: str) -> str:
    """The pattern that matches exactly the text."""
    return "".join("\\" + char if char in _SPECIAL else char for char in text)


def _escaped(char: str) -> str:
    return char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):X}}}"


class _Compiler:
    def __init__(self, pattern: str, separators: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.depth = 0
        self.literal: list[str] | None = []
        without = "".join(map(_escaped, dict.fromkeys(separators)))
        self.single = f"[^{without}]" if without else "(?s:.)"

    def error(self, reason: str, at: int | None = None) -> GlobError:
        offset = len(self.pattern[: self.at if at is None else at].encode())
        return GlobError(f"glob: syntax error at {offset}: {reason}")

    def text(self, breakers: str) -> str:
        out: list[str] = []
        pattern, end = self.pattern, len(self.pattern)
        while self.at < end:
            char = pattern[self.at]
            if char == "\\":
                if self.at + 1 >= end:
                    self.at = end
                    raise self.error("unexpected end of input" if breakers == "]" else "trailing backslash")
                out.append(pattern[self.at + 1])
                self.at += 2
                continue
            if char in breakers:
                break
            out.append(char)
            self.at += 1
        return "".join(out)

    def compile(self) -> str:
        pattern, end = self.pattern, len(self.pattern)
        out: list[str] = []
        while self.at < end:
            char = pattern[self.at]
            if char == "{":
                self.at += 1
                self.depth += 1
                if self.depth > _MAX_DEPTH:
                    raise Unsupported("the glob nests too deeply")
                self.literal = None
                out.append("(?:(?:")
            elif char == "," and self.depth:
                self.at += 1
                out.append(")|(?:")
            elif char == "}" and self.depth:
                self.at += 1
                self.depth -= 1
                out.append("))")
            elif char == "[":
                self.at += 1
                self.literal = None
                out.append(self.char_class())
            elif char == "?":
                self.at += 1
                self.literal = None
                out.append(self.single)
            elif char == "*":
                self.at += 1
                self.literal = None
                if pattern.startswith("*", self.at):
                    self.at += 1
                    out.append("(?s:.*)")
                else:
                    out.append(self.single + "*")
            else:
                literal = self.text("?*[{},") if self.depth else self.text("?*[{")
                if self.literal is not None:
                    self.literal.append(literal)
                out.extend(map(_escaped, literal))
        if self.depth:
            raise self.error("unclosed `{`")
        return "".join(out)

    def char_class(self) -> str:
        pattern, end = self.pattern, len(self.pattern)

        def closed() -> None:
            if self.at >= end:
                raise self.error("unexpected end of input")
            if pattern[self.at] != "]":
                self.at += 1
                raise self.error("expected close range character")
            self.at += 1

        if self.at >= end:
            raise self.error("unexpected end of input")
        negated = pattern[self.at] == "!"
        if negated:
            self.at += 1
            if self.at >= end:
                raise self.error("unexpected end of input")
        sign = "^" if negated else ""
        if pattern.startswith("-", self.at + 1):
            low = pattern[self.at]
            self.at += 2
            if self.at >= end:
                raise self.error("unexpected end of input")
            high = pattern[self.at]
            self.at += 1
            closed()
            if high < low:
                raise self.error("range hi character is less than lo")
            return f"[{sign}{_escaped(low)}-{_escaped(high)}]"
        members = self.text("]")
        closed()
        if not members:
            raise self.error("could not parse range")
        return f"[{sign}{''.join(map(_escaped, dict.fromkeys(members)))}]"


class Glob:
    """A compiled glob; safe to share between threads."""

    __slots__ = ("_affixes", "_literal", "_regexp")

    def __init__(self, pattern: str, separators: str) -> None:
        if len(pattern) > MAX_PATTERN_LENGTH:
            raise Unsupported(f"the glob is longer than {MAX_PATTERN_LENGTH} characters")
        compiler = _Compiler(pattern, separators)
        expression = compiler.compile()
        self._literal = "".join(compiler.literal) if compiler.literal is not None else None
        self._regexp: Any = None
        self._affixes = _affixes(pattern, separators)
        if self._literal is None and self._affixes is None:
            options = re2.Options()
            options.log_errors = False
            options.never_capture = True
            options.max_mem = 64 << 20
            try:
                self._regexp = re2.compile(expression.encode(), options)
            except re2.error as error:
                raise Unsupported(f"the glob cannot be compiled by RE2: {error}") from error

    def match(self, text: str) -> bool:
        """Whether the glob matches the whole text."""
        if self._literal is not None:
            return self._literal == text
        if self._affixes is not None:
            prefix, suffix, barriers = self._affixes
            size = len(text) - len(suffix)
            if size < len(prefix) or not text.startswith(prefix) or not text.endswith(suffix):
                return False
            middle = text[len(prefix) : size]
            return not any(barrier in middle for barrier in barriers)
        return self._regexp.fullmatch(text.encode()) is not None


_ONE_STAR: Final = re.compile(r"([^*?\[\]{}\\,!]*)(\*\*?)([^*?\[\]{}\\,!]*)")


def _affixes(pattern: str, separators: str) -> tuple[str, str, str] | None:
    """For a glob with one star: what stands before and after it, and what it does not match."""
    found = _ONE_STAR.fullmatch(pattern)
    if found is None:
        return None
    before, star, after = found.groups()
    return before, after, "" if star == "**" else separators


@lru_cache(maxsize=2048)
def compile(pattern: str, separators: str) -> Glob:
    """`glob.Compile`, cached. Raises GlobError or Unsupported."""
    return Glob(pattern, separators)
