"""Shard merge: the shards of a stream are read in one order."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from penstock import EntryId, Shard
from penstock._core.reading.shard_merge import ShardMerge
from support.entries import answer

IDS = st.builds(EntryId, st.sampled_from([1, 2, 3, 2**64 - 1]), st.integers(0, 2))
Place = tuple[EntryId, int]


def shards(count: int) -> list[Shard]:
    return [Shard("s", number, b"s:%d" % number) for number in range(count)]


def read(merge: ShardMerge, streams: Sequence[set[EntryId]]) -> list[Place]:
    """Read all entries as the task does."""
    got: list[Place] = []
    while True:
        ready = [(EntryId.parse(e[0]), shard.number) for shard, e in merge.ready()]
        got += ready
        due = merge.due()
        if not due:
            assert list(merge.ready()) == []
            return got
        for strand in due:
            ids = sorted(streams[strand.shard.number])
            strand.take(answer(ids, strand.span.ask()))
            # At most a page and half of the one before wait.
            assert len(strand.waiting) <= 2 * max(strand.span.size, 10)


@given(
    streams=st.lists(st.sets(IDS), max_size=4),
    page=st.integers(1, 8),
    reverse=st.booleans(),
)
def test_the_entries_of_all_shards_come_once_and_in_order(
    *, streams: list[set[EntryId]], page: int, reverse: bool
) -> None:
    bounds = [(EntryId.MIN, max(ids)) if ids else None for ids in streams]
    merge = ShardMerge(shards(len(streams)), bounds, page=page, reverse=reverse)
    wanted = [(id_, number) for number, ids in enumerate(streams) for id_ in ids]
    assert read(merge, streams) == sorted(wanted, reverse=reverse)


def test_an_entry_is_held_back_while_another_shard_may_have_an_earlier_one() -> None:
    bounds = [(EntryId.MIN, EntryId(9)), (EntryId.MIN, EntryId(9))]
    merge = ShardMerge(shards(2), bounds, page=4, reverse=False)
    one, two = merge.due()
    one.take([[b"1-0", []], [b"7-0", []]])
    assert list(merge.ready()) == []
    two.take([[b"3-0", []], [b"5-0", []]])
    assert [entry[0] for _, entry in merge.ready()] == [b"1-0", b"3-0", b"5-0"]
    # Little is left of the first shard's page, and nothing of the second one's.
    assert merge.due() == [one, two]
