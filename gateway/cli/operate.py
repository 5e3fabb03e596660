"""`dead-letters`, `keys`: what operators mend and what they verify with."""

import json
from datetime import UTC, datetime
from typing import Any

import click

from gateway.cli import frame
from gateway.cli.running import ask


@frame.group("dead-letters")
def dead_letters() -> None:
    """Calls that may have run and nobody knows, or that used up their tries."""


@dead_letters.command("list")
@click.option("--state", type=click.Choice(["open", "retried", "dropped", "all"]), default="open", show_default=True)
@frame.json_option
def list_letters(state: str, as_json: bool) -> None:
    """List dead letters."""
    found = ask(frame.configuration(), "dead-letters.list", {"state": state})
    if as_json:
        frame.print_json(found)
        return
    rows = [
        (
            letter["call_id"],
            datetime.fromtimestamp(letter["at"], UTC).strftime("%Y-%m-%d %H:%M:%SZ"),
            letter["agent"],
            letter["tool"],
            letter["code"],
            "may have run" if letter["in_doubt"] else "did not run",
            len(letter["attempts"]),
            letter["state"],
        )
        for letter in found
    ]
    frame.print_table(("call", "time", "agent", "tool", "code", "effect", "tries", "state"), rows)


@dead_letters.command("show")
@click.argument("call_id", metavar="CALL")
@frame.json_option
def show_letter(call_id: str, as_json: bool) -> None:
    """Show one dead letter with its arguments and tries. Needs an operator's key; looking is recorded."""
    found = ask(frame.configuration(), "dead-letters.show", {"call_id": call_id}, key=True)
    if as_json:
        frame.print_json(found)
        return
    for key in ("call_id", "state", "agent", "tool", "risk", "code", "in_doubt", "message", "session_id", "retried_as"):
        click.echo(f"{key:12} {found[key]}")
    for attempt in found["attempts"]:
        click.echo(f"{'tried':12} {json.dumps(attempt, ensure_ascii=False, default=str)}")
    click.echo(json.dumps(found["params"], indent=2, ensure_ascii=False))


@dead_letters.command("retry")
@click.argument("call_id", metavar="CALL")
@click.option("--i-know-it-may-run-twice", "twice", is_flag=True, help="For a call that may have run already.")
@frame.json_option
def retry_letter(call_id: str, twice: bool, as_json: bool) -> None:
    """Make the call again, through the whole chain. Needs an operator's key."""
    found = ask(frame.configuration(), "dead-letters.retry", {"call_id": call_id, "may_run_twice": twice}, key=True)
    _print_outcome(found, as_json)


@dead_letters.command("drop")
@click.argument("call_id", metavar="CALL")
@frame.json_option
def drop_letter(call_id: str, as_json: bool) -> None:
    """Settle a dead letter without a further call. Needs an operator's key."""
    found = ask(frame.configuration(), "dead-letters.drop", {"call_id": call_id}, key=True)
    if as_json:
        frame.print_json(found)
    else:
        click.echo(f"dropped: {found['call_id']}")


def _print_outcome(found: dict[str, Any], as_json: bool) -> None:
    """A call's outcome; exit code 1 where it was refused or failed."""
    if as_json:
        frame.print_json(found)
    elif "result" in found:
        click.echo(f"call {found['call_id']}")
        click.echo(json.dumps(found["result"], indent=2, ensure_ascii=False))
    else:
        click.echo(found.get("message") or json.dumps(found.get("error"), ensure_ascii=False))
    if "result" not in found:
        raise frame.Negative


@frame.group()
def keys() -> None:
    """The key that signs decisions."""


@keys.command("show")
@frame.json_option
def show_keys(as_json: bool) -> None:
    """Print the public key, in PEM, and its id. Verify with it: `gateway holds show HOLD --verify --key FILE`."""
    from gateway.adapters.signing import key_path, open_signer

    store = frame.configuration().store.path
    if store is None:
        raise frame.Negative("the store is in memory; its key ends with the process")
    if not key_path(store).is_file():
        raise frame.Negative("there is no key yet; the gateway makes it when it first starts")
    public = open_signer(store).public
    if as_json:
        frame.print_json({"keyid": public.id, "pem": public.pem})
    else:
        click.echo(f"# keyid {public.id}")
        click.echo(public.pem, nl=False)


@keys.command("rotate")
@frame.json_option
def rotate_keys(as_json: bool) -> None:
    """Sign with a new key from now on; the old one signs which. Needs an operator's key."""
    found = ask(frame.configuration(), "keys.rotate", key=True)
    if as_json:
        frame.print_json(found)
    else:
        click.echo(f"# keyid {found['keyid']}, before {found['before']}")
        click.echo(found["pem"], nl=False)
