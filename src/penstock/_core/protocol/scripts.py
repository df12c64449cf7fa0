"""Lua scripts, for steps that no single command does: one builder per script.

A script checks first and writes afterwards, so that a refusal comes before anything has
changed. It declares all its keys, and its work is bounded by the number of its
arguments. Scripts that append a producer's messages, that copy dead letters, that apply
a transaction, or that guard an owned shard are in modules of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from penstock._core.protocol.commands import Command, Word

__all__ = [
    "CLAIM_OWN",
    "COUNT_BETWEEN",
    "LAST_ID",
    "NOTHING",
    "REMOVE_EMPTY",
    "REPLACE",
    "STREAM_FACTS",
    "TRIM_ACKED",
    "claim_own",
    "count_between",
    "last_id",
    "may_script",
    "remove_empty_consumer",
    "replace",
    "stream_facts",
    "xtrim_acked",
]


TRIM_ACKED = b"""
local key, below, names = KEYS[1], '(' .. ARGV[1], tonumber(ARGV[2])
local ignored = {}
for i = 3, 2 + names do ignored[ARGV[i]] = true end
for _, facts in ipairs(redis.call('XINFO', 'GROUPS', key)) do
  local group = {}
  for i = 1, #facts, 2 do group[facts[i]] = facts[i + 1] end
  local name, given = group['name'], '(' .. group['last-delivered-id']
  if not ignored[name] then
    if #redis.call('XPENDING', key, name, '-', below, 1) > 0 then return -1 end
    if #redis.call('XRANGE', key, given, below, 'COUNT', 1) > 0 then return -1 end
  end
end
return redis.call('XTRIM', key, unpack(ARGV, 3 + names))
"""


def xtrim_acked(
    key: bytes, floor: bytes, ignored: Sequence[bytes], trim: Command
) -> Command:
    """Trim a stream, unless a group has not acknowledged one of the old entries.

    The reply is the number of deleted entries, or -1 if a group still needs one of
    them: an entry below the floor is pending, or exists and was not delivered. This is
    a script so that no group is created or rewound between the check and the trimming.
    The server compares the ids, because Lua's numbers can't hold 64-bit integers.

    Args:
        key: The stream.
        floor: All entries below this id are to be deleted.
        ignored: Groups that are not checked.
        trim: How to trim, as the arguments of XTRIM.
    """
    head = (b"EVAL", TRIM_ACKED, 1, key, floor)
    return (*head, len(ignored), *ignored, *trim)


LAST_ID = b"""
local facts = redis.call('XINFO', 'STREAM', KEYS[1])
for i = 1, #facts, 2 do
  if facts[i] == 'last-generated-id' then return facts[i + 1] end
end
"""


def last_id(key: bytes) -> Command:
    """Ask for a stream's last id, without the two whole entries of XINFO STREAM."""
    return (b"EVAL", LAST_ID, 1, key)


COUNT_BETWEEN = b"""
return #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])
"""


def count_between(key: bytes, low: bytes, high: bytes, most: int) -> Command:
    """Count the entries from one id to another, both included, up to `most`."""
    return (b"EVAL", COUNT_BETWEEN, 1, key, low, high, most)


REMOVE_EMPTY = b"""
local key, group, name = KEYS[1], ARGV[1], ARGV[2]
if #redis.call('XPENDING', key, group, '-', '+', 1, name) > 0 then return -1 end
return redis.call('XGROUP', 'DELCONSUMER', key, group, name)
"""


def remove_empty_consumer(key: bytes, group: Word, consumer: Word) -> Command:
    """Remove a consumer unless it has pending entries, which would be removed with it.

    This is a script so that no entry can be delivered to the consumer between the check
    and the removal (redis/redis#9745).
    """
    return (b"EVAL", REMOVE_EMPTY, 1, key, group, consumer)


CLAIM_OWN = b"""
local key, group, name, first = KEYS[1], ARGV[1], ARGV[2], 4 + ARGV[3]
local own, words = {}, {}
for i = first, #ARGV do
  local id = ARGV[i]
  local pending = redis.pcall('XPENDING', key, group, id, id, 1, name)
  if pending.err then return pending end
  if #pending > 0 then
    own[#own + 1] = id
    words[#words + 1] = id
  elseif #redis.call('XPENDING', key, group, id, id, 1) == 0
      and #redis.call('XRANGE', key, id, id) == 0 then
    own[#own + 1] = id
  end
end
if #words == 0 then return own end
for i = 4, first - 1 do words[#words + 1] = ARGV[i] end
words[#words + 1] = 'JUSTID'
local claimed = redis.pcall('XCLAIM', key, group, name, 0, unpack(words))
return claimed.err and claimed or own
"""


def claim_own(
    key: bytes,
    group: Word,
    consumer: Word,
    ids: Iterable[bytes],
    words: Sequence[Word],
) -> Command:
    """Claim entries again for the consumer that owns them, and no others.

    The reply is the ids of the entries that the consumer owned. The ids of entries that
    are deleted from the stream are among them: any consumer's XCLAIM or XAUTOCLAIM
    removes such entries from the pending list, whoever owns them. This is a script
    because XCLAIM does not check who owns an entry: a late command, for example behind
    a frozen server, would take the entry back from the consumer that has claimed it
    meanwhile.

    Args:
        key: The stream.
        group: The group.
        consumer: The consumer.
        ids: The entries; some thousands at most, which is the limit of Lua's stack.
        words: What XCLAIM sets (`IDLE`, `RETRYCOUNT`), as its arguments.
    """
    head = (b"EVAL", CLAIM_OWN, 1, key, group, consumer, len(words))
    return (*head, *words, *ids)


STREAM_FACTS = b"""
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then return info end
local facts = {}
for i = 1, #info, 2 do facts[info[i]] = info[i + 1] end
local first, last = facts['first-entry'], facts['last-entry']
return {
  facts['length'], facts['last-generated-id'], first and first[1], last and last[1],
  facts['max-deleted-entry-id'] or false, facts['entries-added'] or false
}
"""


def stream_facts(key: bytes) -> Command:
    """Describe a stream as XINFO STREAM does, but without the fields of any entry.

    XINFO STREAM sends the first and the last entry whole, which may be 64 MiB each. The
    reply is read as a `StreamInfo`, and errors are those of XINFO STREAM.
    """
    return (b"EVAL", STREAM_FACTS, 1, key)


NOTHING = b"return 1"


def may_script() -> Command:
    """Run a script that does nothing; refused where scripts can't be run."""
    return (b"EVAL", NOTHING, 0)


REPLACE = b"""
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


def replace(key: bytes, old: bytes, new: bytes) -> Command:
    """Replace a string, if it is still the old one; the reply is 1, otherwise 0.

    Args:
        key: The key.
        old: The value that it has; empty if it does not exist.
        new: The value that it gets.
    """
    return (b"EVAL", REPLACE, 1, key, old, new)
