"""Ids that sort by time, and the random bytes that calls need."""

import os
import time
from collections import deque
from typing import Final

_CHUNK: Final = 16
_CHUNKS: Final = 256
_random: deque[bytes] = deque()


def random16() -> bytes:
    """16 random bytes, each of which is given out once. The system is asked for many at a time: one call needs several."""
    try:
        return _random.popleft()
    except IndexError:
        fresh = os.urandom(_CHUNK * _CHUNKS)
        _random.extend(fresh[at : at + _CHUNK] for at in range(_CHUNK, len(fresh), _CHUNK))
        return fresh[:_CHUNK]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.clear)


def new_id() -> str:
    """A UUID of version 7 (RFC 9562): milliseconds since the epoch, then 74 random bits."""
    milliseconds = f"{time.time_ns() // 1_000_000 & 0xFFFFFFFFFFFF:012x}"
    random = random16()
    digits = random.hex()
    variant = "89ab"[random[15] & 3]
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7{digits[:3]}-{variant}{digits[3:6]}-{digits[6:18]}"
