"""A gateway to be killed: imports once, then forks a gateway for each line on stdin, so that two hundred runs are quick.

A line is `{"config": PATH, "calls": [[TOOL, ARGUMENTS, KEY], ...], "waits": SECONDS}`. The child builds a whole gateway around the
configuration, makes all calls at once, prints `ready PID` before and `[INDEX, KIND]` after each, and `done` at the end.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio

from gateway import wiring
from gateway.config import load
from gateway.model.verdict import Completed, Failed, Held, Outcome
from tests.running import execute, until


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def kind(outcome: Outcome) -> str:
    match outcome:
        case Completed():
            return "completed"
        case Failed():
            return "in doubt" if outcome.in_doubt else "failed"
        case Held():
            return f"held {outcome.hold_id}"
        case _:
            return f"refused {outcome.code}"


async def gateway(order: dict[str, Any]) -> None:
    async with wiring.build(load(Path(order["config"])), watch=False) as runtime:
        await until(lambda: all(state.state == "available" for state in runtime.servers.states()))
        say(f"ready {os.getpid()}")

        async def one(index: int, tool: str, arguments: dict[str, Any], key: str | None) -> None:
            meta = {"gateway/idempotency-key": key} if key else {}
            say(json.dumps([index, kind(await execute(runtime, tool, arguments, meta=meta))]))

        async with anyio.create_task_group() as tasks:
            for index, (tool, arguments, key) in enumerate(order["calls"]):
                tasks.start_soon(one, index, tool, arguments, key)
        say("done")


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                anyio.run(gateway, order)
            except BaseException as error:  # noqa: BLE001 - the parent has to hear of it
                say(f"failed {type(error).__name__}: {error}")
                os._exit(1)
            os._exit(0)
        os.waitpid(child, 0)
        say("over")


if __name__ == "__main__":
    main()
