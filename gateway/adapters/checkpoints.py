"""Checkpoints: the head of the chain, signed at intervals and at the end, so that rewriting history shows.

A checkpoint is a record of the chain itself. Its body is a DSSE envelope over

    {"v": 1, "writer": ..., "seq": 17, "sha256": "<of record 17's bytes>", "at": ..., "previous": "<of the checkpoint before>"}

where `previous` is the SHA-256 of the previous checkpoint's signed payload ("" for the first). Whoever holds the public key
can check that the chain is what the gateway signed; whoever keeps a checkpoint elsewhere (`checkpoints_to`) finds a chain
that was cut or replaced after it, even by the operator of the machine. A rotated key is named by a checkpoint that the old
key signed (`next_key`), so that a verifier who pins the first key follows. What went by right, by age or size or as one
payload, a signed tombstone accounts for (`gateway.adapters.retention`).
"""

import base64
import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import anyio
import orjson

from gateway.adapters.signing import (
    CHECKPOINT_TYPE,
    TOMBSTONE_TYPE,
    PublicKey,
    SignatureInvalid,
    Signer,
    load_public,
    statement,
    verify,
)
from gateway.model.errors import GatewayError, JournalUnavailable
from gateway.ports import Clock

logger = logging.getLogger("gateway.checkpoints")

SEND_SECONDS = 10.0

