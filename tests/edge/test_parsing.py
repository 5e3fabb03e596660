"""Strict parsing: a value is taken unchanged or refused with the place; nothing else ever comes out of it."""

import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.parsing import MAX_DEPTH, Malformed, Notification, Request, Response, batch, message, parse

integers = st.integers(-(2**63), 2**64 - 1)
text = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_what_json_can_carry_is_taken_unchanged(value: Any) -> None:
    assert parse(orjson.dumps(value)) == value


@pytest.mark.rule("answer.strict-numbers")
@given(
    values, st.integers(2**64, 2**200) | st.integers(-(2**200), -(2**63) - 1), st.text('0123456789 \\"', max_size=40)
)
def test_an_integer_beyond_64_bits_is_refused_wherever_it_stands(value: Any, integer: int, words: str) -> None:
    body = b'{"jsonrpc":"2.0","id":7,"a":%s,"b":%s,"c":[{"d":%d}]}' % (
        orjson.dumps(words),
        orjson.dumps(value),
        integer,
    )
    with pytest.raises(Malformed) as refused:
        parse(body)
    assert refused.value.code == -32600
    assert refused.value.request_id == 7
    place = body.rindex(str(integer).encode())
    assert f"byte {place}" in refused.value.message


@given(st.text('0123456789\\"-', max_size=80))
def test_long_digits_in_a_string_are_only_text(words: str) -> None:
    assert parse(orjson.dumps({"a": words, words: 1})) == {"a": words, words: 1}


@pytest.mark.parametrize(
    "body", [b"18446744073709551615", b"-9223372036854775808", b"1e30", b"0.1234567890123456789012345"]
)
def test_numbers_that_fit_are_taken(body: bytes) -> None:
    assert parse(body) is not None


@pytest.mark.rule("answer.strict-numbers")
@pytest.mark.parametrize(
    "body",
    [b"NaN", b"Infinity", b"-Infinity", b"1e400", b'"\\ud800"', b'{"\\udfff": 1}', b'"\xed\xa0\x80"', b'"\xff"', b"\xef\xbb\xbf{}", b"", b"{", b"[1,]", b"01"],
)  # fmt: skip
def test_what_is_not_json_is_refused_as_such(body: bytes) -> None:
    with pytest.raises(Malformed) as refused:
        parse(body)
    assert refused.value.code == -32700
    assert refused.value.message


@pytest.mark.rule("answer.depth")
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_is_taken_up_to_128_and_refused_beyond(opening: str, closing: str) -> None:
    middle = "1"
    parse((opening * MAX_DEPTH + middle + closing * MAX_DEPTH).encode())
    for depth in (MAX_DEPTH + 1, 1000):
        with pytest.raises(Malformed):
            parse((opening * depth + middle + closing * depth).encode())


@pytest.mark.rule("answer.depth")
def test_sixty_thousand_levels_are_refused_at_once() -> None:
    before = time.process_time()
    for body in (b"[" * 60_000, b"[" * 60_000 + b"]" * 60_000, b'{"a":' * 60_000 + b"1" + b"}" * 60_000):
        with pytest.raises(Malformed):
            parse(body)
    assert time.process_time() - before < 1


def test_a_wide_value_is_not_a_deep_one() -> None:
    assert len(parse(orjson.dumps([{"a": []}] * 10_000))) == 10_000


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode) | values.map(orjson.dumps))
def test_nothing_but_malformed_comes_out_of_any_bytes(body: bytes) -> None:
    try:
        value = parse(body)
        message(value)
        if isinstance(value, list):
            batch(value)
    except Malformed as problem:
        if problem.code not in (-32700, -32600):
            raise AssertionError("another code") from problem


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("jsonrpc", "id", "method", "params", "result", "error"), values))
)
def test_any_object_is_a_message_or_malformed(value: dict[str, Any]) -> None:
    value.setdefault("jsonrpc", "2.0")
    try:
        taken = message(value)
    except Malformed:
        return
    match taken:
        case Request():
            assert value["method"] == taken.method
            assert type(taken.id) in (int, str)
        case Notification():
            assert "id" not in value
        case Response():
            assert ("result" in value) or ("error" in value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "array"),
        (1, "no object"),
        ({"id": 1, "method": "a"}, "jsonrpc"),
        ({"jsonrpc": "1.0", "id": 1, "method": "a"}, "jsonrpc"),
        ({"jsonrpc": "2.0", "id": 1}, "method"),
        ({"jsonrpc": "2.0", "id": 1, "method": 5}, "method"),
        ({"jsonrpc": "2.0", "id": 1, "method": "a", "params": [1]}, "params"),
        ({"jsonrpc": "2.0", "id": None, "method": "a"}, "id"),
        ({"jsonrpc": "2.0", "id": 1.5, "method": "a"}, "id"),
        ({"jsonrpc": "2.0", "id": True, "method": "a"}, "id"),
        ({"jsonrpc": "2.0", "id": "x" * 2000, "method": "a"}, "id"),
        ({"jsonrpc": "2.0", "id": 1, "result": {}, "error": {}}, "either"),
        ({"jsonrpc": "2.0", "result": {}}, "id"),
    ],
)
def test_a_malformed_message_is_refused_with_what_is_wrong(value: Any, words: str) -> None:
    with pytest.raises(Malformed, match=words) as refused:
        message(value)
    assert refused.value.code == -32600


def test_a_batch_is_neither_empty_nor_endless() -> None:
    wrong: list[list[Any]] = [[], [{}] * 101]
    for entries in wrong:
        with pytest.raises(Malformed):
            batch(entries)
    assert [type(one).__name__ for one in batch([{"jsonrpc": "2.0", "id": 1, "method": "ping"}, 5])] == [
        "Request",
        "Malformed",
    ]
