"""Calls of all commands that a transaction knows: right ones, and wrong ones."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from penstock._core.protocol.command_shapes import SHAPES, Shape

__all__ = ["KEYS", "STATE", "Call", "calls", "reset", "some_calls"]

Call: TypeAlias = tuple[str, ...]

_FULL: Final = "9223372036854775807"
# What the keys have before each transaction, by the commands that make it.
KEYS: Final[dict[str, Call]] = {
    "hash": ("HSET", "f", "5", "t", "text", "z", "007", "full", _FULL),
    "list": ("RPUSH", "a", "b", "c"),
    "set": ("SADD", "a", "b"),
    "zset": ("ZADD", "1", "m", "2", "n", "inf", "i"),
    "stream": ("XADD", "99999999999999-5", "f", "v"),
    "five": ("SET", "5"),
    "text": ("SET", "text"),
    "zeros": ("SET", "007"),
    "digits": ("SET", "1234567890123456789012345"),
    "empty": ("SET", ""),
    "inf": ("SET", "inf"),
    "full": ("SET", _FULL),
    "minus": ("SET", "-0"),
    "large": ("SET", "1e308"),
    "hll": ("PFADD", "a"),
}
_OF_KIND: Final = {"": "five", "string": "five"}
_RIGHT: Final = {
    "bit": "7",
    "bound": "0",
    "count": "1",
    "element": "x",
    "field": "f",
    "id": "5-1",
    "integer": "1",
    "latitude": "48.1",
    "lexbound": "-",
    "lifetime": "1000",
    "longitude": "11.5",
    "member": "m",
    "milliseconds": "100000",
    "newid": "*",
    "number": "1.5",
    "offset": "2",
    "score": "1.5",
    "scorebound": "(1",
    "seconds": "100",
    "value": "1",
}
_WRONG: Final = (
    *("", " 1", "1 ", "soon", "-1", "0", "-0", "+5", "007", "1.", ".5", "1e2"),
    *("1e400", "1e-400", "0x10", "nan", "inf", "-inf", "9" * 18, _FULL),
    *("9223372036854775808", "9" * 25, "200", "5-1", "5-*", "0-0", "99999999999999-5"),
    *("99999999999999-6", "(5", "[a", "LIMIT", "NX", "1_0"),
)
_ODD: Final[tuple[Call, ...]] = (
    ("EXPIRE", "five", "100", "NX"),
    ("EXPIRE", "five", "100", "NX", "XX"),
    ("EXPIRE", "five", "-100", "GT"),
    ("SET", "five", "1", "NX", "XX"),
    ("SET", "five", "1", "NX", "GET"),
    ("SET", "hash", "1", "GET"),
    ("SET", "five", "1", "EX", "soon"),
    ("SET", "five", "1", "EX", "0"),
    ("SET", "five", "1", "EX"),
    ("SET", "five", "1", "PX", "1000", "KEEPTTL"),
    ("SET", "five", "1", "IFEQ", "5"),
    ("ZADD", "zset", "NX", "GT", "1", "m"),
    ("ZADD", "zset", "NX", "XX", "1", "m"),
    ("ZADD", "zset", "INCR", "1", "m", "2", "n"),
    ("ZADD", "zset", "INCR", "-inf", "i"),
    ("ZADD", "zset", "XX", "CH", "1", "m"),
    ("ZADD", "zset", "XX"),
    ("ZADD", "zset", "abc", "m"),
    ("ZADD", "zset", "1", "m", "abc", "n"),
    ("ZINCRBY", "zset", "-inf", "i"),
    ("ZRANGE", "zset", "0", "1", "WITHSCORES"),
    ("ZRANGE", "zset", "-inf", "inf", "BYSCORE", "LIMIT", "0", "1"),
    ("ZRANGE", "zset", "a", "b"),
    ("GEOADD", "zset", "XX", "CH", "1", "2", "m"),
    ("GEOADD", "zset", "181", "2", "m"),
    ("HSET", "hash", "f", "v", "f2"),
    ("HINCRBY", "hash", "t", "1"),
    ("HINCRBY", "hash", "z", "1"),
    ("HINCRBY", "hash", "full", "1"),
    ("HINCRBY", "hash", "full", "-1"),
    ("HINCRBYFLOAT", "hash", "t", "1"),
    ("INCRBY", "full", "-1"),
    ("DECRBY", "five", "-9223372036854775808"),
    ("INCRBYFLOAT", "large", "1e308"),
    ("LSET", "list", "3", "x"),
    ("LSET", "list", "-4", "x"),
    ("LSET", "list", "-3", "x"),
    ("LMOVE", "list", "hash", "LEFT", "RIGHT"),
    ("LMOVE", "list", "none", "LEFT", "RIGHT"),
    ("LMOVE", "list", "none", "LEFT", "UP"),
    ("RPOPLPUSH", "list", "hash"),
    ("SMOVE", "set", "hash", "a"),
    ("SMOVE", "set", "none", "a"),
    ("SETRANGE", "text", "536870911", "xx"),
    ("APPEND", "text", "x" * 2**20),
    ("XADD", "stream", "MAXLEN", "1", "*", "f", "v"),
    ("XADD", "stream", "MAXLEN", "~", "1", "LIMIT", "5", "*", "f", "v"),
    ("XADD", "stream", "MAXLEN", "1", "LIMIT", "5", "*", "f", "v"),
    ("XADD", "stream", "MAXLEN", "-1", "*", "f", "v"),
    ("XADD", "stream", "MINID", "=", "5", "*", "f", "v"),
    ("XADD", "stream", "NOMKSTREAM", "*", "f", "v"),
    ("XADD", "none", "NOMKSTREAM", "*", "f", "v"),
    ("XADD", "stream", "KEEPREF", "MAXLEN", "5", "*", "f", "v"),
    ("XADD", "stream", "99999999999999-*", "f", "v"),
    ("XADD", "stream", "5-1", "f", "v"),
    ("XADD", "none", "5-1", "f", "v"),
    ("XADD", "none", "0-0", "f", "v"),
    ("XADD", "stream", "*", "f", "v", "f2"),
    ("XTRIM", "stream", "MAXLEN", "0"),
    ("XTRIM", "stream", "MAXLEN", "~", "0", "LIMIT", "1"),
    ("XTRIM", "stream", "MAXLEN", "0", "DELREF"),
    ("XTRIM", "stream", "MINID", "x"),
    ("XTRIM", "stream"),
    ("XTRIM", "stream", "0"),
)
STATE: Final = """
local function sorted(members)
  table.sort(members)
  return members
