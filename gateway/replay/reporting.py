"""What judging a recording found, as JSON, as text and as one HTML page that needs nothing from elsewhere."""

import html
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from gateway.replay.judging import Changed, Ruling, Tally, Unjudged, Word, rule_of

WORDS: tuple[Word, ...] = ("allow", "hold", "deny")
BECOMES = {"allow": "allowed", "hold": "held", "deny": "denied"}
COLOURS = {"allow": "#2e7d32", "hold": "#f9a825", "deny": "#c62828"}

LISTED = 50
"""Differences in the text; JSON and HTML have all."""


def as_json(tally: Tally, candidate: str) -> dict[str, Any]:
    """Everything, as JSON values."""
    return {
        "candidate": candidate,
        "calls": tally.calls,
        "not_asked": tally.unasked,
        "reproduced": tally.reproduced,
        "not_reproduced": [_unjudged(each) for each in tally.not_reproduced],
        "reproduction_unknown": dict(tally.unknown),
        "judged": sum(tally.pairs.values()),
        "decisions": [
            {"was": was, "now": now, "calls": tally.pairs[was, now]}
            for was in WORDS
            for now in WORDS
            if tally.pairs[was, now]
        ],
        "changes": [
            {"agent": agent, "tool": tool, "was": was, "now": now, "code": code, "calls": count}
            for agent, tool, was, now, code, count in tally.table
        ],
        "newly_allowed": len(tally.newly_allowed),
        "differences": [_changed(each) for each in tally.changed],
        "undecidable": [_unjudged(each) for each in tally.undecidable],
    }


def _changed(each: Changed) -> dict[str, Any]:
    return {
        "call_id": each.call_id,
        "session_id": each.session_id,
        "at": each.at,
        "agent": each.agent,
        "tool": each.tool,
        "code": rule_of(each),
        "was": _ruling(each.was),
        "now": _ruling(each.now),
    }


def _ruling(ruling: Ruling) -> dict[str, Any]:
    return {"decision": ruling.word, "code": ruling.code, "rules": [dict(rule) for rule in ruling.rules]}


def _unjudged(each: Unjudged) -> dict[str, Any]:
    return {"call_id": each.call_id, "agent": each.agent, "tool": each.tool, "why": each.why}


# --- text -------------------------------------------------------------------------------------------------------------


def as_text(tally: Tally, candidate: str) -> Iterator[str]:
    """The report for a terminal: first whether the recording can be trusted to be judged again, then what changes."""
    if not tally.limits:
        yield from reproduction(tally)
    judged = sum(tally.pairs.values())
    yield f"{candidate}: {tally.calls} calls, {judged} judged, {tally.unasked} {_unasked(tally)}"
    if not tally.changed and judged:
        yield "nothing is decided otherwise"
    table = tally.table
    if table:
        yield ""
        yield from _aligned(
            [("CALLS", "AGENT", "TOOL", "WAS", "BECOMES", "CODE")]
            + [
                (str(count), agent, tool, BECOMES[was], BECOMES[now], code)
                for agent, tool, was, now, code, count in table
            ]
        )
        yield ""
        for each in tally.changed[:LISTED]:
            yield f"{each.call_id}  {each.agent}  {each.tool}: {BECOMES[each.was.word]} -> {BECOMES[each.now.word]}  {why(each)}"
        if len(tally.changed) > LISTED:
            yield f"… {len(tally.changed) - LISTED} more; --json and --html have all"
    if tally.undecidable:
        yield ""
        yield f"undecidable: {len(tally.undecidable)}"
        for unjudged in tally.undecidable[:LISTED]:
            yield f"  {unjudged.call_id}  {unjudged.agent}  {unjudged.tool}: {unjudged.why}"
    if allowed := tally.newly_allowed:
        yield ""
        yield f"newly allowed: {len(allowed)}"


def reproduction(tally: Tally) -> Iterator[str]:
    """How many recorded decisions the old policy makes again."""
    asked = tally.reproduced + len(tally.not_reproduced)
    unknown = sum(tally.unknown.values())
    yield f"the old policy reproduces {tally.reproduced} of {asked} recorded decisions" + (
        f"; {unknown} could not be asked again" if unknown else ""
    )
    for reason, count in tally.unknown.most_common():
        yield f"  {count}: {reason}"
    for each in tally.not_reproduced[:LISTED]:
        yield f"  not reproduced: {each.call_id}  {each.tool}: {each.why}"


def why(each: Changed) -> str:
    """The rule that fires now, or the one that no longer does."""
    if each.now.rules:
        return "; ".join(f"{rule['code']}: {rule['message']}" for rule in each.now.rules)
    if each.now.word == "deny":
        return each.now.code
    gone = ", ".join(rule["code"] for rule in each.was.rules) or each.was.code
    return f"no longer {gone}" if gone else "allowed"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


