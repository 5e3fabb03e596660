"""JSON-RPC as tool servers speak it: envelopes without looking inside, requests from judged values, both eras' constants.

A message is decoded only as far as its envelope; a result stays the bytes that were received. What a tool server says
under the gateway's own `_meta` keys is cut out, and every other byte of the message stays as it was.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import orjson

MODERN: Final = "2026-07-28"
"""The revision without sessions: each request carries its own envelope in `_meta`."""

HANDSHAKE: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""The revisions with `initialize`, the newest first."""

ENVELOPE: Final = "io.modelcontextprotocol/"
VERSION_KEY: Final = ENVELOPE + "protocolVersion"
CAPABILITIES_KEY: Final = ENVELOPE + "clientCapabilities"
CLIENT_KEY: Final = ENVELOPE + "clientInfo"
LOG_LEVEL_KEY: Final = ENVELOPE + "logLevel"
SUBSCRIPTION_KEY: Final = ENVELOPE + "subscriptionId"
SERVER_KEY: Final = ENVELOPE + "serverInfo"
ENVELOPE_KEYS: Final = frozenset({VERSION_KEY, CAPABILITIES_KEY, CLIENT_KEY, LOG_LEVEL_KEY})
"""What describes one hop and its era: written anew for each tool server."""

PARSE_ERROR: Final = -32700
METHOD_NOT_FOUND: Final = -32601
INTERNAL_ERROR: Final = -32603
UNSUPPORTED_VERSION: Final = -32022
NOT_ATTRIBUTABLE: Final = -32000
"""For a server's request of which nobody knows whose call caused it (a legacy server's range, no meaning of its own)."""

MAX_DEPTH: Final = 128

Unset = msgspec.UnsetType

RESERVED: Final = "gateway/"


class Envelope(msgspec.Struct, gc=False):
    """One JSON-RPC message; what is in it stays raw. Absent members are `UNSET`."""

    id: int | str | float | msgspec.UnsetType | None = msgspec.UNSET
    method: str | msgspec.UnsetType = msgspec.UNSET
    params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Doubtful(Envelope, gc=False):
    """A message that holds what not every reader of JSON takes: half a surrogate pair, most often, bytes that are no UTF-8, or
    (in an answer) a `NaN`."""


class Garbage(ValueError):
    """Bytes that are no JSON-RPC message. The text says why."""


_decode_one = msgspec.json.Decoder(Envelope).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


def decode(data: bytes) -> Envelope:
    """The envelope of one message. The whole text is checked to be JSON in UTF-8.

    Raises:
        Garbage: it is no JSON object with the members of JSON-RPC, it is nested too deeply, or it is not UTF-8.
    """
    try:
        envelope = _decode_one(data)
        if not data.isascii():
            data.decode("utf-8")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return _doubtful(data, str(error))
    return envelope


def _doubtful(data: bytes, reason: str) -> Doubtful:
    """The envelope of a message that the strict decoder does not take for what is somewhere inside it."""
    found = _spans(data, reason)
    if not isinstance(found, dict):
        raise Garbage(reason[:200])
    known: dict[str, Any] = {name: msgspec.Raw(found[name]) for name in ("params", "result", "error") if name in found}
    try:
        known.update((name, msgspec.json.decode(found[name])) for name in ("id", "method") if name in found)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Garbage(reason[:200]) from None
    if not isinstance(known.get("id"), str | int | float | None) or isinstance(known.get("id"), bool):
        raise Garbage("its id is none")
    if not isinstance(known.get("method", ""), str):
        raise Garbage("its method is none")
    if "method" in known and not _is_json(found.get("params", b"{}")):
        raise Garbage(reason[:200])  # it is relayed as it stands, where an answer is not
    return Doubtful(**known)