end
local function pairs_of(flat)
  local all = {}
  for i = 1, #flat, 2 do all[#all + 1] = flat[i] .. '=' .. flat[i + 1] end
  return sorted(all)
end
-- What DUMP returns depends on the order in which a set or hash was filled.
local read = {
  hash = function(name) return pairs_of(redis.call('HGETALL', name)) end,
  list = function(name) return redis.call('LRANGE', name, 0, -1) end,
  set = function(name) return sorted(redis.call('SMEMBERS', name)) end,
  string = function(name) return {redis.call('GET', name)} end,
  zset = function(name)
    return pairs_of(redis.call('ZRANGE', name, 0, -1, 'WITHSCORES'))
  end,
  stream = function(name)
    return {cjson.encode(redis.call('XRANGE', name, '-', '+'))}
  end,
}
local all = {}
for _, name in ipairs(sorted(redis.call('KEYS', ARGV[1] .. ':*'))) do
  local kind = redis.call('TYPE', name).ok
  local lasts = redis.call('PTTL', name) < 0 and 'lasts' or 'ends'
  all[#all + 1] = name .. kind .. lasts .. table.concat(read[kind](name), ',')
end
return redis.sha1hex(table.concat(all, ';'))
"""
"""A script that returns a hash of what the keys with a prefix have."""


def reset(pipeline: Any, prefix: str) -> None:
    """Add the commands that give all keys what they have at first."""
    for name, (command, *args) in KEYS.items():
        key = f"{prefix}:{name}"
        pipeline.delete(key)
        pipeline.execute_command(command, key, *args)
    pipeline.delete(f"{prefix}:none", f"{prefix}:witness", f"{prefix}:w2")


def _right(shape: Shape) -> list[str]:
    """Return a right call's arguments, without options."""
    words: list[str] = []
    for item in re.sub(r"\{.*?\}", "", shape.usage).split()[1:]:
        name = item.strip("()+*[]")
        if name == "key":
            words.append(_OF_KIND.get(shape.kind, shape.kind))
        elif name == "<trim>":
            words += ["MAXLEN", "5"] if shape.name == "XTRIM" else []
        else:
            words.append(_RIGHT.get(name, name.split("|")[0]))
    return words


def calls() -> Iterator[Call]:
    """Return right and wrong calls of all known commands."""
    yield from _ODD
    for name, shape in SHAPES.items():
        right = _right(shape)
        yield (name, *right)
        yield (name,)
        yield (name, *right[:-1])
        yield (name, *right, "x")
        yield (name, *right, *right[1:])
        for key in (*KEYS, "none"):
            yield (name, key, *right[1:])
        for at in range(1, len(right)):
            for wrong in _WRONG:
                yield (name, *right[:at], wrong, *right[at + 1 :])


def some_calls(seed: int) -> list[Call]:
    """Return a few calls, most of them for one type, that meet at the same keys."""
    chance = random.Random(seed)
    kind = chance.choice(("hash", "list", "set", "zset", "string", "stream"))
    of_kind = "five" if kind == "string" else kind
    keys = (of_kind, of_kind, "none", "none", chance.choice(list(KEYS)))
    shapes = list(SHAPES.values())
    fitting = [shape for shape in shapes if shape.kind in ("", kind)]
    chosen = []
    for _ in range(chance.randint(2, 6)):
        shape = chance.choice(shapes if chance.random() < 0.1 else fitting)
        words = _right(shape)
        for at in range(len(shape.keys([word.encode() for word in words]))):
            words[at] = chance.choice(keys)
        if chance.random() < 0.1:
            words[-1] = chance.choice(_WRONG if len(words) > 1 else keys)
        chosen.append((shape.name, *words))
    return chosen
