"""Floors: where a consumer begins in a group that exists."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock._core.protocol.replies import ErrorReply, GroupInfo, PendingSummary
from penstock._tasks.group import Membership, floors
from support.ledger import A
from support.scripted import ScriptedConnection

GROUPS = [GroupInfo(b"f", 1, 0, b"9-0", 0), GroupInfo(b"g", 1, 0, b"7-0", 0)]
NOTHING = PendingSummary(0, None, None, None)
REFUSED = ErrorReply("NOPERM no")
MEMBER = cast("Membership", SimpleNamespace(group="g", name="c"))


@pytest.mark.parametrize(
    ("groups", "summary", "floor"),
    [
        (GROUPS, PendingSummary(2, b"5-3", b"6-0", []), b"5-2"),
        (GROUPS, NOTHING, b"7-0"),
        (GROUPS[:1], NOTHING, None),
        (REFUSED, NOTHING, None),
        (GROUPS, REFUSED, None),
    ],
)
async def test_the_floor_is_below_the_lowest_pending_entry_or_the_last_delivered_one(
    groups: Any, summary: Any, floor: bytes | None
) -> None:
    connection = ScriptedConnection(lambda _: [groups, summary]).for_commands
    assert await floors(connection, MEMBER, [A]) == [floor]
