"""What the API and the console share about requests: bounded bodies, headers of every answer, and faults with a status."""

from collections.abc import Mapping
from typing import Any, Final

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request

from gateway.acts import ActForbidden, ActInvalid, ActRefused, ActUnknown, ActUnrecorded
from gateway.adapters import records
from gateway.config.secrets import REGISTRY

SAFE_HEADERS: Final[Mapping[str, str]] = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    # not `no-referrer`: browsers would send the forms of our own pages with `Origin: null`
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Of every answer: what operators see is nobody else's, and lies in no cache."""


class Fault(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        code: one word for programs.
        message: one sentence for a person.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})


def of_act(refused: ActRefused) -> Fault:
    """An act that was not done, as the answer to a request."""
    match refused:
        case ActForbidden():
            return Fault(403, "forbidden", str(refused))
        case ActUnknown():
            return Fault(404, "not_found", str(refused))
        case ActInvalid():
            return Fault(400, "invalid", str(refused))
        case ActUnrecorded():
            return Fault(503, "unavailable", str(refused), {"retry-after": "1"})
        case _:
            return Fault(409, "conflict", str(refused))


async def body_of(request: Request, limit: int) -> bytes:
    """The whole body.

    Raises:
        Fault: it is longer than `limit` bytes, or its client is gone.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise Fault(413, "too_large", f"the body is longer than {limit} bytes")
            parts.append(part)
    except ClientDisconnect:
        raise Fault(400, "invalid", "the body did not arrive") from None
    return b"".join(parts)


def remote(request: Request) -> str:
    """Where a request comes from, as the listener sees it."""
    return request.client.host if request.client is not None else ""


def add_safe_headers(headers: MutableHeaders) -> None:
    """Put `SAFE_HEADERS` into an answer."""
    for name, value in SAFE_HEADERS.items():
        headers.setdefault(name, value)


def without_secrets(value: Any) -> Any:
    """A JSON value in which the values of the configuration's references are erased."""
    return REGISTRY.redact_value(value) if len(REGISTRY) else value


def encoded(value: Any) -> bytes:
    """A value as JSON, without secrets; integers of any size stay exact."""
    text = records.dump(value)
    if len(REGISTRY) and REGISTRY.in_json(text.decode("utf-8", "replace")):
        return records.dump(REGISTRY.redact_value(records.load(text)))
    return text
