"""The console at `/console`: pages rendered here, for people.

Theory of operation
-------------------
Every page is whole without a script; a small one of our own fetches the parts that changed again. A GET shows, and changes
nothing; a POST carries the session's token, performs one act by `gateway.acts` (which checks the role and records it), and
answers with a redirect and one sentence on the next page. What stops or mends something is confirmed on a page that names
it. The content security policy allows nothing but our own files, and no script or style within a page.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.acts import RANKS, ActRefused
from gateway.adapters import records
from gateway.console.access import COOKIE, SESSION_SECONDS, Access, Session
from gateway.console.api import (
    CallsAsked,
    HoldsAsked,
    SessionAsked,
    SessionsAsked,
    StatisticsAsked,
    Surroundings,
    event_stream,
    read_asked,
)
from gateway.console.rendering import HERE, environment, lines, stacked
from gateway.console.requests import Fault, add_safe_headers, body_of, of_act, remote
from gateway.decide.hold import Operator
from gateway.decide.obligations import redact_arguments
from gateway.edge.parsing import Malformed, parse
from gateway.model.events import AuthenticationRefused
from gateway.model.refusal import CODES

logger = logging.getLogger("gateway.console")

BASE: Final = "/console"

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""The content security policy of every answer."""

SAID: Final = "gateway_console_said"
MAX_FORM_BYTES: Final = 4_194_304
STATIC: Final = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}
PARTS: Final = ("running", "holds", "stops", "servers", "quotas")
SPANS: Final = (("An hour", 3600), ("A day", 86400), ("A week", 604800))
HOLDS_ON_NOW: Final = 20

ACTS: Final[Mapping[str, tuple[str, str, str]]] = {
    "pause": ("pause", "Pause {what}?", "New calls are refused until it is resumed. Calls in flight go on."),
    "kill": ("kill", "Kill {what}?", "New calls are refused and calls in flight are cancelled, until it is resumed."),
    "resume": ("resume", "Resume {what}?", "New calls are taken again."),
    "kill-call": ("calls.kill", "Kill {what}?", "The call is cancelled. Its agent is told so."),
    "trip": ("breakers.trip", "Trip {what}?", "Calls to it are refused until the breaker is reset."),
    "reset": ("breakers.reset", "Reset {what}?", "Calls to it are taken again."),
    "reload": ("reload", "Reload the configuration and the policies?", "What is valid is swapped in whole."),
    "retry": ("dead-letters.retry", "Retry {what}?", "The call is made again, through the whole chain."),
    "drop": ("dead-letters.drop", "Drop {what}?", "It is not made again."),
}
"""What is confirmed: the act, the question that names its subject, and what it does."""


