"""Messages to subscribers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.server.acl import matches

if TYPE_CHECKING:
    from simulation.server.server import Server
    from simulation.server.sessions import Session

__all__ = ["leave", "publish_to_all"]


def publish_to_all(server: Server, channel: bytes, message: bytes) -> int:
    """Send a message to the subscribers of a channel, and return their number."""
    count = 0
    for session in list(server.channels.get(channel, ())):
        session.push(b"message", channel, message)
        count += 1
    for pattern, sessions in list(server.patterns.items()):
        if matches(pattern, channel):
            for session in list(sessions):
                session.push(b"pmessage", pattern, channel, message)
                count += 1
    return count


def leave(
    table: dict[bytes, dict[Session, None]], name: bytes, session: Session
) -> None:
    """Remove a session from the subscribers of a channel or pattern."""
    subscribers = table.get(name)
    if subscribers is not None:
        subscribers.pop(session, None)
        if not subscribers:
            del table[name]
