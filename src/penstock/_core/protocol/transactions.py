"""Transactions: the commands that one applies, and its outcome.

Redis does not undo what a script did before one of its commands failed. So everything
that can be checked in advance is checked in advance. This module checks whether a
command is allowed in a script at all, has its arguments, and fits. The script
(`SCRIPT`) checks whether the keys are of the right type, whether the fields to be
incremented are numbers, and whether the user has the permission.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from hashlib import sha1
from typing import Any, Final, NamedTuple

from penstock._core.protocol.replies import ErrorReply, ProtocolError
from penstock.errors import ConfigurationError
from penstock.message import EntryId, Shard

__all__ = [
    "SCRIPT",
    "SCRIPT_SHA",
    "Applied",
    "CommandFailure",
    "Effect",
    "Effects",
    "read",
    "refused",
]

# Lua's stack takes 8,000 words of a command.
_WORDS: Final = 7000
# A script blocks all other clients while it runs.
_COMMANDS: Final = 1000
_BYTES: Final = 16 * 1024 * 1024
# A word costs more than its bytes, and a request has at most a million words.
_PER_WORD: Final = 32

# By the type that each command needs at its first key. The number after a command is
# the least number of its arguments.
_KNOWN: Final = {
    "hash": "HSET:3 HSETNX:3 HMSET:3 HDEL:2 HINCRBY:3 HINCRBYFLOAT:3 HGET:2 HMGET:2 "
    "HGETALL:1 HLEN:1 HEXISTS:2 HKEYS:1 HVALS:1",
    "list": "LPUSH:2 RPUSH:2 LPUSHX:2 RPUSHX:2 LPOP:1 RPOP:1 LREM:3 LSET:3 LTRIM:3 "
    "LINSERT:4 LLEN:1 LRANGE:3 LINDEX:2",
    "set": "SADD:2 SREM:2 SPOP:1 SCARD:1 SISMEMBER:2 SMEMBERS:1",
    "zset": "ZADD:3 ZINCRBY:3 ZREM:2 ZREMRANGEBYRANK:3 ZREMRANGEBYSCORE:3 "
    "ZREMRANGEBYLEX:3 ZPOPMIN:1 ZPOPMAX:1 ZSCORE:2 ZCARD:1 ZRANGE:3 GEOADD:4",
    "string": "INCR:1 INCRBY:2 INCRBYFLOAT:2 DECR:1 DECRBY:2 APPEND:2 SETRANGE:3 "
    "SETBIT:3 GET:1 GETDEL:1 GETSET:2 STRLEN:1 PFADD:1",
    "stream": "XADD:4 XDEL:2 XTRIM:3 XLEN:1",
    "": "SET:2 SETNX:2 SETEX:3 PSETEX:3 EXPIRE:2 PEXPIRE:2 EXPIREAT:2 PEXPIREAT:2 "
    "PERSIST:1 TYPE:1 TTL:1 PTTL:1",
}
_KIND: Final = {
    name: (kind, int(least))
    for kind, commands in _KNOWN.items()
    for name, least in (command.split(":") for command in commands.split())
}
# Commands of which all arguments are keys, and those of which the first two are.
_ALL_KEYS: Final = frozenset(("DEL", "UNLINK", "EXISTS"))
_TWO_KEYS: Final = {"LMOVE": "list", "RPOPLPUSH": "list", "SMOVE": "set"}
# Commands that leave the types and numbers at keys as they are.
_HARMLESS: Final = (
    "HGET HMGET HGETALL HLEN HEXISTS HKEYS HVALS LLEN LRANGE LINDEX SCARD SISMEMBER "
    "SMEMBERS ZSCORE ZCARD ZRANGE GET STRLEN XLEN EXISTS TYPE TTL PTTL EXPIRE PEXPIRE "
    "EXPIREAT PEXPIREAT PERSIST XADD"
)
_KEEPS: Final = frozenset(_HARMLESS.split())
# Commands that increment a value, and what they increment.
_COUNTS: Final = {
    "HINCRBY": "field",
    "INCR": "value",
    "INCRBY": "value",
    "DECR": "value",
    "DECRBY": "value",
}
# Commands whose last argument is an integer, and those with any number there.
_WHOLE: Final = frozenset(("HINCRBY", "INCRBY", "DECRBY"))
_NUMBER: Final = frozenset(("HINCRBYFLOAT", "INCRBYFLOAT"))

_WHY_NOT: Final = {
    "transactions and scripts can't be nested": "MULTI EXEC DISCARD WATCH UNWATCH EVAL "
    "EVAL_RO EVALSHA EVALSHA_RO FCALL FCALL_RO SCRIPT FUNCTION",
    "it would block, and a script can't": "BLPOP BRPOP BLMOVE BRPOPLPUSH BLMPOP "
    "BZPOPMIN BZPOPMAX BZMPOP XREAD XREADGROUP WAIT WAITAOF",
    "it acts on the connection": "AUTH HELLO SELECT CLIENT RESET QUIT MONITOR "
    "SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE ASKING "
    "READONLY READWRITE SYNC PSYNC",
    "Penstock manages the group and its acknowledgements": "XACK XACKDEL XNACK XCLAIM "
    "XAUTOCLAIM XGROUP",
}
_REFUSED: Final = {
    name: why for why, names in _WHY_NOT.items() for name in names.split()
}

# `scripts.apply`, which sends the arguments, explains them. `plain` turns the error
# texts of Redis 6.2 into those of later versions.
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
local refused = may_not('XACK', key, group, id)
if refused then return {'refused', 0, refused, 0} end
local effects, at = {}, 7 + trims + behind
while at <= #ARGV do
  local words, last = {}, at + 2 + tonumber(ARGV[at])
  for i = at + 3, last do words[#words + 1] = ARGV[i] end
  effects[#effects + 1] = words
  local kind, counts, why = ARGV[at + 1], ARGV[at + 2], nil
  if kind ~= '' then
    local is = redis.pcall('TYPE', words[2])
    if is.ok and is.ok ~= 'none' and is.ok ~= kind then
      why = 'WRONGTYPE ' .. words[1] .. ' is for a ' .. kind .. ', not a ' .. is.ok
    end
  end
  if counts ~= '' and not why then
    local is
    if counts == 'field' then is = redis.pcall('HGET', words[2], words[3])
    else is = redis.pcall('GET', words[2]) end
    if type(is) == 'string' and not string.match(is, '^%-?%d+$') then
      why = 'ERR ' .. words[1] .. ' is for a whole number, and that is none'
    end
  end
  why = why or may_not(unpack(words))
  if why then return {'refused', #effects, why, 0} end
  at = last + 1
end
local done = {'applied'}
for number, words in ipairs(effects) do
  local reply = redis.pcall(unpack(words))
  if type(reply) == 'table' and reply.err then
    local settled = 0
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


class Effect(NamedTuple):
    """One command of a transaction.

    Attributes:
        words: The command.
        keys: The keys among the words.
        kind: The type that the first key must have if it exists; empty for any type.
        counts: `field` or `value` where that must be an integer; empty if neither must.
        shard: The shard to which a sent message goes; None for other commands.
    """

    words: tuple[bytes, ...]
    keys: tuple[bytes, ...]
    kind: str = ""
    counts: str = ""
    shard: Shard | None = None


class Effects:
    """Collects the commands that a transaction applies.

    Args:
        own: The key of the stream that has the transaction's message.
    """

    def __init__(self, own: bytes) -> None:
        self._own_stream = own
        self.all: list[Effect] = []
        self._size = 0
        # Keys whose type and value at the time of a command can't be known in advance,
        # because an earlier command of the transaction may change them.
        self._touched: set[bytes] = set()

    def send(
        self, shard: Shard, fields: Sequence[bytes], trim: Iterable[bytes] = ()
    ) -> None:
        """Add an XADD that appends a message.

        Args:
            shard: The shard.
            fields: The message.
            trim: How the stream is trimmed, as arguments of XADD.

        Raises:
            ConfigurationError: The message or the transaction is too large.
        """
        words = (b"XADD", shard.key, *trim, b"*", *fields)
        self._add(Effect(words, (shard.key,), "stream", shard=shard), "this message")

    def command(
        self,
        name: str,
        args: Sequence[object],
        keys: Iterable[str | bytes] | None = None,
    ) -> None:
        """Add a command.

        Raises:
            ConfigurationError: The command is not allowed, or its arguments are not
                valid.
        """
        if not isinstance(name, str) or not name.isascii() or not name.isidentifier():
            name = _module_command(name)
        upper = name.upper()
        if upper in _REFUSED:
            raise ConfigurationError(
                f"{upper} can't be in a transaction: {_REFUSED[upper]}; leave it out"
            )
        words = tuple(_word(arg, upper) for arg in args)
        kind, least = _KIND.get(upper, (_TWO_KEYS.get(upper, ""), 1))
        if upper in _TWO_KEYS:
            least = 2
        if len(words) < least:
            raise ConfigurationError(
                f"{upper} takes {least} arguments or more, but got {len(words)}"
            )
        _check_numbers(upper, words)
        found = _keys(upper, words, keys)
        self._protect_own_stream(upper, kind, found)
        counts = _COUNTS.get(upper, "")
        effect = Effect((upper.encode(), *words), found, kind, counts)
        self._add(effect, upper)

    def _protect_own_stream(self, name: str, kind: str, keys: Sequence[bytes]) -> None:
        if self._own_stream in keys and kind != "stream":
            raise ConfigurationError(
                f"{name} on the message's own stream could delete its consumer group; "
                f"use another key"
            )

    def _add(self, effect: Effect, what: str) -> None:
        size = sum(map(len, effect.words)) + _PER_WORD * len(effect.words)
        if len(effect.words) > _WORDS:
            raise ConfigurationError(
                f"{what} has {len(effect.words)} words, but a script accepts at most "
                f"{_WORDS}; split it"
            )
        if len(self.all) == _COMMANDS or self._size + size > _BYTES:
            raise ConfigurationError(
                f"{what} makes the transaction too large: the server does nothing "
                f"else while it runs, so at most {_COMMANDS} commands and {_BYTES} "
                f"bytes are allowed; split the work into several messages"
            )
        self._size += size
        if self._touched.intersection(effect.keys):
            effect = effect._replace(kind="", counts="")
        elif not effect.counts and effect.words[0].decode() not in _KEEPS:
            self._touched.update(effect.keys)
        self.all.append(effect)

    @property
    def keys(self) -> list[bytes]:
        """All keys, each once, in the order of their use."""
        return list(dict.fromkeys(key for e in self.all for key in e.keys))


def _module_command(name: object) -> str:
    """Return a module command's name, such as `JSON.SET`, if it is a valid one."""
    if isinstance(name, str) and name.isascii():
        parts = name.replace("-", "_").split(".")
        if all(part.isidentifier() for part in parts):
            return name
    raise ConfigurationError(
        f"{name!r:.60} is not the name of a command; pass the name alone, followed by "
        f"its arguments, as in tx.command('HINCRBY', 'totals', 'clicks', 1)"
    )


