"""Stream identity: a recreated stream is distinguished from one that stayed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock._core.protocol.replies import RawEntry, StreamInfo
from penstock._core.reading.stream_identity import StreamIdentity
from penstock.message import EntryId


class Stream:
    """A stream on the server."""

    def __init__(self, *, described_fully: bool = True) -> None:
        self.entries: dict[int, bytes] = {}
        self.last = self.added = self.deleted = 0
        # Before Redis 7 a server describes a stream less fully.
        self.described_fully = described_fully

    def add(self, body: bytes = b"x", step: int = 1) -> None:
        self.last += step
        self.added += 1
        self.entries[self.last] = body

    def delete(self, id_: int) -> None:
        del self.entries[id_]
        self.deleted = max(self.deleted, id_)

    def trim(self, count: int) -> None:
        for id_ in list(self.entries)[:count]:
            del self.entries[id_]

    @property
    def info(self) -> StreamInfo:
        first = min(self.entries, default=None)
        return StreamInfo(
            len(self.entries),
            EntryId(self.last, 0),
            None if first is None else EntryId(first, 0),
            EntryId(self.deleted, 0) if self.described_fully else None,
            added=self.added if self.described_fully else None,
        )

    def range(self, after: int, count: int = 1000) -> list[RawEntry]:
        found = [(id_, body) for id_, body in self.entries.items() if id_ > after]
        return [[b"%d-0" % id_, [b"msg", body]] for id_, body in found[:count]]

    def fetch(self, ids: list[bytes]) -> list[Any]:
        wanted = [int(id_.partition(b"-")[0]) for id_ in ids]
        return [
            [[b"%d-0" % id_, [b"msg", self.entries[id_]]]]
            if id_ in self.entries
            else []
            for id_ in wanted
        ]


def read(
    identity: StreamIdentity, stream: Stream, after: int = 0, most: int = 9
) -> int:
    """Read a batch; return the last id."""
    entries = stream.range(after, most)
    if not entries:
        return after
    first, last = EntryId.parse(entries[0][0]), EntryId.parse(entries[-1][0])
    identity.read(first, last, entries)
    return last.ms


def is_other(
    identity: StreamIdentity, stream: Stream, *, quiet: bool = False
) -> bool | None:
    """Return whether its entries show that it is another stream."""
    ids = identity.probes(stream.info, quiet=quiet)
    return identity.is_other(stream.info, ids, stream.fetch(ids))


def filled(count: int, body: bytes = b"x", *, described_fully: bool = True) -> Stream:
    stream = Stream(described_fully=described_fully)
    for _ in range(count):
        stream.add(body)
    return stream


def known(stream: Stream, *, described: bool = True) -> StreamIdentity:
    identity = StreamIdentity()
    read(identity, stream)
    if described:
        identity.describe(stream.info)
    return identity


def test_of_a_stream_that_was_never_read_nothing_is_known() -> None:
    identity = StreamIdentity()
    assert identity.empty
    assert not identity.contradicts(filled(3).info)
    assert is_other(identity, filled(3)) is None
    read(identity, filled(3))
    assert not identity.empty
    identity.reset()
    assert identity.empty


@pytest.mark.parametrize("described", [False, True])
def test_a_stream_with_fewer_entries_is_another_one(*, described: bool) -> None:
    identity = known(filled(9), described=described)
    assert identity.contradicts(filled(8).info)
    fewer = filled(2)
    fewer.add(step=100)
    assert identity.contradicts(fewer.info), (
        "the last id is higher, but entries are missing"
    )


def test_a_stream_that_grew_without_new_ids_is_another_one() -> None:
    identity, other = known(filled(9)), filled(9)
    other.added += 1
    assert identity.contradicts(other.info)
    other.added -= 1
    other.last += 1
    assert identity.contradicts(other.info), (
        "the last id has risen without an added entry"
    )


def test_a_stream_that_begins_lower_is_another_one() -> None:
    old = filled(9)
    old.trim(4)
    assert known(old).contradicts(filled(12).info)
    old.trim(9)
    identity = known(filled(9))
    identity.describe(old.info)
    assert identity.contradicts(filled(12).info), "the trimmed stream was empty"


def test_a_stream_with_a_lower_deleted_id_is_another_one() -> None:
    old = filled(9)
    old.delete(5)
    assert known(old).contradicts(filled(12).info)


def test_a_stream_with_more_new_entries_than_were_added_is_another_one() -> None:
    identity, other = known(filled(9)), Stream()
    other.last = 9
    for _ in range(10):
        other.add()
    assert identity.contradicts(other.info)


def test_before_redis_7_the_ids_have_to_suffice() -> None:
    identity = known(filled(9, described_fully=False))
    assert not identity.contradicts(filled(9, described_fully=False).info)
    assert identity.contradicts(filled(8, described_fully=False).info)
    assert is_other(identity, filled(9, b"y", described_fully=False)) is True
    trimmed = filled(9, described_fully=False)
    trimmed.delete(9)
    identity = known(filled(9, described_fully=False))
    assert not is_other(identity, trimmed), "a missing entry may have been deleted"


def test_a_changed_entry_shows_another_stream() -> None:
    identity = known(filled(9))
    assert is_other(identity, filled(12)) is False
    assert is_other(identity, filled(12, b"y")) is True


def test_a_missing_entry_shows_another_stream_unless_it_was_deleted() -> None:
    identity, other = known(filled(9)), Stream()
    for _ in range(4):
        other.add(step=3)
    other.entries[1] = b"x"
    del other.entries[9]
    assert is_other(identity, other) is True
    other.deleted = 9
    assert is_other(identity, other) is False


def test_after_lost_data_a_stream_with_the_oldest_known_entry_is_the_same_one() -> None:
    identity, restored = known(filled(9)), filled(5)
    restored.add(b"new", step=9)
    assert identity.contradicts(restored.info)
    assert is_other(identity, restored) is True
    identity.interrupted = True
    assert is_other(identity, restored) is False
    assert is_other(identity, filled(5, b"y")) is True


def test_an_empty_stream_shows_nothing() -> None:
    assert is_other(known(filled(9)), Stream()) is None


def test_without_any_sign_one_small_entry_is_checked() -> None:
    old = filled(9)
    identity = known(old)
    assert identity.probes(old.info, quiet=True) == [b"9-0"]
    old.add()
    read(identity, old, after=9)
    # Entries that came since may be of another stream already.
    assert identity.probes(old.info, quiet=True) == [b"9-0"]
    assert is_other(identity, filled(12, b"y"), quiet=True) is True
    large = known(filled(2, b"x" * 100_000))
    assert not large.probes(filled(2).info, quiet=True)
    undescribed = known(old, described=False)
    assert undescribed.probes(old.info, quiet=True) == [b"9-0", b"1-0"]


def test_few_entries_are_remembered_including_the_first_and_the_last() -> None:
    identity, old, at = StreamIdentity(), filled(1000), 0
    for _ in range(500):
        at = read(identity, old, at, 2)
    probes = identity.probes(old.info, quiet=False)
    assert 4 < len(probes) <= 8
    assert probes[0] == b"1000-0"
    assert probes[-1] == b"1-0"


def test_the_newest_entry_is_remembered_though_its_id_was_known_before() -> None:
    """Another consumer's read may have shown it, or a description."""
    old = filled(9, described_fully=False)
    identity = StreamIdentity()
    identity.describe(old.info)
    read(identity, old)
    new = filled(9, b"y", described_fully=False)
    new.trim(8)
    assert not identity.contradicts(new.info)
    assert is_other(identity, new) is True


