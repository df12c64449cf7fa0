"""What a takeover makes of entries that are acknowledged while it is under way."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conftest import Events
from core.test_ledger import A, Books, raw, the
from penstock._core.commands import Command
from penstock._core.cursor import Cursor
from penstock._link.link import Line
from penstock._tasks.intake import Intake
from penstock._tasks.leases import Claimer
from penstock._tasks.membership import Membership


class Confirms:
    """A connection on which a takeover overtakes an acknowledgement of ours."""

    def __init__(self, books: Books, *, confirms: bool) -> None:
        self._books = books
        self._batch = the(books.plan())
        self._confirms = confirms

    async def calls(self, batch: Sequence[Command]) -> list[Any]:
        if batch[0][0] == b"XAUTOCLAIM":
            return [[b"0-0", [raw(1), raw(2)], []]]
        if self._confirms:
            self._books.committed(self._batch)
        fields = [b"msg", b"x"]
        return [[], [[raw(1), fields]], [[raw(2), fields]]]


@pytest.mark.parametrize("confirms", [True, False])
async def test_what_is_confirmed_before_it_is_booked_is_done(
    events: Events, *, confirms: bool
) -> None:
    """The server stood still for a lease, and then did the one before the other."""
    books = Books()
    books.read(1)
    entry = books.started()
    books.finish(entry, ack=True)
    member = SimpleNamespace(group="g", name="c")
    claimer = Claimer(
        cast("Line", Confirms(books, confirms=confirms)),
        ledger=books,
        intake=cast("Intake", SimpleNamespace(arrived=lambda _: None)),
        member=cast("Membership", member),
        cursor=cast("Cursor", SimpleNamespace(shards=[A])),
        lease=1.0,
        interval=1.0,
        on_event=events,
    )
    await claimer._search(A)
    assert books.started().id == raw(2)
    assert books.next() is None
