"""Seek: nothing is dropped or acknowledged for a position that was not set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply, PendingEntry
from penstock._core.reading.cursor import Position
from penstock._tasks.group import Membership
from penstock._tasks.reading.seek import seek
from penstock._tasks.stream_info import StreamInspector
from penstock.errors import AccessError, CommandError, ConnectionLost, ServerError
from penstock.message import EntryId
from support.ledger import A, B, SpyLedger, ids, known, raw
from support.scripted import ScriptedConnection

MEMBER = Membership("g", "me", mkstream=True, noack=False)
NOT_USED = cast("StreamInspector", None)


def server(
    refused: Mapping[Any, str] | None = None, *, requests: int | None = None
) -> ScriptedConnection:
    """Return a server with entries 1 to 3 pending, which refuses to set some keys."""

    def reply(command: Command) -> Any:
        if command[0] == b"XPENDING":
            return [PendingEntry(raw(number), b"me", 5, 1) for number in (1, 2, 3)]
        if command[1] == b"SETID" and refused and command[2] in refused:
            return ErrorReply(refused[command[2]])
        return b"OK"

    def script(batch: Sequence[Command]) -> list[Any]:
        return [reply(command) for command in batch]

    return ScriptedConnection(script, requests=requests)


def sent(connection: ScriptedConnection) -> list[Command]:
    """Return all commands but the creation of groups that exist."""
    return [
        command
        for batch in connection.requests
        for command in batch
        if command[1] != b"CREATE"
    ]


class Sought:
    """Two shards with entries 1 to 3: a handler has the first, the others wait."""

    def __init__(self) -> None:
        self.ledger = SpyLedger()
        self.positions = [
            Position(shard, raw(3), raw(0), highest=EntryId(3)) for shard in (A, B)
        ]
        for shard in (A, B):
            self.ledger.read(1, shard=shard)
        self.running = [self.ledger.start_next() for _ in range(2)]
        for shard in (A, B):
            self.ledger.read(2, 3, shard=shard)

    async def seek(self, connection: ScriptedConnection, place: EntryId) -> None:
        await seek(
            connection.plain,
            self.ledger,
            MEMBER,
            self.positions,
            place,
            inspector=NOT_USED,
        )


@pytest.mark.parametrize("place", [EntryId(2), EntryId(9)])
async def test_the_position_is_set_before_anything_is_acknowledged(
    place: EntryId,
) -> None:
    """Else a process that ends between the two would have lost the entries."""
    connection, sought = server(), Sought()
    await sought.seek(connection, place)
    verbs = [command[0] for command in sent(connection)]
    assert verbs == [b"XGROUP", b"XGROUP", *[b"XPENDING", b"XACK"] * 2]
    assert sought.ledger.take_next() is None


@pytest.mark.parametrize("place", [EntryId(2), EntryId(9)])
@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ("NOPERM User u has no permissions to run 'xgroup|setid'", AccessError),
        ("NOGROUP No such consumer group", CommandError),
        ("WRONGTYPE Operation against a key", CommandError),
    ],
)
async def test_a_shard_that_the_server_refuses_to_set_goes_on_as_before(
    place: EntryId, reply: str, error: type[ServerError]
) -> None:
    connection, sought = server({b"a": reply}), Sought()
    with pytest.raises(error):
        await sought.seek(connection, place)
    assert [command[1] for command in sent(connection) if command[0] == b"XACK"] == [
        b"b"
    ]
    assert [position.after for position in sought.positions] == [
        raw(3),
        b"%d-%d" % (place.ms - 1, 2**64 - 1),
    ]
    assert ids(sought.ledger.take_next() for _ in range(3)) == [raw(2), raw(3), None]
    assert known(sought.ledger, A, raw(1))


async def test_a_connection_that_ends_before_the_position_is_set_changes_nothing() -> (
    None
):
    connection, sought = server(requests=0), Sought()
    with pytest.raises(ConnectionLost):
        await sought.seek(connection, EntryId(2))
    assert [position.after for position in sought.positions] == [raw(3), raw(3)]
    rest = ids(sought.ledger.take_next() for _ in range(5))
    assert rest == [raw(2), raw(3), raw(2), raw(3), None]


@pytest.mark.parametrize("requests", [1, 2, 3, 4])
async def test_a_seek_that_a_lost_connection_interrupted_is_finished_when_repeated(
    requests: int,
) -> None:
    sought = Sought()
    with pytest.raises(ConnectionLost):
        await sought.seek(server(requests=requests), EntryId(9))
    connection = server()
    await sought.seek(connection, EntryId(9))
    acked = {command[1]: command[3:] for command in sent(connection)[2:][1::2]}
    assert acked == {b"a": (raw(2), raw(3)), b"b": (raw(2), raw(3))}
    assert sought.ledger.take_next() is None
