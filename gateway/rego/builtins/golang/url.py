"""Go's `net/url`: escaping, queries, and the parts of a URL.

Works on UTF-8 bytes, as Go does: an escape may stand for any byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from gateway.rego.builtins.golang import netip
from gateway.rego.builtins.golang.unicode import quote


class UrlError(ValueError):
    """Not a URL, or not an escaped text; the message is Go's."""


class Mode(Enum):
    """Where in a URL a text stands; what is escaped depends on it."""

    PATH = "path"
    HOST = "host"
    ZONE = "zone"
    USER = "user"
    QUERY = "query"
    FRAGMENT = "fragment"


_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")
_PLAIN: Final = {
    Mode.PATH: _UNRESERVED | frozenset(b"$&+,/:;=@"),
    Mode.HOST: _UNRESERVED | frozenset(b"!$&'()*+,;=:[]<>\""),
    Mode.ZONE: _UNRESERVED | frozenset(b"!$&'()*+,;=:[]<>\""),
    Mode.USER: _UNRESERVED | frozenset(b"$&+,;="),
    Mode.QUERY: _UNRESERVED,
    Mode.FRAGMENT: _UNRESERVED | frozenset(b"$&+,/:;=?@!()*"),
}
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")


def escape(data: bytes, mode: Mode) -> str:
    """`url.QueryEscape` and its like."""
    plain = _PLAIN[mode]
    out: list[str] = []
    for byte in data:
        if byte in plain:
            out.append(chr(byte))
        elif byte == 0x20 and mode is Mode.QUERY:
            out.append("+")
        else:
            out.append(f"%{byte:02X}")
    return "".join(out)


def unescape(data: bytes, mode: Mode) -> bytes:
    """`url.QueryUnescape` and its like. Raises UrlError."""
    out = bytearray()
    at = 0
    while at < len(data):
        byte = data[at]
        if byte == 0x25:
            digits = data[at + 1 : at + 3]
            whole = data[at : at + 3]
            if len(digits) < 2 or digits[0] not in _HEX or digits[1] not in _HEX:
                raise _invalid(whole)
            decoded = int(digits, 16)
            if mode is Mode.HOST and decoded < 0x80 and whole != b"%25":
                raise _invalid(whole)
            if mode is Mode.ZONE and whole != b"%25" and decoded != 0x20 and decoded not in _PLAIN[Mode.HOST]:
                raise _invalid(whole)
            out.append(decoded)
            at += 3
            continue
        if mode in (Mode.HOST, Mode.ZONE) and byte < 0x80 and byte not in _PLAIN[mode]:
            raise UrlError(f"invalid character {quote(chr(byte))} in host name")
        out.append(0x20 if byte == 0x2B and mode is Mode.QUERY else byte)
        at += 1
    return bytes(out)


def _invalid(escaped: bytes) -> UrlError:
    return UrlError(f"invalid URL escape {quote(escaped.decode(errors='surrogateescape'))}")


MAX_PARAMETERS: Final = 10_000


def parse_query(text: str) -> list[tuple[bytes, bytes]]:
    """`url.ParseQuery`. Raises UrlError: the last semicolon, or else the first bad escape."""
    if text.count("&") + 1 > MAX_PARAMETERS:
        raise UrlError("number of URL query parameters exceeded limit")
    error: UrlError | None = None
    out: list[tuple[bytes, bytes]] = []
    for part in text.split("&"):
        if ";" in part:
            error = UrlError("invalid semicolon separator in query")
            continue
        if not part:
            continue
        name, _, value = part.partition("=")
        try:
            out.append((unescape(name.encode(), Mode.QUERY), unescape(value.encode(), Mode.QUERY)))
        except UrlError as problem:
            error = error or problem
    if error is not None:
        raise error
    return out


@dataclass(frozen=True, slots=True)
class Url:
    """The parts of a URL; empty where there are none."""

    scheme: str = ""
    host: bytes = b""
    path: bytes = b""
    raw_path: str = ""
    raw_query: str = ""
    fragment: bytes = b""

    def host_and_port(self) -> tuple[bytes, bytes]:
        """`Hostname` and `Port`."""
        host, port = self.host, b""
        colon = host.rfind(b":")
        if colon >= 0 and _valid_port(host[colon:]):
            host, port = host[:colon], host[colon + 1 :]
        if host.startswith(b"[") and host.endswith(b"]"):
            host = host[1:-1]
        return host, port


