"""YAML as OPA reads and writes it (go-yaml v3 by way of JSON).

Reading: libyaml, of which go-yaml is a translation, finds the structure; what a plain scalar means is decided here, by
go-yaml's rules (`yes` is a string, `0x1F` a number, `2020-01-01` a string). Anchors, aliases, tags, directives and merge
keys are refused. Writing: block style, indented by two; what go-yaml would write with signs of its own is refused.
"""

from __future__ import annotations

import functools
import json
import math
import re
from typing import Any, Final

import yaml

from gateway.rego.builtins.golang import time, unicode
from gateway.rego.builtins.golang.fmt import format_float, json_float
from gateway.rego.values import Value, json_text, number_from_text, number_text

MAX_LENGTH: Final = 200_000
"""Characters of a document; longer ones are refused."""
_MAX_DEPTH: Final = 200


class YamlError(ValueError):
    """The text is no YAML, or has no JSON; the message is go-yaml's."""


class Unsupported(ValueError):
    """go-yaml reads or writes this, and here it is refused."""


# Reading

_WORDS: Final[dict[str, Any]] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_INTEGER: Final = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_TIMESTAMPS: Final = (
    "2006-1-2T15:4:5.999999999Z07:00",
    "2006-1-2t15:4:5.999999999Z07:00",
    "2006-1-2 15:4:5.999999999",
    "2006-1-2",
)


def _is_timestamp(text: str) -> bool:
    if not re.match(r"[0-9]{4}-", text):
        return False
    for layout in _TIMESTAMPS:
        try:
            time.parse(layout, text)
        except time.ParseError:
            continue
        return True
    return False


def resolve(text: str) -> Any:
    """What a plain scalar means: None, a bool, an int, a float or the text itself."""
    first = text[:1]
    if not first or first in "yYnNtTfFoO~.+-0123456789":
        if text in _WORDS:
            return _WORDS[text]
        if first == ".":
            if "_" in text:
                raise Unsupported("a number with underscores")
            return float(text) if _FLOAT.fullmatch(text) else text
        if first and first in "+-0123456789":
            return _number(text)
    return text


def _number(text: str) -> Any:
    if _is_timestamp(text):
        return text
    plain = text.replace("_", "")
    if "_" in text and re.search(r"[xXbBoOeE.]", text):
        raise Unsupported("a number with underscores")
    if _INTEGER.fullmatch(plain):
        number = _integer(plain)
        if -(1 << 63) <= number < (1 << 64) and (number < 1 << 63 or plain[0] not in "+-"):
            return number
    if _FLOAT.fullmatch(plain):
        as_float = float(plain)
        if not math.isinf(as_float):
            return as_float
    return text


def _integer(text: str) -> int:
    sign = -1 if text[0] == "-" else 1
    digits = text.lstrip("+-").lower()
    if digits.startswith(("0x", "0b", "0o")):
        return sign * int(digits, 0)
    return sign * (int(digits, 8) if len(digits) > 1 and digits[0] == "0" else int(digits))


_DIRECTIVE: Final = re.compile(r"^%", re.MULTILINE)


def decode(text: str) -> Value:
    """The first document of a YAML stream, all of which has to be well formed. Raises YamlError or Unsupported."""
    if len(text) > MAX_LENGTH:
        raise Unsupported(f"YAML of more than {MAX_LENGTH} characters is not read")
    loader = getattr(yaml, "CLoader", None)
    if loader is None:
        raise Unsupported("libyaml is not installed")
    if _DIRECTIVE.search(text):
        raise Unsupported("directives in YAML")
    if any(char in text for char in "\ufeff\x85\u2028\u2029\x7f"):
        raise Unsupported("unusual line breaks in YAML")
    documents: list[Any] = []
    try:
        builder = _Builder()
        for event in yaml.parse(text, Loader=loader):
            builder.take(event)
            if isinstance(event, yaml.DocumentEndEvent):
                documents.append(builder.root)
                builder = _Builder()
    except yaml.YAMLError as error:
        raise _failure(error) from None
    return _as_json(documents[0]) if documents else None


