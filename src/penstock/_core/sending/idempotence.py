"""Idempotent sends: messages that are stored once, however often they are written.

The messages of one write that go to one shard are a run. A run is one command: a script
that appends the messages and notes the outcome of each in a hash beside the shard's
key. If the script finds that note, it returns the same outcomes and appends nothing. A
run has the same number and the same messages whenever it is written. Notes are kept for
runs that may be written again: each command states the lowest number of such a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

from penstock._core.messages import shard_keys
from penstock._core.protocol import commands, sending_scripts
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply, of_script
from penstock._core.sending.requests import IdempotentRun, SendBatch, SendRequest

__all__ = ["LIFE", "MOST_WORDS", "IdempotentRuns"]

K = TypeVar("K")

# Seconds for which a producer's notes are kept after its last send to a shard.
LIFE: Final = 24 * 3600.0

# Seconds for which notes are kept that are not needed any more, if something was
# written twice: a copy of a command may arrive late, over a connection that was lost.
_LATE: Final = 3600.0

# The shards that may have notes of one producer, besides those with a run that has no
# outcome yet; and the number of shards whose notes are then deleted together.
_MOST_NOTED: Final = 1000
_AT_ONCE: Final = 100

# The bounds of one run: its messages, since the server serves nobody else while it
# appends them; and its bytes, with an allowance for each word, since a command may have
# at most a million words.
_MOST: Final = 500
_HEAVIEST: Final = 4 * 1024 * 1024
_WORD: Final = 16

_CANCELLED: Final = ErrorReply("ERR the run was cancelled before it was executed")

# Lua unpacks at most 8,000 values; a message has fewer words than that.
MOST_WORDS: Final = 7_000


class IdempotentRuns:
    """Numbers one producer's runs.

    Args:
        producer: Identifies this producer among all producers, also earlier ones.
    """

    def __init__(self, producer: bytes) -> None:
        self._name = b"sent." + producer
        self._next = 1
        # The keys of the notes, and the number of the last run that they are about, by
        # the keys of their shards; those used last stand last.
        self._notes: dict[bytes, tuple[bytes, int]] = {}
        self._low = 0
        # Whether any run was written again.
        self._repeated = False

    def commands(
        self, batch: SendBatch[K], written: Iterable[SendBatch[K]] = ()
    ) -> list[Command]:
        """Return the commands of a write, one for each run.

        For a batch that `cancels`, the commands append nothing. They find the note of a
        run that was stored, and of another run they leave an empty one: then no
        earlier write of it can append anything any more, however late it arrives.

        Args:
            batch: The messages that are written, for the first time or again.
            written: All batches whose outcomes are not known.
        """
        if batch.runs:
            self._repeated = True
        else:
            batch.runs = list(self._divide(batch))
        # A batch without runs is about to be written with higher numbers.
        self._low = min(one.runs[0].number for one in (batch, *written) if one.runs)
        return [self._command(run, empty=batch.cancels) for run in batch.runs]

    def deletions(self, *, closing: bool = False) -> list[Command]:
        """Return commands that delete notes which are not needed any more, if many are.

        Without them, the server would keep the notes for each shard for a day.

        Args:
            closing: Whether all outcomes are known and nothing more is sent, so that no
                notes are needed.
        """
        excess = len(self._notes) - (0 if closing else _MOST_NOTED)
        if not closing and excess < _AT_ONCE:
            return []
        old: list[bytes] = []
        for key, (_, number) in islice(self._notes.items(), excess):
            if number >= self._low and not closing:
                break
            old.append(key)
        life = int(_LATE * 1000) if self._repeated else 0
        return [commands.pexpire(self._notes.pop(key)[0], life) for key in old]

    def _divide(self, batch: SendBatch[K]) -> Iterator[IdempotentRun[K]]:
        shards: dict[bytes, list[SendRequest[K]]] = {}
        for request in batch:
            shards.setdefault(request.shard.key, []).append(request)
        for requests in shards.values():
            for some in _split(requests):
                yield IdempotentRun(self._next, some)
                self._next += 1

    def _command(self, run: IdempotentRun[K], *, empty: bool) -> Command:
        key = run.requests[0].shard.key
        mark, last = self._notes.pop(key, (None, 0))
        if mark is None:
            mark = shard_keys.companion(key, self._name)
        self._notes[key] = mark, max(last, run.number)
        requests = () if empty else run.requests
        entries = [request.command[2:] for request in requests]
        life = int(LIFE * 1000)
        return sending_scripts.add_once(
            key, mark, run.number, entries, life=life, low=self._low
        )


def _split(requests: list[SendRequest[K]]) -> Iterator[list[SendRequest[K]]]:
    """Split messages that are too much for one command."""
    portion: list[SendRequest[K]] = []
    weight = 0
    for request in requests:
        more = request.size + _WORD * len(request.command)
        if portion and (len(portion) == _MOST or weight + more > _HEAVIEST):
            yield portion
            portion, weight = [], 0
        portion.append(request)
        weight += more
    yield portion


def refused_temporarily(
    batch: SendBatch[K], replies: Sequence[Any]
) -> list[SendRequest[K]]:
    """Return the messages that were refused for the moment, and certainly not stored.

    Messages that were refused inside a run's script are not among them, because the run
    has been noted.
    """
    refused = [
        isinstance(reply, ErrorReply) and of_script(reply).temporary
        for reply in replies
    ]
    if not any(refused):
        return []
    if batch.cancels:
        return list(batch)
    units = [run.requests for run in batch.runs] or [[request] for request in batch]
    return [
        request
        for unit, again in zip(units, refused, strict=True)
        if again
        for request in unit
    ]


def unstored(batch: SendBatch[K], replies: Sequence[Any]) -> list[SendRequest[K]]:
    """Return the messages of a batch that `cancels` whose runs were not stored."""
    runs = zip(batch.runs, replies, strict=True)
    found = {id(one) for run, reply in runs if reply == b"" for one in run.requests}
    return [request for request in batch if id(request) in found]


def outcomes(batch: SendBatch[K], replies: Sequence[Any]) -> list[Any]:
    """Return a reply for each message of a batch, given the replies for its runs."""
    found: dict[int, Any] = {}
    for run, reply in zip(batch.runs, replies, strict=True):
        if type(reply) is bytes:
            lines = _lines(reply)
            if len(lines) != len(run.requests):
                # Only a command that cancels the run may get such a reply.
                lines = [_CANCELLED] * len(run.requests)
        else:
            lines = [of_script(reply)] * len(run.requests)
        found.update(zip(map(id, run.requests), lines, strict=True))
    return [found[id(request)] for request in batch]


def _lines(reply: bytes) -> list[Any]:
    lines: list[Any] = reply.split(b"\n")
    if b"!" in reply:
        return [_error(line) if line.startswith(b"!") else line for line in lines]
    return lines


def _error(line: bytes) -> ErrorReply:
    # Redis 6.2 leaves the minus sign of an error reply in the text.
    return ErrorReply(line[1:].removeprefix(b"-").decode("utf-8", "replace"))


def batch_to_resend(
    batch: SendBatch[K], refused: Sequence[SendRequest[K]]
) -> SendBatch[K]:
    """Return the messages of a batch that are to be written again, with their runs."""
    again = SendBatch(refused)
    ids = set(map(id, refused))
    again.runs = [run for run in batch.runs if id(run.requests[0]) in ids]
    again.cancels = batch.cancels
    return again
