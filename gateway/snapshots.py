"""Building the snapshot, and swapping it: at start, when a tool server's catalogue changes, when the configuration does.

A snapshot is made of a configuration, the policies and the merged catalogue, and replaces its predecessor in one
assignment. A new configuration or policy that cannot be used changes nothing, and is reported; at start it is fatal.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import anyio
import anyio.to_thread

from gateway.config import Change, Configuration, diff
from gateway.control import AgentKey
from gateway.decide.catalogue import merge
from gateway.model.errors import ConfigurationError, JournalUnavailable, PolicyLoadError, PolicyUnavailable
from gateway.model.events import CatalogueChanged, ConfigurationChanged
from gateway.model.snapshot import Catalogue, ServerCatalogue, Snapshot
from gateway.ports import Clock, Events, PolicyEngine

logger = logging.getLogger("gateway.snapshots")

WATCH_SECONDS = 0.5
"""Between two looks at the files of the configuration and the policies."""

MAX_WATCHED = 5_000
"""Files that are looked at; beyond, `gateway reload` is needed."""

OpenPolicy = Callable[[Configuration], AbstractAsyncContextManager[tuple[PolicyEngine, PolicyEngine | None]]]


class Servers(Protocol):
    """What the control plane needs of the tool servers."""

    def catalogues(self) -> Mapping[str, ServerCatalogue]: ...

    async def reconfigure(self, settings: Mapping[str, Any]) -> None: ...


class Keeps(Protocol):
    """What the control plane needs of the journal: records, and snapshots stored once by hash."""

    async def record(self, type: str, body: Mapping[str, Any]) -> None: ...

    async def keep(self, kind: str, content: bytes) -> str: ...


@runtime_checkable
class Documented(Protocol):
    """A policy engine that can say what was loaded into it."""

    revision: str

    def document(self) -> bytes | None:
        """JSON `{version, revision, decision, modules, data}`; None where the engine got its policies elsewhere."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What came of a reload."""

    accepted: bool
    message: str
    """One line: what changed, or what is wrong."""
    change: Change | None = None
    needs_restart: tuple[str, ...] = ()


