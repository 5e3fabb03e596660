"""What operators see and do: one module for the command line, the console and the operator API.

Every act names its operator, is checked against the operator's role, and is recorded (`operator.acted`) whether it was done
or refused. Looking at what may hold secrets (a hold's arguments) is recorded too (`operator.viewed`).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, cast

from gateway.adapters import overview, queries
from gateway.decide.hold import DecisionRefused, Hold, HoldState, NotAnApprover, Operator
from gateway.decide.pause import Stop, Stops, Subject, client_key
from gateway.engine import Engine
from gateway.model.call import Principal, TargetType
from gateway.model.errors import GatewayError, JournalUnavailable
from gateway.model.recording import CallFilter, Record
from gateway.model.snapshot import View
from gateway.model.verdict import Write
from gateway.ports import Clock

Role = Literal["viewer", "approver", "operator"]
RANKS: tuple[Role, ...] = ("viewer", "approver", "operator")

NOBODY = Operator(id="", role="")
"""Who looks without a key: reading needs none on the owner's own socket."""


class ActRefused(GatewayError):
    """An act that was not done; the text says why and what to do."""


class ActForbidden(ActRefused):
    """It is not this operator's to do."""


class ActUnknown(ActRefused):
    """What it is about does not exist."""


class ActInvalid(ActRefused):
    """Its parameters do not say what is meant."""


class ActUnrecorded(ActRefused):
    """It cannot be recorded, or the store cannot be read, so it is not done."""


class Records(Protocol):
    """What acts need of the journal."""

    async def record(self, type: str, body: Mapping[str, Any], writes: tuple[Write, ...] = ()) -> None: ...

    async def read(self, query: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...

    @property
    def status(self) -> Any: ...


class Book(Protocol):
    """What acts need of the book of holds."""

    async def find(self, part: str) -> Sequence[Hold]: ...

    async def page(self, state: str, before: str | None, limit: int | None) -> Sequence[Hold]: ...

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
        seen: str | None = None,
    ) -> Hold: ...


class Letters(Protocol):
    """What acts need of the dead letters."""

    async def all(self, state: str = "open", limit: int = 200) -> Sequence[Any]: ...

    async def get(self, call_id: str) -> Any: ...

    async def close(self, call_id: str, state: str, by: str, retried_as: str = "") -> None: ...


