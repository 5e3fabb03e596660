"""Which parts of the question a policy can look at: by the text of its modules, not by running it.

A question of which a part was erased can be judged again only if that part says nothing to the policy. Every reference to
`input` in the modules is taken as read, whether its rule is reached or not; what is not a constant in it stands for any key;
`input` that is handed on as a whole is read as a whole. So the answer may be "it reads it" too often, and never too seldom.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gateway.rego import ast
from gateway.rego.parser import parse_module

ANY = "*"

Path = tuple[str, ...]
"""Keys; `*` is any."""

EVERYTHING: frozenset[Path] = frozenset({()})
"""What a policy reads of which nothing is known."""


def reads(modules: Mapping[str, str]) -> frozenset[Path]:
    """The paths below `input` that the modules refer to."""
    found: set[Path] = set()
    for name, text in modules.items():
        module = parse_module(text, name)
        for each in module.imports:
            if _is_input(each.path.terms[0]):
                found.add(_path(each.path))
        for rule in module.rules:
            found.update(_of(rule))
    return frozenset(found)


def matters(erased: Iterable[Path], read: Iterable[Path]) -> bool:
    """Whether any of the erased paths, or a part of it, is read."""
    known = tuple(read)
    return any(_overlap(gone, path) for gone in erased for path in known)


def _overlap(left: Path, right: Path) -> bool:
    return all(a == b or ANY in (a, b) for a, b in zip(left, right, strict=False))


def _of(node: Any) -> Iterator[Path]:
    match node:
        case ast.Ref() if _is_input(node.terms[0]):
            yield _path(node)
            for term in node.terms[1:]:
                yield from _of(term)
        case ast.Var():
            if node.name == "input":
                yield ()
        case ast.With():
            yield from _of(node.value)  # the target is replaced, not read
        case list() | tuple():
            for each in node:
                yield from _of(each)
        case _ if dataclasses.is_dataclass(node):
            for field in dataclasses.fields(node):
                yield from _of(getattr(node, field.name))
        case _:
            pass


def _is_input(term: Any) -> bool:
    return isinstance(term, ast.Var) and term.name == "input"


def _path(ref: ast.Ref) -> Path:
    return tuple(
        str(term.value) if isinstance(term, ast.Scalar) and isinstance(term.value, str | int | float) else ANY
        for term in ref.terms[1:]
    )