class Snapshots:
    """Owns the current snapshot.

    Args:
        load: reads the configuration anew, from the same file.
        open_policy: the policy engine of a configuration, and its shadow if it has one; left when they are replaced.
        swapped: told of every new snapshot, with the agents' keys.
    """

    def __init__(
        self,
        *,
        configuration: Configuration,
        load: Callable[[], Configuration],
        open_policy: OpenPolicy,
        servers: Servers,
        journal: Keeps,
        clock: Clock,
        events: Events,
        swapped: Callable[[Snapshot, tuple[AgentKey, ...] | None], None],
    ) -> None:
        self.configuration = configuration
        self._load, self._open_policy, self._servers = load, open_policy, servers
        self._journal, self._clock, self._events, self._swapped = journal, clock, events, swapped
        self._policies = AsyncExitStack()
        self._policy: PolicyEngine | None = None
        self._shadow: PolicyEngine | None = None
        self._number = 0
        self._catalogue = Catalogue()
        self._reloading = anyio.Lock()
        self._wake = anyio.Event()

    @property
    def current(self) -> Snapshot:
        """Made anew on `_swap` only."""
        return self._snapshot

    @property
    def agents(self) -> tuple[AgentKey, ...] | None:
        """The credentials of the present configuration."""
        return agent_keys(self.configuration)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Snapshots"]:
        """Load the policy, make the first snapshot, and close the policy engine at the end.

        Raises:
            PolicyLoadError: the policies cannot be used.
        """
        async with self._policies:
            self._policy, self._shadow = await self._policies.enter_async_context(self._open_policy(self.configuration))
            self._swap()
            await self._journal.record(
                "config.changed", _config_body(self.configuration, accepted=True, message="start")
            )
            await self._keep(self.configuration)
            await self._keep_policies()
            yield self

    def catalogue_changed(self, server: str, kinds: Sequence[str]) -> None:
        """A tool server's catalogue changed: merge, and swap where an agent could see the difference."""
        before = self._catalogue.revision
        self._swap()
        if self._catalogue.revision != before:
            at = self._clock.time_ns() / 1e9
            self._events.publish(
                CatalogueChanged(at=at, revision=self._catalogue.revision, servers=(server,), kinds=tuple(kinds))
            )

    async def reload(self) -> Reloaded:
        """Read the configuration and the policies anew; swap them in whole, or change nothing."""
        async with self._reloading:
            try:
                new = self._load()
                opened = AsyncExitStack()
                policy, shadow = await opened.enter_async_context(self._open_policy(new))
            except (ConfigurationError, PolicyLoadError, PolicyUnavailable) as error:
                return await self._report(self.configuration, accepted=False, message=str(error), change=None)
            change = diff(self.configuration, new)
            same_policy = self._policy is not None and policy.revision == self._policy.revision and not change.policy
            same_policy = same_policy and _revision(shadow) == _revision(self._shadow)
            if not change and same_policy and new.sha256 == self.configuration.sha256:
                await opened.aclose()
                return Reloaded(accepted=True, message="nothing has changed", change=change)
            old, self._policies = self._policies, opened
            policy_changed = self._policy is None or policy.revision != self._policy.revision
            self._policy, self._shadow, self.configuration = policy, shadow, new
            self._swap()
            await self._servers.reconfigure(new.servers)
            self._swap()
            await self._keep(new)
            await self._keep_policies()
            report = await self._report(new, accepted=True, message=_summary(change, policy_changed), change=change)
            if policy_changed:
                await self._record("policy.changed", {"revision": policy.revision})
                self._events.publish(
                    CatalogueChanged(
                        at=self._clock.time_ns() / 1e9,
                        revision=self._catalogue.revision,
                        kinds=("tools", "prompts", "resources"),
                    )
                )
            await old.aclose()
            return report

    async def watch(self) -> None:
        """Reload whenever the configuration file or a policy file changes, where `reload = "watch"`.

        The files are looked at every `WATCH_SECONDS`. A watch on their directory would be woken by every write to the store,
        which lies beside the configuration.
        """
        known = await anyio.to_thread.run_sync(self._look)
        while True:
            await anyio.sleep(WATCH_SECONDS)
            found = await anyio.to_thread.run_sync(self._look)
            if found == known or self.configuration.reload != "watch":
                known = found
                continue
            while found != known:  # what is being written is waited for
                known = found
                await anyio.sleep(WATCH_SECONDS / 2)
                found = await anyio.to_thread.run_sync(self._look)
            report = await self.reload()
            (logger.info if report.accepted else logger.error)("reload: %s", report.message)
            known = await anyio.to_thread.run_sync(self._look)  # the policies may lie elsewhere now

    def _look(self) -> Mapping[Path, tuple[int, int, int] | None]:
        """What tells each file of the configuration and the policies from what it was before."""
        files = [self.configuration.file]
        for path in _policy_paths(self.configuration):
            files.extend(sorted(path.rglob("*")) if path.is_dir() else [path])
        return {file: _state(file) for file in files[:MAX_WATCHED]}

    def _swap(self) -> None:
        assert self._policy is not None
        configuration = self.configuration
        self._catalogue = merge(self._servers.catalogues(), configuration.gateway.tool_names)
        self._number += 1
        self._snapshot = Snapshot(
            number=self._number,
            configuration_sha256=configuration.sha256,
            catalogue=self._catalogue,
            policy=self._policy,
            shadow=self._shadow,
            instructions=configuration.gateway.instructions or "",
            tool_names=configuration.gateway.tool_names,
        )
        self._swapped(self._snapshot, agent_keys(configuration))

    async def _keep(self, configuration: Configuration) -> None:
        """Store the configuration, references unexpanded, once by its hash."""
        try:
            await self._journal.keep("configuration", configuration.text.encode())
        except JournalUnavailable as error:
            logger.error("the configuration could not be kept: %s", error)

    async def _keep_policies(self) -> None:
        """Store the modules and data of the policies once by their hash, so that they can be asked again later."""
        for policy in (self._policy, self._shadow):
            if isinstance(policy, Documented) and (document := policy.document()) is not None:
                try:
                    await self._journal.keep("policy", document)
                except JournalUnavailable as error:
                    logger.error("the policy %s could not be kept: %s", policy.revision, error)

    async def _report(
        self, configuration: Configuration, *, accepted: bool, message: str, change: Change | None
    ) -> Reloaded:
        await self._record("config.changed", _config_body(configuration, accepted=accepted, message=message))
        self._events.publish(
            ConfigurationChanged(
                at=self._clock.time_ns() / 1e9, accepted=accepted, sha256=configuration.sha256, message=message
            )
        )
        restart = change.needs_restart if change is not None else ()
        if restart:
            message += f"; needs a restart: {', '.join(restart)}"
        return Reloaded(accepted=accepted, message=message, change=change, needs_restart=restart)

    async def _record(self, type: str, body: Mapping[str, Any]) -> None:
        try:
            await self._journal.record(type, body)
        except JournalUnavailable as error:
            logger.error("%s could not be recorded: %s", type, error)


def agent_keys(configuration: Configuration) -> tuple[AgentKey, ...] | None:
    """The credentials of `[agents]`; None where there is no such table."""
    if configuration.local_only:
        return None
    return tuple(
        AgentKey(key_sha256=bytes.fromhex(agent.key_sha256), principal=agent.principal, approver=agent.approver)
        for agent in configuration.agents.values()
        if agent.key_sha256 is not None
    )


def _state(file: Path) -> tuple[int, int, int] | None:
    """Time, size and number of a file; None where there is none (or it is not ours to see)."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _config_body(configuration: Configuration, *, accepted: bool, message: str) -> dict[str, Any]:
    return {"accepted": accepted, "sha256": configuration.sha256, "message": message}


def _revision(policy: PolicyEngine | None) -> str | None:
    return policy.revision if policy is not None else None


def _policy_paths(configuration: Configuration) -> list[Path]:
    """Where the policies lie, the shadow's too."""
    engines = (configuration.policy, configuration.policy.shadow)
    return [engine.path for engine in engines if engine is not None and engine.path is not None]


def _summary(change: Change, policy: bool) -> str:
    parts: list[str] = []
    for label, names in (
        ("servers added", change.servers_added),
        ("servers removed", change.servers_removed),
        ("servers changed", (*change.servers_relinked, *change.servers_retuned)),
        ("agents added", change.agents_added),
        ("agents removed", change.agents_removed),
        ("agents changed", (*change.agents_rekeyed, *change.agents_changed)),
    ):
        if names:
            parts.append(f"{label}: {', '.join(names)}")
    if policy:
        parts.append("policies changed")
    rest = [section for section in change.sections if section not in ("servers", "agents", "policy")]
    if rest:
        parts.append(f"sections changed: {', '.join(rest)}")
    return "; ".join(parts) or "the text of the file changed, its meaning did not"
