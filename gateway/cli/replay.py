"""`replay`: a recorded session served again, judged again, or called again."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import frame, judging
from gateway.cli.frame import Negative, group, say
from gateway.cli.sources import store
from gateway.decide.playback import RecordedCall, shown
from gateway.model.recording import CallFilter

if TYPE_CHECKING:
    from gateway.adapters.recordings import Recording
    from gateway.config import Configuration, OperatorSettings


@group()
def replay() -> None:
    """Serve, judge or call a recorded session again."""


# --- where from -------------------------------------------------------------------------------------------------------


def recording_of(source: str, session: str | None = None, recording: Path | None = None) -> "Recording":
    """The recording of a file, or else of a session in the store or in `recording` (its id, or the beginning of it).

    Raises:
        Negative: there is no such file and no such session.
        RecordingError: it cannot be read.
    """
    from gateway.adapters import queries
    from gateway.adapters.imports import is_store
    from gateway.adapters.recordings import read_recording

    path = Path(source)
    if recording is None and path.is_file():
        if is_store(path):
            with store(path) as raw:
                return read_recording(queries.export_lines(raw), session=session)
        with path.open("rb") as lines:
            return read_recording(lines, session=session)
    if recording is None and ("/" in source or source.endswith((".jsonl", ".json"))):
        raise Negative(f"{source}: there is no such file")
    with store(recording) as raw:
        try:
            found = queries.find_session(raw, source)
        except queries.Ambiguous as error:
            raise Negative(str(error)) from error
        if found is None:
            raise Negative(f"there is no file and no session {source}; `gateway sessions list` lists them")
        return read_recording(queries.export_lines(raw, CallFilter(session=found.id)), session=found.id)


# --- serve ------------------------------------------------------------------------------------------------------------


@replay.command()
@click.argument("source", metavar="SESSION|FILE")
@click.option("--session", metavar="ID", help="The session to serve, where FILE holds several.")
@click.option("--stdio", "on_stdio", is_flag=True, help="Serve one client on standard input and output.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, metavar="P", help="Listen on this port; 0: a free one."
)
@click.option("--loose", is_flag=True, help="Match calls by tool and arguments in any order.")
@click.option("--timing", is_flag=True, help="Take as long as it took.")
def serve(source: str, session: str | None, on_stdio: bool, port: int, loose: bool, timing: bool) -> None:
    """Serve a recorded session as an MCP server. No tool server is reached: what is not recorded is refused.

    SESSION is a session of the store (`gateway sessions list`), FILE an export (`gateway log export --session ID`). Over
    HTTP, on the loopback interface, each session of a client begins at the recording's beginning.
    """
    from gateway import playing

    recording = recording_of(source, session)
    played = playing.play(recording, playing.one_session(recording, named=source), loose=loose, timing=timing)
    if on_stdio:
        frame.run(playing.stdio, played)
        return

    def ready(url: str) -> None:
        say(f"serving {len(played.calls)} recorded calls of {played.principal.id} at {url}")

    frame.run(playing.serve, played, port, ready)


# --- rejudge ----------------------------------------------------------------------------------------------------------


@replay.command()
@click.argument("source", metavar="[SESSION|FILE]", required=False)
@judging.options
def rejudge(
    source: str | None,
    policies: str | None,
    limits: Path | None,
    page: Path | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Put the recorded questions to a candidate policy: what would be decided now, next to what was.

    First it says how many recorded decisions the old policy reproduces. The exit code is 1 where anything is newly allowed
    or undecidable.
    """
    with ExitStack() as stack:
        file = Path(source) if source is not None and Path(source).is_file() else None
        session = _session_id(source, stack) if source is not None and file is None else None
        judging.run(judging.Source(file, CallFilter(session=session), stack), policies, limits, page, jobs, as_json)


def _session_id(beginning: str, stack: ExitStack) -> str:
    """The id of a session of the store."""
    from gateway.adapters import queries

    try:
        found = queries.find_session(stack.enter_context(store()), beginning)
    except queries.Ambiguous as error:
        raise Negative(str(error)) from error
    if found is None:
        raise Negative(f"there is no file and no session {beginning}; `gateway sessions list` lists them")
    return found.id


# --- resend -----------------------------------------------------------------------------------------------------------


