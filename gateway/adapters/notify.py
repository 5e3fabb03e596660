"""Telling people of holds: a durable outbox of webhooks, and the check of signed replies (Standard Webhooks).

Theory of operation
-------------------
The notification is written in the transaction that opens its hold, so that neither is there without the other. One task
sends what is due, each with a time limit and apart from the others; what was not taken is tried again, ever more slowly,
until the hold is decided or over. A message keeps its `webhook-id` over all tries, so that a receiver can tell a repetition;
timestamp and signature are of the try. Bodies lie sealed: they may hold arguments.

A reply is signed with the same secret the other way round. It is too old after five minutes, and its id counts once, for
ever as far as that window reaches: the id is made durable before anything is decided.

Source: https://www.standardwebhooks.com (signature scheme `v1`, HMAC-SHA256 over `id.timestamp.body`).
"""

import base64
import binascii
import hashlib
import hmac
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import aiohttp
import anyio
import anyio.abc
import orjson

from gateway import __version__
from gateway.adapters.records import dump
from gateway.adapters.sealing import Seal
from gateway.adapters.writes import Chained, Statement, WriteKind
from gateway.config.secrets import REGISTRY
from gateway.config.settings import NotifySettings
from gateway.decide.hold import Hold, HoldState
from gateway.decide.obligations import redact_arguments
from gateway.model.call import Call
from gateway.model.errors import GatewayError, JournalUnavailable
from gateway.model.events import Event, StateChanged
from gateway.model.ids import new_id
from gateway.model.verdict import Write
from gateway.ports import Clock, Events

logger = logging.getLogger("gateway.notify")

PURPOSE: Final = "notification"

TABLES = """
    CREATE TABLE notifications (
        id TEXT PRIMARY KEY,
        hold_id TEXT NOT NULL,
        target TEXT NOT NULL,
        state TEXT NOT NULL,
        at REAL NOT NULL,
        attempts INTEGER NOT NULL,
        next_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        fault TEXT NOT NULL,
        sealed BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX notifications_due ON notifications (next_at) WHERE state = 'pending';

    -- ids of signed replies that were taken
    CREATE TABLE webhook_replies (
        target TEXT NOT NULL,
        id TEXT NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (target, id)
    ) WITHOUT ROWID;
"""

TOLERANCE_SECONDS: Final = 300.0
"""How far a reply's timestamp may be from now, to either side."""

SEND_SECONDS: Final = 15.0
"""One try."""

FIRST_RETRY_SECONDS: Final = 1.0
LAST_RETRY_SECONDS: Final = 300.0
"""Between tries; doubled from the first to the last."""

AT_ONCE: Final = 8
"""Notifications that are on their way at the same time."""

SLACK_CHARACTERS: Final = 2_500
"""Of arguments in a Slack block, which takes three thousand."""


class InvalidSignature(GatewayError):
    """A reply that is not signed with the secret, or not now."""


