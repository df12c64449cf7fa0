"""The consumer: the class with which users receive messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from penstock._core.handling.signature import check_handler
from penstock._core.messages import shard_keys
from penstock._core.messages.envelope import FIELD, field_of
from penstock._tasks.attempt_meter import AttemptMeter
from penstock._tasks.consumer_config import (
    ConsumerConfig,
    auto_commit_of,
    check_kinds,
    check_streams,
    dead_letter_stream_of,
    membership,
    mode_of,
    retry_of,
    searches,
    shard_numbers,
)
from penstock._tasks.handling.callers import current_caller
from penstock._tasks.handling.checkouts import Checkouts
from penstock._tasks.handling.iteration import BatchLoop, Loop
from penstock._tasks.handling.receiving import next_message, take_messages
from penstock._tasks.handling.worker_pool import RunOptions
from penstock._tasks.lifetime import Live
from penstock._tasks.openable import Openable
from penstock._tasks.ownership_config import ownership_of
from penstock._tasks.session import Session, open_session
from penstock.codecs import Codec, codec_for, content_type_of
from penstock.credentials import Credentials, credentials_of
from penstock.durations import Duration, count, seconds
from penstock.errors import ClosedError, ConfigurationError, ConnectionLost
from penstock.events import OnEvent, guarded, log_event
from penstock.fields import Fields
from penstock.message import EntryId, Message, Shard
from penstock.middleware import Middleware, checked
from penstock.options import (
    MAX_MESSAGE_BYTES,
    AutoCommit,
    Batch,
    Claim,
    Commit,
    Mode,
    OnShards,
    Ordering,
    Owned,
    Ownership,
    Prefetch,
    Start,
    StartAt,
    choice,
    place,
)
from penstock.outgoing import OnSend, hooks_of
from penstock.retention import Retention, retention_of
from penstock.retries import DeadLetters, Retry
from penstock.sharding import ShardSearch
from penstock.statistics import Statistics

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["Consumer"]

T = TypeVar("T")


class Options(TypedDict, total=False):
    """The keyword options of a consumer; see `Consumer` for their meaning."""

    url: str | None
    credentials: Credentials | None
    group: str | None
    name: str | None
    mode: Mode | str | None
    start: StartAt | str | None
    shards: int | Iterable[int] | ShardSearch | None
    field: str
    auto_commit: AutoCommit | str
    prefetch: Prefetch
    max_message_bytes: int
    commit: Commit
    claim: Claim
    retry: Retry | None
    dead_letters: DeadLetters | str | None
    dead_letter_retention: Retention | None
    middleware: Iterable[Middleware[Any]]
    mkstream: bool
    ownership: Owned | Ownership | str
    on_assigned: OnShards | None
    on_revoked: OnShards | None
    on_lost: OnShards | None
    open_timeout: Duration
    close_timeout: Duration
    on_event: OnEvent
    on_send: Iterable[OnSend]


class Consumer(Openable[Session[T]], Generic[T]):
    """Receives the messages of one or more streams.

    Open it with `async with`, or with `start` and `aclose`, which any task of the event
    loop may call. Opening returns once the position is fixed, so the consumer sees
    everything that is sent afterwards. One background task reads ahead into a bounded
    queue, and another sends the outcomes to the server, so reading, handling and
    acknowledging never wait for each other.

    Leaving it stops reading, lets started handlers finish, sends every outcome, and
    releases the messages that were not handled, so that other consumers can have them
    at once. The messages that the leaving task has received from `next`, `take` or a
    loop count as processed, unless the task leaves by an exception or by cancellation.
    Messages that other tasks have received count as processed only if those tasks have
    come back for the next one.

    Once the consumer has closed, every call raises `ClosedError`. Calls that receive
    messages or change what is read raise it as soon as closing has begun; `commit`,
    `lag` and `statistics` work until it has closed. Loops and a `run` that are in
    progress then end normally.

    Calls from another event loop or thread than the one that opened the consumer raise
    `UsageError` before they do anything; only `statistics` and `shards` may be used
    there. See docs/how-to/shutting-down.md.

    Args:
        *streams: The streams' names.
        url: `redis://`, `rediss://` or `unix://` with user, password and database, or
            `embedded://`; default: the environment's `REDIS_URL`.
        credentials: Returns user and password, for each new connection: a
            `CredentialProvider` of redis-py, or an async function that returns
            `(user, password)` or a password; default: those of the URL. See
            docs/how-to/security.md.
        group: The consumer group. LOAD_BALANCED needs one; RESUMABLE has `<host id>:r`
            by default, see `penstock.identity`.
        name: This consumer's name in the group; default: a unique one, in RESUMABLE the
            group's. With a fixed name, a restarted consumer continues with the messages
            that it had not acknowledged.
        mode: `LOAD_BALANCED`, `RESUMABLE` or `REALTIME`, see `Mode`; default:
            `LOAD_BALANCED` if a group is named, else `REALTIME`.
        start: Where a new group begins, or this REALTIME consumer: `EARLIEST`,
            `LATEST`, an entry id (that entry is included) or an aware `datetime`.
            Default: `EARLIEST` in a group, `LATEST` without.
        shards: Which shards of each stream are read: their number, or an iterable of
            shard numbers. Default: all that the stream's record names (see
            `ShardRecord`), and the key of the stream's own name if it exists; shards
            that are added later are read within a few seconds. Without a record, only
            the key of the stream's own name is read. `DISCOVER` looks for shards by
            name instead, for streams that SeaStreamer spreads.
        payload: The payload's type: `bytes` (default), `str`, `Fields` for the whole
            entry, or any type that msgspec or pydantic decodes and validates from JSON.
        codec: Decodes payloads in another way, see `Codec`.
        field: The name of the entry's field that holds the payload; default `"msg"`,
            which Penstock and SeaStreamer write. Name another one for streams of other
            programs. All other fields, except `key`, are headers.
        auto_commit: Who acknowledges messages, and when, see `AutoCommit`; default
            `PROCESSED`.
        prefetch: How many messages the consumer holds, see `Prefetch`.
        max_message_bytes: Bytes of one message at most, counting all its fields;
            default 64 MiB. A larger message is not decoded. It goes to the dead letters
            as if it were not of the payload's type; where there are no dead letters, it
            is skipped and reported. The message has been read by then, so the limit
            saves the cost of decoding it, not its own memory.
        commit: When outcomes are sent, see `Commit`.
        claim: The lease, see `Claim`.
        retry: How often, and when, a message whose handler failed is tried again, see
            `Retry`. Not in REALTIME, nor where Penstock acknowledges by time or on
            delivery: there a failure is only reported.
        dead_letters: The stream to which a message goes when it is given up: after its
            last attempt, on `reject`, or because it is not of the payload's type.
            Default `"{stream}.dead"`, where `{stream}` is the message's stream. `DROP`
            acknowledges the message instead, `STOP` ends the consumer with `GaveUp`.
        dead_letter_retention: How much of that stream is kept: `MaxLen(n)` or
            `MaxAge(age)`; older letters are deleted as new ones come. Default:
            everything, and `unbounded_stream` is reported with the first letter.
            `KEEP_ALL` says that everything is kept on purpose.
        middleware: Wraps every call of a handler of `run`, the outermost first, see
            `Middleware`.
        mkstream: Whether a missing stream is created, empty; default True. With False,
            opening raises `StreamMissing`.
        ownership: `"shared"` (default): any consumer of the group gets the next message
            of a shard. `"owned"`, or `Owned(...)`: each shard is read by one consumer
            of the group at a time, so that `ordering="key"` and `"shard"` hold across
            processes. See docs/explanation/owned-shards.md. A consumer with a `name`
            keeps its place for a lease after closing: back within that time, under the
            same name, it has the same shards. Needs scripts, a group, and
            acknowledgements after the handler. `"auto"`: owned if the streams have
            several shards.
        on_assigned: An async function that is called with the shards that this consumer
            owns from now on, before their first message is handed out. If it raises,
            these shards are given up for a lease. The three functions are never called
            at the same time.
        on_revoked: The same for shards that are given up, when all outcomes are on the
            server and before another consumer can have the shards.
        on_lost: The same for shards that another consumer has taken, because this
            process stood still for longer than the lease, for example.
        open_timeout: Seconds for which opening retries while no connection can be made,
            or while the server refuses for a reason that may pass: it is loading its
            data, has no memory left, or is a replica. Default 0: one try.
        close_timeout: Seconds that leaving may take in total, also with a server that
            does not answer; default 10. After three quarters of it, or 2 seconds before
            its end if that is later, handlers are cancelled and their messages
            released. The rest of the time is for dead letters, for outcomes, and for
            releasing the messages that were not handled. Whatever the server has not
            confirmed by the end is reported (`close_incomplete`, `not_given_back`), and
            connections are aborted. With less than 0.25, 0 included, leaving takes up
            to 0.25 seconds if the server needs them.
        on_event: Called with an `Event` for each thing that happens in the background;
            default: logs it to `penstock`.
        on_send: Functions that are called with each message of a transaction before it
            is encoded, as those of `Producer`.

    Raises:
        ConfigurationError: On construction: an option is invalid. On opening: the URL
            is wrong.
        ConnectError: On opening: the server can't be reached.
        AccessError: On opening, or from reading: the server refuses this user.
        CommandError: On opening, or from reading: the server refuses a stream, for
            example because its key is of another type.

    Example:
        ```python
        async with Consumer("orders", group="billing") as consumer:
            async for message in consumer:
                bill(message.payload)
        ```
    """

    @overload
    def __init__(
        self: Consumer[bytes], *streams: str, **options: Unpack[Options]
    ) -> None: ...

    @overload
    def __init__(
        self, *streams: str, payload: type[T], **options: Unpack[Options]
    ) -> None: ...

    # `Cat | Dog`, `Optional[Cat]` and `Annotated[Cat, ...]` are no `type[...]`.
    @overload
    def __init__(
        self, *streams: str, payload: TypeForm[T], **options: Unpack[Options]
    ) -> None: ...

    @overload
    def __init__(
        self, *streams: str, codec: Codec[T], **options: Unpack[Options]
    ) -> None: ...

    def __init__(
        self,
        *streams: str,
        url: str | None = None,
        credentials: Credentials | None = None,
        group: str | None = None,
        name: str | None = None,
        mode: Mode | str | None = None,
        start: StartAt | str | None = None,
        shards: int | Iterable[int] | ShardSearch | None = None,
        payload: Any = bytes,
        codec: Any = None,
        field: str = FIELD,
        auto_commit: AutoCommit | str = AutoCommit.PROCESSED,
        prefetch: Prefetch = Prefetch(),
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        commit: Commit = Commit(),
        claim: Claim = Claim(),
        retry: Retry | None = None,
        dead_letters: DeadLetters | str | None = None,
        dead_letter_retention: Retention | None = None,
        middleware: Iterable[Middleware[Any]] = (),
        mkstream: bool = True,
        ownership: Owned | Ownership | str = Ownership.SHARED,
        on_assigned: OnShards | None = None,
        on_revoked: OnShards | None = None,
        on_lost: OnShards | None = None,
        open_timeout: Duration = 0,
        close_timeout: Duration = 10,
        on_event: OnEvent = log_event,
        on_send: Iterable[OnSend] = (),
    ) -> None:
        keys = {shard_keys.single(stream).key for stream in streams}
        if not keys or len(keys) < len(streams):
            raise ConfigurationError(
                "name at least one stream, and each one once: Consumer('orders', ...)"
            )
        check_streams(streams)
        check_kinds(
            prefetch=(prefetch, Prefetch),
            commit=(commit, Commit),
            claim=(claim, Claim),
            retry=(retry or Retry(), Retry),
        )
        mode = mode_of(mode, group)
        policy = auto_commit_of(auto_commit, mode)
        member = membership(
            mode,
            group,
            name,
            mkstream=mkstream,
            noack=policy is AutoCommit.IMMEDIATE,
        )
        if start is None:
            start = Start.LATEST if member is None else Start.EARLIEST
        if codec is None and payload is not Fields:
            codec = codec_for(payload)
        if codec is not None:
            content_type_of(codec)
        owned = ownership_of(
            ownership,
            mode=mode,
            policy=policy,
            name=name,
            claim=claim,
            picks_shards=shards is not None and shard_numbers(shards) is not None,
            callbacks={
                "on_assigned": on_assigned,
                "on_revoked": on_revoked,
                "on_lost": on_lost,
            },
        )
        dead_stream, dead_letter_policy = dead_letter_stream_of(dead_letters, streams)
        meter = AttemptMeter()
        self._config: ConsumerConfig[T] = ConsumerConfig(
            url=url,
            streams=streams,
            numbers=shard_numbers(shards),
            search=searches(shards),
            mode=mode,
            member=member,
            start=place(start, "start"),
            codec=codec,
            payload_field=field_of(field),
            policy=policy,
            prefetch=prefetch,
            max_message_bytes=count(max_message_bytes, "max_message_bytes"),
            max_wait=seconds(prefetch.max_wait, "Prefetch(max_wait)"),
            commit_interval=seconds(commit.interval, "Commit(interval)"),
            commit_max_pending=commit.max_pending,
            commit_delay=seconds(commit.delay, "Commit(delay)"),
            lease=seconds(claim.idle, "Claim(idle)"),
            claim_interval=None
            if claim.interval is None
            else seconds(claim.interval, "Claim(interval)"),
            retry=retry_of(retry, mode, policy),
            dead_letter_policy=dead_letter_policy,
            dead_letters=dead_stream,
            dead_letter_retention=retention_of(dead_letter_retention),
            middleware=checked(middleware),
            open_timeout=seconds(open_timeout, "open_timeout"),
            close_timeout=seconds(close_timeout, "close_timeout"),
            on_event=meter.events.counting(guarded(on_event)),
            credentials=credentials_of(credentials),
            ownership=owned,
            meter=meter,
            on_send=hooks_of(on_send),
        )

    def _opener(self) -> Live[Session[T]]:
        return partial(open_session, self._config)

    def _shut(self) -> None:
        if self._session is not None:
            self._session.gate.close()

    def _closes_later(self) -> bool:
        lifetime, session = self._lifetime, self._session
        if lifetime is None or session is None:
            return False
        return session.close_when_idle(lifetime.request_close)

    @property
    def group(self) -> str | None:
        """The group's name; None in REALTIME."""
        return self._config.member.group if self._config.member else None

    @property
    def name(self) -> str | None:
        """This consumer's name in the group; None in REALTIME."""
        return self._config.member.name if self._config.member else None

    @property
    def ownership(self) -> Ownership:
        """Whether shards are owned or shared; `AUTO` until that is decided on opening.

        Any thread may ask.
        """
        ownership, session = self._config.ownership, self._session
        if ownership is None:
            return Ownership.SHARED
        if session is not None:
            return Ownership.OWNED if session.owns_shards else Ownership.SHARED
        return Ownership.AUTO if ownership.automatic else Ownership.OWNED

    def __aiter__(self) -> AsyncIterator[Message[T]]:
        """Iterate over the messages until the consumer closes.

        A message counts as processed when the loop comes back for the next one. Several
        loops on one consumer, in several tasks, share the messages. Handle failures
        inside the loop: when the loop is left, it can't tell `break` from an exception,
        and its message counts as processed if the same task then leaves the consumer
        cleanly. If another task leaves the consumer, the message is not acknowledged.

        Raises:
            ClosedError: The consumer is not open.
            PenstockError: Reading failed permanently, see `Consumer`.
        """
        return Loop(self._receiving.checkouts)

    def until_caught_up(self) -> AsyncIterator[Message[T]]:
        """Iterate until all messages present at the start have been handled.

        For jobs that handle the present messages and end. When the loop takes its first
        step, the last id of each shard is noted. The loop ends when no message up to
        these ids is left to be delivered, and none of them is pending for any consumer
        of the group: retries are over, dead letters written, and outcomes confirmed by
        the server. The loop waits for messages that other consumers of the group hold,
        and claims them when a consumer has died and its lease has ended. With owned
        shards this includes the shards of other members. In REALTIME it
        ends when this consumer has handled the messages up to these ids. Messages that
        were sent later may be delivered too. The loop does not wait for shards that
        appear later, nor for those that can't be read.

        The consumer is still open afterwards. In other respects this is like
        `async for` over the consumer; a message counts as processed when the loop comes
        back.
        If you acknowledge by hand, the loop ends only after you have; under `DISABLED`
        it doesn't wait for `commit()`. Closing the consumer ends the loop early.

        While the loop only waits for other consumers, it queries the server once a
        second and shard. This needs the permission to use `XINFO STREAM` and, in a
        group, `XINFO GROUPS`.

        Raises:
            ClosedError: The consumer is not open.
            AccessError: This user may not query how far the group has come.
            PenstockError: Reading failed permanently, see `Consumer`.

        Example:
            ```python
            async with Consumer("orders", group="billing") as consumer:
                async for message in consumer.until_caught_up():
                    bill(message.payload)
            ```
        """
        session = self._receiving
        return Loop(session.checkouts, session.goal(), session.watch)

    @overload
    def next(self, timeout: None = None) -> Coroutine[Any, Any, Message[T]]: ...

    @overload
    def next(self, timeout: Duration) -> Coroutine[Any, Any, Message[T] | None]: ...

    def next(
        self, timeout: Duration | None = None
    ) -> Coroutine[Any, Any, Message[T] | None]:
        """Wait for one message.

        When the calling task calls again, the messages that this task received earlier
        from `next` and `take` count as processed, and only those: calls that are made
        together, as in `asyncio.gather(consumer.next(), consumer.next())`, do not
        acknowledge each other's messages. A task also comes back by `take`, `run` and
        `async for`, and by leaving the consumer cleanly. A call
        from another thread, by `asyncio.run_coroutine_threadsafe`, belongs to that
        thread.

        The end of a task acknowledges nothing. If the calling task of a message has
        ended, or nobody has fetched the call's result, only `message.ack()`
        acknowledges the message. Without it, other consumers receive the message when
        its lease has ended or this consumer closes, and the event `not_acknowledged` is
        reported. Before Python 3.12 this concerns `asyncio.wait_for(fetch(), 5)`, where
        `fetch` calls `next`, because `wait_for` runs `fetch` in a task of its own: use
        `timeout`, or `asyncio.timeout`.

        Cancelling it takes no message.

        Args:
            timeout: Seconds to wait at most; default: no limit. 0 takes a prefetched
                message and doesn't wait for the server, so it finds nothing right after
                opening; to handle the messages that a stream has and end, see
                `until_caught_up`.

        Returns:
            The message; None when the timeout has passed.

        Raises:
            ClosedError: The consumer is not open, or closed during the call.
            PenstockError: Reading failed permanently, see `Consumer`.
        """
        # Not async itself: `Checkouts` has to know which task has made the call.
        if timeout is not None:
            timeout = seconds(timeout, "timeout")
        return next_message(self._checkouts, timeout)

    def take(
        self,
        max: int = 100,  # noqa: A002 - the design names it
        timeout: Duration = 1.0,
    ) -> Coroutine[Any, Any, list[Message[T]]]:
        """Wait for several messages.

        As with `next`, the messages that the calling task received earlier count as
        processed when it calls again, and messages of a task that does not come back
        are not acknowledged. Cancelling it takes no messages.

        Args:
            max: How many messages at most; default 100. It never returns more than
                `Prefetch` allows.
            timeout: Seconds to wait for that many; default 1. 0 takes prefetched
                messages and doesn't wait for the server, see `next`. The time also runs
                while the consumer is paused.

        Returns:
            The messages that have arrived by then; an empty list if there are none.

        Raises:
            ConfigurationError: `max` is less than 1, or the timeout is negative.
            ClosedError: The consumer is not open, or closed during the call.
            PenstockError: Reading failed permanently, see `Consumer`.
        """
        most, wait = count(max, "max"), seconds(timeout, "timeout")
        return take_messages(self._checkouts, most, wait)

    def pause(self) -> None:
        """Stop handing out messages until `resume`.

        Queued messages stay with this consumer, and it reads no more than it may queue
        anyway, see `Prefetch`. Calls that wait for a message keep waiting.

        Raises:
            ClosedError: The consumer is not open.
        """
        self._receiving.gate.pause()

    def resume(self) -> None:
        """Hand out messages again.

        Raises:
            ClosedError: The consumer is not open.
        """
        self._receiving.gate.resume()

    async def seek(self, to: StartAt | str, *, stream: str | None = None) -> None:
        """Continue reading at another position, forwards or backwards.

        Prefetched messages are dropped; none of them is delivered after this returns.
        In RESUMABLE the group's position is moved, and the entries that are pending for
        this consumer are acknowledged, except messages that a handler or loop holds, or
        received and did not acknowledge. If such a message is redelivered, it is handed
        out when its running handler has finished, and the outcome of that handler does
        not count.

        If it is cancelled, the seek may or may not take effect.

        Args:
            to: `EARLIEST`, `LATEST` (messages sent after this has returned), an entry
                id (that entry is included; `after(id)` leaves it out), or an aware
                `datetime`.
            stream: The stream to seek in; default: all.

        Raises:
            UsageError: In LOAD_BALANCED, where it would move the position of the other
                consumers too: use `admin.reset_group` for that.
            ConfigurationError: `to` is not a position, or the stream is not read.
            ClosedError: The consumer is not open.
            CommandError: The server refuses it for a stream, which goes on as before;
                the others are set.
            AccessError: The user may not set the position; no message is dropped.

        Example:
            ```python
            await consumer.seek(datetime.now(UTC) - timedelta(hours=1))
            ```
        """
        where = place(to, "seek(to)")
        async with self._at_work() as session:
            await session.seek(where, stream)

    @property
    def silent_for(self) -> float:
        """Seconds for which the server has owed this consumer an answer.

        0 if it owes none, and while the consumer is closed. A read that waits for
        messages is answered every two seconds, so some seconds are usual. Outages
        count, until the first answer after them. Any thread may ask: the time also
        grows while the event loop stands still.
        """
        return 0.0 if self._session is None else self._session.silent_for

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The shards that are being read; empty while the consumer is closed."""
        if self._session is None:
            return ()
        return tuple(self._session.assignment.cursors.shards)

    async def assign(self, stream: str | Shard, *numbers: int) -> None:
        """Read another stream as well, or some of its shards.

        Reading begins at `start`, as for a stream that was named on construction.
        Assigning a stream or shard that is already read changes nothing. If it is
        cancelled, the assignment may or may not take effect.

        Args:
            stream: The stream's name, or a shard of it.
            *numbers: The numbers of its shards; default: all, and those that appear
                later.

        Raises:
            ConfigurationError: The name is not a valid stream name, or a number is not
                a valid shard number.
            ClosedError: The consumer is not open.
            CommandError: The server refuses it, for example because a key is of another
                type.
            StreamMissing: The stream does not exist, and `mkstream=False`.
        """
        named = _named(stream, numbers)
        async with self._at_work() as session:
            await session.assignment.assign(*named)

    async def unassign(self, stream: str | Shard, *numbers: int) -> None:
        """Stop reading a stream, or some of its shards.

        Its queued messages are not handed out after this returns; in a group they are
        released, so that other consumers can have them at once. Messages that handlers
        hold are finished and acknowledged as usual. If it is cancelled, the change may
        or may not take effect.

        Args:
            stream: The stream's name, or one of `consumer.shards`.
            *numbers: The numbers of its shards; default: the whole stream.

        Raises:
            ConfigurationError: The stream or shard is not read.
            ClosedError: The consumer is not open.
        """
        named = _named(stream, numbers)
        async with self._at_work() as session:
            await session.assignment.unassign(*named)

    async def lag(self) -> dict[Shard, int | None]:
        """Count, per shard, the entries that have not been delivered yet.

        In a group these are the entries that no consumer of the group has been given,
        in REALTIME those that this consumer has not. Messages that are queued here or
        being handled do not count, see `statistics`.

        The lag is None where it can't be known. It is known for a group that has not
        begun to read the stream as it is now, or has reached its end. In between it is
        known from Redis 7 on if no entry was ever trimmed or deleted, and from Redis
        8.2 and Valkey 9 on if no entry above the group's position was deleted from the
        middle and the group was not just set to an id. In REALTIME it is known only at
        the beginning and at the end.

        Raises:
            ClosedError: The consumer is not open.
            ConnectionLost: The connection ended before the reply.
        """
        async with self._at_work(receiving=False) as session:
            return await session.assignment.lag()

    @overload
    async def run(
        self,
        handler: Callable[[Message[T]], object],
        *,
        concurrency: int = 1,
        ordering: Ordering | str = Ordering.NONE,
        batch: None = None,
        until_caught_up: bool = False,
    ) -> None: ...

    @overload
    async def run(
        self,
        handler: Callable[[list[Message[T]]], object],
        *,
        concurrency: int = 1,
        ordering: Ordering | str = Ordering.NONE,
        batch: Batch | int,
        until_caught_up: bool = False,
    ) -> None: ...

    async def run(
        self,
        handler: Callable[[Any], object],
        *,
        concurrency: int = 1,
        ordering: Ordering | str = Ordering.NONE,
        batch: Batch | int | None = None,
        until_caught_up: bool = False,
    ) -> None:
        """Call a handler for each message until the consumer closes or has caught up.

        A message counts as processed when the handler returns. When the handler raises,
        takes longer than `Retry.timeout`, or has called `message.nack()`, the message
        is tried again as `retry` defines, and goes to the dead letters in the end.

        A handler that raises CancelledError has failed like any other, even if a timer
        of its own has cancelled it. If a handler raises SystemExit, KeyboardInterrupt
        or GeneratorExit, this call raises the same exception, the first one if several
        do, and the handler's message stays pending.

        Context variables that a handler sets are not visible to the next one.

        Cancelling it cancels the handlers; their messages are not acknowledged. To let
        them finish, close the consumer with `aclose()`.

        Args:
            handler: An async function of the message; any other function is called in a
                thread of its own, at most `concurrency` at a time. Anything that can be
                called with one message is accepted, except classes and generators. A
                call that returns a generator, or a coroutine that nobody has awaited,
                has failed.
            concurrency: How many handlers run at a time; default 1.
            ordering: Which messages are handled one at a time, in the order of the
                stream: `"none"` (default), the messages of a `"key"`, or of a
                `"shard"`. With `"key"` and `"shard"`, a message that waits for another
                attempt holds back those behind it.
            batch: Call the handler with lists of messages, of this many at most.
                Messages of a list that the handler has not settled itself are processed
                when it returns, and have failed when it raises. A message on a further
                attempt comes in a list of its own, because it may be why the messages
                beside it failed.
            until_caught_up: Whether to return when all messages that were there at the
                beginning have been handled, see `until_caught_up()`; default False.

        Raises:
            ConfigurationError: A number is less than 1, the ordering is unknown, or the
                handler can't be called with one message, or is a class or a generator.
            UsageError: Another run of this consumer has a different ordering.
            ClosedError: The consumer is not open.
            GaveUp: A message was given up, and `dead_letters` is `STOP`.
            PenstockError: Reading failed permanently, see `Consumer`.
        """
        check_handler(handler)
        job = RunOptions(
            handler,
            count(concurrency, "concurrency"),
            choice(Ordering, ordering, "ordering"),
            Batch(batch) if isinstance(batch, int) else batch,
        )
        await self._receiving.run(job, until_caught_up=until_caught_up)

    def batches(
        self, size: int = 100, linger: Duration = 1.0
    ) -> AsyncIterator[list[Message[T]]]:
        """Iterate over batches of messages until the consumer closes.

        The messages of a batch, except those that were nacked or rejected, count as
        processed when the loop comes back for the next batch. In other respects this is
        like `async for` over the consumer itself. A message on a further attempt comes
        in a batch of its own.

        Args:
            size: Messages in a batch at most; default 100. A batch never has more
                messages than `Prefetch` allows.
            linger: Seconds to wait for that many, from the first one on; default 1.

        Raises:
            ConfigurationError: The size is less than 1, or the duration is negative.
            ClosedError: The consumer is not open.
            PenstockError: Reading failed permanently, see `Consumer`.

        Example:
            ```python
            async for messages in consumer.batches(500, linger=0.2):
                await write_rows([message.payload for message in messages])
            ```
        """
        most, wait = count(size, "size"), seconds(linger, "linger")
        return BatchLoop(self._receiving.checkouts, most, wait)

    def ack(
        self,
        stream: str,
        id: EntryId | str,  # noqa: A002
        *,
        shard: int | None = None,
    ) -> bool:
        """Acknowledge a message by its id, as `message.ack()` does.

        For outcomes that come back from elsewhere, after the message itself has been
        given away: keep `message.stream`, `message.shard` and `message.id`.

        Args:
            stream: The stream's name.
            id: The message's id.
            shard: The shard's number, `message.shard`; default: whichever of the
                stream's shards has the message. Entries of different shards may have
                the same id, so pass it for a stream with shards.

        Returns:
            Whether the acknowledgement counts. False if this consumer does not hold the
            message, or has not handed it out: it was acknowledged, claimed by another
            consumer, or its lease has ended.

        Raises:
            UsageError: Messages can't be acknowledged by hand, or the message was
                nacked or rejected; or several shards have a message of that id; or
                this is another thread than the consumer's.
            ConfigurationError: The text is not an id.
            ClosedError: The consumer is not open.

        Example:
            ```python
            consumer.ack("orders", "1678280595282-0")
            ```
        """
        if not isinstance(id, EntryId):
            id = EntryId.parse(id)  # noqa: A001
        session = self._open
        return session.checkouts.settler.ack_by_id(stream, shard, bytes(id))

    async def commit(self) -> None:
        """Wait until the server has all acknowledgements recorded so far.

        Cancelling it changes nothing. In REALTIME there is nothing to wait for.

        Raises:
            ClosedError: The consumer is not open, or closed before the server had
                confirmed them; its `__cause__` is the error that prevented this, if
                there was one.
        """
        await self._open.commit()

    def statistics(self) -> Statistics:
        """Return the counts of messages held now, and handled since opening.

        Any thread may call it.

        Raises:
            ClosedError: The consumer is not open.
        """
        session = self._known()
        return replace(session.ledger.statistics(), owned=session.owned)

    async def aclose(self) -> None:
        """Close now, like leaving `async with` cleanly; any task may call it.

        Loops end, `run` returns once started handlers have finished, and this returns
        when everything is closed. If a handler calls it, or a task or thread that a
        handler has started, it returns at once: the consumer closes when `run` has
        returned, and `close_timeout` does not begin before that.

        On a closed consumer this does nothing. Cancelling it ends the wait only: the
        consumer closes all the same. It also closes when the task that leaves
        `async with` is cancelled: that cancellation is raised after closing.

        Raises:
            UsageError: It was called in another event loop or thread; nothing was done.
            PenstockError: Reading has failed permanently and this has not been raised
                anywhere yet, if the consumer was opened by `start`.
        """
        await super().aclose()

    @property
    def _session(self) -> Session[T] | None:
        """The running parts of the consumer, while it is open."""
        return None if self._lifetime is None else self._lifetime.resource

    def _known(self, *, receiving: bool = False) -> Session[T]:
        """Return the running parts; any thread may call it.

        Args:
            receiving: Whether they must still be handing out messages.
        """
        session = self._session
        if session is None or (receiving and session.gate.closed):
            raise ClosedError("consumer")
        return session

    @property
    def _checkouts(self) -> Checkouts[T]:
        """Where a call checks in what its caller holds, and checks out messages."""
        session = self._known()
        if session.gate.closed:
            # The caller has come back all the same, until closing has given up on it.
            session.checkouts.check_in(current_caller())
            raise ClosedError("consumer")
        return session.checkouts

    @property
    def _open(self) -> Session[T]:
        """The running parts, for a call allowed until the consumer has closed."""
        session = self._known()
        self._check_binding()
        return session

    @property
    def _receiving(self) -> Session[T]:
        """The running parts, for a call that can be made until closing begins."""
        session = self._known(receiving=True)
        self._check_binding()
        return session

    def _check_binding(self) -> None:
        if self._lifetime is not None:
            self._lifetime.binding.check()

    @asynccontextmanager
    async def _at_work(self, *, receiving: bool = True) -> AsyncIterator[Session[T]]:
        """Make a server call; raise `ClosedError` if the consumer closes meanwhile.

        Args:
            receiving: Whether the call can be made only until closing begins.
        """
        session = self._receiving if receiving else self._open
        try:
            yield session
        except ConnectionLost as error:
            if session.gate.closed:
                raise ClosedError("consumer") from error
            raise

    def __repr__(self) -> str:
        streams = ", ".join(map(repr, self._config.streams))
        group = f" group={self.group!r} name={self.name!r}" if self.group else ""
        state = "closed" if self._session is None else "open"
        return f"<Consumer {streams}{group} {state}>"


def _named(
    stream: str | Shard, numbers: tuple[int, ...]
) -> tuple[str, tuple[Shard, ...] | None]:
    """Return a stream's name and its selected shards; None for all of them."""
    if isinstance(stream, Shard):
        if numbers:
            raise ConfigurationError(
                "pass the name of a stream with shard numbers, or a shard"
            )
        return stream.stream, (stream,)
    name = shard_keys.single(stream).stream
    return name, tuple(shard_keys.numbered(name, n) for n in numbers) or None
