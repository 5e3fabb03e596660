"""What the policy demands beside its answer, carried out: path globs, redaction, changed arguments, limits. Pure.

Theory of operation
-------------------
A path glob is a list of segments between dots. `*` stands for any one key or index, `**` for any number of segments
(none included), and within a segment `*` and `?` are wildcards: `**.iban`, `accounts.*.number`, `rows.0.id`, `*_token`.
`rows[0].id` is the same as `rows.0.id`; a backslash takes the meaning from the character behind it (`a\\.b` is one key).

`redact` walks a document once with the set of all globs' positions, as a non-deterministic automaton: time grows with the
document times the globs' segments, never with their combinations. What is erased keeps its JSON type, so that a client
that reads the document by its schema still can: `"***"`, `0`, `false`, `null`, `{}`, `[]`. A string that is itself the
text of a JSON object or array is looked into as well: tools often put JSON into strings.

`redact_result` goes through the whole result of a call. A part that cannot be looked into (free text, an image) may hold
what the policy wants erased, so a result with such a part is withheld as a whole.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from gateway.model.call import Call, Obligation

MAX_DEPTH = 128
"""Documents nested deeper cannot be redacted (and are refused as requests)."""

_MAX_EMBEDDED = 8
"""How many levels of JSON within strings are looked into."""


class GlobError(ValueError):
    """A path glob that cannot be read; the text quotes it."""


class PathError(ValueError):
    """A concrete path that cannot be read, or not be set in a document."""


class Unredactable(ValueError):
    """A part of a document cannot be looked into; the text says which and why."""


# --- path globs -----------------------------------------------------------------------------------------------------


class _AnyNumber:
    """`**`: any number of segments, none included."""


class _AnyOne:
    """`*`: any one segment."""


_ANY_NUMBER, _ANY_ONE = _AnyNumber(), _AnyOne()

Segment = str | re.Pattern[str] | _AnyNumber | _AnyOne


@dataclass(frozen=True, slots=True)
class Glob:
    """A compiled path glob."""

    text: str
    segments: tuple[Segment, ...]


@lru_cache(maxsize=4096)
def compile_glob(text: str) -> Glob:
    """Read a path glob.

    Raises:
        GlobError: it is empty, has an empty segment, or a backslash at its end.
    """
    segments: list[Segment] = []
    for raw in _split(text, GlobError):
        if raw == "**":
            if not (segments and segments[-1] is _ANY_NUMBER):
                segments.append(_ANY_NUMBER)
        elif raw == "*":
            segments.append(_ANY_ONE)
        elif "**" in raw.replace("\\*", ""):
            raise GlobError(f"the path glob {text!r} has `**` within a segment; it stands between dots")
        elif re.search(r"(?<!\\)(?:\\\\)*[*?]", raw):
            segments.append(re.compile(_pattern(raw), re.DOTALL))
        else:
            segments.append(_unescape(raw))
    return Glob(text, tuple(segments))


@lru_cache(maxsize=1024)
def concrete_path(text: str) -> tuple[str, ...]:
    """Read a path without wildcards (`set_argument`): its keys and indexes.

    Raises:
        PathError: it is empty, has an empty segment, or a wildcard.
    """
    segments = []
    for raw in _split(text, PathError):
        if re.search(r"(?<!\\)(?:\\\\)*[*?]", raw):
            raise PathError(f"the path {text!r} has a wildcard; one argument is set, by its own path")
        segments.append(_unescape(raw))
    return tuple(segments)


def _split(text: str, error: type[ValueError]) -> list[str]:
    """The raw segments of a path: split at dots and brackets that no backslash precedes."""
    segments: list[str] = []
    current, in_segment, at = "", False, 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            if at + 1 == len(text):
                raise error(f"the path {text!r} ends with a backslash")
            current, in_segment, at = current + text[at : at + 2], True, at + 2
            continue
        if char == ".":
            if not in_segment:
                raise error(f"the path {text!r} has an empty segment")
            segments.append(current)
            current, in_segment = "", False
            if at + 1 == len(text):
                raise error(f"the path {text!r} ends with a dot")
        elif char == "[":
            index = re.compile(r"\[(\d+|\*)\](?=[.\[]|$)").match(text, at)
            if index is None:
                raise error(f"the path {text!r} has a bracket that is no index; write `\\[` for the character")
            if in_segment:
                segments.append(current)
            segments.append(index[1])
            current, in_segment, at = "", False, index.end()
            if at < len(text) and text[at] == ".":
                at += 1
                if at == len(text):
                    raise error(f"the path {text!r} ends with a dot")
            continue
        else:
            current, in_segment = current + char, True
        at += 1
    if in_segment:
        segments.append(current)
    if not segments:
        raise error("a path is empty")
    return segments


def _unescape(raw: str) -> str:
    return re.sub(r"\\(.)", r"\1", raw, flags=re.DOTALL)


def _pattern(raw: str) -> str:
    """The regular expression of a segment with wildcards; anchored, and linear in what it is put to.

    Each `*` but the last is followed by a literal, and is matched lazily within a possessive group, so that there is
    nothing to go back to.
    """
    parts: list[str] = []
    for token in re.findall(r"\\.|\*|\?|[^\\*?]+", raw, flags=re.DOTALL):
        if token == "*":
            parts.append("*")
        elif token == "?":
            parts.append(".")
        else:
            parts.append(re.escape(_unescape(token)))
    pieces = [""]
    for part in parts:
        if part == "*":
            pieces.append("")
        else:
            pieces[-1] += part
    head, *middle = pieces
    if not middle:
        return head + r"\Z"
    *inner, tail = middle
    return head + "".join(f"(?>.*?{piece})" for piece in inner if piece) + f".*{tail}" + r"\Z"


# --- redaction ------------------------------------------------------------------------------------------------------


def redact(value: Any, globs: Iterable[str]) -> tuple[Any, tuple[str, ...]]:
    """A copy of a JSON value in which what the globs name is erased, and the paths of what was erased.

    Parts that nothing names are shared with the original. An erased value keeps its JSON type. Paths are concrete
    (`rows.0.iban`), in document order; within a string that holds JSON they continue behind it.

    Raises:
        GlobError: a glob cannot be read.
        Unredactable: the value is nested deeper than `MAX_DEPTH`.
    """
    states = frozenset((glob.segments, 0) for glob in map(compile_glob, globs))
    if not states:
        return value, ()
    erased: list[str] = []
    return _redact(value, _closure(states), (), erased, MAX_DEPTH, _MAX_EMBEDDED), tuple(erased)


def redact_arguments(arguments: Any, globs: Iterable[str]) -> tuple[Any, tuple[str, ...]]:
    """As `redact`, for arguments by themselves: globs may begin with `arguments.`, as they do towards a record.

    Raises:
        GlobError, Unredactable: as `redact`.
    """
    wanted = tuple(globs)
    return redact(arguments, dict.fromkeys((*wanted, *(glob.removeprefix("arguments.") for glob in wanted))))


State = tuple[tuple[Segment, ...], int]


def _closure(states: Iterable[State]) -> frozenset[State]:
    """The states and those that they reach without a step: a `**` may stand for nothing."""
    found: set[State] = set()
    for segments, at in states:
        found.add((segments, at))
        while at < len(segments) and segments[at] is _ANY_NUMBER:
            at += 1
            found.add((segments, at))
    return frozenset(found)


def _step(states: frozenset[State], key: str) -> frozenset[State]:
    """The states after one key or index."""
    after: list[State] = []
    for segments, at in states:
        if at == len(segments):
            continue
        segment = segments[at]
        if segment is _ANY_NUMBER:
            after.append((segments, at))
        elif segment is _ANY_ONE:
            after.append((segments, at + 1))
        elif isinstance(segment, str):
            if segment == key:
                after.append((segments, at + 1))
        elif isinstance(segment, re.Pattern) and segment.match(key):
            after.append((segments, at + 1))
    return _closure(after) if after else frozenset()


def _redact(
    value: Any, states: frozenset[State], path: tuple[str, ...], erased: list[str], depth: int, embedded: int
) -> Any:
    if any(at == len(segments) for segments, at in states):
        erased.append(".".join(path))
        return _blank(value)
    if isinstance(value, str):
        return _redact_text(value, states, path, erased, depth, embedded)
    if not isinstance(value, Mapping | list | tuple):
        return value
    if depth == 0:
        raise Unredactable(f"it is nested deeper than {MAX_DEPTH} levels")
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    changed: dict[Any, Any] = {}
    for key, item in items:
        name = key if isinstance(key, str) else str(key)
        below = _step(states, name)
        if below:
            new = _redact(item, below, (*path, name.replace(".", "\\.")), erased, depth - 1, embedded)
            if new is not item:
                changed[key] = new
    if not changed:
        return value
    if isinstance(value, Mapping):
        return {key: changed.get(key, item) for key, item in value.items()}
    return [changed.get(index, item) for index, item in enumerate(value)]


def _redact_text(
    text: str, states: frozenset[State], path: tuple[str, ...], erased: list[str], depth: int, embedded: int
) -> str:
    """A string whose text is a JSON object or array is redacted within; any other is left as it is."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        document = parse_exactly(text)
    except Unredactable:
        raise
    except ValueError:
        return text
    if embedded == 0:
        raise Unredactable("it has JSON within strings within JSON too many times")
    before = len(erased)
    document = _redact(document, states, path, erased, depth - 1 if depth else 0, embedded - 1)
    return _dump(document) if len(erased) > before else text


