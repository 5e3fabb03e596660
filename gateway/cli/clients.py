"""`import` and `install`: a client's servers come here, and the gateway goes there."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import frame

if TYPE_CHECKING:
    from gateway.clients.importing import Import
    from gateway.config import Configuration


@frame.command("import")
@click.argument("source", metavar="SOURCE")
@click.option("--dry-run", is_flag=True, help="Connect and show, write nothing.")
@frame.json_option
def import_(source: str, dry_run: bool, as_json: bool) -> None:
    """Take over the tool servers of a client.

    SOURCE is claude-desktop, claude-code, cursor, vscode, or a file. Connects to each server, lists its tools, and writes
    a risk for each, proposed from the server's own hints.
    """
    from gateway.config import FILE_NAME, load
    from gateway.model.errors import ConfigurationError

    try:
        path = frame.configuration_path()
    except ConfigurationError:
        path = Path(FILE_NAME)
    configuration = load(path, to_look=True) if path.exists() else None
    found = take_over(source, configuration, path, dry_run=dry_run)
    report(found, path, dry_run=dry_run, as_json=as_json)
    if not found.servers and not found.skipped:
        raise frame.Negative(f"{source} has no tool servers")


def take_over(
    source: str, configuration: "Configuration | None", path: Path, *, dry_run: bool = False, head: str = ""
) -> "Import":
    """Gather a client's servers, ask them for their tools, and write what is new."""
    import anyio

    from gateway.clients import importing
    from gateway.clients.known import Surroundings, places
    from gateway.servers.listing import Unreachable, list_tools

    async def asked(configuration: "Configuration", server: str) -> Sequence[Mapping[str, Any]]:
        try:
            return await list_tools(configuration, server)
        except Unreachable as error:
            raise importing.ServerUnreachable(str(error)) from None

    around = Surroundings.here()
    where = places(source, around)
    if not where:
        raise frame.Negative(f"{source} has no configuration here")
    found = importing.gather(where, configuration, around)
    if found.servers:
        names = ", ".join(server.draft.name for server in found.servers)
        frame.say(f"asking {names} for their tools …")
        anyio.run(importing.propose, found, asked)
    if (found.servers or head) and not dry_run:
        importing.write(found, path.absolute(), head)
    return found


def report(found: "Import", path: Path, *, dry_run: bool, as_json: bool) -> None:
    """What was taken over, as a table or as JSON."""
    if as_json:
        frame.print_json(
            {
                "file": os.fspath(path.absolute()),
                "written": not dry_run,
                "servers": [
                    {
                        "name": server.draft.name,
                        "from": server.draft.origin,
                        "unreachable": server.unreachable,
                        "secrets": sorted(server.draft.secrets),
                        "notes": server.draft.notes,
                        "tools": [
                            {"name": tool.name, "risk": str(tool.risk), "hints": tool.hints} for tool in server.tools
                        ],
                    }
                    for server in found.servers
                ],
                "skipped": [{"name": name, "reason": reason} for name, reason in found.skipped],
            }
        )
        return
    rows = [
        (f"{server.draft.name}/{tool.name}", str(tool.risk), tool.hints)
        for server in found.servers
        for tool in server.tools
    ]
    if rows:
        frame.print_table(("tool", "proposed risk", "because of"), rows)
    for server in found.servers:
        if server.unreachable is not None:
            frame.say(f"{server.draft.name}: could not be asked for its tools: {server.unreachable}")
        for note in server.draft.notes:
            frame.say(f"{server.draft.name}: {note}")
        if server.draft.secrets:
            frame.say(f"{server.draft.name}: {len(server.draft.secrets)} secrets went to secrets/ (mode 0600)")
    for name, reason in found.skipped:
        frame.say(f"{name}: not taken over: {reason}")
    if found.servers and not dry_run:
        frame.say(f"{len(found.servers)} servers written to {path}; read the risks marked `# proposed`")
        frame.say(
            "a gateway that runs already takes them over by itself, or, where there are [operators], with `gateway reload`"
        )


@frame.command()
@click.argument("client", metavar="CLIENT")
@click.option("--agent", metavar="NAME", help="With [agents]: who connects; the key is in $GATEWAY_AGENT_KEY.")
@click.option("--keep-direct", is_flag=True, help="Leave the servers that the gateway has in the client as well.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, change nothing.")
@click.option("--undo", "undo_", is_flag=True, help="Take the newest install back.")
@frame.json_option
def install(client: str, agent: str | None, keep_direct: bool, dry_run: bool, undo_: bool, as_json: bool) -> None:
    """Put the gateway into a client's configuration.

    CLIENT is claude-desktop, claude-code, cursor, vscode, or a file. The file is backed up, and the servers that the
    gateway has go out of it, so that nothing passes the gateway by.
    """
    from gateway.clients import installing
    from gateway.clients.known import Surroundings

    state = installing.state_directory()
    if undo_:
        done = installing.undo(client, state)
        if as_json:
            frame.print_json([{"file": os.fspath(one.file), "exactly": one.exactly} for one in done])
        for one in done if not as_json else ():
            what = (
                "removed"
                if one.removed
                else "as it was"
                if one.exactly
                else "without the gateway; its other changes stay"
            )
            click.echo(f"{one.file}: {what}")
        return
    configuration = frame.configuration(to_use=True)
    made = installing.plan(
        client,
        configuration,
        Surroundings.here(),
        agent=agent,
        agent_key=os.environ.get("GATEWAY_AGENT_KEY"),
        keep_direct=keep_direct,
    )
    backups = [] if dry_run else installing.carry_out(made, state)
    if as_json:
        frame.print_json(
            {
                "client": client,
                "written": not dry_run,
                "files": [os.fspath(change.file) for change in made.changes],
                "backups": [os.fspath(backup) for backup in backups],
                "entry": {
                    "command": made.entry["command"],
                    "args": made.entry["args"],
                    "env": sorted(made.entry["env"]),
                },
                "moved": [entry.name for entry in made.moved],
                "direct": [entry.name for entry in made.direct],
            }
        )
        return
    for line in installing.describe(made):
        click.echo(line)
    for backup in backups:
        click.echo(f"backup: {backup}")
    if dry_run:
        frame.say("nothing was written")
        return
    frame.say(f"start {client} again; `gateway install {client} --undo` takes this back")
