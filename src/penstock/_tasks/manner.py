"""How messages are sent: in general, and as a call chooses."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from msgspec import Struct

from penstock.message import EntryId
from penstock.options import Duration, seconds
from penstock.outgoing import chosen_id
from penstock.retention import Retention, retention_of

__all__ = ["Chosen", "Manner", "choose", "timeout_of"]


class Manner(Struct, frozen=True):
    """How messages are sent unless a call says otherwise.

    Attributes:
        encode: Gives a payload's bytes.
        timeout: Seconds to the outcome at most.
        retention: How much of the stream is kept.
        special: Whether one of these two is given.
    """

    encode: Callable[[Any], bytes]
    timeout: float | None = None
    retention: Retention | None = None
    special: bool = False

    @classmethod
    def of(
        cls,
        encode: Callable[[Any], bytes],
        timeout: float | None,
        retention: Retention | None,
    ) -> Manner:
        """Make one."""
        special = timeout is not None or retention is not None
        return cls(encode, timeout, retention, special)

    def but(
        self,
        encode: Callable[[Any], bytes] | None,
        timeout: float | None,
        retention: Retention | None,
    ) -> Manner:
        """Give the same, but for what is given here."""
        return Manner.of(
            self.encode if encode is None else encode,
            self.timeout if timeout is None else timeout,
            self.retention if retention is None else retention,
        )


class Chosen(NamedTuple):
    """What is special about a message.

    Attributes:
        limit: Seconds to the outcome at most, or None.
        retention: How much of the stream is kept.
        id: Its id, or what of it the server is to choose.
        ms: Its time, if that was chosen.
    """

    limit: float | None
    retention: Retention | None
    id: bytes
    ms: int | None


def timeout_of(value: Duration | None, option: str) -> float | None:
    """Take a timeout.

    Raises:
        ConfigurationError: It is neither None nor a duration above 0.
    """
    return None if value is None else seconds(value, option, zero=False)


def choose(
    manner: Manner,
    *,
    timeout: Duration | None = None,
    retention: Retention | None = None,
    id: EntryId | str | None = None,  # noqa: A002 - as the user says it
    timestamp: datetime | int | None = None,
) -> Chosen:
    """Put together what a call chose and how its messages go anyway.

    Raises:
        ConfigurationError: Something makes no sense.
    """
    limit = manner.timeout if timeout is None else timeout_of(timeout, "timeout")
    kept = manner.retention if retention is None else retention_of(retention)
    return Chosen(limit, kept, *chosen_id(id, timestamp))
