"""The owner's socket where there are no Unix sockets: loopback, a token file, and a proof at both ends. And signals there."""

import asyncio
import json
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from gateway.adapters import ownership
from gateway.adapters.system import on_signals
from gateway.owner import CommandRefused, NoOwner, ask_owner
from tests.owner.fleet import fleet
from tests.owner.test_takeover import kill_owner

LOOPBACK = {"GATEWAY_OWNER_SOCKET": "loopback"}


@asynccontextmanager
async def listening(store: Path) -> AsyncIterator[list[Any]]:
    """An owner's door; what came of each connection, in turn: the bytes that an admitted one sent, or the error."""
    came: list[Any] = []
    loop = asyncio.get_running_loop()

    async def accept(listener: ownership.Listener) -> None:
        while True:
            connection, _ = await loop.sock_accept(listener.sock)
            try:
                reader, writer = await listener.admit(connection)
            except (ownership.ForeignPeer, OSError) as error:
                came.append(error)
                connection.close()
                continue
            came.append(await reader.read(100))
            writer.close()

    with ownership.listening(store) as listener:
        accepting = asyncio.create_task(accept(listener))
        try:
            yield came
        finally:
            accepting.cancel()
            await asyncio.wait([accepting])


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GATEWAY_OWNER_SOCKET", "loopback")
    return tmp_path / "gateway.db"


async def until(condition: Any) -> None:
    with anyio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await anyio.sleep(0.005)


@pytest.mark.anyio
@pytest.mark.rule("owner.loopback")
async def test_both_ends_prove_that_they_read_the_token_which_is_the_user_s_alone(store: Path) -> None:
    assert await ownership.join(store) is None
    async with listening(store) as came:
        place = store.with_name("gateway.db.sock")
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        streams = await ownership.join(store)
        assert streams is not None
        streams[1].write(b"hello")
        streams[1].close()
        await until(lambda: came == [b"hello"])
    assert not place.exists()
    assert await ownership.join(store) is None


@pytest.mark.anyio
@pytest.mark.rule("owner.loopback")
@pytest.mark.parametrize("said", [b"", b"{}\n", b"x" * 32, b"x" * 200])
async def test_the_owner_hears_nobody_who_has_not_read_the_token(store: Path, said: bytes) -> None:
    async with listening(store) as came:
        port = json.loads(store.with_name("gateway.db.sock").read_bytes())["port"]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        if len(said) == 32:
            await reader.readexactly(64)
            writer.write(b"a guess of the proof, 32 bytes..")
        writer.write_eof()
        await until(lambda: came)
        writer.close()
        assert isinstance(came[0], ownership.ForeignPeer if len(said) >= 32 else ConnectionResetError)
        streams = await ownership.join(store)
        assert streams is not None, "others are served on"
        streams[1].close()


@pytest.mark.anyio
@pytest.mark.rule("owner.loopback")
async def test_who_listens_on_a_dead_owner_s_port_is_told_nothing(store: Path) -> None:
    heard: list[bytes] = []

    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readexactly(32))
        writer.write(b"y" * 64)
        heard.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(impostor, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store.with_name("gateway.db.sock").write_text(json.dumps({"port": port, "token": "ab" * 32}))
    with pytest.raises(ownership.ForeignPeer, match="has not read its token"):
        await ownership.join(store)
    await until(lambda: len(heard) == 2)
    assert heard[1] == b"", "neither the token nor a proof of it, and no key"
    server.close()


@pytest.mark.anyio
@pytest.mark.rule("owner.loopback")
@pytest.mark.parametrize("left", ["", "{}", "[1]", '{"port":1,"token":"zz"}', '{"port":1,"token":"ab"}'])
async def test_what_a_killed_owner_left_is_nobody(store: Path, left: str) -> None:
    store.with_name("gateway.db.sock").write_text(left)
    assert await ownership.join(store) is None


@pytest.mark.anyio
@pytest.mark.rule("owner.loopback")
async def test_processes_join_and_take_over_on_loopback(tmp_path: Path) -> None:
    store = tmp_path / "gateway.db"
    async with fleet(store, **LOOPBACK) as running:
        first = await running.start()
        assert store.with_name("gateway.db.sock").is_file()
        assert await ask_owner(store, "pid") == first.pid
        assert await ask_owner(store, "stop", operator_key="key-of-ann") == first.pid
        with pytest.raises(CommandRefused, match="no operator has this key"):
            await ask_owner(store, "stop", operator_key="guess")
        for number in range(2):
            await kill_owner(running, number)
        for member in list(running.members):
            await member.leave()
    with pytest.raises(NoOwner):
        await ask_owner(store, "pid")


class NoSignalHandlers(asyncio.SelectorEventLoop):
    """As Windows' loops are."""

    def add_signal_handler(self, *_: Any) -> None:  # type: ignore[override]
        raise NotImplementedError


@pytest.mark.rule("owner.signals")
@pytest.mark.parametrize("kind", [NoSignalHandlers, asyncio.SelectorEventLoop])
def test_signals_are_heard_whatever_the_loop_can_do(kind: type[asyncio.SelectorEventLoop]) -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def main() -> list[int]:
        heard: list[int] = []
        some = asyncio.Event()

        def hear(number: int) -> None:
            heard.append(number)
            some.set()

        with on_signals(hear):
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
                async with asyncio.timeout(5):
                    await some.wait()
                some.clear()
        return heard

    with asyncio.Runner(loop_factory=kind) as runner:
        assert runner.run(main()) == [signal.SIGTERM, signal.SIGINT]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_unix_socket_is_the_way_where_there_are_some(tmp_path: Path) -> None:
    with ownership.listening(tmp_path / "gateway.db") as listener:
        assert listener.sock.family == socket.AF_UNIX
        assert listener.token is None
