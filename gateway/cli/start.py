"""`init`, `serve`, `stdio`: from nothing to a running gateway."""

import os
import sys
from pathlib import Path

import click

from gateway.cli import frame


@frame.command()
@click.option("--host", metavar="H", help="Listen here instead of [listen] host.")
@click.option(
    "--port", type=click.IntRange(0, 65535), metavar="P", help="Listen on this port instead of [listen] port."
)
def serve(host: str | None, port: int | None) -> None:
    """Serve agents over Streamable HTTP at /mcp."""
    from gateway import wiring
    from gateway.config import check_listen

    configuration = frame.configuration(to_use=True)
    address = host if host is not None else configuration.listen.host
    check_listen(configuration, address)
    listened = port if port is not None else configuration.listen.port
    # To a terminal alone: what goes into a file or a pipe is kept, and read by others.
    link = _show_link if sys.stdout.isatty() else None
    frame.run(wiring.serve, configuration, address, listened, None, link)


def _show_link(url: str) -> None:
    click.echo(f"\nThe console, for whoever opens this first (once, within ten minutes):\n  {url}\n")


@frame.command()
@click.option("--agent", metavar="NAME", help="The agent of [agents] that connects; its key is in $GATEWAY_AGENT_KEY.")
def stdio(agent: str | None) -> None:
    """Serve one agent on standard input and output."""
    from gateway import wiring
    from gateway.config import LOCAL_AGENT

    configuration = frame.configuration(to_use=True)
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
    frame.run(wiring.stdio, configuration, settings)


@frame.command()
@click.option(
    "--from", "source", metavar="SOURCE", help="Take over the servers of a client: claude-desktop, …, or a file."
)
@click.option("--operator", metavar="NAME", help="Who may decide. Default: your user name.")
@frame.json_option
def init(source: str | None, operator: str | None, as_json: bool) -> None:
    """Write a servers.toml and policies to begin with, and make an operator's key (shown once)."""
    from gateway.clients import starting
    from gateway.clients.importing import write_atomically
    from gateway.config import FILE_NAME, loads

    path = Path(frame.state().config or os.environ.get("GATEWAY_CONFIG") or FILE_NAME)
    beginning = starting.prepare(path.absolute(), operator)
    written = starting.write_policies(beginning.policies)
    if source is not None:
        from gateway.cli.clients import report, take_over

        found = take_over(source, None, path, head=beginning.text)
        if not as_json:
            report(found, path, dry_run=False, as_json=False)
        servers = [server.draft.name for server in found.servers]
    else:
        text = beginning.text + starting.example()
        loads(text, beginning.file)
        write_atomically(beginning.file, text, mode=None)
        servers = []
    if as_json:
        frame.print_json(
            {
                "file": os.fspath(beginning.file),
                "policies": [os.fspath(file) for file in written],
                "servers": servers,
                "operator": beginning.operator,
                "operator_key": beginning.operator_key,
            }
        )
        return
    click.echo(f"written: {path} and {len(written)} files in {beginning.policies}")
    click.echo(f"operator {beginning.operator}, key (shown once, keep it): {beginning.operator_key}")
    if not servers:
        frame.say("next: add a tool server to it, or `gateway import CLIENT`; then `gateway check`")
    else:
        frame.say("next: `gateway check`, then `gateway install CLIENT`")
