"""Messages and options that users pass to the sending calls, and their outcomes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Generic, TypeAlias, TypedDict, TypeVar, cast

from penstock.durations import Duration
from penstock.errors import ConfigurationError, NotDurable, SendFailed, SendUnknown
from penstock.message import EntryId, Receipt
from penstock.retention import Retention

__all__ = [
    "ManyMessages",
    "MessageOptions",
    "OnOutcome",
    "OnSend",
    "Outcome",
    "Outgoing",
    "SendOptions",
]

T = TypeVar("T")

_set: Final = object.__setattr__

Outcome: TypeAlias = (
    Receipt | SendFailed | SendUnknown | NotDurable | ConfigurationError
)
"""The outcome of a message of `send_many`: its receipt, or its failure as a value.

A `ConfigurationError` is the outcome of a message that can't be sent at all, for
example because its payload can't be encoded.
"""


class ManyMessages:
    """The messages of one `send_many`, as functions of `on_send=` see them.

    Attributes:
        count: How many messages have been taken so far.
    """

    __slots__ = ("_on_end", "count")

    def __init__(self) -> None:
        self.count = 0
        self._on_end: list[Callable[[], object]] = []

    def on_end(self, function: Callable[[], object]) -> None:
        """Have a function called when all messages have an outcome.

        It is also called when the caller gives up before that. It must not raise.
        """
        self._on_end.append(function)

    def ended(self) -> None:
        """Call these functions."""
        while self._on_end:
            self._on_end.pop()()


@dataclass(frozen=True, slots=True, init=False)
class Outgoing(Generic[T]):
    """A message that is to be sent.

    Users create it for `send_many`, if a message has more than a payload. The functions
    of `on_send=` receive one for each message.

    Attributes:
        payload: The payload.
        key: Its key; default: none.
        headers: Text by name; default: none. They are copied, so that functions of
            `on_send=` may add to them.
        id: Its id, see `MessageOptions`; default: the server chooses it.
        timestamp: The time in its id, see `MessageOptions`; default: now.
        stream: The stream's name, in functions of `on_send=`; otherwise empty.
        many: The messages among which it is sent, in functions of `on_send=`; None if
            it is not sent by `send_many`.
        server: The server's host, or the path of its socket, and its port, which is 0
            for a socket; in functions of `on_send=`, if a server is known.

    Example:
        ```python
        async with Producer("redis://localhost") as producer:
            await producer.send_many("orders", [b"one", Outgoing(b"two", key="k")])
        ```
    """

    # Not in the `repr`, which may be logged: these may be confidential data.
    payload: T = field(repr=False)
    key: str | None = field(default=None, repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    id: EntryId | str | None = None
    timestamp: datetime | int | None = None
    stream: str = field(default="", repr=False)
    many: ManyMessages | None = field(default=None, repr=False, compare=False)
    server: tuple[str, int] | None = field(default=None, repr=False, compare=False)

    def __init__(
        self,
        payload: T,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: EntryId | str | None = None,  # noqa: A002 - as `Message.id`
        timestamp: datetime | int | None = None,
        *,
        stream: str = "",
        many: ManyMessages | None = None,
        server: tuple[str, int] | None = None,
    ) -> None:
        own: Any = {}
        if headers is not None:
            # What is no mapping is refused when the message is packed.
            own = dict(headers) if isinstance(headers, Mapping) else headers
        _set(self, "payload", payload)
        _set(self, "key", key)
        _set(self, "headers", own)
        _set(self, "id", id)
        _set(self, "timestamp", timestamp)
        _set(self, "stream", stream)
        _set(self, "many", many)
        _set(self, "server", server)


OnOutcome: TypeAlias = Callable[[Receipt | Exception], None]
"""Called with the receipt of a message, or with the exception why there is none."""

OnSend: TypeAlias = Callable[[Outgoing[Any]], OnOutcome | None]
"""Called with each message before it is encoded; may return what hears its outcome.

It runs in the caller's task, so it sees the caller's context variables, and it must not
be async. It may add to the message's `headers`, and must change nothing else. An
exception that it raises is reported (`on_send_failed`), and the message is sent without
the headers that this function has added.
"""


def hooks_of(on_send: Iterable[OnSend]) -> tuple[OnSend, ...]:
    """Check functions of `on_send=`, and return them as a tuple.

    Raises:
        ConfigurationError: It is not a list, or one can't be called or is async.
    """
    if callable(on_send):
        raise ConfigurationError("on_send= takes a list; write on_send=[...]")
    found = tuple(on_send)
    for hook in found:
        functions = (hook, getattr(hook, "__call__", None))  # noqa: B004
        if not callable(hook) or any(map(inspect.iscoroutinefunction, functions)):
            raise ConfigurationError(
                f"on_send= can't call {hook!r:.60}; pass functions of an Outgoing that "
                f"are not async"
            )
    return found


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
