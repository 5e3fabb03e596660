"""Sealing what records must not show but work still needs: held arguments, kept outcomes, dead letters, parked state.

AES-256-GCM with a random 96-bit nonce; the purpose is authenticated with it, so what was sealed for one place does not open
in another. The key lies in a file of mode 0600 beside the store, made at first start.

    version (1) ‖ nonce (12) ‖ ciphertext and tag
"""

import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.model.errors import GatewayError

VERSION = b"\x01"
KEY_BYTES = 32


class SealBroken(GatewayError):
    """What was to be opened was changed, is of another purpose, or was sealed with another key."""


class Seal:
    """Seals and opens bytes with one key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, plain: bytes, purpose: str) -> bytes:
        """The sealed form, 29 bytes longer."""
        nonce = os.urandom(12)
        return VERSION + nonce + self._cipher.encrypt(nonce, plain, purpose.encode())

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """What was sealed for this purpose.

        Raises:
            SealBroken: it was not, or not so.
        """
        if sealed[:1] != VERSION or len(sealed) < 29:
            raise SealBroken("sealed data of an unknown form")
        try:
            return self._cipher.decrypt(sealed[1:13], sealed[13:], purpose.encode())
        except InvalidTag:
            raise SealBroken("sealed data does not open: it was changed, or the key is another one") from None


def private_file(path: Path, make: bytes) -> bytes:
    """The content of a key file; made with mode 0600 and this content where there is none.

    Raises:
        GatewayError: others may read it, or it cannot be made.
    """
    try:
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0), 0o600
        )
    except FileExistsError:
        mode = stat.S_IMODE(path.stat().st_mode)
        if os.name == "posix" and mode & 0o077:
            raise GatewayError(f"{path}: mode {mode:03o} lets others read this key; chmod 600 it") from None
        return path.read_bytes()
    except OSError as error:
        raise GatewayError(f"{path}: the key cannot be made: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(make)
        file.flush()
        os.fsync(file.fileno())
    return make


def open_seal(store: Path | None) -> Seal:
    """The seal of a store, its key in `<store>.key`; of a store in memory a key that ends with the process."""
    fresh = os.urandom(KEY_BYTES)
    if store is None:
        return Seal(fresh)
    path = store.with_name(store.name + ".key")
    key = private_file(path, fresh)
    if len(key) != KEY_BYTES:
        raise GatewayError(f"{path}: is no key of {KEY_BYTES} bytes")
    return Seal(key)