def _blank(value: Any) -> Any:
    """The value of the same JSON type that says nothing."""
    match value:
        case None:
            return None
        case bool():
            return False
        case int() | float():
            return 0
        case str():
            return "***"
        case Mapping():
            return {}
        case _:
            return []


def parse_exactly(text: str | bytes) -> Any:
    """JSON text as a value in which integers of any size are exact.

    Raises:
        Unredactable: a key is there twice (readers differ in which they take), or it is nested too deeply.
        ValueError: it is no JSON by RFC 8259 (`NaN` is none).
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except RecursionError:
        raise Unredactable("it is nested too deeply") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise Unredactable("a key is there twice in one object")
    return document


# --- results ------------------------------------------------------------------------------------------------------


def redact_result(result: bytes, globs: Sequence[str]) -> tuple[bytes, tuple[str, ...]]:
    """A call's result (the JSON text of an MCP result object) with what the globs name erased, and what was erased.

    Globs apply to each document of the result, from that document's root: `structuredContent`, each text block and each
    embedded text resource as JSON, and what else the result and its blocks hold. Where structured content is a bare value
    that the MCP SDK wrapped (`{"result": [...]}`), its text blocks show the value, or its items one by one, and globs that
    begin at the wrapper reach them there too. Without a match the bytes are as before.

    Raises:
        Unredactable: a part cannot be looked into: text that is no JSON, images, audio, blobs, unknown kinds of content.
    """
    try:
        document = parse_exactly(result)
    except ValueError as error:
        raise Unredactable(f"the result cannot be parsed: {error}") from None
    if not isinstance(document, dict):
        raise Unredactable("the result is no object")
    walk = _Walk.of(globs)
    if _wraps(document.get("structuredContent")):
        walk.wrapped = _step(walk.states, "result")
    new: dict[str, Any] = {}
    for key, value in document.items():
        match key:
            case "structuredContent":
                new[key] = walk.document(value, (key,))
            case "content":
                new[key] = walk.blocks(value, (key,))
            case "contents":
                new[key] = [walk.resource(item, (key, str(at))) for at, item in enumerate(_list(value, key))]
            case "messages":
                new[key] = [walk.message(item, (key, str(at))) for at, item in enumerate(_list(value, key))]
            case _:
                new[key] = walk.member(key, value, ())
    return (_dump(new).encode(), tuple(walk.erased)) if walk.erased else (result, ())


def redact_error(error: bytes, globs: Sequence[str]) -> tuple[bytes, tuple[str, ...]]:
    """A JSON-RPC error of the tool server, as `redact_result`: its message is free text unless it is JSON.

    Raises:
        Unredactable: the message cannot be looked into.
    """
    try:
        document = parse_exactly(error)
    except ValueError as problem:
        raise Unredactable(f"the error cannot be parsed: {problem}") from None
    if not isinstance(document, dict):
        raise Unredactable("the error is no object")
    walk = _Walk.of(globs)
    new = walk.with_body(document, "message", walk.text(document.get("message", ""), ("message",)), ())
    return (_dump(new).encode(), tuple(walk.erased)) if walk.erased else (error, ())


_FORM = frozenset({"type", "role", "isError", "resultType", "mimeType", "requestState"})
"""Members that give a message its form, or (the state) are opaque and signed: no glob reaches them."""


def _dump(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _wraps(structured: Any) -> bool:
    """Whether structured content is a bare value that the MCP SDK wrapped."""
    return isinstance(structured, dict) and list(structured) == ["result"]


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise Unredactable(f"`{name}` is no array")
    return value


@dataclass(slots=True)
class _Walk:
    """One way through a result: what is looked for, and what was erased so far."""

    states: frozenset[State]
    wrapped: frozenset[State] = frozenset()
    """The states behind the wrapper's key, where the structured content is one."""
    erased: list[str] = field(default_factory=list)

    @staticmethod
    def of(globs: Iterable[str]) -> "_Walk":
        return _Walk(_closure((glob.segments, 0) for glob in map(compile_glob, globs)))

    def document(self, value: Any, path: tuple[str, ...], states: frozenset[State] | None = None) -> Any:
        """A document that begins here."""
        return _redact(value, self.states if states is None else states, path, self.erased, MAX_DEPTH, _MAX_EMBEDDED)

    def member(self, key: str, value: Any, path: tuple[str, ...]) -> Any:
        """What stands beside the documents in a result or block: redacted, but for what gives the message its form."""
        if key in _FORM:
            return value
        return self.document(value, (*path, key), _step(self.states, key))

    def text(self, value: Any, path: tuple[str, ...], states: frozenset[State] | None = None) -> Any:
        """A text that must be JSON; one without any text has nothing to erase."""
        where = ".".join(path)
        if not isinstance(value, str):
            raise Unredactable(f"`{where}` is no text")
        if not value.strip():
            return value
        try:
            document = parse_exactly(value)
        except ValueError:
            raise Unredactable(f"`{where}` is text that is no JSON") from None
        if isinstance(document, str | int | float) and not isinstance(document, bool):
            raise Unredactable(f"`{where}` is text that is no JSON object or array")
        before = len(self.erased)
        document = self.document(document, path, states)
        return _dump(document) if len(self.erased) > before else value

    def message(self, value: Any, path: tuple[str, ...]) -> Any:
        """A prompt's message: its content is one block, or several."""
        if not isinstance(value, dict):
            raise Unredactable(f"`{'.'.join(path)}` is no object")
        if "content" not in value:
            raise Unredactable(f"`{'.'.join(path)}` is a message without content")
        content, below = value["content"], (*path, "content")
        body = self.blocks(content, below) if isinstance(content, list) else self.block(content, below)
        return self.with_body(value, "content", body, path)

    def blocks(self, value: Any, path: tuple[str, ...]) -> list[Any]:
        found = []
        for at, item in enumerate(_list(value, ".".join(path))):
            states = self.states
            if self.wrapped:
                states = states | self.wrapped | _step(self.wrapped, str(at))
            found.append(self.block(item, (*path, str(at)), states))
        return found

    def block(self, block: Any, path: tuple[str, ...], states: frozenset[State] | None = None) -> Any:
        where = ".".join(path)
        match block:
            case {"type": "text", "text": text}:
                return self.with_body(block, "text", self.text(text, (*path, "text"), states), path)
            case {"type": "resource", "resource": dict() as resource}:
                return self.with_body(block, "resource", self.resource(resource, (*path, "resource")), path)
            case {"type": "resource_link"}:
                return {key: self.member(key, item, path) for key, item in block.items()}
            case {"type": kind}:
                raise Unredactable(f"`{where}` is content of type {kind!r}, which cannot be looked into")
            case _:
                raise Unredactable(f"`{where}` is content of no type")

    def resource(self, resource: Any, path: tuple[str, ...]) -> Any:
        match resource:
            case {"blob": _}:
                raise Unredactable(f"`{'.'.join(path)}` is a blob, which cannot be looked into")
            case {"text": text}:
                return self.with_body(resource, "text", self.text(text, (*path, "text")), path)
            case _:
                raise Unredactable(f"`{'.'.join(path)}` is a resource without text")

    def with_body(self, block: dict[str, Any], name: str, body: Any, path: tuple[str, ...]) -> dict[str, Any]:
        """The block with its redacted body."""
        return {key: body if key == name else self.member(key, value, path) for key, value in block.items()}


