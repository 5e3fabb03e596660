"""Who may see what: the part of the catalogue that a principal's configuration and the policy leave of it.

Theory of operation
-------------------
Lists and `resolve` both take a principal's `View` from here, so a tool that is not listed cannot be called, and a hidden
one answers like one that does not exist. First the configuration filters (`servers` and `tools` of the agent), then the
policy is asked `data.gateway.visible` for each item: `false` hides, undefined shows. Views are kept by principal, catalogue
and policy revision; those three and nothing else may change what a principal sees.
"""

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache

import anyio

from gateway.adapters.records import without_secrets
from gateway.config.types import ToolGlob, glob_matches
from gateway.decide.catalogue import view as view_of
from gateway.decide.documents import CATALOGUE, VIEW, catalogue_document, view_document
from gateway.decide.own import ENTRIES
from gateway.decide.policy import visibility_question
from gateway.model.call import Principal
from gateway.model.errors import PolicyEvaluationError, PolicyTimeout, PolicyUnavailable
from gateway.model.events import StateChanged
from gateway.model.snapshot import Catalogue, Entry, Snapshot, View
from gateway.ports import Clock, Events, PolicyEngine

logger = logging.getLogger("gateway.directory")

_Key = tuple[str, str, str, str, tuple[str, ...]]

Keep = Callable[[str, bytes], object]
"""Stores a document of a kind (`catalogue`, `view`) by its hash, soon."""


_parsed = lru_cache(maxsize=4096)(ToolGlob.parse)


def permitted(principal: Principal, entry: Entry) -> bool:
    """Whether the principal's own configuration lets it use this item.

    Where `tools` is given it names everything that may be used: tools as `server/tool`, the rest as
    `server/prompt:NAME` and `server/resource:URI`.
    """
    if principal.servers is not None and not any(glob_matches(glob, entry.server) for glob in principal.servers):
        return False
    if principal.tools is None:
        return True
    return any(_parsed(glob).matches(entry.server, entry.name, entry.type.value) for glob in principal.tools)


class PolicyDirectory:
    """The port `Directory` over a snapshot's policy.

    Args:
        events: where a policy that fails is reported.
        clock: for those reports.
        views: how many views are kept; the longest unused goes first.
        keep: stores what was shown to whom, so that records can name it by hash.
        own: the names of the gateway's own tools that a principal is shown.
    """

    def __init__(
        self,
        events: Events,
        clock: Clock,
        *,
        views: int = 1024,
        keep: Keep | None = None,
        own: Callable[[Principal], tuple[str, ...]] = lambda principal: (),
    ) -> None:
        self._keep, self._own = keep, own
        self._kept: tuple[Catalogue, str, str] | None = None
        """The catalogue and instructions that were kept last, and the hash of their document."""
        self._events = events
        self._clock = clock
        self._limit = views
        self._views: OrderedDict[_Key, View] = OrderedDict()
        self._locks: dict[_Key, anyio.Lock] = {}
        self._identities: dict[int, tuple[Principal, str]] = {}

    async def view(self, snapshot: Snapshot, principal: Principal) -> View:
        """The part of the snapshot's catalogue that this principal may see.

        A policy that fails hides everything, until it answers again.
        """
        revision = snapshot.catalogue.revision
        key = (
            self._identity(principal),
            revision,
            snapshot.policy.revision,
            snapshot.instructions,
            self._own(principal),
        )
        known = self._views.get(key)
        if known is not None:
            self._views.move_to_end(key)
            return known
        lock = self._locks.setdefault(key, anyio.Lock())
        try:
            async with lock:
                known = self._views.get(key)
                if known is None:
                    known = await self._make(snapshot, principal, key)
                return known
        finally:
            if not lock.statistics().tasks_waiting:
                self._locks.pop(key, None)

    def permits(self, principal: Principal, entry: Entry) -> bool:
        """As the port says."""
        return permitted(principal, entry)

    async def _make(self, snapshot: Snapshot, principal: Principal, key: _Key) -> View:
        catalogue = snapshot.catalogue
        entries = [entry for entry in _all(catalogue) if permitted(principal, entry)]
        try:
            hidden = await _hidden(snapshot.policy, principal, entries)
        except (PolicyTimeout, PolicyUnavailable, PolicyEvaluationError) as error:
            logger.warning("the policy's `visible` failed, so %s sees nothing: %s", principal.id, error)
            self._events.publish(
                StateChanged(
                    at=self._clock.time_ns() / 1e9,
                    kind="policy",
                    subject=f"visible:{principal.id}",
                    state="failed",
                    facts={"error": str(error), "revision": snapshot.policy.revision},
                )
            )
            return View(tools={}, prompts={}, resources={}, templates=(), servers=(), revision="policy failed")
        shown = (entry for entry in entries if id(entry) not in hidden)
        view = view_of(catalogue, shown, f"{catalogue.revision}.{snapshot.policy.revision}")
        # A tool server's tool of that name keeps it.
        own = {name: ENTRIES[name] for name in key[-1]}
        if self._keep is not None:
            view = self._keep_view(self._keep, snapshot, view, principal, tuple(own))
        if own:
            view = replace(view, tools={**view.tools, **own})
        self._views[key] = view
        while len(self._views) > self._limit:
            self._views.popitem(last=False)
        return view

    def _keep_view(
        self, keep: Keep, snapshot: Snapshot, view: View, principal: Principal, own: tuple[str, ...]
    ) -> View:
        """The view with its document's hash, once the document and its catalogue are on their way to be kept."""
        catalogue, kept = snapshot.catalogue, self._kept
        if kept is None or kept[0] is not catalogue or kept[1] != snapshot.instructions:
            # Tool servers may repeat the secrets that they were given; a record of what they say does not.
            content, _ = without_secrets(catalogue_document(snapshot))
            keep(CATALOGUE, content)
            kept = self._kept = catalogue, snapshot.instructions, hashlib.sha256(content).hexdigest()
        content = view_document(view, catalogue, kept[2], principal, own)
        keep(VIEW, content)
        return replace(view, sha256=hashlib.sha256(content).hexdigest())

    def _identity(self, principal: Principal) -> str:
        """All of a principal that a filter or the policy can see, as one string."""
        known = self._identities.get(id(principal))
        if known is not None and known[0] is principal:
            return known[1]
        parts = (principal.id, principal.roles, principal.servers, principal.tools, principal.claims)
        identity = json.dumps(parts, sort_keys=True, default=dict)
        if len(self._identities) >= self._limit:
            self._identities.clear()
        self._identities[id(principal)] = (principal, identity)
        return identity


def _all(catalogue: Catalogue) -> Iterable[Entry]:
    yield from catalogue.tools.values()
    yield from catalogue.prompts.values()
    yield from catalogue.resources.values()
    yield from catalogue.templates


async def _hidden(policy: PolicyEngine, principal: Principal, entries: list[Entry]) -> set[int]:
    """The entries (by identity) for which the policy says `false`."""
    answers = await policy.visible([visibility_question(principal, entry) for entry in entries])
    return {id(entry) for entry, answer in zip(entries, answers, strict=True) if answer is False}
