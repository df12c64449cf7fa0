"""Commands about the connection itself: HELLO, AUTH, SELECT, PING and the like."""

from __future__ import annotations

from simulation.server.resp import OK, Refusal, Reply, Status
from simulation.server.sessions import Caller, Session
from simulation.server.table import command
from simulation.server.texts import SYNTAX, arity, integer

__all__: list[str] = []

_PONG = Status(b"PONG")
_WRONGPASS = b"WRONGPASS invalid username-password pair or user is disabled."


@command("PING", -1, "fast @connection")
def ping(caller: Caller, words: list[bytes]) -> Reply:
    if len(words) > 2:
        raise arity("ping")
    if isinstance(caller, Session) and not caller.resp3 and caller.listens:
        return [b"pong", words[1] if len(words) == 2 else b""]
    return words[1] if len(words) == 2 else _PONG


@command("ECHO", 2, "loading stale fast @connection")
def echo(caller: Caller, words: list[bytes]) -> Reply:
    return words[1]


@command("QUIT", -1, "noscript loading stale fast no_auth allow_busy @connection")
def quit_(session: Session, words: list[bytes]) -> Reply:
    session.close_after_reply()
    return OK


@command("RESET", 1, "noscript loading stale fast no_auth allow_busy @connection")
def reset(session: Session, words: list[bytes]) -> Reply:
    session.queue = None
    session.unwatch()
    session.resp3 = False
    session.name = b""
    session.database = session.server.database(0)
    session.leave_channels()
    session.user = session.server.users.default
    session.authenticated = session.server.users.default.needs_no_password
    return Status(b"RESET")


@command("SELECT", 2, "loading stale fast @connection")
def select(caller: Caller, words: list[bytes]) -> Reply:
    index = integer(words[1])
    if not 0 <= index < int(caller.server.config.values["databases"]):
        raise Refusal(b"ERR DB index is out of range")
    caller.database = caller.server.database(index)
    return OK


def _log_in(session: Session, name: bytes, password: bytes) -> None:
    user = session.server.users.by_name.get(name)
    if user is None or not user.knows(password):
        raise Refusal(_WRONGPASS)
    session.user = user
    session.authenticated = True


@command("AUTH", -2, "noscript loading stale fast no_auth allow_busy @connection")
def auth(session: Session, words: list[bytes]) -> Reply:
    if len(words) > 3:
        raise Refusal(SYNTAX)
    if len(words) == 2 and session.server.users.default.needs_no_password:
        raise Refusal(
            b"ERR AUTH <password> called without any password configured for the "
            b"default user. Are you sure your configuration is correct?"
        )
    name = words[1] if len(words) == 3 else b"default"
    _log_in(session, name, words[-1])
    return OK


@command("HELLO", -1, "noscript loading stale fast no_auth allow_busy @connection")
def hello(session: Session, words: list[bytes]) -> Reply:
    resp3 = session.resp3
    if len(words) > 1:
        version = integer(
            words[1], b"ERR Protocol version is not an integer or out of range"
        )
        if version not in {2, 3}:
            raise Refusal(b"NOPROTO unsupported protocol version")
        resp3 = version == 3
    name = _hello_options(session, words)
    if not session.authenticated:
        raise Refusal(
            b"NOAUTH HELLO must be called with the client already authenticated, "
            b"otherwise the HELLO <proto> AUTH <user> <pass> option can be used to "
            b"authenticate the client and select the RESP protocol version at the same "
            b"time"
        )
    if name is not None:
        session.name = name
    session.resp3 = resp3
    server = session.server
    return {
        b"server": server.version.name.encode(),
        b"version": server.version.number.encode(),
        b"proto": 3 if resp3 else 2,
        b"id": session.number,
        b"mode": b"standalone",
        b"role": b"replica" if server.guards.readonly else b"master",
        b"modules": [],
    }


def _hello_options(session: Session, words: list[bytes]) -> bytes | None:
    """Log in if that is asked for, and return the name to take."""
    name = None
    place = 2
    while place < len(words):
        option = words[place].upper()
        left = len(words) - place - 1
        if option == b"AUTH" and left >= 2:
            _log_in(session, words[place + 1], words[place + 2])
            place += 3
        elif option == b"SETNAME" and left:
            name = words[place + 1]
            place += 2
        else:
            raise Refusal(b"ERR Syntax error in HELLO option '%b'" % words[place])
    return name


@command("TIME", 1, "loading stale fast")
def time(caller: Caller, words: list[bytes]) -> Reply:
    now = caller.server.now
    return [b"%d" % (now // 1000), b"%d" % (now % 1000 * 1000)]


@command("COMMAND", -1, "loading stale @connection")
def command_(caller: Caller, words: list[bytes]) -> Reply:
    return [_describe(caller, name) for name in caller.server.table]


@command("COMMAND|INFO", -2, "loading stale @connection")
def command_info(caller: Caller, words: list[bytes]) -> Reply:
    return [_describe(caller, name.upper()) for name in words[2:]]


@command("COMMAND|COUNT", 2, "loading stale @connection")
def command_count(caller: Caller, words: list[bytes]) -> Reply:
    return len(caller.server.table)


def _describe(caller: Caller, name: bytes) -> Reply:
    found = caller.server.table.get(name)
    if found is None:
        return None
    first, last, step = found.keys if isinstance(found.keys, tuple) else (0, 0, 0)
    return [
        found.name.encode(),
        found.arity,
        [Status(flag.encode()) for flag in sorted(found.flags)],
        *(first, last, step),
        [Status(b"@" + each.encode()) for each in sorted(found.categories)],
    ]
