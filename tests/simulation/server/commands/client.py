"""CLIENT."""

from __future__ import annotations

from collections.abc import Callable

from simulation.server.blocking import Waiter
from simulation.server.resp import OK, Fault, Refusal, Reply, Text
from simulation.server.sessions import Session
from simulation.server.table import command, container
from simulation.server.texts import SYNTAX, integer

__all__: list[str] = []

_FLAGS = "noscript loading stale @connection"
_ADMIN = f"admin {_FLAGS}"


container("CLIENT", _FLAGS)


@command("CLIENT|ID", 2, _FLAGS)
def client_id(session: Session, words: list[bytes]) -> Reply:
    return session.number


@command("CLIENT|GETNAME", 2, _FLAGS)
def getname(session: Session, words: list[bytes]) -> Reply:
    return session.name or None


@command("CLIENT|SETNAME", 3, _FLAGS)
def setname(session: Session, words: list[bytes]) -> Reply:
    if any(not 33 <= byte <= 126 for byte in words[2]):
        raise Refusal(
            b"ERR Client names cannot contain spaces, newlines or special characters."
        )
    session.name = words[2]
    return OK


@command("CLIENT|SETINFO", 4, _FLAGS, since=(7, 2))
def setinfo(session: Session, words: list[bytes]) -> Reply:
    option = words[2].lower()
    if option not in {b"lib-name", b"lib-ver"}:
        raise Refusal(b"ERR Unrecognized option '%b'" % words[2])
    session.library[option == b"lib-ver"] = words[3]
    return OK


@command("CLIENT|REPLY", 3, _FLAGS)
def reply_mode(session: Session, words: list[bytes]) -> Reply:
    if words[2].upper() != b"ON":
        raise Refusal(b"ERR the model replies always")
    return OK


@command("CLIENT|NO-EVICT", 3, _ADMIN, since=(7, 0))
def no_evict(session: Session, words: list[bytes]) -> Reply:
    return OK


@command("CLIENT|NO-TOUCH", 3, _FLAGS, since=(7, 2))
def no_touch(session: Session, words: list[bytes]) -> Reply:
    return OK


@command("CLIENT|TRACKING", -3, _FLAGS)
def tracking(session: Session, words: list[bytes]) -> Reply:
    # Nothing is invalidated, because the model sends no such pushes.
    return OK


@command("CLIENT|INFO", 2, _FLAGS)
def info(session: Session, words: list[bytes]) -> Reply:
    return Text(_describe(session))


@command("CLIENT|LIST", -2, _ADMIN)
def list_(session: Session, words: list[bytes]) -> Reply:
    chosen = list(session.server.sessions.values())
    if len(words) > 2:
        option = words[2].upper()
        if option == b"TYPE" and len(words) == 4:
            wanted = words[3].lower()
            chosen = [each for each in chosen if _type(each) == wanted]
        elif option == b"ID" and len(words) > 3:
            numbers = [integer(word) for word in words[3:]]
            chosen = [each for each in chosen if each.number in numbers]
        else:
            raise Refusal(SYNTAX)
    return Text(b"".join(map(_describe, chosen)))


def _type(session: Session) -> bytes:
    return b"pubsub" if session.listens else b"normal"


