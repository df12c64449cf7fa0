"""Owned cursors: each owned shard is read by itself."""

from __future__ import annotations

from penstock._core.messages.shard_keys import numbered
from penstock._core.reading.cursor import Cursor
from penstock._core.reading.owned_cursors import OwnedCursors

A, B = numbered("s", 0), numbered("s", 1)


def test_each_shard_has_a_cursor_of_its_own_as_long_as_it_is_owned() -> None:
    cursors = OwnedCursors(lambda: Cursor((), group=True))
    assert (cursors.all, cursors.shards, cursors.find(A)) == ([], (), None)
    first, second = cursors.open(A), cursors.open(B)
    first.add(A, b"0-0")
    second.add(B, b"0-0")
    assert first is not second
    assert (cursors.find(A), cursors.find(B)) == (first, second)
    assert cursors.to_part() == 0
    cursors.close(first)
    assert (cursors.shards, cursors.find(A)) == ((B,), None)
