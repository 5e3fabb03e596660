"""`replay`: a recorded session served again, judged again, or called again."""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli import frame, judging
from gateway.cli.frame import Negative, group, say
from gateway.model.recording import CallFilter

if TYPE_CHECKING:
    from gateway.adapters.recordings import Recording


@group()
def replay() -> None:
    """Serve, judge or call a recorded session again."""


# --- where from -------------------------------------------------------------------------------------------------------


@contextmanager
def store() -> Iterator[sqlite3.Connection]:
    """The configuration's store, for reading."""
    from gateway.adapters.sqlite import read_only

    configured = frame.configuration().store
    if configured.path is None:
        raise Negative(f"the store is `{configured.scheme}:`; there is no file to read")
    with read_only(configured.path) as raw:
        yield raw


def recording_of(source: str, session: str | None = None) -> "Recording":
    """The recording of a file, or else of a session in the store (its id, or the beginning of it).

    Raises:
        Negative: there is no such file and no such session.
        RecordingError: it cannot be read.
    """
    from gateway.adapters import queries
    from gateway.adapters.recordings import read_recording

    path = Path(source)
    if path.is_file():
        with path.open("rb") as lines:
            return read_recording(lines, session=session)
    if "/" in source or source.endswith((".jsonl", ".json")):
        raise Negative(f"{source}: there is no such file")
    with store() as raw:
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
