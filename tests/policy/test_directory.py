"""Who may see what: configuration and policy filter the catalogue, for lists and calls alike."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from gateway.adapters.system import EventFanout, SystemClock
from gateway.directory import PolicyDirectory, permitted
from gateway.model.call import Principal, TargetType
from gateway.model.errors import PolicyEvaluationError
from gateway.model.events import Event, StateChanged
from gateway.model.snapshot import Entry
from tests.building import snapshot, tool

pytestmark = pytest.mark.anyio

LOCAL = Principal(id="local", roles=("local",))


class Hides:
    """A policy that hides items by id; `fail` makes it fail."""

    def __init__(self, *hidden: str, revision: str = "1") -> None:
        self.hidden, self.revision, self.asked, self.fail = hidden, revision, 0, False

    async def decide(self, question: Mapping[str, Any], *, timeout_seconds: float) -> Any:
        return True

    async def visible(self, questions: Sequence[Mapping[str, Any]]) -> Sequence[bool | None]:
        self.asked += 1
        if self.fail:
            raise PolicyEvaluationError("broken")
        return [False if one["resource"]["id"] in self.hidden else None for one in questions]


class Heard:
    """Events, kept."""

    def __init__(self) -> None:
        self.heard: list[Event] = []

    def publish(self, event: Event) -> None:
        self.heard.append(event)

    def subscribe(
        self, receive: Callable[[Event], None], *kinds: type[Event], later: bool = False
    ) -> Callable[[], None]:
        raise NotImplementedError


def directory() -> PolicyDirectory:
    return PolicyDirectory(EventFanout(), SystemClock())


ENTRIES = (tool("git_log", "git"), tool("git_commit", "git"), tool("search", "docs"))
DOC = tool("doc://one", "docs", type=TargetType.RESOURCE, exposed="doc://one", arguments=None)


@pytest.mark.rule("policy.visible")
async def test_false_hides_and_undefined_shows_what_the_configuration_permits() -> None:
    view = await directory().view(snapshot(*ENTRIES, DOC, policy=Hides("git/git_commit")), LOCAL)
    assert set(view.tools) == {"git__git_log", "docs__search"}
    assert set(view.resources) == {"doc://one"}
    assert view.servers == ("docs", "git")


@pytest.mark.rule("policy.visible-cached")
async def test_a_view_is_kept_by_principal_catalogue_and_policy_revision() -> None:
    policy, names = Hides(), directory()
    seen = snapshot(*ENTRIES, policy=policy)
    first = await names.view(seen, LOCAL)
    assert await names.view(seen, LOCAL) is first
    assert await names.view(seen, Principal(id="local", roles=("local",))) is first
    assert policy.asked == 1
    await names.view(seen, Principal(id="local", roles=("other",)))
    await names.view(seen, Principal(id="local", roles=("local",), claims={"a": 1}))
    await names.view(snapshot(*ENTRIES[:2], policy=policy), LOCAL)
    assert policy.asked == 4
    policy.revision, policy.hidden = "2", ("docs/search",)
    assert "docs__search" not in (await names.view(seen, LOCAL)).tools


@pytest.mark.rule("policy.visible-fails")
async def test_a_policy_that_fails_hides_everything_until_it_answers_and_says_so() -> None:
    policy, events = Hides(), Heard()
    names = PolicyDirectory(events, SystemClock())
    seen = snapshot(*ENTRIES, policy=policy)
    policy.fail = True
    view = await names.view(seen, LOCAL)
    assert (view.tools, view.servers) == ({}, ())
    (event,) = events.heard
    assert isinstance(event, StateChanged)
    assert (event.kind, event.state, event.facts["error"]) == ("policy", "failed", "broken")
    policy.fail = False
    assert len((await names.view(seen, LOCAL)).tools) == 3


@pytest.mark.rule("policy.view-configured")
@pytest.mark.parametrize(
    ("servers", "tools", "shown"),
    [
        (None, None, {"git_log", "git_commit", "search", "doc://one"}),
        (("git",), None, {"git_log", "git_commit"}),
        (("d*",), None, {"search", "doc://one"}),
        ((), None, set()),
        (None, (), set()),
        (None, ("git/*",), {"git_log", "git_commit"}),
        (None, ("*/git_l*", "docs/resource:doc://**"), {"git_log", "doc://one"}),
        (("docs",), ("git/*",), set()),
        (None, ("*",), {"git_log", "git_commit", "search"}),
    ],
)
def test_an_agents_own_servers_and_tools_filter_first(
    servers: tuple[str, ...] | None, tools: tuple[str, ...] | None, shown: set[str]
) -> None:
    principal = Principal(id="x", servers=servers, tools=tools)
    entries: tuple[Entry, ...] = (*ENTRIES, DOC)
    assert {entry.name for entry in entries if permitted(principal, entry)} == shown
