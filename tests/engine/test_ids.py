"""Ids: their form, their order, and that none is given out twice."""

import threading
import time
import uuid

from gateway.model.ids import new_id, random16


def test_an_id_is_a_uuid_of_version_7_of_now() -> None:
    before = time.time_ns() // 1_000_000
    made = [uuid.UUID(new_id()) for _ in range(2_000)]
    after = time.time_ns() // 1_000_000
    assert {each.version for each in made} == {7}
    assert {each.variant for each in made} == {uuid.RFC_4122}
    assert all(before <= each.int >> 80 <= after for each in made)
    assert len(set(made)) == 2_000
    assert {str(each)[19] for each in made} == set("89ab")


def test_random_bytes_are_given_out_once_to_whichever_thread() -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.extend(random16() for _ in range(5_000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {len(each) for each in found} == {16}
    assert len(set(found)) == 20_000
