"""Notifications and signed replies, with a real HTTP receiver: durable, signed, retried; forged replies decide nothing."""

import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters import notify, queries
from gateway.adapters.notify import InvalidSignature, secret_bytes, signature, verified
from gateway.config import InvalidConfiguration, loads
from gateway.model.verdict import Held
from tests.console.serving import CLAUDE, Answer, Served, scripted, serving, table
from tests.running import execute, running, text_of, until

pytestmark = pytest.mark.anyio

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()
HELD = {"held": True, "amount": 10}


@dataclass
class Receiver:
    """Somebody's chat: what came, and what it answers next (the last for ever)."""

    url: str = ""
    answers: list[int] = field(default_factory=lambda: [200])
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        self.got.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        status = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.Response(status=status)


@asynccontextmanager
async def receiving(*answers: int) -> AsyncIterator[Receiver]:
    receiver = Receiver(answers=list(answers) or [200])
    app = web.Application()
    app.router.add_route("*", "/hook", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()


def webhook(url: str, **more: str) -> str:
    lines = [f'{name} = "{value}"' for name, value in {"url": url, "secret": SECRET, **more}.items()]
    return "[[approvals.notify]]\n" + "\n".join(lines) + "\n"


async def held(runtime: Any, arguments: dict[str, Any] | None = None) -> str:
    outcome = await execute(runtime, "s__pay", arguments or HELD, principal=CLAUDE)
    assert isinstance(outcome, Held), outcome
    return outcome.hold_id


async def states(runtime: Any) -> list[tuple[str, int]]:
    rows = await runtime.journal.read(
        lambda raw: raw.execute("SELECT state, attempts FROM notifications ORDER BY at").fetchall()
    )
    return [(state, attempts) for state, attempts in rows]


async def settled(runtime: Any, wanted: tuple[str, int]) -> None:
    """Wait until the one notification is in this state after so many tries."""
    with anyio.fail_after(10):
        while await states(runtime) != [wanted]:  # noqa: ASYNC110 - nothing tells of it
            await anyio.sleep(0.01)


# --- telling -------------------------------------------------------------------------------------------------------


@pytest.mark.rule("notify.signed")
async def test_a_hold_is_told_once_signed_as_standard_webhooks_say(tmp_path: Path) -> None:
    async with receiving() as receiver:
        more = webhook(receiver.url, operator="amy")
        async with serving(tmp_path, table(scripted(tmp_path), more=more)) as served:
            hold = await held(served.runtime)
            await until(lambda: receiver.got)
            headers, body = receiver.got[0]
            assert verified(SECRET, headers, body, time.time()) == headers["webhook-id"]
            told = orjson.loads(body)
            assert told["type"] == "hold.opened"
            assert (told["data"]["hold"], told["data"]["agent"], told["data"]["tool"]) == (hold, "claude", "s/pay")
            assert told["data"]["reasons"] == [{"code": "write", "reason": "writes are approved", "approvers": []}]
            assert told["data"]["console_url"] == f"{served.base}/console/holds/{hold}"
            assert told["data"]["reply_url"] == f"{served.base}/api/v1/webhooks/1"
            assert "arguments" not in told["data"]
            await held(served.runtime)  # joins the same hold
            await settled(served.runtime, ("sent", 1))
            assert len(receiver.got) == 1


@pytest.mark.rule("notify.payload", "hold.goes-with-its-purpose")
@pytest.mark.parametrize("glob", ["**.password", "arguments.password"])
async def test_the_full_payload_has_the_arguments_without_what_is_redacted(glob: str, tmp_path: Path) -> None:
    async with receiving() as receiver:
        more = webhook(receiver.url, payload="full") + f'[recording]\nredact = ["{glob}"]\n'
        async with running(tmp_path, table(scripted(tmp_path), more=more)) as runtime:
            await held(runtime, {**HELD, "password": "canary"})
            await until(lambda: receiver.got)
            told = orjson.loads(receiver.got[0][1])["data"]
            assert told["arguments"]["amount"] == 10
            assert told["redacted"] == ["password"]
            assert told["console_url"] is None
            assert b"canary" not in receiver.got[0][1]


@pytest.mark.rule("notify.slack")
async def test_the_slack_form_links_to_the_console_and_escapes_what_agents_wrote(tmp_path: Path) -> None:
    async with receiving() as receiver:
        more = webhook(receiver.url, format="slack", payload="full")
        async with serving(tmp_path, table(scripted(tmp_path), more=more)) as served:
            hold = await held(served.runtime, {**HELD, "note": "<!channel> <http://evil|ok> & ```"})
            await until(lambda: receiver.got)
            told = orjson.loads(receiver.got[0][1])
            texts = [block["text"]["text"] for block in told["blocks"]]
            assert f"<{served.base}/console/holds/{hold}|Look and decide>" in texts[-1]
            assert "<!channel>" not in receiver.got[0][1].decode()
            assert "&lt;!channel&gt;" in texts[1]
            assert texts[1].count("```") == 2


@pytest.mark.rule("notify.retried")
async def test_what_was_not_taken_is_tried_again_with_the_same_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "FIRST_RETRY_SECONDS", 0.02)
    async with receiving(500, 302, 429, 200) as receiver:  # noqa: SIM117 - the receiver's address is needed
        async with running(tmp_path, table(scripted(tmp_path), more=webhook(receiver.url))) as runtime:
            await held(runtime)
            await until(lambda: len(receiver.got) == 4)
            assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
            for headers, body in receiver.got:
                assert verified(SECRET, headers, body, time.time())
            await settled(runtime, ("sent", 4))
            bodies = await runtime.journal.read(
                lambda raw: [record.body for record in queries.read_records(raw, types=["state.changed"])]
            )
            told = [(body["state"], body["fault"]) for body in bodies if body["kind"] == "notification"]
            assert told == [
                ("retrying", "answered 500"), ("retrying", "answered 302"), ("retrying", "answered 429"), ("sent", ""),
            ]  # fmt: skip


