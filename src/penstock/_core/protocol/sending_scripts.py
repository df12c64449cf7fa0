"""The Lua script of idempotent sends: it appends entries once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from penstock._core.protocol.commands import Command, Word

__all__ = ["ADD_ONCE", "add_once", "count_added"]

ADD_ONCE: Final = b"""
local stream, mark, run, life = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local known = redis.call('HMGET', mark, run, 'low')
local low = tonumber(known[2] or 0)
if known[1] then
  redis.call('PEXPIRE', mark, life)
  return known[1]
end
if tonumber(run) < low then return redis.error_reply('STALE it was answered') end
redis.call('HSET', mark, run, '')
redis.call('PEXPIRE', mark, life)
if tonumber(ARGV[3]) > low then
  redis.call('HSET', mark, 'low', ARGV[3])
  for _, old in ipairs(redis.call('HKEYS', mark)) do
    if old ~= 'low' and tonumber(old) < tonumber(ARGV[3]) then
      redis.call('HDEL', mark, old)
    end
  end
end
local outcomes, first = {}, 4
while first <= #ARGV do
  local last = first + tonumber(ARGV[first])
  local id = redis.pcall('XADD', stream, unpack(ARGV, first + 1, last))
  outcomes[#outcomes + 1] = type(id) == 'table' and '!' .. id.err or id
  first = last + 1
end
local told = table.concat(outcomes, '\\n')
redis.call('HSET', mark, run, told)
return told
"""


def add_once(
    key: bytes,
    mark: bytes,
    run: int,
    entries: Iterable[Command],
    *,
    life: int,
    low: int,
) -> Command:
    """Append entries once, and return the same outcomes whenever the command is sent.

    The reply has a line for each entry: its id, or `!` and the error. This is a script
    so that the entries and the note of their outcomes are written together or not at
    all. The script writes the note first, and empty: if the server refuses the note (no
    memory, no permission, a key of another type), it refuses the entries as well. The
    script also renews the note's lifetime when it finds the note. That makes it a write
    of this connection, so a WAIT that follows waits for this write and for all writes
    before it.

    Args:
        key: The stream.
        mark: A hash in the same slot, with a field for each run of this producer that
            may be written again.
        run: The run's number.
        entries: For each entry the arguments of its XADD after the key.
        life: Milliseconds for which the notes are kept.
        low: The lowest run that may be written again. The notes of runs below it are
            deleted, and such runs are refused, however late they arrive.
    """
    words: list[Word] = [b"EVAL", ADD_ONCE, 2, key, mark, run, life, low]
    for entry in entries:
        words.append(len(entry))
        words += entry
    return tuple(words)


# The index of the first entry's number of words in a command of `add_once`.
_FIRST: Final = 8


def count_added(command: Command) -> int:
    """Return the number of entries that an `add_once` command appends."""
    count, place = 0, _FIRST
    while place < len(command):
        place += 1 + int(command[place])
        count += 1
    return count
