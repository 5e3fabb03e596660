"""Values of the configuration's references are in no byte of a record, however a tool server writes them."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters import records
from gateway.adapters.journal import open_journal
from gateway.config import secrets
from gateway.config.secrets import SecretRegistry
from gateway.model.recording import RecordingSettings
from gateway.model.refusal import Code
from gateway.model.verdict import Completed, Refused, Step
from gateway.ports import Attempt
from tests.journal.building import TestClock, a_call, begin, end

SECRET = 'k3y/"with\\Zeichen-ß+ 42'


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> SecretRegistry:
    made = SecretRegistry()
    made.add(SECRET)
    monkeypatch.setattr(records, "REGISTRY", made)
    monkeypatch.setattr(secrets, "REGISTRY", made)
    return made


def holds_secret(data: bytes) -> bool:
    """Does it stand in any string of the JSON text, or of JSON within it?"""

    def walk(value: Any) -> bool:
        match value:
            case str():
                if SECRET in value:
                    return True
                try:
                    return not isinstance(inner := json.loads(value), str | int | float | None) and walk(inner)
                except ValueError:
                    return False
            case dict():
                return any(walk(key) or walk(member) for key, member in value.items())
            case list():
                return any(map(walk, value))
            case _:
                return False

    return walk(json.loads(data))


WRITTEN = [
    json.dumps(SECRET),
    json.dumps(SECRET, ensure_ascii=False),
    json.dumps(SECRET).replace("/", "\\/"),
    '"' + "".join(f"\\u{ord(character):04X}" for character in SECRET) + '"',
    json.dumps(json.dumps({"token": SECRET})),
    json.dumps(json.dumps({"token": SECRET}, ensure_ascii=False), ensure_ascii=False),
    json.dumps(f"before {SECRET} behind"),
]
"""Ways to write it as JSON."""


@pytest.mark.rule("evidence.secrets-in-records")
@pytest.mark.parametrize("written", WRITTEN)
def test_a_secret_that_a_tool_server_repeats_is_not_recorded_and_is_relayed(written: str) -> None:
    result = f'{{"content":[{{"type":"text","text":{written}}}],"big":123456789012345678901}}'.encode()
    outcome = Completed(result=result)
    encoded = records.encode_end(end(a_call(), outcome), RecordingSettings())
    (response,) = [each for each in encoded.payloads if each.role == "response"]
    assert response.data is not None
    assert holds_secret(result)
    assert not holds_secret(response.data)
    assert b"123456789012345678901" in response.data
    assert json.loads(response.commitment)["erased"] == ["result.content.0.text"]
    assert outcome.result == result


@pytest.mark.rule("evidence.secrets-in-records")
def test_a_secret_is_in_no_part_of_a_call_record() -> None:
    call = a_call(
        arguments={"text": SECRET, SECRET: [SECRET]}, why=SECRET, meta={"x": SECRET}, target=f"file:///{SECRET}"
    )
    steps = (Step(stage="validate", verdict="refuse", elapsed_us=1, facts={"said": {"deep": [SECRET]}}),)
    refused = Refused(
        stage="validate", code=Code.SCHEMA_INVALID, message=f"bad {SECRET}", policy=({"code": "a", "message": SECRET},)
    )
    attempt = Attempt(sent=True)
    attempt.notifications.append({"at": 1.0, "method": "notifications/message", "params": {"data": SECRET}})
    attempt.tries.append({"at": 1.0, "ended": f"refused: {SECRET}"})
    encoded = records.encode_end(end(call, refused, steps=steps, attempt=attempt), RecordingSettings())
    assert not holds_secret(encoded.body)
    for each in encoded.payloads:
        assert each.data is not None
        assert not holds_secret(each.data)
    assert not any(isinstance(each, str) and SECRET in each for each in encoded.summary)


def files_with(value: bytes, directory: Path) -> list[str]:
    return [file.name for file in directory.iterdir() if value in file.read_bytes()]


@pytest.mark.rule("evidence.secrets-in-records")
@pytest.mark.anyio
async def test_a_secret_is_in_no_byte_of_the_store(registry: SecretRegistry, tmp_path: Path) -> None:
    registry.add("plain-canary-77")
    path = tmp_path / "gateway.db"
    async with open_journal(path, clock=TestClock()) as journal:
        call = a_call(arguments={"text": "plain-canary-77"})
        await journal.begin(begin(call))
        await journal.record("state.changed", {"kind": "test", "subject": "plain-canary-77", "state": "y"})
        await journal.end(end(call, Completed(result=b'{"content":[{"type":"text","text":"plain-canary-77"}]}')))
        assert not files_with(b"plain-canary-77", tmp_path)
    assert not files_with(b"plain-canary-77", tmp_path)


def test_without_a_secret_in_it_a_result_stays_byte_for_byte(registry: SecretRegistry) -> None:
    for text in (r'{"a": "\u0041 \/ x"  ,"b":1.50}', '{"a":"é"}', "{}"):
        assert records.without_secrets(text.encode()) == (text.encode(), ())


@pytest.mark.rule("evidence.secrets-in-records")
def test_what_may_hold_a_secret_and_cannot_be_read_is_not_kept() -> None:
    settings = RecordingSettings()
    kept = records.payload("response", b'{"result":{"a":"\\u00', [], settings)
    assert kept.data is None
    assert json.loads(kept.commitment)["kept"] == "none"


@pytest.mark.rule("evidence.redacted-arguments-in-messages")
@pytest.mark.parametrize("value", ["hunter2-hunter2", 12345678901, ["deep-value", {"x": "other-value"}]])
def test_an_erased_argument_is_not_quoted_by_the_record_of_its_refusal(value: Any) -> None:
    shown = json.dumps(value)
    call = a_call(arguments={"password": value, "text": "resolve"})
    steps = (
        Step(stage="resolve", verdict="proceed", elapsed_us=1),
        Step(
            stage="validate", verdict="refuse", elapsed_us=1, facts={"problems": [{"message": f"{shown} does not fit"}]}
        ),
    )
    refused = Refused(
        stage="validate", code=Code.SCHEMA_INVALID, message=f"{value} is bad", policy=({"code": "a", "message": shown},)
    )
    finished = end(call, refused, steps=steps, began=False)
    body = json.loads(records.encode_end(finished, RecordingSettings(redact=("password", "text"))).body)
    for secret in ("hunter2", "12345678901", "deep-value", "other-value"):
        assert secret not in json.dumps(body)
    assert body["trail"][0]["stage"] == "resolve"
    assert body["command"]["id"] == call.id
    plain = json.loads(records.encode_end(finished, RecordingSettings()).body)
    assert plain["outcome"]["message"] == f"{value} is bad"


@pytest.mark.parametrize("count", [1, SecretRegistry.FEW, SecretRegistry.FEW + 1, 40])
def test_many_secrets_are_found_as_a_few_are(count: int) -> None:
    made = SecretRegistry()
    for number in range(count):
        made.add(f"secret+{number}/value")
        assert made.may_be_in(f'{{"a":"secret+{number}/value"}}'.encode())
        assert made.may_be_in(rb'{"a":"secret+0\/value"}')
        assert not made.may_be_in(b'{"a":"secret-0/value \\n"}')
