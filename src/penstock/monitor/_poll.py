"""One poll: asks the server about shards and groups, in few writes of bounded size.

The first write of a poll asks for all shards, and for those groups of which it is known
from the last poll what they need. The second one asks what the replies have shown to be
missing, and the third one for the age of what is not delivered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from penstock import _clock
from penstock._core.messages.dead_letter import default_stream
from penstock._core.protocol import commands, replies
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import (
    ErrorKind,
    ErrorReply,
    GroupInfo,
    StreamInfo,
)
from penstock.message import EntryId, Shard
from penstock.monitor._lag import lag_of, stale_lag_of
from penstock.monitor._observation import GroupSeen, ShardSeen, StreamSeen

__all__ = ["Calls", "Poller", "Seen", "in_chunks"]

Calls: TypeAlias = Callable[[Sequence[Command]], Awaitable[list[Any]]]
"""Sends commands in one write and returns their replies, errors as values."""

_CHUNK: Final = 256
"""The commands of one write."""
# A description with larger entries is asked for once in so many seconds only.
_LARGE: Final = 65_536
_LARGE_EVERY: Final = 60.0


class Seen(NamedTuple):
    """What a poll saw.

    Attributes:
        time: The server's time, in milliseconds since 1970.
        streams: The streams of which a shard exists.
        refused: The error for each stream that could not be looked at.
        missing: The streams of which no shard exists.
    """

    time: int
    streams: list[StreamSeen]
    refused: dict[str, ErrorReply]
    missing: list[str]


class _Large(NamedTuple):
    """The description of a shard whose entries are large, and when it was made."""

    at: float
    info: StreamInfo


@dataclass(slots=True)
class _Answers:
    """The replies about one shard."""

    groups: Any = None
    info: Any = None
    length: Any = None
    pending: dict[bytes, Any] = field(default_factory=dict)
    consumers: dict[bytes, Any] = field(default_factory=dict)


_Question: TypeAlias = tuple[Command, Callable[[Any], None]]


@dataclass(slots=True)
class Poller:
    """Asks about streams, and remembers what makes the next poll cheaper.

    Attributes:
        calls: Sends commands and returns their replies.
    """

    calls: Calls
    # For each shard: the groups that had pending entries, and those with consumers.
    _pending: dict[bytes, set[bytes]] = field(default_factory=dict)
    _consumers: dict[bytes, set[bytes]] = field(default_factory=dict)
    _large: dict[bytes, _Large] = field(default_factory=dict)
    # Whether the server's own lag is right after deletions; None: not asked yet.
    _trusted: bool | None = None

    async def poll(
        self, streams: Mapping[str, Sequence[Shard]], *, clock: float
    ) -> Seen:
        """Ask about streams.

        Args:
            streams: The shards of each stream.
            clock: The time of this process, in seconds.

        Raises:
            ServerError: The connection ended.
        """
        shards = [shard for some in streams.values() for shard in some]
        answers = {shard.key: _Answers() for shard in shards}
        now: list[Any] = []
        letters: dict[str, Any] = {}
        questions: list[_Question] = [(commands.time(), now.append)]
        if self._trusted is None:
            questions.append((commands.counts_lag(), self._trust))
        for shard in shards:
            questions += self._about(shard.key, answers[shard.key], clock)
        for stream in streams:
            ask = commands.xlen(default_stream(stream).encode())
            questions.append((ask, _setter(letters, stream)))
        await self._ask(questions)
        await self._ask(
            question
            for shard in shards
            for question in _missing(shard.key, answers[shard.key])
        )
        seen = _combine(streams, letters, self._described(shards, answers, clock), now)
        await self._ask(_undelivered(seen.streams))
        return seen

    async def _ask(self, questions: Iterable[_Question]) -> None:
        batch = list(questions)
        found = await in_chunks(self.calls, [command for command, _ in batch])
        for (_, receive), reply in zip(batch, found, strict=True):
            receive(reply)

    def _trust(self, reply: Any) -> None:
        self._trusted = replies.counts_lag(reply)

    def _about(self, key: bytes, into: _Answers, clock: float) -> Iterable[_Question]:
        """Yield the questions about a shard that are known to be needed.

        The groups come before the stream: what is added in between counts as lag, and
        what is delivered in between as well, so that the lag is never too low.
        """
        yield commands.xinfo_groups(key), _setter(into, "groups")
        large = self._large.get(key)
        if large is None or clock - large.at >= _LARGE_EVERY:
            yield commands.xinfo_stream(key), _setter(into, "info")
        else:
            yield commands.xlen(key), _setter(into, "length")
        for name in self._pending.get(key, ()):
            yield _first_pending(key, name), _setter(into.pending, name)
        for name in self._consumers.get(key, ()):
            yield commands.xinfo_consumers(key, name), _setter(into.consumers, name)

    def _described(
        self, shards: Sequence[Shard], answers: Mapping[bytes, _Answers], clock: float
    ) -> dict[bytes, ShardSeen | ErrorReply]:
        """Return what is known of each shard, and remember what the next poll needs."""
        keys = {shard.key for shard in shards}
        for memory in (self._pending, self._consumers, self._large):
            for gone in memory.keys() - keys:
                del memory[gone]
        return {
            shard.key: self._shard(shard, answers[shard.key], clock) for shard in shards
        }

    def _shard(
        self, shard: Shard, found: _Answers, clock: float
    ) -> ShardSeen | ErrorReply:
        key = shard.key
        if (error := _error(found)) is not None:
            self._large.pop(key, None)
            return error
        infos: list[GroupInfo] = found.groups
        self._pending[key] = {info.name for info in infos if info.pending}
        self._consumers[key] = {info.name for info in infos if info.consumers}
        if found.info is not None:
            self._note_size(key, found.info, clock)
            seen = ShardSeen(shard, found.info)
        else:
            seen = ShardSeen(shard, self._large[key].info._replace(length=found.length))
        for info in infos:
            if found.info is None:
                lag = stale_lag_of(seen.info, info, found.length)
            else:
                lag = lag_of(seen.info, info, trusted=self._trusted or False)
            seen.groups[info.name] = group = GroupSeen(info, lag)
            _add_pending(group, found.pending.get(info.name))
            listed = found.consumers.get(info.name)
            if listed is not None and not isinstance(listed, ErrorReply):
                group.consumers = tuple(listed)
        return seen

    def _note_size(self, key: bytes, info: StreamInfo, clock: float) -> None:
        if info.size > _LARGE:
            self._large[key] = _Large(clock, info)
        else:
            self._large.pop(key, None)


def _error(found: _Answers) -> ErrorReply | None:
    """Return the error without which a shard's groups would be shown wrongly.

    A group may be gone by the time that it is asked about. But without permission to
    see its consumers, it would seem to have none.
    """
    for reply in (found.groups, found.info, found.length):
        if isinstance(reply, ErrorReply):
            return reply
    for reply in (*found.pending.values(), *found.consumers.values()):
        if isinstance(reply, ErrorReply) and reply.kind is ErrorKind.FATAL:
            return reply
    return None


async def in_chunks(calls: Calls, batch: Sequence[Command]) -> list[Any]:
    """Send commands in writes of bounded size, and return all replies."""
    found: list[Any] = []
    for start in range(0, len(batch), _CHUNK):
        found += await calls(batch[start : start + _CHUNK])
    return found


def _setter(into: Any, name: Any) -> Callable[[Any], None]:
    """Return a function that puts a reply into a dictionary or an attribute."""
    if isinstance(into, dict):
        return lambda reply: into.__setitem__(name, reply)
    return lambda reply: setattr(into, name, reply)


def _first_pending(key: bytes, group: bytes) -> Command:
    return commands.xpending_between(key, group, None, low=b"-", high=b"+", count=1)


def _missing(key: bytes, found: _Answers) -> Iterable[_Question]:
    """Yield the questions about groups that the descriptions have made necessary."""
    if isinstance(found.groups, ErrorReply):
        return
    for info in found.groups:
        if info.pending and info.name not in found.pending:
            yield _first_pending(key, info.name), _setter(found.pending, info.name)
        if info.consumers and info.name not in found.consumers:
            ask = commands.xinfo_consumers(key, info.name)
            yield ask, _setter(found.consumers, info.name)


def _add_pending(group: GroupSeen, page: Any) -> None:
    """Note the first pending entry, if there is one and this user may see it."""
    if page and not isinstance(page, ErrorReply):
        group.oldest, group.idle = EntryId.parse(page[0].id), page[0].idle


def _combine(
    streams: Mapping[str, Sequence[Shard]],
    letters: Mapping[str, Any],
    described: Mapping[bytes, ShardSeen | ErrorReply],
    now: Sequence[Any],
) -> Seen:
    # A user who lacks TIME gets ages by this process's clock.
    is_known = not isinstance(now[0], ErrorReply)
    moment = now[0] if is_known else int(1000 * _clock.wall())
    seen = Seen(moment, [], {}, [])
    for name, shards in streams.items():
        count = letters[name]
        stream = StreamSeen(name)
        stream.dead_letters = None if isinstance(count, ErrorReply) else count
        for shard in shards:
            found = described[shard.key]
            if isinstance(found, ShardSeen):
                stream.shards.append(found)
            elif "no such key" not in found.text:
                seen.refused[name] = found
        if stream.shards:
            seen.streams.append(stream)
        elif name not in seen.refused:
            seen.missing.append(name)
    return seen


def _undelivered(streams: Iterable[StreamSeen]) -> Iterable[_Question]:
    """Yield the questions for the first entry that was not delivered to a group.

    It is asked only where it decides the age: if nothing is pending, and the position
    is within the stream. Before the stream, it is the first entry.
    """
    for stream in streams:
        for shard in stream.shards:
            for group in shard.groups.values():
                if group.oldest is not None or not group.lag.number:
                    continue
                first = shard.info.first
                delivered = EntryId.parse(group.info.last_delivered)
                if first is not None and delivered < first:
                    group.oldest = first
                    continue
                after = b"(" + group.info.last_delivered
                ask = commands.xrange_between(shard.shard.key, after, b"+", 1)
                yield ask, _receiver(group)


def _receiver(group: GroupSeen) -> Callable[[Any], None]:
    def receive(reply: Any) -> None:
        if reply and not isinstance(reply, ErrorReply):
            group.oldest = EntryId.parse(reply[0][0])

    return receive
