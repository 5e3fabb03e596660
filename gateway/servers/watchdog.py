"""Ends the process groups of tool servers when their gateway is gone, however it went. Run as a program of its own.

`python -I -S watchdog.py`, with a pipe from the gateway as standard input: lines `+PGID` and `-PGID`. The kernel closes
the pipe when the gateway's process ends, also by SIGKILL; then every group that is still listed gets SIGTERM and, two
seconds later, SIGKILL. Standard library only, no imports of the gateway: it has to be small and to start fast.
"""

import os
import signal
import sys
import time

assert sys.platform != "win32", "there are no process groups"

GRACE_SECONDS = 2.0


def _signal(groups: set[int], number: int) -> set[int]:
    """Signal every group; returns those that are still there."""
    left = set()
    for group in groups:
        try:
            os.killpg(group, number)
        except OSError:
            continue
        left.add(group)
    return left


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    pending = b""
    while chunk := os.read(0, 65536):
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            (groups.add if line[:1] == b"+" else groups.discard)(int(line[1:]))
    groups = _signal(groups, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while groups and time.monotonic() < deadline:
        time.sleep(0.05)
        groups = _signal(groups, 0)
    _signal(groups, signal.SIGKILL)


if __name__ == "__main__":
    main()
