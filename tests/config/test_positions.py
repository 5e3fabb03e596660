"""Lines of keys: against hand-written files, and against tomllib on generated ones."""

import tomllib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config.positions import line_of, lines_of_keys

FILE = '''# a comment with [brackets] and "quotes"
[gateway]
name = "a # no comment"   # a comment

[servers.git]
command = """
python [x]
"""
args = [ # why
  "-m",
  "x]", # ] no end
]
env = { A = "1", "B.C" = '}' }
[servers.git.tools.'git commit']
risk = "write"
[[quotas]]
match = { agent = "*" }
limit = 1
[[quotas]]
limit = 2
[approvals]
expires_seconds = 1
[[approvals.notify]]
url = "a"
[[approvals.notify]]
url = "b"
a.b.c = 1
'''


def test_every_kind_of_key_has_its_line() -> None:
    lines = lines_of_keys(FILE)
    expected = {
        ("gateway",): 2,
        ("gateway", "name"): 3,
        ("servers", "git"): 5,
        ("servers", "git", "command"): 6,
        ("servers", "git", "args"): 9,
        ("servers", "git", "args", 0): 10,
        ("servers", "git", "args", 1): 11,
        ("servers", "git", "env"): 13,
        ("servers", "git", "env", "B.C"): 13,
        ("servers", "git", "tools", "git commit"): 14,
        ("servers", "git", "tools", "git commit", "risk"): 15,
        ("quotas", 0): 16,
        ("quotas", 0, "match", "agent"): 17,
        ("quotas", 1): 19,
        ("quotas", 1, "limit"): 20,
        ("approvals", "notify", 0, "url"): 24,
        ("approvals", "notify", 1): 25,
        ("approvals", "notify", 1, "url"): 26,
        ("approvals", "notify", 1, "a", "b", "c"): 27,
    }
    assert {path: lines.get(path) for path in expected} == expected


def test_a_key_without_a_line_is_placed_at_its_nearest_ancestor() -> None:
    lines = lines_of_keys("[a]\nb = 1\n")
    assert line_of(lines, ("a", "b", "c")) == 2
    assert line_of(lines, ("a", "x")) == 1
    assert line_of(lines, ("x",)) is None


keys = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=0, max_size=6)
scalars = st.one_of(st.integers(-9, 9), st.booleans(), st.text(max_size=8))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
)


def toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(c if c.isalnum() or c in " #[]{}=,.'" else f"\\U{ord(c):08x}" for c in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"
    return str(value)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(keys, values, max_size=6))
def test_any_document_is_walked_to_its_end_with_each_key_on_its_own_line(document: dict[str, object]) -> None:
    text = "".join(f"{toml(key)} = {toml(value)}\n" for key, value in document.items())
    assert tomllib.loads(text) == document
    lines = lines_of_keys(text)
    assert [lines[(key,)] for key in document] == list(range(1, len(document) + 1))