class Records(Protocol):
    """What the outbox needs of the journal."""

    async def record(self, type: str, body: Mapping[str, Any], writes: tuple[Write, ...] = ()) -> None: ...

    async def read(self, query: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...


# --- Standard Webhooks -----------------------------------------------------------------------------------------------


def secret_bytes(secret: str) -> bytes:
    """The key in a secret `whsec_BASE64`.

    Raises:
        ValueError: it is none, or of fewer than 24 bytes.
    """
    if not secret.startswith("whsec_"):
        raise ValueError("does not begin with whsec_")
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise ValueError("is not base64 after whsec_") from None
    if not 24 <= len(key) <= 64:
        raise ValueError("is not of 24 to 64 bytes")
    return key


def signature(secret: str, identifier: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`."""
    signed = b"%s.%d.%s" % (identifier.encode(), timestamp, body)
    return "v1," + base64.b64encode(hmac.digest(secret_bytes(secret), signed, hashlib.sha256)).decode()


def verified(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> str:
    """The id of a message that is signed with the secret, now.

    Args:
        headers: with names in lower case.

    Raises:
        InvalidSignature: it is not.
    """
    identifier, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not 1 <= len(identifier) <= 256 or not identifier.isascii():
        raise InvalidSignature("webhook-id is missing, or no id")
    if not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > 12:
        raise InvalidSignature("webhook-timestamp is missing, or no number of seconds")
    wanted = signature(secret, identifier, int(timestamp), body).encode()
    given = headers.get("webhook-signature", "").split()[:10]
    fitting = [hmac.compare_digest(wanted, each.encode("utf-8", "surrogatepass")) for each in given]
    if not any(fitting):
        raise InvalidSignature("webhook-signature is not of this secret and body")
    if abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        raise InvalidSignature(f"webhook-timestamp is more than {TOLERANCE_SECONDS:g} s away from now")
    return identifier


def reply_taken(target: str, identifier: str, at: float) -> Write:
    """The write that uses up a reply's id; a conflict where it was used before."""
    return Write(kind="webhook.reply", data={"target": target, "id": identifier, "at": at})


def target_of(settings: NotifySettings) -> str:
    """What a webhook is known by in the store: its URL may be a secret."""
    return hashlib.sha256(settings.url.reveal().encode()).hexdigest()


# --- the outbox ------------------------------------------------------------------------------------------------------


class Outbox:
    """Notifications of holds, on their way.

    Args:
        webhooks: `[[approvals.notify]]`, now.
        hold: a hold as it is now.
        base: where the console is reached (`http://host:port`), or None where there is none.
        redact: the globs of `[recording] redact`.
    """

    def __init__(
        self,
        *,
        journal: Records,
        seal: Seal,
        clock: Clock,
        events: Events,
        webhooks: Callable[[], Sequence[NotifySettings]],
        hold: Callable[[str], Hold | None],
        base: Callable[[], str | None],
        redact: Callable[[], Sequence[str]],
    ) -> None:
        self._journal, self._seal, self._clock, self._events = journal, seal, clock, events
        self._webhooks, self._hold, self._base, self._redact = webhooks, hold, base, redact
        self._sending: set[str] = set()
        self._more = anyio.Event()

    def writes(self, hold: Hold) -> tuple[Write, ...]:
        """What belongs into the transaction that opens a hold."""
        made = []
        for webhook in self._webhooks():
            body = dump(REGISTRY.redact_value(message(hold, webhook, self._base(), self._redact())))
            identifier = new_id()
            row = {
                "id": identifier,
                "hold_id": hold.id,
                "target": target_of(webhook),
                "at": hold.opened_at,
                "expires_at": hold.expires_at,
                "sealed": self._seal.seal(body, PURPOSE),
            }
            made.append(Write(kind="notification.put", data=row))
        return tuple(made)

    async def run(self) -> None:
        """Send what is due, until cancelled."""
        end = self._events.subscribe(self._hear, StateChanged)
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=SEND_SECONDS),
                    headers={"user-agent": f"mcp-execution-gateway/{__version__}"},
                    cookie_jar=aiohttp.DummyCookieJar(),
                ) as client,
                anyio.create_task_group() as tasks,
            ):
                while True:
                    self._more = anyio.Event()
                    pause = await self._start_due(client, tasks)
                    with anyio.move_on_after(pause):
                        await self._more.wait()
        finally:
            end()

    def _hear(self, event: Event) -> None:
        if isinstance(event, StateChanged) and event.kind == "hold":
            self._more.set()

    async def _start_due(self, client: aiohttp.ClientSession, tasks: anyio.abc.TaskGroup) -> float:
        """Begin to send what is due; the seconds until the next is."""
        now = self._now()
        try:
            rows = await self._journal.read(_pending, AT_ONCE * 4)
        except JournalUnavailable as error:
            logger.error("notifications cannot be read: %s", error)
            return 1.0
        pause = 60.0
        for row in rows:
            if row["id"] in self._sending:
                continue
            if row["next_at"] > now:
                pause = min(pause, row["next_at"] - now)
            elif len(self._sending) >= AT_ONCE:
                break  # who is done wakes this task
            else:
                self._sending.add(row["id"])
                tasks.start_soon(self._send, client, row)
        return max(0.05, pause)

    async def _send(self, client: aiohttp.ClientSession, row: Mapping[str, Any]) -> None:
        """One try of one notification, and what it comes to."""
        try:
            state, fault = await self._try(client, row)
            attempts = row["attempts"] + 1
            delay = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(attempts - 1, 20))
            next_at = self._now() + delay * random.uniform(0.8, 1.2)
            if state == "pending" and next_at >= row["expires_at"]:
                state = "failed"
            body = {
                "kind": "notification",
                "subject": row["hold_id"],
                "state": "retrying" if state == "pending" else state,
                "id": row["id"],
                "attempts": attempts,
                "fault": fault,
            }
            data = {"id": row["id"], "state": state, "attempts": attempts, "next_at": next_at, "fault": fault}
            if state in ("pending", "failed"):
                logger.warning("notification %s of hold %s: %s (try %d)", row["id"], row["hold_id"], fault, attempts)
            with anyio.CancelScope(shield=True), anyio.move_on_after(5.0):
                await self._journal.record("state.changed", body, (Write(kind="notification.tried", data=data),))
        except JournalUnavailable as error:
            # It stays as it was and is tried again: a message may come twice, with the same id.
            logger.error("that notification %s was tried is not recorded: %s", row["id"], error)
            await anyio.sleep(1.0)
        finally:
            self._sending.discard(row["id"])
            self._more.set()

    async def _try(self, client: aiohttp.ClientSession, row: Mapping[str, Any]) -> tuple[str, str]:
        """`sent`, `over` (nobody needs it any more), `failed` for good, or `pending`; and why."""
        hold = self._hold(row["hold_id"])
        if hold is None or hold.state is not HoldState.PENDING:
            return "over", ""
        webhook = next((each for each in self._webhooks() if target_of(each) == row["target"]), None)
        if webhook is None:
            return "failed", "the webhook is not configured any more"
        body = self._seal.open(row["sealed"], PURPOSE)
        timestamp = int(self._now())
        headers = {
            "content-type": "application/json",
            "webhook-id": row["id"],
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(webhook.secret.reveal(), row["id"], timestamp, body),
        }
        try:
            async with client.post(webhook.url.reveal(), data=body, headers=headers, allow_redirects=False) as answer:
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return "pending", f"{type(error).__name__}"
        if 200 <= status < 300:
            return "sent", ""
        return ("failed" if status == 410 else "pending"), f"answered {status}"

    def _now(self) -> float:
        return self._clock.time_ns() / 1e9


# --- what is said ----------------------------------------------------------------------------------------------------


def message(hold: Hold, webhook: NotifySettings, base: str | None, globs: Sequence[str]) -> dict[str, Any]:
    """The body of a notification, in the webhook's format."""
    arguments: Any = None
    erased: Sequence[str] = ()
    if webhook.payload == "full":
        arguments, erased = redact_arguments(hold.binding.arguments, (*globs, *hold.redact))
    link = None if base is None else f"{base}/console/holds/{hold.id}"
    if webhook.format == "slack":
        return _slack(hold, link, arguments)
    data: dict[str, Any] = {
        "hold": hold.id,
        "agent": hold.principal,
        "tool": f"{hold.server}/{hold.tool}",
        "risk": hold.risk,
        "reasons": [
            {"code": reason.code, "reason": reason.reason, "approvers": list(reason.approvers)}
            for reason in hold.reasons
        ],
        "opened_at": _instant(hold.opened_at),
        "expires_at": _instant(hold.expires_at),
        "session_id": hold.session_id,
        "call_id": hold.call_id,
        "console_url": link,
        "reply_url": None if base is None or webhook.operator is None else f"{base}/api/v1/webhooks/{webhook.number}",
    }
    if webhook.payload == "full":
        data |= {"arguments": arguments, "redacted": list(erased), "why": hold.question.get("why")}
    return {"type": "hold.opened", "timestamp": _instant(hold.opened_at), "data": data}


def _slack(hold: Hold, link: str | None, arguments: Any) -> dict[str, Any]:
    """An incoming webhook's message. What agents wrote cannot make links or mentions: `&<>` are escaped."""
    what = f"{_escaped(hold.principal)} asks for {_escaped(f'{hold.server}/{hold.tool}')}"
    why = "; ".join(f"{_escaped(reason.code)}: {_escaped(reason.reason)}" for reason in hold.reasons)
    until = datetime.fromtimestamp(hold.expires_at, UTC).strftime("%H:%M UTC")
    lines = [f"*{what}* ({hold.risk})", why, f"Hold `{hold.id}`, to be decided until {until}"]
    blocks: list[dict[str, Any]] = [_section("\n".join(lines))]
    if arguments is not None:
        text = orjson.dumps(arguments, option=orjson.OPT_INDENT_2, default=str).decode()
        cut = text if len(text) <= SLACK_CHARACTERS else text[:SLACK_CHARACTERS] + "\n… (more in the console)"
        blocks.append(_section("```" + _escaped(cut).replace("```", "'''") + "```"))
    blocks.append(_section(f"<{link}|Look and decide>" if link is not None else f"`gateway holds show {hold.id}`"))
    return {"text": f"{what} ({hold.risk}): {why}", "blocks": blocks}


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text[:3000]}}


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _instant(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- in SQL ----------------------------------------------------------------------------------------------------------

_COLUMNS = ("id", "hold_id", "target", "attempts", "next_at", "expires_at", "sealed")


def _pending(raw: Any, limit: int) -> list[dict[str, Any]]:
    sql = f"SELECT {', '.join(_COLUMNS)} FROM notifications WHERE state = 'pending' ORDER BY next_at LIMIT ?"
    return [dict(zip(_COLUMNS, row, strict=True)) for row in raw.execute(sql, (limit,)).fetchall()]


def _put(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    sql = (
        "INSERT INTO notifications (id, hold_id, target, state, at, attempts, next_at, expires_at, fault, sealed) "
        "VALUES (?, ?, ?, 'pending', ?, 0, ?, ?, '', ?)"
    )
    values = (data["id"], data["hold_id"], data["target"], data["at"], data["at"], data["expires_at"], data["sealed"])
    return (Statement(sql=sql, parameters=values, rows=1),)


def _tried(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    if data["state"] == "pending":
        sql = "UPDATE notifications SET attempts = ?, next_at = ?, fault = ? WHERE id = ?"
        return (Statement(sql=sql, parameters=(data["attempts"], data["next_at"], data["fault"], data["id"])),)
    # What it said is needed no more: only that it was said stays.
    sql = "UPDATE notifications SET state = ?, attempts = ?, fault = ?, sealed = x'' WHERE id = ?"
    return (Statement(sql=sql, parameters=(data["state"], data["attempts"], data["fault"], data["id"])),)


def _replied(call: Call | None, at: float, data: Mapping[str, Any]) -> Sequence[Statement | Chained]:
    return (
        Statement(sql="DELETE FROM webhook_replies WHERE at < ?", parameters=(data["at"] - 4 * TOLERANCE_SECONDS,)),
        Statement(
            sql="INSERT OR IGNORE INTO webhook_replies (target, id, at) VALUES (?, ?, ?)",
            parameters=(data["target"], data["id"], data["at"]),
            rows=1,
        ),
    )


WRITES: Mapping[str, WriteKind] = {
    "notification.put": _put,
    "notification.tried": _tried,
    "webhook.reply": _replied,
}
