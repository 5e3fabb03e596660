"""The reference page of the configuration, made from its model: `python -m gateway.config.reference > docs/configuration.md`."""

import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.config import document as doc
from gateway.config.types import Calendar, Rolling

_OPENING = """# `servers.toml`

<!-- Made from gateway/config/document.py by `python -m gateway.config.reference`. A test compares the two. -->

Every table may be absent. The smallest useful file is three lines:

```toml
[servers.time]
command = "mcp-server-time"
args = []
```

- **Where it is looked for**: `--config PATH`, `$GATEWAY_CONFIG`, `./servers.toml`, the user's configuration directory
  (`~/.config/mcp-execution-gateway/servers.toml` on Linux). Relative paths in the file are relative to the file.
- **Unknown keys are errors** that name the nearest known one. So are keys of features that this version does not have:
  a limit that is not enforced would be worse than none.
- **References**: `${env:NAME}`, `${file:PATH}` (the file's text without its last line break) and `${exec:COMMAND}` (run
  without a shell, 10 seconds, its output) are replaced in `env`, `headers`, `url`, `engine`, `store`, `counters`, `key`
  and `secret`; `$${` is a literal `${`. No command shows their values and every log line and error erases them. One that
  does not resolve disables its server; in `[agents]`, `[operators]`, `[policy]` it is fatal.
- **Globs**: `*` is any text without `/`, `**` any text, `?` one character. Tools are written `server/tool`.
- **Durations** are written `"250ms"`, `"90s"`, `"15m"`, `"1h"`, `"30d"`, `"2w"`; **sizes** as bytes or `"10GiB"`;
  **windows** as a duration (rolling) or `"day@Europe/Berlin"` (hour, day, week, month of a time zone).
- **Names** of servers are `a-z`, `0-9` and `-`, at most 31 characters; `gateway` is taken. Names of agents and operators
  may also have capitals and `. _ @`; the agent `local` is taken.
- **Keys** of agents and operators hold at least 128 bits: `openssl rand -base64 32`. The file holds their SHA-256
  (`printf %s "$KEY" | sha256sum`), or a reference to them.
"""


def page() -> str:
    """The whole page, Markdown."""
    parts = [_OPENING]
    if doc.LATER:
        names = ", ".join(f"`{section.replace('*', 'NAME')}`" for section in sorted(doc.LATER))
        parts.append(
            f"Not in this version, and refused: {names}. They are listed below because their meaning is fixed.\n"
        )
    for title, model in _tables(doc.Document, ""):
        parts.append(_table(title, model))
    return "\n".join(parts)


def _tables(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        key = field.alias or name
        for inner, shape in _models(field.annotation):
            path = f"{prefix}{key}"
            if shape == "mapping":
                path += ".NAME"
            title = f"[[{path}]]" if shape == "array" else f"[{path}]"
            if prefix and shape == "one" and inner in (doc.RetriesTable, doc.BreakerTable) and prefix != "defaults.":
                continue
            yield title, inner
            yield from _tables(inner, f"{path}.")


def _models(annotation: Any, shape: str = "one") -> Iterator[tuple[type[BaseModel], str]]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, shape
    elif origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from _models(argument, shape)
    elif origin is typing.Annotated:
        yield from _models(arguments[0], shape)
    elif origin is tuple:
        yield from _models(arguments[0], "array")
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield from _models(arguments[1], "mapping")


def _table(title: str, model: type[BaseModel]) -> str:
    lines = [f"## `{title}`", "", (model.__doc__ or "").strip(), "", "| key | value | default | |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if name in {"tools"} and model is doc.ServerTable:
            continue
        lines.append(
            f"| `{field.alias or name}` | {_kind(field.annotation, field)} | {_default(field)} | {_cell(field.description or '')} |"
        )
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").strip()


def _kind(annotation: Any, field: FieldInfo | None = None) -> str:
    for note in [*(field.metadata if field else []), *typing.get_args(annotation)[1:]]:
        schema = getattr(note, "json_schema", None)
        if isinstance(schema, dict) and "title" in schema:
            return str(schema["title"])
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{json.dumps(choice)}`" for choice in arguments)
    if origin is typing.Annotated:
        return _kind(arguments[0])
    if origin in (typing.Union, types.UnionType):
        kinds = [_kind(argument) for argument in arguments if argument is not type(None)]
        return kinds[0] if set(arguments) >= {Rolling, Calendar} else " or ".join(dict.fromkeys(kinds))
    if origin is tuple:
        return f"array of {_kind(arguments[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"table of {_kind(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return {str: "string", int: "whole number", float: "number", bool: "`true` or `false`", Rolling: "window"}.get(
        annotation, "value"
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, BaseModel) or value == {} or value == ():
        return ""
    if isinstance(value, tuple):
        return f"`{json.dumps(list(value))}`"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = json.dumps(value, ensure_ascii=False)
    return (
        f"`{re.sub(r'(?<=[0-9])(?=(?:[0-9]{3})+$)', '_', text) if isinstance(value, int) and value >= 10**6 else text}`"
    )


if __name__ == "__main__":
    import sys

    sys.stdout.write(page())
