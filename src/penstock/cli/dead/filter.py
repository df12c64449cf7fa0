"""Selection of dead letters by the options of `penstock dead`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from penstock import ConfigurationError, EntryId
from penstock.admin import DeadLetter
from penstock.admin._selection import Selection

__all__ = ["DeadLetterFilter"]


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """The options that select dead letters of a stream.

    Attributes:
        stream: The stream that the dead letters come from.
        dead_letters: The stream that holds them; None for the default.
        ids: The ids of the dead letters.
        group: The group that gave the messages up.
        error: The exception's type.
        reason: A part of the reason.
        before: A moment or an id; only older dead letters are selected.
        limit: The maximum number of dead letters.
    """

    stream: str
    dead_letters: str | None
    ids: Sequence[EntryId] | None = None
    group: str | None = None
    error: str | None = None
    reason: str | None = None
    before: EntryId | datetime | None = None
    limit: int | None = None

    @property
    def filtered(self) -> bool:
        """Whether not all dead letters are selected."""
        return self.by_content or self.before is not None or bool(self.ids)

    @property
    def by_content(self) -> bool:
        """Whether they are selected by what is in them."""
        return (self.group, self.error, self.reason) != (None, None, None)

    def matches(self, dead_letter: DeadLetter) -> bool:
        """Return whether a dead letter has the group, the error and the reason."""
        return (
            (self.group is None or dead_letter.group == self.group)
            and (self.error is None or dead_letter.error == self.error)
            and (self.reason is None or self.reason in dead_letter.reason)
        )

    def select(self, call: str) -> Selection:
        """Return the selection for `redrive` or `purge`.

        Raises:
            ConfigurationError: An option is invalid, or several exclude each other.
        """
        others = self.by_content or self.before is not None
        if self.ids and (others or self.limit is not None):
            raise ConfigurationError(
                "--id selects dead letters by id; leave out the other options, or --id"
            )
        return Selection.of(
            call,
            self.stream,
            self.dead_letters,
            ids=list(self.ids or ()) or None,
            where=self.matches if self.by_content else None,
            before=self.before,
            limit=self.limit,
        )
