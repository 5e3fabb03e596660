"""One catalogue of many: unique names, nothing lost in silence, the same order every time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.decide.catalogue import MAX_NAME, exposed_name, matches, merge
from gateway.directory import permitted
from gateway.model.call import Principal
from gateway.model.snapshot import ServerCatalogue
from tests.building import catalogue, tool


@pytest.mark.rule("catalogue.names")
@given(
    server=st.from_regex(r"[a-z0-9][a-z0-9-]{0,30}", fullmatch=True),
    name=st.from_regex(r"[A-Za-z0-9_.-]{1,128}", fullmatch=True),
)
def test_a_name_towards_agents_has_at_most_64_characters_and_is_always_the_same(server: str, name: str) -> None:
    exposed = exposed_name("{server}__{tool}", server, name)
    assert len(exposed) <= MAX_NAME
    assert exposed == exposed_name("{server}__{tool}", server, name)
    if len(server) + 2 + len(name) <= MAX_NAME:
        assert exposed == f"{server}__{name}"


@pytest.mark.rule("catalogue.names")
def test_long_names_that_differ_only_at_the_end_stay_different() -> None:
    one, two = (exposed_name("{server}__{tool}", "s", "x" * 100 + end) for end in "ab")
    assert one != two


@pytest.mark.rule("catalogue.collisions")
def test_of_two_tools_with_one_name_the_first_stays_and_the_other_is_reported() -> None:
    merged = catalogue(tool("search", "b"), tool("search", "a"), tool_names="{tool}")
    assert merged.tools["search"].server == "a"
    (removed,) = merged.removed
    assert (removed.server, removed.name) == ("b", "search")
    assert "a/search" in removed.reason


@pytest.mark.rule("catalogue.collisions")
def test_no_tool_server_passes_its_tool_for_one_of_the_gateway_s_own() -> None:
    merged = catalogue(tool("gateway__holds", "s"), tool("other", "s"), tool_names="{tool}")
    assert list(merged.tools) == ["other"]
    (removed,) = merged.removed
    assert (removed.server, removed.name) == ("s", "gateway__holds")
    assert "the gateway itself" in removed.reason


def test_the_order_is_by_server_and_then_the_servers_own() -> None:
    merged = catalogue(tool("z", "b"), tool("a", "b"), tool("m", "a"))
    assert list(merged.tools) == ["a__m", "b__z", "b__a"]


def test_the_revision_changes_with_what_an_agent_could_see_and_with_nothing_else() -> None:
    first = catalogue(tool("a", "s"))
    assert first.revision == catalogue(tool("a", "s")).revision
    assert first.revision != catalogue(tool("b", "s")).revision
    lost = merge({"s": ServerCatalogue(server="s", available=False, entries=(tool("a", "s"),))}, "{server}__{tool}")
    assert lost.revision != first.revision


@pytest.mark.parametrize(
    ("servers", "tools", "seen"),
    [
        (None, None, True),
        (("git",), None, True),
        (("docs",), None, False),
        ((), None, False),
        (None, ("git/*",), True),
        (None, ("*/git_log",), True),
        (None, ("git/git_commit",), False),
        (None, (), False),
        (("docs",), ("git/*",), False),
    ],
)
@pytest.mark.rule("agents.servers-and-tools")
def test_an_agent_reaches_what_its_servers_and_tools_name(
    servers: tuple[str, ...] | None, tools: tuple[str, ...] | None, seen: bool
) -> None:
    assert permitted(Principal(id="x", servers=servers, tools=tools), tool("git_log", "git")) is seen


def test_a_glob_covers_both_parts() -> None:
    assert matches("g*/git_*", "git", "git_log")
    assert not matches("g*/git_*", "git", "log")
    assert not matches("git/*", "gitlab", "x")
