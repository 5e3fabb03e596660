"""Keys that signatures are verified with: PEM certificates and public keys, JSON Web Keys and sets of them.

Source: RFC 7517 and 7518; what is accepted, and the errors, follow OPA's `parseKeysFromCertOrJWK`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x448, x25519
from cryptography.hazmat.primitives.serialization import load_der_public_key

from gateway.rego.builtins.golang import json
from gateway.rego.builtins.registry import BuiltinError, UnsupportedError

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
Key: TypeAlias = PublicKey | bytes | None
"""None is a key that no algorithm here verifies with."""

ALGORITHMS: Final = frozenset(
    [
        "RS256",
        "RS384",
        "RS512",
        "PS256",
        "PS384",
        "PS512",
        "ES256",
        "ES384",
        "ES512",
        "HS256",
        "HS384",
        "HS512",
        "EdDSA",
    ]
)
"""The algorithms OPA knows."""
_OTHER_ALGORITHMS: Final = frozenset(
    [
        "none",
        "ES256K",
        "Ed25519",
        "Ed448",
        "dir",
        "RSA1_5",
        "RSA-OAEP",
        "RSA-OAEP-256",
        "RSA-OAEP-384",
        "RSA-OAEP-512",
        "A128KW",
        "A192KW",
        "A256KW",
        "A128GCMKW",
        "A192GCMKW",
        "A256GCMKW",
        "ECDH-ES",
        "ECDH-ES+A128KW",
        "ECDH-ES+A192KW",
        "ECDH-ES+A256KW",
        "PBES2-HS256+A128KW",
        "PBES2-HS384+A192KW",
        "PBES2-HS512+A256KW",
    ]
)
"""Those its library knows besides: their keys are passed over."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key, and what its owner says of it."""

    key: Key
    alg: str = ""
    """Empty if the key does not name one."""
    kid: str = ""
    private: bool = False
    """Whether it was given as a private key, which not every builtin takes."""


_PEM: Final = re.compile(
    r"(?:^|\n)-----BEGIN ([^\n]*?)-----[ \t\r]*\n(?P<body>.*?)(?:^|\n)-----END \1-----[ \t\r]*(?:\n|$)", re.DOTALL
)


def pem_decode(text: str) -> tuple[str, bytes, str] | None:
    """`pem.Decode`: the type, the content and what follows the first block; None if there is none."""
    at = 0
    while True:
        found = _PEM.search(text, at)
        if found is None:
            return None
        body = found["body"]
        if ":" in body:
            _, _, body = body.partition("\n\n")
        try:
            content = base64.b64decode(re.sub(r"[ \t\r\n]", "", body), validate=True)
        except binascii.Error:
            at = found.start() + 1
            continue
        return found[1], content, text[found.end() :]


def _known(key: Any) -> Key:
    if isinstance(key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)):
        return key
    if isinstance(key, (dsa.DSAPublicKey, ed448.Ed448PublicKey, x25519.X25519PublicKey, x448.X448PublicKey)):
        return None
    raise UnsupportedError("a key of this kind is not read")


@lru_cache(maxsize=256)
def parse_keys(text: str) -> tuple[VerificationKey, ...]:
    """The keys of a PEM block or of a JWK (set).

    Raises:
        BuiltinError: there are none; OPA's message, without the reason that its libraries give.
    """
    block = pem_decode(text)
    if block is None:
        return parse_jwks(text)
    kind, content, rest = block
    if rest:
        raise BuiltinError("extra data after a PEM certificate block")
    try:
        if kind == "CERTIFICATE":
            return (VerificationKey(_known(x509.load_der_x509_certificate(content).public_key())),)
        if kind == "PUBLIC KEY":
            return (VerificationKey(_known(load_der_public_key(content))),)
    except UnsupportedAlgorithm:
        raise UnsupportedError("a key of this kind is not read") from None
    except ValueError:
        what = "certificate" if kind == "CERTIFICATE" else "public key"
        raise BuiltinError(f"failed to parse a PEM {what}: it is malformed") from None
    raise BuiltinError("failed to extract a Key from the PEM certificate")


def parse_jwks(text: str) -> tuple[VerificationKey, ...]:
    """The keys of a JWK (set). Raises BuiltinError."""
    try:
        document = json.decode(text)
    except json.JsonError:
        raise _no_jwk("it is no JSON") from None
    except json.Unsupported as error:
        raise UnsupportedError(str(error)) from None
    if type(document) is not dict:
        raise _no_jwk("it is no object")
    members = document.get("keys", [document]) if "kty" not in document else [document]
    if type(members) is not list:
        raise _no_jwk("keys is no array")
    out: list[VerificationKey] = []
    for member in members:
        if type(member) is not dict:
            raise _no_jwk("a key is no object")
        key, private = _parse_jwk(member)
        alg = _text(member, "alg") if "alg" in member else ""
        if alg in _OTHER_ALGORITHMS:
            continue
        if alg and alg not in ALGORITHMS:
            raise _no_jwk("invalid key algorithm")
        out.append(VerificationKey(key, alg, _text(member, "kid") if "kid" in member else "", private))
    return tuple(out)


def _no_jwk(reason: str) -> BuiltinError:
    return BuiltinError(f"failed to parse a JWK key (set): {reason}")


def _text(member: dict[str, Any], name: str) -> str:
    value = member.get(name)
    if type(value) is not str:
        raise _no_jwk(f"{name} is no string")
    return value


def base64url(text: str) -> bytes:
    """A member of a JWK: base64url, padded or not. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9_-]*={0,2}", text):
        raise ValueError("not base64url")
    bare = text.rstrip("=")
    return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))


def member_bytes(member: dict[str, Any], name: str) -> bytes:
    """A member of a JWK that is base64url. Raises BuiltinError."""
    try:
        return base64url(_text(member, name))
    except ValueError:
        raise _no_jwk(f"{name} is not base64url") from None


_CURVES: Final[dict[str, Callable[[], ec.EllipticCurve]]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
}


def curve_of(member: dict[str, Any]) -> str:
    """The name that `cryptography` has for the curve of a key."""
    curve = _CURVES.get(_text(member, "crv"))
    return curve().name if curve is not None else ""


def _parse_jwk(member: dict[str, Any]) -> tuple[Key, bool]:
    kind = _text(member, "kty")
    private = "d" in member
    try:
        match kind:
            case "RSA":
                modulus, exponent = (int.from_bytes(member_bytes(member, name)) for name in ("n", "e"))
                return rsa.RSAPublicNumbers(exponent, modulus).public_key(), private
            case "EC":
                curve = _CURVES.get(_text(member, "crv"))
                if curve is None:
                    raise UnsupportedError("keys on this curve are not read")
                x, y = (int.from_bytes(member_bytes(member, name)) for name in ("x", "y"))
                return ec.EllipticCurvePublicNumbers(x, y, curve()).public_key(), private
            case "OKP":
                if _text(member, "crv") != "Ed25519":
                    return None, private
                return ed25519.Ed25519PublicKey.from_public_bytes(member_bytes(member, "x")), private
            case "oct":
                return member_bytes(member, "k"), False
            case _:
                raise _no_jwk(f"invalid key type {kind}")
    except ValueError:
        raise _no_jwk("the key is not valid") from None
