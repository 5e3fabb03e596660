"""`calls`, `sessions`, `tail`, `log`: what was recorded. They open the store read-only and need no running gateway."""

import json
import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import click

from gateway.cli.frame import Negative, command, group, json_option, print_json, print_table, say
from gateway.cli.sources import recording_option, store
from gateway.model.recording import CallFilter, CallSummary, OpenCall, Record

FOLLOW_SECONDS = 0.25
"""How often `tail` looks for new records."""

SHOWN_CHARACTERS = 2000
"""Of a payload in `calls show`; `--json` has all of it."""

OTHER = {"call": "another call", "arguments": "other arguments", "result": "another result"}
"""What differs between two sessions, in words."""

FORMATS = ("jsonl", "otlp", "opa")

OUTCOMES = ("completed", "error", "refused", "held", "failed")


# --- which ones --------------------------------------------------------------------------------------------------


class Since(click.ParamType[float]):
    """An instant: `2h` ago, or a date and time as in ISO 8601 (local time unless it says otherwise)."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from gateway.config.types import parse_duration

        if isinstance(value, float):
            return value
        try:
            if re.fullmatch(r"\d+(\.\d+)?[a-z]+", value):
                return time.time() - float(parse_duration(value))
            return datetime.fromisoformat(value).astimezone().timestamp()
        except ValueError:
            self.fail(
                f"{value!r} is neither a time ago (`90s`, `2h`, `7d`) nor a date (`2026-11-20T20:00`)", param, ctx
            )


def _filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options by which calls are chosen; the function takes them as one `CallFilter`."""

    def taken(
        agent: str | None,
        tool: str | None,
        session: str | None,
        outcome: str | None,
        code: str | None,
        since: float | None,
        until: float | None,
        **others: Any,
    ) -> Any:
        chosen = CallFilter(
            agent=agent, tool=tool, session=session, outcome=outcome, code=code, since=since, until=until
        )
        return function(filter=chosen, **others)

    taken.__name__, taken.__doc__ = function.__name__, function.__doc__
    taken.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    for option in reversed(
        (
            click.option("--agent", metavar="GLOB", help="Of this agent."),
            click.option("--tool", metavar="GLOB", help="Of this tool, as server/tool."),
            click.option("--session", metavar="ID", help="Of this session."),
            click.option("--outcome", type=click.Choice(OUTCOMES), help="That ended so."),
            click.option("--code", metavar="GLOB", help="With this code (`policy.*`)."),
            click.option("--since", type=Since(), help="Not older than this: `2h`, `7d`, or a date."),
            click.option("--until", type=Since(), help="Older than this."),
        )
    ):
        option(taken)
    return taken


# --- calls -------------------------------------------------------------------------------------------------------


@group()
def calls() -> None:
    """Calls that were recorded."""


@calls.command("list")
@json_option
@_filters
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="How many at most.")
@click.option("--before", metavar="SEQ", type=int, help="The next page: the SEQ of the last line shown.")
@recording_option
def list_(filter: CallFilter, limit: int, before: int | None, recording: Path | None, as_json: bool) -> None:
    """List calls, the newest first."""
    from gateway.adapters import queries

    with store(recording) as raw:
        found = queries.list_calls(raw, filter, before=before, limit=limit)
    if as_json:
        print_json([asdict(each) for each in found])
        return
    print_table(
        ["seq", "time", "id", "agent", "tool", "outcome", "code", "ms"],
        [
            [
                each.seq, _time(each.at), each.id, _safe(each.agent), _safe(each.tool), _word(each), each.code,
                _ms(each.elapsed_us),
            ]
            for each in found
        ],
    )  # fmt: skip


