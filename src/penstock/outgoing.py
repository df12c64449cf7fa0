"""What a user hands over to be sent, beside the bare payload; and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeAlias, TypedDict, TypeVar, cast

from penstock.errors import ConfigurationError, NotDurable, SendFailed, SendUnknown
from penstock.message import EntryId, Receipt
from penstock.options import Duration
from penstock.retention import Retention

__all__ = ["MessageOptions", "Outcome", "Outgoing", "SendOptions"]

T = TypeVar("T")

Outcome: TypeAlias = (
    Receipt | SendFailed | SendUnknown | NotDurable | ConfigurationError
)
"""What `send_many` gives for a message: its receipt, or its failure as a value.

A `ConfigurationError` is the outcome of what can't be sent at all, for example of a
payload that can't be encoded.
"""


@dataclass(frozen=True, slots=True)
class Outgoing(Generic[T]):
    """A message for `send_many`, where a payload alone does not say it all.

    Attributes:
        payload: What to send.
        key: What it belongs to; default: nothing.
        headers: Text by name; default: none.
        id: Its id, see `MessageOptions`; default: the server's choice.
        timestamp: Its id's time, see `MessageOptions`; default: now.

    Example:
        ```python
        async with Producer("redis://localhost") as producer:
            await producer.send_many("orders", [b"one", Outgoing(b"two", key="k")])
        ```
    """

    # Neither is for a log: they may be anybody's data.
    payload: T = field(repr=False)
    key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    id: EntryId | str | None = None
    timestamp: datetime | int | None = None


class SendOptions(TypedDict, total=False):
    """What a call may choose for its messages, by keyword.

    Attributes:
        timeout: Seconds to the outcome at most, in place of the producer's
            `send_timeout`.
        retention: How much of the stream is kept, in place of the producer's.
        replicas: How many replicas must have it before it counts as sent, in place of
            the producer's; with fewer when half of the connection's `socket_timeout`
            or most of the timeout is over, it raises `NotDurable`.
        durable: Whether the append-only file of the server, and of so many replicas,
            must have it before it counts as sent, in place of the producer's.
    """

    timeout: Duration
    retention: Retention
    replicas: int
    durable: bool


class MessageOptions(SendOptions, total=False):
    """What a call may choose for its one message, by keyword.

    Attributes:
        id: The entry's id, as `EntryId` or text; default: the server's choice. One
            that is not above the last one of its shard raises `SendFailed` with the
            code `ID`, and so does a time before it.
        timestamp: The id's time, as an aware datetime or in milliseconds since 1970;
            the server chooses the rest of the id. Needs Redis 7 or Valkey; on Redis
            6.2 it raises `SendFailed` with the code `ID`. Not together with `id`.
    """

    id: EntryId | str
    timestamp: datetime | int


def own_choices(message: Outgoing[Any], choices: SendOptions) -> MessageOptions:
    """Give what is chosen for one of many."""
    own = cast("MessageOptions", dict(choices))
    if message.id is not None:
        own["id"] = message.id
    if message.timestamp is not None:
        own["timestamp"] = message.timestamp
    return own


def chosen_id(
    id: EntryId | str | None,  # noqa: A002 - what it is
    timestamp: datetime | int | None,
) -> tuple[bytes, int | None]:
    """Give an entry's id as a word, and its time if that was chosen.

    Raises:
        ConfigurationError: It is no id, or no moment, or both are given.
    """
    if id is not None and timestamp is not None:
        raise ConfigurationError("id= says the time too; leave timestamp= out")
    if id is not None:
        place = EntryId.parse(id) if isinstance(id, str) else id
        if not isinstance(place, EntryId) or place == EntryId.MIN:
            raise ConfigurationError(
                f"id={id!r:.60} can't be an entry's; give an EntryId above 0-0"
            )
        return bytes(place), place.ms
    if timestamp is not None:
        if isinstance(timestamp, datetime):
            moment = EntryId.at(timestamp)
        else:
            moment = EntryId(timestamp)
        return b"%d-*" % moment.ms, moment.ms
    return b"*", None
