"""Publishing and subscribing."""

from __future__ import annotations

from simulation.server.acl import matches
from simulation.server.messages import leave, publish_to_all
from simulation.server.resp import Reply
from simulation.server.sessions import Caller, Session
from simulation.server.table import BLOCKED, command, container

__all__: list[str] = []

_FLAGS = "pubsub noscript loading stale"


@command("PUBLISH", 3, "pubsub loading stale fast may_replicate")
def publish(caller: Caller, words: list[bytes]) -> Reply:
    server = caller.server
    own = isinstance(caller, Session) and words[1] in caller.channels
    if own and not caller.in_exec and not server.version.own_messages_first:
        assert isinstance(caller, Session)
        subscribers = len(server.channels[words[1]])
        subscribers += sum(
            len(sessions)
            for pattern, sessions in server.patterns.items()
            if matches(pattern, words[1])
        )
        caller.reply(subscribers)
        publish_to_all(server, words[1], words[2])
        return BLOCKED
    return publish_to_all(server, words[1], words[2])


@command("SUBSCRIBE", -2, _FLAGS)
def subscribe(session: Session, words: list[bytes]) -> Reply:
    for channel in words[1:]:
        session.channels[channel] = None
        session.server.channels.setdefault(channel, {})[session] = None
        session.push(b"subscribe", channel, _count(session))
    return BLOCKED


@command("PSUBSCRIBE", -2, _FLAGS)
def psubscribe(session: Session, words: list[bytes]) -> Reply:
    for pattern in words[1:]:
        session.patterns[pattern] = None
        session.server.patterns.setdefault(pattern, {})[session] = None
        session.push(b"psubscribe", pattern, _count(session))
    return BLOCKED


@command("UNSUBSCRIBE", -1, _FLAGS)
def unsubscribe_channels(session: Session, words: list[bytes]) -> Reply:
    _leave(
        session, b"unsubscribe", words[1:], session.channels, session.server.channels
    )
    return BLOCKED


@command("PUNSUBSCRIBE", -1, _FLAGS)
def unsubscribe_patterns(session: Session, words: list[bytes]) -> Reply:
    _leave(
        session, b"punsubscribe", words[1:], session.patterns, session.server.patterns
    )
    return BLOCKED


def _leave(
    session: Session,
    kind: bytes,
    names: list[bytes],
    own: dict[bytes, None],
    table: dict[bytes, dict[Session, None]],
) -> None:
    """Unsubscribe from names, or from all if there are none."""
    every: list[bytes | None] = [*(names or own)]
    for name in every or [None]:
        if name is not None:
            own.pop(name, None)
            leave(table, name, session)
        session.push(kind, name, _count(session))


def _count(session: Session) -> int:
    return len(session.channels) + len(session.patterns)


container("PUBSUB", "pubsub loading stale")


@command("PUBSUB|NUMSUB", -2, "pubsub loading stale")
def numsub(session: Session, words: list[bytes]) -> Reply:
    channels = session.server.channels
    reply: list[Reply] = []
    for channel in words[2:]:
        reply += [channel, len(channels.get(channel, ()))]
    return reply


@command("PUBSUB|CHANNELS", -2, "pubsub loading stale")
def list_channels(session: Session, words: list[bytes]) -> Reply:
    channels = list(session.server.channels)
    return [each for each in channels if not words[2:] or matches(words[2], each)]


@command("PUBSUB|NUMPAT", 2, "pubsub loading stale")
def numpat(session: Session, words: list[bytes]) -> Reply:
    return len(session.server.patterns)
