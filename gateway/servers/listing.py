"""What one tool server offers, asked once: for `gateway import`, `tools` and `check` without a running gateway."""

from collections.abc import Mapping, Sequence
from typing import Any

import anyio

from gateway.config import Configuration
from gateway.model.call import TargetType
from gateway.model.errors import GatewayError
from gateway.model.snapshot import ServerCatalogue
from gateway.ports import SessionChannel
from gateway.servers.pool import ToolServers

WAIT_SECONDS = 60.0


class Unreachable(GatewayError):
    """The tool server could not be asked. The text says why."""


async def _no_session(session_id: str) -> SessionChannel | None:
    return None


async def list_server(
    configuration: Configuration, server: str, timeout_seconds: float = WAIT_SECONDS
) -> ServerCatalogue:
    """Connect to one server of a configuration, list what it offers, and disconnect.

    Raises:
        Unreachable: it cannot be reached, or not within the time.
        KeyError: the configuration has no such server.
    """
    settings = configuration.servers[server]
    servers = ToolServers(_no_session)
    known = anyio.Event()
    servers.on_change(lambda name, kinds: known.set())
    await servers.reconfigure({server: settings})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(servers.run)
        with anyio.move_on_after(timeout_seconds):
            await known.wait()
        catalogue = servers.catalogues()[server]
        await servers.close()
    if not catalogue.available:
        raise Unreachable(catalogue.reason)
    return catalogue


async def list_tools(configuration: Configuration, server: str) -> Sequence[Mapping[str, Any]]:
    """The definitions of the tools of one server, as it gave them. Raises as `list_server` does."""
    catalogue = await list_server(configuration, server)
    return [entry.definition for entry in catalogue.entries if entry.type is TargetType.TOOL]