PAYLOADS = ("request", "response", "exchange")
"""What is kept beside a call's record and can be erased: the request, the response, and what was said meanwhile."""

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
        rotate: Callable[[], Awaitable[Any]],
        erase: Callable[[str, Sequence[str], str], Awaitable[Mapping[str, Any]]],
        letters: Letters,
        redo: Callable[[Any], Awaitable[Mapping[str, Any]]],
    ) -> None:
        self._letters, self._redo, self._stop_conditions = letters, redo, stop_conditions
        self._rotate, self._erase = rotate, erase
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
            "agents": Command(None, self._part("agents")),
            "policy": Command(None, self._part("policy")),
            "calls.running": Command(None, self._list_running),
            "calls.list": Command("viewer", self._list_calls),
            "calls.show": Command("viewer", self._show_call),
            "calls.statistics": Command("viewer", self._statistics),
            "sessions.list": Command("viewer", self._list_sessions),
            "sessions.show": Command("viewer", self._show_session),
            "calls.kill": Command("operator", self._kill_call, changes=True),
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
            "keys.rotate": Command("operator", self._rotated, changes=True),
            "calls.erase": Command("operator", self._erased, changes=True),
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
            raise ActUnknown(f"there is no act {name!r}")
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
            raise ActForbidden(f"{name} needs the role {command.role}; this is {who}")
        who_acts = operator or NOBODY
        try:
            result = await command.act(who_acts, params)
        except (DecisionRefused, GatewayError) as error:
            if command.changes:
                await self._record(
                    "operator.acted",
                    {"operator": who_acts.id, "act": name, "params": _shown(params), "done": False, "why": str(error)},
                )
            match error:
                case ActRefused():
                    raise
                case NotAnApprover():
                    raise ActForbidden(str(error)) from error
                case JournalUnavailable():
                    raise ActUnrecorded(str(error)) from error
                case _:
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
            raise ActUnrecorded(f"the act cannot be recorded, so it is not done: {error}") from error

    # --- looking ---

    def _part(self, name: str) -> Act:
        async def look(operator: Operator, params: Mapping[str, Any]) -> Any:
            return self._parts[name]()

        return look

    async def _status(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        running = await self._list_running(operator, params)
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

    async def _list_running(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        """The calls on their way, oldest first."""
        now = self._clock.monotonic_ns()
        return [
            {
                "call_id": run.call.id,
                "agent": run.call.principal.id,
                "tool": f"{run.call.server}/{run.call.name}" if run.call.server else run.call.target,
                "risk": str(run.call.risk),
                "stage": run.stage,
                "age_seconds": round((now - run.started_ns) / 1e9, 3),
                "session_id": run.call.session_id,
            }
            for run in self._engine.running()
        ]

    async def _list_calls(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        """A page of recorded calls, newest first; `next` is the `before` of the page after, None at the end."""
        filter = CallFilter(
            **{name: params.get(name) for name in ("agent", "tool", "session", "outcome", "code", "since", "until")}
        )
        limit, before, text = int(params.get("limit") or 50), params.get("before"), str(params.get("text") or "")
        if text:
            found, after = await self._journal.read(overview.search_calls, filter, text, before=before, limit=limit)
        else:
            found = await self._journal.read(queries.list_calls, filter, before=before, limit=limit)
            after = found[-1].seq if len(found) == limit else None
        return {"calls": [asdict(call) for call in found], "next": after}

    async def _show_call(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        """One recorded call with its payloads, or what is known of one in flight."""
        wanted = str(params.get("id") or "")
        record = await self._record_of(wanted) if wanted else None
        if record is None:
            running = [run for run in await self._list_running(operator, params) if run["call_id"] == wanted]
            if not running:
                raise ActUnknown(f"there is no call {wanted!r}")
            return {"running": running[0], "record": None, "payloads": {}, "sha256": None, "seq": None}
        await self._record(
            "operator.viewed", {"operator": operator.id, "what": "call", "id": record.body["command"]["id"]}
        )
        return {
            "running": None,
            "seq": record.seq,
            "sha256": record.sha256,
            "record": record.body,
            "payloads": record.payloads,
        }

    async def _record_of(self, call_id: str) -> Record | None:
        found: Record | None
        found, unclear = await self._journal.read(overview.by_beginning, queries.find_call, call_id)
        if unclear:
            raise ActInvalid(unclear)
        return found

    async def _statistics(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        """Calls, refusals by code and latency of a span of time up to now, in equal parts."""
        now = self._clock.time_ns() / 1e9
        seconds = float(params.get("seconds") or 3600)
        return await self._journal.read(overview.statistics, since=now - seconds, until=now)

    async def _list_sessions(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        limit = int(params.get("limit") or 50)
        found = await self._journal.read(
            queries.list_sessions, agent=params.get("agent"), before=params.get("before"), limit=limit
        )
        return {
            "sessions": [asdict(session) for session in found],
            "next": found[-1].id if len(found) == limit else None,
        }

    async def _show_session(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        """A session with a page of its calls, in order; `next` is the `after` of the page after, None at the end."""
        wanted = str(params.get("id") or "")
        found, unclear = await self._journal.read(overview.by_beginning, queries.find_session, wanted)
        if unclear:
            raise ActInvalid(unclear)
        if found is None or not wanted:
            raise ActUnknown(f"there is no session {wanted!r}")
        limit, after = int(params.get("limit") or 50), int(params.get("after") or 0)
        calls = await self._journal.read(queries.list_calls, CallFilter(session=found.id), after=after, limit=limit)
        return {
            "session": asdict(found),
            "calls": [asdict(call) for call in calls],
            "next": calls[-1].seq if len(calls) == limit else None,
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
            raise ActInvalid(f"name an agent with --agent: {', '.join(known)}")
        if name not in known:
            raise ActUnknown(f"there is no agent {name!r}; there are {', '.join(known) or 'none'}")
        return known[name]

    async def _list_holds(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        """Holds in a state, newest first; with `before` (an id) those opened earlier, with `limit` so many at most."""
        state, limit = str(params.get("state") or "all"), params.get("limit")
        if state not in (known := ("all", *HoldState)):
            raise ActInvalid(f"no hold is ever {state!r}; name one of {', '.join(known)}")
        found = await self._book.page(state, params.get("before"), None if limit is None else int(limit))
        return [_summary(hold) for hold in found]

    async def _show_hold(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        hold = await self._hold(params)
        await self._record("operator.viewed", {"operator": operator.id, "what": "hold", "id": hold.id})
        envelopes = await self._journal.read(self._book.envelopes, hold.id)
        return {
            **_summary(hold),
            "arguments": hold.binding.arguments,
            "received": hold.received,
            "redact": list(hold.redact),
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
            raise ActInvalid("the narrowed arguments are not a JSON object")
        hold = await self._book.decide(
            (await self._hold(params)).id,
            operator,
            approve=True,
            comment=str(params.get("comment") or ""),
            channel=str(params.get("channel") or "cli"),
            arguments=params.get("arguments"),
            narrow=narrow,
            seen=params.get("binding"),
        )
        return _summary(hold)

    async def _deny(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        hold = await self._book.decide(
            (await self._hold(params)).id,
            operator,
            approve=False,
            comment=str(params.get("comment") or ""),
            channel=str(params.get("channel") or "cli"),
            seen=params.get("binding"),
        )
        return _summary(hold)

    async def _hold(self, params: Mapping[str, Any]) -> Hold:
        """The hold of an id, or of an id's unambiguous beginning or end."""
        wanted = str(params.get("id") or "")
        fitting = await self._book.find(wanted) if wanted else ()
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise ActInvalid(f"{wanted!r} fits {len(fitting)} holds; write more of the id")
        raise ActUnknown(f"there is no hold {wanted!r}")

    # --- interrupting ---

    async def _pause(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        return await self._put(operator, params, killed=False)

    async def _kill(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        return await self._put(operator, params, killed=True)

    async def _kill_call(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        """Cancel one call on its way; its agent gets `killed`."""
        call_id = str(params.get("id") or "")
        reason = str(params.get("reason") or "") or f"by {operator.id}"
        if not self._engine.kill(call_id, reason):
            raise ActUnknown(f"no call {call_id!r} is on its way")
        return {"call_id": call_id, "killed": True}

    async def _put(self, operator: Operator, params: Mapping[str, Any], *, killed: bool) -> Any:
        subject, name = _subject(params)
        now = self._clock.time_ns() / 1e9
        seconds = params.get("for_seconds")
        self._check_subject(subject, name)
        client = ""
        if subject == "session":
            found = next((run.call for run in self._engine.running() if run.call.session_id == name), None)
            pair = (
                (found.principal.id, found.client.name)
                if found is not None
                else await self._journal.read(_session, name)
            )
            if pair is None:
                raise ActUnknown(f"there is no session {name!r}")
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

    def _check_subject(self, subject: Subject, name: str) -> None:
        """Refuse what nobody is called: a pause with a slip of the pen would stop nothing and look as if it did."""
        match subject:
            case "agent":
                known, kind = list(self._principals()), "agent"
            case "server" | "tool":
                known, kind = [entry["name"] for entry in self._parts["servers"]()], "tool server"
            case _:
                return
        asked = name.partition("/")[0] if subject == "tool" else name
        if subject == "tool" and not name.partition("/")[2]:
            raise ActInvalid(f"{name!r} names no tool; write server/tool")
        if asked not in known:
            raise ActUnknown(f"there is no {kind} {asked!r}; there are {', '.join(sorted(known)) or 'none'}")

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
            raise ActUnknown(
                f"there is no tool server {subject.partition('/')[0]!r}; there are {', '.join(sorted(known))}"
            )
        self._breaker.trip(subject)
        return self._parts["breakers"]()

    async def _reset(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        subject = str(params.get("subject") or "")
        if not self._breaker.reset(subject):
            raise ActUnknown(f"there is no breaker {subject!r}; `gateway breakers` lists them")
        return self._parts["breakers"]()

    async def _reloaded(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        report = await self._reload()
        if not report.accepted:
            raise ActRefused(report.message)
        return {"accepted": True, "message": report.message, "needs_restart": list(report.needs_restart)}

    async def _resolve(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        """An operator has looked: the call that was in doubt is settled, its idempotency key is free."""
        call_id = str(params.get("call_id") or "")
        if not await self._freed(operator, call_id):
            raise ActRefused(f"no idempotency key is held by a call {call_id!r} that is in doubt")
        return {"call_id": call_id, "resolved": True}

    async def _freed(self, operator: Operator, call_id: str) -> bool:
        """Free the idempotency key that a call in doubt holds, here and in the store; False where it holds none."""
        if not self._resolve_doubt(call_id):
            return False
        await self._journal.record(
            "state.changed",
            {"kind": "doubt", "subject": call_id, "state": "resolved", "by": operator.id},
            (Write(kind="idempotency.resolved", data={"call_id": call_id}),),
        )
        return True

    async def _erased(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        """Erase payloads of one recorded call: `{id, roles?}`."""
        roles = params.get("roles") or list(PAYLOADS)
        if not isinstance(roles, list) or not all(role in PAYLOADS for role in roles):
            raise ActInvalid(f"`roles` is a list of {', '.join(PAYLOADS)}")
        return await self._erase(str(params.get("id") or ""), roles, operator.id)

    async def _rotated(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        before, public = await self._rotate()
        return {"keyid": public.id, "pem": public.pem, "before": before.id}

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
        await self._freed(operator, letter.call_id)
        done = await self._redo(letter)
        await self._letters.close(letter.call_id, "retried", operator.id, str(done["call_id"]))
        return done

    async def _drop_letter(self, operator: Operator, params: Mapping[str, Any]) -> Any:
        letter = await self._letter(params)
        await self._letters.close(letter.call_id, "dropped", operator.id)
        await self._freed(operator, letter.call_id)
        return {"call_id": letter.call_id, "dropped": True}

    async def _letter(self, params: Mapping[str, Any]) -> Any:
        wanted = str(params.get("call_id") or "")
        letter = await self._letters.get(wanted)
        if letter is None:
            raise ActUnknown(f"there is no dead letter {wanted!r}; `gateway dead-letters list` lists them")
        return letter


def _letter(letter: Any) -> dict[str, Any]:
    """A dead letter without its content."""
    return {name: value for name, value in asdict(letter).items() if name not in ("method", "params")}


def _subject(params: Mapping[str, Any]) -> tuple[Subject, str]:
    """What a pause, kill or resume is about: one of agent, session, server, tool, or the whole gateway."""
    given = [(kind, params[kind]) for kind in ("agent", "session", "server", "tool") if params.get(kind)]
    if len(given) > 1:
        raise ActInvalid("name one of --agent, --session, --server, --tool")
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
