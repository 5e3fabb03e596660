"""A gateway around a recording in place of tool servers: `replay serve` (DESIGN, the fourth walk).

It is put together of the same edges and the same engine as the real one, with another tuple of stages: `resolve` on the
recorded catalogue, then `playback`. It knows no configuration, opens no store for writing, and holds no port to a tool
server, so that nothing that happens here can become a live call.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import orjson

from gateway.adapters.recordings import CallRecord, Recording, RecordingError, recorded_calls, views
from gateway.adapters.system import EventFanout, SystemClock, on_signals
from gateway.control import Gateway
from gateway.decide.documents import catalogue_of, view_from
from gateway.decide.playback import RecordedCall, Tape
from gateway.edge.http import application, mcp_app
from gateway.edge.listener import bound, serve_http
from gateway.edge.settings import EdgeSettings
from gateway.edge.stdio import serve_stdio, take_stdio
from gateway.engine import Engine
from gateway.model.call import LOCAL, Call, Principal
from gateway.model.errors import GatewayError, PolicyUnavailable
from gateway.model.events import CatalogueChanged
from gateway.model.snapshot import EMPTY_CATALOGUE, Entry, Snapshot, View
from gateway.model.verdict import Outcome
from gateway.ports import Begin, Caller, End
from gateway.stages.playback import Playback
from gateway.stages.resolve import Resolve

logger = logging.getLogger("gateway.playing")

DRAIN_SECONDS = 2.0

HOST = "127.0.0.1"
"""A recording is served without keys, so to this machine alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """What is served, and how."""

    principal: Principal
    calls: Sequence[RecordedCall]
    looks: Mapping[str, tuple[Snapshot, View]]
    """What the agent could see, by the hash of the view."""
    first_look: str
    """The hash of the view to begin with."""
    name: str = "gateway"
    """Our name towards agents, as it was."""
    loose: bool = False
    timing: bool = False


def one_session(recording: Recording, *, named: str = "the recording") -> list[CallRecord]:
    """The calls of the one session that a recording holds.

    Raises:
        RecordingError: it holds none, or several.
    """
    sessions = recording.sessions()
    match list(sessions.values()):
        case []:
            raise RecordingError(f"{named} holds no calls")
        case [only]:
            return only
        case _:
            listed = ", ".join(f"{session} ({len(calls)} calls)" for session, calls in list(sessions.items())[:10])
            more = f" and {len(sessions) - 10} more" if len(sessions) > 10 else ""
            raise RecordingError(f"{named} holds {len(sessions)} sessions; choose one with --session: {listed}{more}")


def play(recording: Recording, calls: Sequence[CallRecord], *, loose: bool = False, timing: bool = False) -> Play:
    """What is needed to serve one session of a recording.

    Raises:
        RecordingError: what the agent could see was not kept with it.
    """
    asked = calls[0].command
    requests = recorded_calls(calls)
    principal = Principal(id=asked["principal"]["id"], roles=tuple(asked["principal"]["roles"]))
    looks: dict[str, tuple[Snapshot, View]] = {}
    kept = views(recording)
    for number, sha256 in enumerate(dict.fromkeys(call.view_sha256 for call in requests), start=1):
        if sha256 not in kept:
            continue
        document, content = kept[sha256]
        try:
            catalogue, instructions, tool_names = catalogue_of(content)
        except ValueError as error:
            raise RecordingError(f"the catalogue of the view {sha256}: {error}") from None
        snapshot = Snapshot(
            number=number,
            configuration_sha256=asked["configuration_sha256"],
            catalogue=catalogue,
            policy=_NoPolicy(),
            instructions=instructions,
            tool_names=tool_names,
        )
        looks[sha256] = snapshot, view_from(document, catalogue)
    if not looks:
        raise RecordingError(
            "what the agent could see (its lists) was not kept with this recording, so it cannot be served"
        )
    # Loose calls come in any order, so that they need what was there at any time: the look that shows most.
    first = (
        max(looks, key=lambda sha256: _size(looks[sha256][1]))
        if loose
        else next(call.view_sha256 for call in requests if call.view_sha256 in looks)
    )
    return Play(
        principal=principal,
        calls=requests,
        looks=looks,
        first_look=first,
        name=recording.gateway_name(asked["configuration_sha256"]),
        loose=loose,
        timing=timing,
    )


def _size(view: View) -> int:
    return len(view.tools) + len(view.prompts) + len(view.resources) + len(view.templates)


class _NoPolicy:
    """Nothing is judged: the recording says what was."""

    revision = ""

    async def decide(self, question: Mapping[str, Any], *, timeout_seconds: float) -> Any:
        raise PolicyUnavailable("a recording has no policy")

    async def visible(self, questions: Sequence[Mapping[str, Any]]) -> Sequence[bool | None]:
        raise PolicyUnavailable("a recording has no policy")


def nothing() -> Snapshot:
    """A snapshot of nothing: for calls that are only counted."""
    return Snapshot(number=0, configuration_sha256="", catalogue=EMPTY_CATALOGUE, policy=_NoPolicy())


class _NoJournal:
    """Nothing happens that could be recorded."""

    async def begin(self, begin: Begin) -> None:
        raise AssertionError("a recording forwards nothing")

    async def end(self, end: End) -> None:
        pass

    async def record(self, type: str, body: Mapping[str, Any]) -> None:
        pass


