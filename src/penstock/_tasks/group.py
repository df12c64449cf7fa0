"""Consumer groups: a consumer's membership, and finding or creating its group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from penstock import _clock
from penstock._connection.command_connection import CommandConnection
from penstock._connection.connection import Connection
from penstock._core.protocol import commands, replies
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock._core.reading.cursor import Position
from penstock._core.reading.slot_cursors import SlotCursors
from penstock._tasks.stream_info import StreamInspector
from penstock.errors import AccessError, CommandError, ServerError, StreamMissing
from penstock.message import EntryId, Shard

__all__ = [
    "FloorTracker",
    "Membership",
    "floors",
    "join",
    "pin",
    "refusal",
    "rejoin",
]

# Seconds between two looks at a group's floor. Should the group vanish, it is recreated
# there, and what was acknowledged since the last look is handled again: so the look is
# frequent.
_FLOOR_EVERY: Final = 1.0


@dataclass(frozen=True, slots=True)
class Membership:
    """A consumer's membership of a group.

    Attributes:
        group: The group's name.
        name: The consumer's name in the group.
        mkstream: Whether a missing stream may be created.
        noack: Whether the server treats entries as acknowledged when it delivers them.
    """

    group: str
    name: str
    mkstream: bool
    noack: bool

    def name_in(self, shard: Shard) -> str:
        """Return the name under which the consumer reads a shard."""
        return self.name

    @property
    def others_claim(self) -> bool:
        """Whether other consumers claim what this one releases, so that it says so."""
        return True


def refusal(server: str, what: str, error: ErrorReply) -> ServerError:
    """Return the exception for an error reply.

    Args:
        server: The server's name.
        what: What was to be done, and with what; it may have the command's name.
        error: The reply.
    """
    command, _, subject = what.partition(" on ")
    if error.command in what:
        command = what
    elif subject and command.isupper():
        # Another command of the same step was refused.
        command = f"{error.command} on {subject}"
    else:
        command = f"{error.command} ({what})"
    if error.code in {"NOAUTH", "NOPERM", "WRONGPASS"}:
        return AccessError(server, error.text)
    if error.kind is ErrorKind.REROUTE:
        return CommandError(command, error.code, error.text, replies.ELSEWHERE)
    return CommandError(command, error.code, error.text)


async def join(
    connection: CommandConnection,
    member: Membership,
    shards: Sequence[Shard],
    starts: Sequence[bytes],
) -> list[bytes]:
    """Create the group where it is missing, and return the floor of each shard.

    Args:
        connection: The command connection.
        member: The group to join.
        shards: The shards that the group reads.
        starts: For each shard the id after which a new group delivers, or `$`.

    Raises:
        StreamMissing: A stream does not exist, and may not be created.
        CommandError: The server refused the command, for example because a key is no
            stream.
        AccessError: The user is not allowed to do this.
        ConnectionLost: The connection ended.
    """
    created = await connection.calls(
        [
            commands.xgroup_create(
                shard.key, member.group, start, mkstream=member.mkstream
            )
            for shard, start in zip(shards, starts, strict=True)
        ]
    )
    for shard, reply in zip(shards, created, strict=True):
        if isinstance(reply, ErrorReply) and reply.code != "BUSYGROUP":
            if "requires the key to exist" in reply.text:
                raise StreamMissing(shard.stream)
            raise refusal(
                connection.server, f"XGROUP CREATE on {shard.stream!r}", reply
            )
    # If the floor is unknown, `0-0` is safe: at worst all entries are delivered again.
    return [floor or b"0-0" for floor in await floors(connection, member, shards)]


async def floors(
    connection: CommandConnection, member: Membership, shards: Sequence[Shard]
) -> list[bytes | None]:
    """Return for each shard an id up to which the group has acknowledged everything.

    Returns:
        The ids; None where the server does not report one.

    Raises:
        ConnectionLost: The connection ended.
    """
    asked = [
        command
        for shard in shards
        for command in (
            commands.xinfo_groups(shard.key),
            commands.xpending_summary(shard.key, member.group),
        )
    ]
    answers = iter(await connection.calls(asked))
    return [_floor(member, *pair) for pair in zip(answers, answers, strict=True)]


def _floor(member: Membership, groups: Any, summary: Any) -> bytes | None:
    """Return the id before the lowest pending one, or else the last delivered id."""
    if isinstance(groups, ErrorReply) or isinstance(summary, ErrorReply):
        return None
    if summary.lowest is not None:
        return bytes(EntryId.parse(summary.lowest).previous())
    name = member.group.encode()
    return next((i.last_delivered for i in groups if i.name == name), None)


async def rejoin(
    connection: Connection, member: Membership, shard: Shard, floor: bytes
) -> bytes | ErrorReply:
    """Recreate a group that was deleted, never at `$`; return the id, or the refusal.

    Args:
        connection: The reader's connection.
        member: The group.
        shard: The shard that lost the group.
        floor: The id after which the group is to deliver.

    Raises:
        ConnectionLost: The connection ended.
    """
    reply = await connection.call(
        commands.xgroup_create(shard.key, member.group, floor, mkstream=member.mkstream)
    )
    return reply if isinstance(reply, ErrorReply) else floor


async def pin(
    connection: CommandConnection,
    shards: Sequence[Shard],
    inspector: StreamInspector,
    *,
    needed: bool,
) -> tuple[list[bytes], ServerError | None]:
    """Return each stream's last id, which fixes the position that LATEST means.

    Args:
        connection: The command connection.
        shards: The shards.
        inspector: Requests the ids.
        needed: Whether an id that the server does not tell is an error.

    Returns:
        The ids, and the error for a key that is no stream.

    Raises:
        AccessError: The user is not allowed to do this.
        ConnectionLost: The connection ended.
    """
    infos = await inspector.streams(connection.calls, [shard.key for shard in shards])
    found, wrong = [], None
    for shard, info in zip(shards, infos, strict=True):
        if not isinstance(info, ErrorReply):
            found.append(bytes(info.last))
            continue
        # There is no stream yet: all entries that it will have are new.
        found.append(b"0-0")
        error = refusal(connection.server, f"XINFO STREAM on {shard.stream!r}", info)
        if info.kind is ErrorKind.ISOLATE:
            wrong = error
        elif info.kind is not ErrorKind.REPAIR and needed:
            raise error
    return found, wrong


class FloorTracker:
    """Tracks the group's floor in each shard.

    Args:
        connection: The command connection.
        member: The consumer's place in the group.
        cursors: The positions whose floors are updated.
        on_doubt: Called when a stream may have been recreated, so that a reader has to
            check it.
    """

    def __init__(
        self,
        connection: CommandConnection,
        member: Membership,
        cursors: SlotCursors,
        on_doubt: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._member = member
        self._cursors = cursors
        self._on_doubt = on_doubt
        self._next = _clock.monotonic() + _FLOOR_EVERY

    async def look(self) -> None:
        """Update the floors, if the last update is old enough.

        Raises:
            ConnectionLost: The connection ended before the replies.
        """
        if _clock.monotonic() < self._next:
            return
        self._next = _clock.monotonic() + _FLOOR_EVERY
        positions = self._cursors.positions
        shards = [position.shard for position in positions]
        before = [position.floor for position in positions]
        found = await floors(self._connection, self._member, shards)
        for position, old, floor in zip(positions, before, found, strict=True):
            if floor is None or position.floor != old:
                continue  # a seek or a recreated stream has set it meanwhile
            position.floor = floor
            if EntryId.parse(floor) < EntryId.parse(old):
                # The group was rewound, or it is another group.
                self._doubt(position)

    def doubt(self, shard: Shard) -> None:
        """Request a check whether a shard's stream is still the same."""
        for position in self._cursors.positions:
            if position.shard == shard:
                self._doubt(position)

    def refused(self, shard: Shard) -> None:
        """Request an examination of a shard whose group a command has not found."""
        for position in self._cursors.positions:
            if position.shard == shard:
                position.refused = True
        self._on_doubt()

    def _doubt(self, position: Position) -> None:
        position.doubtful = True
        self._on_doubt()
