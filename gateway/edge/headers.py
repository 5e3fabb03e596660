"""HTTP header rules of 2026-07-28: what the headers say must be what the body says, before anything is judged.

An intermediary may route or refuse by `Mcp-Method`, `Mcp-Name` and `Mcp-Param-*`; were the body another's, the policy
would be asked about one request and another would run. Source: the revision's transports page, SEP-2243.
"""

import base64
import binascii
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.edge.protocol import (
    CAPABILITIES_KEY,
    HEADER_MISMATCH,
    INVALID_PARAMS,
    MODERN_VERSIONS,
    UNSUPPORTED_VERSION,
    VERSION_KEY,
)
from gateway.model.snapshot import Entry

VERSION: Final = b"mcp-protocol-version"
METHOD: Final = b"mcp-method"
NAME: Final = b"mcp-name"
PARAM_PREFIX: Final = b"mcp-param-"

NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""The methods whose target stands in `Mcp-Name`, and the param that it mirrors."""

_SENTINEL = re.compile(r"=\?base64\?(.*)\?=")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_ABSENT = object()


class Mismatch(Exception):
    """A request that its headers or its envelope disqualify: `code`, `message`, `data` of the JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


def collect(raw: list[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], set[bytes]]:
    """The headers by lower-case name, first value each, without surrounding white space; and which came repeatedly."""
    found: dict[bytes, bytes] = {}
    repeated: set[bytes] = set()
    for name, value in raw:
        if name in found:
            repeated.add(name)
        else:
            found[name] = value.strip(b" \t")
    return found, repeated


def decoded(value: bytes) -> str | None:
    """A header's text: as it is, or out of its `=?base64?...?=` form; None where that is malformed."""
    text = value.decode("latin-1")
    match = _SENTINEL.fullmatch(text)
    if match is None:
        return text
    try:
        raw = base64.b64decode(match.group(1), validate=True)
        if base64.b64encode(raw).decode("ascii") != match.group(1):
            return None  # not the one canonical form
        return raw.decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None


