"""Third-party tool servers, directly and through the gateway, with the SDK's client in each of its modes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters, types

from tests.gateway_process import PROGRAM, GatewayProcess, configure
from tests.real.conftest import servers_toml
from tests.real.servers import MODES, SERVERS, Reached, Workplace

pytestmark = pytest.mark.anyio


class Person:
    """Answers what a server asks of the client, and remembers it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def elicit(self, context: Any, params: Any) -> types.ElicitResult:
        self.asked.append("elicitation")
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async def sample(self, context: Any, params: Any) -> types.CreateMessageResult:
        self.asked.append("sampling")
        return types.CreateMessageResult(
            role="assistant", content=types.TextContent(text="an answer of the model"), model="test"
        )

    async def roots(self, context: Any) -> types.ListRootsResult:
        self.asked.append("roots")
        return types.ListRootsResult(roots=[types.Root(uri="file:///srv/of-the-client")])  # type: ignore[arg-type]


@asynccontextmanager
async def direct(name: str, place: Workplace, mode: Any, **callbacks: Any) -> AsyncIterator[Reached]:
    command, args = SERVERS[name].launch(place)
    env = {"MEMORY_FILE_PATH": str(place.directory / "memory.jsonl")}
    async with Client(StdioServerParameters(command=command, args=args, env=env), mode=mode, **callbacks) as client:
        yield Reached(client)


@asynccontextmanager
async def through_stdio(
    name: str, place: Workplace, mode: Any, directory: Path, **callbacks: Any
) -> AsyncIterator[Reached]:
    config = configure(directory, servers_toml(place, name))
    program = StdioServerParameters(command=PROGRAM[0], args=[*PROGRAM[1:], "stdio", "--config", str(config)])
    async with Client(program, mode=mode, **callbacks) as client:
        yield Reached(client, prefix=f"{name}__")


@pytest.mark.parametrize(("name", "mode"), [(server.name, mode) for server in SERVERS.values() for mode in server.eras])
async def test_the_server_works_without_a_gateway(name: str, mode: str, workplace: Workplace) -> None:
    async with direct(name, workplace, mode) as reached:
        await SERVERS[name].exercise(reached, workplace)


@pytest.mark.rule("relay.real-servers")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SERVERS)
async def test_the_server_works_through_the_gateway_over_http(
    name: str, mode: Any, gateway: GatewayProcess, shared_workplace: Workplace
) -> None:
    async with Client(gateway.url, mode=mode) as client:
        await SERVERS[name].exercise(Reached(client, prefix=f"{name}__"), shared_workplace)


@pytest.mark.rule("relay.real-servers")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SERVERS)
async def test_the_server_works_through_the_gateway_over_stdio(
    name: str, mode: Any, workplace: Workplace, tmp_path: Path
) -> None:
    async with through_stdio(name, workplace, mode, tmp_path / "gateway") as reached:
        await SERVERS[name].exercise(reached, workplace)


async def _is_asked(reached: Reached, person: Person) -> None:
    assert {"trigger-elicitation-request", "trigger-sampling-request", "get-roots-list"} <= await reached.tools()
    assert "an answer of the model" in await reached.text("trigger-sampling-request", {"prompt": "hello"})
    assert "Ada" in await reached.text("trigger-elicitation-request", {})
    assert "file:///srv/of-the-client" in await reached.text("get-roots-list", {})
    # It asks for roots once a connection, which another test's client may have had before this one.
    assert {"elicitation", "sampling"} <= set(person.asked)


def _callbacks(person: Person) -> dict[str, Any]:
    return {
        "elicitation_callback": person.elicit,
        "sampling_callback": person.sample,
        "list_roots_callback": person.roots,
    }


@pytest.mark.parametrize("mode", ["legacy"])
async def test_what_the_everything_server_asks_reaches_a_direct_client(mode: str, workplace: Workplace) -> None:
    person = Person()
    async with direct("everything", workplace, mode, **_callbacks(person)) as reached:
        await _is_asked(reached, person)


@pytest.mark.rule("relay.real-asks")
@pytest.mark.parametrize("mode", MODES)
async def test_what_the_everything_server_asks_reaches_the_client_through_the_gateway_over_http(
    mode: Any, gateway: GatewayProcess
) -> None:
    person = Person()
    async with Client(gateway.url, mode=mode, **_callbacks(person)) as client:
        await _is_asked(Reached(client, prefix="everything__"), person)


@pytest.mark.rule("relay.real-asks")
@pytest.mark.parametrize("mode", MODES)
async def test_what_the_everything_server_asks_reaches_the_client_through_the_gateway_over_stdio(
    mode: Any, workplace: Workplace, tmp_path: Path
) -> None:
    person = Person()
    async with through_stdio("everything", workplace, mode, tmp_path / "gateway", **_callbacks(person)) as reached:
        await _is_asked(reached, person)


@pytest.mark.rule("relay.mixed-eras")
@pytest.mark.parametrize("mode", MODES)
async def test_servers_of_both_eras_stand_in_one_list(mode: Any, gateway: GatewayProcess) -> None:
    async with Client(gateway.url, mode=mode) as client:
        names = await Reached(client).tools()
    assert {name.partition("__")[0] for name in names} == set(SERVERS)
