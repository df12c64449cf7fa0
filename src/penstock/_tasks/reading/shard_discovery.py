"""Shard discovery: looks for the shards of a stream by their names.

The shards of a stream are its key, or keys that end in a number. They are looked up by
name. A SCAN would go through the whole database, which may hold millions of other keys,
and would show all of them to a user whose ACL allows a few.

This is done only on request, and where a record leaves the number of shards open, see
`shard_records.py`: a stream that is called `tenant:1` is usually no shard of `tenant`.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Final, TypeAlias

from penstock._core.messages import shard_keys
from penstock._core.protocol import commands
from penstock._core.protocol.cluster_slots import slot
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock.errors import CommandError
from penstock.events import Event, OnEvent
from penstock.message import Shard

__all__ = ["Calls", "OnFound", "ShardDiscovery"]

# How many numbers above the highest existing one are looked up: at once when a consumer
# opens, and later piece by piece.
_FAR: Final = 1024
# How many of them are looked up in each round, and the size of a piece.
_NEAR: Final = 16
_PIECE: Final = 256
# The most keys of one EXISTS that narrows down which of them exist.
_FEW: Final = 32
# The replies of TYPE for a key that is a shard, or may become one.
_HARMLESS: Final = frozenset((b"stream", b"none"))

# The code of the error for a command that names keys of several slots.
_CROSS_SLOT: Final = "CROSSSLOT"

Calls: TypeAlias = Callable[[Sequence[Command]], Awaitable[list[Any]]]

OnFound: TypeAlias = Callable[[Sequence[Shard]], Awaitable[Iterable[Shard]]]
"""Called with new shards; returns those that are read now."""


@dataclass(slots=True)
class _Stream:
    """The known shards of a stream.

    Attributes:
        name: The stream's name.
        known: The stream's shards.
        highest: The highest number of a shard; -1 if there is none.
    """

    name: str
    known: set[Shard] = field(default_factory=set)
    highest: int = -1

    def near(self) -> range:
        """Return the numbers that are most likely to appear."""
        return range(self.highest + 1 + _NEAR)

    def unknown(self, numbers: Iterable[int]) -> list[Shard]:
        """Return unknown shards that may exist: its own key, and some numbers."""
        numbered = shard_keys.several(self.name, numbers)
        shards = (shard_keys.single(self.name), *numbered)
        return [shard for shard in shards if shard not in self.known]

    def found(self, shards: Iterable[Shard]) -> None:
        """Record shards."""
        base = shard_keys.single(self.name)
        for shard in shards:
            self.known.add(shard)
            if shard != base:
                self.highest = max(self.highest, shard.number)


class ShardDiscovery:
    """Looks for the shards of some streams.

    Args:
        calls: Sends commands in one write and returns their replies, errors as values.
        on_event: Receives the refusals to look for shards.

    Attributes:
        refused: The streams that were given up because of a refusal, with that.
    """

    def __init__(self, calls: Calls, on_event: OnEvent) -> None:
        self._calls = calls
        self._on_event = on_event
        self.refused: dict[str, ErrorReply] = {}
        self._streams: dict[str, _Stream] = {}
        # Shards whose keys have another type than a stream.
        self._foreign: dict[Shard, None] = {}
        self._rounds = 0
        # Whether a command may not name keys of several slots.
        self._one_slot_per_command = False

    async def watch(self, stream: str) -> list[Shard]:
        """Find a stream's shards, and look for new ones from now on.

        Args:
            stream: The stream's name.

        Returns:
            The stream's shards; if there is none, the stream's own key.

        Raises:
            CommandError: The server can't answer at present.
            ConnectionLost: The connection ended before the reply.
        """
        known = self._streams[stream] = _Stream(stream)
        found: list[Shard] = []
        looked = 0
        while looked <= known.highest + _FAR:
            numbers = range(looked, known.highest + 1 + _FAR)
            looked = numbers.stop
            new = await self._find(known.unknown(numbers))
            found += new
            known.found(new)
        if not found:
            found = [shard_keys.single(stream)]
            known.found(found)
        return found

    def ignore(self, stream: str) -> None:
        """Stop looking for new shards of a stream."""
        self._streams.pop(stream, None)

    def follow(self, stream: str, known: Iterable[Shard]) -> None:
        """Look for the shards of a stream from now on, besides those that are known."""
        one = self._streams[stream] = _Stream(stream)
        one.found(known)

    async def look(self, on_found: OnFound) -> None:
        """Look for new shards; near numbers each time, and a part of the far ones.

        Args:
            on_found: Called with new shards. Those that it does not return are passed
                to it again.

        Raises:
            CommandError: The server can't answer at present.
            ConnectionLost: The connection ended before the reply.
        """
        if not self._streams:
            return
        new = await self._find(self._candidates())
        read = await on_found(new) if new else ()
        for shard in read:
            if shard.stream in self._streams:
                self._streams[shard.stream].found([shard])

    def _candidates(self) -> list[Shard]:
        """Return the shards to look up in this round: near ones, and a far piece."""
        streams = list(self._streams.values())
        near = [s for stream in streams for s in stream.unknown(stream.near())]
        pieces = [
            (stream, first)
            for stream in streams
            for first in range(_NEAR, _FAR, _PIECE)
        ]
        stream, first = pieces[self._rounds % len(pieces)]
        self._rounds += 1
        start = stream.highest + 1 + first
        return near + stream.unknown(range(start, start + _PIECE))

    async def _find(self, candidates: Sequence[Shard]) -> list[Shard]:
        """Return those of the shards that exist; mostly, that is none."""
        foreign = list(self._foreign)
        if foreign:
            candidates = [s for s in candidates if s not in self._foreign]
        [count], types = await self._count([candidates], foreign)
        if isinstance(count, ErrorReply):
            _raise_if_transient("EXISTS", count)
            await self._refused(candidates, count)
            return []
        for shard, kind in zip(foreign, types, strict=True):
            if kind in _HARMLESS:
                self._foreign.pop(shard, None)
        if not count and len(foreign) == len(self._foreign):
            return []
        return await self._distinguish([*candidates, *foreign])

    async def _count(
        self, pieces: Sequence[Sequence[Shard]], foreign: Sequence[Shard] = ()
    ) -> tuple[list[int | ErrorReply], list[Any]]:
        """Return how many keys of each piece exist, and the types of other keys.

        In cluster mode, no command may name keys of several slots.
        """
        asks = [
            _by_slot(piece) if self._one_slot_per_command else [piece]
            for piece in pieces
        ]
        answers = iter(
            await self._calls(
                [
                    *[
                        commands.exists([shard.key for shard in ask])
                        for ask in chain.from_iterable(asks)
                    ],
                    *[commands.key_type(shard.key) for shard in foreign],
                ]
            )
        )
        counts = [_sum([*islice(answers, len(ask))]) for ask in asks]
        crossed = any(
            isinstance(n, ErrorReply) and n.code == _CROSS_SLOT for n in counts
        )
        if crossed and not self._one_slot_per_command:
            self._one_slot_per_command = True
            return await self._count(pieces, foreign)
        return counts, list(answers)

    async def _distinguish(self, candidates: Sequence[Shard]) -> list[Shard]:
        """Return the shards that are streams; mostly, very few of the keys exist."""
        pieces = [candidates[i : i + _FEW] for i in range(0, len(candidates), _FEW)]
        counts, _ = await self._count(pieces)
        # A refusal counts as existing keys: the replies of TYPE show what caused it.
        there = [s for p, n in zip(pieces, counts, strict=True) if n for s in p]
        types = await self._calls([commands.key_type(s.key) for s in there])
        kinds: dict[Shard, Any] = {}
        for shard, kind in zip(there, types, strict=True):
            if not isinstance(kind, ErrorReply):
                kinds[shard] = kind
                continue
            _raise_if_transient("TYPE", kind)
            self._give_up(shard.stream, kind)
        self._foreign |= dict.fromkeys(
            shard for shard, kind in kinds.items() if kind not in _HARMLESS
        )
        return [shard for shard, kind in kinds.items() if kind == b"stream"]

    async def _refused(self, candidates: Sequence[Shard], error: ErrorReply) -> None:
        """Stop looking for shards that this user may not see."""
        names = dict.fromkeys(shard.stream for shard in candidates)
        for name in names:
            of_stream = [shard for shard in candidates if shard.stream == name]
            [[alone], _] = await self._count([of_stream])
            if isinstance(alone, ErrorReply):
                self._give_up(name, error)

    def _give_up(self, stream: str, error: ErrorReply) -> None:
        """Keep a stream's known shards, look for no more, and report that once."""
        if stream in self._streams:
            self.refused[stream] = error
            facts = {"stream": stream, "reply": error.text}
            self._on_event(Event("looking_refused", logging.INFO, facts))
            self.ignore(stream)


def _by_slot(shards: Iterable[Shard]) -> list[list[Shard]]:
    slots: defaultdict[int, list[Shard]] = defaultdict(list)
    for shard in shards:
        slots[slot(shard.key)].append(shard)
    return list(slots.values())


def _sum(counts: Sequence[int | ErrorReply]) -> int | ErrorReply:
    total = 0
    for count in counts:
        if isinstance(count, ErrorReply):
            return count
        total += count
    return total


def _raise_if_transient(command: str, error: ErrorReply) -> None:
    """Raise a transient error, so that it is not taken for an answer.

    Raises:
        CommandError: The error is transient.
    """
    if error.kind is ErrorKind.TRANSIENT:
        raise CommandError(command, error.code, error.text)