# --- one page ---------------------------------------------------------------------------------------------------------

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1b1b1b;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd;vertical-align:top}
td.n,th.n{text-align:right}code{font-size:.85em;word-break:break-all}
.allow{color:#2e7d32}.hold{color:#8a6100}.deny{color:#c62828}.bad{color:#c62828;font-weight:600}
@media(prefers-color-scheme:dark){body{background:#161616;color:#e6e6e6}th,td{border-color:#444}
.allow{color:#81c784}.hold{color:#ffd54f}.deny,.bad{color:#ef9a9a}svg text{fill:#e6e6e6}}
"""


def as_html(tally: Tally, candidate: str, source: str, made_at: float) -> str:
    """One page with a chart, without scripts and without anything from elsewhere."""
    moment = datetime.fromtimestamp(made_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    rows = "".join(
        f"<tr><td class=n>{count}</td><td>{_e(agent)}</td><td>{_e(tool)}</td><td class={was}>{BECOMES[was]}</td>"
        f"<td class={now}>{BECOMES[now]}</td><td><code>{_e(code)}</code></td></tr>"
        for agent, tool, was, now, code, count in tally.table
    )
    differences = "".join(
        f"<tr><td><code>{_e(each.call_id)}</code></td><td>{_e(each.agent)}</td><td>{_e(each.tool)}</td>"
        f"<td class={each.was.word}>{BECOMES[each.was.word]}</td><td class={each.now.word}>{BECOMES[each.now.word]}</td>"
        f"<td>{_e(why(each))}</td></tr>"
        for each in tally.changed
    )
    undecidable = "".join(
        f"<tr><td><code>{_e(each.call_id)}</code></td><td>{_e(each.agent)}</td><td>{_e(each.tool)}</td>"
        f"<td>{_e(each.why)}</td></tr>"
        for each in tally.undecidable
    )
    verdict = (
        f"<p class=bad>{len(tally.newly_allowed)} newly allowed, {len(tally.undecidable)} undecidable</p>"
        if tally.newly_allowed or tally.undecidable
        else "<p>Nothing is newly allowed, and everything could be decided.</p>"
    )
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>Backtest of {_e(candidate)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>Backtest of {_e(candidate)}</h1>",
        f"<p>{_e(source)}, {moment}. {tally.calls} calls, {sum(tally.pairs.values())} judged, {tally.unasked} ",
        f"{_unasked(tally)}.</p>{verdict}",
        *_reproduction_html(tally),
        "<h2>What was decided, and what would be</h2>",
        _chart(tally.pairs),
    ]
    if rows:
        head = "<tr><th class=n>Calls<th>Agent<th>Tool<th>Was<th>Becomes<th>Code</tr>"
        parts.append(f"<h2>What changes</h2><table>{head}{rows}</table>")
        head = "<tr><th>Call<th>Agent<th>Tool<th>Was<th>Becomes<th>Rule</tr>"
        parts.append(f"<h2>Each difference</h2><table>{head}{differences}</table>")
    if undecidable:
        head = "<tr><th>Call<th>Agent<th>Tool<th>Why</tr>"
        parts.append(f"<h2>Undecidable</h2><table>{head}{undecidable}</table>")
    parts.append("</body></html>\n")
    return "".join(parts)


def _unasked(tally: Tally) -> str:
    """Why calls were not judged."""
    return "were unknown to the limits" if tally.limits else "ended before the policy was asked"


def _reproduction_html(tally: Tally) -> Iterator[str]:
    if not tally.limits:
        yield "<h2>Can this recording be judged again?</h2>"
        for line in reproduction(tally):
            yield f"<p>{_e(line)}</p>"


def _chart(pairs: Mapping[tuple[Word, Word], int]) -> str:
    """A bar for each earlier decision, divided by what becomes of it."""
    most = max((sum(pairs.get((was, now), 0) for now in WORDS) for was in WORDS), default=0) or 1
    bars: list[str] = []
    for row, was in enumerate(WORDS):
        y, x = 10 + row * 42, 120.0
        total = sum(pairs.get((was, now), 0) for now in WORDS)
        bars.append(f"<text x='0' y='{y + 20}' font-size='14'>was {BECOMES[was]}</text>")
        for now in WORDS:
            if count := pairs.get((was, now), 0):
                width = max(2.0, 520 * count / most)
                label = f"was {BECOMES[was]}, becomes {BECOMES[now]}: {count}"
                bars.append(
                    f"<rect x='{x:.1f}' y='{y}' width='{width:.1f}' height='28' fill='{COLOURS[now]}'><title>{label}</title></rect>"
                )
                x += width
        bars.append(f"<text x='{x + 8:.1f}' y='{y + 20}' font-size='14'>{total}</text>")
    legend = "".join(
        f"<rect x='{120 + index * 150}' y='140' width='14' height='14' fill='{COLOURS[now]}'/>"
        f"<text x='{140 + index * 150}' y='152' font-size='13'>becomes {BECOMES[now]}</text>"
        for index, now in enumerate(WORDS)
    )
    return f"<svg viewBox='0 0 760 165' role=img aria-label='decisions before and after'>{''.join(bars)}{legend}</svg>"


def _e(text: str) -> str:
    return html.escape(text)
