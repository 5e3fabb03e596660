"""Python source, line by line, with the blocks that Rego's control flow needs.

Rego's bodies are searches: an expression fails, or gives one or several solutions. Here a body is a ``while True:``
that ends in ``break``; an expression with several solutions opens a ``for`` in which the rest of the body stands. To
fail is therefore `break` outside of loops, and `continue` inside of one: no body needs a function of its own, and no
solution a generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MAX_BLOCKS = 18
"""CPython allows 20 loops in one another."""
SPLIT_BLOCKS = 9
"""From this depth on, closures become functions of their own."""


class TooDeep(Exception):
    """A rule nests more loops than Python can."""


@dataclass(slots=True)
class _Block:
    kind: str
    """`while` or `for`."""
    base: bool
    """The `while` of a body."""


class Writer:
    """Lines of one Python function, and the loops that are open at the current line."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.indent = 0
        self.blocks: list[_Block] = []
        self.temps = 0

    def line(self, text: str) -> None:
        self.lines.append("\t" * self.indent + text)

    def temp(self) -> str:
        self.temps += 1
        return f"_{self.temps}"

    @property
    def fail(self) -> str:
        """The statement that gives up the current solution."""
        return "break" if self.blocks[-1].kind == "while" else "continue"

    def fail_if(self, condition: str) -> None:
        self.line(f"if {condition}: {self.fail}")

    def open_for(self, header: str) -> None:
        self._push(_Block("for", False))
        self.line(header)
        self.indent += 1
        self.line("q.n -= 1")
        self.line("if q.n < 0: q.check()")

    def _push(self, block: _Block) -> None:
        self.blocks.append(block)
        if len(self.blocks) > MAX_BLOCKS:
            raise TooDeep

    def open_body(self) -> None:
        self._push(_Block("while", True))
        self.line("while True:")
        self.indent += 1

    def close_body(self, found: str = "") -> None:
        """Ends a body; with the name of a flag, its first solution ends the search."""
        if found:
            self.line(f"{found} = True")
            self.line("break")
        while not self.blocks[-1].base:
            self.blocks.pop()
            self.indent -= 1
            if found:
                self.line(f"if {found}: break")
        if not (found and self.lines[-1].strip() == "break"):
            self.line("break")
        self.blocks.pop()
        self.indent -= 1

    @contextmanager
    def function(self, header: str) -> Iterator[None]:
        """A function inside of the current one, with blocks of its own."""
        outer, self.blocks = self.blocks, []
        self.line(header)
        self.indent += 1
        try:
            yield
        finally:
            self.indent -= 1
            self.blocks = outer
