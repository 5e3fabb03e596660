"""Networks: `net.cidr_*`, for IPv4 and IPv6."""

from __future__ import annotations

import ipaddress
from typing import Final

from gateway.rego.builtins import operands
from gateway.rego.builtins.golang import netip
from gateway.rego.builtins.golang.netip import Address, Network
from gateway.rego.builtins.operands import string
from gateway.rego.builtins.registry import BuiltinContext, BuiltinError, UnsupportedError, builtin
from gateway.rego.values import RegoSet, Value, sorted_keys, unkey

MAX_ADDRESSES: Final = 1 << 20
"""Addresses that are listed at most, whatever the budget."""


def _network(value: Value) -> Network:
    text = string(value, 1)
    found = netip.parse_network(text)
    if found is None:
        raise BuiltinError(f"invalid CIDR address: {text}")
    return found[1]


@builtin("net.cidr_is_valid")
def net_cidr_is_valid(ctx: BuiltinContext, value: Value) -> Value:
    return type(value) is str and netip.parse_network(string(value, 1)) is not None


@builtin("net.cidr_intersects")
def net_cidr_intersects(ctx: BuiltinContext, first: Value, second: Value) -> Value:
    one, two = _network(first), _network(second)
    return one.contains(two.ip) or two.contains(one.ip)


@builtin("net.cidr_contains")
def net_cidr_contains(ctx: BuiltinContext, network: Value, address_or_network: Value) -> Value:
    outer = _network(network)
    text = string(address_or_network, 1)
    address = netip.parse_address(text)
    if address is not None and not address.zone:
        return outer.contains(address)
    found = netip.parse_network(text)
    if found is None:
        raise BuiltinError(f"not a valid textual representation of an IP address or CIDR: {text}")
    inner = found[1]
    if outer.is_plain_ipv6() and inner.is_plain_ipv6():
        shift = 128 - outer.prefix
        return outer.prefix <= inner.prefix and outer.ip.value >> shift == inner.ip.value >> shift
    return outer.contains(inner.ip) and outer.contains(inner.last())


@builtin("net.cidr_overlap")
def net_cidr_overlap(ctx: BuiltinContext, network: Value, address: Value) -> Value:
    return net_cidr_contains(ctx, network, address)


def _indexed(value: Value, position: int) -> list[tuple[Value, Value]]:
    """The networks of an operand, each with what the result calls it."""
    if type(value) is str:
        return [(value, value)]
    pairs: list[tuple[Value, Value]]
    if type(value) is list:
        pairs = [(item, at) for at, item in enumerate(value)]
    elif type(value) is RegoSet:
        pairs = [(item, item) for item in value.sorted()]
    elif type(value) is dict:
        pairs = [(value[canonical], unkey(canonical)) for canonical in sorted_keys(value)]
    else:
        return []
    out: list[tuple[Value, Value]] = []
    for item, index in pairs:
        if type(item) is str:
            out.append((item, index))
        elif type(item) is list and item:
            out.append((item[0], index))
        else:
            raise BuiltinError(f"operand {position}: element must be string or non-empty array")
    return out


@builtin("net.cidr_contains_matches")
def net_cidr_contains_matches(ctx: BuiltinContext, networks: Value, others: Value) -> Value:
    out: list[Value] = []
    outer = _indexed(networks, 1)
    if not outer:
        return RegoSet()
    inner = _indexed(others, 2)
    for network, index in outer:
        for at, (other, place) in enumerate(inner):
            if at % 64 == 0:
                ctx.charge(512)  # about what 64 comparisons take, so that the deadline is seen in time
            if net_cidr_contains(ctx, network, other):
                out.append([index, place])
    return RegoSet(out)


@builtin("net.cidr_expand")
def net_cidr_expand(ctx: BuiltinContext, value: Value) -> Value:
    network = _network(value)
    count = 1 << (network.mask_bits - network.prefix)
    if count > MAX_ADDRESSES:
        raise UnsupportedError(f"networks of more than {MAX_ADDRESSES} addresses are not listed")
    ctx.charge(count)
    first = network.first()
    return RegoSet(str(Address(first.value + at, first.bits)) for at in range(count))


@builtin("net.cidr_merge")
def net_cidr_merge(ctx: BuiltinContext, value: Value) -> Value:
    if type(value) is not list and type(value) is not RegoSet:
        raise BuiltinError("operand must be an array")
    items = operands.elements(value, 1)
    ctx.charge(len(items) * 4)
    ranges = sorted(map(_range, map(_merge_network, items)), key=lambda found: found[:2])
    at = len(ranges) - 1
    while at > 0:
        last, first, _ = ranges[at]
        last_before, first_before, _ = ranges[at - 1]
        if _previous(first) <= last_before:
            ranges[at - 1 : at + 1] = [(last, min(first, first_before), None)]
        at -= 1
    out: list[Value] = []
    for last, first, network in ranges:
        if network is not None:
            out.append(str(network))
        else:
            out.extend(_covering(first, last))
    ctx.charge(len(out))
    return RegoSet(out)


def _merge_network(value: Value) -> Network:
    if type(value) is not str:
        raise BuiltinError("element must be string")
    address = netip.parse_address(value)
    if address is None or address.zone:
        found = netip.parse_network(value)
        if found is None:
            raise BuiltinError(f"invalid CIDR address: {value}")
        return found[1]
    if address.unmapped().bits == 32:
        return netip.default_network(address)
    raise BuiltinError("IPv6 invalid: needs prefix length")


_MAPPED: Final = 0xFFFF << 32


def _range(network: Network) -> tuple[int, int, Network | None]:
    """Last and first address, IPv4 ones as IPv6 writes them, and the network they are of."""
    if network.mask_bits == 128 and network.ip.unmapped().bits == 32:
        raise UnsupportedError("IPv4 networks written as IPv6 are not merged")
    first, last = network.first(), network.last()
    base = _MAPPED if first.bits == 32 else 0
    return base + last.value, base + first.value, network


def _previous(value: int) -> int:
    return value if value in (0, _MAPPED) else value - 1


def _covering(first: int, last: int) -> list[str]:
    low, high = Address(first, 128).unmapped(), Address(last, 128).unmapped()
    if low.bits == 32:
        if high.bits != 32:
            raise UnsupportedError("IPv4 and IPv6 networks are not merged with each other")
        four = ipaddress.summarize_address_range(ipaddress.IPv4Address(low.value), ipaddress.IPv4Address(high.value))
        return list(map(str, four))
    if any(_MAPPED <= bound <= _MAPPED + 0xFFFFFFFF for bound in (first - 1, first, last, last + 1)):
        raise UnsupportedError("IPv4 and IPv6 networks are not merged with each other")
    shift = (first ^ last).bit_length()
    spanning = first >> shift << shift
    if spanning and spanning >> 120 == 0:
        # OPA loses the leading zeros, and with them the network.
        raise UnsupportedError("IPv6 networks that start with zeros are not merged")
    six = ipaddress.summarize_address_range(ipaddress.IPv6Address(first), ipaddress.IPv6Address(last))
    return list(map(str, six))
