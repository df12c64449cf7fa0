"""Lua scripts of owned shards: one builder per script.

Each script's keys are in one slot: those of a group's hash (`members`) or those of a
shard's stream and hash (`owner`). Each may be sent again when its reply was lost, and
its work is bounded: by the group's members, or by 1,000 entries. The time is that of
the server that runs it. Times in the hashes and in arguments are milliseconds.

The group's hash says who should have what, and may be wrong at any time. It has the
version `v` of the target `a`, the time `since` from which silence counts, and for each
member, as `m:name`, its last beat and its weight. The shard's hash says who has it, and
every write that counts is compared with it in the same script. It has the `token`, its
`owner` and `until` when it is his, and these stay when it is free: the last `number`,
the highest version `v` of a target seen, and the last owner's `run` and `serial`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from penstock._core.protocol.commands import Command, Word

__all__ = [
    "ASSIGN",
    "BEAT",
    "FORGET",
    "FREE",
    "GUARD",
    "KEEP",
    "LEAVE",
    "TAKE",
    "assign",
    "beat",
    "forget",
    "free",
    "guard",
    "guard_token",
    "keep",
    "leave",
    "take",
]


# -- the group's hash ----------------------------------------------------------------

_NOW: Final = b"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function whole(n) return string.format('%.0f', n) end
"""

BEAT: Final = (
    _NOW
    + b"""
local key, me, lease = KEYS[1], ARGV[1], tonumber(ARGV[2])
local known, join, weight = ARGV[3], ARGV[4] == '1', ARGV[5]
local rows = redis.call('HGETALL', key)
local facts, members, last = {}, {}, 0
for i = 1, #rows, 2 do
  local name, value = rows[i], rows[i + 1]
  if string.sub(name, 1, 2) == 'm:' then
    local at, heavy = string.match(value, '^(%d+) (%d+)$')
    at = tonumber(at or 0)
    members[#members + 1] = {string.sub(name, 3), math.min(at, now), heavy or '1', at}
    at = math.min(at, now)
    last = math.max(last, at)
  else facts[name] = value end
end
local mine
for _, member in ipairs(members) do if member[1] == me then mine = member end end
if not mine and not join then return {0} end
if not mine then
  mine = {me}
  members[#members + 1] = mine
end
mine[2], mine[3] = now, weight
local since = tonumber(facts['since'] or now)
if since > now or now - last > lease / 2 then since = now end
local words, told = {'since', whole(since)}, {}
for _, member in ipairs(members) do
  if now - member[2] > lease and now - since > lease then
    redis.call('HDEL', key, 'm:' .. member[1])
  else
    if member == mine or member[4] > now then
      words[#words + 1] = 'm:' .. member[1]
      words[#words + 1] = whole(now) .. ' ' .. member[3]
    end
    told[#told + 1] = member[1]
    told[#told + 1] = tonumber(member[3])
  end
end
redis.call('HSET', key, unpack(words))
local v = facts['v'] or '0'
return {1, tonumber(v), v ~= known and facts['a'] or false, told}
"""
)

ASSIGN: Final = b"""
local v = tonumber(redis.call('HGET', KEYS[1], 'v') or 0)
if v ~= tonumber(ARGV[1]) then return {0, v} end
v = math.max(v, tonumber(ARGV[2])) + 1
redis.call('HSET', KEYS[1], 'v', string.format('%.0f', v), 'a', ARGV[3])
return {1, v}
"""

LEAVE: Final = b"return redis.call('HDEL', KEYS[1], 'm:' .. ARGV[1])"


def beat(
    key: bytes, member: str, *, lease: int, known: int, join: bool, weight: int
) -> Command:
    """Note a member's beat, remove those that were silent for a lease, tell the rest.

    If nobody has beaten for half a lease, the server was away rather than all members.
    Then silence counts from now on, so that nobody is removed for it. Beats that lie in
    the future, because the clock was set back, count as of now.

    Args:
        key: The group's hash.
        member: The member's name.
        lease: The lease in milliseconds.
        known: The version of the target that the member has, which is not told again.
        join: Whether to become a member. Without it, a member that was removed stays
            so and is told, and a late beat brings back nobody that has left.
        weight: The member's weight.
    """
    words = (member, lease, known, int(join), weight)
    return (b"EVAL", BEAT, 1, key, *words)


