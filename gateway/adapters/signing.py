"""Signed records: Ed25519 in DSSE envelopes, verifiable offline with the public key alone.

Source: DSSE v1 (https://github.com/secure-systems-lab/dsse): the signature is over
`DSSEv1 SP LEN(type) SP type SP LEN(body) SP body`, so that no canonical form is needed. A key's id is the first 16
hexadecimal digits of the SHA-256 of its raw public bytes.
"""

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from gateway.adapters.sealing import private_file
from gateway.model.errors import GatewayError

APPROVAL_TYPE = "application/vnd.mcp-gateway.approval.v1+json"
CHECKPOINT_TYPE = "application/vnd.mcp-gateway.checkpoint.v1+json"
TOMBSTONE_TYPE = "application/vnd.mcp-gateway.tombstone.v1+json"


class SignatureInvalid(GatewayError):
    """An envelope that no given key signed."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key to verify with."""

    key: Ed25519PublicKey

    @property
    def id(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()[:16]

    @property
    def raw(self) -> bytes:
        return self.key.public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def pem(self) -> str:
        return self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class Signer:
    """Signs with one private key, which may be replaced by another."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    @classmethod
    def fresh(cls) -> "Signer":
        """With a new key."""
        return cls(Ed25519PrivateKey.generate())

    def replace(self, other: "Signer", store: Path | None) -> None:
        """Sign with the other's key from now on; the old file stays beside it, named by its key's id.

        Raises:
            GatewayError: the files cannot be written.
        """
        if store is not None:
            path = key_path(store)
            try:
                os.replace(path, path.with_name(f"{path.name}.{self.public.id}"))
            except OSError as error:
                raise GatewayError(f"{path}: the old key cannot be moved aside: {error.strerror}") from error
            private_file(path, other._pem())
        self._key, self.public = other._key, other.public

    def _pem(self) -> bytes:
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def envelope(self, payload: bytes, type: str) -> dict[str, Any]:
        """The DSSE envelope of a payload, as a JSON object."""
        signature = self._key.sign(_pae(type, payload))
        return {
            "payloadType": type,
            "payload": base64.b64encode(payload).decode(),
            "signatures": [{"keyid": self.public.id, "sig": base64.b64encode(signature).decode()}],
        }


def verify(envelope: Mapping[str, Any], keys: Sequence[PublicKey], type: str) -> bytes:
    """The payload of an envelope that one of the keys signed.

    Raises:
        SignatureInvalid: of another type, malformed, or signed by none of the keys.
    """
    try:
        kind, payload = envelope["payloadType"], base64.b64decode(envelope["payload"], validate=True)
        signatures = [base64.b64decode(entry["sig"], validate=True) for entry in envelope["signatures"]]
    except (KeyError, TypeError, ValueError) as error:
        raise SignatureInvalid(f"not a DSSE envelope: {error}") from None
    if kind != type:
        raise SignatureInvalid(f"an envelope of type {kind!r}, not {type!r}")
    for signature in signatures:
        for key in keys:
            try:
                key.key.verify(signature, _pae(type, payload))
            except InvalidSignature:
                continue
            return payload
    raise SignatureInvalid("signed by none of the given keys")


def _pae(type: str, payload: bytes) -> bytes:
    return b"DSSEv1 %d %s %d %s" % (len(type.encode()), type.encode(), len(payload), payload)


def key_path(store: Path) -> Path:
    """Where a store's signing key lies."""
    return store.with_name(store.name + ".signing.pem")


def open_signer(store: Path | None) -> Signer:
    """The signer of a store, its key in `<store>.signing.pem`; of a store in memory a key that ends with the process."""
    fresh = Signer.fresh()
    if store is None:
        return fresh
    path = key_path(store)
    try:
        key = load_pem_private_key(private_file(path, fresh._pem()), password=None)
    except ValueError as error:
        raise GatewayError(f"{path}: is no private key in PEM: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise GatewayError(f"{path}: is no Ed25519 key")
    return Signer(key)


def load_public(text: bytes) -> PublicKey:
    """A public key in PEM.

    Raises:
        GatewayError: it is none, or none of Ed25519.
    """
    try:
        key = load_pem_public_key(text)
    except ValueError as error:
        raise GatewayError(f"no public key in PEM: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise GatewayError("not an Ed25519 key")
    return PublicKey(key)


def statement(body: Mapping[str, Any]) -> bytes:
    """A statement's bytes: sorted keys, so that the same facts are the same bytes."""
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
