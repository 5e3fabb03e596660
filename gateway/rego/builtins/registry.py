"""Where builtins register, and what they see of an evaluation.

A builtin is a Python function of the context and its arguments, already evaluated::

    @builtin("concat")
    def concat(ctx: BuiltinContext, delimiter: Value, parts: Value) -> Value: ...

Argument and result types come from :mod:`.declarations` by name: the compiler checks calls against them, so a call whose
types are known to be wrong never runs. A value that is only known when it runs is the function's own to check
(:func:`operand`, :func:`operand_error`). The outcome is a value, :data:`~gateway.rego.values.UNDEFINED`, or

* :class:`BuiltinError`: `eval_builtin_error`, or undefined where builtin errors are not strict;
* :class:`OperandError`: the same with the code `eval_type_error` (OPA's "operand 1 must be string but got number").

A relation (`walk`) returns an iterable of values. Time, randomness and names come from the context, never from the
process. Work that grows with the arguments says so by `ctx.charge(n)`, which raises when the budget or the deadline is
spent; that exception is not to be caught.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from gateway.rego.builtins.declarations import DECLARATIONS
from gateway.rego.values import Value, type_name


class BuiltinError(Exception):
    """A builtin cannot compute its result; the message is OPA's, without the builtin's name."""


class OperandError(BuiltinError):
    """An argument has the wrong type or an illegal value (OPA's `eval_type_error`)."""


class UnsupportedError(BuiltinError):
    """OPA has a result for these arguments that cannot be reproduced exactly here.

    An error whether or not builtin errors are strict: undefined would be another answer than OPA's.
    """


class BuiltinContext(Protocol):
    """What a builtin sees of the query that calls it."""

    @property
    def time_ns(self) -> int | None:
        """The query's time in nanoseconds since the epoch; None where the caller gave none: then a clock is an error."""

    @property
    def seed(self) -> str | int | None:
        """What random builtins derive their results from; None where the caller gave none: then they are errors."""

    @property
    def query_cache(self) -> dict[Any, Any]:
        """A dictionary of this query's own, for results that must stay the same within it. Keys start with the builtin's name."""

    def charge(self, steps: int) -> None:
        """Takes `steps` off the query's budget and looks at the deadline.

        Raises:
            EvalError: one of them is spent.
        """

    def print(self, text: str) -> None:
        """Hands a line of `print` to the caller's sink."""


BuiltinFunction = Callable[..., Value]
_F = TypeVar("_F", bound=BuiltinFunction)


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What OPA declares of a builtin."""

    name: str
    args: tuple[str, ...]
    """Argument types, in the language of :mod:`.declarations`; `*T` last: any number more."""
    result: str
    nondeterministic: bool
    relation: bool
    deprecated: bool
    infix: str

    @property
    def arity(self) -> int:
        return len(self.args)


def _split(types: str) -> tuple[str, ...]:
    parts: list[str] = []
    depth, start = 0, 0
    for at, char in enumerate(types):
        if char in "[{<":
            depth += 1
        elif char in "]}>":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(types[start:at].strip())
            start = at + 1
    last = types[start:].strip()
    return (*parts, last) if last else tuple(parts)


def _declaration(line: str) -> Declaration:
    text, *flags = [part.strip() for part in line.split(" #")]
    name, _, rest = text.partition("(")
    args, _, result = rest.rpartition(") -> ")
    infix = next((flag.removeprefix("infix=") for flag in flags if flag.startswith("infix=")), "")
    return Declaration(
        name=name,
        args=_split(args),
        result=result,
        nondeterministic="nondeterministic" in flags,
        relation="relation" in flags,
        deprecated="deprecated" in flags,
        infix=infix,
    )


DECLARED: Final[dict[str, Declaration]] = {
    declared.name: declared for declared in map(_declaration, filter(None, DECLARATIONS.splitlines()))
}
"""Every builtin of OPA by name, whether this engine has it or not."""


def declare(line: str) -> None:
    """Declares a builtin that OPA does not have, in the language of :mod:`.declarations`, for its embedder to register."""
    declared = _declaration(line)
    DECLARED.setdefault(declared.name, declared)


_FUNCTIONS: Final[dict[str, BuiltinFunction]] = {}


def builtin(name: str) -> Callable[[_F], _F]:
    """Registers a function as the builtin `name`, which :data:`DECLARED` has to know."""
    if name not in DECLARED:
        raise ValueError(f"{name} is no builtin of OPA")

    def register(function: _F) -> _F:
        if name in _FUNCTIONS:
            raise ValueError(f"{name} is registered twice")
        _FUNCTIONS[name] = function
        return function

    return register


def functions() -> dict[str, BuiltinFunction]:
    """The registered functions by name (those of modules imported so far)."""
    return _FUNCTIONS


def operand_error(position: int, value: Value, *expected: str) -> OperandError:
    """OPA's error for the argument at `position` (from 1): `operand 1 must be string but got number`."""
    wanted = expected[0] if len(expected) == 1 else "one of {" + ", ".join(expected) + "}"
    return OperandError(f"operand {position} must be {wanted} but got {type_name(value)}")


def operand(value: Value, position: int, *expected: str) -> Value:
    """`value`, if its type's name is one of `expected`; raises :class:`OperandError` otherwise."""
    if type_name(value) not in expected:
        raise operand_error(position, value, *expected)
    return value


def element_error(position: int, container: Value, element: Value, *expected: str) -> OperandError:
    """OPA's error for an element: `operand 1 must be array of strings but got array containing number`."""
    wanted = f"{expected[0]}s" if len(expected) == 1 else "(any of) {" + ", ".join(expected) + "}"
    kind = type_name(container)
    return OperandError(f"operand {position} must be {kind} of {wanted} but got {kind} containing {type_name(element)}")


def load(modules: Iterable[str]) -> None:
    """Imports builtin modules of this package, so that they register."""
    import importlib

    for module in modules:
        importlib.import_module(f"gateway.rego.builtins.{module}")
