"""JSON Web Tokens: `io.jwt.decode`, `verify_*`, `decode_verify`.

Source: RFC 7515 and 7519, with OPA's constraints, order of checks and errors.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from gateway.rego.builtins import keys, operands
from gateway.rego.builtins.encoding import base64url_bytes
from gateway.rego.builtins.golang.fmt import format_float
from gateway.rego.builtins.json import unmarshal
from gateway.rego.builtins.keys import Key, VerificationKey
from gateway.rego.builtins.operands import charge_text, decoded, string
from gateway.rego.builtins.registry import BuiltinContext, BuiltinError, UnsupportedError, builtin
from gateway.rego.builtins.time import now
from gateway.rego.values import Value, compare, number_from_text, number_text, sorted_keys

_HASHES: Final[dict[str, Callable[[], hashes.HashAlgorithm]]] = {
    "256": hashes.SHA256,
    "384": hashes.SHA384,
    "512": hashes.SHA512,
}
_STEPS: Final = 200
"""What a verified signature takes off the budget."""

_MAX_NESTING: Final = 16


@dataclass(slots=True)
class _Token:
    header: str
    payload: str
    signature: str
    decoded_header: dict[Value, Value] = field(default_factory=dict)

    def signed(self) -> bytes:
        return f"{self.header}.{self.payload}".encode()

    def decode_header(self) -> None:
        try:
            text = decoded(base64url_bytes(self.header))
        except UnsupportedError:
            raise
        except BuiltinError as error:
            raise BuiltinError(f"JWT header had invalid encoding: {error}") from None
        try:
            header = _object(text)
        except UnsupportedError:
            raise
        except BuiltinError as error:
            raise BuiltinError(f"bad JWT header: {error}") from None
        if "enc" in header:
            raise BuiltinError("JWT is a JWE object, which is not supported")
        self.decoded_header = header

    def decode_payload(self) -> str:
        try:
            return decoded(base64url_bytes(self.payload))
        except UnsupportedError:
            raise
        except BuiltinError as error:
            raise BuiltinError(f"JWT payload had invalid encoding: {error}") from None


def _object(text: str) -> dict[Value, Value]:
    try:
        value = unmarshal(text)
    except UnsupportedError:
        raise
    except BuiltinError as error:
        raise BuiltinError(f"invalid JSON: {error}") from None
    if type(value) is not dict:
        raise BuiltinError("decoded JSON type was not an Object")
    return value


def _split(ctx: BuiltinContext, value: Value) -> _Token:
    text = string(value, 1)
    charge_text(ctx, 16 * len(text))
    if "." not in text:
        raise BuiltinError("encoded JWT had no period separators")
    parts = text.split(".")
    if len(parts) != 3:
        raise BuiltinError(f"encoded JWT must have 3 sections, found {len(parts)}")
    return _Token(parts[0], parts[1], parts[2])


@builtin("io.jwt.decode")
def io_jwt_decode(ctx: BuiltinContext, jwt: Value) -> Value:
    value = jwt
    for _ in range(_MAX_NESTING):
        token = _split(ctx, value)
        token.decode_header()
        payload = token.decode_payload()
        if "cty" in token.decoded_header:
            kind = token.decoded_header["cty"]
            if type(kind) is not str:
                raise UnsupportedError("a token whose cty is no string")
            if kind == "JWT":
                # The token within is quoted.
                value = payload.strip("\"'")
                continue
        claims = _object(payload)
        try:
            signature = base64url_bytes(token.signature)
        except BuiltinError as error:
            raise BuiltinError(f"JWT signature had invalid encoding: {error}") from None
        return [token.decoded_header, claims, signature.hex()]
    raise UnsupportedError("the token nests too deeply")


# Headers


@dataclass(slots=True)
class _Header:
    alg: str = ""
    kid: str = ""
    cty: str = ""
    crit: frozenset[str] = frozenset()
    unknown: list[str] = field(default_factory=list)

    def valid(self) -> bool:
        return self.alg != "" and self.crit.isdisjoint(self.unknown)


def _header(token: _Token) -> _Header:
    header = _Header()
    for name in sorted_keys(token.decoded_header):
        value = token.decoded_header[name]
        match name:
            case "alg" | "kid" | "cty" | "typ":
                if type(value) is not str:
                    raise BuiltinError(f"{name}: must be a string")
                if name != "typ":
                    setattr(header, name, value)
            case "crit":
                header.crit = _critical(value)
            case _:
                header.unknown.append(name)
    return header


def _critical(value: Value) -> frozenset[str]:
    if type(value) is not list:
        raise BuiltinError("crit: must be a list")
    names: set[str] = set()
    for item in value:
        if type(item) is not str:
            # OPA stops reading here, and forgets that it did.
            break
        names.add(item)
    if not names:
        raise BuiltinError("crit: must be a nonempty list")
    return frozenset(names)


# Signatures


def _verify_rsa(key: Any, alg: str, data: bytes, signature: bytes, salt: Any) -> bool:
    if not isinstance(key, rsa.RSAPublicKey):
        return False
    digest = _HASHES[alg[2:]]()
    scheme: padding.AsymmetricPadding = padding.PKCS1v15()
    if alg[0] == "P":
        scheme = padding.PSS(padding.MGF1(digest), salt)
    if key.key_size < 1024:
        # Go does not verify with such keys.
        return False
    try:
        key.verify(signature, data, scheme, digest)
    except (InvalidSignature, ValueError):
        return False
    return True


def _verify_ecdsa(key: Any, alg: str, data: bytes, signature: bytes) -> bool:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    half = len(signature) // 2
    r, s = int.from_bytes(signature[:half]), int.from_bytes(signature[half:])
    if not r or not s:
        return False
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(_HASHES[alg[2:]]()))
    except (InvalidSignature, ValueError):
        return False
    return True


def _verify_eddsa(key: Any, data: bytes, signature: bytes) -> bool:
    if not isinstance(key, ed25519.Ed25519PublicKey):
        return False
    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def _mac(secret: bytes, alg: str, data: bytes) -> bytes:
    digests = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
    return hmac.new(secret, data, digests[alg]).digest()


def _verify_single(key: VerificationKey, alg: str, data: bytes, signature: bytes) -> bool:
    """What `io.jwt.verify_*` does with one key."""
    if key.private:
        return False
    match alg[:2]:
        case "RS" | "PS":
            return _verify_rsa(key.key, alg, data, signature, padding.PSS.AUTO)
        case "ES":
            return _verify_ecdsa(key.key, alg, data, signature)
        case _:
            return _verify_eddsa(key.key, data, signature)


def _verify_strictly(key: Key, alg: str, data: bytes, signature: bytes) -> bool:
    """What `io.jwt.decode_verify` does with one key: the algorithm is the token's."""
    match alg:
        case "HS256" | "HS384" | "HS512":
            return isinstance(key, bytes) and bool(key) and hmac.compare_digest(signature, _mac(key, alg, data))
        case "RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512":
            return _verify_rsa(key, alg, data, signature, padding.PSS.DIGEST_LENGTH)
        case "ES256" | "ES384" | "ES512":
            if not isinstance(key, ec.EllipticCurvePublicKey) or len(signature) != 2 * ((key.curve.key_size + 7) // 8):
                return False
            return _verify_ecdsa(key, alg, data, signature)
        case "EdDSA" | "Ed25519":
            return _verify_eddsa(key, data, signature)
        case _:
            return False


def _verified(
    ctx: BuiltinContext,
    found: tuple[VerificationKey, ...],
    header: _Header,
    verify: Callable[[VerificationKey], bool],
) -> bool:
    ctx.charge(_STEPS)
    if header.kid:
        for key in found:
            if key.kid == header.kid:
                return verify(key)
    for key in found:
        if not key.alg or key.alg == header.alg:
            ctx.charge(_STEPS)
            if verify(key):
                return True
    return False


def _verify(ctx: BuiltinContext, jwt: Value, key: Value, alg: str) -> bool:
    token = _split(ctx, jwt)
    found = keys.parse_keys(string(key, 2))
    signature = base64url_bytes(token.signature)
    token.decode_header()
    header = _header(token)
    data = token.signed()
    return _verified(ctx, found, header, lambda one: _verify_single(one, alg, data, signature))


def _verify_hmac(ctx: BuiltinContext, jwt: Value, secret: Value, alg: str) -> bool:
    text, key = string(jwt, 1), string(secret, 2)
    token = _split(ctx, text)
    expected = _mac(key.encode(), alg, token.signed())
    return hmac.compare_digest(base64url_bytes(token.signature), expected)


@builtin("io.jwt.verify_rs256")
def io_jwt_verify_rs256(ctx: BuiltinContext, jwt: Value, key: Value) -> Value:
    return _verify(ctx, jwt, key, "RS256")


@builtin("io.jwt.verify_rs384")
def io_jwt_verify_rs384(ctx: BuiltinContext, jwt: Value, key: Value) -> Value:
    return _verify(ctx, jwt, key, "RS384")


@builtin("io.jwt.verify_rs512")
def io_jwt_verify_rs512(ctx: BuiltinContext, jwt: Value, key: Value) -> Value:
    return _verify(ctx, jwt, key, "RS512")


@builtin("io.jwt.verify_ps256")
def io_jwt_verify_ps256(ctx: BuiltinContext, jwt: Value, key: Value) -> Value:
    return _verify(ctx, jwt, key, "PS256")


@builtin("io.jwt.verify_ps384")
def io_jwt_verify_ps384(ctx: BuiltinContext, jwt: Value, key: Value) -> Value:
    return _verify(ctx, jwt, key, "PS384")


@builtin("io.jwt.verify_ps512")
def io_jwt_verify_ps512(ctx: BuiltinContext, jwt: Value, key: Value) -> Value:
    return _verify(ctx, jwt, key, "PS512")


@builtin("io.jwt.verify_es256")
def io_jwt_verify_es256(ctx: BuiltinContext, jwt: Value, key: Value) -> Value:
    return _verify(ctx, jwt, key, "ES256")


@builtin("io.jwt.verify_es384")
def io_jwt_verify_es384(ctx: BuiltinContext, jwt: Value, key: Value) -> Value:
    return _verify(ctx, jwt, key, "ES384")


@builtin("io.jwt.verify_es512")
def io_jwt_verify_es512(ctx: BuiltinContext, jwt: Value, key: Value) -> Value:
    return _verify(ctx, jwt, key, "ES512")


@builtin("io.jwt.verify_eddsa")
def io_jwt_verify_eddsa(ctx: BuiltinContext, jwt: Value, key: Value) -> Value:
    return _verify(ctx, jwt, key, "EdDSA")


@builtin("io.jwt.verify_hs256")
def io_jwt_verify_hs256(ctx: BuiltinContext, jwt: Value, secret: Value) -> Value:
    return _verify_hmac(ctx, jwt, secret, "HS256")


@builtin("io.jwt.verify_hs384")
def io_jwt_verify_hs384(ctx: BuiltinContext, jwt: Value, secret: Value) -> Value:
    return _verify_hmac(ctx, jwt, secret, "HS384")


@builtin("io.jwt.verify_hs512")
def io_jwt_verify_hs512(ctx: BuiltinContext, jwt: Value, secret: Value) -> Value:
    return _verify_hmac(ctx, jwt, secret, "HS512")


# Constraints


@dataclass(slots=True)
class _Constraints:
    keys: tuple[VerificationKey, ...] | None = None
    secret: str = ""
    alg: str = ""
    iss: str = ""
    aud: str = ""
    time: float | None = None
    """Nanoseconds."""


def _constraints(ctx: BuiltinContext, value: Value) -> _Constraints:
    out = _Constraints()
    given = operands.object_(value, 2)
    for name in sorted_keys(given):
        item = given[name]
        match name:
            case "cert":
                if type(item) is not str:
                    raise BuiltinError("cert constraint: must be a string")
                charge_text(ctx, 16 * len(item))
                out.keys = keys.parse_keys(item)
            case "secret" | "alg" | "iss" | "aud":
                if type(item) is not str:
                    raise BuiltinError(f"{name} constraint: must be a string")
                setattr(out, name, item)
            case "time":
                out.time = _nanoseconds(item)
            case str():
                raise BuiltinError(f"unknown token validation constraint: {name}")
            case _:
                raise UnsupportedError("constraints are named by strings")
    if out.time is None:
        out.time = _nanoseconds(now(ctx))
    if out.keys is not None and out.secret:
        raise BuiltinError("duplicate key constraints")
    if out.keys is None and not out.secret:
        raise BuiltinError("no key constraint")
    return out


def _nanoseconds(value: Value) -> float:
    if not operands.is_number(value):
        raise BuiltinError("token time constraint: must be a number")
    time = float(number_text(value))
    if time in (float("inf"), float("-inf")):
        raise BuiltinError("token time constraint: unvalid float64")
    if time < 0:
        raise BuiltinError("token time constraint: must not be negative")
    return time


@builtin("io.jwt.decode_verify")
def io_jwt_decode_verify(ctx: BuiltinContext, jwt: Value, constraints: Value) -> Value:
    operands.object_(constraints, 2)
    wanted = _constraints(ctx, constraints)
    unverified: list[Value] = [False, {}, {}]
    value = jwt
    for _ in range(_MAX_NESTING):
        token = _split(ctx, value)
        token.decode_header()
        header = _header(token)
        if not header.valid() or (wanted.alg and wanted.alg != header.alg):
            return unverified
        signature = base64url_bytes(token.signature)
        if not _signed_as_wanted(ctx, wanted, header, token, signature):
            return unverified
        payload = token.decode_payload()
        if header.cty.lower() == "jwt":
            value = payload
            continue
        claims = _object(payload)
        if not _claims_as_wanted(claims, wanted):
            return unverified
        return [True, token.decoded_header, claims]
    raise UnsupportedError("the token nests too deeply")


def _signed_as_wanted(
    ctx: BuiltinContext, wanted: _Constraints, header: _Header, token: _Token, signature: bytes
) -> bool:
    data = token.signed()
    if wanted.keys is not None:
        return _verified(ctx, wanted.keys, header, lambda one: _verify_strictly(one.key, header.alg, data, signature))
    ctx.charge(_STEPS)
    return _verify_strictly(wanted.secret.encode(), header.alg, data, signature)


def _claims_as_wanted(claims: dict[Value, Value], wanted: _Constraints) -> bool:
    assert wanted.time is not None
    if wanted.iss:
        issuer = claims.get("iss", "")
        if type(issuer) is not str:
            raise UnsupportedError("a token whose iss is no string")
        if "iss" not in claims or issuer != wanted.iss:
            return False
    if "aud" in claims:
        audience = claims["aud"]
        if type(audience) is str:
            audience = [audience]
        if type(audience) is not list or not any(type(one) is str and one == wanted.aud for one in audience):
            return False
    elif wanted.aud:
        return False
    seconds = number_from_text(format_float(wanted.time / 1_000_000_000, "g"))
    for name in ("exp", "nbf"):
        if name not in claims:
            continue
        if not operands.is_number(claims[name]):
            raise BuiltinError(f"{name} value must be a number")
        before = compare(seconds, claims[name]) == -1
        if before != (name == "exp"):
            return False
    return True
