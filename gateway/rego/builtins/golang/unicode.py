"""Go's `unicode` and the quoting of `strconv`: case mapping, folding, white space, printability, categories."""

from __future__ import annotations

from bisect import bisect_right
from functools import cache

from gateway.rego.builtins.golang import unicode_tables as tables

MAX_RUNE = 0x10FFFF

WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
"""What `unicode.IsSpace` accepts; Python's `str.isspace` takes four control characters more."""

Ranges = list[tuple[int, int]]
"""Sorted, disjoint ranges of code points, both ends included."""


def _ranges(text: str) -> Ranges:
    out: Ranges = []
    at = 0
    for word in text.split():
        gap, _, more = word.partition("+")
        low = at + int(gap, 36)
        at = low + (int(more, 36) if more else 0)
        out.append((low, at))
    return out


def _mapping(text: str) -> dict[int, int]:
    out: dict[int, int] = {}
    for run in text.split():
        low, high, stride, delta = run.split(":")
        for rune in range(int(low, 16), int(high, 16) + 1, int(stride)):
            out[rune] = rune + int(delta)
    return out


@cache
def _upper() -> dict[int, int]:
    return _mapping(tables.UPPER)


@cache
def _lower() -> dict[int, int]:
    return _mapping(tables.LOWER)


@cache
def _fold() -> dict[int, int]:
    return _mapping(tables.FOLD)


@cache
def _printable() -> tuple[list[int], list[int]]:
    ranges = _ranges(tables.PRINTABLE)
    return [low for low, _ in ranges], [high for _, high in ranges]


def to_upper(text: str) -> str:
    """`strings.ToUpper`: one code point for each (`ß` stays, where Python writes `SS`)."""
    return text.upper() if text.isascii() else text.translate(_upper())


def to_lower(text: str) -> str:
    """`strings.ToLower`: one code point for each."""
    return text.lower() if text.isascii() else text.translate(_lower())


def simple_fold(rune: int) -> int:
    """`unicode.SimpleFold`: the next code point of the orbit of those equal under simple case folding."""
    return _fold().get(rune, rune)


def is_print(rune: int) -> bool:
    """`strconv.IsPrint`: letters, marks, numbers, punctuation, symbols, and the ASCII space."""
    lows, highs = _printable()
    at = bisect_right(lows, rune) - 1
    return at >= 0 and rune <= highs[at]


_NAMED = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\"}


def _quoted(char: str, quote_char: str, ascii_only: bool) -> str:
    if char == quote_char:
        return "\\" + char
    named = _NAMED.get(char)
    if named is not None:
        return named
    rune = ord(char)
    if (rune < 0x80 or not ascii_only) and is_print(rune):
        return char
    if rune < 0x20 or rune == 0x7F:
        return f"\\x{rune:02x}"
    if 0xDC80 <= rune <= 0xDCFF:
        # A byte that is no UTF-8, as Python's `surrogateescape` keeps it.
        return f"\\x{rune - 0xDC00:02x}"
    return f"\\u{rune:04x}" if rune < 0x10000 else f"\\U{rune:08x}"


def quote(text: str, *, ascii_only: bool = False) -> str:
    """`strconv.Quote` (or `QuoteToASCII`): a Go string literal in double quotes."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return '"' + "".join(_quoted(char, '"', ascii_only) for char in text) + '"'


def quote_rune(rune: int, *, ascii_only: bool = False) -> str:
    """`strconv.QuoteRune`: a Go rune literal; what is no code point becomes U+FFFD."""
    if rune > MAX_RUNE or 0xD800 <= rune <= 0xDFFF:
        rune = 0xFFFD
    return "'" + _quoted(chr(rune), "'", ascii_only) + "'"


def can_backquote(text: str) -> bool:
    """`strconv.CanBackquote`: whether the text can stand in a raw string literal as it is."""
    return all(char != "\ufeff" and char != "`" and (char == "\t" or (" " <= char != "\x7f")) for char in text)


@cache
def table(name: str) -> Ranges | None:
    """The code points of a category or script of exactly this name."""
    text = tables.CATEGORIES.get(name) or tables.SCRIPTS.get(name)
    return None if text is None else _ranges(text)


@cache
def fold_table(name: str) -> Ranges | None:
    """The code points outside a category or script that fold into it; None where Go has no such table."""
    text = tables.FOLD_CATEGORY.get(name) if name in tables.CATEGORIES else tables.FOLD_SCRIPT.get(name)
    return None if text is None else _ranges(text)


@cache
def category_aliases() -> dict[str, str]:
    """The names `regexp/syntax` takes for categories, canonical (`Uppercaseletter`), with the category of each."""
    return {canonical_name(name): category for name, category in tables.CATEGORY_ALIASES.items()}


def canonical_name(name: str) -> str:
    """`regexp/syntax`'s form of a class name: a capital, then small letters, without `_`, `-` and spaces."""
    out: list[str] = []
    first = True
    for char in name:
        if char in "_- ":
            continue
        if first:
            out.append(char.upper() if "a" <= char <= "z" else char)
            first = False
        else:
            out.append(char.lower() if "A" <= char <= "Z" else char)
    return "".join(out)
