"""The shapes of commands: which arguments the commands that Penstock knows take.

The server would refuse a wrong argument only when the command runs, and the commands
before it have run by then. So a transaction checks arguments by this table, as soon as
it is given them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from penstock._core.protocol.trim_shapes import entry_id, new_entry_id, trim_words
from penstock.errors import ConfigurationError

__all__ = ["SHAPES", "Checked", "Shape", "is_whole"]

# By type of the keys. `(…)+` repeats, `[…]` may be left out, and of `{…}` each part may
# be given once, one of its alternatives at a time. A name in lower case stands for an
# argument, see `_ARGUMENTS`.
_TABLE: Final = {
    "hash": """
        HDEL key (field)+
        HEXISTS key field
        HGET key field
        HGETALL key
        HINCRBY key field integer
        HINCRBYFLOAT key field number
        HKEYS key
        HLEN key
        HMGET key (field)+
        HMSET key (field value)+
        HSET key (field value)+
        HSETNX key field value
        HVALS key
    """,
    "list": """
        LINDEX key integer
        LINSERT key BEFORE|AFTER value value
        LLEN key
        LMOVE key key LEFT|RIGHT LEFT|RIGHT
        LPOP key [count]
        LPUSH key (value)+
        LPUSHX key (value)+
        LRANGE key integer integer
        LREM key integer value
        LSET key integer value
        LTRIM key integer integer
        RPOP key [count]
        RPOPLPUSH key key
        RPUSH key (value)+
        RPUSHX key (value)+
    """,
    "set": """
        SADD key (member)+
        SCARD key
        SISMEMBER key member
        SMEMBERS key
        SMOVE key key member
        SPOP key [count]
        SREM key (member)+
    """,
    "zset": """
        GEOADD key {NX|XX CH} (longitude latitude member)+
        ZADD key {NX|XX GT|LT CH INCR} (score member)+
        ZCARD key
        ZINCRBY key score member
        ZPOPMAX key [count]
        ZPOPMIN key [count]
        ZRANGE key bound bound {WITHSCORES}
        ZREM key (member)+
        ZREMRANGEBYLEX key lexbound lexbound
        ZREMRANGEBYRANK key integer integer
        ZREMRANGEBYSCORE key scorebound scorebound
        ZSCORE key member
    """,
    "string": """
        APPEND key value
        DECR key
        DECRBY key integer
        GET key
        GETDEL key
        GETSET key value
        INCR key
        INCRBY key integer
        INCRBYFLOAT key number
        PFADD key (element)*
        SETBIT key bit 0|1
        SETRANGE key offset value
        STRLEN key
    """,
    "stream": """
        XADD key {NOMKSTREAM} <trim> newid (field value)+
        XDEL key (id)+
        XLEN key
        XTRIM key <trim>
    """,
    "": """
        DEL (key)+
        EXISTS (key)+
        EXPIRE key seconds {NX|XX|GT|LT}
        EXPIREAT key seconds {NX|XX|GT|LT}
        PERSIST key
        PEXPIRE key milliseconds {NX|XX|GT|LT}
        PEXPIREAT key milliseconds {NX|XX|GT|LT}
        PSETEX key lifetime value
        PTTL key
        SET key value {NX|XX GET KEEPTTL|EX=lifetime|PX=lifetime|EXAT=lifetime|PXAT=lifetime}
        SETEX key lifetime value
        SETNX key value
        TTL key
        TYPE key
        UNLINK (key)+
    """,  # noqa: E501 - one command a line
}
_WHOLE: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_DECIMAL: Final = re.compile(rb"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_INFINITE: Final = re.compile(rb"[-+]?inf(?:inity)?", re.IGNORECASE)
_ITEM: Final = re.compile(r"\{.*?\}|\(.*?\)[+*]|\[.*?\]|\S+")
# Beyond this, a time plus the server's clock, in milliseconds, may be too large for it.
_SECONDS: Final = 10**15


def _within(least: int, most: int) -> Callable[[bytes], bool]:
    def check(word: bytes) -> bool:
        return _WHOLE.fullmatch(word) is not None and least <= int(word) <= most

    return check


def is_whole(word: bytes) -> bool:
    """Return whether a word is a whole number of 64 bits, as the server reads it."""
    return _within(-(2**63), 2**63 - 1)(word)


def _number(most: float = math.inf) -> Callable[[bytes], bool]:
    def check(word: bytes) -> bool:
        if _DECIMAL.fullmatch(word) is None:
            return False
        number = float(word)
        mantissa = re.split(rb"[eE]", word)[0]
        lost = number == 0 and mantissa.strip(b"+-0.") != b""
        return math.isfinite(number) and abs(number) <= most and not lost

    return check


def _score(word: bytes) -> bool:
    return _INFINITE.fullmatch(word) is not None or _number()(word)


_FREE: Final = frozenset(("bound", "element", "field", "key", "member", "value"))
# What is checked of the other arguments, and what they have to be.
_ARGUMENTS: Final[dict[str, tuple[Callable[[bytes], bool], str]]] = {
    "bit": (_within(0, 2**32 - 1), "a whole number from 0 to 4294967295"),
    "count": (_within(0, 2**63 - 1), "a whole number that is not negative"),
    "id": (entry_id, "an id like 1700000000000-0"),
    "integer": (is_whole, "a whole number of 64 bits"),
    "latitude": (_number(85.05112878), "a number from -85.05112878 to 85.05112878"),
    "lexbound": (
        lambda word: word in (b"-", b"+") or word[:1] in (b"[", b"("),
        "'-', '+', or begin with '[' or '('",
    ),
    "lifetime": (_within(1, _SECONDS), f"a whole number from 1 to {_SECONDS}"),
    "longitude": (_number(180), "a number from -180 to 180"),
    "milliseconds": (
        _within(-1000 * _SECONDS, 1000 * _SECONDS),
        f"a whole number of at most {1000 * _SECONDS}",
    ),
    "newid": (new_entry_id, "'*' or an id like 1700000000000-0"),
    "number": (_number(), "a finite number"),
    "offset": (_within(0, 2**29), "a whole number from 0 to 536870912"),
    "score": (_score, "a number"),
    "scorebound": (lambda word: _score(word.removeprefix(b"(")), "a number"),
    "seconds": (_within(-_SECONDS, _SECONDS), f"a whole number of at most {_SECONDS}"),
}


class Checked(NamedTuple):
    """What the arguments of a command say.

    Attributes:
        sure: Whether they are all known, so that the server takes them for certain.
        options: The options that they contain.
        id: The number of the argument that is the id of a new entry, or None.
    """

    sure: bool
    options: frozenset[bytes]
    id: int | None = None


_USUAL: Final = Checked(sure=True, options=frozenset())


class Shape:
    """What is known of a command.

    Args:
        kind: The type that its keys must have; empty for any.
        usage: Its arguments, as the table has them.

    Attributes:
        name: The command.
        kind: See above.
        usage: Its name and arguments, for a person to read.
    """

    def __init__(self, kind: str, usage: str) -> None:
        self.name, _, arguments = usage.partition(" ")
        self.kind = kind
        self.usage = usage
        self._items: Sequence[str] = _ITEM.findall(arguments)
        self._key_count = self._items.count("key")
        # The items without options, of which most calls have none.
        self._usual = [item for item in self._items if item[0] not in "{["]
        self._is_usual_checkable = all(
            item in _FREE or item in _ARGUMENTS for item in self._usual
        )
        # How many free arguments come first, and how many are then repeated.
        *first, last = self._items
        repeated = last[1:-2].split() if last[-2:] == ")+" else []
        is_free = _FREE.issuperset((*first, *repeated))
        self._repeats = (len(first), len(repeated)) if repeated and is_free else None

    def keys(self, words: Sequence[bytes]) -> tuple[bytes, ...]:
        """Return the keys among the arguments."""
        if not self._key_count:
            return tuple(words)
        return tuple(words[: self._key_count])

    def check(self, words: Sequence[bytes]) -> Checked:
        """Check the arguments of a call.

        Raises:
            ConfigurationError: The server would refuse them.
        """
        if self._is_usual(words):
            return _USUAL
        found = _Reading(self, words)
        for item in self._items:
            found.read(item)
        if found.at < len(words):
            if self._items[-1][0] not in "{<":
                raise self.wrong(len(words))
            found.sure = False  # an option of a later version, perhaps
        return Checked(found.sure, frozenset(found.options), found.id)

    def _is_usual(self, words: Sequence[bytes]) -> bool:
        """Return whether arguments are right at first sight."""
        if self._repeats is not None:
            first, repeated = self._repeats
            left = len(words) - first
            return left > 0 and left % repeated == 0
        if not self._is_usual_checkable or len(words) != len(self._usual):
            return False
        for name, word in zip(self._usual, words, strict=True):
            if name not in _FREE and not _ARGUMENTS[name][0](word):
                return False
        return True

    def wrong(self, number: int) -> ConfigurationError:
        """Return the error for a wrong number of arguments."""
        return ConfigurationError(
            f"{self.name} can't have {number} arguments; call it as {self.usage}"
        )


class _Reading:
    """The reading of one command's arguments.

    Args:
        shape: The command.
        words: The arguments.

    Attributes:
        at: The number of arguments that have been read.
        sure: Whether all of them are known.
        options: The options among them.
        id: The number of the argument that is the id of a new entry.
    """

    def __init__(self, shape: Shape, words: Sequence[bytes]) -> None:
        self._shape = shape
        self._words = words
        self.at = 0
        self.sure = True
        self.options: set[bytes] = set()
        self.id: int | None = None

    def read(self, item: str) -> None:
        """Read the arguments that an item of the shape stands for."""
        left = len(self._words) - self.at
        if not left and not self.sure:
            return  # what follows a word of a later version is not known
        if item[0] == "{":
            self._options(item[1:-1].split())
        elif item == "<trim>":
            self._trim()
        elif item[0] == "[":  # without it, the call is a usual one
            self._argument(item[1:-1])
        elif item[0] == "(":
            names = item[1:-2].split()
            if left % len(names) or (not left and item[-1] == "+"):
                raise self._shape.wrong(len(self._words))
            for _ in range(left // len(names)):
                for name in names:
                    self._argument(name)
        else:
            self._argument(item)

    def _argument(self, name: str) -> None:
        if self.at == len(self._words):
            raise self._shape.wrong(len(self._words))
        word = self._words[self.at]
        if name == "newid":
            self.id = self.at
        self.at += 1
        if name in _FREE:
            return
        if name in _ARGUMENTS:
            fits, wanted = _ARGUMENTS[name]
            right = fits(word)
        else:
            right = word.upper().decode("latin-1") in name.split("|")
            wanted = name.replace("|", " or ")
        if not right:
            raise ConfigurationError(
                f"argument {self.at} of {self._shape.name} must be {wanted}; call it "
                f"as {self._shape.usage}"
            )

    def _options(self, groups: Sequence[str]) -> None:
        """Read options, of which each group may be given once."""
        known = {
            option.partition("=")[0].encode(): (number, option.partition("=")[2])
            for number, group in enumerate(groups)
            for option in group.split("|")
        }
        used: set[int] = set()
        while self.at < len(self._words):
            option = self._words[self.at].upper()
            if option not in known:
                return
            group, argument = known[option]
            self.sure = self.sure and group not in used
            used.add(group)
            self.options.add(option)
            self.at += 1
            if argument:
                self._argument(argument)

    def _trim(self) -> None:
        """Read what an XADD or XTRIM says of trimming."""
        found = trim_words(self._words[self.at :])
        if found is None:
            raise ConfigurationError(
                f"{self._shape.name} trims by MAXLEN or MINID, then '=' or '~' or "
                f"neither, then a number or an id, and after '~' LIMIT with a number"
            )
        count, later = found
        if count:
            self.options.add(b"TRIM")
        elif self._shape.name == "XTRIM" and not later:
            raise self._shape.wrong(len(self._words))
        self.at = len(self._words) if later else self.at + count
        self.sure = self.sure and not later


SHAPES: Final = {
    shape.name: shape
    for kind, table in _TABLE.items()
    for shape in (
        Shape(kind, line.strip()) for line in table.splitlines() if line.strip()
    )
}
"""The known commands by name."""
