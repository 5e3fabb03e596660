"""The console in Chromium: deciding, watching, killing, by mouse and by keyboard alone, in light and dark, on a phone.

A violation of the content security policy, an error on the page's console or an exception in its script fails every test.
Screenshots go to `tests/artifacts`, which git ignores.
"""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import anyio
import pytest

from gateway.model.events import StateChanged
from gateway.model.verdict import Held
from tests.console.serving import CLAUDE, KEYS, Served, scripted, serving, table
from tests.running import execute, text_of

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.anyio

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
HELD = {"held": True, "amount": 120, "to": "ACME GmbH", "reference": "invoice 2026-118"}
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--no-first-run", "--disable-default-apps", "--disable-dev-shm-usage"]  # fmt: skip
DESKTOP, PHONE = (1200, 860), (375, 740)


def chromium() -> str:
    """The browser's program; without it the test is skipped."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (found := shutil.which(name)) is not None:
            return found
    pytest.skip("chromium is not installed")


@asynccontextmanager
async def browsing(
    size: tuple[int, int] = DESKTOP, scheme: Literal["dark", "light"] = "light"
) -> AsyncIterator["Page"]:
    """A page whose faults are gathered, and are none at the end. It ends before its server does, or it would miss it."""
    program = chromium()
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
    faults: list[str] = []
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=program, args=ARGUMENTS)
        try:
            context = await browser.new_context(
                viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
            )
            await context.add_init_script(
                "addEventListener('securitypolicyviolation', e => console.error('CSP ' + e.violatedDirective + ' ' + e.blockedURI))"
            )
            page = await context.new_page()
            page.set_default_timeout(10_000)
            page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
            page.on("pageerror", lambda error: faults.append(str(error)))
            yield page
            await page.goto("about:blank")
        finally:
            await browser.close()
    assert not faults, faults


async def login(page: "Page", served: Served, who: str) -> None:
    await page.goto(f"{served.base}/console/")
    await page.fill("#key", KEYS[who])
    await page.click("button.primary")
    await page.wait_for_url("**/console/")


async def held(served: Served, arguments: dict[str, Any] | None = None) -> Held:
    outcome = await execute(served.runtime, "s__pay", arguments or HELD, principal=CLAUDE)
    assert isinstance(outcome, Held), outcome
    return outcome


async def live(page: "Page") -> None:
    """Wait until the page hears events."""
    await page.wait_for_selector("#live:text-is('live')")


async def picture(page: "Page", name: str) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    await page.screenshot(path=str(ARTIFACTS / f"{name}.png"))


@pytest.mark.rule("console.live", "console.decides")
async def test_a_hold_appears_without_a_reload_and_is_approved(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with serving(tmp_path, table(server)) as served, browsing() as page:
        await execute(served.runtime, "s__look", {"invoice": "2026-118"}, principal=CLAUDE)
        await login(page, served, "amy")
        await live(page)
        assert "Nothing waits." in await page.inner_text("main")
        await held(served)
        await page.wait_for_selector("text=claude asks for s/pay")
        await picture(page, "now")
        await page.click("text=Look and decide")
        assert "invoice 2026-118" in await page.inner_text("#arguments")
        await page.fill("#comment", "agreed with ACME")
        await picture(page, "hold")
        await page.click("#approve")
        await page.wait_for_selector("text=is approved")
        assert text_of(await execute(served.runtime, "s__pay", HELD, principal=CLAUDE)) == "paid"
        await page.wait_for_selector("section[data-kind=hold] >> text=done")
        (word,) = next(iter(served.runtime.book.all())).decisions
        assert (word.operator, word.comment, word.channel) == ("amy", "agreed with ACME", "console")


@pytest.mark.rule("console.decides")
async def test_a_hold_is_approved_with_narrowed_arguments(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with serving(tmp_path, table(server)) as served, browsing() as page:
        hold = await held(served)
        await login(page, served, "amy")
        await page.goto(f"{served.base}/console/holds/{hold.hold_id}")
        await page.click("summary:has-text('other arguments')")
        text = await page.input_value("#narrowed")
        await page.fill("#narrowed", text.replace("120", "20"))
        await page.click("#narrow")
        await page.wait_for_selector("text=is approved")
        assert text_of(await execute(served.runtime, "s__pay", HELD, principal=CLAUDE)) == "paid"
        assert [one["params"]["arguments"]["amount"] for one in server.received("tools/call")] == [20]


@pytest.mark.rule("console.live", "console.confirms")
async def test_a_live_call_is_watched_and_its_session_killed(tmp_path: Path) -> None:
    server = scripted(tmp_path, {"gate": "go"})
    outcomes: list[Any] = []
    async with serving(tmp_path, table(server)) as served, browsing() as page:
        await login(page, served, "otto")
        await live(page)

        async def run() -> None:
            outcomes.append(await execute(served.runtime, "s__pay", {"amount": 1}, principal=CLAUDE))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await server.wait_for("gate")
            await page.wait_for_selector("text=Calls in flight (1)")
            await page.wait_for_selector("section[data-kind=running] >> text=forward")
            await page.click("section[data-kind=running] a:has-text('s/pay')")
            await page.wait_for_selector("text=on its way")
            await live(page)
            watched = page.url
            await page.goto(f"{served.base}/console/")
            await page.click("section[data-kind=running] a:has-text('Kill session')")
            await page.wait_for_selector("h1:has-text('Kill session session-1?')")
            assert "s/pay of claude, in forward" in await page.inner_text("main")
            await page.fill("#reason", "wrong account")
            await picture(page, "confirm")
            await page.click("#confirm")
            await page.wait_for_selector("text=Done: Kill session session-1")
        assert outcomes[0].code == "killed"
        await page.goto(watched)
        assert "killed" in await page.inner_text("main")
        refused = await execute(served.runtime, "s__pay", {"amount": 1}, principal=CLAUDE)
        assert getattr(refused, "code", None) == "killed"
        await picture(page, "call")


@pytest.mark.rule("console.live")
async def test_a_page_about_a_running_call_shows_its_end_by_itself(tmp_path: Path) -> None:
    server = scripted(tmp_path, {"gate": "go"})
    async with serving(tmp_path, table(server)) as served, browsing() as page:
        await login(page, served, "vic")
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                await execute(served.runtime, "s__pay", {"amount": 1}, principal=CLAUDE)

            tasks.start_soon(run)
            await server.wait_for("gate")
            (call,) = list(served.runtime.engine.running())
            await page.goto(f"{served.base}/console/calls/{call.call.id}")
            await page.wait_for_selector("text=on its way")
            await live(page)
            server.open_gate("go")
        await page.wait_for_selector("text=It ran at the tool server")
        await page.wait_for_selector("text=The way it went")


@pytest.mark.rule("console.keyboard")
async def test_a_hold_is_denied_by_keyboard_alone(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served, browsing() as page:
        hold = await held(served)
        await page.goto(f"{served.base}/console/holds/{hold.hold_id}")
        await page.keyboard.type(KEYS["amy"])  # the field has the focus
        await page.keyboard.press("Enter")
        await page.wait_for_selector("h1:has-text('claude asks for s/pay')")
        await tab_to(page, "comment")
        await page.keyboard.type("not by keyboard")
        await tab_to(page, "deny")
        ring = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring == "solid"
        await page.keyboard.press("Enter")
        await page.wait_for_selector("text=is denied")
        (word,) = next(iter(served.runtime.book.all())).decisions
        assert (word.approve, word.comment) == (False, "not by keyboard")


async def tab_to(page: "Page", identifier: str) -> None:
    for _ in range(80):
        if await page.evaluate("document.activeElement.id") == identifier:
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"#{identifier} is not reached by the keyboard")


@pytest.mark.rule("console.keyboard", "console.live")
async def test_what_is_focused_or_typed_survives_an_update(tmp_path: Path) -> None:
    async with serving(tmp_path, table(scripted(tmp_path))) as served, browsing() as page:
        hold = await held(served)
        await login(page, served, "amy")
        await live(page)
        await page.focus(f"#hold-{hold.hold_id}")
        await held(served, {**HELD, "amount": 7})
        await page.wait_for_selector("text=Waiting for a person (2)")
        assert await page.evaluate("document.activeElement.id") == f"hold-{hold.hold_id}"
        await page.goto(f"{served.base}/console/holds/{hold.hold_id}")
        await live(page)
        await page.fill("#comment", "half a senten")
        await served.ask("POST", f"/api/v1/holds/{hold.hold_id}/deny", who="fay")
        await page.wait_for_selector("section[data-kind=hold] >> text=denied")
        assert await page.input_value("#comment") == "half a senten"


@pytest.mark.rule("console.live")
async def test_what_happens_between_a_pages_rendering_and_its_first_event_is_shown(tmp_path: Path) -> None:
    listening, asked = anyio.Event(), anyio.Event()

    async def late(route: Any) -> None:
        asked.set()
        await listening.wait()
        await route.continue_()

    async with serving(tmp_path, table(scripted(tmp_path))) as served, browsing() as page:
        hold = await held(served)
        await login(page, served, "amy")
        await page.route("**/console/events*", late)
        await page.goto(f"{served.base}/console/holds/{hold.hold_id}")
        await asked.wait()
        await served.ask("POST", f"/api/v1/holds/{hold.hold_id}/deny", who="fay")
        assert "pending" in await page.inner_text("section[data-kind=hold]")
        listening.set()
        await page.wait_for_selector("section[data-kind=hold] >> text=denied")


@pytest.mark.rule("console.live")
async def test_a_slow_answer_about_a_part_never_replaces_a_newer_one(tmp_path: Path) -> None:
    slow, fetched = anyio.Event(), anyio.Event()
    seen: list[str] = []

    async def part(route: Any) -> None:
        answer = await route.fetch()
        seen.append(await answer.text())
        if len(seen) == 1:
            fetched.set()
            await slow.wait()
        await route.fulfill(response=answer)

    async with serving(tmp_path, table(scripted(tmp_path))) as served, browsing() as page:
        hold = await held(served)
        await login(page, served, "amy")
        await page.route("**/console/parts/hold/*", part)
        await page.goto(f"{served.base}/console/holds/{hold.hold_id}")
        await live(page)
        served.runtime.events.publish(StateChanged(at=0.0, kind="hold", subject=hold.hold_id, state="pending"))
        await fetched.wait()
        await served.ask("POST", f"/api/v1/holds/{hold.hold_id}/deny", who="fay")
        await anyio.sleep(0.6)  # more than the script waits before it looks
        async with page.expect_response(lambda answer: "/parts/hold/" in answer.url):
            slow.set()
        await page.wait_for_selector("section[data-kind=hold] >> text=denied")
        assert ["pending" in text for text in seen] == [True, False]
        assert "pending" not in await page.inner_text("section[data-kind=hold]")


CHECK = """() => {
  const faults = [];
  const name = e => (e.getAttribute('aria-label') || (e.labels && e.labels.length && e.labels[0].textContent) || e.textContent
                     || e.getAttribute('title') || '').trim();
  for (const e of document.querySelectorAll('a,button,input:not([type=hidden]),select,textarea,[role=region],svg[role=img],meter'))
    if (!name(e)) faults.push('no name: ' + e.outerHTML.slice(0, 120));
  const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
  ids.forEach((id, at) => { if (ids.indexOf(id) !== at) faults.push('twice: #' + id); });
  if (document.querySelectorAll('h1').length !== 1) faults.push('not one h1');
  if (!document.documentElement.lang) faults.push('no language');
  if (document.documentElement.scrollWidth > innerWidth) faults.push('wider than the window: ' + document.documentElement.scrollWidth);
  for (const e of document.querySelectorAll('pre'))
    if (e.tabIndex < 0) faults.push('cannot be scrolled by keyboard: ' + e.textContent.slice(0, 40));
  const rgb = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length === 3 ? [...n, 1] : n; };
  const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; }
    return rgb(getComputedStyle(document.documentElement).colorScheme.includes('dark') && matchMedia('(prefers-color-scheme: dark)').matches
      ? 'rgb(0,0,0)' : 'rgb(255,255,255)'); };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0;
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, style = getComputedStyle(e);
    if (!walker.currentNode.textContent.trim() || !e.getClientRects().length || e.closest('script,style,title')) continue;
    texts += 1;
    const ink = e.closest('svg') ? style.fill : style.color;
    const [a, b] = [light(rgb(ink)), light(ground(e))].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (large ? 3 : 4.5)) faults.push(`contrast ${ratio.toFixed(2)}: ${walker.currentNode.textContent.trim().slice(0, 40)}`);
  }
  return {faults, texts};
}"""


@pytest.mark.rule("console.accessible")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_every_page_has_labels_and_contrast_and_fits(
    tmp_path: Path, size: tuple[int, int], scheme: Literal["dark", "light"]
) -> None:
    quotas = '[[quotas]]\nmatch = { agent = "*" }\nper = "agent"\nlimit = 100\nwindow = "1h"\n'
    async with serving(tmp_path, table(scripted(tmp_path), more=quotas)) as served, browsing(size, scheme) as page:
        for number in range(3):
            await execute(served.runtime, "s__look", {"n": number}, principal=CLAUDE)
        await execute(served.runtime, "s__nope", {}, principal=CLAUDE)
        hold = await held(served, {**HELD, "long": "x" * 300})
        await served.ask("POST", "/api/v1/pause", who="otto", body={"session": "session-1", "reason": "a look"})
        await page.goto(f"{served.base}/console/login")
        pages = ["/console/login"]
        checked = await page.evaluate(CHECK)
        assert not checked["faults"], (pages, checked["faults"])
        await login(page, served, "otto")
        call = next(iter(served.runtime.book.all())).call_id
        for path in (
            "/console/", "/console/calls", "/console/sessions", "/console/sessions/session-1", "/console/holds",
            f"/console/holds/{hold.hold_id}", f"/console/calls/{call}", "/console/charts", "/console/dead-letters",
            "/console/confirm?act=kill&subject=agent&name=claude", "/console/confirm?act=retry&subject=dead+letter&name=x",
        ):  # fmt: skip
            await page.goto(served.base + path)
            checked = await page.evaluate(CHECK)
            assert checked["texts"] > 5
            assert not checked["faults"], (path, checked["faults"])
        await page.goto(f"{served.base}/console/")
        await picture(page, f"now-{'phone' if size == PHONE else 'desktop'}-{scheme}")


@pytest.mark.rule("console.accessible")
async def test_the_check_of_labels_and_contrast_finds_what_is_wrong() -> None:
    async with browsing() as page:
        await page.set_content(
            "<html lang=en><h1>x</h1><p style='color:#999;background:#fff'>pale</p><input><a href=/></a><pre>p</pre><b id=a></b><i id=a></i>"
        )
        faults = " | ".join((await page.evaluate(CHECK))["faults"])
        for fault in ("contrast", "no name: <input", "no name: <a", "cannot be scrolled", "twice: #a"):
            assert fault in faults


@pytest.mark.rule("console.one-time-link")
async def test_the_one_time_link_opens_the_console_with_one_click(tmp_path: Path) -> None:
    from tests.running import server_table

    async with serving(tmp_path, server_table(scripted(tmp_path))) as served, browsing() as page:
        await page.goto(served.base + served.site.one_time_link())
        await page.wait_for_selector("button:focus")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/console/")
        await live(page)
        assert "console (operator)" in await page.inner_text("header")
