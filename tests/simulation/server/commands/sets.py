"""Commands on sets and sorted sets, as far as tests use them."""

from __future__ import annotations

from simulation.server.keyspace import Scores, Set
from simulation.server.resp import Members, Refusal, Reply
from simulation.server.sessions import Caller
from simulation.server.table import command
from simulation.server.texts import SYNTAX

__all__: list[str] = []

_KEY = (1, 1, 1)


def _find(caller: Caller, key: bytes) -> Set:
    found = caller.database.typed(key, Set)
    return Set() if found is None else found


@command("SADD", -3, "write denyoom fast @set", keys=_KEY)
def sadd(caller: Caller, words: list[bytes]) -> Reply:
    found = caller.database.typed(words[1], Set)
    if found is None:
        found = Set()
        caller.database.put(words[1], found)
    before = len(found)
    found.update(dict.fromkeys(words[2:]))
    caller.database.touch(words[1])
    return len(found) - before


@command("SREM", -3, "write fast @set", keys=_KEY)
def srem(caller: Caller, words: list[bytes]) -> Reply:
    found = _find(caller, words[1])
    before = len(found)
    for member in words[2:]:
        found.pop(member, None)
    gone = before - len(found)
    if gone:
        caller.database.touch(words[1])
        caller.database.discard_empty(words[1])
    return gone


@command("SCARD", 2, "readonly fast @set", keys=_KEY)
def scard(caller: Caller, words: list[bytes]) -> Reply:
    return len(_find(caller, words[1]))


@command("SISMEMBER", 3, "readonly fast @set", keys=_KEY)
def sismember(caller: Caller, words: list[bytes]) -> Reply:
    return int(words[2] in _find(caller, words[1]))


@command("SMEMBERS", 2, "readonly @set", keys=_KEY)
def smembers(caller: Caller, words: list[bytes]) -> Reply:
    return Members(_find(caller, words[1]))


def _scores(caller: Caller, key: bytes) -> Scores:
    found = caller.database.typed(key, Scores)
    return Scores() if found is None else found


@command("ZADD", -4, "write denyoom fast @sortedset", keys=_KEY)
def zadd(caller: Caller, words: list[bytes]) -> Reply:
    if len(words) % 2:
        raise Refusal(SYNTAX)
    given = {
        member: _score(score)
        for score, member in zip(words[2::2], words[3::2], strict=True)
    }
    found = caller.database.typed(words[1], Scores)
    if found is None:
        found = Scores()
        caller.database.put(words[1], found)
    before = len(found)
    found.update(given)
    caller.database.touch(words[1])
    return len(found) - before


def _score(word: bytes) -> float:
    try:
        return float(word)
    except ValueError:
        raise Refusal(b"ERR value is not a valid float") from None


@command("ZSCORE", 3, "readonly fast @sortedset", keys=_KEY)
def zscore(caller: Caller, words: list[bytes]) -> Reply:
    return _scores(caller, words[1]).get(words[2])


@command("ZCARD", 2, "readonly fast @sortedset", keys=_KEY)
def zcard(caller: Caller, words: list[bytes]) -> Reply:
    return len(_scores(caller, words[1]))


@command("ZREM", -3, "write fast @sortedset", keys=_KEY)
def zrem(caller: Caller, words: list[bytes]) -> Reply:
    found = _scores(caller, words[1])
    gone = sum(found.pop(member, None) is not None for member in words[2:])
    if gone:
        caller.database.touch(words[1])
        caller.database.discard_empty(words[1])
    return gone


@command("ZRANGE", 4, "readonly @sortedset", keys=_KEY)
def zrange(caller: Caller, words: list[bytes]) -> Reply:
    found = _scores(caller, words[1])
    ordered = sorted(found, key=lambda member: (found[member], member))
    start, end = int(words[2]), int(words[3])
    start = max(0, start + len(ordered)) if start < 0 else start
    end = end + len(ordered) if end < 0 else end
    return ordered[start : end + 1]
