"""Durations, sizes, windows, globs."""

import pytest

from gateway.config.types import (
    Calendar,
    ItemGlob,
    Rolling,
    ToolGlob,
    glob_matches,
    parse_duration,
    parse_size,
    parse_window,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("60s", 60),
        ("15m", 900),
        ("1h", 3600),
        ("24h", 86400),
        ("30d", 2592000),
        ("1.5s", 1.5),
        ("250ms", 0.25),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "-1s", "1 fortnight", "1h30m", 5, True])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [("10GiB", 10 * 2**30), ("500MB", 500_000_000), ("1B", 1), (4096, 4096), ("0.5KiB", 512)]
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "10", "10 gigs", -1, True, 1.5])
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


def test_windows() -> None:
    assert parse_window("1h") == Rolling(seconds=3600)
    assert parse_window("day@Europe/Berlin") == Calendar(unit="day", zone="Europe/Berlin")


@pytest.mark.parametrize("text", ["day", "day@Nowhere/City", "year@UTC", "0s", "day@", "day@../etc/passwd", 3600])
def test_what_is_no_window(text: object) -> None:
    with pytest.raises(ValueError):
        parse_window(text)


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("git_*", "git_log", True),
        ("git_*", "got_log", False),
        ("*", "a/b", False),
        ("**", "a/b", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        ("file:///srv/**", "file:///srv/a/b", True),
        ("git_log", "git_log\n", False),
    ],
)
def test_globs_match_the_whole_text_and_know_only_stars_and_question_marks(
    pattern: str, text: str, matches: bool
) -> None:
    assert glob_matches(pattern, text) is matches


def test_an_item_glob_says_what_it_is_about() -> None:
    assert ItemGlob.parse("git_*").matches("tool", "git_log")
    assert not ItemGlob.parse("*").matches("resource", "x")
    assert ItemGlob.parse("resource:**").matches("resource", "file:///a/b")
    assert ItemGlob.parse("prompt:r*").matches("prompt", "review")


def test_a_tool_glob_has_two_parts() -> None:
    glob = ToolGlob.parse("g*/git_*")
    assert glob.matches("git", "git_log")
    assert not glob.matches("docs", "git_log")
    assert not glob.matches("git", "git_log", "prompt")
    assert ToolGlob.parse("*").matches("any", "thing")
    assert ToolGlob.parse("docs/resource:**").matches("docs", "https://a/b", "resource")
    for wrong in ("git", "/x", "x/", ""):
        with pytest.raises(ValueError, match="server/tool"):
            ToolGlob.parse(wrong)
