"""What a joiner remembers of its client's conversation, and what it makes of it when the owner is gone."""

import json
from typing import Any

import orjson
import pytest

from gateway.edge import wire
from gateway.edge.protocol import SUBSCRIPTION_KEY, VERSION_KEY
from gateway.edge.stdio import ANNOUNCEMENT
from gateway.joining import Conversation


def request(method: str, identifier: Any = 1, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}).encode()


def result(identifier: Any = 1, **members: Any) -> bytes:
    return wire.result_of(identifier, members).body


def exchanged(talk: Conversation, method: str, identifier: Any, **params: Any) -> None:
    talk.sent(request(method, identifier, **params))
    assert talk.received(result(identifier))


def lost(talk: Conversation) -> tuple[list[Any], list[Any]]:
    to_client, to_owner = talk.lost()
    return [json.loads(text) for text in to_client], [json.loads(text) for text in to_owner]


def acknowledged(identifier: Any) -> bytes:
    return wire.notification(
        "notifications/subscriptions/acknowledged", {"notifications": {}, "_meta": {SUBSCRIPTION_KEY: identifier}}
    )


def test_the_opening_is_remembered_once_it_was_answered() -> None:
    talk = Conversation()
    opening = request("initialize", 0)
    talk.sent(opening)
    assert talk.opening is None
    assert talk.received(result(0))
    assert talk.opening == opening
    assert lost(talk) == ([], [])


def test_an_opening_that_was_not_answered_is_put_again() -> None:
    talk = Conversation()
    talk.sent(request("initialize", 0))
    to_client, to_owner = lost(talk)
    assert to_client == []
    assert [each["method"] for each in to_owner] == ["initialize"]
    assert talk.received(result(0))
    assert talk.opening is not None


@pytest.mark.rule("owner.remembers")
def test_log_level_and_subscriptions_are_put_to_the_next_owner_and_their_answers_kept_back() -> None:
    talk = Conversation()
    exchanged(talk, "logging/setLevel", 1, level="debug")
    exchanged(talk, "logging/setLevel", 2, level="error")
    exchanged(talk, "resources/subscribe", 3, uri="a:1")
    exchanged(talk, "resources/subscribe", 4, uri="a:2")
    exchanged(talk, "resources/unsubscribe", 5, uri="a:1")
    to_client, to_owner = lost(talk)
    assert to_client == []
    assert [(each["method"], each["params"]) for each in to_owner] == [
        ("logging/setLevel", {"level": "error"}),
        ("resources/subscribe", {"uri": "a:2"}),
    ]
    assert talk.awaits_own_answers
    assert [talk.received(result(each["id"])) for each in to_owner] == [False, False]
    assert not talk.awaits_own_answers
    assert len(lost(talk)[1]) == 2  # and to the one after it


def test_what_was_refused_is_not_put_again() -> None:
    talk = Conversation()
    talk.sent(request("resources/subscribe", 1, uri="a:1"))
    assert talk.received(wire.error(1, -32602, "no").body)
    assert lost(talk) == ([], [])


@pytest.mark.rule("owner.in-doubt")
@pytest.mark.parametrize("modern", [False, True])
def test_a_call_on_its_way_is_answered_as_in_doubt(modern: bool) -> None:
    talk = Conversation()
    meta = {VERSION_KEY: "2026-07-28"} if modern else {}
    talk.sent(request("tools/call", "c-1", name="x", arguments={}, _meta=meta))
    assert talk.calls_in_flight == 1
    for identifier, call_id in (("c-1", "the-call"), ("another", "is-not-ours")):
        announcement = ANNOUNCEMENT + orjson.dumps({"id": identifier, "call_id": call_id})[1:]
        assert not talk.received(announcement), "it is not for the client"
    [answer], to_owner = lost(talk)
    assert to_owner == []
    assert answer["id"] == "c-1"
    assert answer["result"]["_meta"]["gateway/refusal"]["call_id"] == "the-call"
    assert answer["result"]["isError"] is True
    assert answer["result"]["_meta"]["gateway/refusal"]["executed"] == "unknown"
    assert answer["result"].get("resultType") == ("complete" if modern else None)
    assert "not known whether the tool ran" in answer["result"]["content"][0]["text"]
    assert lost(talk) == ([], [])


