"""The consumer: what a user holds to receive messages."""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import (
    Any,
    Generic,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from penstock._core import sharding
from penstock._tasks.hands import this_task
from penstock._tasks.lifetime import Openable
from penstock._tasks.membership import Membership
from penstock._tasks.session import Plan, Session, open_session
from penstock.codecs import Codec, codec_for
from penstock.errors import ClosedError, ConfigurationError
from penstock.events import OnEvent, guarded, log_event
from penstock.identity import consumer_name, host_id
from penstock.message import EntryId, Fields, Message
from penstock.options import (
    AutoCommit,
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
    seconds,
)

__all__ = ["Consumer", "Statistics"]

T = TypeVar("T")


class Options(TypedDict, total=False):
    """The keyword options of a consumer; `Consumer` tells their meaning."""

    url: str | None
    group: str | None
    name: str | None
    mode: Mode | str | None
    start: StartAt | str | None
    auto_commit: AutoCommit | str
    prefetch: Prefetch
    commit: Commit
    claim: Claim
    mkstream: bool
    open_timeout: Duration
    close_timeout: Duration
    on_event: OnEvent


@dataclass(frozen=True, slots=True)
class Statistics:
    """A consumer's counts; those of the past since it opened.

    Attributes:
        received: Entries read, those read again after a reconnect included.
        acknowledged: Entries that the server confirmed as acknowledged; in
            REALTIME, entries that were processed.
        left_open: Entries that a handler was done with and that got no outcome.
        claimed: Entries taken over from consumers that did not answer.
        lost: Entries that others took over, because this process stood still for
            longer than the lease; what came of them here is dropped.
        ghosts: Pending entries that were deleted from the stream; acknowledged
            without being delivered.
        queued: Entries that wait for a handler now.
        in_hand: Entries queued or being handled now.
        bytes_in_hand: Their bytes.
        uncommitted: Entries acknowledged here and not yet on the server.
    """

    received: int
    acknowledged: int
    left_open: int
    claimed: int
    lost: int
    ghosts: int
    queued: int
    in_hand: int
    bytes_in_hand: int
    uncommitted: int


class Consumer(Openable, Generic[T]):
    """Receives the messages of one or more streams.

    Open it with `async with`. That returns once the position is fixed, so whatever
    is sent afterwards is seen. A background task reads ahead into a bounded queue, and
    another tells the server what is done, so reading, handling and acknowledging
    never wait for each other.

    Leaving it stops reading, lets started handlers finish, sends every outcome, and
    gives back what was not handled, so that others may have it at once. When it is
    left by an exception or by cancellation, the messages in the loops' hands are
    not acknowledged.

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
        payload: The payload's type: `bytes` (default), `str`, `Fields` for the whole
            entry, or any type that msgspec decodes and validates from JSON.
        codec: Decodes payloads in another way.
        auto_commit: Who acknowledges, see `AutoCommit`; default `PROCESSED`.
        prefetch: How much is held, see `Prefetch`.
        commit: When outcomes are sent, see `Commit`.
        claim: The lease, see `Claim`.
        mkstream: Whether a stream that is missing is made, empty; default True. With
            False, opening raises `StreamMissing`.
        open_timeout: Seconds for which opening goes on trying while no connection
            can be made; default 0: one try.
        close_timeout: Seconds that leaving may take for handlers to finish and
            outcomes to be sent; default 10.
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
        payload: Any = bytes,
        codec: Any = None,
        auto_commit: AutoCommit | str = AutoCommit.PROCESSED,
        prefetch: Prefetch = Prefetch(),
        commit: Commit = Commit(),
        claim: Claim = Claim(),
        mkstream: bool = True,
        open_timeout: Duration = 0,
        close_timeout: Duration = 10,
        on_event: OnEvent = log_event,
    ) -> None:
        shards = [sharding.single(stream) for stream in streams]
        if not shards or len(set(shards)) < len(shards):
            raise ConfigurationError(
                "name at least one stream, and each one once: Consumer('orders', ...)"
            )
        mode = _mode(mode, group)
        policy = _policy(auto_commit, mode)
        member = _member(
            mode,
            group,
            name,
            mkstream=mkstream,
            noack=policy is AutoCommit.IMMEDIATE,
        )
        if codec is None and payload is not Fields:
            codec = codec_for(payload)
        self._plan: Plan[T] = Plan(
            url=url,
            shards=shards,
            member=member,
            start=_start(start, grouped=member is not None),
            codec=codec,
            policy=policy,
            prefetch=prefetch,
            commit_interval=seconds(commit.interval, "Commit(interval)"),
            commit_max_pending=commit.max_pending,
            commit_delay=seconds(commit.delay, "Commit(delay)"),
            lease=seconds(claim.idle, "Claim(idle)"),
            claim_interval=seconds(claim.interval, "Claim(interval)"),
            open_timeout=seconds(open_timeout, "open_timeout"),
            close_timeout=seconds(close_timeout, "close_timeout"),
            on_event=guarded(on_event),
        )
        # The running parts; None before it is open and after it was closed.
        self._session: Session[T] | None = None

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        try:
            async with open_session(self._plan) as self._session:
                yield
        finally:
            self._session = None

    @property
    def group(self) -> str | None:
        """The group's name; None in REALTIME."""
        return self._plan.member.group if self._plan.member else None

    @property
    def name(self) -> str | None:
        """This consumer's name in the group; None in REALTIME."""
        return self._plan.member.name if self._plan.member else None

    def __aiter__(self) -> AsyncIterator[Message[T]]:
        """Iterate over the messages until the consumer closes.

        A message counts as processed when the loop comes back for the next one.
        Several loops on one consumer, in several tasks, share the messages. Handle a
        failure inside the loop: a loop that is left can't tell `break` from an
        exception, and its message counts as processed if the consumer is then left
        cleanly.

        Raises:
            ClosedError: The consumer is not open.
            PenstockError: Reading failed for good, see `Consumer`.
        """
        return self._open.hands.loop()

    @overload
    def next(self, timeout: None = None) -> Coroutine[Any, Any, Message[T]]: ...

    @overload
    def next(self, timeout: Duration) -> Coroutine[Any, Any, Message[T] | None]: ...

    def next(
        self, timeout: Duration | None = None
    ) -> Coroutine[Any, Any, Message[T] | None]:
        """Wait for one message.

        What this task got from `next` before counts as processed by that, and so it
        does when the task ends without an exception. Cancelling it takes no message.

        Args:
            timeout: Seconds to wait at most; default: for ever. 0 takes what is
                there.

        Returns:
            The message; None when the time is up.

        Raises:
            ClosedError: The consumer is not open, or closed meanwhile.
            PenstockError: Reading failed for good, see `Consumer`.
        """
        # Not itself async: it has to be known whose call it is, see `Hands`.
        if timeout is not None:
            timeout = seconds(timeout, "timeout")
        return self._open.hands.next(this_task(), timeout)

    def take(
        self,
        max: int = 100,  # noqa: A002 - the design names it
        timeout: Duration = 1.0,
    ) -> Coroutine[Any, Any, list[Message[T]]]:
        """Wait for several messages.

        As with `next`, what this task got before counts as processed by that, and so
        it does when the task ends without an exception. Cancelling it takes nothing.

        Args:
            max: How many at most; default 100. No more come than `Prefetch` lets in.
            timeout: Seconds to wait for that many; default 1.

        Returns:
            As many as there are by then; an empty list if there are none.

        Raises:
            ConfigurationError: `max` is less than 1, or the timeout negative.
            ClosedError: The consumer is not open, or closed meanwhile.
            PenstockError: Reading failed for good, see `Consumer`.
        """
        most, wait = count(max, "max"), seconds(timeout, "timeout")
        return self._open.hands.take(this_task(), most, wait)

    def pause(self) -> None:
        """Hand out no more messages until `resume`.

        Reading goes on until the queue is full, and what is queued stays ours. Calls
        that wait for a message go on waiting.

        Raises:
            ClosedError: The consumer is not open.
        """
        self._open.intake.pause()

    def resume(self) -> None:
        """Hand out messages again.

        Raises:
            ClosedError: The consumer is not open.
        """
        self._open.intake.resume()

    async def run(
        self,
        handler: Callable[[Message[T]], Awaitable[object]],
        *,
        concurrency: int = 1,
        ordering: Ordering | str = Ordering.NONE,
    ) -> None:
        """Have messages handled until the consumer closes.

        A message counts as processed when the handler returns. When it raises, the
        message is not acknowledged: it stays pending, is reported once, and is given
        back on closing.

        Cancelling it cancels the handlers; their messages are not acknowledged. To
        let them finish, close the consumer with `aclose()`.

        Args:
            handler: An async function of the message.
            concurrency: Handlers at a time; default 1.
            ordering: What is handled one at a time in the order of the stream:
                `"none"` (default), the messages of a `"key"`, or of a `"shard"`.

        Raises:
            ConfigurationError: The concurrency is less than 1, or the ordering
                unknown.
            UsageError: Another run of this consumer orders otherwise.
            ClosedError: The consumer is not open.
            PenstockError: Reading failed for good, see `Consumer`.
        """
        ordering = choice(Ordering, ordering, "ordering")
        await self._open.run(handler, count(concurrency, "concurrency"), ordering)

    async def commit(self) -> None:
        """Wait until all that is acknowledged by now is on the server.

        Cancelling it changes nothing. In REALTIME there is nothing to wait for.

        Raises:
            ClosedError: The consumer is not open.
        """
        await self._open.commit()

    def statistics(self) -> Statistics:
        """Count what is in hand and what has been done.

        Raises:
            ClosedError: The consumer is not open.
        """
        ledger = self._open.ledger
        return Statistics(
            received=ledger.totals.received,
            acknowledged=ledger.totals.acked,
            left_open=ledger.totals.left,
            claimed=ledger.totals.claimed,
            lost=ledger.totals.lost,
            ghosts=ledger.totals.ghosts,
            queued=ledger.queued,
            in_hand=ledger.held,
            bytes_in_hand=ledger.size,
            uncommitted=ledger.uncommitted,
        )

    async def aclose(self) -> None:
        """Close now, as leaving `async with` cleanly does.

        From another task: loops end, `run` returns once started handlers have
        finished, and then this does. From a handler of `run`: returns at once, and
        the rest is done when `run` has returned. On a closed consumer it does
        nothing.
        """
        if self._session is not None:
            await self._session.close(clean=True)

    @property
    def _open(self) -> Session[T]:
        if self._session is None:
            raise ClosedError("consumer")
        return self._session

    def __repr__(self) -> str:
        streams = ", ".join(repr(shard.stream) for shard in self._plan.shards)
        group = f" group={self.group!r} name={self.name!r}" if self.group else ""
        state = "closed" if self._session is None else "open"
        return f"<Consumer {streams}{group} {state}>"


def _mode(mode: Mode | str | None, group: str | None) -> Mode:
    if mode is None:
        return Mode.REALTIME if group is None else Mode.LOAD_BALANCED
    return choice(Mode, mode, "mode")


def _member(
    mode: Mode, group: str | None, name: str | None, *, mkstream: bool, noack: bool
) -> Membership | None:
    if mode is Mode.REALTIME:
        if group is not None or name is not None:
            raise ConfigurationError(
                "REALTIME reads without a group: everyone sees everything; leave "
                "group and name out, or use LOAD_BALANCED"
            )
        return None
    if mode is Mode.RESUMABLE and group is None:
        group = f"{host_id()}:r"
    if not isinstance(group, str) or not group:
        raise ConfigurationError(
            f"group={group!r:.60} is no group's name; LOAD_BALANCED shares the "
            f"messages of a group: name it, group='billing'"
        )
    if name is not None and (not isinstance(name, str) or not name):
        raise ConfigurationError(
            f"name={name!r:.60} is no consumer name; give a text, or leave it out"
        )
    if name is None:
        # A resumable consumer must find its own pending entries again.
        name = group if mode is Mode.RESUMABLE else consumer_name()
    return Membership(group, name, mkstream, noack)


def _policy(auto_commit: AutoCommit | str, mode: Mode) -> AutoCommit:
    policy = choice(AutoCommit, auto_commit, "auto_commit")
    if mode is Mode.REALTIME and policy is not AutoCommit.PROCESSED:
        raise ConfigurationError(
            f"auto_commit={policy.value!r} needs a group: REALTIME has nothing to "
            f"acknowledge; leave it out, or name a group"
        )
    return policy


def _start(start: StartAt | str | None, *, grouped: bool) -> Start | EntryId:
    match start:
        case None:
            return Start.EARLIEST if grouped else Start.LATEST
        case Start() | EntryId():
            return start
        case datetime():
            return EntryId.at(start)
        case str():
            return EntryId.parse(start)
    raise ConfigurationError(
        f"start={start!r:.60} is no place in a stream; give EARLIEST, LATEST, an "
        f"entry id or an aware datetime"
    )