@calls.command()
@json_option
@click.argument("id")
@recording_option
def show(id: str, recording: Path | None, as_json: bool) -> None:
    """Show one call: what was asked, why it ended as it did, what came back. The beginning of an id is enough."""
    from gateway.adapters import queries

    with store(recording) as raw:
        try:
            found = queries.find_call(raw, id)
        except queries.Ambiguous as error:
            raise Negative(str(error)) from error
        erased = queries.erasures(raw, found.seq) if found is not None else {}
        waiting = [each for each in queries.open_calls(raw) if each.id.startswith(id)] if found is None else []
    if found is not None:
        if as_json:
            shown = {"record": json.loads(found.data), "sha256": found.sha256, "payloads": found.payloads}
            print_json({**shown, "erased": erased})
        else:
            click.echo("\n".join(map(_safe, _page(found, erased))))
        return
    if not waiting:
        raise Negative(f"there is no call {id}")
    if as_json:
        print_json({"open": asdict(waiting[0])})
        return
    click.echo("\n".join(map(_safe, _open_page(waiting[0]))))


# --- sessions ----------------------------------------------------------------------------------------------------


@group()
def sessions() -> None:
    """Sessions that were recorded."""


@sessions.command("list")
@json_option
@click.option("--agent", metavar="GLOB", help="Of this agent.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="How many at most.")
@click.option("--before", metavar="ID", help="The next page: the id of the last line shown.")
@recording_option
def list_sessions(agent: str | None, limit: int, before: str | None, recording: Path | None, as_json: bool) -> None:
    """List sessions, the newest first, with the outcomes of their calls."""
    from gateway.adapters import queries

    with store(recording) as raw:
        found = queries.list_sessions(raw, agent=agent, before=before, limit=limit)
    if as_json:
        print_json([asdict(each) for each in found])
        return
    print_table(
        ["id", "agent", "client", "from", "to", "calls", "ok", "errors", "refused", "held", "failed", "in doubt"],
        [
            [
                _safe(each.id), _safe(each.agent), _safe(each.client), _time(each.first_at), _time(each.last_at), each.calls, each.completed,
                each.errors, each.refused, each.held, each.failed, each.in_doubt,
            ]
            for each in found
        ],
    )  # fmt: skip


@sessions.command("show")
@json_option
@click.argument("id")
@recording_option
def show_session(id: str, recording: Path | None, as_json: bool) -> None:
    """Show a session as a tree with timings: its calls, and under each its later rounds, tries, and what the tool server
    asked and told meanwhile. The beginning of an id is enough."""
    from gateway.adapters import queries
    from gateway.replay.tree import drawn, tree

    with store(recording) as raw:
        try:
            session = queries.find_session(raw, id)
        except queries.Ambiguous as error:
            raise Negative(str(error)) from error
        if session is None:
            raise Negative(f"there is no session {id}")
        calls = queries.read_records(raw, filter=CallFilter(session=session.id))
        nodes = tree(calls)
        if as_json:
            found = [asdict(each) for each in _all_calls(raw, session.id)]
            print_json({"session": asdict(session), "calls": found, "tree": [asdict(node) for node in nodes]})
            return
    client = f" ({session.client})" if session.client else ""
    click.echo(_safe(f"session {session.id}: {session.agent}{client}"))
    click.echo(f"{_time(session.first_at)} to {_time(session.last_at)}, {session.calls} calls")
    for line in drawn(nodes):
        click.echo(_safe(line))


def _all_calls(raw: sqlite3.Connection, session: str) -> Iterator[CallSummary]:
    from gateway.adapters import queries

    after = 0
    while page := queries.list_calls(raw, CallFilter(session=session), after=after, limit=queries.PAGE):
        yield from page
        after = page[-1].seq


@sessions.command()
@json_option
@click.argument("left", metavar="A")
@click.argument("right", metavar="B")
@click.option("--ignore", multiple=True, metavar="PATHGLOB", help="Do not compare this part (`**.datetime`).")
@click.option("--all", "every", is_flag=True, help="Every difference, not only the first.")
@recording_option
def diff(left: str, right: str, ignore: tuple[str, ...], every: bool, recording: Path | None, as_json: bool) -> None:
    """Show where two runs of the same task part: the first call, arguments or result that differ.

    A and B are sessions of the store (with --recording, of that file), or exported files of one session each. The exit code
    is 1 where they differ.
    """
    from gateway import playing
    from gateway.adapters.recordings import recorded_calls
    from gateway.cli.replay import recording_of
    from gateway.decide.playback import plain, shown
    from gateway.replay.comparing import partings

    first, second = (
        recorded_calls(playing.one_session(recording_of(source, recording=recording), named=source))
        for source in (left, right)
    )
    found = list(partings(first, second, ignore))
    if not every:
        found = found[:1]
    if as_json:
        print_json(
            [
                {
                    "number": each.number,
                    "what": each.what,
                    "left": each.left,
                    "right": each.right,
                    "differences": [
                        {"path": part.path, "left": plain(part.left), "right": plain(part.right)}
                        for part in each.differences
                    ],
                }
                for each in found
            ]
        )
    elif not found:
        click.echo(f"the same: {len(first)} calls, their arguments and what came of them")
    for each in found if not as_json else ():
        said = each.left if each.left == each.right else f"{each.left} | {each.right}"
        click.echo(
            _safe(
                f"call {each.number}: {OTHER[each.what]}: {said}"
                if each.what != "end"
                else f"call {each.number}: {said}"
            )
        )
        for part in each.differences:
            click.echo(_safe(f"  {part.path or 'the whole'}: {shown(part.left)} | {shown(part.right)}"))
    if found:
        raise Negative("")


# --- tail --------------------------------------------------------------------------------------------------------


@command()
@json_option
@_filters
@click.option("-n", "lines", default=10, show_default=True, type=click.IntRange(0), help="How many to begin with.")
@click.option("--no-follow", is_flag=True, help="End after those.")
@recording_option
def tail(filter: CallFilter, lines: int, no_follow: bool, recording: Path | None, as_json: bool) -> None:
    """Follow calls as they end. A recording ends by itself."""
    from gateway.adapters import queries

    def put(each: CallSummary) -> None:
        if as_json:
            click.echo(json.dumps(asdict(each)))
        else:
            code = f" {each.code}" if each.code else ""
            line = f"{_time(each.at)} {each.agent} {each.tool} {_word(each)}{code} {_ms(each.elapsed_us)} ms {each.id}"
            click.echo(_safe(line))

    with store(recording) as raw:
        after = queries.head(raw)
        recent = queries.list_calls(raw, filter, before=after + 1, limit=lines) if lines else []
        for each in reversed(recent):
            put(each)
        try:
            while not (no_follow or recording is not None):
                for each in queries.list_calls(raw, filter, after=after, limit=queries.PAGE):
                    put(each)
                    after = each.seq
                time.sleep(FOLLOW_SECONDS)
        except KeyboardInterrupt:
            return


# --- log ---------------------------------------------------------------------------------------------------------


@group()
def log() -> None:
    """The records themselves."""


@log.command()
@_filters
@recording_option
@click.option(
    "--format", "format_", type=click.Choice(FORMATS), default="jsonl", show_default=True, help="What to write."
)
@click.option(
    "--redact", multiple=True, metavar="GLOB", help="Leave this part of arguments and results out (`**.email`)."
)
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
@json_option
def export(
    filter: CallFilter,
    recording: Path | None,
    format_: str,
    redact: tuple[str, ...],
    output: Path | None,
    as_json: bool,
) -> None:
    """Export records with their payloads; with a filter, the calls that it names.

    jsonl: every record's exact bytes, which verify, import and replay elsewhere. otlp: the spans of calls, as OTLP JSON. opa:
    the policy's decisions, as OPA's decision log. With --json and a file, what was written is told as JSON.
    """
    from gateway.decide.obligations import GlobError, compile_glob
    from gateway.replay import exporting

    try:
        for glob in redact:
            compile_glob(glob)
    except GlobError as error:
        raise click.UsageError(f"--redact: {error}") from None
    chosen = None if filter == CallFilter() else filter
    with store(recording) as raw:
        found = exporting.exported(raw, format_, chosen, redact)
        if output is None:
            stream = sys.stdout.buffer
            for line in found:
                stream.write(line + b"\n")
            stream.flush()
            return
        count = size = 0
        with _private(output) as file:
            for line in found:
                size += file.write(line + b"\n")
                count += 1
    if as_json:
        print_json({"file": str(output), "format": format_, "lines": count, "bytes": size})
    else:
        say(f"{count} lines in {output}")


def _private(path: Path) -> BinaryIO:
    """A new file, or an old one emptied, that is its owner's alone from its first byte on."""
    file = os.fdopen(
        os.open(path, os.O_CREAT | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0), 0o600), "wb"
    )
    path.chmod(0o600)
    file.truncate(0)
    return file


