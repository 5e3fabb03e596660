"""Starting and killing `victim`s."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]


class Victims:
    """One preloaded process that forks gateways."""

    def __init__(self, process: "subprocess.Popen[str]", config: Path) -> None:
        self._process, self._config = process, config

    def run(
        self, calls: Sequence[tuple[str, dict[str, Any], str | None]], *, kill_after: float | None = None
    ) -> dict[int, str]:
        """Make the calls in a new gateway; kill it (-9) so many seconds after it was ready. What was answered, by index."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"config": str(self._config), "calls": calls}) + "\n")
        self._process.stdin.flush()
        answered: dict[int, str] = {}
        timer: threading.Timer | None = None
        for line in self._process.stdout:
            match line.split():
                case ["over"]:
                    break
                case ["ready", pid]:
                    if kill_after is not None:
                        timer = threading.Timer(kill_after, _kill, (int(pid),))
                        timer.start()
                case ["done"]:
                    if timer is not None:
                        timer.cancel()
                        timer.join()
                case ["failed", *_]:
                    raise AssertionError(line)
                case _:
                    index, kind = json.loads(line)
                    answered[index] = kind
        return answered


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@contextmanager
def victims(config: Path) -> Iterator[Victims]:
    """A process that gateways are forked from; ended by its own id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.enforcement.victim"],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(config.parent / "victim.log").open("w"),
        text=True,
    )
    try:
        yield Victims(process, config)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        deadline = time.monotonic() + 10
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.wait()


def moments(count: int, longest: float, seed: int = 20261120) -> list[float]:
    """Moments to kill at, the same in every run: dense at the beginning, where a call's steps lie."""
    chance = random.Random(seed)
    return [longest * chance.random() ** 2 for _ in range(count)]
