"""Which dead letters a command line means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from penstock import ConfigurationError, EntryId
from penstock.admin import DeadLetter
from penstock.cli._values import bound

__all__ = ["DeadLetterFilter"]


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """What was said of the letters that are meant.

    Attributes:
        ids: Their ids.
        group: The group that gave them up.
        error: The exception's type.
        reason: A part of the reason.
        before: They came before a moment or an id.
    """

    ids: Sequence[str] = ()
    group: str | None = None
    error: str | None = None
    reason: str | None = None
    before: str | None = None

    @property
    def filters(self) -> bool:
        """Whether anything was said of what is in them."""
        return (self.group, self.error, self.reason) != (None, None, None)

    @property
    def bound(self) -> datetime | EntryId | None:
        """The moment, or the id.

        Raises:
            ConfigurationError: It is neither.
        """
        return None if self.before is None else bound(self.before, "a letter's")

    def fits(self, letter: DeadLetter) -> bool:
        """Whether a letter is meant, by what is in it."""
        return (
            (self.group is None or letter.group == self.group)
            and (self.error is None or letter.error == self.error)
            and (self.reason is None or self.reason in letter.reason)
        )

    def check(self, deed: str, stream: str, *, yes: bool, limit: int | None) -> None:
        """Make sure that it is clear what is meant.

        Args:
            deed: What is to be done to the letters.
            stream: The stream.
            yes: Whether all may be meant.
            limit: How many at most.

        Raises:
            ConfigurationError: It is not.
        """
        chosen = self.filters or self.before is not None
        if self.ids and (chosen or yes or limit is not None):
            raise ConfigurationError(
                "--id says which letters; leave out the other choices, or --id"
            )
        if yes and chosen:
            raise ConfigurationError(
                "--yes means all letters; leave it out, or the other choices"
            )
        if not (self.ids or chosen or yes):
            raise ConfigurationError(
                f"this {deed} all dead letters of {stream!a:.80}; say --yes if that is "
                f"what you want, or which ones by --id, --group, --error or --reason"
            )
