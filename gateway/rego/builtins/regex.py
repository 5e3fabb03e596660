"""Regular expressions, in time linear in the text: `regex.*`. What Go accepts is read in :mod:`.golang.regexp`."""

from __future__ import annotations

from functools import lru_cache

from gateway.rego.builtins import operands
from gateway.rego.builtins.globs import globs_intersect
from gateway.rego.builtins.golang import regexp, unicode
from gateway.rego.builtins.operands import charge_text, string
from gateway.rego.builtins.registry import BuiltinContext, BuiltinError, UnsupportedError, builtin
from gateway.rego.values import Value


def _compile(pattern: str) -> regexp.Regexp:
    try:
        return regexp.compile(pattern)
    except regexp.RegexpError as error:
        raise BuiltinError(str(error)) from None
    except regexp.Unsupported as error:
        raise UnsupportedError(str(error)) from None


def _match(ctx: BuiltinContext, pattern: regexp.Regexp, text: str) -> bool:
    charge_text(ctx, len(text))
    try:
        return pattern.match(text)
    except regexp.Unsupported as error:
        raise UnsupportedError(str(error)) from None


def _find_all(
    ctx: BuiltinContext, pattern: regexp.Regexp, text: str, limit: int = -1
) -> tuple[bytes, list[regexp.Spans]]:
    charge_text(ctx, len(text))
    try:
        data, matches = pattern.find_all(text, limit, ctx.charge)
    except regexp.Unsupported as error:
        raise UnsupportedError(str(error)) from None
    return data, matches


@builtin("regex.is_valid")
def regex_is_valid(ctx: BuiltinContext, pattern: Value) -> Value:
    if type(pattern) is not str:
        return False
    string(pattern, 1)
    try:
        return regexp.is_valid(pattern)
    except regexp.Unsupported as error:
        raise UnsupportedError(str(error)) from None


@builtin("regex.match")
def regex_match(ctx: BuiltinContext, pattern: Value, text: Value) -> Value:
    expression, subject = string(pattern, 1), string(text, 2)
    return _match(ctx, _compile(expression), subject)


@builtin("re_match")
def re_match(ctx: BuiltinContext, pattern: Value, text: Value) -> Value:
    return regex_match(ctx, pattern, text)


@builtin("regex.find_n")
def regex_find_n(ctx: BuiltinContext, pattern: Value, text: Value, count: Value) -> Value:
    expression, subject, limit = string(pattern, 1), string(text, 2), operands.int64(count, 3)
    data, matches = _find_all(ctx, _compile(expression), subject, limit)
    return [data[spans[0][0] : spans[0][1]].decode() for spans in matches]


@builtin("regex.find_all_string_submatch_n")
def regex_find_all_string_submatch_n(ctx: BuiltinContext, pattern: Value, text: Value, count: Value) -> Value:
    expression, subject, limit = string(pattern, 1), string(text, 2), operands.int64(count, 3)
    data, matches = _find_all(ctx, _compile(expression), subject, limit)
    return [[data[low:high].decode() if low >= 0 else "" for low, high in spans] for spans in matches]


@builtin("regex.split")
def regex_split(ctx: BuiltinContext, pattern: Value, text: Value) -> Value:
    expression, subject = string(pattern, 1), string(text, 2)
    compiled = _compile(expression)
    if expression and not subject:
        return [""]
    data, matches = _find_all(ctx, compiled, subject)
    parts: list[Value] = []
    begin = end = 0
    for spans in matches:
        end, after = spans[0]
        if after != 0:
            parts.append(data[begin:end].decode())
        begin = after
    if end != len(data):
        parts.append(data[begin:].decode())
    return parts


@builtin("regex.replace")
def regex_replace(ctx: BuiltinContext, text: Value, pattern: Value, replacement: Value) -> Value:
    base, expression, template = string(text, 1), string(pattern, 2), string(replacement, 3)
    compiled = _compile(expression)
    data, matches = _find_all(ctx, compiled, base)
    if not matches:
        return base
    out: list[bytes] = []
    last = size = 0
    plain = None if "$" in template else template.encode()
    for spans in matches:
        piece = plain if plain is not None else regexp.expand(template, compiled.names, data, spans)
        size += len(piece)
        if size > 1 << 16:
            charge_text(ctx, len(piece) + 256)
        out.append(data[last : spans[0][0]])
        out.append(piece)
        last = spans[0][1]
    out.append(data[last:])
    return b"".join(out).decode()


@builtin("regex.template_match")
def regex_template_match(ctx: BuiltinContext, template: Value, text: Value, start: Value, end: Value) -> Value:
    pattern, subject = string(template, 1), string(text, 2)
    opening, closing = string(start, 3), string(end, 4)
    length = len(opening.encode())
    if length != 1:
        raise BuiltinError(f"start delimiter has to be exactly one character long but is {length} long")
    if len(closing.encode()) != 1:
        # OPA names the length of the other delimiter, too.
        raise BuiltinError(f"end delimiter has to be exactly one character long but is {length} long")
    return _match(ctx, _compile(_template(pattern, opening, closing)), subject)


@lru_cache(maxsize=256)
def _template(template: str, opening: str, closing: str) -> str:
    level = first = after = 0
    out: list[str] = ["^"]
    for at, char in enumerate(template):
        if char == opening:
            level += 1
            if level == 1:
                first = at
        elif char == closing:
            level -= 1
            if level == 0:
                out.append(f"{regexp.quote_meta(template[after:first])}({template[first + 1 : at]})")
                after = at + 1
            elif level < 0:
                break
    if level != 0:
        raise BuiltinError(f"unbalanced braces in {unicode.quote(template)}")
    for part in _parts(template, opening, closing):
        _compile(f"^{part}$")
    out.append(regexp.quote_meta(template[after:]) + "$")
    return "".join(out)


def _parts(template: str, opening: str, closing: str) -> list[str]:
    level = first = 0
    out: list[str] = []
    for at, char in enumerate(template):
        if char == opening:
            level += 1
            if level == 1:
                first = at
        elif char == closing:
            level -= 1
            if level == 0:
                out.append(template[first + 1 : at])
    return out


@builtin("regex.globs_match")
def regex_globs_match(ctx: BuiltinContext, first: Value, second: Value) -> Value:
    return globs_intersect(string(first, 1), string(second, 2), ctx.charge)