REMEMBERED = 100_000
"""Hashes of the newest records that a verifier keeps: a checkpoint is written soon after the record that it names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceSettings:
    """`[evidence]`."""

    checkpoint_seconds: float = 60.0
    checkpoints_to: tuple[str, ...] = ()


class Records(Protocol):
    """What is needed of the journal."""

    async def record(self, type: str, body: Mapping[str, Any]) -> None: ...

    async def read(self, query: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...


class Checkpoints:
    """Writes checkpoints of one store, and sends them elsewhere."""

    def __init__(
        self,
        *,
        journal: Records,
        signer: Signer,
        clock: Clock,
        settings: Callable[[], EvidenceSettings],
        directory: Path,
    ) -> None:
        self._journal, self._signer, self._clock = journal, signer, clock
        self._settings, self._directory = settings, directory
        self._lock = anyio.Lock()

    async def run(self) -> None:
        """Write one at intervals, while anything new was recorded."""
        while True:
            await anyio.sleep(self._settings().checkpoint_seconds)
            try:
                await self.write()
            except JournalUnavailable as error:
                logger.error("no checkpoint could be written: %s", error)

    async def write(self, *, next_key: PublicKey | None = None) -> Mapping[str, Any] | None:
        """Sign the head of the chain. None where nothing was recorded since the checkpoint before.

        Raises:
            JournalUnavailable: it is not durable.
        """
        async with self._lock:
            head = await self._journal.read(_head)
            if head is None or (head[3] == "checkpoint" and next_key is None):
                return None
            writer, seq, sha256, _ = head
            said: dict[str, Any] = {
                "v": 1,
                "writer": writer,
                "seq": seq,
                "sha256": sha256,
                "at": self._clock.time_ns() / 1e9,
                "previous": await self._journal.read(_previous),
            }
            if next_key is not None:
                said["next_key"] = next_key.pem
            envelope = self._signer.envelope(statement(said), CHECKPOINT_TYPE)
            await self._journal.record("checkpoint", {"seq": seq, "sha256": sha256, "envelope": envelope})
        for target in self._settings().checkpoints_to:
            await self._send(target, envelope)
        return envelope

    async def rotate(self, store: Path | None) -> tuple[PublicKey, PublicKey]:
        """Sign with a new key from now on; the old one has signed which. The old key and the new one.

        Raises:
            GatewayError: the new key cannot be stored.
        """
        before, fresh = self._signer.public, Signer.fresh()
        await self.write(next_key=fresh.public)
        self._signer.replace(fresh, store)
        await self.write()
        return before, fresh.public

    async def _send(self, target: str, envelope: Mapping[str, Any]) -> None:
        """Copy a checkpoint to where the operator of this machine may not reach; what fails is reported, nothing stops."""
        line = orjson.dumps(envelope)
        try:
            with anyio.fail_after(SEND_SECONDS):
                if target.startswith("file:"):
                    path = self._directory / target.removeprefix("file:")
                    await anyio.to_thread.run_sync(_append, path, line)
                else:
                    async with (
                        aiohttp.ClientSession() as session,
                        session.post(
                            target, data=line, headers={"content-type": "application/json"}, allow_redirects=False
                        ) as answer,
                    ):
                        if answer.status >= 300:
                            raise OSError(f"it answered {answer.status}")
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            shown = target if target.startswith("file:") else f"{urlsplit(target).scheme}://{urlsplit(target).hostname}"
            logger.error("a checkpoint could not be copied to %s: %s", shown, error)


def _append(path: Path, line: bytes) -> None:
    with path.open("ab") as file:
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _head(raw: Any) -> tuple[str, int, str, str] | None:
    """Writer, seq, hash and type of the newest record."""
    row = raw.execute("SELECT seq, type, data FROM records ORDER BY seq DESC LIMIT 1").fetchone()
    if row is None:
        return None
    return orjson.loads(row[2])["writer"], row[0], hashlib.sha256(row[2]).hexdigest(), row[1]


def _previous(raw: Any) -> str:
    row = raw.execute(
        "SELECT data FROM records WHERE type = 'checkpoint' AND type <> 'call' ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return ""
    return payload_digest(orjson.loads(row[0])["body"]["envelope"])


def payload_digest(envelope: Mapping[str, Any]) -> str:
    """By which the next checkpoint names this one."""
    return hashlib.sha256(base64.b64decode(envelope["payload"])).hexdigest()


def read_envelopes(path: Path) -> list[Mapping[str, Any]]:
    """The checkpoints that a verifier holds: JSON Lines of envelopes, as `checkpoints_to = ["file:..."]` writes them.

    Raises:
        GatewayError: the file holds something else.
    """
    try:
        found = [orjson.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise GatewayError(f"{path}: cannot be read as checkpoints: {error}") from None
    if not all(isinstance(envelope, dict) for envelope in found):
        raise GatewayError(f"{path}: holds something that is no checkpoint")
    return found


class Signatures:
    """Follows a chain that `ChainVerifier` walks, and checks what was signed of it.

    Args:
        keys: pinned; a key that a pinned one names as its next is trusted from there on.
        held: checkpoints that the verifier kept elsewhere.
    """

    def __init__(self, keys: Sequence[PublicKey], held: Sequence[Mapping[str, Any]] = ()) -> None:
        self._keys = list(keys)
        self._hashes: dict[int, str] = {}
        self._previous: str | None = None
        self._first_previous: str | None = None
        """Of the first checkpoint of the chain: the one before it."""
        self.checked = 0
        self.signed_up_to = 0
        """The newest record that a valid checkpoint of the chain names."""
        self.erased: set[tuple[int, str]] = set()
        """Payloads for which a valid tombstone accounts, by record and role."""
        self.fault: tuple[int, str] | None = None
        self._first, self._before = 1, ""
        self._tombstone: Mapping[str, Any] | None = None
        """The statement about the beginning that goes furthest."""
        self._announced: Mapping[str, Any] | None = None
        """An envelope that was given before the chain, whose key may only be known at its end."""
        self._cut_at = 0
        self._cut_hash: str | None = None
        self._held: dict[int, str] = {}
        for envelope in held:
            said = self._said(envelope, 0)
            if said is not None:
                self._held[int(said["seq"])] = str(said["sha256"])

    def announced(self, envelope: Mapping[str, Any]) -> bool:
        """The tombstone of the chain's beginning, before the chain itself. False where it is none."""
        try:
            said = orjson.loads(base64.b64decode(envelope["payload"], validate=True))
            self._cut_at = int(said["last"])
            for rotation in said["rotations"]:
                named = self._said(rotation, 0)
                if named is None:
                    return False
                self._follow(named)
        except (ValueError, KeyError, TypeError, AttributeError):
            return self._fail(0, "what stands for the beginning of the chain is no tombstone")
        self._announced = envelope
        return True

    def begins(self, first: int, prev: str) -> None:
        """Which record comes first, and which it names as the one before."""
        self._first, self._before = first, prev
        if first > 1:
            if first - 1 == self._cut_at:
                self._cut_hash = prev
            if (kept := self._held.pop(first - 1, None)) is not None and kept != prev:
                self._fail(first, "it does not follow the record that a checkpoint kept elsewhere names")

    def saw(self, seq: int, sha256: str, type: bytes, data: bytes) -> bool:
        """One record, in order. False where something signed says otherwise."""
        if self.fault is not None:
            return False
        if self._held and (kept := self._held.pop(seq, None)) is not None and kept != sha256:
            return self._fail(seq, "it is not the record that a checkpoint kept elsewhere names")
        self._hashes[seq] = sha256
        self._hashes.pop(seq - REMEMBERED, None)
        if seq == self._cut_at:
            self._cut_hash = sha256
        if type == b"checkpoint":
            return self._checkpoint(seq, data)
        return type != b"tombstone" or self._buried(seq, data)

    def end(self, first: int, last: int) -> bool:
        """The chain is over. False where its beginning is missing and no tombstone accounts for it, or where a record is
        missing that a kept checkpoint names."""
        if self.fault is not None:
            return False
        if self._announced is not None and not self._accounts(self._announced, 0):
            return False
        if first > 1 and not self._begins_by_right(first):
            return False
        missing = sorted(seq for seq in self._held if seq > last)
        if missing:
            return self._fail(
                last + 1, f"the chain ends here, and a checkpoint kept elsewhere names record {missing[-1]}: it was cut"
            )
        return True

    def _begins_by_right(self, first: int) -> bool:
        """Whether a valid tombstone accounts for what is missing before `first`."""
        said = self._tombstone
        if said is None or said["last"] < first - 1:
            return self._fail(
                first,
                f"the chain begins with record {first}, and nothing signed says that those before it were dropped",
            )
        if self._cut_at != said["last"] or self._cut_hash != said["sha256"]:
            return self._fail(first, f"the tombstone names another record {said['last']} than this chain had")
        if said["last"] == first - 1 and self._first_previous not in (None, said["previous"]):
            return self._fail(first, "the first checkpoint does not follow the last one that the tombstone names")
        return True

    def _buried(self, seq: int, data: bytes) -> bool:
        """A tombstone in the chain."""
        try:
            envelope = orjson.loads(data)["body"]["envelope"]
        except (ValueError, KeyError, TypeError):
            return self._fail(seq, "it is a tombstone without an envelope")
        return self._accounts(envelope, seq)

    def _accounts(self, envelope: Mapping[str, Any], seq: int) -> bool:
        where = "its tombstone" if seq else "the tombstone of the beginning"
        try:
            said = orjson.loads(verify(envelope, self._keys, TOMBSTONE_TYPE))
            if said["kind"] == "payload":
                self.erased.add((int(said["seq"]), str(said["role"])))
            elif self._tombstone is None or said["last"] >= self._tombstone["last"]:
                self._tombstone = said
                if self._cut_at != said["last"]:
                    self._cut_at, self._cut_hash = said["last"], self._hash(said["last"])
        except (SignatureInvalid, ValueError, KeyError, TypeError) as error:
            return self._fail(seq, f"{where} is not signed by the given key: {error}")
        return True

    def _hash(self, seq: int) -> str | None:
        """Of a record of the chain, or of the one before its first."""
        return self._before if seq == self._first - 1 else self._hashes.get(seq)

    def _checkpoint(self, seq: int, data: bytes) -> bool:
        try:
            envelope = orjson.loads(data)["body"]["envelope"]
        except (ValueError, KeyError, TypeError):
            return self._fail(seq, "it is a checkpoint without an envelope")
        said = self._said(envelope, seq)
        if said is None:
            return False
        named = int(said["seq"])
        # what it names may have been dropped; then the beginning needs a tombstone, which `end` asks for
        if named >= self._first - 1 and self._hash(named) != said["sha256"]:
            return self._fail(seq, f"its checkpoint names another record {named} than the chain has")
        if self._previous is None:
            self._first_previous = said["previous"]
        elif said["previous"] != self._previous:
            return self._fail(seq, "its checkpoint does not follow the checkpoint before: one was removed or replaced")
        self._previous = payload_digest(envelope)
        self.checked += 1
        self.signed_up_to = named
        self._follow(said)
        return True

    def _follow(self, said: Mapping[str, Any]) -> None:
        """Trust the key that a checkpoint names as the next."""
        if "next_key" in said:
            self._keys.append(load_public(str(said["next_key"]).encode()))

    def _said(self, envelope: Mapping[str, Any], seq: int) -> Mapping[str, Any] | None:
        try:
            said = orjson.loads(verify(envelope, self._keys, CHECKPOINT_TYPE))
            if not isinstance(said["seq"], int) or not isinstance(said["sha256"], str):
                raise SignatureInvalid("a checkpoint without a place")
        except (SignatureInvalid, ValueError, KeyError, TypeError) as error:
            where = "its checkpoint" if seq else "a checkpoint kept elsewhere"
            self._fail(seq, f"{where} is not signed by the given key: {error}")
            return None
        return dict(said)

    def _fail(self, seq: int, reason: str) -> bool:
        if self.fault is None:
            self.fault = (seq, reason)
        return False