def assign(key: bytes, *, seen: int, least: int, target: bytes) -> Command:
    """Store a target if the version is still the one that it was computed from.

    Args:
        key: The group's hash.
        seen: That version.
        least: The highest version that a shard has seen, which the new one exceeds: a
            group's hash that was deleted begins at 0 again.
        target: The target, encoded.
    """
    return (b"EVAL", ASSIGN, 1, key, seen, least, target)


def leave(key: bytes, member: str) -> Command:
    """Remove a member; the reply is whether it was one."""
    return (b"EVAL", LEAVE, 1, key, member)


# -- the shard's hash ----------------------------------------------------------------

# Claims what is pending for others, a page at a time, and returns the ids and whether
# more is left. `idle`: how long the entries of consumers must have been idle that are
# no owners. JUSTID leaves the delivery counts as they are.
_CLAIM: Final = b"""
local function claim(key, group, name, pending, idle)
  local ids, left = {}, 1000
  for _, holder in ipairs(pending[4] or {}) do
    local other, rows = holder[1], {}
    if other ~= name then
      if left == 0 then return ids, 1 end
      if idle == 0 or string.find(other, '#%d+$') or string.find(other, '#%d+%.%d+$')
      then rows = redis.call('XPENDING', key, group, '-', '+', left, other)
      else
        rows = redis.call('XPENDING', key, group, 'IDLE', idle, '-', '+', left, other)
      end
    end
    local page = {}
    for _, row in ipairs(rows) do page[#page + 1] = row[1] end
    if #page > 0 then
      page[#page + 1] = 'JUSTID'
      redis.call('XCLAIM', key, group, name, 0, unpack(page))
      page[#page] = nil
      for _, id in ipairs(page) do ids[#ids + 1] = id end
      left = left - #page
      if left == 0 and #page < tonumber(holder[2]) then return ids, 1 end
    end
  end
  return ids, 0
end
"""

TAKE: Final = (
    _NOW
    + _CLAIM
    + b"""
local key, owner, group, me = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local v, run, serial = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local least, lease, force = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8] == '1'
local is = redis.call(
  'HMGET', owner, 'token', 'owner', 'number', 'until', 'v', 'run', 'serial')
local seen = tonumber(is[5] or 0)
if v < seen then return {'old', seen} end
local mine = is[1] and is[2] == me
local again = is[6] == run and serial == tonumber(is[7])
if is[6] == run and serial <= tonumber(is[7]) and not (again and mine) then
  return {'stale', 0}
end
if is[1] and not mine and not force then
  local left = math.min(tonumber(is[4] or 0) - now, lease)
  if left > 0 then return {'held', left} end
end
local pending = redis.pcall('XPENDING', key, group)
if pending.err then return pending end
local number = tonumber(is[3] or 0)
if not again then number = math.max(number, least) + 1 end
local token = whole(number) .. ':' .. me .. ':' .. run .. '.' .. ARGV[5]
redis.call('HSET', owner, 'token', token, 'owner', me, 'number', whole(number),
  'until', whole(now + lease), 'v', whole(v), 'run', run, 'serial', ARGV[5])
local name = me .. '#' .. whole(number)
if again then return {'yours', number, 1, ''} end
local _, more = claim(key, group, name, pending, 0)
local consumers = redis.pcall('XINFO', 'CONSUMERS', key, group)
local refused = consumers.err or ''
if refused ~= '' then consumers = {} end
for _, facts in ipairs(consumers) do
  local other = {}
  for i = 1, #facts, 2 do other[facts[i]] = facts[i + 1] end
  local called = other['name']
  if other['pending'] == 0 and called ~= name and (
      string.find(called, '#%d+$') or string.find(called, '#%d+%.%d+$')) then
    local gone = redis.pcall('XGROUP', 'DELCONSUMER', key, group, called)
    if type(gone) == 'table' then refused = gone.err end
  end
end
return {'yours', number, more, refused}
"""
)

KEEP: Final = (
    _NOW
    + b"""
local is = redis.call('HGET', KEYS[1], 'token')
if is ~= ARGV[1] then return {0, is or ''} end
redis.call('HSET', KEYS[1], 'until', whole(now + ARGV[2]))
return {1, is}
"""
)

