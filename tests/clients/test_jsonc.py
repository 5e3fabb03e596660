"""Clients' JSON: comments and commas are tolerated, and an edit changes nothing but its own member."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.clients.jsonc import JsonError, parse, remove_member, set_member

COMMENTED = """{
    // why this is here
    "theme": "dark", /* and this */
    "mcpServers": {
        "git": {"command": "uvx", "args": ["mcp-server-git", "// no comment"]}, // the first
        "time": {
            "command": "uvx",
        },
    },
    "last": [1, 2.5, null, true,],
}
"""


def test_comments_and_trailing_commas_are_read_over() -> None:
    assert parse(COMMENTED).data() == {
        "theme": "dark",
        "mcpServers": {
            "git": {"command": "uvx", "args": ["mcp-server-git", "// no comment"]},
            "time": {"command": "uvx"},
        },
        "last": [1, 2.5, None, True],
    }


def test_a_new_member_goes_in_with_the_file_s_own_indent_and_all_else_stays() -> None:
    edited = set_member(COMMENTED, ("mcpServers", "gateway"), {"command": "g"})
    added = '\n        "gateway": {\n            "command": "g"\n        }'
    assert edited.replace(added, "", 1) == COMMENTED
    assert parse(edited).data()["mcpServers"]["gateway"] == {"command": "g"}


def test_a_member_goes_out_with_its_line_and_all_else_stays() -> None:
    edited = remove_member(COMMENTED, ("mcpServers", "time"))
    assert edited == COMMENTED.replace('        "time": {\n            "command": "uvx",\n        },\n', "")
    edited = remove_member(COMMENTED, ("mcpServers", "git"))
    assert "// the first" in edited
    assert list(parse(edited).data()["mcpServers"]) == ["time"]


def test_the_last_member_takes_the_comma_before_it_along() -> None:
    assert json.loads(remove_member('{"a": 1, "b": 2}', ("b",))) == {"a": 1}
    assert json.loads(remove_member('{\n  "a": 1,\n  "b": 2\n}\n', ("b",))) == {"a": 1}
    assert json.loads(remove_member('{"a": 1}', ("a",))) == {}
    assert remove_member('{"a": 1}', ("b",)) == '{"a": 1}'


@pytest.mark.parametrize("text", ["", "   \n", "{}", "{ }\n", '{"x": 1}', '{\n\t"x": {}\n}\n'])
def test_missing_objects_on_the_way_are_made(text: str) -> None:
    edited = set_member(text, ("mcpServers", "gateway"), {"command": "g"})
    assert json.loads(edited)["mcpServers"] == {"gateway": {"command": "g"}}


@pytest.mark.parametrize(
    "text", ["{", '{"a"}', '{"a": }', "[1 2]", '{"a": 1} x', "/* ", '{"a": "\n"}', "nope", "[" * 500]
)
def test_what_is_no_json_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(JsonError) as caught:
        parse(text)
    assert caught.value.line >= 1


names = st.text(st.characters(codec="utf-8"), max_size=4)
objects = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=10,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(names, objects, max_size=5), names, objects, st.sampled_from([None, 2, "\t"]))
def test_setting_and_removing_does_what_it_does_to_a_dict(
    before: dict[str, object], key: str, value: object, indent: int | str | None
) -> None:
    text = json.dumps(before, indent=indent, ensure_ascii=False)
    assert parse(text).data() == before
    assert parse(set_member(text, (key,), value)).data() == {**before, key: value}
    removed = parse(remove_member(text, (key,))).data()
    assert removed == {name: item for name, item in before.items() if name != key}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(names, objects, max_size=5), names, objects)
def test_a_member_that_went_in_and_out_leaves_the_same_value(
    before: dict[str, object], key: str, value: object
) -> None:
    text = json.dumps(before, indent=4, ensure_ascii=False)
    if key not in before:
        assert parse(remove_member(set_member(text, (key,), value), (key,))).data() == before
