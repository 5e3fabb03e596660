"""JSON as clients keep it, with comments and trailing commas, read and edited in place.

A client's configuration belongs to its user. An edit here replaces the bytes of one member and leaves every other byte,
comment and line break as it was, which `json.loads` followed by `json.dumps` would not.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

MAX_DEPTH = 100


class JsonError(ValueError):
    """Text that is not JSON even with comments and trailing commas allowed; `line` is 1-based."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(slots=True)
class Member:
    """One `"key": value` of an object, by its place in the text."""

    key: str
    start: int
    """Of the key's opening quote."""
    value: "Node"


@dataclass(slots=True)
class Node:
    """A value and the span of text that it stands in."""

    start: int
    end: int
    value: Any = None
    """Of scalars and arrays."""
    members: list[Member] | None = None
    """Of objects, in order."""
    items: list["Node"] = field(default_factory=list)

    def data(self) -> Any:
        """The plain value. Of a key that is there twice the last one counts, as in JavaScript."""
        if self.members is not None:
            return {member.key: member.value.data() for member in self.members}
        if self.items or isinstance(self.value, list):
            return [item.data() for item in self.items]
        return self.value

    def member(self, key: str) -> Member | None:
        """The last member of this key, or None."""
        return next((member for member in reversed(self.members or []) if member.key == key), None)

    def at(self, path: tuple[str, ...]) -> "Node | None":
        """The value under a path of keys, or None."""
        node: Node | None = self
        for key in path:
            member = node.member(key) if node is not None else None
            node = member.value if member is not None else None
        return node


def parse(text: str) -> Node:
    """The tree of a text.

    Raises:
        JsonError: it is not JSON, or nested more than `MAX_DEPTH` deep.
    """
    reader = _Reader(text)
    if text.startswith("\ufeff"):
        reader.at = 1
    reader.blank()
    if reader.at == len(text):
        return Node(reader.at, reader.at, members=[])  # an empty file: clients write one and mean {}
    node = reader.value(0)
    reader.blank()
    if reader.at != len(text):
        reader.fail("text after the end of the value")
    return node


def set_member(text: str, path: tuple[str, ...], value: Any) -> str:
    """`text` with `value` under `path`; objects on the way that are missing are made.

    Raises:
        JsonError: the text is not JSON, or something on the way is no object.
    """
    root = parse(text)
    if root.start == root.end:
        text, root = "{}\n", parse("{}\n")
    for depth in range(len(path), 0, -1):
        node = root.at(path[:depth])
        if node is None:
            continue
        if depth == len(path):
            return text[: node.start] + _rendered(value, _indent_at(text, node.start), _unit(text)) + text[node.end :]
        return _insert(text, node, path[depth], _nested(path[depth + 1 :], value))
    return _insert(text, root, path[0], _nested(path[1:], value))


def remove_member(text: str, path: tuple[str, ...]) -> str:
    """`text` without the member at `path`, its comma and, where nothing else stands there, its line; the same text if absent."""
    parent = parse(text).at(path[:-1])
    if parent is None or parent.members is None or (member := parent.member(path[-1])) is None:
        return text
    index = parent.members.index(member)
    start, end = member.start, member.value.end
    after = _Reader(text, end)
    after.blank()
    comma_after = after.at < len(text) and text[after.at] == ","
    if comma_after:
        end = after.at + 1
    elif index > 0:
        # The last of several: the comma before it goes, comments between stay.
        before = _Reader(text, parent.members[index - 1].value.end)
        before.blank()
        if text[before.at] == ",":
            text = text[: before.at] + text[before.at + 1 :]
            start, end = start - 1, end - 1
    line_start = start
    while line_start > 0 and text[line_start - 1] in " \t":
        line_start -= 1
    line_end = end
    while line_end < len(text) and text[line_end] in " \t":
        line_end += 1
    if line_start > 0 and text[line_start - 1] == "\n" and line_end < len(text) and text[line_end] in "\r\n":
        end = line_end + (2 if text.startswith("\r\n", line_end) else 1)
        return text[:line_start] + text[end:]
    return text[:start].rstrip(" \t") + text[end:] if not comma_after else text[:start] + text[end:].lstrip(" \t")


