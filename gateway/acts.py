"""What operators see and do: one module for the command line, the console and the operator API.

Every act names its operator, is checked against the operator's role, and is recorded (`operator.acted`) whether it was done
or refused. Looking at what may hold secrets (a hold's arguments) is recorded too (`operator.viewed`).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, cast

from gateway.decide.hold import DecisionRefused, Hold, Operator
from gateway.decide.pause import Stop, Stops, Subject, client_key
from gateway.engine import Engine
from gateway.model.call import Principal, TargetType
from gateway.model.errors import GatewayError, JournalUnavailable
from gateway.model.snapshot import View
from gateway.model.verdict import Write
from gateway.ports import Clock

Role = Literal["viewer", "approver", "operator"]
RANKS: tuple[Role, ...] = ("viewer", "approver", "operator")

NOBODY = Operator(id="", role="")
"""Who looks without a key: reading needs none on the owner's own socket."""


class ActRefused(GatewayError):
    """An act that was not done; the text says why and what to do."""


class Records(Protocol):
    """What acts need of the journal."""

    async def record(self, type: str, body: Mapping[str, Any], writes: tuple[Write, ...] = ()) -> None: ...

    async def read(self, query: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...

    @property
    def status(self) -> Any: ...


class Book(Protocol):
    """What acts need of the book of holds."""

    def get(self, identifier: str) -> Hold | None: ...

    def all(self) -> Any: ...

    def pending(self, principal: str | None = None) -> int: ...

    def envelopes(self, raw: Any, identifier: str) -> list[Mapping[str, Any]]: ...

    async def decide(
        self,
        identifier: str,
        operator: Operator,
        *,
        approve: bool,
        comment: str = "",
        channel: str = "cli",
        arguments: Any = None,
        narrow: bool = False,
    ) -> Hold: ...


class Letters(Protocol):
    """What acts need of the dead letters."""

    async def all(self, state: str = "open", limit: int = 200) -> Sequence[Any]: ...

    async def get(self, call_id: str) -> Any: ...

    async def close(self, call_id: str, state: str, by: str, retried_as: str = "") -> None: ...


Act = Callable[[Operator, Mapping[str, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Command:
    """One thing that can be asked for by name."""

    role: Role | None
    """What the operator has to be; None: anybody who reaches the socket."""
    act: Act
    changes: bool = False


class Acts:
    """The acts on one running gateway.

    Args:
        stop: puts a pause or kill in force, durable.
        parts: what else can be looked at, by name: zero-argument functions that give JSON values.
        redo: makes a new call of a dead letter, through the whole chain, and says what became of it.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        book: Book,
        stops: Stops,
        stop: Callable[[Stop], None],
        breaker: Any,
        journal: Records,
        clock: Clock,
        reload: Callable[[], Awaitable[Any]],
        view: Callable[[Principal], Awaitable[View]],
        principals: Callable[[], Mapping[str, Principal]],
        parts: Mapping[str, Callable[[], Any]],
        resolve_doubt: Callable[[str], bool],
        stop_conditions: Callable[[Principal], Sequence[str]],
        letters: Letters,
        redo: Callable[[Any], Awaitable[Mapping[str, Any]]],
    ) -> None:
        self._letters, self._redo, self._stop_conditions = letters, redo, stop_conditions
        self._engine, self._book, self._stops, self._stop = engine, book, stops, stop
        self._breaker, self._journal, self._clock, self._reload = breaker, journal, clock, reload
        self._view, self._principals, self._parts, self._resolve_doubt = view, principals, parts, resolve_doubt
        self.commands: Mapping[str, Command] = {
            "status": Command(None, self._status),
            "servers": Command(None, self._part("servers")),
            "quotas": Command(None, self._part("quotas")),
            "breakers": Command(None, self._part("breakers")),
            "pools": Command(None, self._part("pools")),
            "stops": Command(None, self._list_stops),
            "tools": Command(None, self._tools),
            "limits": Command(None, self._limits),
            "holds.list": Command(None, self._list_holds),
            "holds.show": Command("viewer", self._show_hold),
            "holds.approve": Command("approver", self._approve, changes=True),
            "holds.deny": Command("approver", self._deny, changes=True),
            "pause": Command("operator", self._pause, changes=True),
            "kill": Command("operator", self._kill, changes=True),
            "resume": Command("operator", self._resume, changes=True),
            "breakers.trip": Command("operator", self._trip, changes=True),
            "breakers.reset": Command("operator", self._reset, changes=True),
            "reload": Command("operator", self._reloaded, changes=True),
            "resolve": Command("operator", self._resolve, changes=True),
            "dead-letters.list": Command(None, self._list_letters),
            "dead-letters.show": Command("viewer", self._show_letter),
            "dead-letters.retry": Command("operator", self._retry_letter, changes=True),
            "dead-letters.drop": Command("operator", self._drop_letter, changes=True),
        }

    async def perform(self, name: str, operator: Operator | None, params: Mapping[str, Any]) -> Any:
        """Do one act; its result as a JSON value.

        Raises:
            ActRefused: no such act, not this operator's to do, or it cannot be done; the text is for a person.
        """
        command = self.commands.get(name)
        if command is None:
            raise ActRefused(f"there is no act {name!r}")
        if command.role is not None and (
            operator is None or operator.role not in RANKS or RANKS.index(operator.role) < RANKS.index(command.role)
        ):
            who = "nobody" if operator is None else f"{operator.id} ({operator.role})"
            await self._record(
                "operator.acted",
                {
                    "operator": "" if operator is None else operator.id,
                    "act": name,
                    "params": _shown(params),
                    "done": False,
                    "why": "role",
                },
            )
            raise ActRefused(f"{name} needs the role {command.role}; this is {who}")
        who_acts = operator or NOBODY
        try:
            result = await command.act(who_acts, params)
        except (DecisionRefused, GatewayError) as error:
            if command.changes:
                await self._record(
                    "operator.acted",
                    {"operator": who_acts.id, "act": name, "params": _shown(params), "done": False, "why": str(error)},
                )
            raise ActRefused(str(error)) from error
        if command.changes:
            await self._record(
                "operator.acted",
                {"operator": who_acts.id, "act": name, "params": _shown(params), "done": True, "why": ""},
            )
        return result

    async def _record(self, type: str, body: Mapping[str, Any]) -> None:
        try:
            await self._journal.record(type, body)
        except JournalUnavailable as error:
            raise ActRefused(f"the act cannot be recorded, so it is not done: {error}") from error

    # --- looking ---

    def _part(self, name: str) -> Act:
        async def look(operator: Operator, params: Mapping[str, Any]) -> Any:
            return self._parts[name]()

        return look

    async def _status(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        now = self._clock.monotonic_ns()
        running = [
            {
                "call_id": run.call.id,
                "agent": run.call.principal.id,
                "tool": f"{run.call.server}/{run.call.name}" if run.call.server else run.call.target,
                "stage": run.stage,
                "age_seconds": round((now - run.started_ns) / 1e9, 3),
                "session_id": run.call.session_id,
            }
            for run in self._engine.running()
        ]
        status = self._journal.status
        return {
            "running": running,
            "held": self._book.pending(),
            "stops": await self._list_stops(operator, params),
            "open_breakers": [state for state in self._parts["breakers"]() if state["state"] != "closed"],
            "servers": self._parts["servers"](),
            "refusals": self._parts["refusals"](),
            "journal": {
                "lag_seconds": status.lag_seconds,
                "queued": status.queued,
                "fault": status.fault,
                "seq": status.seq,
            },
            **self._parts["gateway"](),
        }

    async def _list_stops(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        now = self._clock.time_ns() / 1e9
        return [asdict(stop) for stop in self._stops if stop.until is None or stop.until > now]

    async def _tools(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        """What an agent reaches; of all agents where none is named."""
        view = await self._view(self._principal(params))
        return [
            {
                "name": exposed,
                "tool": f"{entry.server}/{entry.name}",
                "risk": str(entry.risk),
                "idempotent": entry.idempotent,
                "approval": entry.approval_hold,
                "timeout_seconds": entry.timeout_seconds,
                "description": str(entry.definition.get("description") or ""),
            }
            for exposed, entry in view.tools.items()
            if entry.type is TargetType.TOOL
        ]

    async def _limits(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        """What will stop an agent."""
        return self._stop_conditions(self._principal(params))

    def _principal(self, params: Mapping[str, Any]) -> Principal:
        known = self._principals()
        name = params.get("agent") or (next(iter(known)) if len(known) == 1 else None)
        if name is None:
            raise ActRefused(f"name an agent with --agent: {', '.join(known)}")
        if name not in known:
            raise ActRefused(f"there is no agent {name!r}; there are {', '.join(known) or 'none'}")
        return known[name]

    async def _list_holds(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        wanted = params.get("state")
        return [_summary(hold) for hold in self._book.all() if wanted in (None, "all", str(hold.state))]

    async def _show_hold(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        hold = self._hold(params)
        await self._record("operator.viewed", {"operator": operator.id, "what": "hold", "id": hold.id})
        envelopes = await self._journal.read(self._book.envelopes, hold.id)
        return {
            **_summary(hold),
            "arguments": hold.binding.arguments,
            "received": hold.received,
            "question": hold.question,
            "binding": hold.binding.digest(),
            "policy_revision": hold.binding.policy_revision,
            "definition_sha256": hold.binding.definition_sha256,
            "envelopes": envelopes,
        }

    # --- deciding ---

    async def _approve(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        narrow = "arguments" in params and params["arguments"] is not None
        if narrow and not isinstance(params["arguments"], dict):
            raise ActRefused("the narrowed arguments are not a JSON object")
        hold = await self._book.decide(
            self._hold(params).id,
            operator,
            approve=True,
            comment=str(params.get("comment") or ""),
            channel=str(params.get("channel") or "cli"),
            arguments=params.get("arguments"),
            narrow=narrow,
        )
        return _summary(hold)

    async def _deny(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        hold = await self._book.decide(
            self._hold(params).id,
            operator,
            approve=False,
            comment=str(params.get("comment") or ""),
            channel=str(params.get("channel") or "cli"),
        )
        return _summary(hold)

    def _hold(self, params: Mapping[str, Any]) -> Hold:
        """The hold of an id, or of an id's unambiguous beginning or end."""
        wanted = str(params.get("id") or "")
        if (hold := self._book.get(wanted)) is not None:
            return hold
        fitting = [
            hold for hold in self._book.all() if wanted and (hold.id.startswith(wanted) or hold.id.endswith(wanted))
        ]
        if len(fitting) == 1:
            found: Hold = fitting[0]
            return found
        raise ActRefused(
            f"there is no hold {wanted!r}"
            if not fitting
            else f"{wanted!r} fits {len(fitting)} holds; write more of the id"
        )

    # --- interrupting ---

    async def _pause(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        return await self._put(operator, params, killed=False)

    async def _kill(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        return await self._put(operator, params, killed=True)

    async def _put(self, operator: Operator, params: Mapping[str, Any], *, killed: bool) -> Any:
        subject, name = _subject(params)
        now = self._clock.time_ns() / 1e9
        seconds = params.get("for_seconds")
        client = ""
        if subject == "session":
            found = next((run.call for run in self._engine.running() if run.call.session_id == name), None)
            pair = (
                (found.principal.id, found.client.name)
                if found is not None
                else await self._journal.read(_session, name)
            )
            if pair is None:
                raise ActRefused(f"there is no session {name!r}")
            client = client_key(*pair)
        stop = Stop(
            subject=subject,
            name=name,
            killed=killed,
            reason=str(params.get("reason") or ""),
            by=operator.id,
            at=now,
            until=None if seconds is None else now + float(seconds),
            client=client,
        )
        self._stop(stop)
        return asdict(stop)

    async def _resume(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        subject, name = _subject(params)
        stop = next((stop for stop in self._stops if stop.key == (subject, name)), None)
        if stop is None:
            raise ActRefused(f"{subject} {name or ''} is not paused".replace("  ", " "))
        body = {"kind": "stop", "subject": f"{subject}:{name}", "state": "resumed", "by": operator.id}
        await self._journal.record(
            "state.changed", body, (Write(kind="stop.lifted", data={"subject": subject, "name": name}),)
        )
        self._stops.resume(subject, name)
        return asdict(stop)

    # --- mending ---

    async def _trip(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        subject = str(params.get("subject") or "")
        known = {entry["name"] for entry in self._parts["servers"]()}
        if subject.partition("/")[0] not in known:
            raise ActRefused(
                f"there is no tool server {subject.partition('/')[0]!r}; there are {', '.join(sorted(known))}"
            )
        self._breaker.trip(subject)
        return self._parts["breakers"]()

    async def _reset(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        subject = str(params.get("subject") or "")
        if not self._breaker.reset(subject):
            raise ActRefused(f"there is no breaker {subject!r}; `gateway breakers` lists them")
        return self._parts["breakers"]()

    async def _reloaded(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        report = await self._reload()
        if not report.accepted:
            raise ActRefused(report.message)
        return {"accepted": True, "message": report.message, "needs_restart": list(report.needs_restart)}

    async def _resolve(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        """An operator has looked: the call that was in doubt is settled, its idempotency key is free."""
        call_id = str(params.get("call_id") or "")
        if not self._resolve_doubt(call_id):
            raise ActRefused(f"no idempotency key is held by a call {call_id!r} that is in doubt")
        await self._journal.record(
            "state.changed",
            {"kind": "doubt", "subject": call_id, "state": "resolved", "by": operator.id},
            (Write(kind="idempotency.resolved", data={"call_id": call_id}),),
        )
        return {"call_id": call_id, "resolved": True}

    # --- dead letters ---

    async def _list_letters(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        return [_letter(letter) for letter in await self._letters.all(str(params.get("state") or "open"))]

    async def _show_letter(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        letter = await self._letter(params)
        await self._record("operator.viewed", {"operator": operator.id, "what": "dead_letter", "id": letter.call_id})
        return {**_letter(letter), "method": letter.method, "params": letter.params}

    async def _retry_letter(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        letter = await self._letter(params)
        if letter.state != "open":
            raise ActRefused(f"dead letter {letter.call_id} is {letter.state}")
        if letter.in_doubt and params.get("may_run_twice") is not True:
            raise ActRefused(
                f"{letter.tool} may have run already, and nobody knows; look first, then retry it with "
                "--i-know-it-may-run-twice, or drop it"
            )
        self._resolve_doubt(letter.call_id)
        done = await self._redo(letter)
        await self._letters.close(letter.call_id, "retried", operator.id, str(done["call_id"]))
        return done

    async def _drop_letter(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        letter = await self._letter(params)
        await self._letters.close(letter.call_id, "dropped", operator.id)
        self._resolve_doubt(letter.call_id)
        return {"call_id": letter.call_id, "dropped": True}

    async def _letter(self, params: Mapping[str, Any]) -> Any:
        wanted = str(params.get("call_id") or "")
        letter = await self._letters.get(wanted)
        if letter is None:
            raise ActRefused(f"there is no dead letter {wanted!r}; `gateway dead-letters list` lists them")
        return letter


def _letter(letter: Any) -> dict[str, Any]:
    """A dead letter without its content."""
    return {name: value for name, value in asdict(letter).items() if name not in ("method", "params")}


def _subject(params: Mapping[str, Any]) -> tuple[Subject, str]:
    """What a pause, kill or resume is about: one of agent, session, server, tool, or the whole gateway."""
    given = [(kind, params[kind]) for kind in ("agent", "session", "server", "tool") if params.get(kind)]
    if len(given) > 1:
        raise ActRefused("name one of --agent, --session, --server, --tool")
    if not given:
        return "gateway", ""
    kind, name = given[0]
    return cast(Subject, kind), str(name)


def _session(raw: Any, session_id: str) -> tuple[str, str] | None:
    row = raw.execute("SELECT agent, client FROM sessions WHERE id = ?", (session_id,)).fetchone()
    return None if row is None else (row[0], row[1])


def _summary(hold: Hold) -> dict[str, Any]:
    return {
        "id": hold.id,
        "state": str(hold.state),
        "agent": hold.principal,
        "tool": f"{hold.server}/{hold.tool}",
        "risk": hold.risk,
        "reasons": [asdict(reason) for reason in hold.reasons],
        "opened_at": hold.opened_at,
        "expires_at": hold.expires_at,
        "valid_until": hold.valid_until,
        "decisions": [asdict(decision) for decision in hold.decisions],
        "claimed_by": hold.claimed_by,
        "narrowed": hold.narrowed,
        "session_id": hold.session_id,
        "call_id": hold.call_id,
    }


def _shown(params: Mapping[str, Any]) -> dict[str, Any]:
    """An act's parameters as recorded: narrowed arguments may hold secrets and are left to the signed decision."""
    return {key: ("(narrowed)" if key == "arguments" else value) for key, value in params.items() if value is not None}
