"""Tool servers as child processes: newline-delimited JSON over their standard streams (MCP, "stdio").

A child gets a session and process group of its own, an environment from an allow-list, and its standard error goes line by
line into the log. It ends with its link, on every path: its input is closed, then its group gets SIGTERM, then SIGKILL,
each after a bound. If the gateway itself is killed, the child's input closes, and a watchdog process ends its group.
"""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Final

from gateway.config import REGISTRY, ServerSettings, find_command, search_path
from gateway.ports import Attempt
from gateway.servers.exchange import Exchange
from gateway.servers.transport import NotSent, Receiver, StartError

logger = logging.getLogger("gateway.servers.stdio")
stderr_logger = logging.getLogger("gateway.servers.stderr")

INHERITED: Final = frozenset(
    {
        "HOME", "LANG", "LANGUAGE", "LOGNAME", "SHELL", "TERM", "TMPDIR", "TZ", "USER",
        # Windows programs do not start without these
        "APPDATA", "COMSPEC", "HOMEDRIVE", "HOMEPATH", "LOCALAPPDATA", "PATHEXT", "PROGRAMDATA", "PROGRAMFILES",
        "SYSTEMDRIVE", "SYSTEMROOT", "TEMP", "TMP", "USERNAME", "USERPROFILE", "WINDIR",
    }
)  # fmt: skip
"""What a child gets of the gateway's environment, besides PATH and LC_*: nothing that could be a secret."""

MAX_UNREAD_BYTES: Final = 64 * 1024 * 1024
"""Written to a child that does not read; beyond it is taken as stuck."""

MAX_STDERR_LINE: Final = 8192
STDERR_BURST: Final = 200
STDERR_PER_SECOND: Final = 20.0

EXIT_ON_EOF_SECONDS: Final = 1.0
EXIT_ON_TERM_SECONDS: Final = 2.0
EXIT_ON_KILL_SECONDS: Final = 2.0


def child_environment(settings: ServerSettings) -> dict[str, str]:
    """The allow-list, then what the configuration gives."""
    environment = {
        name: value for name, value in os.environ.items() if name.upper() in INHERITED or name.startswith("LC_")
    }
    environment["PATH"] = search_path()
    environment.update((name, secret.reveal()) for name, secret in settings.env.items())
    return environment


class Watchdog:
    """The gateway's end of the watchdog process (`gateway.servers.watchdog`): one for all children, started with the first."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._groups: set[int] = set()

    def add(self, group: int) -> None:
        self._groups.add(group)
        self._tell(b"+%d\n" % group)

    def remove(self, group: int) -> None:
        if group in self._groups:
            self._groups.discard(group)
            self._tell(b"-%d\n" % group)

    def close(self) -> None:
        """End the process; with it goes every group that is still listed."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(timeout=5.0 if self._groups else 1.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _tell(self, line: bytes) -> None:
        if os.name != "posix":
            return
        for _ in range(2):
            if self._process is None:
                self._start()
                line = b"".join(b"+%d\n" % group for group in self._groups)
            assert self._process is not None
            assert self._process.stdin is not None
            try:
                os.write(self._process.stdin.fileno(), line)
                return
            except OSError:
                logger.warning("the watchdog process ended (status %s); another is started", self._process.poll())
                self._process.stdin.close()
                self._process = None

    def _start(self) -> None:
        program = Path(__file__).with_name("watchdog.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
            env={},
        )


