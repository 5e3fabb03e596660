"""How pages are made: templates that escape everything, values as text that cannot deceive, charts as inline SVG.

What agents, tool servers and policies wrote is shown as text, always. Characters that are not seen or that turn the
direction of writing around (with which a question can be made to look like another) are shown by their code points.
"""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from gateway.console.requests import without_secrets

HERE: Final = Path(__file__).parent

SHOWN_CHARACTERS: Final = 200_000
"""Of one value on a page."""

OUTCOMES: Final = ("completed", "error", "refused", "held", "failed")


def visible(text: str) -> str:
    """The text with control, format and private characters as `⟨U+202E⟩`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in _HIDDEN
        else f"⟨U+{ord(character):04X}⟩"
        for character in text
    )


_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def pretty(value: Any) -> str:
    """A JSON value over several lines; what is longer than `SHOWN_CHARACTERS` is cut, and says so."""
    text = json.dumps(without_secrets(value), indent=2, ensure_ascii=False, default=str)
    if len(text) > SHOWN_CHARACTERS:
        return f"{text[:SHOWN_CHARACTERS]}\n… {len(text) - SHOWN_CHARACTERS} more characters: not all is shown here"
    return text


def instant(at: float | None) -> Markup:
    """An instant, in UTC."""
    if at is None:
        return Markup("never")
    moment = datetime.fromtimestamp(at, UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        moment.isoformat(timespec="milliseconds"), moment.strftime("%Y-%m-%d %H:%M:%S")
    )


def span(seconds: float | None) -> str:
    """A duration as people say it."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _finalize(value: Any) -> Any:
    """Whatever a template prints: text is made visible, and then escaped as ever."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def environment() -> Environment:
    """The templates. What is undefined is an error, what is printed is escaped."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"pretty": pretty, "instant": instant, "span": span}
    return made


# --- charts --------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, BOTTOM = 720, 180, 44, 20


def stacked(parts: Sequence[Mapping[str, Any]], label: str) -> Markup:
    """Calls by outcome over time, as bars on each other."""
    most = max([int(part["calls"]) for part in parts] or [0]) or 1
    step = (WIDTH - LEFT) / max(len(parts), 1)
    bars: list[str] = []
    for number, part in enumerate(parts):
        floor = float(HEIGHT - BOTTOM)
        for outcome in OUTCOMES:
            if not (count := int(part[outcome])):
                continue
            height = count / most * (HEIGHT - BOTTOM - 8)
            floor -= height
            bars.append(
                f'<rect class="bar {outcome}" x="{LEFT + number * step + 0.5:.1f}" y="{floor:.1f}" '
                f'width="{max(step - 1, 1):.1f}" height="{height:.1f}"><title>{_clock(part["at"])}: {count} {outcome}</title></rect>'
            )
    return _chart("".join(bars), parts, label, f"{most}")


def lines(parts: Sequence[Mapping[str, Any]], names: Sequence[str], label: str) -> Markup:
    """Latency over time, a line each."""
    values = [float(part[name]) for part in parts for name in names if part[name] is not None]
    most = max(values or [0.0]) or 1.0
    step = (WIDTH - LEFT) / max(len(parts), 1)
    drawn: list[str] = []
    for name in names:
        points = [
            f"{LEFT + (number + 0.5) * step:.1f},{HEIGHT - BOTTOM - float(part[name]) / most * (HEIGHT - BOTTOM - 8):.1f}"
            for number, part in enumerate(parts)
            if part[name] is not None
        ]
        if len(points) == 1:
            x, y = points[0].split(",")
            drawn.append(f'<circle class="dot {name}" cx="{x}" cy="{y}" r="3"/>')
        elif points:
            drawn.append(f'<polyline class="line {name}" points="{" ".join(points)}"/>')
    return _chart("".join(drawn), parts, label, f"{most:.0f} ms")


def _chart(inner: str, parts: Sequence[Mapping[str, Any]], label: str, top: str) -> Markup:
    first, last = (_clock(parts[0]["at"]), _clock(parts[-1]["at"])) if parts else ("", "")
    base = HEIGHT - BOTTOM
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f'<line class="axis" x1="{LEFT}" y1="{base}" x2="{WIDTH}" y2="{base}"/>'
        f'<text class="tick" x="{LEFT - 4}" y="14" text-anchor="end">{top}</text>'
        f'<text class="tick" x="{LEFT - 4}" y="{base}" text-anchor="end">0</text>'
        f'<text class="tick" x="{LEFT}" y="{HEIGHT - 4}">{first}</text>'
        f'<text class="tick" x="{WIDTH}" y="{HEIGHT - 4}" text-anchor="end">{last}</text>{inner}</svg>'
    )


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%m-%d %H:%M")
