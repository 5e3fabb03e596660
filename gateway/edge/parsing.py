"""From bytes to one JSON-RPC message: strictly, because what is judged is what will be forwarded (CONTRACT 5).

A message is parsed once. Everything in which two parsers could differ is refused here, never changed: integers beyond
64 bits (orjson would turn them into floats), lone surrogates, NaN and infinities, nesting beyond `MAX_DEPTH`. Duplicate
keys need no rule: the last one wins, and what is forwarded is serialised from the value that was judged.

Nothing here raises anything but `Malformed`.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600

MAX_DEPTH: Final = 128
"""Nesting of arrays and objects, the message's own object included."""

MAX_BATCH: Final = 100
"""Messages in one JSON-RPC batch (2025-03-26 only)."""

MAX_ID_CHARACTERS: Final = 1024
"""Of a request's id, which is echoed in the answer."""

_ZEROS = bytes(0x30 if 0x30 <= byte <= 0x39 else byte for byte in range(256))
_LONG_DIGITS = b"0" * 19
"""Every digit made a zero, 19 digits in a row are found with one search: fast, where a regular expression is not."""
_STRING_OR_NUMBER = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?', re.DOTALL)
_LOWEST, _HIGHEST = -(2**63), 2**64 - 1


class Malformed(Exception):
    """A message that cannot be taken.

    Args:
        code: the JSON-RPC error code to answer with.
        message: one sentence that names the place.
        request_id: the id to answer to, where it could be read.
    """

    def __init__(self, code: int, message: str, request_id: str | int | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.request_id = code, message, request_id


@dataclass(frozen=True, slots=True)
class Request:
    """A request: it has an id and is owed an answer."""

    id: str | int
    method: str
    params: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Notification:
    """A message without an id."""

    method: str
    params: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Response:
    """The client's answer to a request of ours."""

    id: str | int
    result: dict[str, Any] | None
    error: dict[str, Any] | None


Message = Request | Notification | Response


def parse(body: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """The JSON value of `body`, refused where it could not be passed on unchanged.

    Raises:
        Malformed: not JSON (-32700), or JSON with an integer beyond 64 bits or too deep (-32600).
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(PARSE_ERROR, f"The body is not JSON that can be read: {error}") from None
    if _LONG_DIGITS in body.translate(_ZEROS) and (place := _integer_beyond_64_bits(body)) is not None:
        raise Malformed(
            INVALID_REQUEST,
            f"The integer at byte {place} does not fit in 64 bits; send it as a string, or as a float",
            request_id_of(value),
        )
    if body.count(b"[") + body.count(b"{") > max_depth and _deeper_than(value, max_depth):
        raise Malformed(
            INVALID_REQUEST, f"Arrays and objects are nested more than {max_depth} deep", request_id_of(value)
        )
    return value


def message(value: Any) -> Message:
    """The one message in `value`.

    Raises:
        Malformed: -32600, not a JSON-RPC 2.0 message as MCP has them (params are an object, ids strings or integers).
    """
    if not isinstance(value, dict):
        what = (
            "an array: batches exist in protocol version 2025-03-26 alone" if isinstance(value, list) else "no object"
        )
        raise Malformed(INVALID_REQUEST, f"The message is {what}")
    if value.get("jsonrpc") != "2.0":
        raise Malformed(INVALID_REQUEST, 'The member "jsonrpc" is not "2.0"', request_id_of(value))
    method = value.get("method")
    if method is None and ("result" in value or "error" in value):
        return _response(value)
    if not isinstance(method, str) or not method:
        raise Malformed(INVALID_REQUEST, 'The member "method" is missing or not a string', request_id_of(value))
    params = value.get("params")
    if params is not None and not isinstance(params, dict):
        raise Malformed(INVALID_REQUEST, 'The member "params" is not an object', request_id_of(value))
    if "id" not in value:
        return Notification(method, params)
    identifier = request_id_of(value)
    if identifier is None:
        raise Malformed(
            INVALID_REQUEST,
            f'The member "id" is neither an integer nor a string of at most {MAX_ID_CHARACTERS} characters',
        )
    return Request(identifier, method, params)


def batch(values: list[Any]) -> list[Message | Malformed]:
    """The messages of a JSON-RPC batch, a malformed one in its place.

    Raises:
        Malformed: the batch is empty or has more than `MAX_BATCH` messages.
    """
    if not values:
        raise Malformed(INVALID_REQUEST, "The batch is empty")
    if len(values) > MAX_BATCH:
        raise Malformed(INVALID_REQUEST, f"The batch has more than {MAX_BATCH} messages")
    entries: list[Message | Malformed] = []
    for value in values:
        try:
            entries.append(message(value))
        except Malformed as problem:
            entries.append(problem)
    return entries


def request_id_of(value: Any) -> str | int | None:
    """The id of a parsed message, or None where it has none that could be answered to."""
    identifier = value.get("id") if isinstance(value, dict) else None
    if isinstance(identifier, str):
        return identifier if len(identifier) <= MAX_ID_CHARACTERS else None
    return identifier if type(identifier) is int else None


def _response(value: dict[str, Any]) -> Response:
    identifier = request_id_of(value)
    result, error = value.get("result"), value.get("error")
    if identifier is None:
        raise Malformed(INVALID_REQUEST, "A response without the id of a request")
    if not (isinstance(result, dict) and error is None) and not (isinstance(error, dict) and result is None):
        raise Malformed(INVALID_REQUEST, "A response has either a result or an error, and it is an object")
    return Response(identifier, result, error)


def _integer_beyond_64_bits(body: bytes) -> int | None:
    """Where the first integer outside [-2^63, 2^64) begins, or None. `body` is known to be JSON."""
    for token in _STRING_OR_NUMBER.finditer(body):
        text = token.group()
        if len(text) < 19 or text[0] == 0x22 or b"." in text or b"e" in text or b"E" in text:
            continue
        if len(text) > 20 or not _LOWEST <= int(text) <= _HIGHEST:
            return token.start()
    return None


def _deeper_than(value: Any, limit: int) -> bool:
    """Whether arrays and objects are nested deeper than `limit`; without recursion, level by level."""
    level = [value]
    for _ in range(limit):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(child for child in item.values() if isinstance(child, (dict, list)))
            elif isinstance(item, list):
                below.extend(child for child in item if isinstance(child, (dict, list)))
        if not below:
            return False
        level = below
    return True
