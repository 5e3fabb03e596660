"""Whatever a tool server sends, in whatever order: a call gets its own answer or none, and nothing ever raises."""

import asyncio
import json
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.model.verdict import Completed, Failed, Outcome, Refused
from gateway.ports import Attempt
from gateway.servers.endings import outcome
from gateway.servers.exchange import Exchange
from gateway.servers.link import Link, LinkKey
from gateway.servers.transport import Receiver
from tests.scripted_server import tool
from tests.servers.harness import Pool, RecordingCaller, stdio
from tests.servers.test_catalogue import built

CALLS = 4


class Memory:
    """A transport that carries messages to nobody and remembers them."""

    correlates = False
    stateless = False
    pid: int | None = None

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.busy = asyncio.Event()
        """Set when all calls were sent."""

    async def start(self, receiver: Receiver) -> None:
        pass

    async def send(
        self,
        data: bytes,
        exchange: Exchange | None,
        *,
        headers: bytes = b"",
        repeatable: bool = False,
        attempt: Attempt | None = None,
        timeout_seconds: float = 10.0,
    ) -> None:
        if attempt is not None:
            attempt.sent = True
        self.sent.append(json.loads(data))
        if len(self.sent) == CALLS:
            self.busy.set()

    def drop(self, exchange: Exchange) -> None:
        pass

    async def close(self) -> None:
        pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
IDS = st.integers(-1, CALLS + 2) | st.sampled_from([None, True, 1.0, "1", "2", 2**70]) | JSON
METHODS = st.sampled_from(
    [
        "notifications/progress",
        "notifications/message",
        "notifications/cancelled",
        "notifications/resources/updated",
        "notifications/tools/list_changed",
        "notifications/subscriptions/acknowledged",
        "notifications/elicitation/complete",
        "sampling/createMessage",
        "elicitation/create",
        "roots/list",
        "ping",
        "tools/call",
        "",
    ]
)
PARAMS = (
    JSON
    | st.fixed_dictionaries({"progressToken": IDS, "progress": st.integers()})
    | st.fixed_dictionaries({"requestId": IDS})
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | JSON,
        "id": IDS,
        "method": METHODS | JSON,
        "params": PARAMS,
        "result": st.fixed_dictionaries({"own": IDS}) | JSON,
        "error": st.fixed_dictionaries({"code": st.integers(), "message": st.text()}) | JSON,
    },
)
LINES = st.one_of(
    MESSAGES.map(lambda message: json.dumps(message).encode("utf-8", "surrogatepass")),
    st.lists(MESSAGES, max_size=3).map(lambda messages: json.dumps(messages).encode("utf-8", "surrogatepass")),
    st.binary(max_size=40),
)


def entitled(lines: list[bytes], identifier: int) -> bool:
    """Did the server send anything that is an answer to this request?"""
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        for message in value if isinstance(value, list) else [value]:
            match message:
                case {"method": _}:
                    pass
                case {"id": int(named)} if named is not True and named == identifier:
                    return True
                case _:
                    pass
    return False


@pytest.mark.rule("servers.anything-goes")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(LINES, max_size=12), st.sampled_from(["legacy", "modern"]))
def test_a_call_gets_its_own_answer_or_none(lines: list[bytes], era: Any) -> None:
    async def run() -> None:
        entry = built([tool("t")]).entries[0]
        carrier = Memory()

        async def outside(link: Link, method: str, params: Any) -> None:
            pass

        link = Link(
            settings=stdio("s", "x", []),
            key=LinkKey(isolation="session", owner="session-1"),
            make_transport=lambda spawn: carrier,
            capabilities={},
            client={},
            known_era=era,
            outside=outside,
            changed=lambda kind: None,
        )
        found: dict[int, Outcome] = {}
        callers = [RecordingCaller(wants_progress=True) for _ in range(CALLS)]

        async def one(index: int) -> None:
            call = Pool.make(None, "s", "t", {"index": index}, entry=entry)  # type: ignore[arg-type]
            ending = await link.forward(call, callers[index], Attempt(), anyio.current_time() + 60)
            found[index] = outcome(ending, call)

        async with anyio.create_task_group() as tasks:
            for index in range(CALLS):
                tasks.start_soon(one, index)
            await carrier.busy.wait()
            ids = {message["params"]["arguments"]["index"]: message["id"] for message in carrier.sent}
            try:
                for line in lines:
                    link.receive(line, None)
            except Exception:
                link.lost("it raised")
                raise
            for _ in range(5):
                await asyncio.sleep(0)
            answered = set(found)
            link.lost("the test is over")
        for index in range(CALLS):
            if index in answered:
                assert entitled(lines, ids[index])
            if not entitled(lines, ids[index]):
                assert isinstance(found[index], Failed)
            assert isinstance(found[index], Completed | Failed | Refused)
            for method, params in callers[index].notified:
                if method == "notifications/progress":
                    assert params["progressToken"] == ids[index]

    asyncio.run(run())
