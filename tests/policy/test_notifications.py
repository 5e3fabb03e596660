"""What a tool server says in mid-call, where the call's result is to be redacted."""

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.adapters.system import EventFanout, SystemClock
from gateway.engine import Engine, Withholding
from gateway.model.call import Call, Obligation
from gateway.model.verdict import Completed, Outcome
from gateway.ports import Attempt, Caller
from tests.building import call
from tests.engine.test_engine import Keeping, Script

pytestmark = pytest.mark.anyio


class Listens:
    """A client that keeps what it hears and answers what it is asked."""

    capabilities: Mapping[str, Any] = {"elicitation": {}}
    wants_progress = True
    log_level: str | None = "debug"

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        self.heard.append(method)

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        return {key: {"result": {}} for key in requests}


class Talks:
    """A tool server that reports progress, logs and asks."""

    async def forward(self, call: Call, caller: Caller, attempt: Attempt) -> Outcome:
        await caller.notify("notifications/progress", {"message": "row DE89"})
        await caller.notify("notifications/message", {"data": "DE89"})
        assert await caller.ask({"a": {"method": "elicitation/create", "params": {}}}) == {"a": {"result": {}}}
        return Completed(result=b"{}")


@pytest.mark.rule("policy.notifications-withheld")
@pytest.mark.parametrize("redacts", [True, False])
async def test_progress_and_log_messages_are_withheld_where_the_result_is_redacted(redacts: bool) -> None:
    script, client = Script(), Listens()
    engine = Engine(stages=(), forwarder=Talks(), journal=Keeping(script), clock=SystemClock(), events=EventFanout())
    obligations = (Obligation(id="redact_result", paths=("**.iban",)),) if redacts else ()
    await engine.execute(call(obligations=obligations), client)
    assert client.heard == ([] if redacts else ["notifications/progress", "notifications/message"])


def test_a_withholding_client_wants_no_progress() -> None:
    assert Withholding(Listens()).wants_progress is False