@pytest.mark.rule("notify.durable")
async def test_a_notification_that_could_not_be_sent_is_sent_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "FIRST_RETRY_SECONDS", 0.05)
    server = scripted(tmp_path)
    async with receiving(503) as receiver:
        text = table(server, more=webhook(receiver.url))
        async with running(tmp_path, text) as runtime:
            hold = await held(runtime)
            await until(lambda: receiver.got)
        before = len(receiver.got)
        receiver.answers = [200]
        async with running(tmp_path, text) as runtime:
            await until(lambda: len(receiver.got) > before)
            headers, body = receiver.got[-1]
            assert headers["webhook-id"] == receiver.got[0][0]["webhook-id"]
            assert orjson.loads(body)["data"]["hold"] == hold


@pytest.mark.rule("notify.over")
async def test_nobody_is_told_of_a_hold_that_is_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "FIRST_RETRY_SECONDS", 0.2)
    async with receiving(500) as receiver:  # noqa: SIM117
        async with serving(tmp_path, table(scripted(tmp_path), more=webhook(receiver.url))) as served:
            hold = await held(served.runtime)
            await until(lambda: receiver.got)
            assert (await served.ask("POST", f"/api/v1/holds/{hold}/deny", who="amy")).status == 200
            sent = len(receiver.got)
            await settled(served.runtime, ("over", sent + 1))
            assert len(receiver.got) == sent


@pytest.mark.rule("notify.slow-target")
async def test_a_webhook_that_does_not_answer_keeps_no_other_waiting(tmp_path: Path) -> None:
    async with receiving() as good:
        more = webhook("http://127.0.0.1:9/nobody") + webhook(good.url)
        async with running(tmp_path, table(scripted(tmp_path), more=more)) as runtime:
            await held(runtime)
            await until(lambda: good.got)


# --- the signature -------------------------------------------------------------------------------------------------


@pytest.mark.rule("notify.signed")
def test_the_signature_is_that_of_the_published_example() -> None:
    # https://github.com/standard-webhooks/standard-webhooks: the example of the reference libraries' tests
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    identifier, timestamp = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330
    assert signature(secret, identifier, timestamp, body) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.rule("notify.signed")
@given(
    body=st.binary(max_size=200),
    flip=st.integers(min_value=0),
    identifier=st.from_regex(r"[!-~]{1,40}", fullmatch=True),
)
def test_a_message_changed_by_one_bit_is_not_signed(body: bytes, flip: int, identifier: str) -> None:
    headers = signed(body, identifier=identifier, at=1000)
    assert verified(SECRET, headers, body, 1000.0) == identifier
    if body:
        place = flip % (len(body) * 8)
        changed = bytearray(body)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(InvalidSignature):
            verified(SECRET, headers, bytes(changed), 1000.0)
    with pytest.raises(InvalidSignature):
        verified(OTHER, headers, body, 1000.0)
    with pytest.raises(InvalidSignature):
        verified(SECRET, {**headers, "webhook-id": identifier + "x"}, body, 1000.0)


@pytest.mark.rule("notify.secret")
@pytest.mark.parametrize(
    "secret", ["", "plain", "whsec_", "whsec_!!!!", "whsec_" + base64.b64encode(b"short").decode()]
)
def test_a_secret_that_is_none_is_refused_when_the_configuration_is_loaded(secret: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        secret_bytes(secret)
    text = f'[[approvals.notify]]\nurl = "https://x.example/"\nsecret = "{secret or " "}"\n'
    with pytest.raises(InvalidConfiguration, match=r"approvals\.notify\[0\]\.secret"):
        loads(text, tmp_path / "servers.toml")


async def refused_keys(served: Served) -> list[Any]:
    """What is recorded of refused keys and signatures."""
    found: list[Any] = await served.runtime.journal.read(
        lambda raw: [record.body for record in queries.read_records(raw, types=["auth.refused"])]
    )
    return found


# --- replies -------------------------------------------------------------------------------------------------------


def signed(
    body: bytes, *, secret: str = SECRET, identifier: str = "reply-1", at: float | None = None
) -> dict[str, str]:
    timestamp = int(time.time() if at is None else at)
    return {
        "content-type": "application/json",
        "webhook-id": identifier,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secret, identifier, timestamp, body),
    }


