"""Go's `regexp`: its syntax parsed here, its matching done by RE2, in time linear in the text.

Theory of operation. Go and RE2 agree on what a regular expression matches (leftmost-first, no back-references), not
on all that they accept nor on Unicode's version. So a pattern is parsed with Go's rules and errors, every class and
every case-insensitive letter becomes a list of code points from Go's tables, and what RE2 compiles is written anew
from the parse, in the part of the syntax that both read alike.

RE2 works on bytes, and `\\B` could match between the bytes of one character; such patterns are refused on texts that
are not ASCII (`Unsupported`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import re2

from gateway.rego.builtins.golang import unicode
from gateway.rego.builtins.golang.unicode import MAX_RUNE, Ranges

MAX_PATTERN_LENGTH = 20_000
"""Characters; longer patterns are refused."""
_MAX_HEIGHT = 1000
_MAX_COMPILED = 200_000
_MEMORY = 256 << 20


class RegexpError(ValueError):
    """`regexp/syntax.Error`: Go refuses the pattern; the message is Go's."""

    def __init__(self, code: str, expression: str) -> None:
        super().__init__(f"error parsing regexp: {code}: `{expression}`")


class Unsupported(ValueError):
    """Go accepts this, and here it cannot be done exactly."""


_FOLD, _LINE, _DOT_NL, _LAZY = 1, 2, 4, 8
_PERL: dict[str, tuple[bool, Ranges]] = {
    "d": (True, [(0x30, 0x39)]),
    "D": (False, [(0x30, 0x39)]),
    "s": (True, [(0x09, 0x0A), (0x0C, 0x0D), (0x20, 0x20)]),
    "S": (False, [(0x09, 0x0A), (0x0C, 0x0D), (0x20, 0x20)]),
    "w": (True, [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]),
    "W": (False, [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]),
}
_POSIX: dict[str, Ranges] = {
    "alnum": [(0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A)],
    "alpha": [(0x41, 0x5A), (0x61, 0x7A)],
    "ascii": [(0x00, 0x7F)],
    "blank": [(0x09, 0x09), (0x20, 0x20)],
    "cntrl": [(0x00, 0x1F), (0x7F, 0x7F)],
    "digit": [(0x30, 0x39)],
    "graph": [(0x21, 0x7E)],
    "lower": [(0x61, 0x7A)],
    "print": [(0x20, 0x7E)],
    "punct": [(0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)],
    "space": [(0x09, 0x0D), (0x20, 0x20)],
    "upper": [(0x41, 0x5A)],
    "word": [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)],
    "xdigit": [(0x30, 0x39), (0x41, 0x46), (0x61, 0x66)],
}
_C_ESCAPES = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_MIN_FOLD, _MAX_FOLD = 0x41, 0x1E943


def _clean(ranges: Ranges) -> Ranges:
    out: Ranges = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            if high > out[-1][1]:
                out[-1] = (out[-1][0], high)
        else:
            out.append((low, high))
    return out


def _negated(ranges: Ranges) -> Ranges:
    out: Ranges = []
    after = 0
    for low, high in ranges:
        if after < low:
            out.append((after, low - 1))
        after = high + 1
    if after <= MAX_RUNE:
        out.append((after, MAX_RUNE))
    return out


def _folded(low: int, high: int) -> Ranges:
    out: Ranges = [(low, high)]
    if (low <= _MIN_FOLD and high >= _MAX_FOLD) or high < _MIN_FOLD or low > _MAX_FOLD:
        return out
    for rune in range(max(low, _MIN_FOLD), min(high, _MAX_FOLD) + 1):
        other = unicode.simple_fold(rune)
        while other != rune:
            out.append((other, other))
            other = unicode.simple_fold(other)
    return out


def _escaped(rune: int) -> str:
    char = chr(rune)
    return char if char.isascii() and char.isalnum() else f"\\x{{{rune:X}}}"


def _class_text(ranges: Ranges) -> str:
    if not ranges:
        return f"[^\\x00-\\x{{{MAX_RUNE:X}}}]"
    if ranges == [(0, MAX_RUNE)]:
        return "(?s:.)"
    return "[" + "".join(f"{_escaped(a)}-{_escaped(b)}" if a != b else _escaped(a) for a, b in ranges) + "]"


