"""Path globs, redaction, changed arguments and limits (CONTRACT 4)."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.decide.obligations import (
    GlobError,
    PathError,
    Unredactable,
    redact,
    redact_error,
    redact_result,
    result_limit,
    set_arguments,
    withholds_notifications,
)
from gateway.model.call import Obligation
from tests.building import call

ACCOUNT = {
    "owner": {"name": "A", "iban": "DE89"},
    "rows": [{"iban": "DE01", "amount": 12}, {"iban": "DE02", "amount": 7}],
}


@pytest.mark.rule("policy.path-globs")
@pytest.mark.parametrize(
    ("glob", "erased"),
    [
        ("**.iban", ("owner.iban", "rows.0.iban", "rows.1.iban")),
        ("owner.*", ("owner.name", "owner.iban")),
        ("*.iban", ("owner.iban",)),
        ("rows.*.iban", ("rows.0.iban", "rows.1.iban")),
        ("rows.1.iban", ("rows.1.iban",)),
        ("rows[1].iban", ("rows.1.iban",)),
        ("rows[*].amount", ("rows.0.amount", "rows.1.amount")),
        ("rows", ("rows",)),
        ("**.rows.**.iban", ("rows.0.iban", "rows.1.iban")),
        ("**.am*", ("rows.0.amount", "rows.1.amount")),
        ("**.ib?n", ("owner.iban", "rows.0.iban", "rows.1.iban")),
        ("iban", ()),
        ("owner.iban.more", ()),
        ("rows.2.iban", ()),
    ],
)
def test_a_glob_names_what_it_says(glob: str, erased: tuple[str, ...]) -> None:
    new, found = redact(ACCOUNT, [glob])
    assert found == erased
    if not erased:
        assert new is ACCOUNT


def test_a_backslash_takes_the_meaning_of_dots_and_wildcards() -> None:
    document = {"a.b": 1, "a": {"b": 2}, "x*": 3, "xy": 4}
    assert redact(document, ["a\\.b"])[1] == ("a\\.b",)
    assert redact(document, ["a.b"])[1] == ("a.b",)
    assert redact(document, ["x\\*"])[0] == {**document, "x*": 0}


@pytest.mark.parametrize("glob", ["", ".", "a.", ".a", "a..b", "a[x]", "a[", "a\\", "a**b", "**a"])
def test_a_glob_that_cannot_be_read_is_an_error(glob: str) -> None:
    with pytest.raises(GlobError):
        redact({}, [glob])


@pytest.mark.rule("policy.redact-types")
def test_an_erased_value_keeps_its_json_type() -> None:
    document = {"a": "text", "b": 12, "c": 1.5, "d": True, "e": None, "f": {"x": 1}, "g": [1]}
    assert redact(document, ["*"])[0] == {"a": "***", "b": 0, "c": 0, "d": False, "e": None, "f": {}, "g": []}


def test_json_within_strings_is_looked_into() -> None:
    inner = json.dumps({"iban": "DE89", "n": 12345678901234567890123})
    new, erased = redact({"result": inner, "plain": "iban DE89"}, ["**.iban"])
    assert erased == ("result.iban",)
    assert json.loads(new["result"]) == {"iban": "***", "n": 12345678901234567890123}
    assert new["plain"] == "iban DE89"


def test_the_original_is_never_changed() -> None:
    before = json.dumps(ACCOUNT)
    redact(ACCOUNT, ["**.iban", "rows.*.amount"])
    assert json.dumps(ACCOUNT) == before


KEYS = st.sampled_from(["a", "b", "iban", "0"])
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=20,
)
GLOBS = st.lists(st.sampled_from(["*", "**", "a", "b", "iban", "0", "i*"]), min_size=1, max_size=4)


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Every value below and including this one, with its path."""
    found = [(path, value)]
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = [(str(at), item) for at, item in enumerate(value)]
    else:
        items = []
    for key, item in items:
        found += leaves(item, (*path, key))
    return found


def named(segments: list[str], path: tuple[str, ...]) -> bool:
    """The meaning of a glob, by its definition."""
    if not segments:
        return not path
    head, *rest = segments
    if head == "**":
        return any(named(rest, path[at:]) for at in range(len(path) + 1))
    if not path:
        return False
    return (head in ("*", path[0]) or (head == "i*" and path[0].startswith("i"))) and named(rest, path[1:])


