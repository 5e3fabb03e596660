"""Signing JSON Web Tokens: `io.jwt.encode_sign`, `io.jwt.encode_sign_raw`.

Signatures by HMAC, RSA (PKCS #1 v1.5) and EdDSA are the same for everybody. OPA's by ECDSA are not: each has another
random number, so that these here, whose number follows from key and message (RFC 6979), are as good as any. RSA-PSS,
whose salt is random, is refused when it is asked for.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from gateway.rego.builtins import keys, operands
from gateway.rego.builtins.golang import base64
from gateway.rego.builtins.golang.json import JsonError, Unsupported, decode, is_valid
from gateway.rego.builtins.operands import charge_text, string
from gateway.rego.builtins.registry import BuiltinContext, BuiltinError, UnsupportedError, builtin
from gateway.rego.values import Value, json_text

_HASHES: Final[dict[str, type[hashes.SHA256] | type[hashes.SHA384] | type[hashes.SHA512]]] = {
    "256": hashes.SHA256,
    "384": hashes.SHA384,
    "512": hashes.SHA512,
}
_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "ES256": ec.SECP256R1(),
    "ES384": ec.SECP384R1(),
    "ES512": ec.SECP521R1(),
}
_STEPS: Final = 2_000
"""What a signature takes off the budget: a private key costs more than a public one."""
_SMALLEST_RSA: Final = 1024
"""Bits; Go signs with no shorter keys."""


@builtin("io.jwt.encode_sign")
def io_jwt_encode_sign(ctx: BuiltinContext, headers: Value, payload: Value, key: Value) -> Value:
    texts = [
        operands.unicode_text(json_text(operands.object_(part, at)))
        for at, part in enumerate((headers, payload, key), 1)
    ]
    return _signed(ctx, *texts)


@builtin("io.jwt.encode_sign_raw")
def io_jwt_encode_sign_raw(ctx: BuiltinContext, headers: Value, payload: Value, key: Value) -> Value:
    jwk = string(key, 3)
    return _signed(ctx, string(headers, 1), string(payload, 2), jwk)


def _signed(ctx: BuiltinContext, headers: str, payload: str, jwk: str) -> str:
    charge_text(ctx, 16 * (len(headers) + len(payload) + len(jwk)))
    member = _first_key(jwk)
    alg = _header(headers, "alg")
    if alg not in keys.ALGORITHMS:
        raise BuiltinError(f"unknown JWS algorithm: {alg}")
    try:
        typ = _header(headers, "typ")
    except UnsupportedError:
        raise
    except BuiltinError:
        typ = "JWT"
    if typ == "JWT" and not is_valid(payload):
        raise BuiltinError("type is JWT but payload is not JSON")
    ctx.charge(_STEPS)
    message = ".".join(base64.encode(part.encode(), url=True, padded=False) for part in (headers, payload))
    signature = _signature(member, alg, message.encode())
    return f"{message}.{base64.encode(signature, url=True, padded=False)}"


def _first_key(text: str) -> dict[str, Any]:
    """The first key of a JWK or a set of them; all of them are read, for the errors they have."""
    keys.parse_jwks(text)
    document = decode(text)
    members = document.get("keys", [document]) if "kty" not in document else [document]
    if not members:
        raise BuiltinError("no keys found in JWK set")
    member: dict[str, Any] = members[0]
    return member


def _header(text: str, name: str) -> str:
    """`jwsbb.HeaderGetString`: a member of the header, read by fastjson."""
    failure = f"missing or invalid '{name}' header: "
    if not text:
        raise BuiltinError(failure + 'cannot parse JSON: cannot parse empty string; unparsed tail: ""')
    if re.fullmatch("[0-9eE.+-]+", text):  # what it takes for a number
        raise BuiltinError(f'{failure}jwsbb: header "{name}" not found')
    try:
        found = decode(text)
    except JsonError:
        raise BuiltinError(failure + "cannot parse JSON: it is malformed") from None
    except Unsupported as error:
        raise UnsupportedError(str(error)) from None
    if type(found) is not dict or name not in found:
        raise BuiltinError(f'{failure}jwsbb: header "{name}" not found')
    if text.count(f'"{name}"') > 1:
        json.loads(text, object_pairs_hook=_unambiguous)
    value = found[name]
    if type(value) is not str:
        raise BuiltinError(f"{failure}value doesn't contain string")
    return value


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise UnsupportedError("a header that has a member twice")
    return dict(pairs)


def _signature(member: dict[str, Any], alg: str, message: bytes) -> bytes:
    kind = member["kty"]
    wanted = {"H": "oct", "R": "RSA", "P": "RSA", "ES": "EC", "Ed": "OKP"}
    expected = wanted[alg[:2] if alg[0] == "E" else alg[0]]
    if expected == "oct" and kind == "OKP":
        raise UnsupportedError("a private key that is used as a secret")
    if kind != expected or (kind != "oct" and "d" not in member):
        raise BuiltinError(f"jwsbb.Sign: invalid key type for {alg}")
    try:
        match kind:
            case "oct":
                secret = keys.member_bytes(member, "k")
                if not secret:
                    raise UnsupportedError("an empty secret does not sign")
                return hmac.new(secret, message, getattr(hashlib, f"sha{alg[2:]}")).digest()
            case "RSA":
                return _rsa(member, alg, message)
            case "EC":
                return _ecdsa(member, alg, message)
            case _:
                if member["crv"] != "Ed25519":
                    raise UnsupportedError("keys on this curve do not sign")
                private = ed25519.Ed25519PrivateKey.from_private_bytes(keys.member_bytes(member, "d"))
                if private.public_key().public_bytes_raw() != keys.member_bytes(member, "x"):
                    raise UnsupportedError("the halves of the key do not belong together")
                return private.sign(message)
    except (ValueError, UnsupportedAlgorithm):
        raise UnsupportedError("the key does not sign") from None


def _rsa(member: dict[str, Any], alg: str, message: bytes) -> bytes:
    if alg[0] == "P":
        raise UnsupportedError("RSA-PSS signs with random salt, and a decision is the same each time")
    if not all(name in member for name in ("p", "q")):
        raise UnsupportedError("an RSA key without its primes does not sign")
    n, e, d, p, q = (int.from_bytes(keys.member_bytes(member, name)) for name in ("n", "e", "d", "p", "q"))
    if n.bit_length() < _SMALLEST_RSA:
        raise BuiltinError(
            f"crypto/rsa: {n.bit_length()}-bit keys are insecure (see https://go.dev/pkg/crypto/rsa#hdr-Minimum_key_size)"
        )
    numbers = rsa.RSAPrivateNumbers(
        p=p, q=q, d=d, dmp1=rsa.rsa_crt_dmp1(d, p), dmq1=rsa.rsa_crt_dmq1(d, q), iqmp=rsa.rsa_crt_iqmp(p, q),
        public_numbers=rsa.RSAPublicNumbers(e, n),
    )  # fmt: skip
    return numbers.private_key().sign(message, padding.PKCS1v15(), _HASHES[alg[2:]]())


def _ecdsa(member: dict[str, Any], alg: str, message: bytes) -> bytes:
    curve = _CURVES[alg]
    x, y, d = (int.from_bytes(keys.member_bytes(member, name)) for name in ("x", "y", "d"))
    if keys.curve_of(member) != curve.name:
        raise UnsupportedError(f"a key on another curve than that of {alg}")
    private = ec.EllipticCurvePrivateNumbers(d, ec.EllipticCurvePublicNumbers(x, y, curve)).private_key()
    r, s = decode_dss_signature(private.sign(message, ec.ECDSA(_HASHES[alg[2:]](), deterministic_signing=True)))
    size = (curve.key_size + 7) // 8
    return r.to_bytes(size) + s.to_bytes(size)