@dataclass(slots=True)
class _Node:
    """A parsed piece: the text for RE2, and what Go's limits count."""

    kind: str
    """`atom`, `repeat`, `group` (capture), `concat`, `alternate`, or the pseudo-operators `(` and `|`."""
    text: str
    size: int = 1
    height: int = 1
    copies: int = 1
    """The largest product of nested counted repetitions within."""
    flags: int = 0
    capture: bool = False


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.whole = pattern
        self.flags = 0
        self.stack: list[_Node] = []
        self.groups = 0
        self.names: list[str] = [""]
        self.no_word_boundary = False
        self.literal_only: list[str] | None = []

    def push(self, text: str, *, size: int = 1) -> None:
        self.stack.append(_Node("atom", text, size=size))

    def literal(self, rune: int) -> None:
        if self.flags & _FOLD:
            ranges = _clean(_folded(rune, rune))
            if len(ranges) > 1 or ranges[0][0] != ranges[0][1]:
                self.literal_only = None
                self.push(_class_text(ranges))
                return
        if self.literal_only is not None:
            self.literal_only.append(chr(rune))
        self.push(_escaped(rune))

    def parse(self) -> None:
        text = self.whole
        at = 0
        last_repeat = -1
        length = len(text)
        while at < length:
            repeat = -1
            char = text[at]
            if char not in "(|)^$.[*+?{\\":
                self.literal(ord(char))
                at += 1
                last_repeat = repeat
                continue
            if char != "\\" and char != "{":
                self.literal_only = None
            if char == "(":
                if text.startswith("(?", at):
                    at = self.perl_flags(at)
                else:
                    self.groups += 1
                    self.names.append("")
                    self.stack.append(_Node("(", "(", flags=self.flags, capture=True))
                    at += 1
            elif char == "|":
                self.vertical_bar()
                at += 1
            elif char == ")":
                self.right_paren()
                at += 1
            elif char == "^":
                self.push("(?m:^)" if self.flags & _LINE else "\\A")
                at += 1
            elif char == "$":
                self.push("(?m:$)" if self.flags & _LINE else "\\z")
                at += 1
            elif char == ".":
                self.push("(?s:.)" if self.flags & _DOT_NL else "[^\\n]")
                at += 1
            elif char == "[":
                at = self.char_class(at)
            elif char in "*+?":
                repeat = at
                at = self.repeat(char, char, 0, 0, at, at + 1, last_repeat)
            elif char == "{":
                counts = self.counts(at)
                if counts is None:
                    self.literal(ord("{"))
                    at += 1
                else:
                    self.literal_only = None
                    low, high, after = counts
                    if low < 0 or low > 1000 or high > 1000 or 0 <= high < low:
                        raise RegexpError("invalid repeat count", text[at:after])
                    operator = f"{{{low}}}" if low == high else f"{{{low},}}" if high < 0 else f"{{{low},{high}}}"
                    repeat = at
                    at = self.repeat("{", operator, low, high, at, after, last_repeat)
            else:
                at = self.backslash(at)
            last_repeat = repeat
        self.concat()
        self.alternate()
        if len(self.stack) != 1:
            raise RegexpError("missing closing )", self.whole)

    def backslash(self, at: int) -> int:
        text = self.whole
        following = text[at + 1 : at + 2]
        simple = {"A": "\\A", "b": "\\b", "B": "\\B", "z": "\\z"}.get(following)
        if simple is not None:
            self.literal_only = None
            self.no_word_boundary = self.no_word_boundary or following == "B"
            self.push(simple)
            return at + 2
        if following == "C":
            raise RegexpError("invalid escape sequence", "\\C")
        if following == "Q":
            end = text.find("\\E", at + 2)
            quoted, after = (text[at + 2 :], len(text)) if end < 0 else (text[at + 2 : end], end + 2)
            for char in quoted:
                self.literal(ord(char))
            return after
        if following and following in "pP":
            self.literal_only = None
            ranges, at = self.unicode_class(at)
            self.push(_class_text(_clean(ranges)))
            return at
        if following in _PERL:
            self.literal_only = None
            self.push(_class_text(_clean(self.group(*_PERL[following]))))
            return at + 2
        rune, at = self.escape(at)
        self.literal(rune)
        return at

    def escape(self, start: int) -> tuple[int, int]:
        text = self.whole
        at = start + 1
        if at >= len(text):
            raise RegexpError("trailing backslash at end of expression", "")
        char = text[at]
        at += 1
        if ord(char) < 0x80 and not (char.isascii() and char.isalnum()):
            return ord(char), at
        if char == "0" or (char in "1234567" and text[at : at + 1] and text[at] in "01234567"):
            rune = ord(char) - 48
            for _ in range(2):
                if at >= len(text) or text[at] not in "01234567":
                    break
                rune = rune * 8 + ord(text[at]) - 48
                at += 1
            return rune, at
        if char == "x" and at < len(text):
            return self.hex_escape(start, at)
        if char in _C_ESCAPES:
            return _C_ESCAPES[char], at
        raise RegexpError("invalid escape sequence", text[start:at])

    def hex_escape(self, start: int, at: int) -> tuple[int, int]:
        text = self.whole
        digits = "0123456789abcdefABCDEF"
        first = text[at]
        at += 1
        if first == "{":
            count = rune = 0
            while at < len(text):
                char = text[at]
                at += 1
                if char == "}":
                    if count == 0:
                        break
                    return rune, at
                if char not in digits:
                    break
                rune = rune * 16 + int(char, 16)
                if rune > MAX_RUNE:
                    break
                count += 1
            raise RegexpError("invalid escape sequence", text[start:at])
        second = text[at : at + 1]
        if not second:
            # Go decodes past the end here, and reports invalid UTF-8 of nothing.
            raise RegexpError("invalid escape sequence", text[start:])
        at += 1
        if first not in digits or second not in digits:
            raise RegexpError("invalid escape sequence", text[start:at])
        return int(first + second, 16), at

    def group(self, positive: bool, ranges: Ranges) -> Ranges:
        if self.flags & _FOLD:
            ranges = _clean([folded for low, high in ranges for folded in _folded(low, high)])
        return list(ranges) if positive else _negated(ranges)

    def unicode_class(self, start: int) -> tuple[Ranges, int]:
        text = self.whole
        positive = text[start + 1] == "p"
        at = start + 2
        if at >= len(text):
            # A lone \p at the end: Go reads a rune of nothing, whose name is empty.
            raise RegexpError("invalid character class range", text[start:])
        if text[at] == "{":
            end = text.find("}", start)
            if end < 0:
                raise RegexpError("invalid character class range", text[start:])
            name, at = text[at + 1 : end], end + 1
        else:
            name, at = text[at], at + 1
        sequence = text[start:at]
        if name.startswith("^"):
            positive, name = not positive, name[1:]
        name = unicode.canonical_name(name)
        fold: Ranges | None
        if name == "Any":
            ranges: Ranges | None = [(0, MAX_RUNE)]
            fold = ranges
        elif name == "Assigned":
            ranges = fold = unicode.table("Cn")
            positive = not positive
        elif name == "Ascii":
            ranges, fold = [(0, 0x7F)], [(0, 0x7F), (0x17F, 0x17F), (0x212A, 0x212A)]
        else:
            if name == "Lc":
                name = "LC"
            ranges, fold = unicode.table(name), unicode.fold_table(name)
            if ranges is None:
                actual = unicode.category_aliases().get(name)
                if actual is not None:
                    ranges, fold = unicode.table(actual), unicode.fold_table(actual)
        if ranges is None:
            raise RegexpError("invalid character class range", sequence)
        if self.flags & _FOLD and fold is not None:
            ranges = _clean(ranges + fold)
        return (list(ranges) if positive else _negated(ranges)), at

    def char_class(self, start: int) -> int:
        text = self.whole
        at = start + 1
        ranges: Ranges = []
        negative = text.startswith("^", at)
        if negative:
            # Flag ClassNL is set in Perl syntax, so a negated class does match a newline.
            at += 1
        first = True
        while at >= len(text) or text[at] != "]" or first:
            first = False
            if text.startswith("[:", at) and len(text) - at > 2:
                end = text.find(":]", at + 2)
                if end >= 0:
                    name = text[at + 2 : end]
                    positive = not name.startswith("^")
                    members = _POSIX.get(name if positive else name[1:])
                    if members is None:
                        raise RegexpError("invalid character class range", text[at : end + 2])
                    ranges += self.group(positive, members)
                    at = end + 2
                    continue
            if text[at : at + 2] in ("\\p", "\\P"):
                more, at = self.unicode_class(at)
                ranges += more
                continue
            if text.startswith("\\", at) and text[at + 1 : at + 2] in _PERL:
                ranges += self.group(*_PERL[text[at + 1]])
                at += 2
                continue
            low_at = at
            low, at = self.class_char(at, start)
            high = low
            if len(text) - at >= 2 and text[at] == "-" and text[at + 1] != "]":
                high, at = self.class_char(at + 1, start)
                if high < low:
                    raise RegexpError("invalid character class range", text[low_at:at])
            ranges += _folded(low, high) if self.flags & _FOLD else [(low, high)]
        ranges = _clean(ranges)
        self.push(_class_text(_negated(ranges) if negative else ranges))
        return at + 1

    def class_char(self, at: int, start: int) -> tuple[int, int]:
        if at >= len(self.whole):
            raise RegexpError("missing closing ]", self.whole[start:])
        if self.whole[at] == "\\":
            return self.escape(at)
        return ord(self.whole[at]), at + 1

    def counts(self, at: int) -> tuple[int, int, int] | None:
        low, at = self.number(at + 1)
        if low is None or at >= len(self.whole):
            return None
        high: int | None = low
        if self.whole[at] == ",":
            at += 1
            if at >= len(self.whole):
                return None
            if self.whole[at] == "}":
                high = -1
            else:
                high, at = self.number(at)
                if high is None:
                    return None
                if high < 0:
                    low = -1
        if at >= len(self.whole) or self.whole[at] != "}":
            return None
        assert high is not None
        return low, high, at + 1

    def number(self, at: int) -> tuple[int | None, int]:
        end = at
        while end < len(self.whole) and "0" <= self.whole[end] <= "9":
            end += 1
        digits = self.whole[at:end]
        if not digits or (len(digits) >= 2 and digits[0] == "0"):
            return None, at
        return (-1 if len(digits) > 9 or int(digits) >= 10**9 else int(digits)), end

    def repeat(self, kind: str, operator: str, low: int, high: int, before: int, after: int, last: int) -> int:
        lazy = bool(self.flags & _LAZY)
        if self.whole.startswith("?", after):
            after += 1
            lazy = not lazy
        if last >= 0:
            raise RegexpError("invalid nested repetition operator", self.whole[last:after])
        if not self.stack or self.stack[-1].kind in "(|":
            raise RegexpError("missing argument to repetition operator", self.whole[before:after])
        sub = self.stack[-1]
        copies, size = sub.copies, sub.size + 2
        if kind == "{":
            times = high if high >= 0 else low
            if high != 0:
                copies = max(1, times) * sub.copies
            size = max(1, times) * (sub.size + 1) + 1
            if (low >= 2 or high >= 2) and copies > 1000:
                raise RegexpError("invalid repeat count", self.whole[before:after])
        text = (sub.text if sub.kind in ("atom", "group") else f"(?:{sub.text})") + operator + ("?" if lazy else "")
        self.stack[-1] = self.checked(_Node("repeat", text, size=size, height=sub.height + 1, copies=copies))
        return after

    def checked(self, node: _Node) -> _Node:
        if node.height > _MAX_HEIGHT:
            raise RegexpError("expression nests too deeply", self.whole)
        if node.height > _MAX_HEIGHT * 3 // 4:
            raise Unsupported("the regular expression nests too deeply for this engine")
        if node.size > _MAX_COMPILED:
            raise Unsupported("the regular expression is too large for this engine")
        return node

    def top(self) -> int:
        at = len(self.stack)
        while at > 0 and self.stack[at - 1].kind not in "(|":
            at -= 1
        return at

    def concat(self) -> None:
        at = self.top()
        parts = self.stack[at:]
        del self.stack[at:]
        if not parts:
            self.stack.append(_Node("atom", "(?:)"))
        elif len(parts) == 1:
            self.stack.append(parts[0])
        else:
            text = "".join(f"(?:{part.text})" if part.kind == "alternate" else part.text for part in parts)
            height = max((part.height for part in parts if part.kind != "atom"), default=1) + 1
            node = _Node("concat", text, sum(part.size for part in parts), height, max(part.copies for part in parts))
            self.stack.append(self.checked(node))

    def vertical_bar(self) -> None:
        self.concat()
        self.stack.append(_Node("|", "|"))

    def alternate(self) -> None:
        at = len(self.stack)
        parts: list[_Node] = []
        while at > 0 and self.stack[at - 1].kind != "(":
            at -= 1
            if self.stack[at].kind != "|":
                parts.append(self.stack[at])
        del self.stack[at:]
        parts.reverse()
        if len(parts) == 1:
            self.stack.append(parts[0])
            return
        node = _Node(
            "alternate",
            "|".join(part.text for part in parts),
            sum(part.size + 1 for part in parts),
            max(part.height for part in parts) + 1,
            max(part.copies for part in parts),
        )
        self.stack.append(self.checked(node))

    def right_paren(self) -> None:
        self.concat()
        self.alternate()
        if len(self.stack) < 2 or self.stack[-2].kind != "(":
            raise RegexpError("unexpected )", self.whole)
        inner = self.stack.pop()
        opened = self.stack.pop()
        self.flags = opened.flags
        if opened.capture:
            node = _Node("group", f"({inner.text})", inner.size + 2, inner.height + 1, inner.copies)
            self.stack.append(self.checked(node))
        elif inner.kind in ("atom", "group"):
            self.stack.append(inner)
        else:
            # An empty repeat operand such as (?:a*)* stays one piece, as Go's tree keeps it.
            self.stack.append(_Node("group", f"(?:{inner.text})", inner.size, inner.height, inner.copies))

    def perl_flags(self, start: int) -> int:
        text = self.whole
        with_p = text.startswith("(?P<", start) and len(text) - start > 4
        plain = text.startswith("(?<", start) and len(text) - start > 3
        if with_p or plain:
            end = text.find(">", start)
            if end < 0:
                raise RegexpError("invalid named capture", text[start:])
            name = text[start + (3 if plain else 4) : end]
            if not name or not all(char == "_" or (char.isascii() and char.isalnum()) for char in name):
                raise RegexpError("invalid named capture", text[start : end + 1])
            self.groups += 1
            self.names.append(name)
            self.stack.append(_Node("(", "(", flags=self.flags, capture=True))
            return end + 1
        at = start + 2
        flags, sign, saw = self.flags, 1, False
        values = {"i": _FOLD, "m": _LINE, "s": _DOT_NL, "U": _LAZY}
        while at < len(text):
            char = text[at]
            at += 1
            if char in values:
                flags = flags | values[char] if sign > 0 else flags & ~values[char]
                saw = True
            elif char == "-" and sign > 0:
                sign, saw = -1, False
            elif char in ":)" and (sign > 0 or saw):
                if char == ":":
                    self.stack.append(_Node("(", "(", flags=self.flags, capture=False))
                self.flags = flags
                return at
            else:
                break
        # Go names the expression up to and including what it could not read.
        raise RegexpError("invalid or unsupported Perl syntax", text[start:at])


