"""Hashes and HMAC: `crypto.md5`, `sha1`, `sha256`, `crypto.hmac.*`."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any

from gateway.rego.builtins.operands import charge_text, string
from gateway.rego.builtins.registry import BuiltinContext, builtin
from gateway.rego.values import Value


def _data(ctx: BuiltinContext, value: Value, position: int) -> bytes:
    data = string(value, position).encode()
    charge_text(ctx, len(data))
    return data


@builtin("crypto.md5")
def crypto_md5(ctx: BuiltinContext, text: Value) -> Value:
    return hashlib.md5(_data(ctx, text, 1), usedforsecurity=False).hexdigest()


@builtin("crypto.sha1")
def crypto_sha1(ctx: BuiltinContext, text: Value) -> Value:
    return hashlib.sha1(_data(ctx, text, 1), usedforsecurity=False).hexdigest()


@builtin("crypto.sha256")
def crypto_sha256(ctx: BuiltinContext, text: Value) -> Value:
    return hashlib.sha256(_data(ctx, text, 1)).hexdigest()


def _hmac(ctx: BuiltinContext, message: Value, secret: Value, digest: Callable[..., Any]) -> str:
    data = _data(ctx, message, 1)
    return hmac.new(_data(ctx, secret, 2), data, digest).hexdigest()


@builtin("crypto.hmac.md5")
def crypto_hmac_md5(ctx: BuiltinContext, message: Value, secret: Value) -> Value:
    return _hmac(ctx, message, secret, hashlib.md5)


@builtin("crypto.hmac.sha1")
def crypto_hmac_sha1(ctx: BuiltinContext, message: Value, secret: Value) -> Value:
    return _hmac(ctx, message, secret, hashlib.sha1)


@builtin("crypto.hmac.sha256")
def crypto_hmac_sha256(ctx: BuiltinContext, message: Value, secret: Value) -> Value:
    return _hmac(ctx, message, secret, hashlib.sha256)


@builtin("crypto.hmac.sha512")
def crypto_hmac_sha512(ctx: BuiltinContext, message: Value, secret: Value) -> Value:
    return _hmac(ctx, message, secret, hashlib.sha512)


@builtin("crypto.hmac.equal")
def crypto_hmac_equal(ctx: BuiltinContext, first: Value, second: Value) -> Value:
    one = _data(ctx, first, 1)
    return hmac.compare_digest(one, _data(ctx, second, 2))
