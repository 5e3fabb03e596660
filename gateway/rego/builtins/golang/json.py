"""Go's `encoding/json` as OPA uses it: numbers keep their text, errors have Go's words.

Python's scanner reads what is well formed. What it cannot read is read again by :class:`_Scanner`, for the message.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from gateway.rego.builtins.golang import unicode
from gateway.rego.values import NumberText, Value, number_from_text

MAX_DEPTH: Final = 10_000
MAX_DIGITS: Final = 4_000
"""Characters of a number; longer ones are refused."""


class JsonError(ValueError):
    """The text is no JSON; the message is Go's."""


class Unsupported(ValueError):
    """Go reads this, and here it is refused."""


_SPACE: Final = " \t\r\n"


def _constant(name: str) -> Any:
    raise ValueError(name)


class _TooLong(Exception):
    """A number has more digits than are read: the time that takes grows with their square."""


def _integer(text: str) -> Any:
    if text == "-0":
        return NumberText(text)
    if len(text) > MAX_DIGITS:
        raise _TooLong
    return int(text)


def _decimal(text: str) -> Any:
    if len(text) > MAX_DIGITS:
        raise _TooLong
    return number_from_text(text)


_DECODER: Final = json.JSONDecoder(parse_float=_decimal, parse_int=_integer, parse_constant=_constant)
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_LONE: Final = re.compile("[\ud800-\udfff]")


def _replaced(value: Any) -> Any:
    """The value with U+FFFD for every half of a surrogate pair, as Go reads them."""
    if type(value) is str:
        return _LONE.sub("\ufffd", value)
    if type(value) is list:
        return [_replaced(item) for item in value]
    if type(value) is dict:
        return {_replaced(key): _replaced(item) for key, item in value.items()}
    return value


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _first(text: str, at: int) -> tuple[Value, int]:
    """The value that starts at `at` (no space before it), and where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, at)
    except RecursionError:
        raise Unsupported("the JSON text nests too deeply") from None
    except _TooLong:
        raise Unsupported(f"a number has more than {MAX_DIGITS} digits") from None
    except ValueError:
        raise _Scanner(text, at).failure() from None
    if end < len(text) and text[end] in ".eE" and text[end - 1] in "0123456789" and text[at] in "-0123456789":
        # Python takes the 1 of `1.`, and leaves the rest.
        raise _Scanner(text, at).failure()
    if _SURROGATE.search(text, at, end):
        value = _replaced(value)
    return value, end


def decode(text: str) -> Value:
    """OPA's `util.UnmarshalJSON`: one value. Raises JsonError or Unsupported."""
    at = _skip(text, 0)
    if at == len(text):
        raise JsonError("EOF")
    value, end = _first(text, at)
    at = _skip(text, end)
    if at == len(text):
        return value
    char = text[at]
    if char in "[{":
        raise JsonError(f"error: invalid character '{char}' after top-level value")
    if char in "]}:,":
        raise JsonError(f"invalid character '{char}' looking for beginning of value")
    following, end = _first(text, at)
    if following is None:
        # OPA asks for the next token and takes null for none.
        return value
    shown = following if type(following) is str else text[at:end]
    if type(following) is bool:
        shown = f"%!s(bool={shown})"
    raise JsonError(f"error: invalid character '{shown}' after top-level value")


def is_valid(text: str) -> bool:
    """`json.Valid`. Raises Unsupported for what nests too deeply to be read."""
    at = _skip(text, 0)
    if at == len(text):
        return False
    try:
        _, end = _first(text, at)
    except JsonError:
        return False
    return _skip(text, end) == len(text)


