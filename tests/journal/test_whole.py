"""What a whole gateway writes: every record meets its published schema, and recorded questions can be put again."""

import json
from pathlib import Path

import anyio
import pytest

from gateway.acts import ActRefused
from gateway.adapters import queries, records
from gateway.adapters.sqlite import read_only
from gateway.decide.hold import Operator
from gateway.model.events import AuthenticationRefused
from gateway.model.recording import RecordType
from tests.journal.test_records import validator
from tests.running import OPERATORS, execute, running, server_table, until
from tests.scripted_server import Scripted, tool

pytestmark = pytest.mark.anyio

ANN = Operator(id="ann", role="operator")

POLICY = {
    "gateway.rego": """package gateway

default allow := false

allow if not input.arguments.forbidden

deny contains {"code": "forbidden", "message": "no"} if input.arguments.forbidden

hold contains {"code": "write", "reason": "writes are approved"} if input.arguments.held

obligations contains {"id": "set_argument", "path": "limit", "value": 5} if input.arguments.limit > 5

decision := {"allow": allow, "deny": deny, "hold": hold, "obligations": obligations}
"""
}


@pytest.mark.rule("records.schemas")
@pytest.mark.rule("records.decisions")
async def test_every_record_of_a_whole_gateway_meets_its_schema_and_its_questions_get_the_same_answers(
    tmp_path: Path,
) -> None:
    server = Scripted(tmp_path / "server", {"tools": [tool("look")], "on": {"tools/call:look": [{"text": "seen"}]}})
    text = server_table(server) + OPERATORS
    head = 'durability = "process"\n'
    async with running(tmp_path, text, policies=POLICY, head=head) as runtime:
        gateway = runtime.gateway
        await execute(runtime, "s__look", {"x": 1}, meta={"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"})
        await execute(runtime, "s__look", {"limit": 9})
        await execute(runtime, "s__look", {"forbidden": True})
        await execute(runtime, "s__nothing")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(execute, runtime, "s__look", {"held": True})
            await until(lambda: runtime.book.pending() == 1)
            [hold] = runtime.book.all()
            await runtime.acts.perform("holds.show", ANN, {"id": hold.id})
            await runtime.acts.perform("holds.approve", ANN, {"id": hold.id})
        await runtime.acts.perform("pause", ANN, {"agent": "local", "reason": "test"})
        await runtime.acts.perform("resume", ANN, {"agent": "local"})
        with pytest.raises(ActRefused):
            await runtime.acts.perform("pause", None, {"agent": "local"})
        await runtime.acts.perform("reload", ANN, {})
        gateway.events.publish(AuthenticationRefused(at=0.0, reason="no key", remote="127.0.0.1"))
        await until(lambda: runtime.journal.status.queued == 0)
        policy = runtime.snapshots.current.policy
        await until(lambda: "auth.refused" in types(tmp_path))
        check = validator("record")
        asked = 0
        with read_only(tmp_path / "gateway.db") as raw:
            found = list(queries.read_records(raw))
        for record in found:
            problems = [
                f"{error.instance_path}: {error.message}" for error in check.iter_errors(json.loads(record.data))
            ]
            assert not problems, (record.type, problems)
            request = record.payloads.get("request", {})
            for decision in request.get("decisions", []):
                question = records.question(decision, request)
                assert json.dumps(await policy.decide(question, timeout_seconds=1), sort_keys=True, default=list) == (
                    json.dumps(decision["answer"], sort_keys=True)
                )
                asked += 1
        assert asked >= 6
    seen = types(tmp_path)
    assert seen >= {
        RecordType.CALL, RecordType.AUTH_REFUSED, RecordType.CONFIG_CHANGED, RecordType.OPERATOR_ACTED,
        RecordType.OPERATOR_VIEWED, RecordType.STATE_CHANGED, RecordType.PROCESS_STARTED, RecordType.PROCESS_STOPPED,
        RecordType.HOLD_OPENED, RecordType.HOLD_DECIDED, RecordType.HOLD_CLAIMED,
    }  # fmt: skip
    with read_only(tmp_path / "gateway.db") as raw:
        assert queries.verify(raw).fault is None


def types(directory: Path) -> set[str]:
    with read_only(directory / "gateway.db") as raw:
        return {record.type for record in queries.read_records(raw)}
