"""EVAL, EVALSHA and SCRIPT."""

from __future__ import annotations

from collections.abc import Sequence

from simulation.server.resp import OK, Refusal, Reply
from simulation.server.sessions import Session
from simulation.server.table import command, container
from simulation.server.texts import NOT_INTEGER, integer

__all__: list[str] = []

_FLAGS = "noscript stale may_replicate @scripting"


def _keys(words: Sequence[bytes]) -> list[bytes]:
    count = int(words[2]) if words[2].isdigit() else 0
    return list(words[3 : 3 + count])


def _split(words: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return the keys and the arguments of a script."""
    count = integer(words[2], NOT_INTEGER)
    if count > len(words) - 3:
        raise Refusal(b"ERR Number of keys can't be greater than number of args")
    if count < 0:
        raise Refusal(b"ERR Number of keys can't be negative")
    return words[3 : 3 + count], words[3 + count :]


@command("EVAL", -3, _FLAGS, keys=_keys)
def evaluate(session: Session, words: list[bytes]) -> Reply:
    keys, args = _split(words)
    scripts = session.server.scripts
    return scripts.run(session, scripts.load(words[1]), keys, args)


@command("EVALSHA", -3, _FLAGS, keys=_keys)
def evaluate_known(session: Session, words: list[bytes]) -> Reply:
    keys, args = _split(words)
    scripts = session.server.scripts
    digest = words[1].lower()
    if digest not in scripts.known:
        end = b"" if session.server.version.valkey else b" Please use EVAL."
        raise Refusal(b"NOSCRIPT No matching script." + end)
    return scripts.run(session, digest, keys, args)


container("SCRIPT", "noscript @scripting")


@command("SCRIPT|LOAD", 3, "noscript stale @scripting")
def load(session: Session, words: list[bytes]) -> Reply:
    return session.server.scripts.load(words[2])


@command("SCRIPT|EXISTS", -3, "noscript @scripting")
def exists(session: Session, words: list[bytes]) -> Reply:
    known = session.server.scripts.known
    return [int(digest.lower() in known) for digest in words[2:]]


@command("SCRIPT|FLUSH", -2, "noscript @scripting")
def flush(session: Session, words: list[bytes]) -> Reply:
    session.server.scripts.known.clear()
    return OK


@command("SCRIPT|KILL", 2, "noscript allow_busy @scripting")
def kill(session: Session, words: list[bytes]) -> Reply:
    if not session.server.guards.busy:
        raise Refusal(b"NOTBUSY No scripts in execution right now.")
    session.server.guards.busy = False
    return OK