@pytest.mark.rule("policy.path-globs")
@given(DOCUMENTS, GLOBS)
def test_what_a_glob_names_is_gone_and_nothing_else(document: Any, segments: list[str]) -> None:
    new, erased = redact(document, [".".join(segments)])
    wanted: list[tuple[str, ...]] = []
    for path, _ in leaves(document):
        if named(segments, path) and not any(path[: len(above)] == above for above in wanted):
            wanted.append(path)
    assert list(erased) == [".".join(path) for path in wanted]
    after = dict(leaves(new))
    for path, value in leaves(document):
        if any(path[: len(above)] == above for above in wanted):
            if path in wanted:
                assert after[path] in ("***", 0, False, None, {}, [])
                assert type(after[path]) is type(value)
        elif not any(above[: len(path)] == path for above in wanted):
            assert after[path] == value


def test_many_wildcards_cost_no_more_than_their_number() -> None:
    deep: Any = "x"
    for _ in range(100):
        deep = {"a": deep}
    began = time.perf_counter()
    redact(deep, [".".join(["**", "a"] * 30) + ".b"])
    redact({"a" * 50_000: 1}, ["*a*a*a*a*a*a*a*a*b"])
    assert time.perf_counter() - began < 1


def result(**parts: Any) -> bytes:
    return json.dumps(parts).encode()


def text(value: Any) -> dict[str, Any]:
    return {"type": "text", "text": value if isinstance(value, str) else json.dumps(value)}


@pytest.mark.rule("policy.redact-result")
def test_structured_content_text_blocks_and_embedded_resources_are_redacted() -> None:
    embedded = {"type": "resource", "resource": {"uri": "a://b", "mimeType": "text/plain", "text": json.dumps(ACCOUNT)}}
    new, erased = redact_result(
        result(content=[text(ACCOUNT), embedded], structuredContent=ACCOUNT, isError=False, _meta={"iban": "DE99"}),
        ["**.iban"],
    )
    assert b"DE" not in new
    assert len(erased) == 10
    found = json.loads(new)
    assert found["structuredContent"]["rows"][0] == {"iban": "***", "amount": 12}
    assert json.loads(found["content"][0]["text"])["owner"] == {"name": "A", "iban": "***"}
    assert found["content"][1]["resource"]["uri"] == "a://b"
    assert found["isError"] is False


def test_a_result_in_which_nothing_matches_passes_byte_for_byte() -> None:
    raw = b'{ "content" : [ {"type":"text","text":"{\\"n\\": 1.0}"} ], "structuredContent": {"n": 1.0} }'
    assert redact_result(raw, ["**.iban"]) == (raw, ())


@pytest.mark.rule("policy.redact-result")
def test_a_wrapped_value_is_redacted_in_its_text_blocks_too() -> None:
    rows = [{"iban": "DE01"}, {"iban": "DE02"}]
    for glob in ("result.*.iban", "result[*].iban", "**.iban", "result.**.iban"):
        new, _ = redact_result(result(content=[text(row) for row in rows], structuredContent={"result": rows}), [glob])
        assert b"DE" not in new, glob
    new, _ = redact_result(result(content=[text(rows)], structuredContent={"result": rows}), ["result.*.iban"])
    assert b"DE" not in new
    new, _ = redact_result(result(content=[text(rows)], structuredContent={"result": rows}), ["result"])
    assert b"DE" not in new


def test_prompts_resources_and_errors_are_redacted() -> None:
    new, _ = redact_result(result(messages=[{"role": "user", "content": text(ACCOUNT)}], description="d"), ["**.iban"])
    assert b"DE" not in new
    assert json.loads(new)["messages"][0]["role"] == "user"
    new, _ = redact_result(result(contents=[{"uri": "a://b", "text": json.dumps(ACCOUNT)}]), ["**.iban"])
    assert b"DE" not in new
    new, _ = redact_error(json.dumps({"code": -1, "message": "", "data": ACCOUNT}).encode(), ["**.iban"])
    assert b"DE" not in new


