"""Commands that write to streams, and those that read ranges of them."""

from __future__ import annotations

from dataclasses import dataclass

from simulation.server import ids
from simulation.server.resp import NO_ARRAY, OK, Refusal, Reply
from simulation.server.sessions import Caller
from simulation.server.streams import Stream, Trim
from simulation.server.table import command
from simulation.server.texts import NO_SUCH_KEY, SYNTAX, arity, integer
from simulation.server.versions import Version

__all__: list[str] = []

_KEY = (1, 1, 1)


@dataclass(slots=True)
class _Options:
    """The options of XADD and XTRIM.

    Attributes:
        adds: Whether these are XADD's.
        place: The place of the first word that is no option.
        make: Whether to create the stream.
        strategy: MAXLEN or MINID; empty not to trim.
        threshold: The length or the id to trim to.
        whole: Whether `~` is given.
        limit: The number after LIMIT, if given.
    """

    adds: bool
    place: int = 2
    make: bool = True
    strategy: bytes = b""
    threshold: bytes = b""
    whole: bool = False
    limit: int | None = None

    @property
    def trim(self) -> Trim | None:
        """How to trim, if at all; a limit below 0 stands for the usual one."""
        if not self.strategy:
            return None
        usual = -1 if self.whole else 0
        limit = usual if self.limit is None else self.limit
        if self.strategy == b"MAXLEN":
            return Trim(int(self.threshold), 0, self.whole, limit)
        return Trim(None, ids.parse(self.threshold), self.whole, limit)


_PLAIN = _Options(adds=True)


def _read_options(words: list[bytes], *, adds: bool) -> _Options:
    """Read the options that follow the key."""
    options = _Options(adds)
    while options.place < len(words):
        word = words[options.place]
        if adds and word == b"*":
            break
        taken = _read_option(options, word.upper(), words[options.place :])
        if not taken and adds:
            break
        if not taken:
            raise Refusal(SYNTAX)
        options.place += taken
    if options.limit is not None and not options.strategy:
        raise Refusal(
            SYNTAX + b", LIMIT cannot be used without specifying a trimming strategy"
        )
    if options.limit is not None and not options.whole:
        raise Refusal(SYNTAX + b", LIMIT cannot be used without the special ~ option")
    return options


def _read_option(options: _Options, name: bytes, words: list[bytes]) -> int:
    """Take an option, and return the number of its words; 0 if it is none."""
    if name in {b"MAXLEN", b"MINID"} and len(words) > 1:
        return _read_threshold(options, name, words)
    if name == b"LIMIT" and len(words) > 1:
        options.limit = integer(words[1])
        if options.limit < 0:
            raise Refusal(b"ERR The LIMIT argument must be >= 0.")
        return 2
    if name == b"NOMKSTREAM" and options.adds:
        options.make = False
        return 1
    return 0


def _read_threshold(options: _Options, name: bytes, words: list[bytes]) -> int:
    if options.strategy:
        raise Refusal(
            SYNTAX + b", MAXLEN and MINID options at the same time are not compatible"
        )
    signed = len(words) > 2 and words[1] in {b"~", b"="}
    options.strategy = name
    options.whole = signed and words[1] == b"~"
    options.threshold = words[2] if signed else words[1]
    if name == b"MINID":
        ids.parse(options.threshold)
    elif integer(options.threshold) < 0:
        raise Refusal(b"ERR The MAXLEN argument must be >= 0.")
    return 3 if signed else 2


def _trim(caller: Caller, stream: Stream, how: Trim) -> int:
    if how.limit < 0:
        # Without LIMIT, at most a hundred nodes are removed at once.
        entries = caller.server.config.limits.entries
        how = how._replace(limit=100 * entries if entries else 10000)
    return stream.trim(how)


@command("XADD", -5, "write denyoom fast @stream", keys=_KEY)
def xadd(caller: Caller, words: list[bytes]) -> Reply:
    server = caller.server
    plain = words[2] == b"*"
    options = _PLAIN if plain else _read_options(words, adds=True)
    place = options.place
    count = len(words) - place - 1
    if count < 2 or count % 2:
        if not server.version.subcommands:
            raise Refusal(b"ERR wrong number of arguments for XADD")
        raise arity("xadd")
    id_ = _given_id(words[place], server.version)
    key = words[1]
    if id_ == 0:
        raise Refusal(b"ERR The ID specified in XADD must be greater than 0-0")
    stream = caller.database.stream(key)
    if stream is None:
        if not options.make:
            return None
        stream = Stream()
        added = _choose_id(stream, id_, server.now)
        caller.database.put(key, stream)
    else:
        added = _choose_id(stream, id_, server.now)
        caller.database.touch(key)
    entry = stream.append(added, tuple(words[place + 1 :]), server.config.limits)
    trim = options.trim
    if trim is not None:
        _trim(caller, stream, trim)
    if id_ is None or id_ < 0:
        caller.rewritten = [*words[:place], entry.name, *words[place + 1 :]]
    server.blocked.ready(caller.database.index, key)
    return entry.name


def _given_id(word: bytes, version: Version) -> int | None:
    """Return the id that a word gives: None for `*`, -1 - ms for `ms-*`."""
    if word == b"*":
        return None
    ms = word.removesuffix(b"-*")
    if len(ms) < len(word) and version.auto_sequence:
        return -1 - (ids.parse(ms) >> 64)
    return ids.parse(word)


