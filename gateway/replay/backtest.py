"""A whole recording put to a candidate policy: over several processes, or over an OPA server's connections."""

import concurrent.futures
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import anyio

from gateway.adapters.policy_files import PolicyFiles
from gateway.adapters.policy_opa import IN_FLIGHT, OpaPolicy
from gateway.model.errors import PolicyEvaluationError, PolicyLoadError, PolicyTimeout, PolicyUnavailable
from gateway.replay.judging import (
    ANSWER_SECONDS,
    Item,
    Judge,
    Tally,
    as_answer,
    failure,
    judge_all,
    judged,
)
from gateway.replay.reading import EVERYTHING

CHUNK = 500
"""Calls that one process judges at a time."""

ALONE = 2000
"""Up to so many calls no further process is started: it would take longer than they do."""


class OldPolicies(dict[str, Judge | str]):
    """The policies that decided, by revision, from kept documents; compiled when one is first asked for."""

    def __init__(self, documents: Iterable[bytes]) -> None:
        super().__init__()
        self._files: dict[str, tuple[PolicyFiles, str]] = {}
        self._problems: list[str] = []
        for document in documents:
            try:
                files, decision = PolicyFiles.of_document(document)
            except ValueError as error:
                self._problems.append(str(error))
            else:
                self._files[files.revision] = files, decision

    def get(self, revision: str, default: object = None) -> Judge | str | None:  # type: ignore[override]
        """The policy of a revision, or why it cannot be asked."""
        if revision not in self:
            found = self._files.get(revision)
            if found is None:
                self[revision] = f"the policy {revision[:12]} was not kept"
            else:
                try:
                    self[revision] = Judge(*found)
                except PolicyLoadError as error:
                    self[revision] = f"the policy {revision[:12]} does not compile any more: {error}"
        return self[revision]


_worker: tuple[Judge, OldPolicies] | None = None


def _start(files: PolicyFiles, decision: str, documents: tuple[bytes, ...]) -> None:
    """Make a worker process ready."""
    global _worker
    _worker = Judge(files, decision), OldPolicies(documents)


def _part(items: list[Item]) -> Tally:
    assert _worker is not None
    return judge_all(items, *_worker)


def backtest(
    items: Iterable[Item], candidate: PolicyFiles, decision: str, documents: Iterable[bytes], *, jobs: int = 1
) -> Tally:
    """Judge records by the embedded engine.

    Args:
        documents: the kept policies (`PolicyFiles.document`).
        jobs: processes, where there is enough to do.

    Raises:
        PolicyLoadError: the candidate does not compile.
    """
    kept = tuple(documents)
    rest = iter(items)
    first = list(islice(rest, ALONE + 1))
    here = Judge(candidate, decision)
    if jobs == 1 or len(first) <= ALONE:
        tally = judge_all(first, here, old := OldPolicies(kept))
        tally.add(judge_all(rest, here, old))
        return tally
    tally = Tally()
    with concurrent.futures.ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(candidate, decision, kept),
    ) as pool:
        waiting: deque[concurrent.futures.Future[Tally]] = deque()
        for part in _parts(first, rest):
            waiting.append(pool.submit(_part, part))
            if len(waiting) >= 3 * jobs:
                tally.add(waiting.popleft().result())
        while waiting:
            tally.add(waiting.popleft().result())
    return tally


def _parts(first: list[Item], rest: Iterator[Item]) -> Iterator[list[Item]]:
    for begin in range(0, len(first), CHUNK):
        yield first[begin : begin + CHUNK]
    while part := list(islice(rest, CHUNK)):
        yield part


async def backtest_remote(items: Iterable[Item], policy: OpaPolicy, documents: Iterable[bytes]) -> Tally:
    """Judge records by an OPA server: of what it can read nothing is known, so that whatever was erased may matter."""
    tally, old, source = Tally(), OldPolicies(documents), iter(items)

    async def ask() -> None:
        for item in source:
            steps = judged(item, tally, EVERYTHING, old)
            try:
                question = next(steps)
                while True:
                    question = steps.send(await _answer(policy, question))
            except StopIteration:
                pass

    async with anyio.create_task_group() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.start_soon(ask)
    return tally


async def _answer(policy: OpaPolicy, question: Mapping[str, object]) -> object:
    try:
        return as_answer(await policy.decide(question, timeout_seconds=ANSWER_SECONDS))
    except (PolicyTimeout, PolicyUnavailable, PolicyEvaluationError) as error:
        return failure(error)
