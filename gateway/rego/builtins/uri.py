"""URIs and queries: `uri.parse`, `uri.is_valid`, `urlquery.*`."""

from __future__ import annotations

from gateway.rego.builtins import operands
from gateway.rego.builtins.golang import url
from gateway.rego.builtins.golang.url import Mode, UrlError
from gateway.rego.builtins.operands import decoded, string
from gateway.rego.builtins.registry import BuiltinContext, BuiltinError, OperandError, builtin
from gateway.rego.values import RegoSet, Value, json_text, sorted_keys, unkey


@builtin("urlquery.encode")
def urlquery_encode(ctx: BuiltinContext, text: Value) -> Value:
    source = string(text, 1)
    operands.charge_text(ctx, 4 * len(source))
    return url.escape(source.encode(), Mode.QUERY)


@builtin("urlquery.decode")
def urlquery_decode(ctx: BuiltinContext, text: Value) -> Value:
    source = string(text, 1)
    operands.charge_text(ctx, 4 * len(source))
    try:
        return decoded(url.unescape(source.encode(), Mode.QUERY))
    except UrlError as error:
        raise BuiltinError(str(error)) from None


@builtin("urlquery.encode_object")
def urlquery_encode_object(ctx: BuiltinContext, value: Value) -> Value:
    obj = operands.object_(value, 1)
    by_name: dict[str, list[str]] = {}
    for canonical in sorted_keys(obj):
        item = obj[canonical]
        name = operands.unicode_text(canonical if type(canonical) is str else json_text(unkey(canonical)))
        items = (
            [item] if type(item) is str else operands.elements(item, 1) if isinstance(item, (list, RegoSet)) else None
        )
        if items is None or not all(type(one) is str for one in items):
            raise OperandError("operand 1 values must be string, array[string], or set[string]")
        by_name[name] = items
    pairs = [
        f"{url.escape(name.encode(), Mode.QUERY)}={url.escape(operands.unicode_text(item).encode(), Mode.QUERY)}"
        for name in sorted(by_name)
        for item in by_name[name]
    ]
    ctx.charge(len(pairs))
    return "&".join(pairs)


@builtin("urlquery.decode_object")
def urlquery_decode_object(ctx: BuiltinContext, text: Value) -> Value:
    source = string(text, 1)
    operands.charge_text(ctx, 4 * len(source))
    try:
        pairs = url.parse_query(source)
    except UrlError as error:
        raise BuiltinError(str(error)) from None
    out: dict[Value, Value] = {}
    for name, item in pairs:
        out.setdefault(decoded(name), []).append(decoded(item))
    return out


@builtin("uri.parse")
def uri_parse(ctx: BuiltinContext, text: Value) -> Value:
    source = string(text, 1)
    operands.charge_text(ctx, 4 * len(source))
    try:
        parsed = url.parse(source)
    except UrlError as error:
        raise BuiltinError(str(error)) from None
    host, port = parsed.host_and_port()
    path = decoded(parsed.path)
    parts = {
        "scheme": parsed.scheme,
        "hostname": decoded(host),
        "port": decoded(port),
        "path": path,
        "raw_path": parsed.raw_path or path,
        "raw_query": parsed.raw_query,
        "fragment": decoded(parsed.fragment),
    }
    return {name: part for name, part in parts.items() if part}


@builtin("uri.is_valid")
def uri_is_valid(ctx: BuiltinContext, text: Value) -> Value:
    if type(text) is not str or not text:
        return False
    operands.charge_text(ctx, 4 * len(string(text, 1)))
    try:
        url.parse(text)
    except UrlError:
        return False
    return True
