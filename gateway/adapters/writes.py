"""What belongs to a call and is committed with it: `Write`s of stages, turned into statements by their kind.

A stage that keeps something durable answers with `Write(kind="quota.reserved", data={...})`. Here the kind has a function
that says in SQL what this means; the journal runs it in the transaction of the call's begin or of its outcome. The function
is pure: it makes statements, it does not execute them, so that it serves any SQL store.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.model.call import Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One SQL statement with `?` parameters."""

    sql: str
    parameters: tuple[Any, ...] = ()
    rows: int | None = None
    """How many rows it must change; with another number the whole begin is taken back (`WriteConflict`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chained:
    """A record of its own in the chain (`hold.claimed`, ...), committed with the call's begin or outcome."""

    type: str
    body: Mapping[str, Any]


WriteKind = Callable[[Call | None, float, Mapping[str, Any]], Sequence[Statement | Chained]]
"""(the call, or None for a record that belongs to none; the instant, seconds since the epoch; the write's data)."""