@pytest.mark.parametrize("method", ["prompts/get", "resources/read", "completion/complete", "vendor/act"])
def test_other_calls_on_their_way_are_answered_with_an_error(method: str) -> None:
    talk = Conversation()
    talk.sent(request(method, 7))
    [answer], _ = lost(talk)
    assert answer["error"]["data"]["code"] == "server.lost"


@pytest.mark.parametrize("method", ["ping", "tools/list", "server/discover", "resources/templates/list"])
def test_requests_without_effect_are_put_again_as_they_were(method: str) -> None:
    talk = Conversation()
    text = request(method, 7, cursor="c")
    talk.sent(text)
    assert talk.lost() == ([], [text])
    assert talk.received(result(7))


def test_a_cancelled_request_is_owed_nothing() -> None:
    talk = Conversation()
    talk.sent(request("tools/call", 7, name="x"))
    talk.sent(json.dumps({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}).encode())
    assert lost(talk) == ([], [])


def test_a_subscription_is_put_again_and_acknowledged_once() -> None:
    talk = Conversation()
    text = request("subscriptions/listen", 9, notifications={"toolsListChanged": True})
    talk.sent(text)
    assert talk.received(acknowledged(9))
    assert talk.lost() == ([], [text])
    assert not talk.received(acknowledged(9))
    assert talk.received(wire.notification("notifications/tools/list_changed", {}))
    assert talk.received(acknowledged(9))


@pytest.mark.rule("owner.asks-end")
def test_what_the_gone_owner_asked_of_the_client_is_taken_back() -> None:
    talk = Conversation()
    assert talk.received(wire.request("gateway-1", "sampling/createMessage", {}))
    assert talk.received(wire.request("gateway-2", "elicitation/create", {}))
    talk.sent(json.dumps({"jsonrpc": "2.0", "id": "gateway-1", "result": {}}).encode())
    to_client, _ = lost(talk)
    assert [(each["method"], each["params"]["requestId"]) for each in to_client] == [
        ("notifications/cancelled", "gateway-2")
    ]


def test_the_entries_of_a_batch_are_each_answered() -> None:
    talk = Conversation()
    entries = [json.loads(request("tools/call", 1, name="x")), json.loads(request("ping", 2))]
    talk.sent(json.dumps(entries).encode())
    assert talk.calls_in_flight == 1
    to_client, to_owner = lost(talk)
    assert [each["id"] for each in to_client] == [1, 2]
    assert to_owner == []


def test_the_answer_to_a_batch_is_known_as_such() -> None:
    talk = Conversation()
    talk.sent(b"[" + request("tools/call", 1, name="x") + b"," + request("ping", 2) + b"]")
    assert talk.received(b"[" + result(1) + b"," + result(2) + b"]")
    assert lost(talk) == ([], [])


@pytest.mark.parametrize("text", [b"", b"nonsense", b"[]", b"{}", b'{"id":null,"result":{}}', b'{"id":{},"result":{}}'])
def test_what_is_no_message_is_passed_on_and_forgotten(text: bytes) -> None:
    talk = Conversation()
    talk.sent(text)
    assert talk.received(text)
    assert lost(talk) == ([], [])


def test_answers_are_known_however_they_are_written() -> None:
    talk = Conversation()
    talk.sent(request("tools/call", 'a "quoted" \\ id', name="x"))
    assert talk.received(json.dumps({"result": {}, "id": 'a "quoted" \\ id', "jsonrpc": "2.0"}, indent=1).encode())
    assert talk.calls_in_flight == 0
