"""Lua scripts that copy entries to the dead letters, and dead letters back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from penstock._core.protocol import fencing
from penstock._core.protocol.commands import Command
from penstock._core.protocol.fencing import Fence

__all__ = [
    "MOVE",
    "SEND_DEAD_LETTER",
    "SEND_OWNED_DEAD_LETTER",
    "move_entries",
    "send_dead_letter",
]

_LOOK_AT_OURS: Final = b"""
local group, consumer, id = ARGV[1], ARGV[2], ARGV[3]
local pending = redis.pcall('XPENDING', KEYS[1], group, id, id, 1, consumer)
"""
_LOOK_AT_ALL: Final = b"""
local group, id = ARGV[1], ARGV[3]
local pending = redis.pcall('XPENDING', KEYS[1], group, id, id, 1)
"""
_COPY_AND_ACK: Final = b"""\
local gone = pending.err and string.find(pending.err, 'NOGROUP', 1, true)
if pending.err and not gone then return pending end
if not gone and #pending == 0 then return 0 end
local copy = redis.call('XADD', KEYS[2], unpack(ARGV, 4))
if gone then return copy end
local acked = redis.pcall('XACK', KEYS[1], group, id)
if type(acked) ~= 'number' then return copy end
return {acked, copy}
"""
SEND_DEAD_LETTER: Final = _LOOK_AT_OURS + _COPY_AND_ACK
SEND_OWNED_DEAD_LETTER: Final = fencing.fenced(_LOOK_AT_ALL + _COPY_AND_ACK)


def send_dead_letter(
    key: bytes,
    group: str,
    consumer: str,
    id: bytes,  # noqa: A002
    *,
    dead: bytes,
    fields: Iterable[bytes],
    trim: Command = (),
    owner: Fence | None = None,
) -> Command:
    """Copy an entry of this consumer to the dead letters and acknowledge it.

    In a shard that is owned, everything that is pending is the owner's, under whatever
    name he has read it. So the entry need not be pending for this consumer then.

    The reply is 0 if the entry is not pending for this consumer, and otherwise the
    number of entries acknowledged, and the copy's id. It is the copy's id alone if
    the copy was written, but the acknowledgement was refused or the group is gone.
    Without its group the entry is in no pending list, and waiting for the group could
    last forever, while entries that are given up take up the read budget. This is a
    script so that the entry is dead-lettered once or not at all: if the copy is
    refused, nothing is acknowledged.

    Args:
        key: The entry's stream.
        group: The group.
        consumer: The consumer.
        id: The entry's id.
        dead: The dead-letter stream.
        fields: The dead letter.
        trim: How the dead-letter stream is trimmed, as arguments of XADD.
        owner: The ownership without which nothing is done; None if the shard is shared.
    """
    script = SEND_DEAD_LETTER if owner is None else SEND_OWNED_DEAD_LETTER
    keys = (key, dead, *fencing.keys_of(owner))
    head: Command = (b"EVAL", script, len(keys), *keys, group, consumer, id)
    return (*head, *trim, b"*", *fields, *fencing.words_of(owner))


MOVE = b"""
local from, behind = KEYS[1], tonumber(ARGV[1])
local moved = 0
for i = 2, #ARGV do
  local found = redis.call('XRANGE', from, ARGV[i], ARGV[i])[1]
  if found then
    local words = #found[2] - behind
    if words > 7000 then return {moved, i - 2} end
    local copy = redis.pcall('XADD', KEYS[i], '*', unpack(found[2], 1, words))
    if type(copy) == 'table' and copy.err then return {moved, i - 2} end
    redis.call('XDEL', from, ARGV[i])
    moved = moved + 1
  end
end
return {moved, #ARGV - 1}
"""


def move_entries(
    key: bytes, moves: Sequence[tuple[bytes, bytes]], behind: int
) -> Command:
    """Append copies of entries to other streams, and delete each entry with its copy.

    This is a script so that two clients that move the same entries never copy one
    twice, and so that no entry is deleted whose copy was refused. The script ends at
    the first entry that it can't move: its copy is refused, or it has more than 7,000
    words (Lua's stack takes 8,000). The reply is the number of moved entries and the
    number of processed ones: the script skips entries that do not exist (any more).

    Args:
        key: The stream that has the entries.
        moves: For each entry its id and the key of its target stream.
        behind: The number of words at the end of each entry that are not copied.
    """
    targets = [target for _, target in moves]
    ids = [id_ for id_, _ in moves]
    return (b"EVAL", MOVE, 1 + len(moves), key, *targets, behind, *ids)