# --- arguments ------------------------------------------------------------------------------------------------------


def set_arguments(arguments: Mapping[str, Any], obligations: Sequence[Obligation]) -> dict[str, Any]:
    """The arguments with each `set_argument` carried out; the original is not changed.

    Objects on the way that are missing are made; an array's index must exist.

    Raises:
        PathError: the path leads through something that is neither an object nor an array, or to no element of one.
    """
    document: Any = dict(arguments)
    for obligation in obligations:
        if obligation.id == "set_argument":
            document = _set(document, concrete_path(obligation.path), obligation.value, obligation.path)
    assert isinstance(document, dict)
    return document


def _set(document: Any, path: tuple[str, ...], value: Any, text: str) -> Any:
    if not path:
        return value
    key, *rest = path
    if isinstance(document, dict):
        return {**document, key: _set(document.get(key, {}), tuple(rest), value, text)}
    if isinstance(document, list):
        if not (key.isascii() and key.isdigit() and int(key) < len(document)):
            raise PathError(f"the path {text!r} names no element of an array of {len(document)}")
        at = int(key)
        return [*document[:at], _set(document[at], tuple(rest), value, text), *document[at + 1 :]]
    raise PathError(f"the path {text!r} leads into something that is neither an object nor an array")


# --- what a call's obligations ask of others ---------------------------------------------------------------------------


def globs_of(obligations: Iterable[Obligation], identifier: str) -> tuple[str, ...]:
    """All path globs of the obligations with this id."""
    return tuple(path for obligation in obligations if obligation.id == identifier for path in obligation.paths)


def withholds_notifications(call: Call) -> bool:
    """Whether the call's progress and log notifications must not reach the agent: its result is to be redacted."""
    return any(obligation.id == "redact_result" for obligation in call.obligations)


def result_limit(obligations: Iterable[Obligation]) -> int | None:
    """The smallest `limit_result` in bytes, or None."""
    limits = [obligation.max_bytes for obligation in obligations if obligation.max_bytes is not None]
    return min(limits) if limits else None
