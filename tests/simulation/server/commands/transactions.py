"""MULTI, EXEC, DISCARD, WATCH and UNWATCH."""

from __future__ import annotations

from simulation.server.resp import NO_ARRAY, OK, Refusal, Reply
from simulation.server.sessions import Queue, Session
from simulation.server.table import command

__all__: list[str] = []

_FLAGS = "noscript loading stale fast allow_busy @transaction"


@command("MULTI", 1, f"{_FLAGS} no_multi")
def multi(session: Session, words: list[bytes]) -> Reply:
    if session.queue is not None:
        raise Refusal(b"ERR MULTI calls can not be nested")
    session.queue = Queue()
    return OK


@command("DISCARD", 1, _FLAGS)
def discard(session: Session, words: list[bytes]) -> Reply:
    if session.queue is None:
        raise Refusal(b"ERR DISCARD without MULTI")
    session.queue = None
    session.unwatch()
    return OK


@command("EXEC", 1, "noscript loading stale @transaction")
def execute(session: Session, words: list[bytes]) -> Reply:
    queue = session.queue
    if queue is None:
        raise Refusal(b"ERR EXEC without MULTI")
    session.queue = None
    failed = session.watch_failed
    session.unwatch()
    if queue.broken:
        raise Refusal(b"EXECABORT Transaction discarded because of previous errors.")
    if failed:
        return NO_ARRAY
    session.in_exec = True
    try:
        return [
            session.server.call_in_exec(session, command, each)
            for command, each in queue.commands
        ]
    finally:
        session.in_exec = False


@command("WATCH", -2, f"{_FLAGS} no_multi", keys=(1, -1, 1))
def watch(session: Session, words: list[bytes]) -> Reply:
    if session.queue is not None:
        raise Refusal(b"ERR WATCH inside MULTI is not allowed")
    database = session.database
    for key in words[1:]:
        database.find(key)
        session.watched[database.index, key] = None
        database.watchers.setdefault(key, {})[session] = None
    return OK


@command("UNWATCH", 1, _FLAGS)
def unwatch(session: Session, words: list[bytes]) -> Reply:
    session.unwatch()
    return OK