class _Scanner:
    """Go's scanner, for what is wrong with a value that is known to be wrong."""

    def __init__(self, text: str, at: int) -> None:
        self.text = text
        self.at = at

    def failure(self) -> ValueError:
        """What is wrong."""
        stack: list[str] = []
        try:
            self.value(stack)
        except (JsonError, Unsupported) as error:
            return error
        return Unsupported("the JSON text is read differently by Go and by Python")

    def peek(self) -> str:
        if self.at >= len(self.text):
            raise JsonError("unexpected EOF")
        return self.text[self.at]

    def bad(self, where: str) -> JsonError:
        char = self.text[self.at]
        if char == "'":
            shown = "'\\''"
        elif char == '"':
            shown = "'\"'"
        else:
            # Go shows one byte, as the character of that number.
            shown = "'" + unicode.quote(chr(char.encode()[0]))[1:-1] + "'"
        return JsonError(f"invalid character {shown} {where}")

    def space(self) -> str:
        self.at = _skip(self.text, self.at)
        return self.peek()

    def value(self, stack: list[str]) -> None:
        expecting_key = False
        while True:
            char = self.space()
            if expecting_key:
                if char == "}" and stack[-1] == "{":
                    self.at += 1
                    stack.pop()
                else:
                    if char != '"':
                        raise self.bad("looking for beginning of object key string")
                    self.string()
                    if self.space() != ":":
                        raise self.bad("after object key")
                    self.at += 1
                    stack[-1] = "{}"
                    expecting_key = False
                    continue
            elif char == "{":
                self.at += 1
                stack.append("{")
                self.check(stack)
                expecting_key = True
                continue
            elif char == "[":
                self.at += 1
                stack.append("[")
                self.check(stack)
                if self.space() != "]":
                    continue
                self.at += 1
                stack.pop()
            else:
                self.scalar(char)
            # A value has ended.
            while stack:
                char = self.space()
                if stack[-1] == "{}":
                    if char == ",":
                        self.at += 1
                        if self.space() != '"':
                            raise self.bad("looking for beginning of object key string")
                        stack[-1] = "{,"
                        expecting_key = True
                        break
                    if char != "}":
                        raise self.bad("after object key:value pair")
                else:
                    if char == ",":
                        self.at += 1
                        break
                    if char != "]":
                        raise self.bad("after array element")
                self.at += 1
                stack.pop()
            else:
                return

    def check(self, stack: list[str]) -> None:
        if len(stack) > MAX_DEPTH:
            raise JsonError("exceeded max depth")

    def scalar(self, char: str) -> None:
        if char == '"':
            self.string()
        elif char == "-" or "0" <= char <= "9":
            self.number()
        elif char in "tfn":
            self.word({"t": "true", "f": "false", "n": "null"}[char])
        else:
            raise self.bad("looking for beginning of value")

    def word(self, word: str) -> None:
        for expected in word:
            if self.peek() != expected:
                raise self.bad(f"in literal {word} (expecting '{expected}')")
            self.at += 1

    def digits(self) -> None:
        while self.at < len(self.text) and "0" <= self.text[self.at] <= "9":
            self.at += 1

    def number(self) -> None:
        if self.peek() == "-":
            self.at += 1
            if not "0" <= self.peek() <= "9":
                raise self.bad("in numeric literal")
        if self.peek() == "0":
            self.at += 1
        else:
            self.digits()
        if self.text.startswith(".", self.at):
            self.at += 1
            if not "0" <= self.peek() <= "9":
                raise self.bad("after decimal point in numeric literal")
            self.digits()
        if self.text.startswith(("e", "E"), self.at):
            self.at += 1
            if self.peek() in "+-":
                self.at += 1
            if not "0" <= self.peek() <= "9":
                raise self.bad("in exponent of numeric literal")
            self.digits()

    def string(self) -> None:
        self.at += 1
        while True:
            char = self.peek()
            if char == '"':
                self.at += 1
                return
            if char < " ":
                raise self.bad("in string literal")
            self.at += 1
            if char == "\\":
                escape = self.peek()
                if escape == "u":
                    for _ in range(4):
                        self.at += 1
                        if self.peek() not in "0123456789abcdefABCDEF":
                            raise self.bad("in \\u hexadecimal character escape")
                elif escape not in 'bfnrt\\/"':
                    raise self.bad("in string escape code")
                self.at += 1