def _failure(error: yaml.YAMLError) -> ValueError:
    problem = getattr(error, "problem", None)
    if problem is None:
        return Unsupported("YAML that cannot be read")
    scanner = isinstance(error, yaml.scanner.ScannerError)
    line = 0
    for name in ("context_mark", "problem_mark"):
        mark = getattr(error, name, None)
        if mark is not None and mark.line:
            line = mark.line + (1 if scanner else 0)
            break
    return YamlError(f"yaml: {f'line {line}: ' if line else ''}{problem}")


class _Pairs(list[Any]):
    """The keys and values of a mapping, by turns."""


class _Builder:
    def __init__(self) -> None:
        self.root: Any = None
        self.open: list[list[Any]] = []

    def add(self, value: Any) -> None:
        if self.open:
            self.open[-1].append(value)
        else:
            self.root = value

    def take(self, event: Any) -> None:
        if isinstance(event, yaml.AliasEvent):
            raise Unsupported("aliases in YAML")
        if getattr(event, "anchor", None) is not None:
            raise Unsupported("anchors in YAML")
        if getattr(event, "tag", None) is not None:
            raise Unsupported("tags in YAML")
        if isinstance(event, yaml.ScalarEvent):
            plain = event.implicit[0] and not event.style
            if plain and self.open and isinstance(self.open[-1], _Pairs) and len(self.open[-1]) % 2 == 0:
                self.add(_key(event.value))
            else:
                self.add(resolve(event.value) if plain else event.value)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            made: list[Any] = _Pairs() if isinstance(event, yaml.MappingStartEvent) else []
            if self.open and isinstance(self.open[-1], _Pairs) and len(self.open[-1]) % 2 == 0:
                raise Unsupported("keys in YAML that are no scalars")
            self.add(made)
            self.open.append(made)
            if len(self.open) > _MAX_DEPTH:
                raise Unsupported("YAML that nests too deeply")
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self.open.pop()


def _key(text: str) -> str:
    if text == "<<":
        raise Unsupported("merge keys in YAML")
    value = resolve(text)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        if _is_timestamp(text):
            raise Unsupported("keys in YAML that are times")
        return value
    if isinstance(value, int):
        return str(value)
    raise Unsupported("keys in YAML that are neither text nor whole numbers")


def _as_json(value: Any) -> Value:
    if isinstance(value, _Pairs):
        return {value[at]: _as_json(value[at + 1]) for at in range(0, len(value), 2)}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            shown = "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
            raise YamlError(f"json: unsupported value: {shown}")
        return number_from_text(json_float(value))
    return value


# Writing