def _choose_id(stream: Stream, given: int | None, now: int) -> int:
    """Return the id of a new entry.

    Raises:
        Refusal: It would not exceed the stream's last one.
    """
    last = stream.last_id
    if last == ids.MAX:
        raise Refusal(
            b"ERR The stream has exhausted the last possible ID, unable to add more "
            b"items"
        )
    if given is None:
        return stream.next_id(now)
    id_ = given
    if given < 0:
        id_ = (-1 - given) << 64
        if id_ >> 64 == last >> 64 and last & ids.SEQUENCE < ids.SEQUENCE:
            id_ = last + 1
    if id_ <= last:
        raise Refusal(
            b"ERR The ID specified in XADD is equal or smaller than the target stream "
            b"top item"
        )
    return id_


@command("XTRIM", -4, "write @stream", keys=_KEY)
def xtrim(caller: Caller, words: list[bytes]) -> Reply:
    options = _read_options(words, adds=False)
    stream = caller.database.stream(words[1])
    trim = options.trim
    if stream is None or trim is None:
        return 0
    gone = _trim(caller, stream, trim)
    if gone:
        caller.database.touch(words[1])
    return gone


@command("XDEL", -3, "write fast @stream", keys=_KEY)
def xdel(caller: Caller, words: list[bytes]) -> Reply:
    stream = caller.database.stream(words[1])
    if stream is None:
        return 0
    given = [ids.parse(word) for word in words[2:]]
    gone = sum(stream.delete(id_) for id_ in given)
    if gone:
        caller.database.touch(words[1])
    return gone


@command("XLEN", 2, "readonly fast @stream", keys=_KEY)
def xlen(caller: Caller, words: list[bytes]) -> Reply:
    stream = caller.database.stream(words[1])
    return 0 if stream is None else len(stream)


@command("XRANGE", -4, "readonly @stream", keys=_KEY)
def xrange(caller: Caller, words: list[bytes]) -> Reply:
    return _range(caller, words, words[2], words[3], backwards=False)


@command("XREVRANGE", -4, "readonly @stream", keys=_KEY)
def xrevrange(caller: Caller, words: list[bytes]) -> Reply:
    return _range(caller, words, words[3], words[2], backwards=True)


def _range(
    caller: Caller, words: list[bytes], low: bytes, high: bytes, *, backwards: bool
) -> Reply:
    start = ids.parse_bound(low, upper=False)
    end = ids.parse_bound(high, upper=True)
    count = -1
    place = 4
    while place < len(words):
        if words[place].upper() != b"COUNT" or place + 1 >= len(words):
            raise Refusal(SYNTAX)
        count = max(0, integer(words[place + 1]))
        place += 2
    stream = caller.database.stream(words[1])
    if stream is None:
        return []
    if count == 0:
        return NO_ARRAY
    return stream.range(start, end, count, backwards=backwards)


@command("XSETID", -3, "write denyoom fast @stream", keys=_KEY, since=(7, 0))
@command("XSETID", 3, "write denyoom fast @stream", keys=_KEY)
def xsetid(caller: Caller, words: list[bytes]) -> Reply:
    id_ = ids.parse(words[2])
    added, deleted = _counts_given(words)
    stream = caller.database.stream(words[1])
    if stream is None:
        raise Refusal(NO_SUCH_KEY)
    if caller.server.version.setid_minds_deleted and id_ < stream.max_deleted:
        raise Refusal(
            b"ERR The ID specified in XSETID is smaller than current "
            b"max_deleted_entry_id"
        )
    if len(stream) and id_ < stream.last_existing:
        raise Refusal(
            b"ERR The ID specified in XSETID is smaller than the target stream top item"
        )
    if added is not None and added < len(stream):
        raise Refusal(
            b"ERR The entries_added specified in XSETID is smaller than the target "
            b"stream length"
        )
    stream.last_id = id_
    if added is not None:
        stream.added = added
    if deleted:
        stream.max_deleted = deleted
    caller.server.dirty += 1
    return OK


def _counts_given(words: list[bytes]) -> tuple[int | None, int]:
    added, deleted = None, 0
    place = 3
    while place < len(words):
        option = words[place].upper()
        if place + 1 == len(words):
            raise Refusal(SYNTAX)
        if option == b"ENTRIESADDED":
            added = integer(words[place + 1])
            if added < 0:
                raise Refusal(b"ERR entries_added must be positive")
        elif option == b"MAXDELETEDID":
            deleted = ids.parse(words[place + 1])
            if ids.parse(words[2]) < deleted:
                raise Refusal(
                    b"ERR The ID specified in XSETID is smaller than the provided "
                    b"max_deleted_entry_id"
                )
        else:
            raise Refusal(SYNTAX)
        place += 2
    return added, deleted


@command("XACKDEL", -6, "write fast @stream", keys=_KEY, since=(8, 2), only="redis")
@command("XDELEX", -5, "write fast @stream", keys=_KEY, since=(8, 2), only="redis")
def not_modelled(caller: Caller, words: list[bytes]) -> Reply:
    # COMMAND INFO has to know them; Penstock asks for that only.
    raise Refusal(b"ERR the model has no %b" % words[0])
