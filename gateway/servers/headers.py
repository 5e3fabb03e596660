"""Request headers that repeat what a request's body says (MCP 2026-07-28, "Streamable HTTP": headers and custom headers).

A server compares them with the body, so they are always built from the value that is sent, never taken over.
"""

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Methods whose `Mcp-Name` header repeats a member of the params."""

MARK: Final = "x-mcp-header"
"""The property annotation that asks for a `Mcp-Param-*` header."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PLAIN = re.compile(r"[\x20-\x7E]*")
_ENCODED = re.compile(r"=\?base64\?.*\?=")
_PRIMITIVE: Final = frozenset({"string", "integer", "boolean"})
_ONE: Final = (
    "items", "contains", "unevaluatedItems", "additionalProperties", "propertyNames", "unevaluatedProperties",
    "not", "if", "then", "else", "contentSchema",
)  # fmt: skip
_LIST: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAP: Final = ("patternProperties", "dependentSchemas", "$defs", "definitions")

Marked = Mapping[tuple[str, ...], str]
"""Path of property names to the header's name without its prefix."""


def encoded(value: str) -> str:
    """A header value: as it is where it survives HTTP, else in the `=?base64?...?=` form."""
    if _PLAIN.fullmatch(value) and value == value.strip() and not _ENCODED.fullmatch(value):
        return value
    return f"=?base64?{base64.b64encode(value.encode('utf-8')).decode('ascii')}?="


def lines(*headers: tuple[str, str]) -> bytes:
    """Headers as they stand in a request's head. Their values are `encoded`, so nothing can break out of its line."""
    return b"".join(b"%b: %b\r\n" % (name.encode("ascii"), value.encode("ascii")) for name, value in headers)


def marked(schema: Any) -> Marked:
    """The properties of an input schema that ask for a header.

    Raises:
        ValueError: an annotation that the specification forbids (such a tool must not be offered); the text says which.
    """
    found: dict[tuple[str, ...], str] = {}
    taken: set[str] = set()
    for path, part in _positions(schema):
        if MARK not in part:
            continue
        if not path:
            raise ValueError(f"{MARK} stands where no argument is")
        where, token = ".".join(path), part[MARK]
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise ValueError(f"{MARK} of {where!r} is no header name")
        kind = part.get("type")
        if not isinstance(kind, str) or kind not in _PRIMITIVE:
            raise ValueError(f"{MARK} of {where!r} needs the type string, integer or boolean")
        if token.lower() in taken:
            raise ValueError(f"{MARK} {token!r} is there twice")
        taken.add(token.lower())
        found[path] = token
    return found


def _positions(root: Any) -> Iterator[tuple[tuple[str, ...] | None, Mapping[str, Any]]]:
    """Every schema in a schema, with its path of property names, or None where something else lies between."""
    stack: list[tuple[tuple[str, ...] | None, Any]] = [((), root)]
    while stack:
        path, part = stack.pop()
        if not isinstance(part, dict):
            continue
        yield path, part
        if isinstance(properties := part.get("properties"), dict):
            stack.extend(((*path, name) if path is not None else None, inner) for name, inner in properties.items())
        stack.extend((None, part[keyword]) for keyword in _ONE if keyword in part)
        for keyword in _LIST:
            if isinstance(inner := part.get(keyword), list):
                stack.extend((None, item) for item in inner)
        for keyword in _MAP:
            if isinstance(inner := part.get(keyword), dict):
                stack.extend((None, item) for item in inner.values())


def of_arguments(marks: Marked, arguments: Any) -> Iterator[tuple[str, str]]:
    """The `Mcp-Param-*` headers of these arguments; none for an argument that is absent, null or not a scalar."""
    for path, token in marks.items():
        value = arguments
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        match value:
            case bool():
                text = "true" if value else "false"
            case str() | int() | float():
                text = str(value)
            case _:
                continue
        yield f"Mcp-Param-{token}", encoded(text)