def _describe(session: Session) -> bytes:
    server = session.server
    flags = "b" if session.waiter is not None else ""
    flags += "P" if session.listens else ""
    flags += "x" if session.queue is not None else ""
    facts: list[tuple[str, object]] = [
        ("id", session.number),
        ("addr", session.address),
        ("laddr", "127.0.0.1:6379"),
        ("fd", session.number),
        ("name", session.name.decode()),
        ("age", (server.now - session.since) // 1000),
        ("idle", (server.now - session.active) // 1000),
        ("flags", flags or "N"),
        ("db", session.database.index),
        ("sub", len(session.channels)),
        ("psub", len(session.patterns)),
        ("multi", len(session.queue.commands) if session.queue else -1),
        ("qbuf", 0),
        ("cmd", session.last_command),
        ("user", session.user.name.decode() if session.user else ""),
        ("redir", -1),
    ]
    if server.version.subcommands:
        facts.append(("resp", 3 if session.resp3 else 2))
    if server.version.active_times:
        facts.append(("lib-name", session.library[0].decode()))
        facts.append(("lib-ver", session.library[1].decode()))
    return " ".join(f"{name}={value}" for name, value in facts).encode() + b"\n"


@command("CLIENT|KILL", -3, _ADMIN)
def kill(session: Session, words: list[bytes]) -> Reply:
    if len(words) == 3:
        found = [
            each
            for each in session.server.sessions.values()
            if each.address.encode() == words[2]
        ]
        if not found:
            raise Refusal(b"ERR No such client")
        _cut(session, found)
        return OK
    skips_self, conditions = _conditions(words)
    found = [
        each
        for each in session.server.sessions.values()
        if all(holds(each) for holds in conditions)
        and not (skips_self and each is session)
    ]
    _cut(session, found)
    return len(found)


def _conditions(words: list[bytes]) -> tuple[bool, list[Callable[[Session], bool]]]:
    """Return whether the caller is spared, and what must hold for the killed."""
    skips_self = True
    conditions: list[Callable[[Session], bool]] = []
    place = 2
    while place + 1 < len(words):
        option, value = words[place].upper(), words[place + 1]
        if option == b"SKIPME":
            skips_self = value.lower() == b"yes"
        else:
            conditions.append(_condition(option, value))
        place += 2
    if place < len(words):
        raise Refusal(SYNTAX)
    return skips_self, conditions


def _condition(option: bytes, value: bytes) -> Callable[[Session], bool]:
    match option:
        case b"ID":
            number = integer(value, b"ERR client-id should be greater than 0")
            return lambda each: each.number == number
        case b"ADDR":
            return lambda each: each.address.encode() == value
        case b"LADDR":
            return lambda _: value == b"127.0.0.1:6379"
        case b"USER":
            return lambda each: each.user is not None and each.user.name == value
        case b"TYPE":
            wanted = value.lower()
            if wanted not in {b"normal", b"pubsub", b"master", b"replica", b"slave"}:
                raise Refusal(b"ERR Unknown client type '%b'" % value)
            return lambda each: _type(each) == wanted
    raise Refusal(SYNTAX)


def _cut(session: Session, found: list[Session]) -> None:
    """Close connections; the caller's own after the reply."""
    for each in found:
        if each is session:
            session.close_after_reply()
        else:
            each.cut()


@command("CLIENT|UNBLOCK", -3, _ADMIN)
def unblock(session: Session, words: list[bytes]) -> Reply:
    how = words[3].upper() if len(words) == 4 else b"TIMEOUT"
    if len(words) > 4 or how not in {b"TIMEOUT", b"ERROR"}:
        raise Refusal(b"ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
    other = session.server.sessions.get(integer(words[2]))
    waiter: Waiter | None = other.waiter if other is not None else None
    if waiter is None:
        return 0
    blocked = session.server.blocked
    if how == b"ERROR":
        blocked.end(waiter, Fault(b"UNBLOCKED client unblocked via CLIENT UNBLOCK"))
    else:
        blocked.time_out(waiter)
    return 1


@command("CLIENT|PAUSE", -3, _ADMIN)
def pause(session: Session, words: list[bytes]) -> Reply:
    ms = integer(words[2], b"ERR timeout is not an integer or out of range")
    if ms < 0:
        raise Refusal(b"ERR timeout is negative")
    kind = words[3].upper() if len(words) == 4 else b"ALL"
    if kind not in {b"ALL", b"WRITE"}:
        raise Refusal(b"ERR CLIENT PAUSE mode must be WRITE or ALL")
    session.server.pause(ms / 1000, writes_only=kind == b"WRITE")
    return OK


@command("CLIENT|UNPAUSE", 2, _ADMIN)
def unpause(session: Session, words: list[bytes]) -> Reply:
    session.server.unpause()
    return OK
