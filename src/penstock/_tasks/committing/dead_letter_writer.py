"""Dead-letter writer: copies failed entries to the dead letters, and acknowledges."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from penstock import _clock
from penstock._connection.command_connection import CommandConnection
from penstock._core.backoff import ReconnectBackoff
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.failure_policy import DeadLettered
from penstock._core.ledger.ledger import Ledger
from penstock._core.ledger.states import TO_DEAD_LETTER
from penstock._core.messages import dead_letter
from penstock._core.protocol import commands, dead_letter_scripts
from penstock._core.protocol.fencing import Fence
from penstock._core.protocol.ownership_replies import Fenced
from penstock._core.protocol.replies import ErrorKind, ErrorReply
from penstock._core.protocol.trimming import trim_arguments
from penstock._tasks.fencing import SHARED, Fencing
from penstock._tasks.group import Membership
from penstock._tasks.handling.failures import wall_clock
from penstock._tasks.unbounded_streams import UnboundedStreams
from penstock.errors import ConnectionLost
from penstock.events import Event, OnEvent
from penstock.retention import Retention

__all__ = ["DeadLetterWriter"]

# The most dead letters of one write, which contains their bodies.
_BATCH: Final = 100
# The most words of a dead letter that are sure to fit on Lua's stack of 8,000.
_UNPACK_LIMIT: Final = 7000


class _Letter(NamedTuple):
    """A dead letter to be written.

    Attributes:
        entry: The entry.
        owner: What its outcome is compared with; None if the shard is shared.
        fields: The fields of the dead letter.
    """

    entry: Entry
    owner: Fence | None
    fields: list[bytes]

    @property
    def is_large(self) -> bool:
        """Whether it has too many fields for a script."""
        return len(self.fields) > _UNPACK_LIMIT

    @property
    def is_unfenced(self) -> bool:
        """Whether its copy can't be compared with the owner's token in one step."""
        return self.owner is not None and self.is_large


class DeadLetterWriter:
    """Writes dead letters.

    A script copies and acknowledges an entry in one step, if the entry is still pending
    for this consumer. So there is one dead letter, however often the script has to be
    sent. Where the server refuses the script, the copy is written first, and the entry
    is acknowledged when the copy is confirmed. Then a crash in between leads to a
    second dead letter.

    Where the shard is owned, the script compares the owner's token first. There is no
    other way then, except for entries with too many fields for a script: for these the
    token is compared one round trip before the copy, and with the acknowledgement.

    Args:
        connection: The command connection.
        ledger: The consumer's ledger, which has the entries.
        member: The consumer's place in the group.
        name: The name of the dead letters' stream. `{stream}` in it is replaced by the
            entry's stream.
        retention: How much of that stream is kept; None keeps everything.
        send_lock: Held from when dead letters are taken until their replies.
        on_event: Receives refusals, and a report of a stream that nothing bounds.
        fencing: What outcomes are compared with, where shards are owned.
        on_written: Called with each entry that has left its shard, and the id of its
            letter; it is empty if another consumer, or an earlier write, has written
            the letter.
    """

    def __init__(
        self,
        connection: CommandConnection,
        ledger: Ledger,
        member: Membership,
        name: str,
        *,
        retention: Retention | None,
        send_lock: asyncio.Lock,
        on_event: OnEvent,
        fencing: Fencing = SHARED,
        on_written: Callable[[Entry, bytes], None] = lambda *_: None,
    ) -> None:
        self._connection = connection
        self._ledger = ledger
        self._member = member
        self._name = name
        self._retention = retention
        self._unbounded = UnboundedStreams(on_event, "dead_letter_retention")
        self._send_lock = send_lock
        self._on_event = on_event
        self._fencing = fencing
        self._on_written = on_written
        self._backoff = ReconnectBackoff()
        self._may_script = True
        # Whether this round has written copies of entries that are still pending.
        self._copied = False
        # Entries that were sent before, and whose reply was lost.
        self._unanswered: set[Entry] = set()
        # The time when refused dead letters are sent again.
        self._retry_at = 0.0

    def due_in(self) -> float | None:
        """Return the seconds until a dead letter can be sent; None without any."""
        if not self._ledger.acks.dead_lettering:
            return None
        return max(0.0, self._retry_at - _clock.monotonic())

    async def round(self) -> bool:
        """Write the dead letters that wait, unless a refusal is too recent.

        Returns:
            Whether there are copies of entries that are not acknowledged yet.

        Raises:
            ConnectionLost: The connection ended before the replies.
        """
        self._copied = False
        while self.due_in() == 0.0:
            async with self._send_lock:
                dead = self._ledger.acks.dead_letters_to_send(_BATCH)
                if not dead:
                    break  # all of them have been sent
                await self._write(dead)
        return self._copied

    async def _write(self, dead: Sequence[Entry]) -> None:
        letters = [
            _Letter(entry, self._fencing.find(entry), self._dead_letter(entry))
            for entry in dead
        ]
        try:
            letters = await self._still_owned(letters)
            answers = await self._connection.calls([*map(self._command, letters)])
        except ConnectionLost:
            for letter in letters:
                self._ledger.dead_letter_unconfirmed(letter.entry)
            sent = self._unanswered.union(letter.entry for letter in letters)
            # The other entries have been lost or released meanwhile.
            self._unanswered = {
                entry for entry in sent if entry.state is TO_DEAD_LETTER
            }
            raise
        refused: ErrorReply | None = None
        for (entry, owner, _), reply in zip(letters, answers, strict=True):
            if not isinstance(reply, ErrorReply):
                self._done(entry, reply)
                continue
            self._ledger.dead_letter_unconfirmed(entry)
            if self._may_script and owner is None and _no_scripts(reply):
                self._may_script = False
            else:
                refused = reply
        if refused is None:
            self._backoff.progress()
            return
        self._retry_at = _clock.monotonic() + self._backoff.failed(0.5)
        facts = {"messages": self._ledger.acks.dead_lettering, "reply": refused.text}
        self._on_event(Event("dead_letters_refused", logging.ERROR, facts))

    async def _still_owned(self, letters: list[_Letter]) -> list[_Letter]:
        """Return the letters without those whose copy would be a former owner's.

        Only those are looked at that the script can't write. A process that stood still
        may have lost its shard long ago.
        """
        asked = {letter.owner for letter in letters if letter.is_unfenced}
        owners = [owner for owner in asked if owner is not None]
        if not owners:
            return letters
        tokens = await self._connection.calls(
            [commands.hget(owner.key, b"token") for owner in owners]
        )
        current = dict(zip(owners, tokens, strict=True))
        kept: list[_Letter] = []
        for letter in letters:
            token = current.get(letter.owner) if letter.owner else None
            own = letter.owner is None or token == letter.owner.token
            if not letter.is_unfenced or own or isinstance(token, ErrorReply):
                kept.append(letter)
            else:
                self._fenced(letter.entry, Fenced(token or b""))
        return kept

    def _fenced(self, entry: Entry, reply: Fenced) -> None:
        self._unanswered.discard(entry)
        self._ledger.fenced(entry)
        self._fencing.on_fenced(entry, reply)

    def _done(self, entry: Entry, reply: Any) -> None:
        repeated = entry in self._unanswered
        self._unanswered.discard(entry)
        if isinstance(reply, Fenced):
            self._fenced(entry, reply)
            return
        acked, letter = reply if isinstance(reply, tuple) else (reply, b"")
        if isinstance(acked, int):
            # An entry that is not pending after a lost reply: most likely the command
            # of that reply has acknowledged it.
            self._ledger.dead_letter_confirmed(entry, ours=bool(acked) or repeated)
        else:
            letter = acked
            self._ledger.dead_letter_written(entry)
            self._copied = True
        self._on_written(entry, letter)

    def _command(self, letter: _Letter) -> commands.Command:
        (entry, owner, fields), member = letter, self._member
        stream = self._name.replace("{stream}", entry.shard.stream)
        self._unbounded.check(stream, self._retention)
        to = stream.encode()
        trim = trim_arguments(self._retention, int(_clock.wall() * 1000))
        may_script = self._may_script or owner is not None
        if not may_script or letter.is_large:
            return commands.xadd(to, fields, trim=trim)
        return dead_letter_scripts.send_dead_letter(
            entry.shard.key,
            member.group,
            member.name,
            entry.id,
            dead=to,
            fields=fields,
            trim=trim,
            owner=owner,
        )

    def _dead_letter(self, entry: Entry) -> list[bytes]:
        disposition = entry.disposition
        assert isinstance(disposition, DeadLettered)  # noqa: S101 - true in this state
        return dead_letter.write(
            entry.fields,
            dead_letter.Origin(
                shard=entry.shard,
                id=entry.id.decode(),
                group=self._member.group,
                consumer=self._member.name,
                attempts=entry.deliveries - (not disposition.started),
                reason=disposition.reason,
                error=disposition.error,
                traceback=disposition.traceback,
                time=wall_clock(),
            ),
        )


def _no_scripts(reply: ErrorReply) -> bool:
    """Return whether the server refuses scripts, and not this dead letter."""
    return reply.kind is ErrorKind.FATAL
