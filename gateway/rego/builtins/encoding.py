"""Encodings: `base64.*`, `base64url.*`, `hex.*`."""

from __future__ import annotations

from gateway.rego.builtins.golang import base64
from gateway.rego.builtins.operands import charge_text, decoded, string
from gateway.rego.builtins.registry import BuiltinContext, BuiltinError, builtin
from gateway.rego.values import Value


@builtin("base64.encode")
def base64_encode(ctx: BuiltinContext, text: Value) -> Value:
    source = string(text, 1)
    charge_text(ctx, len(source))
    return base64.encode(source.encode())


@builtin("base64.decode")
def base64_decode(ctx: BuiltinContext, text: Value) -> Value:
    source = string(text, 1)
    charge_text(ctx, 16 * len(source))
    try:
        return decoded(base64.decode(source))
    except base64.DecodeError as error:
        raise BuiltinError(str(error)) from None


@builtin("base64.is_valid")
def base64_is_valid(ctx: BuiltinContext, text: Value) -> Value:
    if type(text) is not str:
        return False
    charge_text(ctx, 16 * len(string(text, 1)))
    try:
        base64.decode(text)
    except base64.DecodeError:
        return False
    return True


@builtin("base64url.encode")
def base64url_encode(ctx: BuiltinContext, text: Value) -> Value:
    source = string(text, 1)
    charge_text(ctx, len(source))
    return base64.encode(source.encode(), url=True)


@builtin("base64url.encode_no_pad")
def base64url_encode_no_pad(ctx: BuiltinContext, text: Value) -> Value:
    source = string(text, 1)
    charge_text(ctx, len(source))
    return base64.encode(source.encode(), url=True, padded=False)


@builtin("base64url.decode")
def base64url_decode(ctx: BuiltinContext, text: Value) -> Value:
    source = string(text, 1)
    charge_text(ctx, 16 * len(source))
    return decoded(base64url_bytes(source))


def base64url_bytes(text: str) -> bytes:
    """What OPA's `base64url.decode` decodes: padding may be left out.

    Raises:
        BuiltinError: the text is not base64url.
    """
    if not text.endswith("="):
        missing = len(text.encode()) % 4
        if missing == 1:
            raise BuiltinError(f"illegal base64url string: {text}")
        text += {0: "", 2: "==", 3: "="}[missing]
    try:
        return base64.decode(text, url=True)
    except base64.DecodeError as error:
        raise BuiltinError(str(error)) from None


@builtin("hex.encode")
def hex_encode(ctx: BuiltinContext, text: Value) -> Value:
    source = string(text, 1)
    charge_text(ctx, len(source))
    return source.encode().hex()


@builtin("hex.decode")
def hex_decode(ctx: BuiltinContext, text: Value) -> Value:
    source = string(text, 1)
    charge_text(ctx, 4 * len(source))
    try:
        return decoded(base64.decode_hex(source))
    except base64.DecodeError as error:
        raise BuiltinError(str(error)) from None