class _Looks:
    """The port `Directory` on what was seen then."""

    def __init__(self, looks: Mapping[str, tuple[Snapshot, View]]) -> None:
        self._views = {snapshot.number: view for snapshot, view in looks.values()}

    async def view(self, snapshot: Snapshot, principal: Principal) -> View:
        return self._views[snapshot.number]

    def permits(self, principal: Principal, entry: Entry) -> bool:
        """What was read then was permitted then."""
        return True


class RecordedGateway(Gateway):
    """What the edges see: everybody is the recorded agent."""

    principal: Principal = LOCAL
    report: Callable[[], Mapping[str, Any]]
    """How far it was played: `{calls, left, missing}`, of the session that came farthest."""

    def authenticate(self, key: str | None) -> Principal | None:
        """The recorded agent, whatever the key."""
        return self.principal


def chain(resolve: Resolve, playback: Playback) -> tuple[Resolve, Playback]:
    """The stages of a recording that is served: no other, and nothing behind them."""
    return (resolve, playback)


def recorded_gateway(played: Play) -> RecordedGateway:
    """A gateway that answers from a recording."""
    clock, events = SystemClock(), EventFanout()
    callers: dict[str, Caller] = {}
    tapes: dict[str, Tape] = {}
    directory = _Looks(played.looks)

    def tape(session_id: str) -> Tape:
        found = tapes.get(session_id)
        if found is None:
            found = tapes[session_id] = Tape(played.calls, loose=played.loose)
        return found

    def after(tape: Tape) -> None:
        """What is seen from now on is what was seen at the next call."""
        following = tape.next
        if played.loose or following is None or following.view_sha256 not in played.looks:
            return
        snapshot, _ = played.looks[following.view_sha256]
        if snapshot is not gateway.snapshot:
            before, gateway.snapshot = gateway.snapshot, snapshot
            kinds = _changed(played, before, snapshot)
            at = clock.time_ns() / 1e9
            events.publish(CatalogueChanged(at=at, revision=snapshot.catalogue.revision, kinds=kinds))

    playback = Playback(tape=tape, caller=callers.get, played=after, timing=played.timing)
    events.subscribe(playback.hear)
    engine = Engine(
        stages=chain(Resolve(directory, events), playback),
        forwarder=None,
        journal=_NoJournal(),
        clock=clock,
        events=events,
    )

    async def execute(call: Call, caller: Caller) -> Outcome:
        callers[call.id] = caller
        try:
            return await engine.execute(call, caller)
        finally:
            del callers[call.id]

    gateway = RecordedGateway(
        snapshot=played.looks[played.first_look][0],
        # With several agents then, nothing that one may see is for a shared cache; as it was, so it is.
        agents=None if played.principal.id == LOCAL.id else (),
        execute=execute,
        directory=directory,
        clock=clock,
        events=events,
    )
    gateway.principal = played.principal
    gateway.report = lambda: {
        "calls": len(played.calls),
        "left": min((tape.left for tape in tapes.values()), default=len(played.calls)),
        "missing": list(playback.missing),
    }
    return gateway


def _changed(played: Play, before: Snapshot, after: Snapshot) -> tuple[str, ...]:
    """Which lists differ between two looks."""
    of = {snapshot.number: view for snapshot, view in played.looks.values()}
    old, new = of[before.number], of[after.number]

    def differs(member: Callable[[View], Any]) -> bool:
        return bool(member(old) != member(new))

    kinds = []
    for kind, members in (
        ("tools", lambda view: [(entry.exposed, entry.definition) for entry in view.tools.values()]),
        ("prompts", lambda view: [(entry.exposed, entry.definition) for entry in view.prompts.values()]),
        (
            "resources",
            lambda view: [entry.definition for entry in (*view.resources.values(), *view.templates)],
        ),
    ):
        if differs(members):
            kinds.append(kind)
    return tuple(kinds)


# --- serving it -----------------------------------------------------------------------------------------------------


async def stdio(played: Play) -> None:
    """Serve one client on this process's stdin and stdout, until it closes them."""
    taken = take_stdio()
    settings = EdgeSettings(name=played.name)
    await serve_stdio(recorded_gateway(played), played.principal, settings, taken)


async def serve(played: Play, port: int, ready: Callable[[str], None]) -> None:
    """Serve clients over Streamable HTTP, on the loopback interface alone, until the task is cancelled or the process is told to end.

    Args:
        ready: told of the URL.

    Raises:
        GatewayError: the address cannot be had.
    """
    async with serving(played, port) as url:
        ready(url)
        await _until_signalled()


@asynccontextmanager
async def serving(played: Play, port: int = 0) -> AsyncIterator[str]:
    """Streamable HTTP for as long as the context lasts; yields the URL."""
    try:
        listening = bound(HOST, port)
    except OSError as error:
        raise GatewayError(f"cannot listen on {HOST}:{port}: {error.strerror}") from error
    with listening:
        gateway = recorded_gateway(played)
        mcp = mcp_app(gateway, EdgeSettings(name=played.name, host=HOST))

        async def report(scope: Any, receive: Any, send: Any) -> None:
            body = orjson.dumps(gateway.report())
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            await tasks.start(
                partial(
                    serve_http,
                    mcp,
                    application(mcp, {"/report": report}),
                    listening,
                    stop=stop,
                    drain_seconds=DRAIN_SECONDS,
                )
            )
            try:
                yield f"http://{HOST}:{listening.getsockname()[1]}/mcp"
            finally:
                stop.set()


async def _until_signalled() -> None:
    stop = anyio.Event()
    with on_signals(lambda _: stop.set()):
        await stop.wait()