@log.command("import")
@json_option
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--store",
    "into",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PATH",
    help="The store to make; there must be none yet.",
)
def import_(file: Path, into: Path, as_json: bool) -> None:
    """Make a store of an exported FILE, to be read with --recording: no gateway runs on it.

    One that is read often, or is large, is read faster so.
    """
    from gateway.adapters.imports import import_file, is_store

    if is_store(file):
        raise Negative(f"{file} is a store already; --recording takes it as it is")
    found = import_file(file, into)
    if as_json:
        print_json(asdict(found))
        return
    redacted = f" ({found.redacted} with parts left out)" if found.redacted else ""
    say(f"{found.records} records, {found.calls} calls, {found.payloads} payloads{redacted} in {into}")


@log.command()
@json_option
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The public key that the checkpoints have to be signed with, in PEM (`gateway keys show`).",
)
@click.option(
    "--checkpoint",
    "held",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Checkpoints that you kept elsewhere: a chain that was cut after them is found.",
)
def verify(file: Path | None, keys: tuple[Path, ...], held: Path | None, as_json: bool) -> None:
    """Check the hash chain of the store, or of an exported FILE: edits, removals, reordering, and with --key who signed it.

    Without a pinned key nobody can say who wrote the chain, so that a consistent one exits with 1 as well.
    """
    from gateway.adapters import queries
    from gateway.adapters.checkpoints import Signatures, read_envelopes
    from gateway.adapters.signing import load_public

    if held is not None and not keys:
        raise click.UsageError("--checkpoint needs --key: the key that signed it")
    envelopes = read_envelopes(held) if held is not None else []
    signatures = Signatures([load_public(path.read_bytes()) for path in keys], envelopes) if keys else None
    if file is not None:
        from gateway.adapters.imports import is_store

        if is_store(file):
            with store(file) as raw:
                found = queries.verify(raw, signatures=signatures)
        else:
            with file.open("rb") as lines:
                found = queries.verify_lines(lines, signatures)
    else:
        with store() as raw:
            found = queries.verify(raw, signatures=signatures)
    signed = signatures.signed_up_to if signatures is not None else 0
    gone = found.first_unproven
    proven = found.fault is None and gone is None and signed > 0
    verdict = "broken" if found.fault or gone is not None else "verified" if proven else "consistent, origin unproven"
    if as_json:
        checked = signatures.checked if signatures is not None else 0
        print_json({**asdict(found), "verdict": verdict, "signed_up_to": signed, "checkpoints": checked})
    elif found.fault is not None:
        click.echo(f"broken at record {found.fault.seq}: {found.fault.reason}")
    elif gone is not None:
        click.echo(f"broken at record {gone}: a payload of it is missing, and no tombstone says that it was erased")
    else:
        first = f", the first is {found.first_seq}" if found.first_seq > 1 else ""
        erased = f", {found.erased} erased" if found.erased else ""
        click.echo(f"{verdict}: {found.records} records{first}, {found.payloads} payloads{erased}")
        if proven and signatures is not None:
            after = found.last_seq - signed
            click.echo(f"signed up to record {signed} by {signatures.checked} checkpoints; {after} records after it")
        elif keys:
            click.echo("no checkpoint of the chain is signed yet")
        click.echo(f"head {found.last_seq} {found.head}")
    if not proven:
        raise Negative("")


