"""Commands that work on keys of any type."""

from __future__ import annotations

from simulation.server.acl import matches
from simulation.server.keyspace import kind_of
from simulation.server.resp import OK, Refusal, Reply, Status
from simulation.server.sessions import Caller
from simulation.server.table import command, container
from simulation.server.texts import NO_SUCH_KEY, SYNTAX, integer

__all__: list[str] = []

_KEY = (1, 1, 1)
_KEYS = (1, -1, 1)
_TWO = (1, 2, 1)


@command("DEL", -2, "write @keyspace", keys=_KEYS)
def delete(caller: Caller, words: list[bytes]) -> Reply:
    database = caller.database
    return sum(
        database.find(key) is not None and database.remove(key) for key in words[1:]
    )


@command("UNLINK", -2, "write fast @keyspace", keys=_KEYS)
def unlink(caller: Caller, words: list[bytes]) -> Reply:
    return delete(caller, words)


@command("EXISTS", -2, "readonly fast @keyspace", keys=_KEYS)
def exists(caller: Caller, words: list[bytes]) -> Reply:
    return caller.database.count(words[1:])


@command("TYPE", 2, "readonly fast @keyspace", keys=_KEY)
def type_(caller: Caller, words: list[bytes]) -> Reply:
    return Status(kind_of(caller.database.find(words[1])))


@command("KEYS", 2, "readonly @keyspace @dangerous")
def keys(caller: Caller, words: list[bytes]) -> Reply:
    return [key for key in caller.database.existing() if matches(words[1], key)]


@command("SCAN", -2, "readonly @keyspace")
def scan(caller: Caller, words: list[bytes]) -> Reply:
    found = caller.database.existing()
    place = 2
    while place + 1 < len(words):
        option, value = words[place].upper(), words[place + 1]
        if option == b"MATCH":
            found = [key for key in found if matches(value, key)]
        elif option == b"TYPE":
            wanted = value.lower()
            find = caller.database.find
            found = [key for key in found if kind_of(find(key)) == wanted]
        place += 2
    return [b"0", found]


@command("DBSIZE", 1, "readonly fast @keyspace")
def dbsize(caller: Caller, words: list[bytes]) -> Reply:
    return len(caller.database.existing())


@command("RENAME", 3, "write @keyspace", keys=_TWO)
def rename(caller: Caller, words: list[bytes]) -> Reply:
    _rename(caller, words)
    return OK


@command("RENAMENX", 3, "write fast @keyspace", keys=_TWO)
def renamenx(caller: Caller, words: list[bytes]) -> Reply:
    if caller.database.find(words[1]) is None:
        raise Refusal(NO_SUCH_KEY)
    if caller.database.find(words[2]) is not None:
        return 0
    _rename(caller, words)
    return 1


def _rename(caller: Caller, words: list[bytes]) -> None:
    database = caller.database
    value = database.find(words[1])
    if value is None:
        raise Refusal(NO_SUCH_KEY)
    if words[1] == words[2]:
        return
    due = database.expires.get(words[1])
    database.find(words[2])
    database.remove(words[2])
    database.remove(words[1])
    database.put(words[2], value)
    if due is not None:
        database.expires[words[2]] = due


@command("COPY", -3, "write denyoom @keyspace", keys=_TWO)
def copy(caller: Caller, words: list[bytes]) -> Reply:
    database = caller.database
    if len(words) > 4 or (len(words) == 4 and words[3].upper() != b"REPLACE"):
        raise Refusal(SYNTAX)
    if database.find(words[1]) is None:
        return 0
    if database.find(words[2]) is not None and len(words) == 3:
        return 0
    database.remove(words[2])
    database.put_copy(words[1], words[2])
    return 1


@command("SWAPDB", 3, "write fast @keyspace @dangerous")
def swapdb(caller: Caller, words: list[bytes]) -> Reply:
    first = integer(words[1], b"ERR invalid first DB index")
    second = integer(words[2], b"ERR invalid second DB index")
    server = caller.server
    if first != second:
        server.database(first).swap(server.database(second))
        server.dirty += 1
    return OK


@command("FLUSHALL", -1, "write @keyspace @dangerous")
def flushall(caller: Caller, words: list[bytes]) -> Reply:
    for index in range(int(caller.server.config.values["databases"])):
        caller.server.database(index).clear()
    caller.server.dirty += 1
    return OK


@command("FLUSHDB", -1, "write @keyspace @dangerous")
def flushdb(caller: Caller, words: list[bytes]) -> Reply:
    caller.database.clear()
    caller.server.dirty += 1
    return OK


def _expire(caller: Caller, words: list[bytes], due: int) -> Reply:
    """Set when a key expires, in milliseconds of Unix time."""
    database, key = caller.database, words[1]
    if database.find(key) is None:
        return 0
    if len(words) > 3 and not _may_expire(database.expires.get(key), due, words[3]):
        return 0
    if due <= caller.server.now:
        database.remove(key)
        return 1
    database.expires[key] = due
    database.touch(key)
    return 1


def _may_expire(old: int | None, due: int, option: bytes) -> bool:
    match option.upper():
        case b"NX":
            return old is None
        case b"XX":
            return old is not None
        case b"GT":
            return old is not None and due > old
        case b"LT":
            return old is None or due < old
    raise Refusal(b"ERR Unsupported option %b" % option)


@command("EXPIRE", -3, "write fast @keyspace", keys=_KEY)
def expire(caller: Caller, words: list[bytes]) -> Reply:
    return _expire(caller, words, caller.server.now + 1000 * integer(words[2]))


@command("PEXPIRE", -3, "write fast @keyspace", keys=_KEY)
def pexpire(caller: Caller, words: list[bytes]) -> Reply:
    return _expire(caller, words, caller.server.now + integer(words[2]))


@command("EXPIREAT", -3, "write fast @keyspace", keys=_KEY)
def expireat(caller: Caller, words: list[bytes]) -> Reply:
    return _expire(caller, words, 1000 * integer(words[2]))


@command("PEXPIREAT", -3, "write fast @keyspace", keys=_KEY)
def pexpireat(caller: Caller, words: list[bytes]) -> Reply:
    return _expire(caller, words, integer(words[2]))


@command("PERSIST", 2, "write fast @keyspace", keys=_KEY)
def persist(caller: Caller, words: list[bytes]) -> Reply:
    database = caller.database
    if database.find(words[1]) is None or words[1] not in database.expires:
        return 0
    del database.expires[words[1]]
    database.touch(words[1])
    return 1


@command("PTTL", 2, "readonly fast @keyspace", keys=_KEY)
def pttl(caller: Caller, words: list[bytes]) -> Reply:
    if caller.database.find(words[1]) is None:
        return -2
    due = caller.database.expires.get(words[1])
    return -1 if due is None else due - caller.server.now


@command("TTL", 2, "readonly fast @keyspace", keys=_KEY)
def ttl(caller: Caller, words: list[bytes]) -> Reply:
    ms = pttl(caller, words)
    return ms if ms < 0 else (ms + 500) // 1000


container("OBJECT", "readonly @keyspace")


@command("OBJECT|ENCODING", 3, "readonly @keyspace", keys=(2, 2, 1))
def encoding(caller: Caller, words: list[bytes]) -> Reply:
    value = caller.database.find(words[2])
    return None if value is None else kind_of(value)


container("MEMORY", "readonly")


@command("MEMORY|USAGE", -3, "readonly", keys=(2, 2, 1))
def memory_usage(caller: Caller, words: list[bytes]) -> Reply:
    return None if caller.database.find(words[2]) is None else 1000
