"""Rego text to tokens.

The whole module is scanned at once; the text inside a template string's braces is scanned as Rego, the rest as string
parts. A scanning error becomes a token of its own, so that it is reported where the parser meets it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from gateway.rego.ast import Comment, Location

KEYWORDS: Final = frozenset(
    ("package", "import", "as", "default", "else", "not", "some", "with", "null", "true", "false",
     "if", "contains", "in", "every")
)  # fmt: skip

IDENT: Final = "identifier"
NUMBER: Final = "number"
STRING: Final = "string"
TEMPLATE_PART: Final = "template-string-part"
TEMPLATE_END: Final = "template-string-end"
RAW_PART: Final = "raw-template-string-part"
RAW_END: Final = "raw-template-string-end"
EOF: Final = "eof"
ILLEGAL: Final = "illegal"

_TOKEN: Final = re.compile(
    r"""
      (?P<space>[ \t\r\n]+)
    | (?P<comment>\#[^\n]*)
    | (?P<ident>[A-Za-z_](?:[A-Za-z_0-9]|(?![\x00-\x7f])\d)*)
    | (?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]*)?)
    | (?P<string>"(?:[^"\\\n]|\\.)*(?:"|(?=\n)|\Z))
    | (?P<raw>`[^`]*(?:`|\Z))
    | (?P<template>\$["`])
    | (?P<op>:=|==|!=|<=|>=|[\[\]{}(),:+\-*/%&|=<>;.])
    """,
    re.VERBOSE,
)
_TEMPLATE_TEXT: Final = re.compile(r'(?:[^"\\\n{]|\\.)*')
_RAW_TEMPLATE_TEXT: Final = re.compile(r"(?:[^`{\\]|\\\{?)*")
_BAD_ESCAPE: Final = re.compile(r'\\(?:[^\\"/bfnrtu]|u(?![0-9a-fA-F]{4}))')
_BAD_TEMPLATE_ESCAPE: Final = re.compile(r'\\(?:[^\\"/bfnrtu{]|u(?![0-9a-fA-F]{4}))')
_LETTER: Final = re.compile(r"[A-Za-z_]")


class Token(NamedTuple):
    kind: str
    """A keyword, an operator, or one of the constants above."""
    text: str
    """The text; for an illegal token: what is wrong with it."""
    start: int
    end: int
    loc: Location
    space: bool
    """White space or a comment stands before the token."""
    newline: bool
    """A line ends before the token."""


def scan(source: str, file: str) -> tuple[list[Token], list[Comment]]:
    """All tokens, the end of the file as the last; and the comments."""
    return _Scanner(source, file).run()


class _Scanner:
    def __init__(self, source: str, file: str) -> None:
        self.source = source
        self.file = file
        self.tokens: list[Token] = []
        self.comments: list[Comment] = []
        self.row = 1
        self.line_start = 0
        self.templates: list[tuple[bool, int]] = []
        """Open template strings: (raw, braces open inside)."""
        self.depth = 0

    def run(self) -> tuple[list[Token], list[Comment]]:
        source, at = self.source, 0
        if source.startswith("\ufeff"):
            at = self.line_start = 1
        space = newline = False
        end = len(source)
        match_at = _TOKEN.match
        while at < end:
            found = match_at(source, at)
            if found is None:
                self.illegal(at, at + 1, _stray(source[at]), space, newline)
                at, space, newline = at + 1, False, False
                continue
            kind, text, stop = found.lastgroup, found[0], found.end()
            if kind == "space":
                space = True
                lines = text.count("\n")
                if lines:
                    newline = True
                    self.row += lines
                    self.line_start = at + text.rindex("\n") + 1
            elif kind == "comment":
                space = True
                self.comments.append(Comment(text[1:].rstrip("\r"), self.where(at)))
            else:
                if kind == "template":
                    stop = self.template_text(at, at + 1, text == "$`", space, newline)
                elif kind == "op" and text == "}" and self.templates and self.depth == self.templates[-1][1]:
                    raw, _ = self.templates.pop()
                    self.push("}", text, at, stop, space, newline)
                    stop = self.template_text(at, at, raw, False, False)
                else:
                    stop = self.plain(str(kind), text, at, stop, space, newline)
                space = newline = False
            at = stop
        # OPA counts the columns of the end from 0.
        loc = Location(self.row, end - self.line_start, self.file)
        self.tokens.append(Token(EOF, "", end, end, loc, space, newline))
        return self.tokens, self.comments

    def where(self, at: int) -> Location:
        return Location(self.row, at - self.line_start + 1, self.file)

    def push(self, kind: str, text: str, start: int, end: int, space: bool, newline: bool) -> None:
        self.tokens.append(Token(kind, text, start, end, self.where(start), space, newline))

    def illegal(self, start: int, end: int, reason: str, space: bool, newline: bool) -> None:
        self.push(ILLEGAL, reason, start, end, space, newline)

    def plain(self, kind: str, text: str, at: int, stop: int, space: bool, newline: bool) -> int:
        source = self.source
        if kind == "ident":
            self.push(text if text in KEYWORDS else IDENT, text, at, stop, space, newline)
        elif kind == "number":
            follows = _LETTER.match(source, stop)
            if text.endswith("."):
                self.illegal(at, stop, "expected fraction", space, newline)
            elif text[-1] in "eE+-":
                self.illegal(at, stop, "expected exponent", space, newline)
            elif follows is not None:
                self.illegal(at, stop, "illegal number format", space, newline)
            else:
                self.push(NUMBER, text, at, stop, space, newline)
        elif kind == "string":
            if len(text) < 2 or not text.endswith('"') or _odd_escape(text):
                self.illegal(at, stop, "non-terminated string", space, newline)
            elif _BAD_ESCAPE.search(text.replace("\\\\", "")):
                self.illegal(at, stop, "illegal escape sequence", space, newline)
            elif "\0" in text:
                self.illegal(at, stop, "illegal null character", space, newline)
            else:
                self.push(STRING, text, at, stop, space, newline)
        elif kind == "raw":
            if len(text) < 2 or not text.endswith("`"):
                self.illegal(at, stop, "non-terminated string", space, newline)
            else:
                self.push(STRING, text, at, stop, space, newline)
                self.count_lines(text, at)
        else:
            if text == "{":
                self.depth += 1
            elif text == "}":
                self.depth -= 1
            self.push(text, text, at, stop, space, newline)
        return stop

    def count_lines(self, text: str, at: int) -> None:
        lines = text.count("\n")
        if lines:
            self.row += lines
            self.line_start = at + text.rindex("\n") + 1

    def template_text(self, start: int, quote: int, raw: bool, space: bool, newline: bool) -> int:
        """Scans string text from the delimiter at `quote` on, to a brace or the end of the template string."""
        source = self.source
        found = (_RAW_TEMPLATE_TEXT if raw else _TEMPLATE_TEXT).match(source, quote + 1)
        stop = found.end() if found is not None else quote + 1
        text = source[quote + 1 : stop]
        closing = source[stop : stop + 1]
        if closing == "{":
            part, self.templates = (RAW_PART if raw else TEMPLATE_PART), [*self.templates, (raw, self.depth)]
        elif closing == ("`" if raw else '"'):
            part = RAW_END if raw else TEMPLATE_END
        else:
            self.illegal(start, stop, "non-terminated string", space, newline)
            return max(stop, start + 1)
        if not raw and _BAD_TEMPLATE_ESCAPE.search(text.replace("\\\\", "")):
            self.illegal(start, stop, "illegal escape sequence", space, newline)
        else:
            self.push(part, text, start, stop + 1, space, newline)
        self.count_lines(text, quote + 1)
        return stop + 1


def _odd_escape(text: str) -> bool:
    """Whether the closing quote of a string is escaped."""
    backslashes = len(text) - 1 - len(text[:-1].rstrip("\\"))
    return backslashes % 2 == 1


def _stray(char: str) -> str:
    match char:
        case "!":
            return "illegal ! character"
        case "$":
            return "illegal $ character"
        case "\xa0":
            return "illegal non-breaking space character, use a regular space instead"
        case "\0":
            return "illegal null character"
        case "\ufeff":
            return "illegal byte-order mark"
        case _:
            return ""
