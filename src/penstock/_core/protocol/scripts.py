"""What the server is to do in one step that no command does: one builder per script.

A script looks first and changes then, so that a refusal comes before anything is done.
It names all its keys, and its work is bounded by its words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from penstock._core.protocol.commands import Command, Word
from penstock._core.protocol.transactions import SCRIPT, SCRIPT_SHA, Effects

__all__ = [
    "ADD_ONCE",
    "CLAIM_OWN",
    "COUNT_BETWEEN",
    "LAST_ID",
    "MOVE",
    "NOTHING",
    "REMOVE_EMPTY",
    "SEND_DEAD_LETTER",
    "STREAM_FACTS",
    "TRIM_ACKED",
    "add_once",
    "apply",
    "bury",
    "claim_own",
    "count_added",
    "count_between",
    "last_id",
    "may_script",
    "move_entries",
    "remove_empty_consumer",
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
    """Delete what is old, unless a group has not acknowledged something of it.

    The reply is how many entries it were, or -1 where a group has: something below the
    floor is pending, or is there and was not delivered. A script, so that no group is
    made or set back in between. The server compares ids, since Lua's numbers are no
    64-bit ones.

    Args:
        key: The stream.
        floor: Everything below this id is to go.
        ignored: Groups that are not asked.
        trim: How, in an XTRIM's words.
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
    """Ask for a stream's last id; XINFO STREAM by itself brings two whole entries."""
    return (b"EVAL", LAST_ID, 1, key)


COUNT_BETWEEN = b"""
return #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])
"""


def count_between(key: bytes, low: bytes, high: bytes, most: int) -> Command:
    """Count entries from an id to an id, both included, up to `most`."""
    return (b"EVAL", COUNT_BETWEEN, 1, key, low, high, most)


REMOVE_EMPTY = b"""
local key, group, name = KEYS[1], ARGV[1], ARGV[2]
if #redis.call('XPENDING', key, group, '-', '+', 1, name) > 0 then return -1 end
return redis.call('XGROUP', 'DELCONSUMER', key, group, name)
"""


