"""Stores as older schemas left them, kept as files: they open, are brought up, verify and are read as before."""

import gzip
import shutil
from pathlib import Path

import pytest

from gateway.adapters import queries
from gateway.adapters.checkpoints import Signatures
from gateway.adapters.journal import open_journal
from gateway.adapters.migrations import STEPS
from gateway.adapters.signing import load_public
from gateway.adapters.sqlite import read_only
from gateway.adapters.system import SystemClock
from gateway.model.recording import CallFilter
from tests.journal.building import a_call, begin, end

pytestmark = pytest.mark.anyio

STORES = Path(__file__).parent / "stores"
VERSIONS = sorted(int(file.name.removeprefix("schema-").removesuffix(".sqlite.gz")) for file in STORES.glob("*.gz"))


def unpacked(version: int, directory: Path) -> Path:
    store = directory / "gateway.db"
    with gzip.open(STORES / f"schema-{version}.sqlite.gz") as packed, store.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return store


@pytest.mark.rule("journal.old-stores")
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_store_of_an_older_schema_is_brought_up_and_still_verifies(tmp_path: Path, version: int) -> None:
    assert version < len(STEPS)
    store = unpacked(version, tmp_path)
    async with open_journal(store, clock=SystemClock()) as journal:
        before = await journal.read(queries.list_calls, CallFilter(), limit=100)
        assert [call.outcome for call in before] == ["completed", "refused", "failed", *["completed"] * 4]
        assert [call.code for call in before[:3]] == [None, "policy.denied", "server.lost"]
        call = a_call()
        await journal.begin(begin(call))
        await journal.end(end(call))
        after = await journal.read(queries.list_calls, CallFilter(), limit=1)
        assert after[0].id == call.id
    with read_only(store) as raw:
        pinned = load_public((STORES / f"schema-{version}.pem").read_bytes())
        found = queries.verify(raw, signatures=Signatures([pinned]))
        assert found.fault is None
        assert found.first_seq == 1
        assert found.erased == 0
        large = queries.find_call(raw, before[0].id)
        assert large is not None
        assert len(large.payloads["response"]["result"]["content"][0]["text"]) == 20_000


@pytest.mark.rule("journal.old-stores")
def test_a_store_of_every_schema_before_the_present_one_is_kept() -> None:
    """From the first that was kept on: whoever adds a step adds a store of the step before."""
    assert list(range(3, len(STEPS))) == VERSIONS
