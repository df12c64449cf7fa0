"""Where a consumer begins in a group that is there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from penstock._core.protocol.replies import ErrorReply, GroupInfo, Summary
from penstock._tasks.group import Membership, floors
from support.ledger import A
from support.scripted import ScriptedConnection

GROUPS = [GroupInfo(b"f", 1, 0, b"9-0", 0), GroupInfo(b"g", 1, 0, b"7-0", 0)]
NOTHING = Summary(0, None, None, None)
REFUSED = ErrorReply("NOPERM no")
MEMBER = cast("Membership", SimpleNamespace(group="g", name="c"))


@pytest.mark.parametrize(
    ("groups", "summary", "floor"),
    [
        (GROUPS, Summary(2, b"5-3", b"6-0", []), b"5-2"),
        (GROUPS, NOTHING, b"7-0"),
        (GROUPS[:1], NOTHING, None),
        (REFUSED, NOTHING, None),
        (GROUPS, REFUSED, None),
    ],
)
async def test_a_floor_is_below_the_lowest_pending_or_the_last_delivered(
    groups: Any, summary: Any, floor: bytes | None
) -> None:
    connection = ScriptedConnection(lambda _: [groups, summary]).for_commands
    assert await floors(connection, MEMBER, [A]) == [floor]
