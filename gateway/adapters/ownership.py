"""One owner a store: the lock that the kernel releases when its holder dies, and the socket beside the store.

    gateway.db          the store
    gateway.db.lock     held by the owner as long as it lives; never removed, or two could hold "the" lock
    gateway.db.sock     where the owner serves the others; mode 0600

A Unix socket's path has room for some hundred bytes. Where the store's own is longer, the socket lies in a directory of
the user's under the temporary directory, named by the store's hash: both sides come to the same place.

Where there are no Unix sockets (Windows; or `$GATEWAY_OWNER_SOCKET` is `loopback`, for a file system that takes none), the
owner listens on the loopback interface, and `gateway.db.sock` is a file with the port and a token. Both ends prove that they
have read it before anything else is said; neither sends it, so that whoever listens on a dead owner's port learns nothing:

    joiner -> owner     32 random bytes
    owner  -> joiner    32 random bytes, HMAC-SHA-256 of "owner" and both
    joiner -> owner     HMAC-SHA-256 of "joiner" and both
"""

import asyncio
import contextlib
import errno
import hashlib
import hmac
import json
import os
import secrets
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.model.errors import GatewayError, StoreBusy

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

MAX_PATH_BYTES: Final = 100
"""Of a socket's path: 104 on macOS, 108 on Linux, both with a zero at the end."""

BACKLOG: Final = 64

LOCKED_BYTE: Final = 1 << 30

PROOF_SECONDS: Final = 10.0
"""How long the two ends of a loopback connection may take to prove who they are."""

_NONCE: Final = 32
_PROOF: Final = 32


class ForeignPeer(GatewayError):
    """The other end of the socket belongs to another user."""


@contextlib.contextmanager
def own(store: Path, purpose: str) -> Iterator[None]:
    """Own the store while the context is open.

    Args:
        purpose: the command that owns it, told to whoever finds it taken.

    Raises:
        StoreBusy: another process owns it; the text names it.
        OSError: the lock file cannot be made.
    """
    store.parent.mkdir(parents=True, exist_ok=True)
    path = lock_path(store)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0), 0o600)
    try:
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise StoreBusy(f"the store {store} is in use by {owner(store)}") from error
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "purpose": purpose}).encode())
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock the file for this process alone, until it closes it or ends.

    Raises:
        OSError: EWOULDBLOCK or EACCES where another one has the lock.
    """
    if sys.platform == "win32":
        # A byte far behind what is written: what a lock covers, others cannot read there.
        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_path(store: Path) -> Path:
    """The lock file of a store."""
    return store.with_name(store.name + ".lock")


def owner(store: Path) -> str:
    """Who holds the lock, in words; best effort."""
    try:
        found = json.loads(lock_path(store).read_bytes())
        return f"`gateway {found['purpose']}` (process {found['pid']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def socket_path(store: Path) -> Path:
    """Where the store's owner listens.

    Raises:
        ForeignPeer: the user's directory under the temporary directory belongs to somebody else.
    """
    path = store.with_name(store.name + ".sock")
    if sys.platform == "win32" or len(os.fsencode(path)) <= MAX_PATH_BYTES:
        return path
    directory = Path(tempfile.gettempdir()) / f"mcp-gateway-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ForeignPeer(f"{directory} is not a directory of this user alone; remove it, or shorten the store's path")
    return directory / f"{hashlib.sha256(os.fsencode(store.resolve())).hexdigest()[:24]}.sock"


@dataclass(frozen=True, slots=True)
class Listener:
    """Where an owner listens."""

    sock: socket.socket
    token: bytes | None = None
    """Of a loopback socket; a Unix socket tells who is at the other end."""

    async def admit(self, connection: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The streams of an accepted connection, once its other end has proven that it is this user's.

        Raises:
            ForeignPeer: it has not.
            OSError: the connection is broken.
        """
        if self.token is None:
            check_peer(connection)
        else:
            await _within(_prove_owner(connection, self.token))
        return await _streams(connection)