def decision(hold: str, word: str = "approve", **more: Any) -> bytes:
    return orjson.dumps({"type": "hold.decision", "hold": hold, "decision": word, **more})


async def reply(served: Served, body: bytes, headers: dict[str, str], number: str = "1") -> Answer:
    return await served.ask("POST", f"/api/v1/webhooks/{number}", data=body, headers=headers)


@pytest.mark.rule("notify.reply")
async def test_a_signed_reply_decides_as_the_configured_operator(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with receiving() as receiver:
        more = webhook(receiver.url, operator="amy")
        async with serving(tmp_path, table(server, more=more)) as served:
            hold = await held(served.runtime)
            body = decision(hold, comment="from the chat")
            answer = await reply(served, body, signed(body))
            assert answer.status == 200, answer.text
            (word,) = answer.json["decisions"]
            assert (word["operator"], word["channel"], word["comment"]) == ("amy", "webhook:1", "from the chat")
            assert text_of(await execute(served.runtime, "s__pay", HELD, principal=CLAUDE)) == "paid"


@pytest.mark.rule("notify.reply-refused")
async def test_forged_replayed_expired_and_malformed_replies_decide_nothing(tmp_path: Path) -> None:
    async with receiving() as receiver:
        more = webhook(receiver.url, operator="amy") + webhook(receiver.url + "?second")
        async with serving(tmp_path, table(scripted(tmp_path), more=more)) as served:
            hold = await held(served.runtime)
            body = decision(hold)
            good = signed(body)
            now = time.time()
            for status, data, headers, number in (
                (401, body, {"content-type": "application/json"}, "1"),
                (401, body, signed(body, secret=OTHER), "1"),
                (401, decision(hold, "deny"), good, "1"),
                (401, body, {**good, "webhook-id": "another"}, "1"),
                (401, body, {**good, "webhook-timestamp": str(int(now) + 1)}, "1"),
                (401, body, {**good, "webhook-signature": "v1,"}, "1"),
                (401, body, {**good, "webhook-signature": "v1a," + good["webhook-signature"]}, "1"),
                (401, body, signed(body, at=now - 301), "1"),
                (401, body, signed(body, at=now + 360), "1"),  # more than the tolerance when it arrives, too
                (403, body, signed(body), "2"),
                (404, body, signed(body), "3"),
                (404, body, signed(body), "0"),
                (404, body, signed(body), "one"),
            ):
                answer = await reply(served, data, headers, number)
                assert answer.status == status, (headers, answer.text)
            for malformed in (
                b"",
                b"{}",
                b"[]",
                decision(hold, "maybe"),
                decision(hold, "deny", arguments={}),
                b'{"type":',
            ):
                answer = await reply(served, malformed, signed(malformed, identifier=f"m{len(malformed)}"))
                assert answer.status == 400, answer.text
            # Our own message, sent back to us, is signed and yet no decision.
            await until(lambda: receiver.got)
            headers, told = receiver.got[0]
            own = {name: value for name, value in headers.items() if name.startswith("webhook-")}
            assert (await reply(served, told, own)).status == 400
            assert (await served.ask("GET", "/api/v1/webhooks/1")).status == 405
            assert next(iter(served.runtime.book.all())).state == "pending"
            with anyio.fail_after(10):
                while "webhook 1" not in str(await refused_keys(served)):  # noqa: ASYNC110
                    await anyio.sleep(0.01)


@pytest.mark.rule("notify.reply-once")
async def test_a_replys_id_counts_once_even_after_a_restart(tmp_path: Path) -> None:
    server = scripted(tmp_path)
    async with receiving() as receiver:
        text = table(server, more=webhook(receiver.url, operator="amy"))
        async with serving(tmp_path, text) as served:
            missing = decision("no-such-hold")
            headers = signed(missing)
            assert (await reply(served, missing, headers)).status == 404
            assert (await reply(served, missing, headers)).status == 409
        async with serving(tmp_path, text) as served:
            hold = await held(served.runtime)
            assert (await reply(served, missing, headers)).status == 409
            body = decision(hold, "deny")
            assert (await reply(served, body, signed(body))).status == 409  # the same id, another body
            assert next(iter(served.runtime.book.all())).state == "pending"
            assert (await reply(served, body, signed(body, identifier="reply-2"))).status == 200


@pytest.mark.rule("notify.reply")
async def test_a_reply_cannot_do_what_its_operator_may_not(tmp_path: Path) -> None:
    async with receiving() as receiver:  # noqa: SIM117
        async with serving(tmp_path, table(scripted(tmp_path), more=webhook(receiver.url, operator="vic"))) as served:
            hold = await held(served.runtime)
            body = decision(hold)
            answer = await reply(served, body, signed(body))
            assert answer.status == 403
            assert "approver" in answer.json["error"]["message"]
            assert next(iter(served.runtime.book.all())).state == "pending"
