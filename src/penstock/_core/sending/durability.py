"""Durability: the waits for messages that must also be on replicas or on disk.

WAIT and WAITAOF wait for all writes of their connection. So one such command after the
messages of a write serves all messages that ask for the same durability
(https://redis.io/docs/latest/commands/wait/, …/waitaof/).

Not every reply to WAITAOF is true. With `appendfsync everysec`, Redis 7.2 and 7.4 and
Valkey report a write as synced that has not been synced yet (redis/redis#13793). So the
setting and the version are asked for with each such wait: a setting can change at any
time, and a new connection may lead to another server.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply
from penstock._core.sending.requests import Durability, SendRequest
from penstock.errors import NotDurable
from penstock.events import printable
from penstock.message import Receipt

__all__ = ["DurabilityWait", "FileSync"]

K = TypeVar("K")

# Seconds that are kept for the reply, so that the sender learns what was achieved
# before its deadline.
_SLACK: Final = 0.1


# The version of Redis from which on WAITAOF is true whatever `appendfsync` is.
_TRUE_SINCE: Final = (8, 2)

QUESTIONS: Final = (commands.config_get(b"appendfsync"), commands.info(b"server"))
"""The commands that ask what the replies to WAITAOF are worth, see `file_sync`."""


class FileSync(NamedTuple):
    """What a server's replies to WAITAOF are worth.

    Attributes:
        believed: Whether they are true; None if that can't be known.
        reason: Why they are not, or why that is not known; else empty.
    """

    believed: bool | None
    reason: str = ""


def file_sync(replies: Sequence[Any]) -> FileSync:
    """Return what a server's replies to WAITAOF are worth.

    Args:
        replies: The replies to `QUESTIONS`.
    """
    settings, server = replies
    policy = b""
    if not isinstance(settings, ErrorReply):
        policy = settings.get(b"appendfsync", b"")
    if policy == b"always":
        return FileSync(believed=True)
    if policy == b"no":
        reason = "the server has 'appendfsync no', so it never waits for its disk"
        return FileSync(believed=False, reason=reason)
    if not isinstance(server, ErrorReply) and _version(server) >= _TRUE_SINCE:
        return FileSync(believed=True)
    if isinstance(server, ErrorReply) or not policy:
        reason = (
            "this user may not ask for appendfsync (CONFIG GET) or for the version "
            "(INFO), and with 'appendfsync everysec' Valkey, and Redis before 8.2, "
            "confirm what is not on the disk yet"
        )
        return FileSync(believed=None, reason=reason)
    reason = (
        f"the server has 'appendfsync {printable(policy)}', with which Valkey, and "
        f"Redis before 8.2, confirm what is not on the disk yet"
    )
    return FileSync(believed=False, reason=reason)


def _version(server: bytes) -> tuple[int, ...]:
    """Return the version of Redis from INFO's server section; Valkey reports 7.2."""
    for line in server.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"redis_version":
            numbers = value.split(b".")[:2]
            if all(number.isdigit() for number in numbers):
                return tuple(map(int, numbers))
    return ()


class DurabilityWait(NamedTuple):
    """One wait after a write.

    Attributes:
        durability: The durability that is waited for.
        ms: The most milliseconds.
    """

    durability: Durability
    ms: int

    @property
    def command(self) -> Command:
        """The command for this wait."""
        if self.durability.durable:
            return commands.wait_aof(self.durability.replicas, self.ms)
        return commands.wait(self.durability.replicas, self.ms)


def waits(
    batch: Iterable[SendRequest[K]], now: float, longest: float
) -> list[DurabilityWait]:
    """Return the waits after a write, the shortest first.

    Args:
        batch: The messages that are written.
        now: The time, by the clock of the deadlines.
        longest: The most seconds for all waits together.
    """
    patience: dict[Durability, float] = {}
    for request in batch:
        if (durability := request.durability) is not None:
            left = patience.get(durability, longest)
            patience[durability] = min(left, _patience(request.deadline - now))
    planned, spent = [], 0.0
    for durability, seconds in sorted(patience.items(), key=lambda item: item[1]):
        # 0 means to wait forever.
        planned.append(
            DurabilityWait(durability, max(1, int((seconds - spent) * 1000)))
        )
        spent = max(spent, seconds)
    return planned


def _patience(left: float) -> float:
    return max(left / 2, min(left * 0.8, left - _SLACK))


def questions(waits: Iterable[DurabilityWait]) -> list[Command]:
    """Return the commands of the waits, and what has to be asked along with them."""
    waits = list(waits)
    asks = [wait.command for wait in waits]
    return asks + (list(QUESTIONS) if _any_durable(waits) else [])


def sync_of(waits: Sequence[DurabilityWait], waited: Sequence[Any]) -> FileSync | None:
    """Return what the replies to WAITAOF are worth; None if there are none.

    Args:
        waits: The waits after a write.
        waited: The replies to `questions` for them.
    """
    return file_sync(waited[len(waits) :]) if _any_durable(waits) else None


def _any_durable(waits: Iterable[DurabilityWait]) -> bool:
    return any(wait.durability.durable for wait in waits)


def shortfall(
    durability: Durability, reply: Any, receipt: Receipt, sync: FileSync | None = None
) -> NotDurable | None:
    """Return the error if a message's durability was not achieved; None if it was.

    Args:
        durability: The durability that was asked for.
        reply: The reply to the wait.
        receipt: The message's receipt.
        sync: What a reply to WAITAOF is worth; by default it is true.
    """
    if isinstance(reply, ErrorReply):
        achieved, own, reason = 0, False, reply.text
    elif durability.durable:
        (local, achieved), reason = reply, ""
        if sync is not None and sync.believed is False:
            reason = sync.reason
        own = local > 0 and not reason
    else:
        achieved, own, reason = reply, True, ""
    if not reason and own and achieved >= durability.replicas:
        return None
    return NotDurable(
        receipt,
        receipt.stream,
        str(receipt.id),
        wanted=durability.replicas,
        achieved=achieved,
        durable=own if durability.durable else None,
        reason=reason,
    )


def check(
    batch: Sequence[SendRequest[K]],
    outcomes: Sequence[Any],
    waits: Sequence[DurabilityWait],
    waited: Sequence[Any],
    sync: FileSync | None,
) -> list[Any]:
    """Replace the outcomes of messages that are not as durable as required.

    Args:
        batch: The messages.
        outcomes: Their ids, or what refused them.
        waits: The waits after them.
        waited: The replies to the waits, and possibly more.
        sync: What a reply to WAITAOF is worth; None if there is none.
    """
    durabilities = [wait.durability for wait in waits]
    replies = dict(zip(durabilities, waited, strict=False))
    checked: list[Any] = []
    for request, outcome in zip(batch, outcomes, strict=True):
        asked = request.durability
        short: NotDurable | None = None
        if asked is not None and type(outcome) is bytes:
            receipt = Receipt(request.shard.stream, request.shard.number, outcome)
            short = shortfall(asked, replies[asked], receipt, sync)
        checked.append(outcome if short is None else short)
    return checked