Spans = list[tuple[int, int]]
"""Byte offsets of the match and of each group; (-1, -1) where a group took no part."""


class Regexp:
    """A compiled regular expression; safe to share between threads."""

    __slots__ = ("_groups", "_literal", "_matcher", "_names", "_no_word_boundary", "_searcher")

    def __init__(self, pattern: str) -> None:
        if len(pattern) > MAX_PATTERN_LENGTH:
            raise Unsupported(f"the regular expression is longer than {MAX_PATTERN_LENGTH} characters")
        parser = _Parser(pattern)
        parser.parse()
        self._groups = parser.groups
        self._names = parser.names
        self._no_word_boundary = parser.no_word_boundary
        self._literal = "".join(parser.literal_only) if parser.literal_only is not None else None
        self._matcher: Any = _compiled(parser.stack[0].text, captures=False)
        self._searcher: Any = _compiled(parser.stack[0].text, captures=True) if parser.groups else self._matcher

    @property
    def names(self) -> list[str]:
        """The name of each group, `""` where it has none; the whole match is first."""
        return self._names

    def _bytes(self, text: str) -> bytes:
        data = text.encode()
        if self._no_word_boundary and len(data) != len(text):
            raise Unsupported("\\B cannot be matched exactly in a text that is not ASCII")
        return data

    def match(self, text: str) -> bool:
        """`MatchString`."""
        if self._literal is not None:
            return self._literal in text
        return self._matcher.search(self._bytes(text)) is not None

    def find_all(
        self, text: str, limit: int = -1, charge: Callable[[int], None] = lambda steps: None
    ) -> tuple[bytes, list[Spans]]:
        """`FindAllStringSubmatchIndex`: the text as UTF-8, and at most `limit` matches (all, if negative) in it.

        One match may look at all the text that is left (`a.*b|a`), so each is charged for.
        """
        data = self._bytes(text)
        out: list[Spans] = []
        if limit == 0:
            return data, out
        at, end, previous = 0, len(data), -1
        search = self._searcher.search
        while at <= end:
            charge(_STEPS_A_SEARCH + (end - at) // 4096)
            found = search(data, at)
            if found is None:
                break
            start, stop = found.span()
            accept = True
            if stop == at:
                # An empty match directly after the match before is not one.
                accept = start != previous
                at += _width(data, at) if at < end else 1
            else:
                at = stop
            previous = stop
            if accept:
                out.append([found.span(group) for group in range(self._groups + 1)])
                if len(out) == limit:
                    break
        return data, out


_STEPS_A_SEARCH: Final = 8


def _width(data: bytes, at: int) -> int:
    first = data[at]
    return 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


def _compiled(text: str, *, captures: bool) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY
    options.never_capture = not captures
    try:
        return re2.compile(text.encode(), options)
    except re2.error as error:
        raise Unsupported(f"the regular expression cannot be compiled by RE2: {error}") from error


@lru_cache(maxsize=1024)
def compile(pattern: str) -> Regexp:
    """`regexp.Compile`, cached. Raises RegexpError with Go's message, or Unsupported."""
    return Regexp(pattern)


@lru_cache(maxsize=1024)
def is_valid(pattern: str) -> bool:
    """Whether Go's parser accepts the pattern. Raises Unsupported where that cannot be told."""
    try:
        compile(pattern)
    except RegexpError:
        return False
    return True


_META = frozenset("\\.+*?()|[]{}^$")


def quote_meta(text: str) -> str:
    """`regexp.QuoteMeta`."""
    return "".join("\\" + char if char in _META else char for char in text)


def expand(template: str, names: list[str], data: bytes, spans: Spans) -> bytes:
    """`Regexp.Expand`: the template with `$1`, `${1}`, `$name` and `$$` replaced."""
    out: list[bytes] = []
    at = 0
    while True:
        dollar = template.find("$", at)
        if dollar < 0:
            out.append(template[at:].encode())
            return b"".join(out)
        out.append(template[at:dollar].encode())
        at = dollar + 1
        if template.startswith("$", at):
            out.append(b"$")
            at += 1
            continue
        brace = template.startswith("{", at)
        end = at = at + brace
        while end < len(template) and (template[end] == "_" or _letter_or_digit(template[end])):
            end += 1
        name = template[at:end]
        if not name or (brace and not template.startswith("}", end)):
            # Malformed; a lone dollar sign is kept.
            out.append(b"$")
            at = dollar + 1
            continue
        at = end + brace
        number = _group_number(name)
        if number >= 0:
            if number < len(spans) and spans[number][0] >= 0:
                out.append(data[spans[number][0] : spans[number][1]])
            continue
        for index, group in enumerate(names):
            if group == name and spans[index][0] >= 0:
                out.append(data[spans[index][0] : spans[index][1]])
                break


def _letter_or_digit(char: str) -> bool:
    if char.isascii():
        return char.isalnum()
    for category in ("L", "Nd"):
        ranges = unicode.table(category)
        assert ranges is not None
        if any(low <= ord(char) <= high for low, high in ranges):
            return True
    return False


def _group_number(name: str) -> int:
    if not all("0" <= char <= "9" for char in name):
        return -1
    number = 0
    for char in name:
        if number >= 10**8:
            return -1
        number = number * 10 + ord(char) - 48
    return -1 if name[0] == "0" and len(name) > 1 else number
