"""`init`, `serve`, `stdio`, `check`: from nothing to a running gateway."""

import os

import click

from gateway.cli import frame


@frame.command()
@click.option("--host", metavar="H", help="Listen here instead of [listen] host.")
@click.option(
    "--port", type=click.IntRange(0, 65535), metavar="P", help="Listen on this port instead of [listen] port."
)
def serve(host: str | None, port: int | None) -> None:
    """Serve agents over Streamable HTTP at /mcp."""
    import anyio

    from gateway import wiring
    from gateway.config import check_listen

    configuration = frame.configuration()
    address = host if host is not None else configuration.listen.host
    check_listen(configuration, address)
    anyio.run(wiring.serve, configuration, address, port if port is not None else configuration.listen.port)


@frame.command()
@click.option("--agent", metavar="NAME", help="The agent of [agents] that connects; its key is in $GATEWAY_AGENT_KEY.")
def stdio(agent: str | None) -> None:
    """Serve one agent on standard input and output."""
    import anyio

    from gateway import wiring
    from gateway.config import LOCAL_AGENT

    configuration = frame.configuration()
    settings = LOCAL_AGENT
    if not configuration.local_only:
        if agent is None:
            raise click.UsageError(
                "the configuration has [agents]; name one with --agent, its key in $GATEWAY_AGENT_KEY"
            )
        key = os.environ.get("GATEWAY_AGENT_KEY", "")
        if not key:
            raise click.UsageError(f"GATEWAY_AGENT_KEY is not set; it has to be the key of {agent!r}")
        found = configuration.agent_for_key(key)
        if found is None or found.name != agent:
            raise click.UsageError(f"GATEWAY_AGENT_KEY is not the key of an agent {agent!r}")
        settings = found
    elif agent is not None and agent != LOCAL_AGENT.name:
        raise click.UsageError(f"there is no agent {agent!r}: the configuration has no [agents]")
    anyio.run(wiring.stdio, configuration, settings)


@frame.command()
@frame.json_option
def check(as_json: bool) -> None:
    """Check the configuration and the policies. Connects to nothing."""
    configuration = frame.configuration()
    if as_json:
        frame.print_json(
            {
                "file": os.fspath(configuration.file),
                "sha256": configuration.sha256,
                "servers": {name: server.disabled_reason for name, server in configuration.servers.items()},
                "warnings": list(configuration.warnings),
            }
        )
        return
    for warning in configuration.warnings:
        frame.say(f"warning: {warning}")
    click.echo(f"{configuration.file}: {len(configuration.servers)} servers, sha256 {configuration.sha256[:12]}")
