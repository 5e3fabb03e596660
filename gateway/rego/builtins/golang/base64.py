"""Go's `encoding/base64` and `encoding/hex`: line breaks are skipped, leftover bits ignored, errors name the byte."""

from __future__ import annotations

import base64
from typing import Final

from gateway.rego.builtins.golang.unicode import is_print, quote_rune


class DecodeError(ValueError):
    """The text is not so encoded; the message is Go's."""


_STANDARD: Final = {
    char: at for at, char in enumerate(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
}
_URL: Final = {char: at for at, char in enumerate(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")}
_BREAKS: Final = b"\r\n"


def decode(text: str, *, url: bool = False) -> bytes:
    """`StdEncoding.DecodeString` or `URLEncoding.DecodeString`, both padded. Raises DecodeError."""
    data = text.encode()
    alphabet = _URL if url else _STANDARD
    out = bytearray()
    at = 0
    while at < len(data):
        group: list[int] = []
        while len(group) < 4:
            if at == len(data):
                if not group:
                    return bytes(out)
                raise DecodeError(f"illegal base64 data at input byte {at - len(group)}")
            byte = data[at]
            at += 1
            value = alphabet.get(byte)
            if value is not None:
                group.append(value)
            elif byte in _BREAKS:
                continue
            elif byte != 0x3D or len(group) < 2:
                raise DecodeError(f"illegal base64 data at input byte {at - 1}")
            else:
                return bytes(out) + _padded(data, at, group)
        bits = group[0] << 18 | group[1] << 12 | group[2] << 6 | group[3]
        out += bits.to_bytes(3)
    return bytes(out)


def _padded(data: bytes, at: int, group: list[int]) -> bytes:
    """The last bytes, after the first `=` of the padding."""

    def skip(at: int) -> int:
        while at < len(data) and data[at] in _BREAKS:
            at += 1
        return at

    if len(group) == 2:
        at = skip(at)
        if at == len(data):
            raise DecodeError(f"illegal base64 data at input byte {len(data)}")
        if data[at] != 0x3D:
            raise DecodeError(f"illegal base64 data at input byte {at - 1}")
        at += 1
    at = skip(at)
    if at < len(data):
        raise DecodeError(f"illegal base64 data at input byte {at}")
    bits = group[0] << 18 | group[1] << 12 | (group[2] << 6 if len(group) == 3 else 0)
    return bits.to_bytes(3)[: len(group) - 1]


def encode(data: bytes, *, url: bool = False, padded: bool = True) -> str:
    """`EncodeToString`."""
    text = (base64.urlsafe_b64encode(data) if url else base64.b64encode(data)).decode("ascii")
    return text if padded else text.rstrip("=")


def decode_hex(text: str) -> bytes:
    """`hex.DecodeString`. Raises DecodeError."""
    data = text.encode()
    digits = b"0123456789abcdefABCDEF"
    for at in range(0, len(data) - 1, 2):
        for byte in data[at : at + 2]:
            if byte not in digits:
                raise _bad_digit(byte)
    if len(data) % 2:
        if data[-1] not in digits:
            raise _bad_digit(data[-1])
        raise DecodeError("encoding/hex: odd length hex string")
    return bytes.fromhex(text)


def _bad_digit(byte: int) -> DecodeError:
    shown = f"U+{byte:04X}" + (f" {quote_rune(byte)}" if is_print(byte) else "")
    return DecodeError(f"encoding/hex: invalid byte: {shown}")