class Stdio(asyncio.SubprocessProtocol):
    """A child process as a transport.

    Args:
        settings: of its tool server.
        watchdog: to which its process group is told.
        max_message_bytes: a longer line is thrown away.
    """

    correlates = False
    stateless = False

    def __init__(self, settings: ServerSettings, watchdog: Watchdog, max_message_bytes: int) -> None:
        self.pid: int | None = None
        self._settings = settings
        self._watchdog = watchdog
        self._max = max_message_bytes
        self._receiver: Receiver | None = None
        self._process: asyncio.SubprocessTransport | None = None
        self._input: asyncio.WriteTransport | None = None
        self._partial: list[bytes] = []
        self._length = 0
        self._output_closed = False
        self._exited = asyncio.Event()
        self._said_lost = False
        self._stderr = b""
        self._stderr_tokens = float(STDERR_BURST)
        self._stderr_at = time.monotonic()
        self._stderr_dropped = 0
        self.last_words: deque[str] = deque(maxlen=3)
        """The last lines of its standard error."""

    async def start(self, receiver: Receiver) -> None:
        settings = self._settings
        assert settings.command is not None
        environment = child_environment(settings)
        command = find_command(settings.command, environment["PATH"])
        if command is None:
            raise StartError(f"{settings.command!r} is not found, or cannot be executed", permanent=True)
        self._receiver = receiver
        loop = asyncio.get_running_loop()
        try:
            await loop.subprocess_exec(
                lambda: self,
                command,
                *settings.args,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                cwd=settings.cwd,
                start_new_session=True,
            )
        except OSError as error:
            raise StartError(f"{command} does not start: {error.strerror or error}", permanent=True) from None

    async def send(
        self,
        data: bytes,
        exchange: Exchange | None,
        *,
        headers: bytes = b"",
        repeatable: bool = False,
        attempt: Attempt | None = None,
        timeout_seconds: float = 10.0,
    ) -> None:
        pipe = self._input
        if pipe is None or pipe.is_closing() or self._exited.is_set():
            raise NotSent("it is gone")
        if pipe.get_write_buffer_size() > MAX_UNREAD_BYTES:
            raise NotSent("it does not read its input")
        if attempt is not None:
            attempt.sent = True
        pipe.write(data + b"\n")

    def drop(self, exchange: Exchange) -> None:
        pass

    async def close(self) -> None:
        process, group = self._process, self.pid
        if process is None or group is None:
            return
        if self._input is not None:
            self._input.close()
        await self._exit_within(EXIT_ON_EOF_SECONDS)
        # Its leader may be gone while others of the group live on.
        if self._signal(signal.SIGTERM):
            await self._gone_within(EXIT_ON_TERM_SECONDS)
            if self._signal(getattr(signal, "SIGKILL", signal.SIGTERM)):
                await self._gone_within(EXIT_ON_KILL_SECONDS)
        process.close()
        self._watchdog.remove(group)

    @property
    def exit_status(self) -> int | None:
        return self._process.get_returncode() if self._process is not None else None

    # --- asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's subprocess transport is not a subclass of asyncio's
        self._process = transport  # type: ignore[assignment]
        assert self._process is not None
        self.pid = self._process.get_pid()
        self._watchdog.add(self.pid)
        self._input = self._process.get_pipe_transport(0)  # type: ignore[assignment]

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            self._take_output(data)
        else:
            self._take_stderr(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self._output_closed = True
            self._ending()
        elif fd == 2 and self._stderr:
            self._take_stderr(b"\n")

    def process_exited(self) -> None:
        self._exited.set()
        self._ending()

    def _ending(self) -> None:
        """Tell the link once it is over: at once where output and process are gone, else after the rest had its time."""
        if self._output_closed and self._exited.is_set():
            self._lost()
        else:
            asyncio.get_running_loop().call_later(0.3, self._lost)

    def _lost(self) -> None:
        if self._said_lost or self._receiver is None:
            return
        self._said_lost = True
        self._receiver.lost(self.obituary())

    def obituary(self) -> str:
        """How it ended, with its last words where it left any."""
        match self.exit_status:
            case None:
                text = "it closed its output"
            case status if status < 0:
                text = f"it was ended by {_signal_name(-status)}"
            case status:
                text = f"it exited with status {status}"
        return f"{text}; its last words: {' | '.join(self.last_words)}" if self.last_words else text

    # --- output ---

    def _take_output(self, data: bytes) -> None:
        assert self._receiver is not None
        if b"\n" not in data:
            self._keep(data)
            return
        first, *lines = data.split(b"\n")
        rest = lines.pop()
        if self._partial:
            self._keep(first)
            first = b"".join(self._partial)
            self._partial.clear()
        if self._length > self._max or len(first) > self._max:
            self._receiver.oversized(first[:512], first[-512:])
        elif first:
            self._receiver.receive(first, None)
        self._length = 0
        for line in lines:
            if line:
                self._receiver.receive(line, None)
        if rest:
            self._keep(rest)

    def _keep(self, data: bytes) -> None:
        """Part of a line. Of one beyond the bound only its start and its end are kept."""
        self._partial.append(data)
        self._length += len(data)
        if self._length > self._max:
            joined = b"".join(self._partial)
            self._partial = [joined[:512], joined[-512:]] if len(joined) > 1024 else [joined]

    def _take_stderr(self, data: bytes) -> None:
        *lines, self._stderr = (self._stderr + data).split(b"\n")
        if len(self._stderr) > MAX_STDERR_LINE:
            lines.append(self._stderr)
            self._stderr = b""
        for line in lines:
            text = REGISTRY.redact(line[:MAX_STDERR_LINE].decode("utf-8", "replace").rstrip())
            if not text:
                continue
            self.last_words.append(text[:200])
            if self._may_log():
                stderr_logger.info("%s: %s", self._settings.name, text, extra={"server": self._settings.name})

    def _may_log(self) -> bool:
        now = time.monotonic()
        self._stderr_tokens = min(STDERR_BURST, self._stderr_tokens + (now - self._stderr_at) * STDERR_PER_SECOND)
        self._stderr_at = now
        if self._stderr_tokens < 1:
            self._stderr_dropped += 1
            return False
        self._stderr_tokens -= 1
        if self._stderr_dropped:
            stderr_logger.info("%s: (%d more lines were dropped)", self._settings.name, self._stderr_dropped)
            self._stderr_dropped = 0
        return True

    # --- the end ---

    def _signal(self, number: int) -> bool:
        """Signal the whole group; False where nobody is left in it."""
        assert self.pid is not None
        try:
            if sys.platform != "win32":
                os.killpg(self.pid, number)
            elif self._process is not None and not self._exited.is_set():
                self._process.kill()
        except OSError:
            return False
        return os.name == "posix" or not self._exited.is_set()

    async def _exit_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._exited.wait()

    async def _gone_within(self, seconds: float) -> None:
        """Wait until the child is reaped and its group is empty."""
        deadline = time.monotonic() + seconds
        await self._exit_within(seconds)
        while time.monotonic() < deadline and self._signal(0):  # noqa: ASYNC110 - a group has no event
            await asyncio.sleep(0.02)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