def test_an_entry_that_is_read_again_counts_once() -> None:
    old = filled(9)
    identity = known(old, described=False)
    read(identity, old)
    old.add()
    read(identity, old, 3)
    assert not identity.contradicts(old.info)


def test_deleted_entries_are_not_remembered() -> None:
    identity = StreamIdentity()
    one = EntryId(1, 0)
    identity.read(one, one, [[b"1-0", None]])
    assert identity.empty
    assert identity.last == one


STEPS = st.sampled_from(["add", "delete", "trim", "read", "again", "describe"])


@given(
    st.lists(st.tuples(STEPS, st.integers(0, 9), st.booleans()), max_size=60),
    st.booleans(),
)
@settings(deadline=None)
def test_a_stream_that_lives_on_is_never_taken_for_another_one(
    steps: list[tuple[str, int, bool]],
    described_fully: bool,  # noqa: FBT001 - Hypothesis gives it
) -> None:
    stream, identity, at = Stream(described_fully=described_fully), StreamIdentity(), 0
    for step, number, quiet in steps:
        match step:
            case "add":
                for _ in range(number):
                    stream.add(b"%d" % stream.last, 1 + number % 2)
            case "delete" if stream.entries:
                ids = list(stream.entries)
                stream.delete(ids[number % len(ids)])
            case "trim":
                stream.trim(number)
            case "read":
                at = read(identity, stream, at, number + 1)
            case "again":
                read(identity, stream, 0, number + 1)
            case "describe":
                identity.describe(stream.info)
        assert not identity.contradicts(stream.info)
        assert not is_other(identity, stream, quiet=quiet)