@pytest.mark.rule("policy.unredactable")
@pytest.mark.parametrize(
    "raw",
    [
        result(content=[text("The IBAN is DE89")]),
        result(content=[text('"DE89"')]),
        result(content=[text("4111111111111111")]),
        result(content=[text('{"iban": "DE89"} and more')]),
        result(content=[text("NaN")]),
        result(content=[text("[" * 100_000)]),
        result(content=[text("[" * 300 + "]" * 300)]),
        result(content=[{"type": "image", "data": "aGk=", "mimeType": "image/png"}]),
        result(content=[{"type": "audio", "data": "aGk=", "mimeType": "audio/wav"}]),
        result(content=[{"type": "resource", "resource": {"uri": "a://b", "blob": "aGk="}}]),
        result(content=[{"type": "new-kind", "body": {}}]),
        result(content=[{}]),
        result(content="text"),
        result(contents=[{"uri": "a://b", "blob": "aGk="}]),
        result(messages=[{"role": "user", "content": text("words")}]),
        result(content=[text('{"a": {"iban": "DE89"}, "a": {}}')]),
        result(structuredContent={"a": '{"a": {"iban": "DE89"}, "a": {}}'}),
        result(structuredContent={"a": "[" * 100_000}),
        b"not json",
        b"[]",
    ],
)
def test_a_part_that_cannot_be_looked_into_makes_the_result_unredactable(raw: bytes) -> None:
    with pytest.raises(Unredactable):
        redact_result(raw, ["**.iban"])


def test_a_free_text_error_is_unredactable() -> None:
    with pytest.raises(Unredactable):
        redact_error(b'{"code": -32000, "message": "no account DE89"}', ["**.iban"])


def test_what_gives_a_message_its_form_stays() -> None:
    raw = result(content=[text({"a": 1})], structuredContent={"a": 1}, isError=True, requestState="opaque")
    found = json.loads(redact_result(raw, ["**"])[0])
    assert found == {
        "content": [{"type": "text", "text": "{}"}],
        "structuredContent": {},
        "isError": True,
        "requestState": "opaque",
    }


def setting(path: str, value: Any) -> Obligation:
    return Obligation(id="set_argument", path=path, value=value)


@pytest.mark.rule("policy.set-argument")
@pytest.mark.parametrize(
    ("arguments", "path", "value", "changed"),
    [
        ({"limit": 1000}, "limit", 100, {"limit": 100}),
        ({}, "limit", 100, {"limit": 100}),
        ({}, "filter.owner", "me", {"filter": {"owner": "me"}}),
        ({"filter": {"a": 1}}, "filter.owner", "me", {"filter": {"a": 1, "owner": "me"}}),
        ({"paths": ["/a", "/b"]}, "paths.1", "/c", {"paths": ["/a", "/c"]}),
        ({"a.b": 1}, "a\\.b", 2, {"a.b": 2}),
    ],
)
def test_an_argument_is_set_and_the_original_stays(arguments: Any, path: str, value: Any, changed: Any) -> None:
    before = json.dumps(arguments)
    assert set_arguments(arguments, [setting(path, value)]) == changed
    assert json.dumps(arguments) == before


@pytest.mark.parametrize(
    ("arguments", "path"), [({"a": 1}, "a.b"), ({"a": []}, "a.0"), ({"a": [1]}, "a.x"), ({"a": None}, "a.b")]
)
def test_an_argument_that_cannot_be_set_is_an_error(arguments: Any, path: str) -> None:
    with pytest.raises(PathError):
        set_arguments(arguments, [setting(path, 1)])


def test_the_smallest_limit_counts() -> None:
    limits = [Obligation(id="limit_result", max_bytes=size) for size in (300, 100, 200)]
    assert result_limit(limits) == 100
    assert result_limit([]) is None


@pytest.mark.rule("policy.notifications-withheld")
def test_notifications_are_withheld_where_the_result_is_redacted() -> None:
    redacts = Obligation(id="redact_result", paths=("**.iban",))
    assert withholds_notifications(call(obligations=(redacts,)))
    assert not withholds_notifications(call(obligations=(Obligation(id="limit_result", max_bytes=1),)))
