"""UUIDs: `uuid.parse`, and `uuid.rfc4122` from the caller's seed."""

from __future__ import annotations

import re
from typing import Final

from gateway.rego.builtins.numbers import derive
from gateway.rego.builtins.operands import string
from gateway.rego.builtins.registry import BuiltinContext, builtin
from gateway.rego.values import UNDEFINED, Value, to_rego

_HYPHENED: Final = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_EPOCH: Final = 122_192_928_000_000_000
"""Intervals of 100 ns from the start of the Gregorian calendar to the Unix epoch."""


def _bytes(text: str) -> bytes | None:
    size = len(text.encode())
    if size == 32 and re.fullmatch(r"[0-9a-fA-F]{32}", text):
        return bytes.fromhex(text)
    if size == 45 and text[:9].lower() == "urn:uuid:":
        text = text[9:]
    elif size == 38:
        # Whatever encloses it: the library looks at what is between.
        text = text.encode()[1:37].decode(errors="replace")
    elif size != 36:
        return None
    return bytes.fromhex(text.replace("-", "")) if _HYPHENED.fullmatch(text) else None


@builtin("uuid.parse")
def uuid_parse(ctx: BuiltinContext, text: Value) -> Value:
    data = _bytes(string(text, 1))
    if data is None:
        return UNDEFINED
    version = data[6] >> 4
    result: dict[Value, Value] = {"version": version, "variant": _variant(data[8])}
    if version in (1, 2):
        time = int.from_bytes(data[0:4]) | int.from_bytes(data[4:6]) << 32 | (int.from_bytes(data[6:8]) & 0xFFF) << 48
        node = data[10:]
        # Go's integers wrap around where the time is too far off.
        result["time"] = ((time - _EPOCH) * 100 + 2**63) % 2**64 - 2**63
        result["nodeid"] = "-".join(f"{byte:02x}" for byte in node)
        result["macvariables"] = _address_kind(node[0])
        result["clocksequence"] = int.from_bytes(data[8:10]) & 0x3FFF
        if version == 2:
            result["id"] = int.from_bytes(data[0:4])
            result["domain"] = {0: "Person", 1: "Group", 2: "Org"}.get(data[9], f"Domain{data[9]}")
    return result


def _variant(byte: int) -> str:
    if byte & 0xC0 == 0x80:
        return "RFC4122"
    if byte & 0xE0 == 0xC0:
        return "Microsoft"
    return "Future" if byte & 0xE0 == 0xE0 else "Reserved"


def _address_kind(byte: int) -> str:
    return ("local:" if byte & 2 else "global:") + ("multicast" if byte & 1 else "unicast")


@builtin("uuid.rfc4122")
def uuid_rfc4122(ctx: BuiltinContext, name: Value) -> Value:
    data = bytearray(derive(ctx, "uuid.rfc4122", to_rego(name), 16))
    data[8] = data[8] & 0x3F | 0x80
    data[6] = data[6] & 0x0F | 0x40
    text = data.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
