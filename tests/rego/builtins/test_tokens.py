"""Tokens are decoded and verified as a live OPA does, whoever signed them and however they were bent."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.rego.compiler import load_builtins
from gateway.rego.values import Value
from tests.rego.builtins.calling import outcome
from tests.rego.builtins.opa import Opa

load_builtins()

HASHES: dict[str, Any] = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}
ALGORITHMS = [kind + size for kind in ("HS", "RS", "PS", "ES") for size in HASHES] + ["EdDSA"]
SECRET = "secret"
BENT_HEADERS: list[dict[str, Any]] = [
    {"crit": ["x"]},
    {"crit": ["x"], "x": 1},
    {"crit": []},
    {"crit": [1]},
    {"cty": "JWT"},
    {"cty": "text"},
    {"enc": "x"},
    {"alg": "none"},
    {"alg": "HS256"},
    {"alg": 5},
    {"alg": ""},
    {"kid": 5},
]
CLAIMS: list[dict[str, Any]] = [
    {},
    {"exp": 2000},
    {"exp": 10},
    {"exp": 1000},
    {"exp": 1000.5},
    {"exp": "x"},
    {"nbf": 10},
    {"nbf": 5000},
    {"nbf": 1000.5},
    {"aud": "a"},
    {"aud": ["a", "b"]},
    {"aud": 5},
    {"iss": "you"},
]
CONSTRAINTS: list[dict[str, Any]] = [
    {},
    {"alg": "RS256"},
    {"alg": "HS256"},
    {"iss": "me"},
    {"iss": "x"},
    {"aud": "a"},
    {"aud": "z"},
    {"foo": 1},
    {"alg": 5},
    {"time": "x"},
    {"time": -1},
    {"secret": "s", "cert": "{}"},
]


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Signer:
    """Keys of every kind, and tokens made with them; what is random in them is the same in every run."""

    def __init__(self) -> None:
        self.random = random.Random(4)
        self.rsa = rsa.generate_private_key(65537, 2048)
        self.curves = {
            "256": ec.generate_private_key(ec.SECP256R1()),
            "384": ec.generate_private_key(ec.SECP384R1()),
            "512": ec.generate_private_key(ec.SECP521R1()),
        }
        self.edwards = ed25519.Ed25519PrivateKey.generate()
        self.keys = [self.rsa, rsa.generate_private_key(65537, 2048), *self.curves.values(), self.edwards]

    def sign(self, alg: str, data: bytes) -> bytes:
        size = alg[2:]
        if alg == "EdDSA":
            return self.edwards.sign(data)
        if alg[:2] == "HS":
            return hmac.new(SECRET.encode(), data, getattr(hashlib, f"sha{size}")).digest()
        digest = HASHES[size]()
        if alg[:2] == "RS":
            return self.rsa.sign(data, padding.PKCS1v15(), digest)
        if alg[:2] == "PS":
            salt = self.random.choice([digest.digest_size, 20])
            return self.rsa.sign(data, padding.PSS(padding.MGF1(digest), salt), digest)
        key = self.curves[size]
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(digest)))
        width = (key.curve.key_size + 7) // 8
        return r.to_bytes(width) + s.to_bytes(width)

    def jwk(self, key: Any) -> dict[str, Any]:
        public = key.public_key()
        if isinstance(key, rsa.RSAPrivateKey):
            numbers = public.public_numbers()
            return {"kty": "RSA", "n": encoded(numbers.n.to_bytes(256)), "e": "AQAB"}
        if isinstance(key, ec.EllipticCurvePrivateKey):
            point = public.public_numbers()
            width = (key.curve.key_size + 7) // 8
            x, y = encoded(point.x.to_bytes(width)), encoded(point.y.to_bytes(width))
            return {"kty": "EC", "crv": f"P-{key.curve.key_size}", "x": x, "y": y}
        return {"kty": "OKP", "crv": "Ed25519", "x": encoded(public.public_bytes(Encoding.Raw, PublicFormat.Raw))}

    def pem(self, key: Any) -> str:
        text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return text.decode()

    def key_text(self) -> str:
        choose = self.random.choice
        kind = self.random.random()
        pem = self.pem(choose(self.keys))
        if kind < 0.4:
            return pem
        if kind < 0.5:
            return choose(
                [
                    "",
                    "x",
                    "{}",
                    "[]",
                    '{"keys":[]}',
                    pem + "x",
                    "\n" + pem,
                    pem.replace("PUBLIC KEY", "OTHER THING"),
                    '{"kty":"foo"}',
                    '{"keys":[{"kty":"RSA"}]}',
                    '{"kty":"oct","k":"c2VjcmV0"}',
                ]
            )
        extras: list[dict[str, str]] = [{}, {"kid": "a"}, {"kid": "b"}, {"alg": choose(ALGORITHMS)}, {"alg": "foo"}]
        members = [
            {**self.jwk(key), **choose(extras)} for key in self.random.sample(self.keys, self.random.randrange(1, 4))
        ]
        return json.dumps({"keys": members} if self.random.random() < 0.7 else members[0])

    def token(self, alg: str) -> str:
        chance, choose = self.random.random, self.random.choice
        header: dict[str, Any] = {"alg": alg, "typ": "JWT"}
        if chance() < 0.3:
            header["kid"] = choose(["a", "b", "c"])
        if chance() < 0.15:
            header.update(choose(BENT_HEADERS))
        head = encoded(json.dumps(header).encode())
        payload = encoded(json.dumps({"iss": "me", **choose(CLAIMS)}).encode())
        if chance() < 0.05:
            payload = choose(["", "!!", "YQ", "W10"])
        signature = encoded(self.sign(alg, f"{head}.{payload}".encode()))
        if chance() < 0.1:
            signature = choose([signature[:-4], "", "!!", signature[4:] + "AAAA", signature + "="])
        whole = f"{head}.{payload}.{signature}"
        return choose([whole + ".x", "a.b", whole.replace(".", ""), "..", "a.b.c"]) if chance() < 0.04 else whole

    def calls(self) -> list[tuple[str, list[Value]]]:
        alg = self.random.choice(ALGORITHMS)
        token, key = self.token(alg), self.key_text()
        verify = f"io.jwt.verify_{(alg if self.random.random() < 0.7 else self.random.choice(ALGORITHMS)).lower()}"
        symmetric = alg[:2] == "HS"
        constraints: dict[str, Any] = {"time": self.random.choice([1000 * 10**9, 1000_400_000_000, 0, 10**18])}
        constraints |= {"secret": self.random.choice([SECRET, "no", ""])} if symmetric else {"cert": key}
        constraints |= self.random.choice(CONSTRAINTS) if self.random.random() < 0.4 else {}
        return [
            ("io.jwt.decode", [token]),
            (verify, [token, SECRET if "verify_hs" in verify else key]),
            ("io.jwt.decode_verify", [token, constraints]),
        ]


@pytest.mark.rule("rego.tokens-exact")
def test_tokens_are_verified_as_by_a_live_opa(opa: str) -> None:
    signer, live = Signer(), Opa(opa)
    try:
        for _ in range(250):
            for name, arguments in signer.calls():
                found, expected = outcome(name, arguments), live.ask(name, arguments)
                if expected.error.startswith("crashed"):
                    continue
                # Why a key cannot be read is said in the words of each side's library.
                same = found.result == expected.result and found.error.split(":")[:2] == expected.error.split(":")[:2]
                assert same, (name, arguments, found, expected)
    finally:
        live.close()