@contextlib.contextmanager
def listening(store: Path) -> Iterator[Listener]:
    """The owner's listening socket; only whoever holds the lock may open it, since it replaces a dead owner's."""
    path = socket_path(store)
    path.unlink(missing_ok=True)
    if sys.platform == "win32" or os.environ.get("GATEWAY_OWNER_SOCKET") == "loopback":
        with _listening_on_loopback(path) as listener:
            yield listener
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as unix:
        unix.bind(os.fspath(path))
        path.chmod(0o600)
        unix.listen(BACKLOG)
        unix.setblocking(False)
        try:
            yield Listener(unix)
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _listening_on_loopback(path: Path) -> Iterator[Listener]:
    token = secrets.token_bytes(32)
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        listener.setblocking(False)
        said = json.dumps({"port": listener.getsockname()[1], "token": token.hex()}).encode()
        fresh = path.with_name(path.name + ".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, said)
        finally:
            os.close(descriptor)
        fresh.replace(path)  # whole, or not there
        try:
            yield Listener(listener, token)
        finally:
            path.unlink(missing_ok=True)


async def join(store: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    """A connection to the store's owner; None where nobody listens, or the owner goes before it answers.

    Raises:
        ForeignPeer: whoever listens is another user, or is not the owner.
    """
    path = socket_path(store)
    token: bytes | None = None
    connection: socket.socket | None = None
    try:
        if sys.platform == "win32" or stat.S_ISREG(path.stat().st_mode):
            said = json.loads(path.read_bytes())
            token = bytes.fromhex(said["token"])
            connection = socket.create_connection(("127.0.0.1", int(said["port"])), timeout=1.0)
        else:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(1.0)  # connecting waits where the owner's backlog is full
            connection.connect(os.fspath(path))
            check_peer(connection)
        connection.setblocking(False)
        if token is not None:
            await _within(_prove_joiner(connection, token))
        return await _streams(connection)
    except (FileNotFoundError, ConnectionError, BlockingIOError, TimeoutError, KeyError, TypeError, ValueError):
        if connection is not None:
            connection.close()
        return None
    except BaseException:
        if connection is not None:
            connection.close()
        raise


async def _streams(connection: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if sys.platform == "win32" or connection.family == socket.AF_INET:
        return await asyncio.open_connection(sock=connection, limit=1_048_576)
    return await asyncio.open_unix_connection(sock=connection, limit=1_048_576)


async def _within(proving: Any) -> None:
    async with asyncio.timeout(PROOF_SECONDS):
        await proving


async def _prove_owner(connection: socket.socket, token: bytes) -> None:
    """The owner's end of the proof."""
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    theirs, ours = await _exactly(connection, _NONCE), secrets.token_bytes(_NONCE)
    await loop.sock_sendall(connection, ours + _proof(token, b"owner", theirs, ours))
    if not hmac.compare_digest(await _exactly(connection, _PROOF), _proof(token, b"joiner", theirs, ours)):
        raise ForeignPeer("the other end has not read the owner's token")


async def _prove_joiner(connection: socket.socket, token: bytes) -> None:
    """The joiner's end of the proof."""
    loop = asyncio.get_running_loop()
    ours = secrets.token_bytes(_NONCE)
    await loop.sock_sendall(connection, ours)
    answer = await _exactly(connection, _NONCE + _PROOF)
    theirs, proof = answer[:_NONCE], answer[_NONCE:]
    if not hmac.compare_digest(proof, _proof(token, b"owner", ours, theirs)):
        raise ForeignPeer("whoever listens where the store's owner did has not read its token")
    await loop.sock_sendall(connection, _proof(token, b"joiner", ours, theirs))


def _proof(token: bytes, who: bytes, joiners: bytes, owners: bytes) -> bytes:
    return hmac.digest(token, who + joiners + owners, "sha256")


async def _exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes.

    Raises:
        ConnectionError: the connection ends before.
    """
    loop = asyncio.get_running_loop()
    found = b""
    while len(found) < size:
        chunk = await loop.sock_recv(connection, size - len(found))
        if not chunk:
            raise ConnectionResetError("the other end is gone")
        found += chunk
    return found


def check_peer(connection: socket.socket) -> None:
    """Let only this user's processes be at the other end.

    Raises:
        ForeignPeer: the other end is somebody else's.
    """
    if sys.platform == "win32":
        return
    uid = peer_uid(connection)
    if uid is not None and uid != os.getuid():
        raise ForeignPeer(f"the other end of the socket belongs to user {uid}")


def peer_uid(connection: socket.socket) -> int | None:
    """The user at the other end, or None where the system does not tell: then the socket's mode alone protects it."""
    if sys.platform.startswith("linux"):
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", found)[1])
    option: Any = getattr(socket, "LOCAL_PEERCRED", None)
    if option is None:
        return None
    found = connection.getsockopt(0, option, 76)  # struct xucred of BSD and macOS: version, uid, groups
    return int(struct.unpack_from("II", found)[1])
