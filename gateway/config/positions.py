"""Which line of a TOML file a key stands on, so that an error can name it.

`tomllib` gives values without places. This walks the same text once more and notes the line of every key, table header
and array element. It runs after `tomllib` has accepted the text, so it may take validity for granted and only has to
know where strings, comments and brackets begin and end (TOML 1.0).
"""

import tomllib
from dataclasses import dataclass, field

Path = tuple[str | int, ...]
"""Keys and array indices from the root: `("quotas", 0, "match", "agent")`."""


def lines_of_keys(text: str) -> dict[Path, int]:
    """The 1-based line of every key, table and array element of `text`, which must be valid TOML."""
    walk = _Walk(text.replace("\r\n", "\n"))
    walk.document()
    return walk.lines


def line_of(lines: dict[Path, int], path: Path) -> int | None:
    """The line of `path`, or of its nearest ancestor that has one."""
    for length in range(len(path), 0, -1):
        if (line := lines.get(path[:length])) is not None:
            return line
    return None


@dataclass(slots=True)
class _Walk:
    text: str
    at: int = 0
    lines: dict[Path, int] = field(default_factory=dict)
    tables: dict[Path, int] = field(default_factory=dict)
    """How many `[[name]]` headers each array of tables has had."""

    def document(self) -> None:
        table: Path = ()
        while self._skip_blank():
            if self.text.startswith("[[", self.at):
                line = self._line()
                self.at += 2
                array = self._below_arrays(self._key("]"), last=False)
                self.at += 2
                index = self.tables.get(array, 0)
                self.tables[array] = index + 1
                table = (*array, index)
                self.lines.setdefault(array, line)
                self._note(table, line)
            elif self.text[self.at] == "[":
                line = self._line()
                self.at += 1
                table = self._below_arrays(self._key("]"), last=True)
                self.at += 1
                self._note(table, line)
            else:
                self._pair(table)

    def _below_arrays(self, key: Path, *, last: bool) -> Path:
        """A header's path with the index of the newest element behind every array of tables that it passes through."""
        path: Path = ()
        for position, part in enumerate(key):
            path = (*path, part)
            if path in self.tables and (last or position < len(key) - 1):
                path = (*path, self.tables[path] - 1)
        return path

    def _note(self, path: Path, line: int) -> None:
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def _line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1

    def _skip_blank(self) -> bool:
        """Past white space and comments; False at the end of the text."""
        while self.at < len(self.text):
            if self.text[self.at] == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif self.text[self.at] in " \t\n":
                self.at += 1
            else:
                return True
        return False

    def _key(self, end: str) -> Path:
        """A dotted key up to `end`, which is left unread."""
        start = self.at
        while self.text[self.at] != end:
            if self.text[self.at] in "\"'":
                self._string()
            else:
                self.at += 1
        parsed = tomllib.loads(f"{self.text[start : self.at].strip()} = 0")
        path: Path = ()
        value: object = parsed
        while isinstance(value, dict):
            part, value = next(iter(value.items()))
            path = (*path, part)
        return path

    def _pair(self, table: Path) -> None:
        line = self._line()
        path = (*table, *self._key("="))
        self._note(path, line)
        self.at += 1
        self._value(path)

    def _value(self, path: Path) -> None:
        self._skip_blank()
        match self.text[self.at]:
            case '"' | "'":
                self._string()
            case "[":
                self.at += 1
                index = 0
                while self._skip_blank() and self.text[self.at] != "]":
                    if self.text[self.at] == ",":
                        self.at += 1
                        continue
                    self._note((*path, index), self._line())
                    self._value((*path, index))
                    index += 1
                self.at += 1
            case "{":
                self.at += 1
                while self._skip_blank() and self.text[self.at] != "}":
                    if self.text[self.at] == ",":
                        self.at += 1
                        continue
                    self._pair(path)
                self.at += 1
            case _:
                while self.at < len(self.text) and self.text[self.at] not in ",]}#\n":
                    self.at += 1

    def _string(self) -> None:
        quote = self.text[self.at]
        if self.text.startswith(quote * 3, self.at):
            self.at += 3
            while not self.text.startswith(quote * 3, self.at):
                self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
            self.at += 3
            while self.text.startswith(quote, self.at):  # a string may end in up to two quotes of its own
                self.at += 1
            return
        self.at += 1
        while self.text[self.at] != quote:
            self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
        self.at += 1
