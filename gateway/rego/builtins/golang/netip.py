"""IP addresses and networks as Go's `net` and `net/netip` read and write them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """An address of 32 or 128 bits."""

    value: int
    bits: int
    zone: str = ""

    def unmapped(self) -> Address:
        """`IP.To4`: an IPv4 address written as IPv6 (`::ffff:1.2.3.4`) as what it is."""
        if self.bits == 128 and self.value >> 32 == 0xFFFF:
            return Address(self.value & 0xFFFFFFFF, 32)
        return self

    def __str__(self) -> str:
        plain = self.unmapped()
        if plain.bits == 32:
            return str(ipaddress.IPv4Address(plain.value))
        return str(ipaddress.IPv6Address(plain.value))


def parse_address(text: str) -> Address | None:
    """`netip.ParseAddr`; None if it is none."""
    for char in text:
        if char == ".":
            value = _ipv4(text)
            return None if value is None else Address(value, 32)
        if char == ":":
            return _ipv6(text)
        if char == "%":
            return None
    return None


def _ipv4(text: str) -> int | None:
    fields = text.split(".")
    value = 0
    for field in fields:
        if not field or len(field) > 3 or not (field.isascii() and field.isdigit()):
            return None
        if (len(field) > 1 and field[0] == "0") or int(field) > 255:
            return None
        value = value << 8 | int(field)
    return value if len(fields) == 4 else None


def _ipv6(text: str) -> Address | None:
    head, percent, zone = text.partition("%")
    if percent and not zone:
        return None
    before, ellipsis, after = head.partition("::")
    if "::" in after or (ellipsis and (":" in (after[:1], before[-1:]))):
        return None
    left = _groups(before, last=not ellipsis)
    right = _groups(after, last=True)
    if left is None or right is None:
        return None
    count = len(left) + len(right)
    if count > 8 or (count == 8) == bool(ellipsis):
        return None
    groups = left + [0] * (8 - count) + right
    value = 0
    for group in groups:
        value = value << 16 | group
    return Address(value, 128, zone)


def _groups(text: str, *, last: bool) -> list[int] | None:
    out: list[int] = []
    if not text:
        return out
    parts = text.split(":")
    for at, part in enumerate(parts):
        if last and at == len(parts) - 1 and "." in part:
            four = _ipv4(part)
            if four is None:
                return None
            out += [four >> 16, four & 0xFFFF]
        elif 0 < len(part) <= 4 and all(char in "0123456789abcdefABCDEF" for char in part):
            out.append(int(part, 16))
        else:
            return None
    return out


@dataclass(frozen=True, slots=True)
class Network:
    """An address and the length of its prefix."""

    ip: Address
    prefix: int
    mask_bits: int
    """32 or 128: the size of the mask, which is not always the address's."""

    def _plain(self) -> tuple[Address, int]:
        ip = self.ip.unmapped()
        return ip, self.prefix - (self.mask_bits - ip.bits)

    def is_plain_ipv6(self) -> bool:
        """Whether it is an IPv6 network, and not IPv4 written as one."""
        return self.mask_bits == 128 and self.ip.unmapped().bits == 128

    def contains(self, address: Address) -> bool:
        """`IPNet.Contains`."""
        ip, prefix = self._plain()
        address = address.unmapped()
        if address.bits != ip.bits or prefix < 0:
            return False
        shift = ip.bits - prefix
        return ip.value >> shift == address.value >> shift

    def first(self) -> Address:
        """The lowest address."""
        ip = self.ip.unmapped() if self.mask_bits == 32 else self.ip
        shift = self.mask_bits - self.prefix
        return Address(ip.value >> shift << shift, ip.bits)

    def last(self) -> Address:
        """The highest address."""
        first = self.first()
        return Address(first.value | ((1 << (self.mask_bits - self.prefix)) - 1), first.bits)

    def __str__(self) -> str:
        ip, prefix = self._plain()
        return f"{ip}/{prefix}"


def parse_network(text: str) -> tuple[Address, Network] | None:
    """`net.ParseCIDR`: the address, and its network; None if it is none."""
    head, slash, mask = text.partition("/")
    if not slash:
        return None
    address = parse_address(head)
    if address is None or address.zone or not mask or not (mask.isascii() and mask.isdigit()) or len(mask) > 9:
        return None
    prefix = int(mask)
    if prefix > address.bits:
        return None
    network = Network(address, prefix, address.bits)
    return address, Network(network.first(), prefix, address.bits)


def default_network(address: Address) -> Network:
    """The network of an IPv4 address in the classes of old (`IP.DefaultMask`), its host bits kept."""
    four = address.unmapped()
    first = four.value >> 24
    return Network(four, 8 if first < 0x80 else 16 if first < 0xC0 else 24, 32)
