"""Resource URIs: which template one fits, and whether `deny` names it, however it is written. Pure."""

import re
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import re2

from gateway.model.call import TargetType
from gateway.model.snapshot import Offers

EXPRESSION = re.compile(r"\{([+#./;?&]?)[^{}]*\}")


@lru_cache(maxsize=1024)
def template_pattern(template: str) -> Any:
    """A URI template (RFC 6570, the expressions that MCP servers use) as a linear-time pattern (RE2).

    `{x}` stands for one or more characters other than `/`, `?` and `#`; `{+x}` and `{#x}` for any; `{/x}` for further
    segments; `{?x,y}` and `{&x}` for an optional query.
    """
    parts: list[str] = []
    end = 0
    for expression in EXPRESSION.finditer(template):
        parts.append(re2.escape(template[end : expression.start()]))
        match expression.group(1):
            case "+" | "#":
                parts.append(r".+")
            case "/":
                parts.append(r"(?:/[^/?#]*)*")
            case "?" | "&":
                parts.append(r"(?:[?&][^#]*)?")
            case _:
                parts.append(r"[^/?#]+")
        end = expression.end()
    return re2.compile("(?s)" + "".join(parts) + re2.escape(template[end:]))


@lru_cache(maxsize=1024)
def literal_length(template: str) -> int:
    """How many characters of a template stand outside its expressions: the measure of the longest match."""
    return len(EXPRESSION.sub("", template))


def denied(offers: Offers | None, uri: str) -> bool:
    """Whether `deny` names a URI, as it is written or as a server may understand it."""
    if offers is None:
        return False
    return any(offers.denies(TargetType.RESOURCE.value, form) for form in (uri, plain(uri), *walked(uri)))


def fits(template: str, uri: str) -> bool:
    """Whether a URI is one of a template's, as it is written and also once its `..` are walked."""
    pattern = template_pattern(template)
    if pattern.fullmatch(uri) is None:
        return False
    return not _DOTS.search(plain(uri)) or all(pattern.fullmatch(form) for form in walked(uri))


_DOTS = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\?#]|$)")
"""Segments that are walked. In a query they are none, but a server that decodes before it splits takes them for some."""


@lru_cache(maxsize=1024)
def plain(uri: str) -> str:
    """A URI without percent-encoding, encodings of encodings included: who knows how often a server undoes it."""
    for _ in range(4):
        if (further := unquote(uri)) == uri:
            break
        uri = further
    return uri


def walked(uri: str) -> tuple[str, ...]:
    """The normal forms of a plain URI (RFC 3986, 6.2.2): below its authority, and as if it had none, as own schemes may."""
    scheme, colon, rest = plain(uri).replace("\\", "/").partition(":")
    if not colon:
        return (_walk(scheme),)
    start = scheme.lower() + colon
    if not rest.startswith("//"):
        return (start + _walk(rest),)
    authority, slash, path = rest[2:].partition("/")
    return f"{start}//{authority}{slash}{_walk(path).lstrip('/')}", f"{start}//{_walk(rest[2:])}"


def _walk(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" * path.startswith("/") + "/".join(parts)
