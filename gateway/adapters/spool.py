"""The spool: what the journal keeps of reads until it is in the store, in two files beside it.

Theory of operation
-------------------
The begin of a read has to survive the death of the process before the call is forwarded, and no more than that. A
transaction is a dear way to say so: it changes half a dozen pages and changes them back at the call's end. So the begin of
a read, and its end, are appended to a file, one `write` each, in the caller's own step; from there the page cache keeps
them whatever becomes of the process. The journal has the ends committed many at a time, and a begin reaches the store only
where its call lasts.

Most begins are written as what is known of the call (`SpooledCall`), in MessagePack: to make the record's JSON of it takes
four times as long for a single call, in the middle of everything else, as for one of many in a row, and is left for then.

There are two files. One is appended to; what stands in the other is on its way into the store. When everything in it is
committed, it is emptied, and they may change places:

    append ─► file 0        file 1 ─► one transaction ─► emptied
                   ╲        ╱
                    `swap`

A file begins with the store's writer id, so that the files of another store are never taken for this one's. A frame is its
length, its CRC-32 and MessagePack; what is torn at the end of a file was never acknowledged, and is left out.
"""

import logging
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.adapters.records import CallFacts, plain
from gateway.model.verdict import Step

logger = logging.getLogger("gateway.journal")

MOST_BYTES: Final = 65_536
"""A larger begin or end goes straight to the store."""

_FRAME = struct.Struct("<II")
_FLAGS: Final = os.O_CREAT | os.O_RDWR | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NAMES: Final = ("-spool0", "-spool1")


class SpooledBegin(msgspec.Struct, frozen=True, array_like=True, tag="begin"):
    """A row of `begins`, but for its number."""

    call_id: str
    at: float
    idempotent: bool
    command: bytes
    trail: bytes
    commitment: bytes
    salt: bytes
    encoding: str
    request: bytes | None


class SpooledCall(msgspec.Struct, frozen=True, array_like=True, tag="call"):
    """The same of a call whose record is not encoded yet."""

    call_id: str
    at: float
    idempotent: bool
    facts: CallFacts
    steps: list[Step]


class SpooledEnd(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """What is committed of a call that has its outcome."""

    call_id: str
    at: float
    body: bytes
    columns: tuple[Any, ...]
    """Of `payloads`, but for `seq`."""
    summary: tuple[Any, ...]
    """Of `calls`, but for `seq`."""


Frame = SpooledBegin | SpooledCall | SpooledEnd

_encode = msgspec.msgpack.Encoder(enc_hook=plain).encode
_decode = msgspec.msgpack.Decoder(Frame).decode


def framed(frame: Frame) -> bytes:
    """A frame's bytes.

    Raises:
        TypeError, ValueError, OverflowError, RecursionError: it holds what MessagePack does not have.
    """
    data = _encode(frame)
    checksum = zlib.crc32(data[:4096])  # of more than 5 KiB at once it lets other threads run
    for start in range(4096, len(data), 4096):
        checksum = zlib.crc32(data[start : start + 4096], checksum)
    return _FRAME.pack(len(data), checksum) + data


class Spool:
    """The two files of one store. One task appends; `empty` may run in a thread beside it.

    Args:
        store: the store's own file.

    Raises:
        OSError: the files cannot be opened.
    """

    def __init__(self, store: Path) -> None:
        self._paths = tuple(store.with_name(store.name + name) for name in _NAMES)
        self._files: list[int] = []
        for path in self._paths:
            self._files.append(os.open(path, _FLAGS, 0o600))
        self._sizes = [os.fstat(file).st_size for file in self._files]
        self._at = 0
        self._held: list[bytes] = []
        self._title = b""

    def belongs_to(self, writer: str) -> None:
        """Name the store's writer; before anything is appended or read."""
        self._title = b"gateway spool 1 %s\n" % writer.encode()

    @property
    def held(self) -> bool:
        """Whether frames wait to be appended."""
        return bool(self._held)

    @property
    def size(self) -> int:
        """Bytes in the file that is appended to."""
        return self._sizes[self._at]

    @property
    def pending(self) -> bool:
        """Whether the other file still holds something."""
        return self._sizes[1 - self._at] > 0

    def hold(self, frame: SpooledEnd) -> None:
        """Have the frame appended together with the next one."""
        self._held.append(framed(frame))

    def append(self, frame: bytes | None = None) -> None:
        """Returns once the frame (`framed`), and those held before it, would survive this process.

        Raises:
            OSError: it would not; the file is as before.
        """
        parts, self._held = self._held, []
        if frame is not None:
            parts.append(frame)
        at = self._at
        size, file = self._sizes[at], self._files[at]
        data = b"".join(parts if size else [self._title, *parts])
        try:
            written = os.write(file, data)
            if written != len(data):
                raise OSError(f"{written} of {len(data)} bytes were taken")
        except OSError:
            os.ftruncate(file, size)
            raise
        self._sizes[at] = size + written

    def swap(self) -> None:
        """Append to the other file from now on, which is empty. What is held is forgotten."""
        assert not self.pending
        self._held = []
        self._at = 1 - self._at

    def empty(self) -> None:
        """Forget the other file's content: it is in the store."""
        self._empty(1 - self._at)

    def empty_all(self) -> None:
        """Forget both files' content."""
        self._empty(0)
        self._empty(1)

    def _empty(self, number: int) -> None:
        os.ftruncate(self._files[number], 0)
        self._sizes[number] = 0

    def frames(self) -> list[Frame]:
        """What a process before left in both files; of each file in order. What is torn, or another store's, is dropped."""
        found: list[Frame] = []
        for number, path in enumerate(self._paths):
            data = path.read_bytes()
            place = len(self._title) if data.startswith(self._title) else 0
            while 0 < place <= len(data) - _FRAME.size:
                length, checksum = _FRAME.unpack_from(data, place)
                content = data[place + _FRAME.size : place + _FRAME.size + length]
                if len(content) != length or zlib.crc32(content) != checksum:
                    break
                try:
                    found.append(_decode(content))
                except msgspec.MsgspecError:
                    break
                place += _FRAME.size + length
            if place < len(data):
                logger.warning(
                    "%s: the last %d of %d bytes are no whole frames", path.name, len(data) - place, len(data)
                )
                os.ftruncate(self._files[number], place)
            self._sizes[number] = place
        return found

    def close(self) -> None:
        """Close both files; those that hold nothing go."""
        for path, file, size in zip(self._paths, self._files, self._sizes, strict=True):
            os.close(file)
            if size == 0:
                path.unlink(missing_ok=True)
        self._files = []