def check_envelope(method: str, params: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The request's `_meta`, complete.

    Raises:
        Mismatch: -32602 naming the keys that are missing.
    """
    meta = params.get("_meta") if params is not None else None
    if not isinstance(meta, dict):
        raise Mismatch(
            INVALID_PARAMS, f"params._meta is missing; it must have {VERSION_KEY!r} and {CAPABILITIES_KEY!r}"
        )
    missing = [key for key in (VERSION_KEY, CAPABILITIES_KEY) if key not in meta]
    if missing:
        raise Mismatch(INVALID_PARAMS, f"params._meta lacks {' and '.join(repr(key) for key in missing)}")
    if not isinstance(meta[VERSION_KEY], str):
        raise Mismatch(INVALID_PARAMS, f"params._meta[{VERSION_KEY!r}] is not a string")
    if not isinstance(meta[CAPABILITIES_KEY], dict):
        raise Mismatch(INVALID_PARAMS, f"params._meta[{CAPABILITIES_KEY!r}] is not an object")
    return meta


def check_version(version: str) -> None:
    """Raises `Mismatch` -32022 where the version is none that we speak statelessly."""
    if version not in MODERN_VERSIONS:
        raise Mismatch(
            UNSUPPORTED_VERSION,
            f"Protocol version {version!r} is not supported",
            {"supported": list(MODERN_VERSIONS), "requested": version},
        )


def check_headers(
    headers: Mapping[bytes, bytes], repeated: set[bytes], method: str, params: Mapping[str, Any], version: str
) -> None:
    """Raises `Mismatch` -32020 where a routing header is missing, repeated, or not what the body says."""
    for name in (VERSION, METHOD, NAME):
        if name in repeated:
            raise Mismatch(HEADER_MISMATCH, f"The header {_shown(name)} came more than once")
    found = headers.get(VERSION)
    if found is None:
        raise Mismatch(HEADER_MISMATCH, "The header MCP-Protocol-Version is missing")
    if found.decode("latin-1") != version:
        raise Mismatch(HEADER_MISMATCH, "The header MCP-Protocol-Version is not the version in params._meta")
    found = headers.get(METHOD)
    if found is None:
        raise Mismatch(HEADER_MISMATCH, "The header Mcp-Method is missing")
    if found.decode("latin-1") != method:
        raise Mismatch(HEADER_MISMATCH, "The header Mcp-Method is not the method in the body")
    key = NAMED.get(method)
    if key is None:
        return
    named = params.get(key)
    if not isinstance(named, str):
        return  # params that lack their name are refused as such, later
    found = headers.get(NAME)
    if found is None:
        raise Mismatch(HEADER_MISMATCH, "The header Mcp-Name is missing")
    if decoded(found) != named:
        raise Mismatch(HEADER_MISMATCH, f"The header Mcp-Name is not params.{key}")


class DeclaredHeaders:
    """Which of a tool's arguments are mirrored in headers (`x-mcp-header`), worked out once a definition."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[tuple[tuple[str, ...], bytes, Any], ...]] = OrderedDict()

    def check(self, entry: Entry, arguments: Any, headers: Mapping[bytes, bytes], repeated: set[bytes]) -> None:
        """Raises `Mismatch` -32020 where a declared header and its argument do not agree, present or absent together."""
        declared = self._known.get(entry.definition_sha256)
        if declared is None:
            declared = self._known[entry.definition_sha256] = declarations(entry.definition.get("inputSchema"))
            while len(self._known) > 4_096:
                self._known.popitem(last=False)
        for path, header, kind in declared:
            _check_one(path, header, kind, arguments, headers, repeated)


def declarations(schema: Any) -> tuple[tuple[tuple[str, ...], bytes, Any], ...]:
    """`(path of the property, header's lower-case name, type)` of each valid `x-mcp-header` in an input schema.

    Only properties that are reached from the root through `properties` alone can be mirrored. A schema with any invalid
    annotation mirrors nothing: conforming clients drop such a tool.
    """
    found: list[tuple[tuple[str, ...], bytes, Any]] = []
    names: set[str] = set()
    for path, node in _positions(schema):
        if "x-mcp-header" not in node:
            continue
        token, kind = node["x-mcp-header"], node.get("type")
        if not path or not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
            return ()
        if kind not in ("string", "integer", "boolean") or token.lower() in names:
            return ()
        names.add(token.lower())
        found.append((path, PARAM_PREFIX + token.lower().encode("ascii"), kind))
    return tuple(found)


_SINGLE = (
    "items", "contains", "unevaluatedItems", "additionalProperties", "propertyNames", "unevaluatedProperties",
    "not", "if", "then", "else", "contentSchema",
)  # fmt: skip
_MANY = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED_MANY = ("patternProperties", "dependentSchemas", "$defs", "definitions")


def _positions(schema: Any) -> Iterator[tuple[tuple[str, ...] | None, dict[str, Any]]]:
    """Every schema position, with its path where only `properties` lead to it. Never follows `$ref`."""
    waiting: list[tuple[tuple[str, ...] | None, Any]] = [((), schema)]
    while waiting:
        path, node = waiting.pop()
        if not isinstance(node, dict):
            continue
        yield path, node
        for name, child in (node.get("properties") or {}).items() if isinstance(node.get("properties"), dict) else ():
            waiting.append(((*path, name) if path is not None else None, child))
        for keyword in _SINGLE:
            waiting.append((None, node.get(keyword)))
        for keyword in _MANY:
            children = node.get(keyword)
            waiting.extend((None, child) for child in (children if isinstance(children, list) else ()))
        for keyword in _NAMED_MANY:
            children = node.get(keyword)
            waiting.extend((None, child) for child in (children.values() if isinstance(children, dict) else ()))


def _check_one(
    path: tuple[str, ...],
    header: bytes,
    kind: Any,
    arguments: Any,
    headers: Mapping[bytes, bytes],
    repeated: set[bytes],
) -> None:
    shown, where = _shown(header), ".".join(path)
    if header in repeated:
        raise Mismatch(HEADER_MISMATCH, f"The header {shown} came more than once")
    found = headers.get(header)
    value: Any = arguments
    for key in path:
        value = value.get(key, _ABSENT) if isinstance(value, dict) else _ABSENT
    if value is _ABSENT or value is None or isinstance(value, (dict, list)):
        if found is not None:
            raise Mismatch(HEADER_MISMATCH, f"The header {shown} came without the argument {where!r}")
        return
    if found is None:
        raise Mismatch(HEADER_MISMATCH, f"The header {shown} is missing, for the argument {where!r}")
    text = decoded(found)
    if text is None or not _same(kind, value, text):
        raise Mismatch(HEADER_MISMATCH, f"The header {shown} is not the argument {where!r}")


def _same(kind: Any, value: Any, text: str) -> bool:
    """Whether a header's text is the argument: booleans as `true`/`false`, integers by value, all else as text."""
    if isinstance(value, bool):
        return text == ("true" if value else "false")
    if (
        kind == "integer"
        and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
        and len(text) <= 64
        and _DECIMAL.fullmatch(text) is not None
    ):
        whole, _, fraction = text.partition(".")
        return not fraction.strip("0") and int(whole) == int(value)
    return text == str(value)


def _shown(name: bytes) -> str:
    text = "-".join(part.capitalize() for part in name.decode("latin-1").split("-"))
    return "MCP-Protocol-Version" if name == VERSION else text