def parse(text: str) -> Url:
    """`url.Parse`. Raises UrlError."""
    head, _, fragment = text.partition("#")
    try:
        scheme, host, path, raw_path, raw_query = _parse(head)
    except UrlError as error:
        raise UrlError(f"parse {quote(head)}: {error}") from None
    try:
        unescaped = unescape(fragment.encode(), Mode.FRAGMENT)
    except UrlError as error:
        raise UrlError(f"parse {quote(text)}: {error}") from None
    return Url(scheme, host, path, raw_path, raw_query, unescaped)


def _parse(text: str) -> tuple[str, bytes, bytes, str, str]:
    if any(char < " " or char == "\x7f" for char in text):
        raise UrlError("net/url: invalid control character in URL")
    if text == "*":
        return "", b"", b"*", "", ""
    scheme, rest = _scheme(text)
    scheme = scheme.lower()
    query = ""
    if rest.endswith("?") and rest.count("?") == 1:
        rest = rest[:-1]
    else:
        rest, _, query = rest.partition("?")
    host = b""
    if not rest.startswith("/"):
        if scheme:
            return scheme, b"", b"", "", query
        if ":" in rest.partition("/")[0]:
            raise UrlError("first path segment in URL cannot contain colon")
    if (scheme or not rest.startswith("///")) and rest.startswith("//"):
        authority, slash, after = rest[2:].partition("/")
        rest = slash + after
        host = _authority(scheme, authority)
    path = unescape(rest.encode(), Mode.PATH)
    raw_path = "" if escape(path, Mode.PATH) == rest else rest
    return scheme, host, path, raw_path, query


def _scheme(text: str) -> tuple[str, str]:
    for at, char in enumerate(text):
        if char.isascii() and char.isalpha():
            continue
        if char in "0123456789+-.":
            if at == 0:
                break
        elif char == ":":
            if at == 0:
                raise UrlError("missing protocol scheme")
            return text[:at], text[at + 1 :]
        else:
            break
    return "", text


_USERINFO: Final = frozenset("-._:~!$&'()*+,;=%@")


def _authority(scheme: str, authority: str) -> bytes:
    user, at, host_text = authority.rpartition("@")
    host = _host(scheme, host_text)
    if at:
        if not all((char.isascii() and char.isalnum()) or char in _USERINFO for char in user):
            raise UrlError("net/url: invalid userinfo")
        for part in user.split(":", 1):
            unescape(part.encode(), Mode.USER)
    return host


def _valid_port(text: bytes) -> bool:
    return not text or (text[:1] == b":" and all(0x30 <= byte <= 0x39 for byte in text[1:]))


def _host(scheme: str, text: str) -> bytes:
    opening = text.rfind("[")
    if opening > 0:
        raise UrlError("invalid IP-literal")
    if opening == 0:
        return _literal(text)
    first, last = text.find(":"), text.rfind(":")
    if first >= 0:
        if first != last and scheme not in ("http", "https"):
            first = last
        if not _valid_port(text[first:].encode()):
            raise UrlError(f"invalid port {quote(text[first:])} after host")
    return unescape(text.encode(), Mode.HOST)


def _literal(text: str) -> bytes:
    closing = text.rfind("]")
    if closing < 0:
        raise UrlError("missing ']' in host")
    port = text[closing + 1 :].encode()
    if not _valid_port(port):
        raise UrlError(f"invalid port {quote(text[closing + 1 :])} after host")
    name = text[1:closing].encode()
    zone = name.find(b"%25")
    if zone >= 0:
        unescaped = unescape(name[:zone], Mode.HOST) + unescape(name[zone:], Mode.ZONE)
    else:
        unescaped = unescape(name, Mode.HOST)
    address = netip.parse_address(unescaped.decode(errors="replace"))
    if address is None:
        raise UrlError("invalid host: " + _why(unescaped.decode(errors="replace")))
    if address.bits == 32:
        raise UrlError("invalid IP-literal")
    return b"[" + unescaped + b"]" + port


def _why(text: str) -> str:
    if ":" not in text and "." not in text and "%" not in text:
        return f"ParseAddr({quote(text)}): unable to parse IP"
    return f"ParseAddr({quote(text)}): no IP address"