@log.command()
@click.argument("call")
@click.option(
    "--only", type=click.Choice(["request", "response", "exchange"]), multiple=True, help="Absent: all of it."
)
@json_option
def erase(call: str, only: tuple[str, ...], as_json: bool) -> None:
    """Erase what is kept of a CALL's contents. Its record stays, and a signed tombstone says who erased what.

    Needs an operator's key. Copies elsewhere (exports, backups, what a tool server keeps) are not reached.
    """
    from gateway.cli.frame import configuration
    from gateway.cli.running import ask

    params = {"id": call, **({"roles": list(only)} if only else {})}
    done = ask(configuration(), "calls.erase", params, key=True)
    if as_json:
        print_json(done)
    else:
        click.echo(f"erased of call {done['call_id']}: {', '.join(done['erased'])}")


# --- one call on one page ----------------------------------------------------------------------------------------


def _page(found: Record, erased: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Why a call ended as it did."""
    body = found.body
    asked: Mapping[str, Any] = body["command"]
    tool = f"{asked['server']}/{asked['name']}" if asked["server"] else asked["target"]
    yield f"call {asked['id']}"
    yield f"  {asked['method']} {tool} ({asked['risk']}), asked for as {asked['target']}"
    client = " ".join(part for part in (asked["client"]["name"], asked["client"]["version"]) if part)
    yield (
        f"  by {asked['principal']['id']}" + (f" with {client}" if client else "") + f", session {asked['session_id']}"
    )
    yield f"  at {_time(asked['received_at'])}" + (
        f", {_ms(body['elapsed_us'])} ms" if body["elapsed_us"] is not None else ""
    )
    if asked["why"]:
        yield f"  its stated reason (unverified): {asked['why']}"
    yield ""
    yield from _explanation(body)
    yield ""
    yield "the way it went"
    for step in body["trail"]:
        facts = ", ".join(f"{key} {_short(value)}" for key, value in step["facts"].items() if value not in ({}, [], ""))
        line = f"  {step['stage']:<12} {step['verdict']:<10} {step['elapsed_us'] / 1000:>9.3f} ms"
        yield f"{line}  {facts}".rstrip()
    yield from _policy(found)
    attempt = body["attempt"]
    if attempt is not None and attempt["tries"]:
        yield ""
        yield "tries at the tool server"
        for number, one in enumerate(attempt["tries"], start=1):
            yield f"  {number}. " + ", ".join(f"{key} {_short(value)}" for key, value in one.items())
    exchange = found.payloads.get("exchange") or {}
    for title, items in (
        ("what the tool server asked of the client", exchange.get("asks", [])),
        ("what the tool server said meanwhile", exchange.get("notifications", [])),
    ):
        if items:
            yield ""
            yield title
            for item in items:
                yield f"  {_short(item, 200)}"
    request = found.payloads.get("request") or {}
    yield ""
    yield "request" + _kept(asked["request"])
    yield from _gone(erased.get("request"))
    yield from _indented(request.get("params", {}).get("arguments"))
    if request.get("forwarded") is not None:
        yield "forwarded as"
        yield from _indented(request["forwarded"])
    if body["response"] is not None:
        yield "response" + _kept(body["response"])
        yield from _gone(erased.get("response"))
        yield from _indented(found.payloads.get("response"))
    yield ""
    yield f"record {found.seq}, sha256 {found.sha256}"
    yield f"policy {asked['policy_revision']}, configuration {asked['configuration_sha256']}"


def _explanation(body: Mapping[str, Any]) -> Iterator[str]:
    """The outcome in words."""
    from gateway.model.refusal import CODES, REMEDIES, Code

    outcome = body["outcome"]
    known = {code.value: text for code, text in CODES.items()}
    match outcome["kind"]:
        case "completed":
            where = {"idempotency": "kept from an earlier call with the same key", "recording": "from a recording"}
            source = where.get(outcome["source"])
            answer = "an error of its own" if outcome["is_error"] else "a result"
            yield f"COMPLETED: the tool server answered with {answer}" + (f" ({source})" if source else "") + "."
            if outcome["changed"]:
                yield "  The policy changed the result before it was relayed."
        case "refused":
            yield f"REFUSED by {outcome['stage']}: {outcome['code']}"
            yield f"  {known.get(outcome['code'], '')}"
            yield f"  {outcome['message']}"
            for denial in outcome["policy"]:
                yield f"  rule {denial.get('code', '')}: {denial.get('message', '')}"
            if outcome["rule"]:
                yield f"  by the rule {outcome['rule']}"
        case "held":
            if outcome.get("running"):
                yield f"HELD: what was approved ran already, for another call of the same (hold {outcome['hold_id']})."
            else:
                yield f"HELD: waits for a person (hold {outcome['hold_id']}, until {_time(outcome['expires_at'])})."
            yield f"  {outcome['message']}"
        case "failed":
            yield f"FAILED{' (in doubt)' if outcome['in_doubt'] else ''}: {outcome['code']}"
            yield f"  {known.get(outcome['code'], '')}"
            yield f"  {outcome['message']}"
    ran = {
        "yes": "It ran at the tool server.",
        "no": "It did not run at the tool server.",
        "unknown": "Whether it ran is unknown.",
    }
    yield f"  {ran[body['executed']]}"
    if outcome.get("decision_id"):
        yield f"  policy decision {outcome['decision_id']}, revision {body['command']['policy_revision']}"
    code = outcome.get("code")
    if outcome["kind"] == "held" and not outcome.get("running"):
        code = "hold.pending"
    if code in known:
        yield f"  What to do: {REMEDIES[Code(code)]}"
    if body["recovered"]:
        yield "  This was recorded at the start after the gateway had been stopped without warning."


def _policy(found: Record) -> Iterator[str]:
    for decision in (found.payloads.get("request") or {}).get("decisions", []):
        yield ""
        yield f"the policy's answer ({decision['stage']})"
        yield from _indented(decision["answer"])


def _open_page(waiting: OpenCall) -> Iterator[str]:
    asked = waiting.command
    yield f"call {waiting.id}"
    yield f"  {asked['method']} {asked['server']}/{asked['name']} ({asked['risk']}) by {asked['principal']['id']}"
    yield ""
    yield f"ON ITS WAY since {_time(waiting.at)}: the gateway has forwarded it, or was stopped while it did."
    yield "  If no gateway runs on this store, the next one to start records it as what it is: unknown."


def _kept(commitment: Mapping[str, Any]) -> str:
    """What is to be said of a payload beside its content."""
    parts = [f"{commitment['size']} bytes"]
    if commitment["kept"] != "whole":
        parts.append({"hash": "too large, only its hash is kept", "none": "not recorded"}[commitment["kept"]])
    if commitment["erased"]:
        parts.append(f"erased: {', '.join(commitment['erased'])}")
    return f" ({'; '.join(parts)})"


def _gone(tombstone: Mapping[str, Any] | None) -> Iterator[str]:
    """What took the place of a payload that was erased afterwards."""
    if tombstone is not None:
        yield f"  erased by {tombstone['by']} at {_time(tombstone['at'])}"


def _indented(value: Any) -> Iterator[str]:
    if value is None:
        return
    text = json.dumps(value, indent=2, ensure_ascii=False)
    cut = text[:SHOWN_CHARACTERS]
    for line in cut.splitlines():
        yield f"  {line}"
    if len(text) > len(cut):
        yield f"  … {len(text) - len(cut)} more characters; --json shows them"


def _short(value: Any, limit: int = 80) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _safe(text: str) -> str:
    """A line for a terminal: what agents and tool servers wrote cannot move the cursor or change colours."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _word(each: CallSummary) -> str:
    return f"{each.outcome} (in doubt)" if each.in_doubt else each.outcome


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _ms(elapsed_us: int | None) -> str:
    return "" if elapsed_us is None else f"{elapsed_us / 1000:.1f}"
