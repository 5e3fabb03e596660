"""How commands reach a running gateway, and how they make do without one.

A gateway that runs owns its store and listens on a socket beside it (`gateway.owner`). Commands that change something go
there; without a gateway there is nothing to change. Commands that only look can put a gateway together for themselves.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gateway.cli import frame

if TYPE_CHECKING:
    from gateway.config import Configuration
    from gateway.wiring import Runtime

SETTLE_SECONDS = 60.0
"""How long a gateway of a command's own waits for its tool servers."""

RECHECK_SECONDS = 0.5
"""A server's state may settle without its catalogue changing."""


def ask(
    configuration: "Configuration", command: str, params: Mapping[str, Any] | None = None, *, key: bool = False
) -> Any:
    """The running gateway's answer to a command.

    Args:
        key: send the operator's key along (`$GATEWAY_OPERATOR_KEY`, or asked for on a terminal).

    Raises:
        NoOwner: no gateway runs on the configuration's store.
        CommandRefused: its answer is no.
    """
    import anyio

    from gateway.owner import NoOwner, ask_owner

    store = configuration.store.path
    if store is None:
        raise NoOwner(
            f"the store is `{configuration.store.scheme}:`, so a running gateway cannot be reached by commands"
        )
    operator_key = frame.operator_key() if key else None
    return anyio.run(ask_owner, store, command, params, operator_key)


@asynccontextmanager
async def own_gateway(configuration: "Configuration", *, recorded: bool) -> AsyncIterator["Runtime"]:
    """A gateway of this command's own, with its tool servers connected as far as they can be.

    Args:
        recorded: it owns the store and records what it does; else it works in memory and leaves nothing behind.

    Raises:
        StoreBusy: `recorded`, and another process owns the store.
    """
    import anyio

    from gateway import wiring
    from gateway.adapters import ownership
    from gateway.config import StoreSettings

    used = configuration if recorded else replace(configuration, store=StoreSettings(scheme="memory"))

    @asynccontextmanager
    async def built() -> AsyncIterator["Runtime"]:
        async with wiring.build(used, watch=False) as runtime:
            changed = anyio.Event()

            def told(_server: str, _kinds: object) -> None:
                changed.set()

            runtime.servers.on_change(told)
            with anyio.move_on_after(SETTLE_SECONDS):
                while any(state.state == "connecting" for state in runtime.servers.states()):
                    changed = anyio.Event()
                    with anyio.move_on_after(RECHECK_SECONDS):
                        await changed.wait()
            yield runtime

    if recorded and used.store.path is not None:
        with ownership.own(used.store.path, "call"):
            async with built() as runtime:
                yield runtime
    else:
        async with built() as runtime:
            yield runtime