def _word(value: object, command: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, EntryId):
        return bytes(value)
    if isinstance(value, str):
        try:
            return value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise ConfigurationError(
                f"an argument of {command} contains a lone surrogate, which can't be "
                f"encoded; remove it"
            ) from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(
            f"an argument of {command} is of type {type(value).__name__}; pass str, "
            f"bytes, int, float or EntryId"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError(
            f"an argument of {command} is {value}; pass a finite number, or '+inf' "
            f"where Redis accepts it"
        )
    # As a plain number: an enum's member, for example, has a representation of its own.
    plain = int if isinstance(value, int) else float
    return plain.__repr__(value).encode()


def _check_numbers(name: str, words: Sequence[bytes]) -> None:
    """Check numbers in advance that the server would refuse only within the script."""
    if name not in _WHOLE and name not in _NUMBER:
        return
    kind = int if name in _WHOLE else float
    try:
        number = kind(words[-1])
    except ValueError:
        number = math.nan
    if math.isnan(number) or (name in _WHOLE and not -(2**63) <= number < 2**63):
        raise ConfigurationError(
            f"the last argument of {name} must be "
            f"{'a whole' if name in _WHOLE else 'a'} number"
        )


def _keys(
    name: str, words: Sequence[bytes], given: Iterable[str | bytes] | None
) -> tuple[bytes, ...]:
    if given is not None:
        if isinstance(given, str | bytes):
            given = (given,)
        return tuple(_word(key, name) for key in given)
    if name in _KIND:
        return (words[0],)
    if name in _TWO_KEYS:
        return tuple(words[:2])
    if name in _ALL_KEYS:
        return tuple(words)
    raise ConfigurationError(
        f"Penstock does not know which arguments of {name} are keys; name them: "
        f"tx.command({name!r}, ..., keys=['...'])"
    )


class CommandFailure(NamedTuple):
    """A command that the server refused.

    Attributes:
        number: The command's number, counted from 1; 0 if the server refused the
            transaction as a whole.
        reply: The error reply.
        settled: Whether the script has settled the message: its dead letter is written,
            or none is kept, and the message is acknowledged.
    """

    number: int
    reply: ErrorReply
    settled: bool = False


class Applied(NamedTuple):
    """The outcome of a transaction.

    Attributes:
        pending: Whether the message was still pending.
        results: The replies of the commands; empty unless all commands were applied.
        failure: The refused command, or None.
    """

    pending: bool
    results: Sequence[Any] = ()
    failure: CommandFailure | None = None

    @property
    def done(self) -> int:
        """The number of commands that were applied."""
        return max(0, self.failure.number - 1) if self.failure else len(self.results)


def read(reply: Any) -> Applied:
    """Read the reply of the transaction script.

    Raises:
        ProtocolError: It is not a reply of this script.
    """
    match reply:
        case [b"already"]:
            return Applied(pending=False)
        case [b"applied", *results]:
            return Applied(pending=True, results=results)
        case [b"refused", int(), bytes(text), int()]:
            return refused(ErrorReply(text.decode("utf-8", "replace")))
        case [b"broken", int(number), bytes(text), int(settled)]:
            error = ErrorReply(text.decode("utf-8", "replace"))
            return Applied(
                pending=True, failure=CommandFailure(number, error, bool(settled))
            )
    raise ProtocolError


def refused(reply: ErrorReply) -> Applied:
    """Return the outcome of a transaction that the server refused as a whole."""
    return Applied(pending=True, failure=CommandFailure(0, reply))
