"""The consumer: what a user holds to receive messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from functools import partial
from types import UnionType
from typing import (
    Any,
    Generic,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from penstock._core.handling.signature import check_handler
from penstock._core.messages import shard_keys
from penstock._tasks.consumer_config import (
    ConsumerConfig,
    auto_commit_of,
    check_kinds,
    dead_letter_stream_of,
    membership,
    mode_of,
    retry_of,
    shard_numbers,
)
from penstock._tasks.handling.iteration import BatchLoop, Loop
from penstock._tasks.handling.receiving import next_message, take_messages
from penstock._tasks.handling.worker_pool import RunOptions
from penstock._tasks.lifetime import Live, Openable
from penstock._tasks.session import Session, open_session
from penstock.codecs import Codec, codec_for, content_type_of
from penstock.errors import ClosedError, ConfigurationError, ConnectionLost
from penstock.events import OnEvent, guarded, log_event
from penstock.message import Fields, Message, Shard
from penstock.middleware import Middleware, checked
from penstock.options import (
    MAX_MESSAGE_BYTES,
    AutoCommit,
    Batch,
    Claim,
    Commit,
    Duration,
    Mode,
    Ordering,
    Prefetch,
    Start,
    StartAt,
    choice,
    count,
    place,
    seconds,
)
from penstock.retries import DeadLetters, Retry
from penstock.statistics import Statistics

__all__ = ["Consumer"]

T = TypeVar("T")


class Options(TypedDict, total=False):
    """The keyword options of a consumer; `Consumer` tells their meaning."""

    url: str | None
    group: str | None
    name: str | None
    mode: Mode | str | None
    start: StartAt | str | None
    shards: int | Iterable[int] | None
    auto_commit: AutoCommit | str
    prefetch: Prefetch
    max_message_bytes: int
    commit: Commit
    claim: Claim
    retry: Retry | None
    dead_letters: DeadLetters | str | None
    middleware: Iterable[Middleware[Any]]
    mkstream: bool
    open_timeout: Duration
    close_timeout: Duration
    on_event: OnEvent


class Consumer(Openable[Session[T]], Generic[T]):
    """Receives the messages of one or more streams.

    Open it with `async with`, or with `start` and `aclose`, which any task of the
    event loop may call. Opening returns once the position is fixed, so whatever
    is sent afterwards is seen. A background task reads ahead into a bounded queue, and
    another tells the server what is done, so reading, handling and acknowledging
    never wait for each other.

    Leaving it stops reading, lets started handlers finish, sends every outcome, and
    gives back what was not handled, so that others may have it at once. What the
    task that leaves has received from `next`, `take` or a loop counts as processed;
    not so when it leaves by an exception or by cancellation, and not what other tasks
    have received and did not come back for.

    Once it has closed, every call raises `ClosedError`. So do calls that receive
    messages or change what is read, as soon as closing has begun; `commit`, `lag` and
    `statistics` work until it has closed. Loops, and a `run`, that were under way end
    normally.

    Calls from another event loop or thread than the one that opened it raise
    `UsageError` before they do anything; only `statistics` and `shards` may be used
    there. See docs/shutting-down.md.

    Args:
        *streams: The streams' names.
        url: `redis://`, `rediss://` or `unix://` with user, password and database,
            or `embedded://`; default: the environment's `REDIS_URL`.
        group: The consumer group; LOAD_BALANCED needs one, RESUMABLE has
            `<host id>:r` by default, see `penstock.identity`.
        name: This consumer's name in the group; default: one that nobody else has,
            in RESUMABLE the group's. With a fixed one, a restart goes on with what it
            had not acknowledged.
        mode: `LOAD_BALANCED`, `RESUMABLE` or `REALTIME`, see `Mode`; default: the
            first if a group is named, else the last.
        start: Where a new group begins, or this REALTIME consumer: `EARLIEST`,
            `LATEST`, an entry id (that entry is included) or an aware `datetime`.
            Default: `EARLIEST` in a group, `LATEST` without.
        shards: Which shards of each stream are read: how many there are, or their
            numbers. Default: all that are there, the key of the stream's own name
            among them, and those that appear later, within some seconds. They are
            looked up by name, up to 1,024 numbers above the highest that is there.
        payload: The payload's type: `bytes` (default), `str`, `Fields` for the whole
            entry, or any type that msgspec decodes and validates from JSON.
        codec: Decodes payloads in another way, see `Codec`.
        auto_commit: Who acknowledges, see `AutoCommit`; default `PROCESSED`.
        prefetch: How much is held, see `Prefetch`.
        max_message_bytes: Bytes of one message at most, all its fields; default 64
            MiB. A larger one is not decoded, and goes to the dead letters as if it
            were not of the payload's type; where there are none, it is passed over
            and told of. It has been read by then, so this saves what decoding it
            would cost, not its own memory.
        commit: When outcomes are sent, see `Commit`.
        claim: The lease, see `Claim`.
        retry: How often a message is tried whose handler fails, and when again, see
            `Retry`. Not in REALTIME, nor where Penstock acknowledges by time or on
            delivery: there a failure is told of, and that is all.
        dead_letters: The stream to which a message goes that was given up: after its
            last attempt, on `reject`, or because it is not of the payload's type.
            Default `"{stream}.dead"`, where `{stream}` is the message's stream. `DROP`
            acknowledges it instead, `STOP` ends the consumer with `GaveUp`.
        middleware: What stands around every call of a handler of `run`, the outermost
            first, see `Middleware`.
        mkstream: Whether a stream that is missing is made, empty; default True. With
            False, opening raises `StreamMissing`.
        open_timeout: Seconds for which opening goes on trying while no connection
            can be made, or while the server refuses for what may pass: it loads its
            data, has no memory, is a replica; default 0: one try.
        close_timeout: Seconds that leaving may take in all, also with a server that
            does not answer; default 10. Handlers are cancelled, and their messages
            given back, when three quarters are over, or all but 2 seconds if that is
            later. The rest is for dead letters, outcomes, and giving back what was not
            handled. What the server has not confirmed in the end is reported
            (`close_incomplete`, `not_given_back`), and connections are aborted. With
            less than 0.25, 0 too, 0.25 seconds are taken if the server needs them.
        on_event: Told of what happens in the background, see `Event`; default:
            logged to `penstock`.

    Raises:
        ConfigurationError: On construction: options that make no sense. On opening:
            a wrong URL.
        ConnectError: On opening: there is no way to the server.
        AccessError: On opening, or from reading: the server refuses this user.
        CommandError: On opening, or from reading: it refuses a stream, for example
            because its key is of another type.

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

    # `Cat | Dog` is a type to msgspec, but `type[...]` has no room for it.
    @overload
    def __init__(
        self: Consumer[Any],
        *streams: str,
        payload: UnionType | type[Any],
        **options: Unpack[Options],
    ) -> None: ...

    @overload
    def __init__(
        self, *streams: str, codec: Codec[T], **options: Unpack[Options]
    ) -> None: ...

    def __init__(
        self,
        *streams: str,
        url: str | None = None,
        group: str | None = None,
        name: str | None = None,
        mode: Mode | str | None = None,
        start: StartAt | str | None = None,
        shards: int | Iterable[int] | None = None,
        payload: Any = bytes,
        codec: Any = None,
        auto_commit: AutoCommit | str = AutoCommit.PROCESSED,
        prefetch: Prefetch = Prefetch(),
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        commit: Commit = Commit(),
        claim: Claim = Claim(),
        retry: Retry | None = None,
        dead_letters: DeadLetters | str | None = None,
        middleware: Iterable[Middleware[Any]] = (),
        mkstream: bool = True,
        open_timeout: Duration = 0,
        close_timeout: Duration = 10,
        on_event: OnEvent = log_event,
    ) -> None:
        keys = {shard_keys.single(stream).key for stream in streams}
        if not keys or len(keys) < len(streams):
            raise ConfigurationError(
                "name at least one stream, and each one once: Consumer('orders', ...)"
            )
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
        dead_stream, instead = dead_letter_stream_of(dead_letters, streams)
        self._config: ConsumerConfig[T] = ConsumerConfig(
            url=url,
            streams=streams,
            numbers=shard_numbers(shards),
            mode=mode,
            member=member,
            start=place(start, "start"),
            codec=codec,
            policy=policy,
            prefetch=prefetch,
            max_message_bytes=count(max_message_bytes, "max_message_bytes"),
            max_wait=seconds(prefetch.max_wait, "Prefetch(max_wait)"),
            commit_interval=seconds(commit.interval, "Commit(interval)"),
            commit_max_pending=commit.max_pending,
            commit_delay=seconds(commit.delay, "Commit(delay)"),
            lease=seconds(claim.idle, "Claim(idle)"),
            claim_interval=seconds(claim.interval, "Claim(interval)"),
            retry=retry_of(retry, mode, policy),
            instead=instead,
            dead_letters=dead_stream,
            middleware=checked(middleware),
            open_timeout=seconds(open_timeout, "open_timeout"),
            close_timeout=seconds(close_timeout, "close_timeout"),
            on_event=guarded(on_event),
        )

    def _living(self) -> Live[Session[T]]:
        return partial(open_session, self._config)

    def _shut(self) -> None:
        if self._session is not None:
            self._session.shut()

    def _closes_later(self) -> bool:
        lifetime, session = self._lifetime, self._session
        if lifetime is None or session is None:
            return False
        return session.close_when_idle(lifetime.leave)

    @property
    def group(self) -> str | None:
        """The group's name; None in REALTIME."""
        return self._config.member.group if self._config.member else None

    @property
    def name(self) -> str | None:
        """This consumer's name in the group; None in REALTIME."""
        return self._config.member.name if self._config.member else None

    def __aiter__(self) -> AsyncIterator[Message[T]]:
        """Iterate over the messages until the consumer closes.

        A message counts as processed when the loop comes back for the next one.
        Several loops on one consumer, in several tasks, share the messages. Handle a
        failure inside the loop: a loop that is left can't tell `break` from an
        exception, and its message counts as processed if the same task then leaves the
        consumer cleanly. If another task leaves the consumer, it is not acknowledged.

        Raises:
            ClosedError: The consumer is not open.
            PenstockError: Reading failed for good, see `Consumer`.
        """
        return Loop(self._receiving.checkouts)

    def until_caught_up(self) -> AsyncIterator[Message[T]]:
        """Iterate until all that was in the streams when it began has been handled.

        For jobs that handle what is there and end. When the loop takes its first step,
        the last id of each shard is noted. The loop ends when nothing up to these ids
        is left to be delivered and nothing of it is pending for anybody in the group:
        retries are over, dead letters written, and outcomes confirmed by the server.
        What other consumers of the group have is waited for, and taken over when a
        consumer has died and its lease has ended. In REALTIME it ends when this
        consumer has handled what was there. Messages that were sent later may be
        delivered too. Shards that appear later are not waited for, nor are those that
        can't be read.

        Afterwards the consumer is still open. Otherwise it is as `async for` over the
        consumer; a message counts as processed when the loop comes back. Where you
        acknowledge by hand, it ends only when you have; under `DISABLED` it doesn't
        wait for `commit()`. Closing the consumer ends it early.

        While it only waits for others, the server is asked once a second and shard.
        This needs the permission to use `XINFO STREAM` and, in a group, `XINFO GROUPS`.

        Raises:
            ClosedError: The consumer is not open.
            AccessError: This user may not ask how far the group has come.
            PenstockError: Reading failed for good, see `Consumer`.

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

        The messages that the calling task has received from `next` and `take` before
        count as processed when it calls again, and those only: calls that are made
        together, as in `asyncio.gather(consumer.next(), consumer.next())`, acknowledge
        nothing of each other. A task also comes back by `take`, `run` and `async for`,
        and by leaving the consumer cleanly. A call from another thread, by
        `asyncio.run_coroutine_threadsafe`, is that thread's.

        The end of a task acknowledges nothing. A message whose calling task has ended,
        or whose call's result nobody has fetched, is acknowledged by `message.ack()`
        alone. Without that, others receive it when its lease has ended or this consumer
        closes, and the event `not_acknowledged` is reported. Before Python 3.12 this
        concerns `asyncio.wait_for(fetch(), 5)`, where `fetch` calls `next`, because it
        runs `fetch` in a task of its own: use `timeout`, or `asyncio.timeout`.

        Cancelling it takes no message.

        Args:
            timeout: Seconds to wait at most; default: for ever. 0 takes what has been
                prefetched and doesn't wait for the server, so right after opening it
                finds nothing; to handle what a stream has and end, see
                `until_caught_up`.

        Returns:
            The message; None when the time is up.

        Raises:
            ClosedError: The consumer is not open, or closed meanwhile.
            PenstockError: Reading failed for good, see `Consumer`.
        """
        # Not itself async: it has to be known whose call it is, see `Checkouts`.
        if timeout is not None:
            timeout = seconds(timeout, "timeout")
        return next_message(self._known(receiving=True).checkouts, timeout)

    def take(
        self,
        max: int = 100,  # noqa: A002 - the design names it
        timeout: Duration = 1.0,
    ) -> Coroutine[Any, Any, list[Message[T]]]:
        """Wait for several messages.

        As with `next`, what the calling task has received before counts as processed
        when it calls again, and what nobody comes back for is not acknowledged.
        Cancelling it takes nothing.

        Args:
            max: How many at most; default 100. No more come than `Prefetch` lets in.
            timeout: Seconds to wait for that many; default 1. 0 takes what has been
                prefetched and doesn't wait for the server, see `next`. While paused
                the time runs, too.

        Returns:
            As many as there are by then; an empty list if there are none.

        Raises:
            ConfigurationError: `max` is less than 1, or the timeout negative.
            ClosedError: The consumer is not open, or closed meanwhile.
            PenstockError: Reading failed for good, see `Consumer`.
        """
        most, wait = count(max, "max"), seconds(timeout, "timeout")
        return take_messages(self._known(receiving=True).checkouts, most, wait)

    def pause(self) -> None:
        """Hand out no more messages until `resume`.

        What is queued stays ours, and no more is read than may wait anyway, see
        `Prefetch`. Calls that wait for a message go on waiting.

        Raises:
            ClosedError: The consumer is not open.
        """
        self._receiving.entry_queue.pause()

    def resume(self) -> None:
        """Hand out messages again.

        Raises:
            ClosedError: The consumer is not open.
        """
        self._receiving.entry_queue.resume()

    async def seek(self, to: StartAt | str, *, stream: str | None = None) -> None:
        """Go on at another place, forwards or backwards.

        What was read before and waits here is dropped; none of it is delivered after
        this returns. In RESUMABLE the group's position is moved, and what is pending
        for this consumer is acknowledged; not so messages that a handler or loop has,
        or was handed and did not acknowledge. A message of theirs that comes again is
        handed out when the handler that is at it has finished, whose outcome does not
        count then.

        Cancelling it leaves open whether it happens.

        Args:
            to: `EARLIEST`, `LATEST` (what is sent after this has returned), an entry
                id (that entry is included; `after(id)` leaves it out), or an aware
                `datetime`.
            stream: The stream to do it for; default: all.

        Raises:
            UsageError: In LOAD_BALANCED, where it would move the others' position
                too: that is `admin.reset_group`.
            ConfigurationError: It is no place, or the stream is not read.
            ClosedError: The consumer is not open.
            CommandError: The server refuses it.

        Example:
            ```python
            await consumer.seek(datetime.now(UTC) - timedelta(hours=1))
            ```
        """
        where = place(to, "seek(to)")
        async with self._at_work() as session:
            await session.seek(where, stream)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The shards that are read now; none while it is closed."""
        if self._session is None:
            return ()
        return tuple(self._session.assignment.cursors.shards)

    async def assign(self, stream: str | Shard, *numbers: int) -> None:
        """Read another stream as well, or some of its shards.

        It begins at `start`, as a stream does that was named on construction.
        Assigning what is read already changes nothing. Cancelling it leaves open
        whether it happens.

        Args:
            stream: The stream's name, or a shard of it.
            *numbers: Its shards' numbers; default: all, and those that appear later.

        Raises:
            ConfigurationError: The name is none of a stream, or a number none of a
                shard.
            ClosedError: The consumer is not open.
            CommandError: The server refuses it, for example because a key is of
                another type.
            StreamMissing: There is no such stream, and `mkstream=False`.
        """
        named = _named(stream, numbers)
        async with self._at_work() as session:
            await session.assignment.assign(*named)

    async def unassign(self, stream: str | Shard, *numbers: int) -> None:
        """Read a stream, or some of its shards, no more.

        What waits of it is not handed out after this returns; in a group others get
        it at once. What handlers have is finished and acknowledged as ever. Cancelling
        it leaves open whether it happens.

        Args:
            stream: The stream's name, or one of `consumer.shards`.
            *numbers: Its shards' numbers; default: all of it.

        Raises:
            ConfigurationError: It is not read.
            ClosedError: The consumer is not open.
        """
        named = _named(stream, numbers)
        async with self._at_work() as session:
            await session.assignment.unassign(*named)

    async def lag(self) -> dict[Shard, int | None]:
        """Count, per shard, the entries that nobody was given yet.

        In a group it is nobody of the group, in REALTIME this consumer. What waits
        here or is being handled does not count, see `statistics`.

        None where it can't be known. It is known in a group that has not begun with
        the stream as it is now, or has reached its end. In between it is known from
        Redis 7 on if no entry was ever trimmed or deleted, and from Redis 8.2 and
        Valkey 9 on if none above the group's position was deleted from the middle and
        the group was not just set to an id. In REALTIME it is known at the ends only.

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
        """Have messages handled until the consumer closes, or has caught up.

        A message counts as processed when the handler returns. When it raises, or
        takes longer than `Retry.timeout`, or has called `message.nack()`, the message
        is tried again as `retry` says, and goes to the dead letters in the end.

        A handler that raises CancelledError has failed like any other, also when a
        timer of its own has cancelled it. One that raises SystemExit, KeyboardInterrupt
        or GeneratorExit has this raise the same exception, the first if several do,
        and its message stays pending.

        What a handler leaves in context variables the next one does not see.

        Cancelling it cancels the handlers; their messages are not acknowledged. To
        let them finish, close the consumer with `aclose()`.

        Args:
            handler: An async function of the message; any other function is called in
                a thread of its own, at most `concurrency` at a time. Whatever can be
                called with one message will do, but for classes and generators. A call
                that returns a generator, or a coroutine that nobody has awaited, has
                failed.
            concurrency: Handlers at a time; default 1.
            ordering: What is handled one at a time in the order of the stream:
                `"none"` (default), the messages of a `"key"`, or of a `"shard"`. There
                a message that waits for another attempt holds back those behind it.
            batch: Have the handler called with lists of messages, of so many at most.
                Those that it gives no outcome of their own are processed when it
                returns, and have failed when it raises. A message on a further attempt
                comes in a list of its own: it may be why those beside it failed.
            until_caught_up: Whether to return when all that was there at the
                beginning has been handled, see `until_caught_up()`; default False.

        Raises:
            ConfigurationError: A number is less than 1, the ordering is unknown, or the
                handler can't be called with one message, or is a class or a generator.
            UsageError: Another run of this consumer orders otherwise.
            ClosedError: The consumer is not open.
            GaveUp: A message was given up, and `dead_letters` is `STOP`.
            PenstockError: Reading failed for good, see `Consumer`.
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

        The messages of a batch count as processed when the loop comes back for the
        next one, but for those that were nacked or rejected. Otherwise as `async for`
        over the consumer itself. A message on a further attempt comes in a batch of
        its own.

        Args:
            size: Messages in a batch at most; default 100. No more come than
                `Prefetch` lets in.
            linger: Seconds to wait for that many, from the first one on; default 1.

        Raises:
            ConfigurationError: The size is less than 1, or the duration negative.
            ClosedError: The consumer is not open.
            PenstockError: Reading failed for good, see `Consumer`.

        Example:
            ```python
            async for messages in consumer.batches(500, linger=0.2):
                await write_rows([message.payload for message in messages])
            ```
        """
        most, wait = count(size, "size"), seconds(linger, "linger")
        return BatchLoop(self._receiving.checkouts, most, wait)

    async def commit(self) -> None:
        """Wait until all that is acknowledged by now is on the server.

        Cancelling it changes nothing. In REALTIME there is nothing to wait for.

        Raises:
            ClosedError: The consumer is not open, or closed before it was told; its
                `__cause__` says what kept the server from being told, if something did.
        """
        await self._open.commit()

    def statistics(self) -> Statistics:
        """Count what is in hand and what has been done.

        It may be called in any thread.

        Raises:
            ClosedError: The consumer is not open.
        """
        return self._known().ledger.statistics()

    async def aclose(self) -> None:
        """Close now, as leaving `async with` cleanly does; from any task.

        Loops end, `run` returns once started handlers have finished, and when all is
        closed, this returns. Called by a handler, or by a task or thread that one has
        started, it returns at once: the rest is done when `run` has returned, and
        `close_timeout` does not begin before that.

        When it is closed this does nothing. Cancelling it gives up the wait: it closes
        all the same. So it does when the task that leaves `async with` is cancelled:
        that cancellation is raised when it has closed.

        Raises:
            UsageError: Called in another event loop or thread; nothing was done.
            PenstockError: Reading has failed for good and nobody has been told, if it
                was opened by `start`.
        """
        await super().aclose()

    @property
    def _session(self) -> Session[T] | None:
        """The running parts, while it is open."""
        return None if self._lifetime is None else self._lifetime.thing

    def _known(self, *, receiving: bool = False) -> Session[T]:
        """Return the running parts, in whatever thread.

        Args:
            receiving: Whether they have to hand out messages still.
        """
        session = self._session
        if session is None or (receiving and session.entry_queue.closed):
            raise ClosedError("consumer")
        return session

    @property
    def _open(self) -> Session[T]:
        """The running parts, for a call that can be made until it has closed."""
        session = self._known()
        self._check_home()
        return session

    @property
    def _receiving(self) -> Session[T]:
        """The running parts, for a call that can be made until it begins to close."""
        session = self._known(receiving=True)
        self._check_home()
        return session

    def _check_home(self) -> None:
        if self._lifetime is not None:
            self._lifetime.home.check()

    @asynccontextmanager
    async def _at_work(self, *, receiving: bool = True) -> AsyncIterator[Session[T]]:
        """Make a call to the server; should it close meanwhile, `ClosedError` is why.

        Args:
            receiving: Whether the call can be made only until it begins to close.
        """
        session = self._receiving if receiving else self._open
        try:
            yield session
        except ConnectionLost as error:
            if session.entry_queue.closed:
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
    """Tell which stream is meant, and which shards of it; None for all."""
    if isinstance(stream, Shard):
        if numbers:
            raise ConfigurationError("give a stream's name with numbers, or a shard")
        return stream.stream, (stream,)
    name = shard_keys.single(stream).stream
    return name, tuple(shard_keys.numbered(name, n) for n in numbers) or None
