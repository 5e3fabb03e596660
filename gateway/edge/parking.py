"""Calls that wait for their client between two requests: how a handshake-era tool server asks a client of 2026-07-28.

The new revision has no requests from server to client; who needs input answers `input_required` and is asked again. A tool
server of the handshake era asks in the middle of its work and waits. So the call is parked:

    client            gateway                                   tool server
    tools/call  ───►  begin ─────────────── tools/call ───────►
                      park  ◄────────────── elicitation/create
          ◄─────────  input_required, with a sealed state
    tools/call, the state and the answers
                ───►  find ──────────────── its answer ───────►
                            ◄────────────── result
          ◄─────────  result

The state is ours: authenticated encryption under a key of this process, bound to the principal, the method, the target and
its arguments, the round, and the time. It opens once: a state that was used, that another agent sends, that comes with
other arguments or too late, that was changed by a bit or that another process gave out, is refused (-32602), and nothing
runs. A parked call belongs to no connection; it ends with its answer, its age, its session, or the gateway.
"""

import base64
import hashlib
import os
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

import anyio
import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from gateway.edge.wire import Reply

if TYPE_CHECKING:
    from gateway.edge.calls import AgentCaller

PREFIX: Final = "gateway.1."
"""What every state of ours begins with, so that a tool server's own passes untouched."""

GATHER_SECONDS: Final = 0.01
"""How long further questions of the same call are waited for, so that they are put together."""

MAX_STATE_CHARACTERS: Final = 4_096


class StateRefused(Exception):
    """A `requestState` that opens nothing. The text says what to do."""


Start = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


class Parked:
    """One call that may be parked: its task, and what passes between it and its client's rounds."""

    def __init__(self, identifier: str, principal: str, digest: bytes) -> None:
        self.identifier = identifier
        self.principal = principal
        self.digest = digest
        self.scope = anyio.CancelScope()
        self.answer: Callable[[str | int], Reply] | None = None
        """Once it has one: what answers the request that waits for it."""
        self.caller: AgentCaller
        """The call's side of its client, attached to the round that is open."""
        self.round = 0
        """Counts the times that it was parked; a state is of one of them."""
        self.waiting = False
        """A state was given out and not used yet."""
        self.expires_at = 0.0
        """On the event loop's clock, while it waits."""
        self._asked = 0
        self._open: dict[str, tuple[Mapping[str, Any], anyio.Event]] = {}
        self._answers: dict[str, Mapping[str, Any]] = {}
        self._changed = anyio.Event()

    @property
    def needs(self) -> dict[str, Mapping[str, Any]]:
        """What the tool server asked and has no answer to yet: the `inputRequests`."""
        return {key: request for key, (request, _) in self._open.items()}

    # --- the call's side ---

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """Put requests to the client's next round, and wait for its answers."""
        keys: dict[str, str] = {}
        for key, request in requests.items():
            self._asked += 1
            keys[key] = f"{key}-{self._asked}"
            self._open[keys[key]] = (request, anyio.Event())
        self._changed.set()
        try:
            for key in keys.values():
                if (waiting := self._open.get(key)) is not None:
                    await waiting[1].wait()
            return {key: self._answers.pop(ours) for key, ours in keys.items()}
        finally:
            for ours in keys.values():
                self._open.pop(ours, None)
                self._answers.pop(ours, None)

    def finish(self, answer: Callable[[str | int], Reply]) -> None:
        """The call has its answer."""
        self.answer = answer
        self._changed.set()

    # --- the rounds' side ---

    async def progressed(self) -> None:
        """Returns once the call has its answer or a question that is not answered."""
        while self.answer is None:
            if self._open:
                await anyio.sleep(GATHER_SECONDS)
                if self._open:
                    return
            else:
                self._changed = anyio.Event()
                await self._changed.wait()

    def give(self, responses: Mapping[str, Any]) -> None:
        """Take a round's `inputResponses`. What is missing is asked again, what nobody asked is let go."""
        for key, response in responses.items():
            if (waiting := self._open.pop(key, None)) is not None:
                self._answers[key] = {"result": response}
                waiting[1].set()


class Parking:
    """The calls of one edge that may be parked.

    Args:
        seconds: how long a parked call waits for its client.
        limit, per_principal: how many may wait at once.
    """

    def __init__(self, *, seconds: float, limit: int, per_principal: int) -> None:
        self._seconds = seconds
        self._limit = limit
        self._per_principal = per_principal
        self._key = ChaCha20Poly1305(ChaCha20Poly1305.generate_key())
        self._parked: dict[str, Parked] = {}

    def __len__(self) -> int:
        return len(self._parked)

    def begin(self, principal: str, digest: bytes) -> Parked | None:
        """A new call; None where too many are parked already."""
        own = sum(1 for parked in self._parked.values() if parked.principal == principal and parked.waiting)
        if len(self._parked) >= self._limit or own >= self._per_principal:
            return None
        parked = Parked(os.urandom(16).hex(), principal, digest)
        self._parked[parked.identifier] = parked
        return parked

    def park(self, parked: Parked) -> str:
        """Let the call wait for its client's next round; the state to give out."""
        parked.round += 1
        parked.waiting = True
        parked.expires_at = anyio.current_time() + self._seconds
        content = orjson.dumps([parked.identifier, parked.round])
        nonce = os.urandom(12)
        sealed = nonce + self._key.encrypt(nonce, content, _bound(parked.principal, parked.digest))
        return PREFIX + base64.urlsafe_b64encode(sealed).decode("ascii")

    def take(self, state: str, principal: str, digest: bytes) -> Parked:
        """The call that a state belongs to, taken out of its wait.

        Raises:
            StateRefused: it opens nothing.
        """
        try:
            if len(state) > MAX_STATE_CHARACTERS:
                raise ValueError
            encoded = state.removeprefix(PREFIX).encode("ascii")
            sealed = base64.b64decode(encoded, altchars=b"-_", validate=True)
            if base64.urlsafe_b64encode(sealed) != encoded:
                raise ValueError
            identifier, number = orjson.loads(self._key.decrypt(sealed[:12], sealed[12:], _bound(principal, digest)))
        except (ValueError, InvalidTag):
            raise StateRefused(
                "params.requestState is not valid: it was changed, belongs to another agent, comes with other arguments, "
                "or was given out before the gateway was restarted. Make the call anew, without it"
            ) from None
        parked = self._parked.get(identifier)
        if parked is None or not parked.waiting or parked.round != number:
            raise StateRefused("params.requestState was used already, or has expired. Make the call anew, without it")
        parked.waiting = False
        return parked

    def forget(self, parked: Parked) -> None:
        """The call is over."""
        self._parked.pop(parked.identifier, None)

    def end_expired(self) -> None:
        """Cancel the calls whose client did not come back in time."""
        now = anyio.current_time()
        for parked in list(self._parked.values()):
            if parked.waiting and parked.expires_at <= now:
                parked.waiting = False
                parked.scope.cancel()

    async def sweep(self) -> None:
        """End what is expired, for ever."""
        while True:
            await anyio.sleep(max(0.5, min(30.0, self._seconds / 4)))
            self.end_expired()


def digest(method: str, params: Mapping[str, Any]) -> bytes:
    """What a state is bound to: the method, the target and its arguments, not the answers and the envelope."""
    bound = {key: value for key, value in params.items() if key not in ("_meta", "inputResponses", "requestState")}
    return hashlib.sha256(orjson.dumps([method, bound], option=orjson.OPT_SORT_KEYS)).digest()


def _bound(principal: str, content: bytes) -> bytes:
    return content + principal.encode("utf-8", "surrogatepass")
