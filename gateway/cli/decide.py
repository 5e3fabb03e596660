"""`holds`, `pause`, `resume`, `kill`, `breakers`, `quotas`: what operators decide. Every act needs a key and is recorded."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from gateway.cli import frame
from gateway.cli.running import ask


@frame.group()
def holds() -> None:
    """Calls that wait for a person."""


@holds.command("list")
@click.option("--state", default="pending", show_default=True, help="pending, approved, denied, expired, …, or all.")
@frame.json_option
def list_holds(state: str, as_json: bool) -> None:
    """List held calls, newest first; the newest 1,000."""
    found = ask(frame.configuration(), "holds.list", {"state": state})
    if as_json:
        frame.print_json(found)
        return
    rows = [
        (hold["id"], hold["state"], hold["agent"], hold["tool"], _instant(hold["expires_at"]), _reasons(hold))
        for hold in found
    ]
    frame.print_table(("id", "state", "agent", "tool", "expires", "because"), rows)


@holds.command("show")
@click.argument("hold", required=False)
@click.option(
    "--verify", is_flag=True, help="Check the signatures of its decisions; exit code 1 where one is not valid."
)
@click.option(
    "--key", "public", type=click.Path(exists=True, dir_okay=False), help="The public key to verify with, in PEM."
)
@click.option(
    "--file", "exported", type=click.Path(exists=True, dir_okay=False), help="Verify this output of `--json`, offline."
)
@frame.json_option
def show_hold(hold: str | None, verify: bool, public: str | None, exported: str | None, as_json: bool) -> None:
    """Show one held call with its arguments. Needs an operator's key; looking is recorded.

    `--verify --key PUB --file HOLD.json` checks what `--json` printed, on any machine, without a gateway.
    """
    if exported is not None:
        found = json.loads(Path(exported).read_text())
    elif hold is not None:
        found = ask(frame.configuration(), "holds.show", {"id": hold}, key=True)
    else:
        raise click.UsageError("name a hold, or a file with --file")
    if verify:
        if public is None:
            raise click.UsageError("--verify needs --key: the public key that `gateway keys show` prints")
        _verify(found, Path(public))
        return
    if as_json:
        frame.print_json(found)
        return
    for key in ("id", "state", "agent", "tool", "risk", "call_id", "session_id", "policy_revision", "binding"):
        click.echo(f"{key:16} {found[key]}")
    click.echo(f"{'opened':16} {_instant(found['opened_at'])}")
    click.echo(f"{'expires':16} {_instant(found['expires_at'])}")
    for reason in found["reasons"]:
        click.echo(f"{'because':16} {reason['code']}: {reason['reason']}")
    for decision in found["decisions"]:
        click.echo(f"{'decided':16} {json.dumps(decision, ensure_ascii=False, default=str)}")
    click.echo(json.dumps(found["arguments"], indent=2, ensure_ascii=False))


def _verify(found: dict[str, Any], public: Path) -> None:
    """Check each decision's envelope, and that it is about this hold."""
    from gateway.adapters.signing import APPROVAL_TYPE, SignatureInvalid, load_public, verify

    key = load_public(public.read_bytes())
    if not found.get("envelopes"):
        why = "its decisions were erased with its call" if found.get("decisions") else "nobody has decided yet"
        raise frame.Negative(f"hold {found.get('id')}: {why}")
    for envelope in found["envelopes"]:
        try:
            said = json.loads(verify(envelope, [key], APPROVAL_TYPE))
        except SignatureInvalid as error:
            raise frame.Negative(f"hold {found.get('id')}: {error}") from None
        if said["hold"] != found.get("id"):
            raise frame.Negative(f"the decision is about hold {said['hold']}, not {found.get('id')}")
        word = "approved" if said["approve"] else "denied"
        click.echo(
            f"valid: {said['operator']} {word} {said['tool']} for {said['agent']} at {_instant(said['at'])}, key {key.id}"
        )
        if said["comment"]:
            click.echo(f"  {said['comment']}")


@holds.command("approve")
@click.argument("hold")
@click.option("--comment", default="", help="Recorded with the decision.")
@click.option("--arguments", "arguments", metavar="JSON", help="Approve these narrower arguments instead.")
@frame.json_option
def approve(hold: str, comment: str, arguments: str | None, as_json: bool) -> None:
    """Approve a held call. It runs when its agent asks again, or still waits. Needs an approver's key."""
    params: dict[str, Any] = {"id": hold, "comment": comment}
    if arguments is not None:
        try:
            params["arguments"] = json.loads(arguments)
        except ValueError as error:
            raise click.UsageError(f"--arguments is not JSON: {error}") from None
    _said(ask(frame.configuration(), "holds.approve", params, key=True), as_json)