class Console:
    """The pages of one gateway."""

    def __init__(self, around: Surroundings, access: Access) -> None:
        self._around, self._access = around, access
        self._templates = environment()
        self._templates.tests["in_server"] = lambda subject, server: subject.partition("/")[0] == server
        self._said = URLSafeTimedSerializer(access.secret, salt="console said")

    def application(self) -> ASGIApp:
        """Everything below `/console/`."""
        pages: tuple[tuple[str, str, Callable[[Request], Awaitable[Response]]], ...] = (
            ("GET", "/", self.now),
            ("GET", "/parts/{name}", self.part),
            ("GET", "/parts/hold/{id}", self.hold_part),
            ("GET", "/parts/call/{id}", self.call_part),
            ("GET", "/events", self.events),
            ("GET", "/calls", self.calls),
            ("GET", "/calls/{id}", self.call),
            ("GET", "/sessions", self.sessions),
            ("GET", "/sessions/{id}", self.session),
            ("GET", "/holds", self.holds),
            ("GET", "/holds/{id}", self.hold),
            ("POST", "/holds/{id}/decide", self.decide),
            ("GET", "/charts", self.charts),
            ("GET", "/dead-letters", self.letters),
            ("GET", "/confirm", self.confirm),
            ("POST", "/act", self.act),
            ("POST", "/logout", self.logout),
        )
        open_to_all: tuple[tuple[str, str, Callable[[Request], Awaitable[Response]]], ...] = (
            ("GET", "/login", self.login_page),
            ("POST", "/login", self.login),
            ("GET", "/open", self.open_page),
            ("POST", "/open", self.open),
            ("GET", "/static/{name}", self.static),
        )
        routes = [Route(BASE + path, self._for_operators(page), methods=[method]) for method, path, page in pages]
        routes += [Route(BASE + path, page, methods=[method]) for method, path, page in open_to_all]
        handlers: dict[Any, Any] = {Fault: self._fault, HTTPException: self._http_fault, Exception: self._internal}
        application = Starlette(routes=routes, exception_handlers=handlers)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def sending(message: Any) -> None:
                if message["type"] == "http.response.start":
                    headers = MutableHeaders(scope=message)
                    add_safe_headers(headers)
                    headers["content-security-policy"] = POLICY
                    headers["x-frame-options"] = "DENY"
                await send(message)

            if scope["path"] == BASE:
                await RedirectResponse(f"{BASE}/", 307)(scope, receive, sending)
                return
            request = Request(scope)
            # Before anything is looked at: what a page shows is never older.
            scope.setdefault("state", {})["place"] = self._around.feed.place
            scope["state"]["session"] = self._access.session(request.cookies.get(COOKIE), self._around.configuration())
            try:
                await application(scope, receive, sending)
            except Exception:
                logger.exception("a request to %s failed", scope.get("path"))

        return app

    # --- who -------------------------------------------------------------------------------------------------------

    def _for_operators(
        self, page: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            session: Session = request.state.session
            if session.operator is not None:
                return await page(request)
            path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            if request.method != "GET" or request.url.path.startswith((f"{BASE}/parts/", f"{BASE}/events")):
                raise Fault(401, "unauthorized", "Log in first.")
            if request.headers.get("sec-fetch-site") == "cross-site":
                # The cookie was not sent, since another site's link led here; from our own page it will be.
                return self._html("continue.html", {"path": path}, 200)
            return RedirectResponse(f"{BASE}/login?{urlencode({'next': path})}", 303)

        return guarded

    async def login_page(self, request: Request) -> Response:
        return self._page(request, "login.html", "Log in", next=_next(request.query_params.get("next", "")))

    async def login(self, request: Request) -> Response:
        form = await self._form(request)
        operator = self._access.by_key(form.get("key", "").strip(), self._around.configuration())
        if operator is None:
            self._refused(request, "no operator's key at the console")
            return self._page(
                request,
                "login.html",
                "Log in",
                403,
                next=_next(form.get("next", "")),
                fault="No operator has this key.",
            )
        return self._enter(request, operator, _next(form.get("next", "")))

    async def open_page(self, request: Request) -> Response:
        return self._page(request, "open.html", "Open the console", link=request.query_params.get("token", ""))

    async def open(self, request: Request) -> Response:
        form = await self._form(request)
        operator = self._access.by_link(form.get("link", ""), self._around.configuration())
        if operator is None:
            self._refused(request, "no valid one-time link")
            raise Fault(
                403,
                "forbidden",
                "This link was used, or is older than ten minutes. Restart `gateway serve` for another.",
            )
        return self._enter(request, operator, f"{BASE}/")

    async def logout(self, request: Request) -> Response:
        await self._form(request)
        self._access.leave(request.state.session)
        answer = RedirectResponse(f"{BASE}/login", 303)
        answer.delete_cookie(COOKIE, path=BASE)
        return answer

    def _enter(self, request: Request, operator: Operator, path: str) -> Response:
        answer = RedirectResponse(path, 303)
        self._set_session(request, answer, self._access.opened(operator))
        return answer

    def _set_session(self, request: Request, answer: Response, session: Session) -> None:
        answer.set_cookie(
            COOKIE, self._access.cookie(session, self._around.configuration()), max_age=int(SESSION_SECONDS), path=BASE,
            secure=request.url.scheme == "https", httponly=True, samesite="strict",
        )  # fmt: skip

    def _refused(self, request: Request, reason: str) -> None:
        now = self._around.clock.time_ns() / 1e9
        self._around.events.publish(AuthenticationRefused(at=now, reason=reason, remote=remote(request)))

    # --- now -------------------------------------------------------------------------------------------------------

    async def now(self, request: Request) -> Response:
        found: dict[str, Any] = {}
        for name in PARTS:
            found |= await self._of_part(request, name)
        return self._page(request, "now.html", "Now", **found)

    async def part(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in PARTS:
            raise Fault(404, "not_found", "There is no such part.")
        return self._html(f"parts/{name}.html", {**self._common(request), **await self._of_part(request, name)}, 200)

    async def _of_part(self, request: Request, name: str) -> dict[str, Any]:
        match name:
            case "running":
                return {"running": await self._do(request, "calls.running")}
            case "holds":
                holds = await self._do(request, "holds.list", {"state": "pending"})
                return {"holds": holds[:HOLDS_ON_NOW], "held": len(holds)}
            case "stops":
                return {"stops": await self._do(request, "stops"), "agents": (await self._do(request, "agents"))[:50]}
            case "servers":
                return {part: await self._do(request, part) for part in ("servers", "breakers", "pools")}
            case _:
                return {"quotas": await self._do(request, "quotas")}

    async def events(self, request: Request) -> Response:
        cookie, session = request.cookies.get(COOKIE), request.state.session

        def allowed() -> bool:
            now = self._access.session(cookie, self._around.configuration())
            return bool(now.operator == session.operator)

        return await event_stream(self._around, request, allowed, request.query_params.get("after"))

    # --- holds -----------------------------------------------------------------------------------------------------

    async def holds(self, request: Request) -> Response:
        asked = read_asked(HoldsAsked, {"state": "all", **_given(request)})
        found = await self._do(request, "holds.list", {**asked, "limit": 51})
        states = ("all", "pending", "approved", "denied", "expired", "claimed", "done", "void", "lapsed")
        more = found[49]["id"] if len(found) > 50 else None
        return self._page(
            request, "holds.html", "Holds", here=f"{BASE}/holds", holds=found[:50], more=more, states=states,
            chosen=asked["state"],
        )  # fmt: skip

    async def hold(self, request: Request) -> Response:
        hold = await self._do(request, "holds.show", {"id": request.path_params["id"]})
        arguments, redacted = self._redacted(hold, "arguments")
        received, _ = self._redacted(hold, "received")
        session = await self._do(request, "calls.list", {"session": hold["session_id"], "limit": 20})
        question, answer = None, None
        try:
            payloads = (await self._do(request, "calls.show", {"id": hold["call_id"]}))["payloads"]
        except Fault:
            payloads = {}
        for decision in payloads.get("request", {}).get("decisions", []):
            question, answer = decision["question"], decision["answer"]
        return self._page(
            request, "hold.html", f"{hold['agent']} asks for {hold['tool']}", hold=hold, arguments=arguments,
            received=received, redacted=redacted, calls=session["calls"], question=question, answer=answer,
        )  # fmt: skip

    def _redacted(self, hold: Mapping[str, Any], member: str) -> tuple[Any, Sequence[str]]:
        """A hold's arguments as they are shown: without what no record may hold."""
        return redact_arguments(
            hold[member], (*self._around.configuration().document.recording.redact, *hold["redact"])
        )

    async def hold_part(self, request: Request) -> Response:
        hold = await self._do(request, "holds.show", {"id": request.path_params["id"]})
        return self._html("parts/hold.html", {**self._common(request), "hold": hold}, 200)

    async def decide(self, request: Request) -> Response:
        form = await self._form(request)
        identifier, decision = request.path_params["id"], form.get("decision", "")
        params: dict[str, Any] = {
            "id": identifier, "comment": form.get("comment", "")[:2000], "binding": form.get("binding", ""), "channel": "console",
        }  # fmt: skip
        if decision not in ("approve", "deny", "narrow"):
            raise Fault(400, "invalid", "Neither approved nor denied.")
        if decision == "narrow":
            params["arguments"] = await self._narrowed(request, identifier, form.get("arguments", ""))
        done = await self._do(request, "holds.deny" if decision == "deny" else "holds.approve", params)
        words = {
            "approved": "It runs when its agent asks again, or now where it still waits.",
            "denied": "Nothing runs.",
        }
        said = f"{done['tool']} of {done['agent']} is {done['state']}. {words.get(done['state'], 'It needs others as well.')}"
        return self._go(f"{BASE}/holds/{quote(done['id'])}", said)

    async def _narrowed(self, request: Request, identifier: str, text: str) -> Any:
        """The arguments of the form; what was shown redacted and was left so is what the agent sent."""
        try:
            given = parse(text.encode("utf-8", "surrogatepass"))
        except Malformed as malformed:
            raise Fault(400, "invalid", f"The arguments are not JSON that can be used: {malformed.message}") from None
        if not isinstance(given, dict):
            raise Fault(400, "invalid", "The arguments have to be a JSON object.")
        hold = await self._do(request, "holds.show", {"id": identifier})
        shown, erased = self._redacted(hold, "arguments")
        return _restored(given, shown, hold["arguments"]) if erased else given

    # --- past ------------------------------------------------------------------------------------------------------

    async def calls(self, request: Request) -> Response:
        given = {name: value for name, value in _given(request).items() if value != ""}
        found = await self._do(request, "calls.list", read_asked(CallsAsked, given))
        more = None if found["next"] is None else urlencode({**given, "before": found["next"]})
        return self._page(
            request, "calls.html", "Calls", here=f"{BASE}/calls", calls=found["calls"], asked=given, more=more
        )

    async def call(self, request: Request) -> Response:
        found = await self._of_call(request)
        return self._page(request, "call.html", found["what"], **found)

    async def call_part(self, request: Request) -> Response:
        return self._html("parts/call.html", {**self._common(request), **await self._of_call(request)}, 200)

    async def _of_call(self, request: Request) -> dict[str, Any]:
        shown = await self._do(request, "calls.show", {"id": request.path_params["id"]})
        if (running := shown["running"]) is not None:
            return {
                "running": running, "record": None, "what": running["tool"], "agent": running["agent"],
                "session_id": running["session_id"], "call_id": running["call_id"], "command": {},
            }  # fmt: skip
        record, payloads = shown["record"], shown["payloads"]
        command, ending = record["command"], record["outcome"]
        word = "error" if ending["kind"] == "completed" and ending["is_error"] else ending["kind"]
        meanings = {str(code): text for code, text in CODES.items()}
        wanted = payloads.get("request", {})
        decisions = [
            {"question": records.question(decision, wanted), "answer": decision["answer"]}
            for decision in wanted.get("decisions", [])
        ]
        return {
            "running": None, "record": record, "command": command, "ending": ending, "word": word,
            "meaning": meanings.get(ending.get("code", ""), ""), "decisions": decisions, "payloads": payloads,
            "what": f"{command['server']}/{command['name']}" if command["server"] else command["target"],
            "agent": command["principal"]["id"], "session_id": command["session_id"], "call_id": command["id"],
            "seq": shown["seq"], "sha256": shown["sha256"],
        }  # fmt: skip

    async def sessions(self, request: Request) -> Response:
        given = {name: value for name, value in _given(request).items() if value != ""}
        found = await self._do(request, "sessions.list", read_asked(SessionsAsked, given))
        more = None if found["next"] is None else urlencode({**given, "before": found["next"]})
        return self._page(
            request,
            "sessions.html",
            "Sessions",
            here=f"{BASE}/sessions",
            sessions=found["sessions"],
            asked=given,
            more=more,
        )

    async def session(self, request: Request) -> Response:
        asked = read_asked(SessionAsked, _given(request))
        found = await self._do(request, "sessions.show", {**asked, "id": request.path_params["id"]})
        return self._page(
            request, "session.html", f"Session {found['session']['id']}", session=found["session"], calls=found["calls"],
            more=found["next"],
        )  # fmt: skip

    async def charts(self, request: Request) -> Response:
        seconds = read_asked(StatisticsAsked, _given(request))["seconds"]
        found = await self._do(request, "calls.statistics", {"seconds": seconds})
        return self._page(
            request, "charts.html", "Charts", here=f"{BASE}/charts", found=found, spans=SPANS, chosen=int(seconds),
            calls_chart=stacked(found["parts"], "Calls over time, by outcome"),
            latency_chart=lines(found["parts"], ("p50_ms", "p95_ms"), "Latency over time, in milliseconds"),
        )  # fmt: skip

    # --- acts ------------------------------------------------------------------------------------------------------

    async def letters(self, request: Request) -> Response:
        found = await self._do(request, "dead-letters.list")
        return self._page(request, "letters.html", "Dead letters", here=f"{BASE}/dead-letters", letters=found)

    async def confirm(self, request: Request) -> Response:
        given = _given(request)
        act, subject, name = given.get("act", ""), given.get("subject", ""), given.get("name", "")
        _, question, effect = _known(act)
        what = "the whole gateway" if subject == "gateway" else f"{subject} {name}"
        affected: list[Any] = []
        if act in ("kill", "kill-call"):
            keys = {"session": "session_id", "agent": "agent", "tool": "tool", "call": "call_id"}
            affected = [
                call
                for call in await self._do(request, "calls.running")
                if subject == "gateway"
                or (subject == "server" and call["tool"].partition("/")[0] == name)
                or (subject in keys and call[keys[subject]] == name)
            ]
        return self._page(
            request, "confirm.html", question.format(what=what), heading=question.format(what=what), effect=effect,
            affected=affected, act=act, subject=subject, name=name, asks_reason=act in ("pause", "kill", "kill-call"),
            asks_time=act in ("pause", "kill"), danger=act in ("kill", "kill-call", "trip", "retry"),
        )  # fmt: skip

    async def act(self, request: Request) -> Response:
        form = await self._form(request)
        act, subject, name = form.get("act", ""), form.get("subject", ""), form.get("name", "")
        command, question, _ = _known(act)
        params: dict[str, Any] = {}
        match act:
            case "pause" | "kill" | "resume":
                if subject not in ("gateway", "agent", "session", "server", "tool"):
                    raise Fault(400, "invalid", "That cannot be stopped.")
                if subject != "gateway":
                    if not name:
                        # An empty name would mean the whole gateway.
                        raise Fault(400, "invalid", f"Which {subject}?")
                    params[subject] = name
                params["reason"] = form.get("reason", "")[:2000]
                minutes = form.get("minutes", "").strip()
                if minutes:
                    if not minutes.isascii() or not minutes.isdigit() or not 0 < int(minutes[:7]) < 1_000_000:
                        raise Fault(400, "invalid", "The minutes are no number.")
                    params["for_seconds"] = int(minutes) * 60
            case "kill-call":
                params = {"id": name, "reason": form.get("reason", "")[:2000]}
            case "trip" | "reset":
                params = {"subject": name}
            case "retry" | "drop":
                params = {"call_id": name, "may_run_twice": form.get("sure") == "yes"}
            case _:
                pass
        await self._do(request, command, params)
        what = "the whole gateway" if subject == "gateway" else f"{subject} {name}"
        said = "Done: " + question.format(what=what).rstrip("?")
        return self._go(f"{BASE}/dead-letters" if act in ("retry", "drop") else f"{BASE}/", said)

    # --- parts of all pages ----------------------------------------------------------------------------------------

    async def _do(self, request: Request, act: str, params: Mapping[str, Any] | None = None) -> Any:
        """Perform an act as the session's operator.

        Raises:
            Fault: it was not done.
        """
        try:
            return await self._around.acts().perform(act, request.state.session.operator, params or {})
        except ActRefused as refused:
            raise of_act(refused) from refused

    async def _form(self, request: Request) -> dict[str, str]:
        """The fields of a form that carries the session's token.

        Raises:
            Fault: it is none, or the token is not this session's.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise Fault(415, "unsupported_media_type", "This takes a form.")
        body = await body_of(request, MAX_FORM_BYTES)
        try:
            pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=50)
        except ValueError:
            raise Fault(400, "invalid", "The form cannot be read.") from None
        form = dict(pairs)
        if len(form) != len(pairs):
            raise Fault(400, "invalid", "A field of the form is there twice.")
        session: Session = request.state.session
        if not session.allows(form.get("token", "")):
            raise Fault(403, "forbidden", "This form is not of your session, or too old. Go back and reload the page.")
        return form

    def _common(self, request: Request) -> dict[str, Any]:
        session: Session = request.state.session
        configuration = self._around.configuration()
        rank = RANKS.index(session.operator.role) if session.operator and session.operator.role in RANKS else -1
        return {
            "gateway_name": configuration.gateway.name, "operator": session.operator, "token": session.token,
            "may_decide": rank >= RANKS.index("approver"), "may_stop": rank >= RANKS.index("operator"),
            "has_operators": bool(configuration.operators), "said": "", "fault": "", "here": request.url.path,
            "place": request.state.place,
        }  # fmt: skip

    def _page(self, request: Request, template: str, title: str, status: int = 200, **found: Any) -> Response:
        common = self._common(request)
        said = request.cookies.get(SAID)
        if said:
            with contextlib.suppress(BadSignature):
                common["said"] = self._said.loads(said, max_age=60)
        answer = self._html(template, {**common, "title": title, **found}, status)
        if said:
            answer.delete_cookie(SAID, path=BASE)
        if request.state.session.operator is None:
            self._set_session(request, answer, request.state.session)
        return answer

    def _html(self, template: str, values: Mapping[str, Any], status: int) -> Response:
        text = self._templates.get_template(template).render(values)
        return Response(text.encode("utf-8", "replace"), status, media_type="text/html; charset=utf-8")

    def _go(self, path: str, said: str) -> Response:
        answer = RedirectResponse(path, 303)
        answer.set_cookie(
            SAID, str(self._said.dumps(said[:500])), max_age=60, path=BASE, httponly=True, samesite="strict"
        )
        return answer

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            raise Fault(404, "not_found", "There is no such file.")
        return FileResponse(HERE / "static" / name, media_type=STATIC[name], headers={"cache-control": "no-cache"})

    def _fault(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, Fault)
        titles = {
            400: "That cannot be read",
            401: "Who are you?",
            403: "Not yours to do",
            404: "Not here",
            409: "Not now",
        }
        return self._page(
            request, "fault.html", titles.get(error.status, "That did not work"), error.status, message=error.message
        )

    def _http_fault(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = "There is nothing here." if error.status_code == 404 else str(error.detail)
        return self._fault(request, Fault(error.status_code, "", message))

    def _internal(self, request: Request, error: Exception) -> Response:
        return self._fault(request, Fault(500, "internal", "The gateway failed; its log says how."))


def console(around: Surroundings, access: Access) -> ASGIApp:
    """The application of everything below `/console/`."""
    return Console(around, access).application()


def _known(act: str) -> tuple[str, str, str]:
    if act not in ACTS:
        raise Fault(404, "not_found", "There is no such act.")
    return ACTS[act]


def _given(request: Request) -> dict[str, str]:
    return dict(request.query_params.multi_items())


def _next(path: str) -> str:
    """A path of the console to go on to; anything else is the first page: nobody is sent elsewhere from here."""
    fine = path.startswith(f"{BASE}/") and not any(character in path for character in "\\\r\n\t") and "//" not in path
    return path if fine else f"{BASE}/"


def _restored(given: Any, shown: Any, original: Any) -> Any:
    """What was left as it was shown, as it was before it was erased."""
    if type(given) is type(shown) and records.dump(given) == records.dump(shown):
        return original
    if isinstance(given, dict) and isinstance(shown, dict) and isinstance(original, dict):
        return {
            key: _restored(value, shown[key], original[key]) if key in shown and key in original else value
            for key, value in given.items()
        }
    lists = isinstance(given, list) and isinstance(shown, list) and isinstance(original, list)
    if lists and len(given) == len(shown) == len(original):
        return [_restored(*each) for each in zip(given, shown, original, strict=True)]
    return given