FREE: Final = b"""
local is = redis.call('HGET', KEYS[1], 'token')
if is ~= ARGV[1] then return {0, is or ''} end
redis.call('HDEL', KEYS[1], 'token', 'owner', 'until')
return {1, is}
"""

FORGET: Final = (
    _NOW
    + b"""
local is = redis.call('HMGET', KEYS[1], 'token', 'until')
if is[1] and tonumber(is[2] or 0) > now then return 0 end
redis.call('UNLINK', KEYS[1])
return 1
"""
)

GUARD: Final = (
    _CLAIM
    + b"""
local key, owner, group, name = KEYS[1], KEYS[2], ARGV[2], ARGV[3]
local is = redis.call('HGET', owner, 'token')
if is ~= ARGV[1] then return {0, is or ''} end
local ids, more = {}, 0
if ARGV[4] ~= '' then
  local pending = redis.pcall('XPENDING', key, group)
  if pending.err then return pending end
  ids, more = claim(key, group, name, pending, tonumber(ARGV[4]))
end
local replies, at = {}, 5
while at <= #ARGV do
  local last = at + tonumber(ARGV[at])
  local reply = redis.pcall(ARGV[at + 1], key, group, unpack(ARGV, at + 2, last))
  if type(reply) == 'table' and reply.err then reply = '!' .. reply.err end
  replies[#replies + 1] = reply
  at = last + 1
end
return {1, is, ids, more, replies}
"""
)


def take(
    key: bytes,
    owner: bytes,
    group: str,
    member: str,
    *,
    version: int,
    run: str,
    serial: int,
    least: int,
    lease: int,
    force: bool = False,
) -> Command:
    """Take a shard: a new token, and all that is pending in the member's new name.

    Refused if a newer target has been seen here, if the shard is another's whose lease
    runs, or if this member has asked for it again since. Entries keep their delivery
    counts. More than 1,000 of them are claimed page by page (`guard`). Consumers of
    former ownerships that have nothing pending are removed, if the user may do that.

    Sent again, it claims nothing, and says that more is left: executed late, it would
    claim for the name in which the shard is read by then, unseen.

    Args:
        key: The shard's stream.
        owner: The shard's hash.
        group: The group.
        member: The member's name.
        version: The version of the target that says so.
        run: The run of the member's process.
        serial: The number of this request within the run; the same when it is sent
            again.
        least: The highest number of this shard that the member has seen; the new one
            exceeds it.
        lease: The lease in milliseconds.
        force: Whether to take it although another's lease runs.
    """
    head = (b"EVAL", TAKE, 2, key, owner, group, member)
    return (*head, version, run, serial, least, lease, int(force))


def keep(owner: bytes, token: bytes, *, lease: int) -> Command:
    """Begin the lease of a shard anew, if the token is this."""
    return (b"EVAL", KEEP, 1, owner, token, lease)


def free(owner: bytes, token: bytes) -> Command:
    """Give up a shard, if the token is this."""
    return (b"EVAL", FREE, 1, owner, token)


def forget(owner: bytes) -> Command:
    """Delete the hash of a shard, unless it has an owner whose lease runs.

    The reply is 1 if there is no hash any more, and 0 if there is an owner.
    """
    return (b"EVAL", FORGET, 1, owner)


def guard(
    key: bytes,
    owner: bytes,
    group: str,
    token: bytes,
    *,
    consumer: str,
    claim: int | None = None,
    commands: Iterable[Command] = (),
) -> Command:
    """Run commands if the token is this, in the same step.

    Args:
        key: The shard's stream.
        owner: The shard's hash.
        group: The group.
        token: The token.
        consumer: The present name of this ownership.
        claim: Whether to claim what other consumers have first, up to 1,000 entries:
            those of former ownerships at once, and others if they have been idle for so
            many milliseconds; 0: all at once. None: not.
        commands: The commands, without the stream and the group: XACK and XCLAIM. Each
            has some thousands of ids at most, which is the limit of Lua's stack.
    """
    words: list[Word] = []
    for name, *arguments in commands:
        words += (1 + len(arguments), name, *arguments)
    head = (b"EVAL", GUARD, 2, key, owner, token, group, consumer)
    return (*head, b"" if claim is None else claim, *words)


def guard_token(command: Command) -> bytes:
    """Return the token of a command that `guard` has built."""
    token = command[5]
    assert isinstance(token, bytes)  # noqa: S101 - `guard` takes no other
    return token