def remove_empty_consumer(key: bytes, group: str, consumer: Word) -> Command:
    """Remove a consumer unless it has pending entries, which would go with it.

    A script, so that nothing can be delivered to it in between (redis/redis#9745).
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
    group: str,
    consumer: str,
    ids: Iterable[bytes],
    words: Sequence[Word],
) -> Command:
    """Claim entries anew for the consumer that owns them, and none of another one.

    The reply is the ids that were its own. Those of entries that are deleted from the
    stream are among them: any consumer's XCLAIM or XAUTOCLAIM lets go of such
    entries, whoever owns them. A script, because XCLAIM does not ask who owns an entry:
    a command that was late, behind a frozen server for example, would take the entry
    back from the consumer that has claimed it meanwhile.

    Args:
        key: The stream.
        group: The group.
        consumer: The consumer.
        ids: The entries; some thousands at most, which is what Lua's stack takes.
        words: What XCLAIM is to set (`IDLE`, `RETRYCOUNT`), as its own words.
    """
    head = (b"EVAL", CLAIM_OWN, 1, key, group, consumer, len(words))
    return (*head, *words, *ids)


SEND_DEAD_LETTER = b"""
local group, consumer, id = ARGV[1], ARGV[2], ARGV[3]
local pending = redis.pcall('XPENDING', KEYS[1], group, id, id, 1, consumer)
local gone = pending.err and string.find(pending.err, 'NOGROUP', 1, true)
if pending.err and not gone then return pending end
if not gone and #pending == 0 then return 0 end
local copy = redis.call('XADD', KEYS[2], '*', unpack(ARGV, 4))
if gone then return copy end
local acked = redis.pcall('XACK', KEYS[1], group, id)
return type(acked) == 'number' and acked or copy
"""


def bury(
    key: bytes,
    group: str,
    consumer: str,
    id: bytes,  # noqa: A002
    *,
    dead: bytes,
    letter: Iterable[bytes],
) -> Command:
    """Copy an entry that is pending for us to the dead letters, and acknowledge it.

    The reply is 0 if it is not pending for us; and the copy's id if that is there, but
    the acknowledgement was refused, or the group is gone: then it is pending for
    nobody, and to wait for the group may be to wait for ever, as what is given up takes
    room. A script, so that it is done once or not at all: should the copy be refused,
    nothing is acknowledged.
    """
    return (b"EVAL", SEND_DEAD_LETTER, 2, key, dead, group, consumer, id, *letter)


def apply(
    key: bytes,
    group: str,
    id: bytes,  # noqa: A002
    effects: Effects,
    *,
    dead: bytes | None,
    behind: Sequence[bytes],
    reason: int,
    drop: bool,
    whole: bool,
) -> Command:
    """Run a transaction's commands and acknowledge its message, if that is pending.

    A script, so that nothing comes in between, and that it may be sent again when its
    reply was lost. For whom the message is pending does not matter. Commands are looked
    at before the first one runs. One that fails all the same ends it: if it is the
    first, nothing has happened; if not, the message is acknowledged too, and copied to
    the dead letters, since to run the others again would be worse.

    The reply is read by `transaction.read`.

    Args:
        key: The message's stream.
        group: The group.
        id: The message.
        effects: The commands.
        dead: The stream of the dead letters; None if there is none.
        behind: What stands behind the entry's own fields in a dead letter.
        reason: Which of these words is the reason, from 1; it is put in.
        drop: Without dead letters, whether the message is acknowledged then.
        whole: Whether to send the script itself, which the server may have forgotten
            (`NOSCRIPT`), and not its name.
    """
    instead = b"bury" if dead is not None else b"drop" if drop else b"leave"
    keys = [key, dead or key, *effects.keys]
    words: list[Word] = []
    for effect in effects.all:
        words += (len(effect.words), effect.kind, effect.counts, *effect.words)
    script = (b"EVAL", SCRIPT) if whole else (b"EVALSHA", SCRIPT_SHA)
    facts = (group, id, instead, len(behind), reason)
    return (*script, len(keys), *keys, *facts, *behind, *words)


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
    """Append copies of entries to other streams, each one deleted with its copy.

    A script, so that no two that do this copy one entry twice, and that nothing is
    deleted whose copy was refused. It ends at the first entry that it can't move: the
    copy is refused, or the entry has more words than Lua's stack takes (8,000). The
    reply is how many it moved, and how many it is through with: those that are not
    there (any more) it passes over.

    Args:
        key: The stream that they are in.
        moves: An entry's id, and the key where it goes to.
        behind: How many words at an entry's end are left out.
    """
    targets = [target for _, target in moves]
    ids = [id_ for id_, _ in moves]
    return (b"EVAL", MOVE, 1 + len(moves), key, *targets, behind, *ids)


ADD_ONCE = b"""
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
    """Append entries unless that was done before; then say again what became of them.

    The reply has a line for each: its id, or `!` and the error. A script, so that
    entries and the note of them are there together or not at all. That note is made
    first, and empty: where it is refused (no memory, no permission, another type) so
    is the rest. It is renewed when it is found, too: WAIT after that waits for a write
    of this connection, and so for all before it.

    Args:
        key: The stream.
        mark: A hash in the same slot: a line for each run of this producer that may
            come again.
        run: The run's number.
        entries: Per entry the words of its XADD behind the key.
        life: Milliseconds for which the notes are kept.
        low: The lowest run that may come again; what is said of those below it is
            forgotten, and they are refused, however late they arrive.
    """
    words: list[Word] = [b"EVAL", ADD_ONCE, 2, key, mark, run, life, low]
    for entry in entries:
        words.append(len(entry))
        words += entry
    return tuple(words)


# Where the first entry's number of words is in what `add_once` makes.
_FIRST: Final = 8


def count_added(command: Command) -> int:
    """Count the entries that an `add_once` appends."""
    count, place = 0, _FIRST
    while place < len(command):
        place += 1 + int(command[place])
        count += 1
    return count


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
    """Describe a stream as XINFO STREAM does, but without any entry's fields.

    XINFO STREAM sends the first and the last entry whole, which may be 64 MiB each. The
    reply is read as a `StreamInfo`, and errors are those of XINFO STREAM.
    """
    return (b"EVAL", STREAM_FACTS, 1, key)


NOTHING = b"return 1"


def may_script() -> Command:
    """Run a script that does nothing; refused where there are none."""
    return (b"EVAL", NOTHING, 0)
