"""Whatever stands in the file: it loads, or it is refused in lines that a person can use. Nothing else ever comes out."""

import copy
import tomllib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config import InvalidConfiguration, loads
from tests.config.test_loading import contract_example
from tests.config.test_positions import toml

BASE: dict[str, Any] = tomllib.loads(contract_example()) | {
    "pools": {"read": {"max_concurrency": 1}},
    "quotas": [
        {"match": {"agent": "*"}, "limit": 1, "window": "1h"},
        {"budget": {"unit": "usd", "amount": 1, "window": "day@UTC"}},
    ],
    "interrupts": [{"name": "a", "when": {"sequence": ["git/*"]}, "then": "deny", "for": "1m"}],
    "idempotency": {"ttl": "1h"},
    "approvals": {"on_expiry": "reject", "max_pending": {"agent": 1}, "notify": [{"url": "u", "secret": "s"}]},
    "recording": {"redact": ["**.a"], "max_bytes": "1GiB"},
    "evidence": {"checkpoints_to": ["file:x"]},
}


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, item in inner for path in paths(item, (*at, key)))]


odd = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.sampled_from(
        ["", "*", "1h", "${env:NOPE}", "${", "a/b", "\n", "é", "x" * 300, "../..", "memory:", "0.0.0.0", "\x00"]
    ),
    st.text(max_size=5),
    st.lists(st.integers(0, 3) | st.text(max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=4), st.integers(0, 3) | st.text(max_size=3), max_size=2),
)


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(paths(BASE)[1:]), odd), min_size=1, max_size=3), st.booleans())
@pytest.mark.rule("config.one-line-errors")
def test_a_file_with_anything_anywhere_loads_or_is_refused_in_single_lines(
    changes: list[tuple[tuple[Any, ...], Any]], to_look: bool
) -> None:
    document = copy.deepcopy(BASE)
    for path, value in changes:
        place: Any = document
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change removed the way there
    text = "".join(f"{toml(key)} = {toml(value)}\n" for key, value in document.items())
    try:
        loads(text, to_look=to_look)
    except InvalidConfiguration as error:
        for one in (error, *error.others):
            assert len(str(one).splitlines()) == 1
            assert one.line is not None
            assert one.key
