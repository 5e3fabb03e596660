"""Strings: search, case, splitting, replacing, trimming, `sprintf`, `format_int`.

Positions and lengths count code points, as OPA's do.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Final

from gateway.rego.builtins import operands
from gateway.rego.builtins.golang import fmt, unicode
from gateway.rego.builtins.operands import charge_text, string
from gateway.rego.builtins.registry import (
    BuiltinContext,
    BuiltinError,
    OperandError,
    UnsupportedError,
    builtin,
    element_error,
    operand_error,
)
from gateway.rego.numeric import to_fraction
from gateway.rego.values import RegoSet, Value, number_text, sorted_keys, to_rego, unkey


@builtin("contains")
def contains(ctx: BuiltinContext, text: Value, search: Value) -> Value:
    base = string(text, 1)
    return string(search, 2) in base


@builtin("startswith")
def startswith(ctx: BuiltinContext, text: Value, prefix: Value) -> Value:
    return string(text, 1).startswith(string(prefix, 2))


@builtin("endswith")
def endswith(ctx: BuiltinContext, text: Value, suffix: Value) -> Value:
    return string(text, 1).endswith(string(suffix, 2))


@builtin("lower")
def lower(ctx: BuiltinContext, text: Value) -> Value:
    return unicode.to_lower(string(text, 1))


@builtin("upper")
def upper(ctx: BuiltinContext, text: Value) -> Value:
    return unicode.to_upper(string(text, 1))


@builtin("concat")
def concat(ctx: BuiltinContext, delimiter: Value, parts: Value) -> Value:
    join = string(delimiter, 1)
    items = operands.elements(parts, 2)
    try:
        result = operands.unicode_text(join.join(items))
    except TypeError:
        for item in items:
            if type(item) is not str:
                raise element_error(2, parts, item, "string") from None
        raise
    charge_text(ctx, len(result))
    return result


@builtin("indexof")
def indexof(ctx: BuiltinContext, text: Value, search: Value) -> Value:
    base, wanted = string(text, 1), string(search, 2)
    if not wanted:
        raise BuiltinError("empty search character")
    return base.find(wanted)


@builtin("indexof_n")
def indexof_n(ctx: BuiltinContext, text: Value, search: Value) -> Value:
    base, wanted = string(text, 1), string(search, 2)
    if not wanted:
        raise BuiltinError("empty search character")
    out: list[Value] = []
    at = base.find(wanted)
    while at >= 0:
        out.append(at)
        at = base.find(wanted, at + 1)
    ctx.charge(len(out) + len(base) // 256)
    return out


@builtin("substring")
def substring(ctx: BuiltinContext, text: Value, offset: Value, length: Value) -> Value:
    base = string(text, 1)
    start, count = operands.int64(offset, 2), operands.int64(length, 3)
    if start < 0:
        raise BuiltinError("negative offset")
    return base[start:] if count < 0 else base[start : start + count]


@builtin("strings.count")
def strings_count(ctx: BuiltinContext, text: Value, search: Value) -> Value:
    return string(text, 1).count(string(search, 2))


@builtin("split")
def split(ctx: BuiltinContext, text: Value, delimiter: Value) -> Value:
    base, by = string(text, 1), string(delimiter, 2)
    parts: list[Value] = base.split(by) if by else list(base)
    if len(parts) > 64:
        ctx.charge(len(parts))
    return parts


@builtin("strings.split_n")
def strings_split_n(ctx: BuiltinContext, text: Value, delimiter: Value, n: Value) -> Value:
    base, by = string(text, 1), string(delimiter, 2)
    count = operands.int64(n, 3)
    charge_text(ctx, len(base) * 16)
    if count < 0:
        parts = base.split(by) if by else list(base)
        return parts[max(len(parts) + count, 0) :]
    if not by:
        return list(base[: count + 1])[:count] if count <= len(base) else list(base)
    return base.split(by, min(count, len(base) + 1))[:count]


@builtin("replace")
def replace(ctx: BuiltinContext, text: Value, old: Value, new: Value) -> Value:
    base, search, by = string(text, 1), string(old, 2), string(new, 3)
    if not search:
        return _replace_all(ctx, base, [("", by)])
    charge_text(ctx, len(base) + base.count(search) * len(by))
    return base.replace(search, by)


@builtin("strings.replace_n")
def strings_replace_n(ctx: BuiltinContext, patterns: Value, text: Value) -> Value:
    by_key = operands.object_(patterns, 1)
    base = string(text, 2)
    pairs: list[tuple[str, str]] = []
    for canonical in sorted_keys(by_key):
        if type(unkey(canonical)) is not str:
            raise OperandError("operand 1 non-string key found in pattern object")
        if type(by_key[canonical]) is not str:
            raise OperandError("operand 1 non-string value found in pattern object")
        pairs.append((canonical, by_key[canonical]))
    return _replace_all(ctx, base, pairs)


@lru_cache(maxsize=256)
def _alternatives(keys: tuple[str, ...]) -> re.Pattern[str]:
    # Of the keys that match at a place the first wins, which is what a Go Replacer does and what `|` means. The keys
    # are literals: there is nothing to backtrack into.
    return re.compile("|".join(map(re.escape, keys)))


def _replace_all(ctx: BuiltinContext, text: str, pairs: list[tuple[str, str]]) -> str:
    """`strings.NewReplacer(pairs...).Replace(text)`."""
    if not pairs:
        return text
    ctx.charge(len(pairs) + len(text) * len(pairs) // 256)
    if pairs[0][0]:
        by = dict(pairs)
        found = _alternatives(tuple(by)).sub(lambda match: by[match.group()], text)
        charge_text(ctx, len(found))
        return found
    # With an empty key something is put between every two bytes, unless another key matches after it.
    charge_text(ctx, (len(text) + 1) * (len(pairs[0][1]) + 1))
    others = pairs[1:]
    out: list[str] = []
    at = 0
    while at <= len(text):
        out.append(pairs[0][1])
        for key, value in others:
            if text.startswith(key, at):
                # After a key that was found an empty match counts again, at once.
                out.append(value)
                at += len(key)
                break
        else:
            if text[at : at + 1] > "\x7f":
                raise UnsupportedError("an empty string is replaced between bytes, which cuts characters apart")
            out.append(text[at : at + 1])
            at += 1
    return "".join(out)


@builtin("trim")
def trim(ctx: BuiltinContext, text: Value, cutset: Value) -> Value:
    return string(text, 1).strip(string(cutset, 2))


@builtin("trim_left")
def trim_left(ctx: BuiltinContext, text: Value, cutset: Value) -> Value:
    return string(text, 1).lstrip(string(cutset, 2))


@builtin("trim_right")
def trim_right(ctx: BuiltinContext, text: Value, cutset: Value) -> Value:
    return string(text, 1).rstrip(string(cutset, 2))


@builtin("trim_prefix")
def trim_prefix(ctx: BuiltinContext, text: Value, prefix: Value) -> Value:
    return string(text, 1).removeprefix(string(prefix, 2))


@builtin("trim_suffix")
def trim_suffix(ctx: BuiltinContext, text: Value, suffix: Value) -> Value:
    return string(text, 1).removesuffix(string(suffix, 2))


@builtin("trim_space")
def trim_space(ctx: BuiltinContext, text: Value) -> Value:
    return string(text, 1).strip(unicode.WHITE_SPACE)


@builtin("strings.reverse")
def strings_reverse(ctx: BuiltinContext, text: Value) -> Value:
    return string(text, 1)[::-1]


@builtin("strings.any_prefix_match")
def strings_any_prefix_match(ctx: BuiltinContext, search: Value, base: Value) -> Value:
    return _any_affix(ctx, search, base, suffix=False)


@builtin("strings.any_suffix_match")
def strings_any_suffix_match(ctx: BuiltinContext, search: Value, base: Value) -> Value:
    return _any_affix(ctx, search, base, suffix=True)


def _any_affix(ctx: BuiltinContext, search: Value, base: Value, *, suffix: bool) -> bool:
    if type(search) is str:
        texts = [string(search, 1)]
    elif type(search) is list or type(search) is RegoSet:
        texts = operands.strings(search, 1)
    else:
        raise operand_error(1, search, "string", "set", "array")
    if type(base) is str:
        affixes: tuple[str, ...] = (base,)
    elif type(base) is list or type(base) is RegoSet:
        affixes = tuple(operands.strings(base, 2))
    else:
        raise operand_error(2, base, "string", "set", "array")
    if len(texts) * len(affixes) > 256:
        ctx.charge(len(texts) * len(affixes) // 64)
    if suffix:
        return any(text.endswith(affixes) for text in texts)
    return any(text.startswith(affixes) for text in texts)


_RADIX: Final = {"2": "b", "8": "o", "10": "d", "16": "x"}


@builtin("format_int")
def format_int(ctx: BuiltinContext, value: Value, base: Value) -> Value:
    operands.number(value, 1)
    radix = _RADIX.get(number_text(operands.number(base, 2)))
    if radix is None:
        raise OperandError("operand 2 must be one of {2, 8, 10, 16}")
    if type(value) is int:
        whole = value
    else:
        whole = math.trunc(to_fraction(value))
    operands.charge_bits(ctx, whole.bit_length())
    return fmt.decimal(whole) if radix == "d" else f"{whole:{radix}}"


@builtin("sprintf")
def sprintf(ctx: BuiltinContext, template: Value, values: Value) -> Value:
    text = string(template, 1)
    plain = _plain(text, operands.array(values, 2))
    if plain is not None:
        charge_text(ctx, len(plain))
        return plain
    arguments = [_argument(value) for value in values]
    try:
        result = fmt.sprintf(text, arguments, ctx.charge)
    except fmt.Unsupported as error:
        raise UnsupportedError(str(error)) from None
    charge_text(ctx, len(result))
    return result


@lru_cache(maxsize=1024)
def _literals(template: str) -> tuple[tuple[str, ...], str] | None:
    """The texts around the verbs and the verbs, of a template that has none but `%s`, `%v` and `%d`."""
    parts = re.split("%([svd])", template)
    if any("%" in literal for literal in parts[::2]):
        return None
    return tuple(parts[::2]), "".join(parts[1::2])


def _plain(template: str, values: list[Value]) -> str | None:
    """What everyday templates give, without the machinery: strings, and integers of 64 bits."""
    known = _literals(template)
    if known is None or len(known[1]) != len(values):
        return None
    literals, verbs = known
    out = [literals[0]]
    for verb, value, literal in zip(verbs, values, literals[1:], strict=True):
        kind = type(value)
        if kind is str:
            if verb == "d":
                return None
            out.append(string(value, 2))
        elif kind is int and verb != "s" and operands.INT64_MIN <= value <= operands.INT64_MAX:
            out.append(str(value))
        else:
            return None
        out.append(literal)
    return "".join(out)


def _argument(value: Value) -> fmt.Argument:
    kind = type(value)
    if kind is str:
        return string(value, 2)
    if kind is float:
        return value  # type: ignore[no-any-return]
    if kind is int:
        return value if operands.INT64_MIN <= value <= operands.INT64_MAX else fmt.BigInt(value)
    if kind in (bool, list, dict, RegoSet) or value is None:
        return operands.unicode_text(to_rego(value))
    text = number_text(value)
    if not ("." in text or "e" in text or "E" in text):
        whole = int(text)
        return whole if operands.INT64_MIN <= whole <= operands.INT64_MAX else fmt.BigInt(whole)
    as_float = float(text)
    return as_float if math.isfinite(as_float) else text
