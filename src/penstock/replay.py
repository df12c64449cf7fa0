"""Replay: reading the existing entries of a stream in a range, without a group."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable
from contextlib import aclosing
from datetime import datetime
from itertools import starmap
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from penstock._core.messages import shard_keys
from penstock._core.messages.envelope import FIELD, field_of
from penstock._core.reading.read_only import ReadOnlySettlement
from penstock._tasks.consumer_config import searches, shard_numbers
from penstock._tasks.loop_binding import LoopBinding, running_loop
from penstock._tasks.reading.replay_reader import ReplayRange, replay_pages
from penstock.codecs import Codec, codec_for, content_type_of
from penstock.credentials import Credentials, credentials_of
from penstock.durations import count
from penstock.errors import ConfigurationError
from penstock.events import OnEvent, guarded, log_event
from penstock.fields import Fields
from penstock.message import EntryId, Message
from penstock.options import EARLIEST, LATEST, Start, StartAt, place
from penstock.sharding import ShardSearch

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["Replay", "ReplayOptions", "replay"]

T = TypeVar("T")


class ReplayOptions(TypedDict, total=False):
    """The options of `replay`; see there."""

    field: str
    reverse: bool
    url: str | None
    credentials: Credentials | None
    shards: int | Iterable[int] | ShardSearch | None
    page: int
    on_event: OnEvent


class Replay(Generic[T]):
    """An iterator over past messages; created by `replay`.

    Iterate over it with `async for`, once. It has a connection from the first message
    until the last one. To leave it early, use it inside `async with`, or call
    `aclose()`; otherwise the connection is closed when Python garbage-collects the
    replay.
    """

    def __init__(self, messages: AsyncGenerator[Message[T], None], stream: str) -> None:
        self._messages = messages
        self._stream = stream
        # The event loop and thread in which the iteration was begun.
        self._binding: LoopBinding | None = None

    def _check(self) -> None:
        """Bind to this event loop at the beginning; later, refuse any other."""
        if self._binding is not None:
            self._binding.check()
        elif running_loop() is not None:
            self._binding = LoopBinding("replay")

    def __aiter__(self) -> AsyncIterator[Message[T]]:
        self._check()
        # The generator itself: a method of this class would add a call a message.
        return self._messages

    def __anext__(self) -> Awaitable[Message[T]]:
        self._check()
        return self._messages.__anext__()

    async def aclose(self) -> None:
        """Close the connection; the iteration then ends.

        Raises:
            UsageError: The replay was begun in another event loop or thread.
        """
        self._check()
        await self._messages.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<Replay of {self._stream!a:.80}>"


@overload
def replay(
    stream: str,
    start: StartAt | str = EARLIEST,
    end: StartAt | str = LATEST,
    **options: Unpack[ReplayOptions],
) -> Replay[bytes]: ...
@overload
def replay(
    stream: str,
    start: StartAt | str = EARLIEST,
    end: StartAt | str = LATEST,
    *,
    payload: type[T],
    **options: Unpack[ReplayOptions],
) -> Replay[T]: ...
@overload
def replay(
    stream: str,
    start: StartAt | str = EARLIEST,
    end: StartAt | str = LATEST,
    *,
    payload: TypeForm[T],
    **options: Unpack[ReplayOptions],
) -> Replay[T]: ...
@overload
def replay(
    stream: str,
    start: StartAt | str = EARLIEST,
    end: StartAt | str = LATEST,
    *,
    codec: Codec[T],
    **options: Unpack[ReplayOptions],
) -> Replay[T]: ...
def replay(
    stream: str,
    start: StartAt | str = EARLIEST,
    end: StartAt | str = LATEST,
    *,
    payload: Any = bytes,
    codec: Any = None,
    field: str = FIELD,
    reverse: bool = False,
    url: str | None = None,
    credentials: Credentials | None = None,
    shards: int | Iterable[int] | ShardSearch | None = None,
    page: int = 1000,
    on_event: OnEvent = log_event,
) -> Replay[Any]:
    """Read the messages that a stream has: no group, no consumer, no acknowledgements.

    Yields the messages that exist when the iteration begins, and then ends. Messages of
    all shards come in the order of their ids, and so of their times; messages with
    equal ids come in the order of the shards. Entries that are deleted before they are
    read are left out.

    A payload is decoded when it is used: `message.payload` raises `DecodeError`, which
    names stream and id, and the iteration can continue. `ack`, `nack` and `reject`
    raise `UsageError`.

    When the connection is lost, the replay continues at the same position on another
    connection, however long that takes; no message is yielded twice and none is missed.
    A cancellation, or a timeout around one message, ends the replay and closes its
    connection.

    Args:
        stream: The stream's name.
        start: The first position: `EARLIEST`, an entry id, `after(id)`, or an aware
            `datetime`.
        end: The last position, included: `LATEST`, an entry id, or an aware `datetime`,
            which includes its whole millisecond (or its microsecond, if the ids of the
            stream count nanoseconds).
        payload: The payloads' type, as for `Consumer`.
        codec: Decodes the payloads in another way; it also defines their type.
        field: The name of the field that holds the payload, as for `Consumer`; default
            `"msg"`.
        reverse: Whether to yield the newest message first. `start` stays the lower end.
        url: The server, see `Consumer`.
        credentials: Returns user and password, see `Consumer`.
        shards: The numbers of the shards to read, or how many there are; default: those
            of the stream's record, and the key of the stream's own name. `DISCOVER`
            looks for them by name, as for `Consumer`.
        page: Messages to request at once at most, from all shards together; default
            1,000. The next page is requested while the present one is being used, so
            about twice as many messages are held, and no more than a few megabytes a
            shard.
        on_event: Called with an `Event` for each thing that happens in the background;
            default: logs it to `penstock`.

    Raises:
        ConfigurationError: At once: an argument is invalid. When the iteration begins:
            the URL is wrong.
        ConnectError: When the iteration begins: the server can't be reached.
        ConnectionLost: When the iteration begins: the connection ended at once.
        AccessError: The server refuses this user.
        CommandError: A key is not a stream.

    Example:
        ```python
        balance = 0
        async for message in replay("payments", payload=Payment):
            balance += message.payload.amount
        ```
    """
    if codec is not None and payload is not bytes:
        raise ConfigurationError(
            "payload= and codec= exclude each other; leave one of them out"
        )
    if codec is None and payload is not Fields:
        codec = codec_for(payload)
    if codec is not None:
        content_type_of(codec)
    settlement = ReadOnlySettlement(codec, field_of(field))
    shard_keys.single(stream)  # raises for an invalid name
    numbers = shard_numbers(shards)
    reach = ReplayRange(
        stream=stream,
        shards=None
        if numbers is None
        else [shard_keys.numbered(stream, number) for number in numbers],
        search=searches(shards),
        low=_low(start),
        high=_high(end),
        reverse=reverse,
        page=count(page, "page"),
    )
    pages = replay_pages(url, reach, guarded(on_event), credentials_of(credentials))
    return Replay(_messages(pages, settlement), stream)


async def _messages(
    pages: AsyncGenerator[Iterable[tuple[Any, Any]], None],
    archive: ReadOnlySettlement[T],
) -> AsyncGenerator[Message[T], None]:
    async with aclosing(pages) as parts:
        async for part in parts:
            for message in starmap(archive.open, part):
                yield message


def _low(start: StartAt | str) -> EntryId | datetime:
    low = place(start, "start")
    if low is Start.LATEST:
        raise ConfigurationError(
            "start=LATEST leaves nothing to replay; pass EARLIEST, an id or a "
            "datetime, or read what is sent from now on with a Consumer"
        )
    return EntryId.MIN if isinstance(low, Start) else low


def _high(end: StartAt | str) -> EntryId | datetime:
    high = place(end, "end")
    if high is Start.EARLIEST:
        raise ConfigurationError(
            "end=EARLIEST leaves nothing to replay; pass LATEST, an id or a datetime"
        )
    return EntryId.MAX if isinstance(high, Start) else high
