"""Messages and options that users pass to the sending calls, and their outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeAlias, TypedDict, TypeVar, cast

from penstock.durations import Duration
from penstock.errors import ConfigurationError, NotDurable, SendFailed, SendUnknown
from penstock.message import EntryId, Receipt
from penstock.retention import Retention

__all__ = ["MessageOptions", "Outcome", "Outgoing", "SendOptions"]

T = TypeVar("T")

Outcome: TypeAlias = (
    Receipt | SendFailed | SendUnknown | NotDurable | ConfigurationError
)
"""The outcome of a message of `send_many`: its receipt, or its failure as a value.

A `ConfigurationError` is the outcome of a message that can't be sent at all, for
example because its payload can't be encoded.
"""


@dataclass(frozen=True, slots=True)
class Outgoing(Generic[T]):
    """A message for `send_many` that has more than a payload.

    Attributes:
        payload: The payload.
        key: Its key; default: none.
        headers: Text by name; default: none.
        id: Its id, see `MessageOptions`; default: the server chooses it.
        timestamp: The time in its id, see `MessageOptions`; default: now.

    Example:
        ```python
        async with Producer("redis://localhost") as producer:
            await producer.send_many("orders", [b"one", Outgoing(b"two", key="k")])
        ```
    """

    # Not in the `repr`, which may be logged: these may be confidential data.
    payload: T = field(repr=False)
    key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    id: EntryId | str | None = None
    timestamp: datetime | int | None = None


class SendOptions(TypedDict, total=False):
    """Options that a call may set for its messages, by keyword.

    Attributes:
        timeout: Seconds to the outcome at most; overrides the producer's
            `send_timeout`.
        retention: How much of the stream is kept; overrides the producer's.
        replicas: How many replicas must have the message before it counts as sent;
            overrides the producer's. If fewer have it when half of the connection's
            `socket_timeout` or most of the timeout is over, `NotDurable` is raised.
        durable: Whether the append-only file of the server, and of that many replicas,
            must have the message before it counts as sent; overrides the producer's.
    """

    timeout: Duration
    retention: Retention
    replicas: int
    durable: bool


class MessageOptions(SendOptions, total=False):
    """Options that a call may set for its one message, by keyword.

    Attributes:
        id: The entry's id, as `EntryId` or text; default: the server chooses it. An id
            that is not above the last one of its shard raises `SendFailed` with the
            code `ID`, and so does a timestamp before that id.
        timestamp: The time in the id, as an aware datetime or in milliseconds since
            1970; the server chooses the rest of the id. Needs Redis 7 or Valkey; on
            Redis 6.2 it raises `SendFailed` with the code `ID`. Not together with `id`.
    """

    id: EntryId | str
    timestamp: datetime | int


def own_choices(message: Outgoing[Any], choices: SendOptions) -> MessageOptions:
    """Return the options of one of many messages."""
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
    """Return an entry's id as a command argument, and its time if that was chosen.

    Raises:
        ConfigurationError: The id or the timestamp is invalid, or both are given.
    """
    if id is not None and timestamp is not None:
        raise ConfigurationError("id= includes the time; leave timestamp= out")
    if id is not None:
        place = EntryId.parse(id) if isinstance(id, str) else id
        if not isinstance(place, EntryId) or place == EntryId.MIN:
            raise ConfigurationError(
                f"id={id!r:.60} can't be the id of an entry; pass an EntryId above 0-0"
            )
        return bytes(place), place.ms
    if timestamp is not None:
        if isinstance(timestamp, datetime):
            moment = EntryId.at(timestamp)
        else:
            moment = EntryId(timestamp)
        return b"%d-*" % moment.ms, moment.ms
    return b"*", None
