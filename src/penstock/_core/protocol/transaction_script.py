"""The script that applies a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from typing import Final

from penstock._core.protocol import fencing
from penstock._core.protocol.commands import Command, Word
from penstock._core.protocol.fencing import Fence
from penstock._core.protocol.transactions import Effects

__all__ = ["OWNED_SCRIPT", "OWNED_SCRIPT_SHA", "SCRIPT", "SCRIPT_SHA", "apply"]

# `apply`, which sends the arguments, explains them. `plain` turns the error
# texts of Redis 6.2 into those of later versions. A check returns the refusal, `?` if
# only the command itself can tell, or nothing. `last` is the number of the last command
# that may still fail: the keys that the commands before it change are saved, unless
# that would take more than a MiB.
SCRIPT: Final = b"""
local key, group, id = KEYS[1], ARGV[1], ARGV[2]
local otherwise, behind, reason = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local trims = tonumber(ARGV[6])
local function plain(err)
  err = string.gsub(string.gsub(err, '^@user_script: ?%d*: ?%-?', ''), '%s+$', '')
  return (string.gsub(err, '^The user executing', 'NOPERM %0'))
end
local found = redis.pcall('XPENDING', key, group, id, id, 1)
if found.err then return {'refused', 0, plain(found.err), 0} end
if #found == 0 then return {'already'} end
local function may_not(...)
  if not redis.acl_check_cmd then return nil end
  local known, may = pcall(redis.acl_check_cmd, ...)
  if not known then return 'ERR unknown command ' .. select(1, ...) end
  if not may then return 'NOPERM this user may not run ' .. select(1, ...) end
end
local function whole(words, is)
  if is == false then return nil end
  if type(is) ~= 'string' then return '?' end
  local digits = string.match(is, '^%-?(%d+)$')
  if not digits or #digits > 19 or string.find(is, '^%-?0.') or is == '-0' then
    return 'ERR ' .. words[1] .. ' is for a whole number, and that is none'
  end
  if #digits > 17 then return '?' end
end
local function decimal(words, is)
  if is == false then return nil end
  if type(is) ~= 'string' or #is > 300 then return '?' end
  if not string.find(is, '%d') or string.find(is, '[^%x%.xXpP+-]') then
    return 'ERR ' .. words[1] .. ' is for a number, and that is none'
  end
  local value = string.find(is, '^%-?%d+%.?%d*$') and tonumber(is)
  if not value or value > 1e300 or value < -1e300 then return '?' end
end
local function parts(full)
  local ms, number = string.match(full, '^0*(%d-)[- ]0*(%d*)')
  return ms, number
end
local function below(a, b)
  return #a < #b or #a == #b and a < b
