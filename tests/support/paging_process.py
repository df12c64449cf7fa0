"""A member's process that recovers page by page, as the tasks do.

Before anything new is read, what is pending under the present name is listed, some
entries at a time. A page is recorded only if nothing behind it says otherwise. The
processes of `owned_world` record what their claims have returned instead, and list the
rest at once. Both are right, and the core allows both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock._core.ownership.shard_steps import READ
from penstock._core.ownership.tokens import Token
from penstock._core.protocol import commands
from penstock._core.protocol.replies import ErrorReply
from support.owned_world import GROUP, KEY, OWNER, Flight, Process, Violation, World

# Entries that a page has.
PAGE = 2


class PagingProcess(Process):
    """A process whose recovery has pages."""

    def __init__(self, world: World, name: str, run: str) -> None:
        super().__init__(world, name, run)
        self._listing = True
        self._after = b"0-0"

    def _recover_again(self) -> None:
        self._listing, self._after = True, b"0-0"

    def _list(
        self,
        token: Token,
        reader: int,
        claimed: list[bytes],
        then: Callable[[], None],
    ) -> None:
        self._recover_again()
        then()

    def _strays_claimed(self, token: Token, claimed: list[bytes]) -> None:
        self.batch = []
        self._recover_again()
        self.act(self.shard.strays_recorded(token))

    def can_read(self) -> bool:
        return super().can_read() and not self.reading

    def read(self) -> None:
        if self._listing:
            self._read_page()
        else:
            super().read()

    def _read_page(self) -> None:
        token, turn = self.shard.token, self.shard.turn

        def answered(replies: list[Any]) -> None:
            page, current, summary = replies
            if isinstance(page, ErrorReply):
                raise Violation(page.text)
            holders = [name for name, _ in summary.holders or []]
            actions = self.shard.page_answered(token, current or b"", holders, self.now)
            self.act(actions)
            valid = (token, turn) == (self.shard.token, self.shard.turn)
            if not actions and valid and self.shard.state in READ:
                self.record([entry.id for entry in page])
                self._listing = len(page) == PAGE
                self._after = page[-1].id if page else b"0-0"

        name = self.shard.consumer
        words = [
            commands.xpending_page(KEY, GROUP, name, self._after, PAGE),
            commands.hget(OWNER, b"token"),
            commands.xpending_summary(KEY, GROUP),
        ]
        lost = self._recover_again
        flight = Flight(self, token, False, words, answered, lost, lists=True)  # noqa: FBT003
        self.reading.append(flight)


class PagingWorld(World):
    """A world of such processes."""

    process_class = PagingProcess