_OLD_BOOLEANS: Final = frozenset(
    ["y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "n", "N", "no", "No", "NO", "off", "Off", "OFF"]
)
_BASE_60: Final = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_REFUSED: Final = re.compile("[\r\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def encode(value: Value) -> str:
    """A value as a YAML document. Raises Unsupported."""
    plain = json.loads(json_text(value), parse_int=number_from_text, parse_float=number_from_text)
    out: list[str] = []
    _write(plain, -2, out, after="")
    return "".join(out).lstrip(" ") + "\n"


def _write(value: Any, indent: int, out: list[str], after: str) -> None:
    """Writes a node; `after` is what its first line follows: nothing, `:` or `-`."""
    if indent > 2 * _MAX_DEPTH:
        raise Unsupported("YAML that nests too deeply")
    inner = indent + 2
    if isinstance(value, (dict, list)) and value:
        entries: list[tuple[str, Any]]
        if isinstance(value, dict):
            entries = [(_key_text(name) + ":", value[name]) for name in sorted(value, key=_natural)]
        else:
            entries = [("-", item) for item in value]
        for at, (mark, item) in enumerate(entries):
            if at == 0 and after == "-":
                out.append(" ")
            elif at or after:
                out.append("\n" + " " * inner)
            out.append(mark)
            _write(item, inner, out, after=mark[-1])
        return
    out.append((" " if after else "") + _scalar(value, inner))


def _scalar(value: Any, indent: int) -> str:
    if isinstance(value, (dict, list)):
        return "{}" if isinstance(value, dict) else "[]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return _number_text(value)
    if "\n" in value:
        return _literal(value, indent)
    return _line(value)


def _number_text(value: Any) -> str:
    text = number_text(value)
    meaning = resolve(text)
    if isinstance(meaning, str):
        raise Unsupported("a number that YAML takes for text")
    return str(meaning) if isinstance(meaning, int) else format_float(meaning, "g")


def _line(text: str) -> str:
    if _REFUSED.search(text):
        raise Unsupported("control characters in YAML")
    if "\t" in text or max(text, default="") > "\uffff":
        return _double_quoted(text)
    ambiguous = not isinstance(resolve(text), str) or _is_timestamp(text)
    if ambiguous or _BASE_60.fullmatch(text) or text in _OLD_BOOLEANS:
        return _double_quoted(text)
    if _plain_allowed(text):
        return text
    return "'" + text.replace("'", "''") + "'"


def _double_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t").replace("\n", "\\n")
    # What UTF-8 writes in four bytes go-yaml takes for unprintable.
    escaped = "".join(f"\\U{ord(char):08X}" if char > "\uffff" else char for char in escaped)
    return f'"{escaped}"'


def _plain_allowed(text: str) -> bool:
    """Whether a text can stand in block style as it is (`yaml_emitter_analyze_scalar`)."""
    if text.startswith((" ", "---", "...")) or text.endswith(" "):
        return False
    if text[0] in "#,[]{}&*!|>'\"%@`" or (text[0] in "?:-" and text[1:2] in ("", " ")):
        return False
    return not (re.search(r":(?: |$)", text) or " #" in text)


def _literal(text: str, indent: int) -> str:
    if _REFUSED.search(text):
        raise Unsupported("control characters in YAML")
    lines = text.split("\n")
    if text.endswith(" ") or max(text) > "\uffff" or any(line.endswith(" ") for line in lines[:-1]):
        return _double_quoted(text)
    if text.endswith("\n\n") or text == "\n":
        raise Unsupported("text in YAML that ends with empty lines")
    hints = ("2" if text[0] in " \n" else "") + ("" if text.endswith("\n") else "-")
    if text.endswith("\n"):
        lines.pop()
    body = "".join("\n" + (" " * max(indent, 2) + line if line else "") for line in lines)
    return f"|{hints}{body}"


def _key_text(name: str) -> str:
    if "\n" in name or len(name.encode()) > 128:
        raise Unsupported("keys in YAML that are long or have several lines")
    if name == "<<":
        raise Unsupported("merge keys in YAML")
    return _line(name) if name else '""'


def _is_letter(char: str) -> bool:
    return char.isalpha() if char.isascii() else _within(char, "L")


def _is_digit(char: str) -> bool:
    return char.isdigit() if char.isascii() else _within(char, "Nd")


def _within(char: str, category: str) -> bool:
    ranges = unicode.table(category)
    assert ranges is not None
    return any(low <= ord(char) <= high for low, high in ranges)


def _less(first: str, second: str) -> bool:
    """go-yaml's order of keys: numbers within them count as numbers."""
    digits = False
    for at, (one, two) in enumerate(zip(first, second, strict=False)):
        if one == two:
            digits = _is_digit(one)
            continue
        letter1, letter2 = _is_letter(one), _is_letter(two)
        if letter1 and letter2:
            return one < two
        if letter1 or letter2:
            return letter1 if digits else letter2
        number1 = number2 = 0
        if one == "0" or two == "0":
            back = at - 1
            while back >= 0 and _is_digit(first[back]):
                if first[back] != "0":
                    number1 = number2 = 1
                    break
                back -= 1
        end1, number1 = _run(first, at, number1)
        end2, number2 = _run(second, at, number2)
        if number1 != number2:
            return number1 < number2
        return end1 < end2 if end1 != end2 else one < two
    return len(first) < len(second)


def _run(text: str, at: int, number: int) -> tuple[int, int]:
    while at < len(text) and _is_digit(text[at]):
        number = number * 10 + ord(text[at]) - 48
        at += 1
    if number >= 1 << 63:
        raise Unsupported("keys in YAML with long numbers")
    return at, number


def _compare(first: str, second: str) -> int:
    return -1 if _less(first, second) else 1 if _less(second, first) else 0


_natural: Final = functools.cmp_to_key(_compare)
