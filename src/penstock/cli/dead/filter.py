"""Selection of dead letters by the options of `penstock dead`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock import ConfigurationError
from penstock.admin import DeadLetter
from penstock.admin._selection import Selection
from penstock.cli._values import bound, entry_id

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
        yes: Whether all dead letters may be selected.
    """

    stream: str
    dead_letters: str | None
    ids: Sequence[str] | None = None
    group: str | None = None
    error: str | None = None
    reason: str | None = None
    before: str | None = None
    limit: int | None = None
    yes: bool = False

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
            ConfigurationError: An option is invalid, several exclude each other, or all
                dead letters would be selected without `yes`.
        """
        by_content = (self.group, self.error, self.reason) != (None, None, None)
        filtered = by_content or self.before is not None
        if self.ids and (filtered or self.yes or self.limit is not None):
            raise ConfigurationError(
                "--id selects dead letters by id; leave out the other options, or --id"
            )
        if self.yes and filtered:
            raise ConfigurationError(
                "--yes selects all dead letters; leave it out, or leave out the other "
                "options"
            )
        if not (self.ids or filtered or self.yes):
            raise ConfigurationError(
                f"this would {call} all dead letters of {self.stream!a:.80}; pass "
                f"--yes if that is intended, or select some by --id, --group, --error "
                f"or --reason"
            )
        before = None if self.before is None else bound(self.before, "--before")
        return Selection.of(
            call,
            self.stream,
            self.dead_letters,
            ids=[entry_id(id_, "--id") for id_ in self.ids or ()] or None,
            where=self.matches if by_content else None,
            before=before,
            limit=self.limit,
        )
