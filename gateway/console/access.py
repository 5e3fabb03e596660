"""Who is at the console: login by operator's key, a session in a signed cookie, one token against forged forms.

Theory of operation
-------------------
The cookie says which operator, proven by which key, since when, and carries the token that every form has to repeat. It is
signed with a key that lives as long as the process, is sent to `/console` alone, never by another site's page
(`SameSite=Strict`), and never seen by scripts (`HttpOnly`). At every request the operator is looked up anew: a key that was
removed or replaced by a reload ends the session at once. Who logs out is remembered until the cookie would have ended.

Without `[operators]` there is one way in: a link that `serve` shows on a terminal, good once and for ten minutes. Opening
it takes a click, so that nothing that merely fetches links uses it up. That session is the operator `console`.
"""

import hmac
import secrets
import time
from dataclasses import dataclass
from typing import Final

from itsdangerous import BadSignature, URLSafeSerializer

from gateway.config import Configuration
from gateway.decide.hold import Operator

COOKIE: Final = "gateway_console"

SESSION_SECONDS: Final = 12 * 3600.0
LINK_SECONDS: Final = 600.0

CONSOLE: Final = Operator(id="console", role="operator")
"""Who acts in a session that the one-time link opened."""

MAX_LEFT: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What a cookie says, verified."""

    id: str
    token: str
    """Repeated by every form."""
    operator: Operator | None = None
    """None: nobody is logged in."""

    def allows(self, token: str) -> bool:
        """Whether a form's token is this session's. Constant time."""
        return hmac.compare_digest(self.token.encode(), token.encode("utf-8", "surrogatepass"))


class Access:
    """Sessions of one process."""

    def __init__(self) -> None:
        self.secret = secrets.token_bytes(32)
        """Signs what the console's cookies say; another one in every process."""
        self._cookies = URLSafeSerializer(self.secret, salt="console session")
        self._link: tuple[str, float] | None = None
        self._left: dict[str, float] = {}
        """Sessions that were logged out, until when their cookies would have been good."""

    # --- the cookie ---

    def session(self, cookie: str | None, configuration: Configuration) -> Session:
        """The session of a cookie; a new one without an operator where the cookie is none of ours, or too old."""
        try:
            said = self._cookies.loads(cookie or "")
            identifier, token, name, proof, since = said
        except (BadSignature, ValueError, TypeError):
            return self.anonymous()
        if time.time() - since > SESSION_SECONDS or identifier in self._left:
            return self.anonymous()
        return Session(id=identifier, token=token, operator=self._operator(name, proof, configuration))

    def anonymous(self) -> Session:
        """A new session of nobody."""
        return Session(id=secrets.token_hex(16), token=secrets.token_urlsafe(32))

    def opened(self, operator: Operator) -> Session:
        """A new session of an operator: new id, new token."""
        return Session(id=secrets.token_hex(16), token=secrets.token_urlsafe(32), operator=operator)

    def cookie(self, session: Session, configuration: Configuration) -> str:
        """The value that says this session."""
        name = session.operator.id if session.operator is not None else ""
        return str(
            self._cookies.dumps([session.id, session.token, name, self._proof(name, configuration), time.time()])
        )

    def leave(self, session: Session) -> None:
        """Log out: the cookie is good for nothing any more, wherever it was copied to."""
        now = time.time()
        if len(self._left) >= MAX_LEFT:
            self._left = {identifier: until for identifier, until in self._left.items() if until > now}
        self._left[session.id] = now + SESSION_SECONDS

    def _operator(self, name: str, proof: str, configuration: Configuration) -> Operator | None:
        if not name or not hmac.compare_digest(proof, self._proof(name, configuration)):
            return None
        if not configuration.operators:
            return CONSOLE if name == CONSOLE.id else None
        found = configuration.operators.get(name)
        return None if found is None else Operator(id=found.name, role=found.role, groups=found.groups)

    @staticmethod
    def _proof(name: str, configuration: Configuration) -> str:
        """What changes when the operator's key does."""
        found = configuration.operators.get(name)
        return found.key_sha256[:16] if found is not None else ""

    # --- ways in ---

    @staticmethod
    def by_key(key: str, configuration: Configuration) -> Operator | None:
        """The operator whose key this is."""
        found = configuration.operator_for_key(key) if key else None
        return None if found is None else Operator(id=found.name, role=found.role, groups=found.groups)

    def new_link(self) -> str:
        """The secret part of a new one-time link; the former one is void."""
        token = secrets.token_urlsafe(32)
        self._link = token, time.time() + LINK_SECONDS
        return token

    def by_link(self, token: str, configuration: Configuration) -> Operator | None:
        """The operator `console`, once: the link is used up, whatever becomes of the session."""
        if self._link is None or configuration.operators:
            return None
        known, until = self._link
        if time.time() > until or not hmac.compare_digest(known.encode(), token.encode("utf-8", "surrogatepass")):
            return None
        self._link = None
        return CONSOLE