@replay.command()
@click.argument("source", metavar="SESSION|FILE")
@click.option("--agent", required=True, metavar="NAME", help="Make the calls as this agent; needs an operator's key.")
@click.option("--session", metavar="ID", help="The session, where FILE holds several.")
@click.option(
    "--include-writes", is_flag=True, help="Make calls again that change something; each is held for a person."
)
@click.option("--no-hold", is_flag=True, help="With --include-writes: do not hold them.")
@click.option(
    "--ignore", multiple=True, metavar="PATHGLOB", help="Do not compare this part of results (`**.datetime`)."
)
@frame.json_option
def resend(
    source: str,
    agent: str,
    session: str | None,
    include_writes: bool,
    no_hold: bool,
    ignore: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make the recorded calls again, through the whole chain, and compare what comes of them.

    Calls of which anything was erased are never made: they are undecidable. The exit code is 1 where a result differs or a
    call could not be compared.
    """
    from gateway import playing
    from gateway.adapters.recordings import recorded_calls
    from gateway.model.ids import new_id

    recording = recording_of(source, session)
    calls = recorded_calls(playing.one_session(recording, named=source))
    configuration = frame.configuration(to_use=True)
    if agent not in configuration.agents:
        raise click.UsageError(f"there is no agent {agent!r}; there are {', '.join(configuration.agents) or 'none'}")
    acting = frame.operator(configuration)
    session_id = f"resend-{new_id()}"

    def params(call: "RecordedCall") -> dict[str, Any]:
        return {
            "agent": agent,
            "method": call.method,
            "params": call.params,
            "replay_of": call.id,
            "session_id": session_id,
            "include_writes": include_writes,
            "held": not no_hold,
        }

    answers = _resent(configuration, acting, calls, params)
    rows = [_compared(call, answer, ignore) for call, answer in zip(calls, answers, strict=True)]
    if as_json:
        frame.print_json(rows)
    else:
        for row in rows:
            click.echo(
                f"{row['number']:>4}  {row['state']:<11}  {row['tool']}" + (f"  {row['why']}" if row["why"] else "")
            )
            for part in row["differences"]:
                click.echo(f"        {part['path'] or 'the whole'}: {shown(part['was'])} -> {shown(part['now'])}")
    counts = Counter(row["state"] for row in rows)
    say(", ".join(f"{count} {state}" for state, count in counts.items()))
    if counts["differs"] or counts["undecidable"]:
        raise Negative("")


def _unsendable(call: "RecordedCall") -> str:
    """Why a recorded call is not made again; empty where it is."""
    if call.unknown:
        return f"parts of it were erased: {', '.join(call.unknown) or 'all of it'}"
    if "inputResponses" in call.params or "requestState" in call.params:
        return "it is a later round of a call that needed input, whose state is long used"
    return ""


def _resent(
    configuration: "Configuration",
    acting: "OperatorSettings",
    calls: "Sequence[RecordedCall]",
    params: "Callable[[RecordedCall], dict[str, Any]]",
) -> list[dict[str, Any]]:
    """The answers to the calls, by the running gateway or by one of this command's own."""
    import anyio

    from gateway.cli.running import ask, own_gateway
    from gateway.owner import ActingOperator, CommandRefused, NoOwner

    def skipped(call: "RecordedCall") -> dict[str, Any] | None:
        why = _unsendable(call)
        return {"undecidable": why} if why else None

    try:
        return [skipped(call) or ask(configuration, "resend", params(call), key=True) for call in calls]
    except NoOwner:
        pass

    async def alone() -> list[dict[str, Any]]:
        from gateway import wiring

        operator = ActingOperator(name=acting.name, role=acting.role)
        async with own_gateway(configuration, recorded=True) as runtime:
            return [skipped(call) or await wiring.resend_as(runtime, params(call), operator) for call in calls]

    try:
        return anyio.run(alone)
    except CommandRefused as error:
        raise Negative(str(error)) from error


def _compared(call: "RecordedCall", answer: "Mapping[str, Any]", ignore: "Sequence[str]") -> dict[str, Any]:
    """What came of a call again, next to what was."""
    from gateway.decide.playback import plain
    from gateway.replay.comparing import parted, said

    row: dict[str, Any] = {
        "number": call.number,
        "tool": call.tool,
        "replay_of": call.id,
        "call_id": answer.get("call_id"),
        "state": "same",
        "why": "",
        "differences": [],
    }
    if "undecidable" in answer:
        return {**row, "state": "undecidable", "why": answer["undecidable"]}
    if "skipped" in answer:
        return {**row, "state": "skipped", "why": answer["skipped"]}
    if "refusal" in answer:
        code = answer["refusal"]["code"]
        now: dict[str, Any] = {"refused": code}
        if code == "hold.pending":
            hold = answer["refusal"].get("hold", {}).get("id", "")
            return {**row, "state": "held", "why": f"hold {hold}; once it is approved, resend again"}
    else:
        now = {member: answer[member] for member in ("result", "error") if member in answer}
    was = said(call.outcome)
    if was is None:
        return {**row, "state": "undecidable", "why": f"what came of it then is not known: {call.unplayable}"}
    parts = parted(was, now, ignore)
    if not parts:
        return row
    differences = [{"path": part.path, "was": plain(part.left), "now": plain(part.right)} for part in parts]
    why = answer.get("message", "") if "refusal" in answer else ""
    return {**row, "state": "differs", "why": why, "differences": differences}
