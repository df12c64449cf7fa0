"""Waits of tests: until messages are handled, and until consumers have caught up."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, overload

import anyio

from penstock import _clock
from penstock._core.ledger.entry import Entry
from penstock._core.ledger.states import State
from penstock._core.protocol import commands
from penstock._core.protocol.replies import ErrorReply
from penstock._tasks.session import Session
from penstock.admin import Admin
from penstock.consumer import Consumer
from penstock.durations import Duration, seconds
from penstock.errors import (
    ClosedError,
    CommandError,
    ConnectionLost,
    ServerError,
    StreamMissing,
    UsageError,
)
from penstock.message import EntryId, Receipt
from penstock.options import AutoCommit
from penstock.router import Router
from penstock.testing._outcomes import Outcome, Status
from penstock.testing._recording import Record, key_of, record_of

__all__ = ["NotHandled", "caught_up", "handled"]

# Seconds between two questions to the server, about messages that this consumer does
# not hold.
_ASK_INTERVAL: Final = 1.0
# Seconds that the last question may take, for the error.
_LAST_ASK: Final = 1.0
_WAITS: Final = {State.QUEUED, State.TO_COUNT, State.REDELIVERED}
_RUNS: Final = {State.RUNNING, State.FAILED}
_SETTLED: Final = {State.TO_ACK, State.ACKING, State.DONE}


class NotHandled(TimeoutError):  # noqa: N818 - named by what happened
    """Messages were not handled in time; the text says where each of them is.

    Attributes:
        states: A sentence for each message and group, in the order of the receipts. It
            has the text of the handler's last exception and its traceback, which may
            quote the payload.
    """

    def __init__(self, states: Sequence[str], total: int, timeout: float) -> None:
        self.states = tuple(states)
        lines = "\n".join(f"  {state}" for state in states)
        super().__init__(
            f"{len(states)} of {total} messages were not handled within {timeout:g} "
            f"s:\n{lines}"
        )


@dataclass(slots=True)
class _Wait:
    """A wait for a message at one of the consumers that receive it.

    Attributes:
        receipt: The message.
        group: The consumer's group.
        session: The running parts of the consumer.
        record: What the consumer has done so far.
        ask_at: When the server may be asked about the message.
        outcome: The outcome, once it is known.
    """

    receipt: Receipt
    group: str
    session: Session[Any]
    record: Record
    ask_at: float
    outcome: Outcome | None = field(default=None)

    async def look(self, now: float) -> bool:
        """Return whether there is an outcome."""
        if self.outcome is None:
            self.outcome = self.record.outcomes.get(key_of(self.receipt))
        if self.outcome is None and now >= self.ask_at and self.entry() is None:
            self.ask_at = now + _ASK_INTERVAL
            # Another consumer of the group may have it, or this one had it before it
            # was observed: neither the attempts nor dead letters are known.
            where = "not known"
            with suppress(ConnectionLost):  # the consumer reconnects
                where = await self.whereabouts()
            if not where:
                self.outcome = self.record.outcomes.get(
                    key_of(self.receipt), Outcome(Status.ACKNOWLEDGED, 0)
                )
        return self.outcome is not None

    def entry(self) -> Entry | None:
        """Return the entry, if the consumer holds it."""
        stream, number, id_ = key_of(self.receipt)
        for state in self.session.ledger.shards.values():
            if (state.shard.stream, state.shard.number) == (stream, number):
                return state.entries.get(id_)
        return None

    async def whereabouts(self) -> str:
        """Ask the server where the message is; empty if it is settled."""
        id_, keys = self.receipt.id, self._keys()
        for key in keys:
            last, before = bytes(id_), bytes(id_.previous())
            groups, pending = await self.session.ask(
                [
                    commands.xinfo_groups(key),
                    commands.xpending_page(key, self.group, None, before, 1),
                ]
            )
            if isinstance(groups, ErrorReply) or isinstance(pending, ErrorReply):
                return "the server does not tell where it is"
            found = [each for each in groups if each.name == self.group.encode()]
            if not found or EntryId.parse(found[0].last_delivered) < id_:
                return "not delivered"
            if pending and pending[0].id == last:
                return f"pending for consumer {pending[0].consumer.decode()!a:.80}"
        return "" if keys else "not delivered: the consumer does not read its shard"

    def _keys(self) -> list[bytes]:
        stream, number, _ = key_of(self.receipt)
        shards = self.session.assignment.cursors.shards
        return [s.key for s in shards if (s.stream, s.number) == (stream, number)]

    async def state(self) -> str:
        """Describe where the message is."""
        receipt, entry = self.receipt, self.entry()
        if entry is None:
            where = "not known: the server did not answer"
            with suppress(ServerError), anyio.move_on_after(_LAST_ASK):
                where = await self.whereabouts() or "acknowledged just now"
        else:
            where = _describe(entry)
        text = f"{receipt.stream!r} {receipt.id} in group {self.group!r}: {where}"
        error = self.record.errors.get(key_of(receipt))
        if error is None:
            return text
        lines = (
            "".join(traceback.format_exception(error)).rstrip().replace("\n", "\n  ")
        )
        return f"{text}; its last attempt failed:\n  {lines}"


@overload
async def handled(
    target: Router | Consumer[Any],
    receipts: Receipt,
    timeout: Duration = 5,
    *,
    group: str | None = None,
) -> Outcome: ...
@overload
async def handled(
    target: Router | Consumer[Any],
    receipts: Iterable[Receipt],
    timeout: Duration = 5,
    *,
    group: str | None = None,
) -> list[Outcome]: ...
async def handled(
    target: Router | Consumer[Any],
    receipts: Receipt | Iterable[Receipt],
    timeout: Duration = 5,
    *,
    group: str | None = None,
) -> Outcome | list[Outcome]:
    """Wait until messages are acknowledged or given up, in every group that gets them.

    The consumers tell when that is so, and the server has confirmed it then: a test
    can look at what it left. Acknowledgements are sent at once meanwhile. The server is
    asked only about messages that none of these consumers holds, once a second. If
    another consumer of the group has handled one, its outcome is `"acknowledged"` with
    0 attempts, since more isn't known.

    Cancelling it changes nothing.

    Args:
        target: The running router, or the open consumer.
        receipts: The receipt of a message, or several.
        timeout: Seconds to wait at most; default 5.
        group: The group to wait for; default: all that receive the messages' streams
            and acknowledge.

    Returns:
        The outcome of the message, or a list of the outcomes, in the order of the
        receipts. If several groups receive a message, it is that of the group which has
        given it up, if there is one, else that with the most attempts.

    Raises:
        NotHandled: The time is over; the error says where each message is.
        UsageError: No consumer of the target acknowledges messages of this stream.
        ClosedError: The router or the consumer is not running.

    Example:
        ```python
        from penstock.testing import handled, running

        @router.handler("payments", group="books")
        async def book(payment: Payment) -> None: ...

        async with running(router), Producer() as producer:
            receipt = await producer.send("payments", Payment(3))
            outcome = await handled(router, receipt)
            assert outcome.status == "acknowledged"
        ```
    """
    limit = seconds(timeout, "timeout")
    alone = isinstance(receipts, Receipt)
    asked = [receipts] if isinstance(receipts, Receipt) else list(receipts)
    sessions = _sessions(target)
    waits = [_waits_for(receipt, sessions, group) for receipt in asked]
    every = [wait for each in waits for wait in each]
    with _told_of_changes({id(w.session): w for w in every}.values()) as changed:
        with anyio.move_on_after(limit):
            await _until_all(every, changed)
        left = [await wait.state() for wait in every if wait.outcome is None]
    if left:
        raise NotHandled(left, len(every), limit)
    found = [_worst(wait.outcome for wait in each) for each in waits]
    return found[0] if alone else found


async def caught_up(target: Router | Consumer[Any], timeout: Duration = 5) -> None:
    """Wait until every group has no lag and nothing pending.

    The server is asked whenever an outcome was confirmed, and once a second.
    Cancelling it changes nothing.

    Args:
        target: The running router, or the open consumer.
        timeout: Seconds to wait at most; default 5.

    Raises:
        NotHandled: The time is over; the error has lag and pending of each stream.
        UsageError: None of the target's consumers acknowledges messages.
        ClosedError: The router or the consumer is not running.
        ServerError: The server refuses to tell.

    Example:
        ```python
        from penstock.testing import caught_up, running

        @router.handler("payments", group="books")
        async def book(payment: Payment) -> None: ...

        async with running(router):
            await caught_up(router)
        ```
    """
    limit = seconds(timeout, "timeout")
    waits = [
        _Backlog(consumer, group, session, record_of(session)[0])
        for consumer, group, session in _sessions(target)
    ]
    if not waits:
        raise UsageError(f"no consumer of {target!r:.80} acknowledges messages")
    with _told_of_changes(waits) as changed, anyio.move_on_after(limit):
        while True:
            changed.clear()
            left = [state for wait in waits for state in await wait.states()]
            if not left:
                return
            with anyio.move_on_after(_ASK_INTERVAL):
                await changed.wait()
    left = [state for wait in waits for state in await wait.states()]
    raise NotHandled(left, len(left), limit)


@dataclass(slots=True)
class _Backlog:
    """What a consumer's group has not handled.

    Attributes:
        consumer: The consumer.
        group: Its group.
        session: Its running parts.
        record: What the consumer has done so far.
    """

    consumer: Consumer[Any]
    group: str
    session: Session[Any]
    record: Record

    async def states(self) -> list[str]:
        """Describe the streams that have a backlog, in whatever shard."""
        found = []
        config = self.consumer._config  # noqa: SLF001 - not for users
        async with Admin(config.url, credentials=config.credentials) as admin:
            for stream in _streams_of(self.consumer):
                with suppress(StreamMissing):
                    where = f"{stream!r} in group {self.group!r}"
                    try:
                        state = await admin.group_state(stream, self.group)
                    except CommandError as error:  # a shard may have no group yet
                        found.append(f"{where}: {error}")
                        continue
                    # It is known for a group that has read everything.
                    lag = "unknown" if state.lag is None else state.lag
                    if state.pending or lag:
                        found.append(f"{where}: lag {lag}, {state.pending} pending")
        return found


def _streams_of(consumer: Consumer[Any]) -> list[str]:
    named = consumer._config.streams  # noqa: SLF001 - not for users
    return [*dict.fromkeys([*named, *(shard.stream for shard in consumer.shards)])]


def _sessions(
    target: Router | Consumer[Any],
) -> list[tuple[Consumer[Any], str, Session[Any]]]:
    """Return the open consumers that acknowledge, with their groups and parts."""
    consumers = target.consumers if isinstance(target, Router) else (target,)
    if not consumers:
        raise ClosedError("router")
    return [
        (consumer, consumer.group, consumer._open)  # noqa: SLF001 - not for users
        for consumer in consumers
        if consumer.group is not None
        and consumer._config.policy is not AutoCommit.IMMEDIATE  # noqa: SLF001
    ]


def _waits_for(
    receipt: Receipt,
    sessions: Iterable[tuple[Consumer[Any], str, Session[Any]]],
    group: str | None,
) -> list[_Wait]:
    found = []
    for consumer, its_group, session in sessions:
        if receipt.stream in _streams_of(consumer) and group in {None, its_group}:
            record, complete = record_of(session)
            ask_at = _clock.monotonic() + _ASK_INTERVAL if complete else -inf
            found.append(_Wait(receipt, its_group, session, record, ask_at))
    if not found:
        where = "" if group is None else f" in group {group!r:.80}"
        raise UsageError(
            f"no consumer here acknowledges messages of {receipt.stream!r:.80}{where}; "
            f"pass the router or consumer that has a group for this stream"
        )
    return found


async def _until_all(waits: Iterable[_Wait], changed: asyncio.Event) -> None:
    left = list(waits)
    while left:
        changed.clear()
        now = _clock.monotonic()
        left = [wait for wait in left if not await wait.look(now)]
        if left:
            with anyio.move_on_after(_ASK_INTERVAL):
                await changed.wait()


@contextmanager
def _told_of_changes(waits: Iterable[_Wait | _Backlog]) -> Iterator[asyncio.Event]:
    """Provide an event that is set when one of the consumers has an outcome more.

    Outcomes are sent at once meanwhile, unless the user commits them.
    """
    changed = asyncio.Event()
    committers = []
    each = list(waits)
    for wait in each:
        wait.record.listeners[changed.set] = None
        group = wait.session.parts.group
        if group is not None and group.committer.sends_by_itself:
            committers.append(group.committer)
            group.committer.urgent += 1
            wait.session.parts.signals.outcomes()
    try:
        yield changed
    finally:
        for committer in committers:
            committer.urgent -= 1
        for wait in each:
            wait.record.listeners.pop(changed.set, None)


def _worst(outcomes: Iterable[Outcome | None]) -> Outcome:
    found = [outcome for outcome in outcomes if outcome is not None]
    given_up = [each for each in found if each.status is not Status.ACKNOWLEDGED]
    return given_up[0] if given_up else max(found, key=lambda each: each.attempts)


def _describe(entry: Entry) -> str:
    """Return where an entry of the ledger is."""
    state, attempt = entry.state, entry.deliveries
    if state in _WAITS:
        return "queued, and no worker has taken it"
    if state in _RUNS:
        return f"running, attempt {attempt}"
    if state is State.POSTPONED:
        return f"waits for a retry after attempt {attempt}"
    if state in _SETTLED:
        return "acknowledged, which the server has not confirmed"
    if state is State.UNSETTLED:
        return f"its handler has ended without an outcome, attempt {attempt}"
    return "given up, and its dead letter is not confirmed"
