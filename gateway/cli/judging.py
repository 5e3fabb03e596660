"""What `replay rejudge` and `policy backtest` share: where questions come from, who judges them, what is reported."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import frame
from gateway.cli.frame import Negative, print_json, say
from gateway.cli.sources import store
from gateway.model.recording import CallFilter

if TYPE_CHECKING:
    from gateway.adapters.policy_files import PolicyFiles
    from gateway.adapters.recordings import CallRecord
    from gateway.replay.judging import Item, Tally


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of both commands."""
    for option in reversed(
        (
            click.option(
                "--policies", metavar="DIR|URL", help="The candidate: a directory, a bundle, or opa+http://HOST:PORT."
            ),
            click.option(
                "--limits",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                metavar="FILE",
                help="Judge the quotas and interrupts of this servers.toml, by a simulated clock.",
            ),
            click.option(
                "--html", "page", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write a page."
            ),
            click.option("--jobs", type=click.IntRange(1), metavar="N", help="Processes; default: one a core."),
            frame.json_option,
        )
    ):
        option(function)
    return function


class Source:
    """Recorded calls of the store, or of an exported file."""

    def __init__(self, file: Path | None, filter: CallFilter, stack: ExitStack) -> None:
        self._file, self._filter = file, filter
        self._raw: Any = None
        if file is None or _is_store(file):
            self._raw, self._file = stack.enter_context(store(file)), None
        self.name = str(file) if file is not None else "the store"

    def policies(self) -> list[bytes]:
        """The kept policies."""
        if self._file is None:
            from gateway.adapters import queries

            return queries.read_snapshots(self._raw, "policy")
        from gateway.adapters.recordings import snapshots_of

        with self._file.open("rb") as lines:
            return snapshots_of(lines, "policy")

    def records(self) -> "Sequence[CallRecord]":
        """The chosen calls with all that was kept of them."""
        from gateway.adapters import queries
        from gateway.adapters.recordings import chosen, read_recording

        if self._file is None:
            return read_recording(queries.export_lines(self._raw, self._filter)).calls
        with self._file.open("rb") as lines:
            return [call for call in read_recording(lines).calls if chosen(call.command, self._filter)]

    def items(self) -> "Iterator[Item]":
        """Each call's record and request."""
        from gateway.replay.judging import Item

        if self._file is None:
            from gateway.adapters import queries

            for data, request in queries.read_requests(self._raw, self._filter):
                yield Item(data, request)
            return
        from gateway.adapters.recordings import requests_of

        with self._file.open("rb") as lines:
            for data, request in requests_of(lines, self._filter):
                yield Item(data, request)


def _is_store(file: Path) -> bool:
    from gateway.adapters.imports import is_store

    return is_store(file)


def run(
    source: Source, policies: str | None, limits: Path | None, page: Path | None, jobs: int | None, as_json: bool
) -> None:
    """Judge, report, and exit with 1 where something is newly allowed or undecidable.

    Raises:
        Negative: the answer is no, or there is nothing to judge.
    """
    from gateway.replay import reporting

    if limits is not None and policies is not None:
        raise click.UsageError("--policies and --limits are judged one at a time")
    candidate, tally = _judged(source, policies, jobs) if limits is None else _limited(source, limits)
    if not tally.calls:
        raise Negative("there are no recorded calls to judge")
    if page is not None:
        page.write_text(reporting.as_html(tally, candidate, source.name, time.time()), encoding="utf-8")
        say(f"written: {page}")
    if as_json:
        print_json(reporting.as_json(tally, candidate))
    else:
        for line in reporting.as_text(tally, candidate):
            click.echo(line)
    if tally.newly_allowed or tally.undecidable:
        raise Negative("")


def _judged(source: Source, policies: str | None, jobs: int | None) -> "tuple[str, Tally]":
    """The candidate's name, and what judging found."""
    import anyio

    from gateway.replay.backtest import backtest, backtest_remote

    decision = "gateway/decision"
    if policies is None:
        shadow = frame.configuration().policy.shadow
        if shadow is None:
            raise click.UsageError("name the candidate with --policies; the configuration has no [policy] shadow")
        if shadow.path is None:
            raise click.UsageError("the shadow is an OPA server; name it with --policies opa+http://HOST:PORT")
        policies, decision = str(shadow.path), shadow.decision
    if policies.startswith(("opa+http://", "opa+https://")):
        from gateway.adapters.policy_opa import opa_policy

        url = policies.removeprefix("opa+")

        async def remote() -> "Tally":
            async with opa_policy(url, decision=decision) as policy:
                return await backtest_remote(source.items(), policy, source.policies())

        return policies, anyio.run(remote)
    files = _files(policies.removeprefix("embedded:"))
    tally = backtest(source.items(), files, decision, source.policies(), jobs=jobs or _cores())
    return f"{policies} ({files.revision[:12]})", tally


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _files(path: str) -> "PolicyFiles":
    from gateway.adapters.policy_files import read_policies

    return read_policies(Path(path), shown=(path,))


def _limited(source: Source, limits: Path) -> "tuple[str, Tally]":
    """Judge the quotas and interrupts of another configuration."""
    import anyio

    from gateway import limits as configured
    from gateway.config import load
    from gateway.playing import nothing
    from gateway.replay.limiting import limited

    configuration = load(limits, to_look=True)

    def cost(server: str, tool: str) -> float | None:
        settings = configuration.servers.get(server)
        return None if settings is None else settings.tool(tool).cost

    calls = source.records()
    tally = anyio.run(
        limited, calls, configured.quotas(configuration), configured.interrupts(configuration), nothing(), cost
    )
    return f"the limits of {limits}", tally
