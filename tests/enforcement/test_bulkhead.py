"""The pool's shares: an agent takes at most half of a pool while others wait."""

from functools import partial

import anyio
import pytest

from gateway.adapters.system import SystemClock
from gateway.model.call import Call, Principal
from gateway.model.verdict import Completed, Refuse
from gateway.stages.bulkhead import Bulkhead, PoolRules
from tests.building import call, tool
from tests.running import until

pytestmark = pytest.mark.anyio

DONE = Completed(result=b"{}")


def bulkhead(most: int, queue: int) -> Bulkhead:
    rules = PoolRules(max_concurrency=most, queue=queue, queue_seconds=10.0)
    return Bulkhead(lambda risk: rules, lambda server: PoolRules(max_concurrency=1000), SystemClock())


def of(agent: str, number: int) -> Call:
    return call(tool(), id=f"{agent}-{number}", principal=Principal(id=agent))


@pytest.mark.rule("pool.half")
async def test_while_others_wait_an_agent_gets_no_more_than_half_of_a_pool() -> None:
    stage = bulkhead(4, 100)
    calls = {one.id: one for one in (*(of("greedy", n) for n in range(12)), *(of("modest", n) for n in range(4)))}
    admitted: list[str] = []

    async def ask(name: str) -> None:
        assert not isinstance(await stage.admit(calls[name]), Refuse)
        admitted.append(name)

    async with anyio.create_task_group() as tasks:
        for name in calls:
            if name.startswith("greedy"):
                tasks.start_soon(ask, name)
        await until(lambda: len(admitted) == 4)  # alone, it may have the whole pool
        for name in calls:
            if name.startswith("modest"):
                tasks.start_soon(ask, name)
        await until(lambda: any(use.waiting == 12 for use in stage.use()))
        running = list(admitted)
        while running:
            await stage.settle(calls[running.pop(0)], DONE)
            count = len(admitted)
            modest_waited = any(name.startswith("modest") and name not in admitted for name in calls)
            if count == len(calls):
                continue
            await until(partial(admitted.__getitem__, slice(count, None)))
            running.append(admitted[count])
            if modest_waited and admitted[count].startswith("greedy"):
                assert sum(name.startswith("greedy") for name in running) <= 2
    assert sorted(admitted[4:8]) != [name for name in sorted(admitted[4:8]) if name.startswith("greedy")]
    assert len(admitted) == len(calls)


async def test_a_waiter_that_is_cancelled_leaves_its_place_to_others() -> None:
    stage = bulkhead(1, 10)
    first, second, third = (of("a", n) for n in range(3))
    await stage.admit(first)
    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()

        async def cancelled() -> None:
            with scope:
                await stage.admit(second)

        tasks.start_soon(cancelled)
        await until(lambda: any(use.waiting == 1 for use in stage.use()))
        tasks.start_soon(stage.admit, third)
        await until(lambda: any(use.waiting == 2 for use in stage.use()))
        scope.cancel()
        await stage.settle(first, DONE)
    assert [(use.in_use, use.waiting) for use in stage.use() if use.pool.startswith("risk")] == [(1, 0)]
