"""XGROUP and XACK.

Of all this WATCH notices only that a stream is created.
"""

from __future__ import annotations

from simulation.server import ids
from simulation.server.groups import Group
from simulation.server.resp import OK, Refusal, Reply
from simulation.server.sessions import Caller
from simulation.server.streams import Stream
from simulation.server.table import command, container
from simulation.server.texts import integer, unknown_subcommand

__all__ = ["group_of"]

_KEY = (2, 2, 1)


def group_of(caller: Caller, key: bytes, name: bytes) -> tuple[Stream, Group]:
    """Return a stream and its group.

    Raises:
        Refusal: One of them does not exist.
    """
    stream = caller.database.stream(key)
    group = None if stream is None else stream.groups.get(name)
    if stream is None or group is None:
        raise Refusal(b"NOGROUP No such key '%b' or consumer group '%b'" % (key, name))
    return stream, group


@command("XACK", -4, "write fast @stream", keys=(1, 1, 1))
def xack(caller: Caller, words: list[bytes]) -> Reply:
    stream = caller.database.stream(words[1])
    group = None if stream is None else stream.groups.get(words[2])
    if group is None:
        return 0
    given = [ids.parse(word) for word in words[3:]]
    released = sum(map(group.release, given))
    if released:
        caller.server.dirty += 1
    return released


container("XGROUP", "@stream")


def _existing(caller: Caller, words: list[bytes]) -> Stream:
    stream = caller.database.stream(words[2])
    if stream is None:
        raise Refusal(
            b"ERR The XGROUP subcommand requires the key to exist. Note that for "
            b"CREATE you may want to use the MKSTREAM option to create an empty stream "
            b"automatically."
        )
    return stream


def _group(caller: Caller, words: list[bytes]) -> tuple[Stream, Group]:
    stream = _existing(caller, words)
    group = stream.groups.get(words[3])
    if group is None:
        raise Refusal(
            b"NOGROUP No such consumer group '%b' for key name '%b'"
            % (words[3], words[2])
        )
    return stream, group


def _options(caller: Caller, words: list[bytes]) -> tuple[bool, int | None]:
    """Return whether to create the stream, and the number of entries read."""
    make, read = False, None
    place = 5
    while place < len(words):
        option = words[place].upper()
        left = len(words) - place - 1
        if option == b"MKSTREAM" and words[1].upper() == b"CREATE":
            make = True
        elif option == b"ENTRIESREAD" and left and caller.server.version.counts_entries:
            place += 1
            read = integer(words[place])
            if read < -1:
                raise Refusal(b"ERR value for ENTRIESREAD must be positive or -1")
            read = None if read == -1 else read
        else:
            raise _bad_option(caller, words)
        place += 1
    return make, read


def _bad_option(caller: Caller, words: list[bytes]) -> Refusal:
    own = caller.server.version.subcommands
    if own:
        return Refusal(
            b"ERR unknown subcommand or wrong number of arguments for '%b'. Try "
            b"XGROUP HELP." % words[1]
        )
    return unknown_subcommand("xgroup", words[1], own=False)


def _bounded(caller: Caller, stream: Stream, read: int | None) -> int | None:
    if read is not None and caller.server.version.checks_entries_read:
        return min(read, stream.added)
    return read


@command("XGROUP|CREATE", -5, "write denyoom @stream", keys=_KEY)
def create(caller: Caller, words: list[bytes]) -> Reply:
    if not caller.server.version.subcommands and words[-1].upper() != b"MKSTREAM":
        _existing(caller, words)
    make, read = _options(caller, words)
    stream = caller.database.stream(words[2])
    if stream is None:
        if not make:
            _existing(caller, words)
        stream = Stream()
        position = _position(words[4], stream)
        caller.database.put(words[2], stream)
    else:
        position = _position(words[4], stream)
    if words[3] in stream.groups:
        raise Refusal(b"BUSYGROUP Consumer Group name already exists")
    stream.groups[words[3]] = Group(position, _bounded(caller, stream, read))
    caller.server.dirty += 1
    return OK


def _position(word: bytes, stream: Stream) -> int:
    if word == b"$":
        return stream.last_id
    return ids.parse(word)


@command("XGROUP|SETID", -5, "write @stream", keys=_KEY)
def setid(caller: Caller, words: list[bytes]) -> Reply:
    if not caller.server.version.subcommands:
        _group(caller, words)
    _, read = _options(caller, words)
    stream, group = _group(caller, words)
    word = words[4]
    if word in {b"-", b"+"}:
        group.last_id = ids.parse_bound(word, upper=False)
    else:
        group.last_id = _position(word, stream)
    group.read = _bounded(caller, stream, read)
    caller.server.dirty += 1
    return OK


@command("XGROUP|DESTROY", 4, "write @stream", keys=_KEY)
def destroy(caller: Caller, words: list[bytes]) -> Reply:
    stream = _existing(caller, words)
    if stream.groups.pop(words[3], None) is None:
        return 0
    caller.server.dirty += 1
    caller.server.blocked.ready(caller.database.index, words[2])
    return 1


@command("XGROUP|CREATECONSUMER", 5, "write denyoom @stream", keys=_KEY)
def createconsumer(caller: Caller, words: list[bytes]) -> Reply:
    _, group = _group(caller, words)
    _, made = group.consumer(words[4], caller.server.now)
    if made:
        caller.server.dirty += 1
    return int(made)


@command("XGROUP|DELCONSUMER", 5, "write @stream", keys=_KEY)
def delconsumer(caller: Caller, words: list[bytes]) -> Reply:
    _, group = _group(caller, words)
    consumer = group.consumers.get(words[4])
    if consumer is None:
        return 0
    caller.server.dirty += 1
    return group.drop(consumer)