def _spans(data: bytes, reason: str) -> dict[str, bytes] | list[bytes]:
    """The members of a JSON object, or the items of an array, each as its bytes, read as leniently as Python reads them: with
    `NaN` and `Infinity`, which many a server writes.

    Raises:
        Garbage: it is neither; the text is `reason`.
    """
    try:
        text = data.decode("utf-8", "surrogateescape")
        at = _blank(text, 0)
        opening = text[at]
        members: dict[str, bytes] = {}
        items: list[bytes] = []
        if opening not in "{[":
            raise Garbage(reason[:200])
        closing = "}" if opening == "{" else "]"
        at = _blank(text, at + 1)
        more = text[at] != closing
        while more:
            key = ""
            if opening == "{":
                key, at = _SCANNER.raw_decode(text, at) if text[at] == '"' else ("", len(text))
                at = _blank(text, at)
                at = _blank(text, at + 1) if text[at] == ":" else len(text)
            _, end = _SCANNER.raw_decode(text, at)
            span = text[at:end].encode("utf-8", "surrogateescape")
            members[key] = span
            items.append(span)
            at = _blank(text, end)
            more = text[at] == ","
            if more:
                at = _blank(text, at + 1)
        if text[at] != closing or _blank(text, at + 1) != len(text):
            raise Garbage(reason[:200])
    except (ValueError, IndexError, RecursionError):
        raise Garbage(reason[:200]) from None
    return members if opening == "{" else items


def _blank(text: str, at: int) -> int:
    """Past blanks."""
    while at < len(text) and text[at] in " \t\n\r":
        at += 1
    return at


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_SCANNER = json.JSONDecoder()


