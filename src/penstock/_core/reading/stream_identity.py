"""Stream identity: facts that reveal that a stream was deleted and recreated.

A stream has no identity of its own: a stream that was deleted and written again has the
same key, and may have the same ids. So a consumer remembers facts that only change in
one direction while a stream exists, and a few of its entries, each by its id and a
hash:

- The last id and the number of entries ever added never fall, and rise together.
- The first id and the highest deleted id never fall.
- An entry never changes, and an entry that no longer exists lies below the first id, or
  not above the highest deleted id.

A server that restarted from an older copy of its data breaks the first of these rules
too. It can only have done so while the connection was down, and the entries that it
still has are unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from penstock._core.protocol.replies import RawEntry, StreamInfo
from penstock.message import EntryId

__all__ = ["StreamIdentity"]

# The most entries that are remembered.
_SAMPLES: Final = 8
# The largest entry, in bytes, that is read again without a particular reason.
_SMALL: Final = 16 * 1024

_Sample: TypeAlias = tuple[EntryId, int, int]


class StreamIdentity:
    """The remembered facts about one stream.

    Attributes:
        last: The last id that the stream must have reached.
        interrupted: Whether the connection was lost since the stream was last
            described, so that its server may have lost data.
        absent: Whether the key did not exist at some time since then: the stream was
            deleted, or moved away and may return.
    """

    __slots__ = (
        "_added",
        "_anchor",
        "_described",
        "_samples",
        "absent",
        "interrupted",
        "last",
    )

    def __init__(self) -> None:
        self.interrupted = self.absent = False
        self.last = EntryId.MIN
        # The least number of entries that must have been added to the stream.
        self._added = 0
        self._described: StreamInfo | None = None
        # The remembered entries: id, hash, and size in bytes.
        self._samples: list[_Sample] = []
        # The newest remembered entry at the time of the last description. Entries that
        # were read after it may already be those of another stream.
        self._anchor: _Sample | None = None

    @property
    def empty(self) -> bool:
        """Whether no fact is known."""
        return self._described is None and not self._samples

    def read(self, first: EntryId, last: EntryId, entries: Sequence[RawEntry]) -> None:
        """Record the entries of a read.

        Args:
            first: The id of the first entry.
            last: The id of the last entry.
            entries: The entries, at least one, in the order of their ids.
        """
        if first > self.last:
            self._added += len(entries)
        elif last > self.last:
            self._added += 1
        if not self._samples:
            self._sample(first, entries[0])
        self.last = max(self.last, last)
        # A description may have shown the last id before its entry was read.
        if not self._samples or last > self._samples[-1][0]:
            self._sample(last, entries[-1])

    def _sample(self, id_: EntryId, entry: RawEntry) -> None:
        """Remember an entry: of many the first, the last, and ever fewer in between."""
        samples = self._samples
        fields = entry[1]
        if not fields or (samples and samples[-1][0] == id_):
            return
        samples.append((id_, hash(tuple(fields)), sum(map(len, fields))))
        if len(samples) > _SAMPLES:
            del samples[1:-1:2]

    def describe(self, info: StreamInfo) -> None:
        """Record the server's description of the stream."""
        self._described = info
        self.last = max(self.last, info.last)
        self._added = max(self._added, info.added or 0)
        self._anchor = self._samples[-1] if self._samples else None
        self.interrupted = self.absent = False

    def reset(self) -> None:
        """Forget everything, because the stream is another one."""
        self._described, self.last, self._added = None, EntryId.MIN, 0
        self._samples.clear()
        self._anchor = None
        self.interrupted = self.absent = False

    def contradicts(self, info: StreamInfo) -> bool:
        """Return whether a stream with this description can't be the recorded one."""
        if info.last < self.last:
            return True
        if info.added is not None and info.added < self._added:
            return True
        before = self._described
        return before is not None and _contradict(before, info)

    def probes(self, info: StreamInfo, *, quiet: bool) -> list[bytes]:
        """Return the ids of remembered entries to be read, the newest first.

        Args:
            info: The server's current description of the stream.
            quiet: Whether there is no other sign that it may be another stream. Then
                only small entries are read: the newest of those from before the last
                description, or all if there is none of these.
        """
        first = info.first
        if first is None:
            return []
        samples = self._samples
        if quiet:
            samples = samples if self._anchor is None else [self._anchor]
            samples = [sample for sample in samples if sample[2] <= _SMALL]
        there = [id_ for id_, _, _ in samples if first <= id_ <= info.last]
        return [bytes(id_) for id_ in reversed(there)]

    def is_other(
        self, info: StreamInfo, ids: Sequence[bytes], found: Sequence[Any]
    ) -> bool | None:
        """Return whether entries show that it is another stream; None if they don't.

        Args:
            info: The server's current description of the stream.
            ids: The ids that `probes` returned.
            found: The replies of an XRANGE for each id.
        """
        known = [*self._samples, self._anchor] if self._anchor else self._samples
        hashes = {bytes(id_): value for id_, value, _ in known}
        verdicts: list[bool] = []
        for id_, entries in zip(ids, found, strict=True):
            if entries:
                verdicts.append(hash(tuple(entries[0][1])) != hashes[id_])
            elif info.deleted is not None and EntryId.parse(id_) > info.deleted:
                verdicts.append(True)
        if not verdicts:
            return None
        # A server that has lost data has kept the oldest entries.
        return verdicts[-1] if self.interrupted else any(verdicts)


def _contradict(before: StreamInfo, now: StreamInfo) -> bool:
    """Return whether no stream can match first one description and then the other."""
    first = now.first
    # Whether the new first id lies below the previous one. If the stream was empty
    # before, every id up to its last one counts as below.
    below = before.first is None or (first is not None and first < before.first)
    if first is not None and first <= before.last and below:
        return True
    if (now.deleted or EntryId.MIN) < (before.deleted or EntryId.MIN):
        return True
    if now.added is None or before.added is None:
        return False
    more = now.added - before.added
    if (now.last == before.last) != (more == 0):
        return True
    return first is not None and first > before.last and now.length > more