end
local checks = {
  ['?'] = function() return '?' end,
  unknown = function(words)
    local info = redis.pcall('COMMAND', 'INFO', words[1])
    if info.err then return '?' end
    if not info[1] then return 'ERR unknown command ' .. words[1] end
    local wanted = info[1][2]
    if #words < math.abs(wanted) or wanted > 0 and #words > wanted then
      return 'ERR wrong number of arguments for ' .. words[1]
    end
    return '?'
  end,
  seven = function(words)
    if redis.acl_check_cmd then return nil end
    return 'ERR options of ' .. words[1] .. ' need Redis 7'
  end,
  int = function(words) return whole(words, redis.pcall('GET', words[2])) end,
  float = function(words) return decimal(words, redis.pcall('GET', words[2])) end,
  ['hash-int'] = function(words)
    return whole(words, redis.pcall('HGET', words[2], words[3]))
  end,
  ['hash-float'] = function(words)
    return decimal(words, redis.pcall('HGET', words[2], words[3]))
  end,
  both = function(words, _, kind)
    local is = redis.pcall('TYPE', words[3]).ok
    if is and is ~= 'none' and is ~= kind then
      return 'WRONGTYPE ' .. words[1] .. ' is for a ' .. kind .. ', not a ' .. is
    end
  end,
  index = function(words)
    local length, at = redis.pcall('LLEN', words[2]), tonumber(words[3])
    if type(length) ~= 'number' then return '?' end
    if length == 0 then return 'ERR no such key' end
    if at >= length or at < -length then return 'ERR index out of range' end
  end,
  grow = function(words, by)
    local length = redis.pcall('STRLEN', words[2])
    if type(length) ~= 'number' or length + by > 1048576 then return '?' end
  end,
  hll = function(words)
    local head = redis.pcall('GETRANGE', words[2], 0, 4)
    if type(head) ~= 'string' then return '?' end
    if head == '' then
      if redis.pcall('EXISTS', words[2]) == 0 then return nil end
    elseif head == 'HYLL\\1' then return nil
    elseif head == 'HYLL\\0' and redis.pcall('STRLEN', words[2]) == 12304 then
      return nil
    end
    return 'WRONGTYPE ' .. words[1] .. ' is for a HyperLogLog, and that is none'
  end,
  id = function(words, wanted)
    local open = string.find(wanted, '*', 1, true)
    if open and not redis.acl_check_cmd then
      return 'ERR an id like 5-* needs Redis 7'
    end
    if redis.pcall('EXISTS', words[2]) == 0 then return nil end
    local info, ms, number = redis.pcall('XINFO', 'STREAM', words[2]), parts(wanted)
    if info.err then return '?' end
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then
        local last_ms, last_number = parts(info[i + 1])
        local over = #last_number == 20 and last_number == '18446744073709551615'
        if below(ms, last_ms) or ms == last_ms
            and (open and over or not open and not below(last_number, number)) then
          return 'ERR the id of ' .. words[1] .. ' is not above the stream\\'s last one'
        end
      end
    end
  end,
}
local refused = may_not('XACK', key, group, id)
if refused then return {'refused', 0, refused, 0} end
local effects, undos, last, at = {}, {}, 0, 7 + trims + behind
while at <= #ARGV do
  local words, ends, kind = {}, at + 3 + tonumber(ARGV[at]), ARGV[at + 1]
  for i = at + 4, ends do words[#words + 1] = ARGV[i] end
  effects[#effects + 1], undos[#undos + 1] = words, ARGV[at + 3]
  local why = nil
  if words[1] == 'INCRBYFLOAT' and not redis.acl_check_cmd then
    why = 'ERR INCRBYFLOAT in a script damages the memory of Redis 6.2'
  end
  if kind ~= '' then
    local is = redis.pcall('TYPE', words[2])
    if is.ok and is.ok ~= 'none' and is.ok ~= kind then
      why = 'WRONGTYPE ' .. words[1] .. ' is for a ' .. kind .. ', not a ' .. is.ok
    elseif is.err then last = #effects
    end
  end
  if ARGV[at + 2] ~= '' and not why then
    local name, value = string.match(ARGV[at + 2], '^(%S+) ?(.*)$')
    why = checks[name](words, value, kind)
    if why == '?' then why, last = nil, #effects end
  end
  why = why or may_not(unpack(words))
  if why then return {'refused', #effects, why, 0} end
  at = ends + 1
end
local how, names = {}, {}
for number = 1, last - 1 do
  local by, which = string.match(undos[number], '^(.)(.*)$')
  if by == 'x' then how = nil break end
  for i in string.gmatch(by ~= 'r' and which or '', '%d+') do
    local name = KEYS[tonumber(i)]
    if not how[name] then names[#names + 1] = name end
    how[name] = by == 'a' and how[name] ~= 'w' and 'a' or 'w'
  end
end
local saved, size = {}, 0
for _, name in ipairs(how and names or {}) do
  local there = redis.pcall('EXISTS', name)
  if type(there) ~= 'number' then how = nil break end
  if there == 0 then
    saved[#saved + 1] = {'DEL', name}
  elseif how[name] == 'a' then
    saved[#saved + 1] = {'XDEL', name}
  else
    local bytes = redis.pcall('MEMORY', 'USAGE', name)
    size = size + (type(bytes) == 'number' and bytes or 1048577)
    if size > 1048576 or may_not('RESTORE', name, 0, '') then how = nil break end
    local dump, ttl = redis.pcall('DUMP', name), redis.pcall('PTTL', name)
    if type(dump) ~= 'string' or type(ttl) ~= 'number' then how = nil break end
    if ttl >= 0 then ttl = math.max(1, ttl) else ttl = 0 end
    saved[#saved + 1] = {'RESTORE', name, ttl, dump, 'REPLACE'}
  end
end
local done = {'applied'}
local function undo(number)
  if not how or number > last then return false end
  local whole = true
  for _, words in ipairs(saved) do
    if words[1] == 'XDEL' then
      for i = 1, number - 1 do
        local id = string.sub(undos[i], 1, 1) == 'a' and done[i + 1]
        if id and effects[i][2] == words[2] then words[#words + 1] = id end
      end
    end
    if words[1] ~= 'XDEL' or #words > 2 then
      local reply = redis.pcall(unpack(words))
      if type(reply) == 'table' and reply.err then whole = false end
    end
  end
  return whole
end
for number, words in ipairs(effects) do
  local reply = redis.pcall(unpack(words))
  if type(reply) == 'table' and reply.err then
    local settled = 0
    if number > 1 and undo(number) then
      return {'refused', number, plain(reply.err), 0}
    end
    if number > 1 and otherwise ~= 'leave' then
      local fields = {}
      if otherwise == 'dead-letter' then
        local entry = redis.pcall('XRANGE', key, id, id)[1]
        if entry then
          local why = 'its transaction broke: ' .. words[1] .. ', ' .. number .. ' of '
            .. #effects .. ', was refused: ' .. string.sub(plain(reply.err), 1, 500)
          fields = entry[2]
          for i = 1, behind do
            fields[#fields + 1] = i == reason and why or ARGV[6 + trims + i]
          end
        end
        if #fields > 0 and #fields < 7000 then
          table.insert(fields, 1, '*')
          for i = trims, 1, -1 do table.insert(fields, 1, ARGV[6 + i]) end
          local copy = redis.pcall('XADD', KEYS[2], unpack(fields))
          if type(copy) == 'string' then settled = 1 end
        end
      else settled = 1 end
      if settled == 1 then redis.pcall('XACK', key, group, id) end
    end
    return {'broken', number, plain(reply.err), settled}
  end
  done[number + 1] = reply
end
local acked = redis.pcall('XACK', key, group, id)
if type(acked) == 'table' then return {'broken', #effects + 1, plain(acked.err), 0} end
return done
"""
SCRIPT_SHA: Final = sha1(SCRIPT, usedforsecurity=False).hexdigest()
OWNED_SCRIPT: Final = fencing.fenced(SCRIPT)
OWNED_SCRIPT_SHA: Final = sha1(OWNED_SCRIPT, usedforsecurity=False).hexdigest()


def apply(
    key: bytes,
    group: str,
    id: bytes,  # noqa: A002
    effects: Effects,
    *,
    dead: bytes | None,
    behind: Sequence[bytes],
    reason: int,
    trim: Command,
    drop: bool,
    whole: bool,
    owner: Fence | None = None,
) -> Command:
    """Run a transaction's commands and acknowledge its message, if it is pending.

    This is a script so that no other command runs in between, and so that it can be
    sent again when its reply was lost. It does not matter for which consumer the
    message is pending. The script checks all commands before it runs the first one. If
    one fails nevertheless, the commands before it are undone, as far as the script has
    saved what they changed. Where it could not, the message is acknowledged as well and
    copied to the dead letters, since running the earlier commands again would be worse.

    `transactions.read` reads the reply.

    Args:
        key: The message's stream.
        group: The group.
        id: The message's id.
        effects: The commands.
        dead: The dead-letter stream; None if dead letters are not kept.
        behind: The words that follow the entry's own fields in a dead letter.
        reason: The number of the word in `behind` that the script replaces with the
            reason, counted from 1.
        trim: How the dead-letter stream is trimmed, as arguments of XADD.
        drop: Whether to acknowledge the message of a broken transaction where dead
            letters are not kept.
        whole: Whether to send the script itself, because the server may have forgotten
            it (`NOSCRIPT`), instead of its hash.
        owner: The ownership without which nothing is done; None if the shard is shared.
    """
    otherwise = b"dead-letter" if dead is not None else b"drop" if drop else b"leave"
    keys = [key, dead or key, *effects.keys, *fencing.keys_of(owner)]
    words: list[Word] = []
    numbers = {key: str(at) for at, key in enumerate(effects.keys, 3)}
    for effect in effects.all:
        undo = ",".join([numbers[key] for key in effect.keys])
        words += (len(effect.words), effect.kind, effect.check, effect.undo + undo)
        words += effect.words
    text, sha = SCRIPT, SCRIPT_SHA
    if owner is not None:
        text, sha = OWNED_SCRIPT, OWNED_SCRIPT_SHA
    script = (b"EVAL", text) if whole else (b"EVALSHA", sha)
    facts = (group, id, otherwise, len(behind), reason, len(trim))
    own = (*facts, *trim, *behind, *words)
    return (*script, len(keys), *keys, *own, *fencing.words_of(owner))