@holds.command("deny")
@click.argument("hold")
@click.option("--comment", default="", help="Recorded with the decision.")
@frame.json_option
def deny(hold: str, comment: str, as_json: bool) -> None:
    """Deny a held call. Needs an approver's key."""
    _said(ask(frame.configuration(), "holds.deny", {"id": hold, "comment": comment}, key=True), as_json)


def _said(hold: dict[str, Any], as_json: bool) -> None:
    if as_json:
        frame.print_json(hold)
    else:
        click.echo(f"{hold['id']}  {hold['state']}  {hold['agent']}  {hold['tool']}")


def _subject_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for name in ("tool", "server", "session", "agent"):
        function = click.option(f"--{name}", metavar="NAME", help=f"This {name} alone.")(function)
    return function


@frame.command()
@_subject_options
@click.option(
    "--for", "for_", metavar="DURATION", help="Until so much time has passed (15m, 1h). Default: until `resume`."
)
@click.option("--reason", default="", help="Told to agents, and recorded.")
@frame.json_option
def pause(for_: str | None, reason: str, as_json: bool, **subject: str | None) -> None:
    """Refuse new calls: of the whole gateway, or of an agent, session, server or tool. Needs an operator's key."""
    _stop("pause", for_, reason, subject, as_json)


@frame.command()
@_subject_options
@click.option("--for", "for_", metavar="DURATION", help="Until so much time has passed. Default: until `resume`.")
@click.option("--reason", default="", help="Told to agents, and recorded.")
@frame.json_option
def kill(for_: str | None, reason: str, as_json: bool, **subject: str | None) -> None:
    """Like `pause`, and calls in flight are cancelled. Needs an operator's key."""
    _stop("kill", for_, reason, subject, as_json)


@frame.command()
@_subject_options
@frame.json_option
def resume(as_json: bool, **subject: str | None) -> None:
    """Lift a pause or kill. Needs an operator's key."""
    found = ask(frame.configuration(), "resume", {key: name for key, name in subject.items() if name}, key=True)
    if as_json:
        frame.print_json(found)
    else:
        click.echo(f"resumed: {found['subject']} {found['name']}".rstrip())


def _stop(act: str, for_: str | None, reason: str, subject: dict[str, str | None], as_json: bool) -> None:
    from gateway.config.types import parse_duration

    params: dict[str, Any] = {key: name for key, name in subject.items() if name}
    if len(params) > 1:
        raise click.UsageError("name one of --agent, --session, --server, --tool")
    params["reason"] = reason
    if for_ is not None:
        try:
            params["for_seconds"] = parse_duration(for_)
        except ValueError as error:
            raise click.UsageError(f"--for: {error}") from None
    found = ask(frame.configuration(), act, params, key=True)
    if as_json:
        frame.print_json(found)
        return
    until = f"until {_instant(found['until'])}" if found["until"] is not None else "until `gateway resume`"
    done = "killed" if found["killed"] else "paused"
    click.echo(f"{done}: {found['subject']} {found['name']}".rstrip() + f", {until}")


@frame.group(invoke_without_command=True)
@frame.json_option
@click.pass_context
def breakers(context: click.Context, as_json: bool) -> None:
    """Show the circuit breakers; `trip` and `reset` them."""
    if context.invoked_subcommand is None:
        _rows(ask(frame.configuration(), "breakers"), as_json)


@breakers.command("trip")
@click.argument("subject", metavar="SERVER[/TOOL]")
@frame.json_option
def trip(subject: str, as_json: bool) -> None:
    """Open a breaker: nothing is forwarded to this server or tool. Needs an operator's key."""
    _rows(ask(frame.configuration(), "breakers.trip", {"subject": subject}, key=True), as_json)


@breakers.command("reset")
@click.argument("subject", metavar="SERVER[/TOOL]")
@frame.json_option
def reset(subject: str, as_json: bool) -> None:
    """Close a breaker. Needs an operator's key."""
    _rows(ask(frame.configuration(), "breakers.reset", {"subject": subject}, key=True), as_json)


@frame.command()
@frame.json_option
def quotas(as_json: bool) -> None:
    """Show the use of quotas against their limits."""
    _rows(ask(frame.configuration(), "quotas"), as_json)


def _rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        frame.print_json(rows)
        return
    headings = list(dict.fromkeys(key for row in rows for key in row))
    if not headings:
        frame.say("none")
        return
    frame.print_table(headings, [[row.get(key) for key in headings] for row in rows])


def _instant(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _reasons(hold: dict[str, Any]) -> str:
    return "; ".join(reason["reason"] or reason["code"] for reason in hold["reasons"])
