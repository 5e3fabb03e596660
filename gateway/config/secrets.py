"""Values that nobody is shown, and references to them: `${env:NAME}`, `${file:PATH}`, `${exec:COMMAND}`.

A reference is resolved once, when the configuration is loaded. What comes out is a `Secret`, whose text is the reference
and never the value, and is noted in a `SecretRegistry`, with which every sink (log lines, error texts, records) erases it.
"""

import json
import os
import re
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.model.errors import GatewayError

EXEC_TIMEOUT_SECONDS = 10.0
ERASED = "***"

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<kind>[^:{}]*):(?P<what>[^}]*)\}|\$\{")
_SECRET_NAME = re.compile(
    r"token|secret|passw|passphrase|api[-_]?key|access[-_]?key|private|credential|authorization|cookie|bearer|(^|[-_])(key|pat|auth|pwd|dsn)($|[-_])",
    re.IGNORECASE,
)


_NO_SECRETS = frozenset({"HOME", "PATH", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR", "PWD", "TERM"})
"""Variables whose values are everywhere anyway; erasing them would garble every path in the log."""


class UnresolvedReference(GatewayError):
    """A reference that cannot be resolved. The text names the reference and the fault, never a value."""


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A string that shows itself only to who calls `reveal()`. Two are equal where their values are."""

    value: str
    shown: str = field(default=ERASED, compare=False)
    """What stands for it in output: the reference as written, or `***`."""

    def reveal(self) -> str:
        """The value itself. Never log or show what this returns."""
        return self.value

    def __str__(self) -> str:
        return self.shown

    def __repr__(self) -> str:
        return f"Secret({self.shown!r})"

    def __bool__(self) -> bool:
        return bool(self.value)


class SecretRegistry:
    """Every secret value that this process has resolved, so that sinks can erase them.

    Values are added and never removed: a secret of a former configuration is still a secret.
    """

    SHORTEST = 6
    """Shorter values, and numbers of fewer than ten digits, are not looked for inside other text: erasing every `8080`
    would destroy the text and hide nothing."""

    FEW = 4
    """Up to so many words are looked for one by one, which is faster; more of them at once."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._ordered: tuple[str, ...] = ()
        """Longest first, so that a value that contains another one goes as a whole."""
        self._escaped: tuple[str, ...] = ()
        """As they stand in JSON text."""
        self._words: tuple[bytes, ...] = ()
        """What to look for in the bytes of JSON text; made when it is first needed."""
        self._raw_words: tuple[bytes, ...] = ()
        """The same for text in bytes that nothing escapes."""
        self._matchers: dict[tuple[bytes, ...], Any] = {}
        """Find any of so many words at once."""

    def add(self, value: str) -> None:
        """Take note of one value, also as it stands in a URL and in JSON that is itself a string of JSON.

        A multi-line value also counts line by line (keys are printed that way).
        """
        before = len(self._values)
        for part in {value, *value.splitlines()}:
            stripped = part.strip()
            if len(stripped) >= self.SHORTEST and not (stripped.isdigit() and len(stripped) < 10):
                self._values.add(stripped)
                self._values.update(json.dumps(stripped, ensure_ascii=ascii)[1:-1] for ascii in (True, False))
                self._values.add(quote(stripped, safe="", errors="replace"))
        if len(self._values) != before:
            self._words, self._raw_words, self._matchers = (), (), {}
            self._ordered = tuple(sorted(self._values, key=lambda value: (-len(value), value)))
            escaped = {json.dumps(value, ensure_ascii=ascii)[1:-1] for value in self._values for ascii in (True, False)}
            self._escaped = tuple(escaped)

    def redact(self, text: str) -> str:
        """`text` with every known value replaced by `***`."""
        for value in self._ordered:
            if value in text:
                text = text.replace(value, ERASED)
        return text

    def redact_value(self, value: object) -> object:
        """The same for every string inside a JSON-like value; everything else is returned as it is."""
        match value:
            case str():
                return self.redact(value)
            case dict():
                return {self.redact_value(key): self.redact_value(item) for key, item in value.items()}
            case list() | tuple():
                return [self.redact_value(item) for item in value]
            case _:
                return value

    def in_json(self, text: str) -> bool:
        """Does a known value stand in this JSON text? Quick, so that the common line needs no more than this."""
        return any(value in text for value in self._escaped)

    def may_be_in(self, data: bytes) -> bool:
        """May a known value stand in these bytes of JSON text? Quick; the answer is also yes where characters are escaped
        that need not be (`\\/`, `\\u0041`), which only a parser can tell."""
        if not self._values:
            return False
        words = self._words
        if not words:
            escaped = {json.dumps(value, ensure_ascii=False)[1:-1].encode("utf-8", "replace") for value in self._values}
            words = self._words = tuple(sorted(escaped))
        if b"\\" in data and (b"\\u" in data or b"\\/" in data):
            return True
        return self._stands_in(words, data)

    def may_be_in_raw(self, data: bytes) -> bool:
        """May a known value stand in these bytes, in which texts are plain UTF-8 (MessagePack)?"""
        if not self._values:
            return False
        words = self._raw_words
        if not words:
            words = self._raw_words = tuple(sorted({value.encode("utf-8", "replace") for value in self._values}))
        return self._stands_in(words, data)

    def _stands_in(self, words: tuple[bytes, ...], data: bytes) -> bool:
        """Does one of the words stand in the data?"""
        if len(words) <= self.FEW:
            for word in words:  # noqa: SIM110 - a generator would cost more than the search
                if word in data:
                    return True
            return False
        matcher = self._matchers.get(words)
        if matcher is None:
            import re2  # commands that judge nothing do without

            options = re2.Options()
            options.encoding = re2.Options.Encoding.LATIN1  # bytes, whatever they mean
            matcher = re2.compile(b"|".join(map(re2.escape, words)), options)
            if words is self._words or words is self._raw_words:  # no other thread has added one meanwhile
                self._matchers[words] = matcher
        return matcher.search(data) is not None

    def __len__(self) -> int:
        return len(self._values)


REGISTRY = SecretRegistry()
"""The process's own. There is one, because a secret is one wherever it turns up."""


def looks_secret(name: str) -> bool:
    """Does an environment variable or header of this name usually hold a secret?"""
    return _SECRET_NAME.search(name) is not None


def has_reference(text: str) -> bool:
    """Does `text` contain `${…}` that would be substituted?"""
    return any(match.group() != "$${" for match in _REFERENCE.finditer(text))


def resolve(
    text: str, *, directory: Path, name: str = "", registry: SecretRegistry = REGISTRY, run: bool = True
) -> Secret:
    """`text` with its references replaced.

    Args:
        text: as written in the configuration. `$${` becomes a literal `${`.
        directory: where relative `${file:}` paths and `${exec:}` commands start from.
        name: the variable or header it is for; a literal under a name like `API_TOKEN` counts as a secret too.
        registry: takes note of every value that came from a reference.
        run: run `${exec:}` commands; where not, they count as not resolvable.

    Raises:
        UnresolvedReference: a reference that is malformed or cannot be resolved.
    """
    referenced = False

    def replace(match: re.Match[str]) -> str:
        nonlocal referenced
        if match.group() == "$${":
            return "${"
        kind, what = match.group("kind"), match.group("what")
        if kind not in {"env", "file", "exec"} or not what or not what.strip():
            raise UnresolvedReference(
                f"{text[match.start() : match.start() + 40]!r} is no reference: ${{env:NAME}}, ${{file:PATH}} and "
                "${exec:COMMAND} are, and $${ is a literal ${"
            )
        if kind == "exec" and not run:
            raise UnresolvedReference(f"{match.group()}: is not run by this command")
        value = _value(kind, what.strip(), directory)
        if kind == "env" and what.strip() in _NO_SECRETS:
            return value
        referenced = True
        registry.add(value)
        return value

    value = _REFERENCE.sub(replace, text)
    if referenced:
        if value != text:
            registry.add(value)
        return Secret(value, shown=text)
    if looks_secret(name):
        registry.add(value)
    return Secret(value)


def _value(kind: str, what: str, directory: Path) -> str:
    reference = f"${{{kind}:{what}}}"
    if kind == "env":
        if (found := os.environ.get(what)) is None:
            raise UnresolvedReference(f"{reference}: the environment variable {what} is not set")
        return found
    if kind == "file":
        path = directory / Path(what).expanduser()
        try:
            return path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UnresolvedReference(f"{reference}: {_reason(error)}") from None
    try:
        argv = shlex.split(what)
    except ValueError as error:
        raise UnresolvedReference(f"{reference}: {error}") from None
    try:
        done = subprocess.run(  # the operator wrote this command; no shell sees it
            argv,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=EXEC_TIMEOUT_SECONDS,
            check=False,
        )
        output = done.stdout.decode("utf-8").rstrip("\r\n")
    except subprocess.TimeoutExpired:
        raise UnresolvedReference(f"{reference}: no answer within {EXEC_TIMEOUT_SECONDS:g} s") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UnresolvedReference(f"{reference}: {_reason(error)}") from None
    if done.returncode != 0:
        raise UnresolvedReference(f"{reference}: the command ended with status {done.returncode}")
    return output


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else "it is not UTF-8 text"
