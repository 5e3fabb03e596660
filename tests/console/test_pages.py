"""The console as a person meets it, without a browser: who gets in, what is shown, what a form does."""

import json
import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters import queries
from gateway.config import loads
from gateway.console import access
from gateway.console.access import CONSOLE, COOKIE, Access
from gateway.console.api import OPERATIONS
from gateway.console.pages import _next, _restored
from gateway.console.rendering import visible
from gateway.decide.hold import Operator
from gateway.decide.obligations import redact
from gateway.model.recording import CallFilter
from gateway.model.refusal import Code
from gateway.model.verdict import Held, Refused
from tests.console.browsing import Person
from tests.console.serving import AGENT_KEY, CLAUDE, KEYS, Served, scripted, serving, table
from tests.gateway_process import PROGRAM, configure, end, free_port
from tests.running import execute, server_table, text_of

pytestmark = pytest.mark.anyio

HELD = {"held": True, "amount": 10}


async def held(served: Served, arguments: dict[str, Any] | None = None, **more: Any) -> Held:
    outcome = await execute(served.runtime, "s__pay", arguments or HELD, **{"principal": CLAUDE, **more})
    assert isinstance(outcome, Held), outcome
    return outcome


# --- who gets in ---------------------------------------------------------------------------------------------------


@pytest.mark.rule("console.login")
async def test_the_console_is_opened_by_an_operators_key_and_by_no_other(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        person = Person(served=served)
        assert (await person.get("/console/holds?state=pending")).headers["location"] == (
            "/console/login?next=%2Fconsole%2Fholds%3Fstate%3Dpending"
        )
        for key in (AGENT_KEY, "", "x" * 40):
            await person.get("/console/login")
            refused = await person.post("/console/login", {"token": person.token, "key": key})
            assert refused.status == 403
            assert "No operator has this key" in refused.text
            assert (await person.get("/console/")).status == 303
        assert (await person.login("vic")).status == 303
        assert "vic (viewer)" in (await person.get("/console/")).text


@pytest.mark.rule("console.login")
@pytest.mark.parametrize("path", ["/console/parts/running", "/console/events"])
async def test_nobody_sees_parts_or_events_without_a_session(path: str, tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        assert (await Person(served=served).get(path)).status == 401
        bearing = {"authorization": f"Bearer {AGENT_KEY}"}
        assert (await Person(served=served).get(path, bearing)).status == 401


@pytest.mark.rule("console.cookie")
async def test_the_session_is_a_signed_cookie_that_scripts_and_other_sites_never_use(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        person = Person(served=served)
        said = (await person.login("otto")).headers["set-cookie"]
        for part in ("HttpOnly", "SameSite=strict", "Path=/console"):
            assert part in said
        kept = dict(person.cookies)
        changed = kept[COOKIE][:-2] + ("AA" if not kept[COOKIE].endswith("AA") else "BB")
        for forged in (changed, "", "x.y", kept[COOKIE].partition(".")[0]):
            assert (await Person(served=served, cookies={COOKIE: forged}).get("/console/")).status == 303
        assert (await Person(served=served, cookies=kept).get("/console/")).status == 200
        await person.get("/console/")
        await person.post("/console/logout", {"token": person.token})
        assert (await Person(served=served, cookies=kept).get("/console/")).status == 303


@pytest.mark.rule("console.cookie")
def test_a_session_ends_with_its_key_and_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def configured(digit: str, role: str = "operator") -> Any:
        return loads(f'[operators.ann]\nkey_sha256 = "{digit * 64}"\nrole = "{role}"\n')

    doors = Access()
    cookie = doors.cookie(doors.opened(Operator(id="ann", role="operator")), configured("a"))
    assert doors.session(cookie, configured("a")).operator is not None
    assert doors.session(cookie, configured("b")).operator is None
    assert doors.session(cookie, loads("")).operator is None
    found = doors.session(cookie, configured("a", "viewer")).operator
    assert found is not None
    assert found.role == "viewer"
    assert Access().session(cookie, configured("a")).operator is None
    later = time.time() + access.SESSION_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert doors.session(cookie, configured("a")).operator is None


@pytest.mark.rule("console.csrf")
async def test_a_form_without_the_sessions_token_changes_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        hold = await held(served)
        person, other = Person(served=served), Person(served=served)
        await person.login("otto")
        await other.login("otto")
        await other.get("/console/")
        for token in ("", "x", other.token):
            for path, fields in (
                (f"/console/holds/{hold.hold_id}/decide", {"decision": "approve"}),
                ("/console/act", {"act": "kill", "subject": "gateway", "name": ""}),
                ("/console/logout", {}),
            ):
                assert (await person.post(path, {"token": token, **fields})).status == 403
        json = {"content-type": "application/json"}
        assert (await person.post("/console/act", {"token": "x"}, json)).status == 415
        assert next(iter(served.runtime.book.all())).state == "pending"
        assert not list(served.runtime.stops)
        assert (await person.get("/console/")).status == 200


@pytest.mark.rule("console.one-time-link")
async def test_without_operators_a_link_opens_the_console_once_and_that_session_may_decide(tmp_path: Path) -> None:
    text = server_table(scripted(tmp_path)) + "[approvals]\ninline_wait_seconds = 0.1\n"
    async with serving(tmp_path, text) as served:
        link = served.site.one_time_link()
        person, late = Person(served=served), Person(served=served)
        assert (await person.get("/console/")).status == 303
        outcome = await execute(served.runtime, "s__pay", HELD)
        assert isinstance(outcome, Held)
        for _ in range(2):  # to look at the link does not use it up
            assert (await person.get(link)).status == 200
        opened = await person.post("/console/open", {"token": person.token, "link": person.hidden("link")})
        assert (opened.status, opened.headers["location"]) == (303, "/console/")
        assert "console (operator)" in (await person.get("/console/")).text
        await late.get(link)
        assert (await late.post("/console/open", {"token": late.token, "link": late.hidden("link")})).status == 403
        await person.get(f"/console/holds/{outcome.hold_id}")
        fields = {"token": person.token, "binding": person.hidden("binding"), "decision": "approve"}
        assert (await person.post(f"/console/holds/{outcome.hold_id}/decide", fields)).status == 303
        assert text_of(await execute(served.runtime, "s__pay", HELD)) == "paid"
        (word,) = next(iter(served.runtime.book.all())).decisions
        assert (word.operator, word.channel) == ("console", "console")


@pytest.mark.rule("console.one-time-link")
def test_a_link_is_good_for_ten_minutes_and_never_beside_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody, somebody = loads(""), loads(f'[operators.ann]\nkey_sha256 = "{"a" * 64}"\n')
    doors = Access()
    token = doors.new_link()
    assert doors.by_link("", nobody) is None
    assert doors.by_link(token, somebody) is None
    assert doors.by_link(token, nobody) == CONSOLE
    assert doors.by_link(token, nobody) is None
    token = doors.new_link()
    later = time.time() + access.LINK_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert doors.by_link(token, nobody) is None


@pytest.mark.rule("console.login")
async def test_a_link_from_another_site_goes_on_to_the_page_once_the_cookie_is_sent(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        answer = await Person(served=served).get("/console/holds", {"sec-fetch-site": "cross-site"})
        assert answer.status == 200
        assert 'content="0;url=/console/holds"' in answer.text


@pytest.mark.rule("console.login")
@given(
    st.one_of(
        st.text(),
        st.from_regex(r"/console/[ -~]{0,20}"),
        st.sampled_from(["//evil.example", "/console/\\evil", "https://x"]),
    )
)
def test_login_never_leads_elsewhere(path: str) -> None:
    where = _next(path)
    assert where.startswith("/console/")
    assert "//" not in where
    assert "\\" not in where


# --- what is shown -------------------------------------------------------------------------------------------------

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'{{7*7}}\u202egpj.exe"
POLICY_WITH_MARKUP = {
    "gateway.rego": """package gateway

allow := true

decision := {"allow": allow, "deny": deny, "hold": hold, "obligations": set()}

deny contains {"code": "<b>code</b>", "message": "<script>canary()</script>"} if input.arguments.denied

hold contains {"code": "write", "reason": "<img src=x onerror=canary()>"} if input.arguments.held
"""
}


async def pages_of(served: Served) -> list[str]:
    hold = next(iter(served.runtime.book.all()))
    calls = await served.runtime.journal.read(lambda raw: queries.list_calls(raw, CallFilter()))
    return [
        "/console/", "/console/calls", "/console/sessions", "/console/holds", "/console/charts", "/console/dead-letters",
        f"/console/holds/{hold.id}", f"/console/sessions/{calls[0].session_id}", "/console/nope",
        "/console/calls?text=%3Cscript%3E", "/console/confirm?act=kill&subject=agent&name=%3Cscript%3Ealert(1)",
        *(f"/console/calls/{call.id}" for call in calls),
    ]  # fmt: skip


@pytest.mark.rule("console.escaped", "console.csp")
async def test_what_others_wrote_is_text_and_every_page_allows_nothing_but_our_own_files(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path)), policies=POLICY_WITH_MARKUP) as served:
        arguments = {"note": ATTACK, ATTACK: ATTACK}
        await held(served, {**HELD, **arguments}, client=ATTACK, meta={"gateway/why": ATTACK})
        await execute(served.runtime, "s__pay", {"denied": True, **arguments}, principal=CLAUDE, client=ATTACK)
        await execute(served.runtime, f"s__{ATTACK}", arguments, principal=CLAUDE)
        person = Person(served=served)
        await person.login("otto")
        for path in await pages_of(served):
            page = await person.get(path)
            assert page.status in (200, 404), path
            assert "<script>alert" not in page.text
            assert "<script>canary" not in page.text
            assert "<img" not in page.text
            assert "<b>code" not in page.text
            assert "\u202e" not in page.text
            assert not re.findall(r"<[^>]+\s(style|on\w+)\s*=", page.text), path
            assert re.findall(r"<script[^>]*>", page.text) == [
                '<script type="module" src="/console/static/console.js">'
            ]
            assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', page.text), path
            policy = page.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert page.headers["cache-control"] == "no-store"
        hold = next(iter(served.runtime.book.all()))
        shown = (await person.get(f"/console/holds/{hold.id}")).text
        assert "⟨U+202E⟩gpj.exe" in shown
        assert "&lt;img src=x onerror=canary()&gt;" in shown


@pytest.mark.rule("console.escaped")
@given(st.text())
def test_what_is_not_seen_is_made_visible(text: str) -> None:
    shown = visible(text)
    assert all(character in "\n\t" or character.isprintable() or character.isspace() for character in shown)
    assert not any(
        character in shown for character in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u200b\u200d\ufeff"
    )


@pytest.mark.rule("console.redacted")
async def test_redacted_arguments_are_shown_as_such_and_survive_narrowing(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with serving(tmp_path, table(server, more='[recording]\nredact = ["**.password"]\n')) as served:
        arguments = {**HELD, "password": "canary-secret", "to": {"password": ["canary-two", 3]}}
        hold = await held(served, arguments)
        person = Person(served=served)
        await person.login("amy")
        page = await person.get(f"/console/holds/{hold.hold_id}")
        assert "canary" not in page.text
        assert "Redacted, and shown as ***" in page.text
        assert "to.password" in page.text
        shown, _ = redact(arguments, ["**.password"])
        narrowed = json.dumps({**shown, "amount": 5})
        fields = {
            "token": person.token,
            "binding": person.hidden("binding"),
            "decision": "narrow",
            "arguments": narrowed,
        }
        assert (await person.post(f"/console/holds/{hold.hold_id}/decide", fields)).status == 303
        assert text_of(await execute(served.runtime, "s__pay", arguments, principal=CLAUDE)) == "paid"
        (sent,) = [one["params"]["arguments"] for one in server.received("tools/call")]
        assert sent == {**arguments, "amount": 5}
        call = (await person.get(f"/console/holds/{hold.hold_id}")).text
        assert "canary" not in call


@pytest.mark.rule("console.shows-a-hold")
async def test_a_hold_that_was_opened_anew_and_one_that_was_erased_have_their_pages(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        otto = Operator(id="otto", role="operator")
        first = await held(served)
        await served.runtime.acts.perform("holds.approve", otto, {"id": first.hold_id})
        rego = tmp_path / "policies" / "gateway.rego"
        more = 'hold contains {"code": "amount", "reason": "much"} if input.arguments.amount > 5'
        rego.write_text(f"{rego.read_text()}\n{more}\n")
        assert (await served.runtime.snapshots.reload()).accepted
        mismatch = await execute(served.runtime, "s__pay", HELD, principal=CLAUDE)
        assert isinstance(mismatch, Refused)
        assert mismatch.code is Code.HOLD_MISMATCH
        second = await held(served)
        person = Person(served=served)
        await person.login("otto")
        for hold in (first, second):
            page = await person.get(f"/console/holds/{hold.hold_id}")
            assert page.status == 200, page.text
            assert "claude asks for s/pay" in page.text
        shown = await served.runtime.acts.perform("holds.show", otto, {"id": first.hold_id})
        await served.runtime.acts.perform("calls.erase", otto, {"id": shown["call_id"], "roles": ["request"]})
        page = await person.get(f"/console/holds/{first.hold_id}")
        assert page.status == 200, page.text
        assert "amount" not in page.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "password"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.rule("console.redacted")
@given(JSON)
def test_what_is_left_as_shown_is_as_it_was(value: Any) -> None:
    shown, _ = redact(value, ["**.password"])
    assert _restored(shown, shown, value) == value


@pytest.mark.rule("console.now")
async def test_now_shows_what_runs_and_waits_and_offers_only_what_the_role_may_do(tmp_path: Path) -> None:
    server = scripted(tmp_path, {"gate": "go"})
    quotas = '[[quotas]]\nmatch = { agent = "*" }\nper = "agent"\nlimit = 100\nwindow = "1h"\n'
    async with serving(tmp_path, table(server, more=quotas)) as served:
        await held(served)
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                await execute(served.runtime, "s__pay", {"amount": 1}, principal=CLAUDE)

            tasks.start_soon(run)
            await server.wait_for("gate")
            for who, may in (("vic", False), ("amy", False), ("otto", True)):
                person = Person(served=served)
                await person.login(who)
                text = (await person.get("/console/")).text
                assert "Calls in flight (1)" in text
                assert "Waiting for a person (1)" in text
                assert "claude asks for s/pay" in text
                assert "writes are approved" in text
                assert "1 of 16" in text
                assert "1 of 100" in text
                assert ("act=kill" in text) is may
                assert ("act=pause" in text) is may
                hold = next(iter(served.runtime.book.all()))
                assert ("Deny" in (await person.get(f"/console/holds/{hold.id}")).text) is (who != "vic")
            server.open_gate("go")


@pytest.mark.rule("console.decides")
async def test_a_hold_is_decided_with_the_question_and_the_session_in_sight(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with serving(tmp_path, table(server)) as served:
        await execute(served.runtime, "s__look", {"before": 1}, principal=CLAUDE)
        hold = await held(served, meta={"gateway/why": "the invoice is due"})
        person = Person(served=served)
        await person.login("fay")
        page = await person.get(f"/console/holds/{hold.hold_id}")
        for part in (
            "&#34;amount&#34;: 10",
            "the invoice is due",
            "s/look",
            "&#34;action&#34;",
            "writes are approved",
            "claude",
        ):
            assert part in page.text, part
        fields = {
            "token": person.token,
            "binding": person.hidden("binding"),
            "decision": "deny",
            "comment": "not today",
        }
        assert (await person.post(f"/console/holds/{hold.hold_id}/decide", fields)).status == 303
        after = await person.get(f"/console/holds/{hold.hold_id}")
        assert "is denied" in after.text
        assert "not today" in after.text
        again = await person.post(f"/console/holds/{hold.hold_id}/decide", {**fields, "decision": "approve"})
        assert again.status == 409
        assert server.effects() == []


@pytest.mark.rule("console.confirms")
async def test_what_stops_something_is_confirmed_by_name_and_get_changes_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        person = Person(served=served)
        await person.login("otto")
        page = await person.get("/console/confirm?act=pause&subject=agent&name=claude")
        assert "Pause agent claude?" in page.text
        assert not list(served.runtime.stops)
        fields = {
            "token": person.token,
            "act": "pause",
            "subject": "agent",
            "name": "claude",
            "reason": "lunch",
            "minutes": "5",
        }
        assert (await person.post("/console/act", fields)).status == 303
        (stop,) = list(served.runtime.stops)
        assert (stop.subject, stop.name, stop.reason, stop.by, stop.killed) == (
            "agent",
            "claude",
            "lunch",
            "otto",
            False,
        )
        assert stop.until is not None
        now = await person.get("/console/")
        assert "Done: Pause agent claude" in now.text
        assert "lunch" in now.text
        for wrong in ({"name": ""}, {"subject": "planet"}, {"act": "explode"}, {"minutes": "soon"}):
            answer = await person.post(
                "/console/act",
                {**fields, **wrong, "token": fields["token"]},
            )
            assert answer.status in (400, 404), wrong
        assert len(list(served.runtime.stops)) == 1
        viewer = Person(served=served)
        await viewer.login("amy")
        await viewer.get("/console/")
        assert (await viewer.post("/console/act", {**fields, "token": viewer.token, "act": "resume"})).status == 403
        assert len(list(served.runtime.stops)) == 1


@pytest.mark.rule("console.past")
async def test_one_page_says_why_a_call_was_denied(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path)), policies=POLICY_WITH_MARKUP) as served:
        await execute(served.runtime, "s__pay", {"denied": True, "amount": 7}, principal=CLAUDE)
        (call,) = await served.runtime.journal.read(lambda raw: queries.list_calls(raw, CallFilter()))
        person = Person(served=served)
        await person.login("vic")
        text = (await person.get(f"/console/calls/{call.id}")).text
        for part in (
            "Why this was refused", "policy.denied", "The stage <strong>authorize</strong> refused it",
            "&lt;b&gt;code&lt;/b&gt;", "&lt;script&gt;canary()", "It did not run at the tool server", "The way it went",
            "What was asked of the policy", "&#34;amount&#34;: 7", "resolve", "Request",
        ):  # fmt: skip
            assert part in text, part
        listed = (await person.get("/console/calls?code=policy.*&agent=claude&outcome=refused&since=1h")).text
        assert call.id in listed
        assert call.id not in (await person.get("/console/calls?outcome=completed")).text
        assert (await person.get("/console/calls?since=whenever")).status == 400
        assert call.id in (await person.get("/console/sessions/session-1")).text
        assert "session-1" in (await person.get("/console/sessions?agent=claude")).text


@pytest.mark.rule("console.charts")
async def test_charts_are_drawn_by_the_server_with_the_figures_beside_them(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served:
        for number in range(3):
            await execute(served.runtime, "s__look", {"n": number}, principal=CLAUDE)
        await held(served)
        person = Person(served=served)
        await person.login("vic")
        text = (await person.get("/console/charts?seconds=3600")).text
        assert len(re.findall(r'<svg class="chart"[^>]+role="img" aria-label="[^"]+"', text)) == 2
        assert 'class="bar completed"' in text
        assert "completed 3" in text
        assert "held 1" in text
        assert "hold.pending" in text
        assert "<td>4</td>" in text
        assert (await person.get("/console/charts?seconds=-5")).status == 400


@pytest.mark.rule("console.large")
async def test_many_holds_and_calls_are_shown_a_page_at_a_time(tmp_path: Path) -> None:
    approvals = "inline_wait_seconds = 0\nmax_pending = { agent = 1000, gateway = 1000 }"
    async with serving(tmp_path, table(scripted(tmp_path), approvals=approvals)) as served:
        async with anyio.create_task_group() as tasks:
            for number in range(130):
                tasks.start_soon(held, served, {**HELD, "amount": number})
        person = Person(served=served)
        await person.login("vic")
        now = (await person.get("/console/")).text
        assert "Waiting for a person (130)" in now
        assert now.count("Look and decide") == 20
        seen: set[str] = set()
        path = "/console/holds?state=pending"
        while True:
            text = (await person.get(path)).text
            found = re.findall(r'id="hold-([^"]+)"', text)
            assert len(found) <= 50
            assert not seen & set(found)
            seen |= set(found)
            further = re.search(r'href="([^"]+)" rel="next"', text)
            if further is None:
                break
            path = further[1].replace("&amp;", "&")
        assert len(seen) == 130
        pages, path = 0, "/console/calls"
        while True:
            text = (await person.get(path)).text
            pages += 1
            further = re.search(r'href="([^"]+)" rel="next"', text)
            if further is None:
                break
            path = further[1].replace("&amp;", "&")
        assert pages == 3


@pytest.mark.rule("console.login")
def test_the_keys_of_operators_here_are_all_different() -> None:
    assert len(set(KEYS.values())) == len(KEYS)


def served_on(stdout: int, directory: Path) -> subprocess.Popen[bytes]:
    path = configure(directory, server_table(scripted(directory)))
    port = str(free_port())
    with (directory / "gateway.log").open("wb") as log:
        return subprocess.Popen(
            [*PROGRAM, "serve", "--config", str(path), "--port", port],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=log,
        )


def read_until(descriptor: int, wanted: bytes, seconds: float = 20.0) -> bytes:
    """What comes out of a descriptor until it holds `wanted`; all of it, where it never does."""
    found, ends = b"", time.monotonic() + seconds
    while wanted not in found and time.monotonic() < ends:
        if select.select([descriptor], [], [], 0.2)[0]:
            found += os.read(descriptor, 65536)
    return found


@pytest.mark.rule("console.one-time-link")
def test_the_link_is_shown_on_a_terminal_and_never_in_a_log_or_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    mine, its = pty.openpty()
    process = served_on(its, tmp_path / "one")
    try:
        assert re.search(rb"http://127\.0\.0\.1:\d+/console/open\?token=[\w-]{40,}\r", read_until(mine, b"\r\n\r\n"))
    finally:
        end(process)
        os.close(mine)
        os.close(its)
    assert "console/open" not in (tmp_path / "one" / "gateway.log").read_text()
    out, into = os.pipe()
    process = served_on(into, tmp_path / "two")
    os.close(into)
    log = tmp_path / "two" / "gateway.log"
    try:
        ends = time.monotonic() + 20
        while "listening on" not in log.read_text():
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.05)
    finally:
        end(process)
    assert b"token" not in read_until(out, b"token", 0.5)
    assert "console/open" not in log.read_text()
    os.close(out)


@pytest.mark.rule("api.document")
def test_the_page_on_the_api_names_every_operation_with_its_role() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operator-api.md").read_text()
    for operation in OPERATIONS:
        assert f"| `{operation.method} /api/v1{operation.path}` | {operation.role} | {operation.summary} |" in page