def _nested(path: tuple[str, ...], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _insert(text: str, parent: Node, key: str, value: Any) -> str:
    if parent.members is None:
        raise JsonError(f"no object to put {key!r} into", text.count("\n", 0, parent.start) + 1)
    unit = _unit(text)
    outer = _indent_at(text, parent.start)
    inner = outer + unit
    eol = "\r\n" if "\r\n" in text else "\n"
    if parent.members:
        first = parent.members[0]
        if "\n" in text[parent.start : first.start]:
            inner = _indent_at(text, first.start)
        last = parent.members[-1].value.end
        reader = _Reader(text, last)
        reader.blank()
        comma = text[reader.at] == ","
        rendered = f"{json.dumps(key, ensure_ascii=False)}: {_rendered(value, inner, unit)}"
        place = reader.at + 1 if comma else last
        return text[:place] + ("" if comma else ",") + eol + inner + rendered + text[place:]
    rendered = f"{json.dumps(key, ensure_ascii=False)}: {_rendered(value, inner, unit)}"
    head = text[parent.start + 1 : parent.end - 1].rstrip()
    return text[: parent.start + 1] + head + eol + inner + rendered + eol + outer + text[parent.end - 1 :]


def _rendered(value: Any, indent: str, unit: str) -> str:
    lines = json.dumps(value, indent=unit or 2, ensure_ascii=False).split("\n")
    return ("\n" + indent).join(lines)


def _indent_at(text: str, at: int) -> str:
    """The white space that the line of `at` begins with."""
    start = text.rfind("\n", 0, at) + 1
    return text[start : start + len(text[start:]) - len(text[start:].lstrip(" \t"))]


def _unit(text: str) -> str:
    """How this file indents: its first indented line's white space, else two spaces."""
    found = re.search(r"\n([ \t]+)[\"}\]]", text)
    return found[1] if found else "  "


_SCALAR = re.compile(r"true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')


class _Reader:
    """Recursive descent over JSON with comments and trailing commas."""

    def __init__(self, text: str, at: int = 0) -> None:
        self.text, self.at = text, at

    def fail(self, message: str) -> NoReturn:
        raise JsonError(message, self.text.count("\n", 0, self.at) + 1)

    def blank(self) -> None:
        text = self.text
        while self.at < len(text):
            if text[self.at] in " \t\r\n":
                self.at += 1
            elif text.startswith("//", self.at):
                end = text.find("\n", self.at)
                self.at = len(text) if end < 0 else end
            elif text.startswith("/*", self.at):
                end = text.find("*/", self.at + 2)
                if end < 0:
                    self.fail("a comment without an end")
                self.at = end + 2
            else:
                return

    def value(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            self.fail(f"nested more than {MAX_DEPTH} deep")
        start = self.at
        match self.text[start : start + 1]:
            case "{":
                return self._object(depth)
            case "[":
                return self._array(depth)
            case '"':
                value = self._string()
                return Node(start, self.at, value=value)
            case _:
                found = _SCALAR.match(self.text, start)
                if found is None:
                    self.fail("a value is missing or malformed")
                self.at = found.end()
                return Node(start, self.at, value=json.loads(found[0]))

    def _string(self) -> str:
        found = _STRING.match(self.text, self.at)
        if found is None:
            self.fail("a string without an end")
        self.at = found.end()
        try:
            value = json.loads(found[0])
        except ValueError:
            self.fail("a string with an unknown escape")
        assert isinstance(value, str)
        return value

    def _object(self, depth: int) -> Node:
        node = Node(self.at, self.at, members=[])
        assert node.members is not None
        self.at += 1
        while True:
            self.blank()
            if self.text[self.at : self.at + 1] == "}":
                self.at += 1
                node.end = self.at
                return node
            if self.text[self.at : self.at + 1] != '"':
                self.fail("a key or } is missing")
            start = self.at
            key = self._string()
            self.blank()
            if self.text[self.at : self.at + 1] != ":":
                self.fail("a : is missing")
            self.at += 1
            self.blank()
            node.members.append(Member(key, start, self.value(depth + 1)))
            self._comma("}")

    def _array(self, depth: int) -> Node:
        node = Node(self.at, self.at, value=[])
        self.at += 1
        while True:
            self.blank()
            if self.text[self.at : self.at + 1] == "]":
                self.at += 1
                node.end = self.at
                return node
            node.items.append(self.value(depth + 1))
            self._comma("]")

    def _comma(self, end: str) -> None:
        self.blank()
        match self.text[self.at : self.at + 1]:
            case ",":
                self.at += 1
            case found if found == end:
                pass
            case _:
                self.fail(f"a , or {end} is missing")
