"""The digest of a segment, computed beside its writing."""

from __future__ import annotations

import threading
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.log.digest import PIECE_BYTES, RunningDigest


@pytest.mark.slow
@given(st.lists(st.integers(0, 3 * PIECE_BYTES // 2), max_size=8))
def test_digest_is_that_of_all_parts_in_order(sizes: list[int]) -> None:
    """Whether a thread computed it or not, and asked for in the middle or only at the end."""
    digest, expected = RunningDigest(), blake2b(digest_size=16)
    for number, size in enumerate(sizes):
        part = bytes([number]) * size
        digest.feed(part)
        expected.update(part)
        if number % 3 == 2:
            assert digest.value() == expected.digest()
    assert digest.value() == expected.digest()


def test_thread_ends_with_the_digest() -> None:
    """A log that rotates or closes leaves no thread behind."""
    before = threading.active_count()
    digest = RunningDigest()
    digest.feed(bytes(PIECE_BYTES))
    assert threading.active_count() == before + 1
    digest.close()
    assert threading.active_count() == before
    digest.feed(bytes(PIECE_BYTES))
    assert digest.value() == blake2b(bytes(2 * PIECE_BYTES), digest_size=16).digest()
    assert threading.active_count() == before
