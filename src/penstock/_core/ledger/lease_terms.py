"""Lease terms: the moments of a lease at which a consumer has to act."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LeaseTerms"]


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """The times that follow from the length of a lease.

    All of them are in seconds. They fit together: a consumer looks twice before a
    lease is due for renewal, a read that waits cannot hide an entry for longer than
    until then, and another connection can still renew a lease in time if the command
    connection has been silent for as long.

    Attributes:
        seconds: The seconds for which an entry without an outcome is this consumer's.
    """

    seconds: float

    @property
    def renew_after(self) -> float:
        """The age at which a lease is renewed."""
        return self.seconds / 3

    @property
    def ask_first_after(self) -> float:
        """The age from which the server is asked for the owner before a renewal.

        The lease may have ended before the renewal reaches the server, and then the
        renewal would take the entry back from a consumer that has claimed it.
        """
        return self.seconds * 2 / 3

    @property
    def look_every(self) -> float:
        """The time between two searches for leases to renew."""
        return self.seconds / 6

    @property
    def longest_read(self) -> float:
        """The longest time for which a read may wait for entries.

        A lease counts from when the read was sent, so entries may seem older than they
        are by as long as the read waited for them.
        """
        return self.seconds / 3

    @property
    def replace_silent_after(self) -> float:
        """The silence after which the command connection is replaced."""
        return self.seconds / 3

    @property
    def stop_reading_after(self) -> float:
        """The silence after which nothing more is read.

        The outcome of an entry that is read then may come too late.
        """
        return self.seconds * 2 / 3

    @property
    def delivery_slack(self) -> float:
        """The most by which a delivery is expected to be later than its request."""
        return self.seconds / 2
