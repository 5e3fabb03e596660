"""Envelopes, reserved keys, event streams and headers, by table and by property."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import encode_header_value, find_invalid_x_mcp_header, mcp_param_headers, x_mcp_header_map

from gateway.servers import headers, wire
from gateway.servers.sse import Event, EventParser, EventTooLarge

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.sampled_from(["_meta", "gateway/x", "gateway/"]), inner, max_size=4)
    ),
    max_leaves=20,
)


def without_reserved(value: Any) -> Any:
    """What is to be left, the slow and obvious way."""
    match value:
        case dict():
            return {
                key: without_reserved(
                    {name: entry for name, entry in inner.items() if not name.startswith("gateway/")}
                    if key == "_meta" and isinstance(inner, dict)
                    else inner
                )
                for key, inner in value.items()
            }
        case list():
            return [without_reserved(inner) for inner in value]
        case _:
            return value


@pytest.mark.rule("servers.wire-bytes")
@given(JSON)
def test_reserved_keys_go_from_every_meta_and_nothing_else_goes(value: Any) -> None:
    for ascii_ in (True, False):
        data = json.dumps(value, ensure_ascii=ascii_).encode("utf-8", "surrogatepass")
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if b"\\ud" in data:
            continue  # a lone surrogate is no text: refused elsewhere
        assert json.loads(wire.strip_reserved(data)) == without_reserved(value)


@pytest.mark.rule("servers.wire-bytes")
@pytest.mark.parametrize(
    "spelling",
    [
        "gateway/refusal",
        "gateway\\/refusal",
        "\\u0067ateway/refusal",
        "gatewa\\u0079\\u002Frefusal",
        "gatewa\\u0079\\u002frefusal",
        "\\u0067\\u0061\\u0074\\u0065\\u0077\\u0061\\u0079\\u002f",
    ],
)
@pytest.mark.parametrize("meta", ["_meta", "\\u005fmeta", "_m\\u0065ta"])
def test_reserved_keys_are_found_however_they_are_escaped(spelling: str, meta: str) -> None:
    data = f'{{"x": 1.0, "{meta}": {{"{spelling}": 1, "kept": 1E2}}}}'.encode()
    stripped = wire.strip_reserved(data)
    assert json.loads(stripped) == {"x": 1.0, "_meta": {"kept": 100.0}}
    assert b"1E2" in stripped


@pytest.mark.rule("servers.wire-bytes")
@pytest.mark.parametrize(
    "data",
    [
        b'{ "a" : 1.50, "text": "gateway/x", "big": 123456789012345678901234567890 }',
        b'{"gateway/x": {"_meta": 1}, "_meta": ["gateway/x"]}',
        b'"gateway/x"',
        b'{"_meta":{"other/gateway/x":1}}',
    ],
)
def test_what_has_no_reserved_key_stays_byte_for_byte(data: bytes) -> None:
    assert wire.strip_reserved(data) == data


@pytest.mark.rule("servers.wire-bytes")
def test_nesting_beyond_the_bound_is_garbage_and_no_crash() -> None:
    deep = b'{"_meta":' * 200 + b'{"gateway/x":1}' + b"}" * 200
    with pytest.raises(wire.Garbage):
        wire.strip_reserved(deep)
    for data in (b"[" * 100_000, b'{"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"result":"\xff}', b"\xff"):
        with pytest.raises(wire.Garbage):
            wire.decode(data)


@pytest.mark.rule("servers.wire-bytes")
def test_a_result_on_several_lines_becomes_one_line_with_the_same_value() -> None:
    message = wire.decode(b'{"id":1,"result":{\r\n  "a": "x\\ny",\n\t"b": [\n1\n]}\n}')
    assert not isinstance(message.result, wire.Unset)
    relayed = wire.relayed(message.result)
    assert b"\n" not in relayed
    assert b"\r" not in relayed
    assert json.loads(relayed) == {"a": "x\ny", "b": [1]}


@pytest.mark.rule("servers.event-streams")
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_an_event_stream_is_read_however_it_is_cut(end: str, size: int) -> None:
    lines = [
        ": comment", "event: endpoint", "data: /messages?x=1", "",
        "data: {\"a\":1}", "id: 7", "retry: 250", "",
        "data:no blank", "data:second line", "", "",
        "event: empty", "",
        "data", "",
        "unknown: field", "data: ü€😀", "", "",
    ]  # fmt: skip
    stream = b"\xef\xbb\xbf" + end.join(lines).encode()
    found: list[Event] = []
    parser = EventParser(found.append, 1000)
    for at in range(0, len(stream), size):
        parser.feed(stream[at : at + size])
    assert found == [
        Event("endpoint", b"/messages?x=1"),
        Event("message", b'{"a":1}'),
        Event("message", b"no blank\nsecond line"),
        Event("message", b""),
        Event("message", "ü€😀".encode()),
    ]
    assert parser.last_event_id == "7"
    assert parser.retry_seconds == 0.25


@pytest.mark.rule("servers.event-streams")
@pytest.mark.parametrize(
    ("said", "seconds"),
    [("0", 0.1), ("3", 0.1), ("2000", 2.0), ("99999", 60.0), ("1" + "0" * 5000, 60.0), ("-1", None), ("1e3", None)],
)
def test_the_time_a_stream_asks_for_before_reconnecting_is_bounded(said: str, seconds: float | None) -> None:
    parser = EventParser(lambda _: None, 10_000)
    parser.feed(f"retry: {said}\n\n".encode())
    assert parser.retry_seconds == seconds


@pytest.mark.rule("servers.event-streams")
@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_an_event_beyond_the_bound_is_an_error_or_skipped_with_both_its_ends_known(size: int) -> None:
    stream = b'data: {"id":5,' + b"x" * 3000 + b',"end":1}\n\n' + b"data: next\n\n"
    strict = EventParser(lambda event: None, 1000)

    def feed_all() -> None:
        for at in range(0, len(stream), size):
            strict.feed(stream[at : at + size])

    with pytest.raises(EventTooLarge):
        feed_all()
    found: list[Event] = []
    skipped: list[tuple[bytes, bytes]] = []
    parser = EventParser(found.append, 1000, lambda head, tail: skipped.append((head, tail)))
    for at in range(0, len(stream), size):
        parser.feed(stream[at : at + size])
    assert found == [Event("message", b"next")]
    assert len(skipped) == 1
    assert b'"id":5' in skipped[0][0]
    assert b'"end":1' in skipped[0][1]


@pytest.mark.rule("servers.headers-as-sdk")
@given(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(["=?base64?eA==?=", " x", "x ", "", "\t", "ü", "a\r\nb: c"])
)
def test_header_values_are_encoded_as_the_sdk_does(value: str) -> None:
    assert headers.encoded(value) == encode_header_value(value)


SCHEMAS: list[Any] = [
    {"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": "A"}}},
    {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "integer", "x-mcp-header": "A-b"}}}}},
    {"type": "object", "properties": {"a": {"type": "number", "x-mcp-header": "A"}}},
    {"type": "object", "properties": {"a": {"type": ["string"], "x-mcp-header": "A"}}},
    {"type": "object", "properties": {"a": {"x-mcp-header": "A"}}},
    {"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": "A B"}}},
    {"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": ""}}},
    {"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": 1}}},
    {"type": "object", "x-mcp-header": "A"},
    {"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": "A"}, "b": {"type": "string", "x-mcp-header": "a"}}},
    {"type": "object", "properties": {"a": {"items": {"type": "string", "x-mcp-header": "A"}}}},
    {"type": "object", "allOf": [{"properties": {"a": {"type": "string", "x-mcp-header": "A"}}}]},
    {"type": "object", "$defs": {"d": {"properties": {"a": {"type": "string", "x-mcp-header": "A"}}}}},
    {"type": "object", "properties": {"a": {"default": {"x-mcp-header": "A"}}}},
    {"type": "object", "properties": "none"},
    {"type": "object", "properties": {"x-mcp-header": {"type": "string"}}},
    None,
]  # fmt: skip


@pytest.mark.rule("servers.headers-as-sdk")
@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_annotations_are_judged_and_read_as_the_sdk_does(schema: Any) -> None:
    if find_invalid_x_mcp_header(schema) is not None:
        with pytest.raises(ValueError, match="x-mcp-header"):
            headers.marked(schema)
        return
    marks = headers.marked(schema)
    assert dict(marks) == x_mcp_header_map(schema)
    for arguments in ({"a": "x"}, {"a": {"b": 3}}, {"a": True}, {"a": None}, {"a": ["x"]}, {}, {"a": "ü"}):
        assert dict(headers.of_arguments(marks, arguments)) == mcp_param_headers(x_mcp_header_map(schema), arguments)


@pytest.mark.rule("servers.doubtful-json")
@given(JSON, st.sampled_from(["\\ud83d", "\\uDE00", "\\ud83dx\\ude00"]))
def test_what_the_strict_decoder_gives_up_on_is_split_as_exactly(value: Any, half: str) -> None:
    inner = json.dumps({"v": value, "text": "@@"}).replace("@@", half)
    if json.dumps(value).count("\\ud") or "@@" in json.dumps(value):
        return
    for blank in ("", " \n"):
        data = f'{blank}{{{blank}"id"{blank}:{blank}7{blank},"x":[1,{{}}],"result":{inner},"jsonrpc":"2.0"{blank}}}{blank}'.encode()
        message = wire.decode(data)
        assert isinstance(message, wire.Doubtful)
        assert message.id == 7
        assert not isinstance(message.result, wire.Unset)
        assert bytes(message.result) == inner.encode()
        assert bytes(wire.members(message.result)["text"]) == f'"{half}"'.encode()
        assert wire.decode_batch(f"[1,{inner} , []]".encode())[1] == inner.encode()
    assert (
        wire.parse_mended(inner.encode())["text"]
        == {
            "\\ud83d": "\ufffd",
            "\\uDE00": "\ufffd",
            "\\ud83dx\\ude00": "\ufffdx\ufffd",
        }[half]
    )


@pytest.mark.rule("servers.doubtful-json")
@pytest.mark.parametrize(
    "data",
    [
        b'{"id":1,"result":{"a":"\\ud800"}',
        b'{"id":1,"result":{"a":"\\ud800"}}x',
        b'{"id":1,"result":{"a":"\\ud800"},}',
        b'{"id":1,"result":{"a":"\\ud800" "b"}}',
        b'{"id" 1,"result":"\\ud800"}',
        b'{id:1,"result":"\\ud800"}',
        b'{"id":true,"result":"\\ud800"}',
        b'{"id":[],"result":"\\ud800"}',
        b'{"id":1,"method":3,"params":"\\ud800"}',
        b'["\\ud800"]',
        b'"\\ud800"',
        b'{"id":1,"method":"notifications/message","params":[NaN,"\\ud800"]}',
        b'{"id":1,"result":[NaNs,"\\ud800"]}',
        b"",
        b"{",
        b'{"',
    ],
)
def test_what_is_not_json_stays_garbage(data: bytes) -> None:
    with pytest.raises(wire.Garbage):
        wire.decode(data)