def _is_json(raw: bytes) -> bool:
    try:
        json.loads(raw.decode("utf-8", "replace"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return True


def decode_batch(data: bytes) -> list[bytes]:
    """The items of a JSON array (definitions, the messages of a batch), each as its bytes.

    Raises:
        Garbage: it is no JSON array.
    """
    try:
        return [bytes(raw) for raw in _decode_array(data)]
    except (msgspec.MsgspecError, RecursionError) as error:
        found = _spans(data, str(error))
    if not isinstance(found, list):
        raise Garbage("it is no array")
    return found


def parse(raw: bytes | msgspec.Raw) -> Any:
    """A JSON value as Python's. Integers of any size stay exact.

    Raises:
        Garbage: it is not JSON in UTF-8, or is nested too deeply.
    """
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Garbage(str(error)[:200]) from None


def parse_mended(raw: bytes | msgspec.Raw) -> Any:
    """A JSON value as Python's, with U+FFFD for what is no character: for what is written anew anyway.

    Raises:
        Garbage: it is not JSON.
    """
    try:
        return parse(raw)
    except Garbage as error:
        try:
            return _mended(json.loads(bytes(raw).decode("utf-8", "replace"), parse_constant=_no_constant))
        except (ValueError, RecursionError):
            raise error from None


def _mended(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        case dict():
            return {_mended(name): _mended(inner) for name, inner in value.items()}
        case list():
            return [_mended(inner) for inner in value]
        case _:
            return value


def members(raw: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """The members of a JSON object, each as its bytes.

    Raises:
        Garbage: it is no JSON object.
    """
    try:
        return _decode_object(raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        found = _spans(bytes(raw), str(error))
    if not isinstance(found, dict):
        raise Garbage("it is no object")
    return {name: msgspec.Raw(value) for name, value in found.items()}


def relayed(raw: msgspec.Raw) -> bytes:
    """A result or error as it is relayed: the bytes received, on one line and without the gateway's own `_meta` keys.

    A line break in JSON can only stand between tokens; a blank in its place changes nothing, and keeps framings by line
    (stdio, event streams) whole.
    """
    data = bytes(raw)
    if b"\n" in data:
        data = data.replace(b"\n", b" ")
    if b"\r" in data:
        data = data.replace(b"\r", b" ")
    return strip_reserved(data)


def _spelt(text: str) -> bytes:
    """A pattern for a JSON string's text however it is escaped."""
    parts = []
    for character in text:
        code = f"{ord(character):04x}"
        digits = "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in code)
        plain = re.escape(character) + (r"|\\/" if character == "/" else "")
        parts.append(rf"(?:{plain}|\\u{digits})")
    return "".join(parts).encode()


_ESCAPED_RESERVED = re.compile(_spelt(RESERVED))


def mentions_reserved(data: bytes) -> bool:
    """Does the text contain `gateway/`, plain or JSON-escaped?"""
    if b"gateway/" in data:
        return True
    return (b"\\u00" in data or b"\\/" in data) and _ESCAPED_RESERVED.search(data) is not None


def strip_reserved(data: bytes) -> bytes:
    """The JSON text without the keys under `gateway/` of every `_meta` object in it.

    Parsed only where the text mentions them, and then only along the way to them: all other bytes stay.
    """
    if not mentions_reserved(data):
        return data
    stripped = _strip(data, 0)
    return data if stripped is None else stripped


def _strip(data: bytes, depth: int) -> bytes | None:
    """The text without the keys; None where it has none of them."""
    if depth > MAX_DEPTH:
        raise Garbage(f"nested more than {MAX_DEPTH} deep")
    changed = False
    match data[:1]:
        case b"{":
            found = members(data)
            for key, raw in found.items():
                value = bytes(raw)
                if not mentions_reserved(value):
                    continue
                if key == "_meta" and value[:1] == b"{":
                    meta = members(value)
                    kept = {name: entry for name, entry in meta.items() if not name.startswith(RESERVED)}
                    if len(kept) != len(meta):
                        value, changed = msgspec.json.encode(kept), True
                        found[key] = msgspec.Raw(value)
                if (inner := _strip(value, depth + 1)) is not None:
                    found[key] = msgspec.Raw(inner)
                    changed = True
            return msgspec.json.encode(found) if changed else None
        case b"[":
            items = _decode_array(data)
            for index, raw in enumerate(items):
                if mentions_reserved(bytes(raw)) and (inner := _strip(bytes(raw), depth + 1)) is not None:
                    items[index] = msgspec.Raw(inner)
                    changed = True
            return msgspec.json.encode(items) if changed else None
        case _:
            return None


def plain(value: Any) -> Any:
    """For the serialiser: any mapping is an object, any other sequence of the model an array."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"not a JSON value: {type(value).__name__}")


def request(identifier: int, method: str, params: Mapping[str, Any]) -> bytes:
    """A request's JSON text.

    Raises:
        TypeError: the params hold what JSON cannot carry (a lone surrogate, an integer beyond 64 bits).
    """
    return orjson.dumps({"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}, default=plain)


def notification(method: str, params: Mapping[str, Any]) -> bytes:
    """A notification's JSON text. Raises as `request` does."""
    return orjson.dumps({"jsonrpc": "2.0", "method": method, "params": params}, default=plain)


def answer(identifier: Any, body: Mapping[str, Any]) -> bytes:
    """The answer to a tool server's own request: `body` is `{"result": ...}` or `{"error": ...}`.

    An answer that JSON cannot carry becomes an error, so that the server is never left waiting.
    """
    try:
        rest = orjson.dumps(body, default=plain)
    except TypeError:
        failure = {"code": INTERNAL_ERROR, "message": "The answer cannot be written as JSON"}
        rest = orjson.dumps({"error": failure})
    # The id goes back as it came, be it an integer of any size.
    return b'{"jsonrpc":"2.0","id":%b,%b' % (msgspec.json.encode(identifier), rest[1:])


def notified(message: Envelope) -> tuple[str, dict[str, Any]]:
    """Method and params of what a server sends of itself; params that are none are empty."""
    assert isinstance(message.method, str)
    if isinstance(message.params, Unset):
        return message.method, {}
    try:
        params = parse_mended(strip_reserved(bytes(message.params)))
    except Garbage:
        return message.method, {}
    return message.method, params if isinstance(params, dict) else {}


def member(message: Envelope, name: str) -> Any:
    """One member of the params, or None."""
    return notified(message)[1].get(name)
