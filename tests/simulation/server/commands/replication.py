"""WAIT, WAITAOF, ROLE and REPLICAOF."""

from __future__ import annotations

from simulation.server.resp import OK, Refusal, Reply
from simulation.server.sessions import Session
from simulation.server.table import BLOCKED, command
from simulation.server.texts import integer

__all__: list[str] = []

_TIMEOUT = b"ERR timeout is not an integer or out of range"


def _timeout(word: bytes) -> int:
    ms = integer(word, _TIMEOUT)
    if ms < 0:
        raise Refusal(b"ERR timeout is negative")
    return ms


def _refuse_on_replica(session: Session, name: bytes) -> None:
    if session.server.guards.readonly:
        raise Refusal(
            b"ERR %b cannot be used with replica instances. Please also note that %bif "
            b"a replica is configured to be writable (which is not the default) writes "
            b"to replicas are just local and are not propagated."
            % (name, b"" if session.server.version.valkey else b"since Redis 4.0 ")
        )


@command("WAIT", 3, "blocking noscript @connection")
def wait(session: Session, words: list[bytes]) -> Reply:
    _refuse_on_replica(session, b"WAIT")
    wanted = integer(words[1])
    ms = _timeout(words[2])
    journal, offset = session.server.journal, session.writes_to

    def done() -> Reply | None:
        count = journal.replicas_with(offset)
        return count if count >= wanted else None

    reply = done()
    if reply is not None or not session.may_block:
        return journal.replicas_with(offset)
    waiter = journal.wait(session, ms, done)
    waiter.on_timeout = lambda: journal.replicas_with(offset)
    return BLOCKED


@command("WAITAOF", 4, "blocking noscript @connection", since=(7, 2))
def waitaof(session: Session, words: list[bytes]) -> Reply:
    local = integer(words[1])
    wanted = integer(words[2])
    if not 0 <= local <= 1 or wanted < 0:
        raise Refusal(b"ERR value is out of range, must be positive")
    ms = _timeout(words[3])
    _refuse_on_replica(session, b"WAITAOF")
    journal, offset = session.server.journal, session.writes_to
    if local and not journal.disk.keeps_journal:
        raise Refusal(
            b"ERR WAITAOF cannot be used when numlocal is set but appendonly is "
            b"disabled."
        )

    def done() -> Reply | None:
        own, others = journal.disks_with(offset)
        return [own, others] if own >= local and others >= wanted else None

    reply = done()
    if reply is not None or not session.may_block:
        return list(journal.disks_with(offset))
    waiter = journal.wait(session, ms, done)
    waiter.on_timeout = lambda: list(journal.disks_with(offset))
    return BLOCKED


@command("ROLE", 1, "admin noscript loading stale fast")
def role(session: Session, words: list[bytes]) -> Reply:
    server = session.server
    if server.guards.readonly:
        state = b"connected" if server.link is not None else b"connect"
        offset = server.offset if server.link is not None else -1
        return [b"slave", b"127.0.0.1", 1, state, offset]
    replicas = [
        [b"127.0.0.1", b"6379", b"%d" % link.has] for link in server.journal.links
    ]
    return [b"master", server.offset, replicas]


@command("REPLICAOF", 3, "admin noscript stale")
def replicaof(session: Session, words: list[bytes]) -> Reply:
    if words[1].upper() == b"NO" and words[2].upper() == b"ONE":
        session.server.promote()
    else:
        session.server.demote()
    return OK


@command("SLAVEOF", 3, "admin noscript stale")
def slaveof(session: Session, words: list[bytes]) -> Reply:
    return replicaof(session, words)
