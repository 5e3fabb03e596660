"""One owner a store: the lock that the kernel releases when its holder dies, and the socket beside the store.

    gateway.db          the store
    gateway.db.lock     held by the owner as long as it lives; never removed, or two could hold "the" lock
    gateway.db.sock     where the owner serves the others; mode 0600

A Unix socket's path has room for some hundred bytes. Where the store's own is longer, the socket lies in a directory of
the user's under the temporary directory, named by the store's hash: both sides come to the same place.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from gateway.model.errors import GatewayError, StoreBusy

MAX_PATH_BYTES: Final = 100
"""Of a socket's path: 104 on macOS, 108 on Linux, both with a zero at the end."""

BACKLOG: Final = 64


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
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise StoreBusy(f"the store {store} is in use by {owner(store)}") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "purpose": purpose}).encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


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
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        return path
    directory = Path(tempfile.gettempdir()) / f"mcp-gateway-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ForeignPeer(f"{directory} is not a directory of this user alone; remove it, or shorten the store's path")
    return directory / f"{hashlib.sha256(os.fsencode(store.resolve())).hexdigest()[:24]}.sock"


@contextlib.contextmanager
def listening(store: Path) -> Iterator[socket.socket]:
    """The owner's listening socket; only whoever holds the lock may open it, since it replaces a dead owner's."""
    path = socket_path(store)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(path))
        path.chmod(0o600)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def connect(store: Path) -> socket.socket | None:
    """A connection to the store's owner; None where nobody listens.

    Raises:
        ForeignPeer: whoever listens is another user.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(1.0)  # connecting waits where the owner's backlog is full
        connection.connect(os.fspath(socket_path(store)))
        check_peer(connection)
    except (FileNotFoundError, ConnectionError, BlockingIOError, TimeoutError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    connection.setblocking(False)
    return connection


def check_peer(connection: socket.socket) -> None:
    """Let only this user's processes be at the other end.

    Raises:
        ForeignPeer: the other end is somebody else's.
    """
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
