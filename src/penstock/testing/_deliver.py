"""Delivery of a message to a router's handler, without a server."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

import anyio

from penstock._core.handling.dispatch import namer
from penstock._core.ledger.entry import Entry
from penstock._core.messages import envelope
from penstock._routing.injecting import Sources
from penstock._routing.shared_consumers import SharedConsumer
from penstock._tasks.consumer_config import ConsumerConfig
from penstock._tasks.handling.entry_queue import EntryQueue
from penstock._tasks.handling.worker import EXITS, WorkerContext
from penstock._tasks.handling.worker_pool import RunOptions, build_call
from penstock._tasks.task_scopes import task_group
from penstock.codecs import Codec, encode_any, encoding, unencodable
from penstock.errors import ConfigurationError, UsageError
from penstock.message import EntryId, Message
from penstock.options import AutoCommit, Batch
from penstock.router import Router
from penstock.testing._local import LocalEntry, new_id
from penstock.testing._outcomes import Outcome, Status
from penstock.testing._producer import RecordingProducer

__all__ = ["deliver"]


async def deliver(
    router: Router,
    stream: str,
    payload: Any,
    *,
    group: str | None = None,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    codec: Codec[Any] | None = None,
    id: EntryId | str | None = None,  # noqa: A002 - as `Message.id`
    shard: int = 0,
    attempt: int = 1,
    time: datetime | None = None,
    catch: bool = False,
    producer: Any = None,
) -> Outcome:
    """Deliver a message to the router's handler for it, once, without a server.

    The payload is encoded as a producer does and decoded as the handler's consumer
    does. Middleware, the choice of the handler by the message's type, time limits,
    threads and the retry policy are those of a running router. A handler of batches
    gets a batch of one message. Cancelling it cancels the handler.

    Args:
        router: The router; it need not run.
        stream: The stream's name.
        payload: The payload; `bytes` and `str` unchanged, anything else as JSON.
        group: The group whose handler gets it; needed if handlers of several groups
            are registered for the stream.
        key: Its key; default: none.
        headers: Its headers, for example `{"type": "order.created"}`; default: none.
        codec: Encodes the payload in another way.
        id: Its id; default: a unique one.
        shard: The number of its shard; default 0.
        attempt: The number of the attempt, from 1; default 1.
        time: The time in its id; default: now. Not together with `id`.
        catch: Whether an exception of the handler is only returned, in the outcome's
            `error`; default False: it is raised.
        producer: What a handler's parameter of the type `Producer` is given; default: a
            `RecordingProducer`.

    Returns:
        What becomes of the message after this attempt.

    Raises:
        ConfigurationError: An argument is invalid, or can't be encoded; or no handler
            is for this stream and group, or several are; or a service that it asks for
            is not registered.
        DecodeError: The message can't be decoded as the handler's payload.
        Exception: The exception of the handler, or of middleware.

    Example:
        ```python
        from penstock.testing import deliver

        router = Router()

        @router.handler("orders", group="billing")
        async def bill_order(order: Order) -> None: ...

        outcome = await deliver(router, "orders", Order(7), catch=True)
        assert outcome.status == "acknowledged"
        ```
    """
    shared = _find(router, stream, group)
    for handler in shared.handlers:
        handler.check_services()
    config: ConsumerConfig[Any] = shared.consumer(None)._config  # noqa: SLF001
    fields = _encode(payload, key, headers, codec, config.payload_field)
    local = LocalEntry(
        config,
        fields,
        stream=stream,
        shard=shard,
        id=new_id(id, time),
        attempt=attempt,
    )
    sources = Sources(RecordingProducer() if producer is None else producer)
    unhandled = await _handle(shared, config, local, sources)
    outcome = _outcome(local, config, unhandled=unhandled)
    if outcome.error is not None and not catch:
        raise outcome.error
    return outcome


def _find(router: Router, stream: str, group: str | None) -> SharedConsumer:
    """Return the consumer that would receive the message."""
    shared = router._registry.shared  # noqa: SLF001 - no one else needs it
    found = [each for each in shared if stream in each.first.streams]
    groups = ", ".join(sorted(f"{each.group!r:.80}" for each in found))
    if group is not None:
        found = [each for each in found if each.group == group]
    if not found:
        streams = sorted({name for each in shared for name in each.first.streams})
        known = f"its groups are {groups}" if groups else f"it has {streams!r:.300}"
        raise ConfigurationError(
            f"this router has no handler for {stream!r:.80}"
            f"{'' if group is None else f' in group {group!r:.80}'}; {known}"
        )
    if len(found) > 1:
        raise ConfigurationError(
            f"several consumers of this router receive the messages of {stream!r:.80}; "
            f"pass group=, one of {groups}, or deliver to a router that has only one"
        )
    return found[0]


def _encode(
    payload: Any,
    key: str | None,
    headers: Mapping[str, str] | None,
    codec: Codec[Any] | None,
    field: bytes,
) -> tuple[bytes, ...]:
    """Return the fields of a message, as a producer sends them."""
    try:
        body, kind = (encode_any if codec is None else encoding(codec))(payload)
    except UsageError:
        raise
    except Exception as error:
        raise unencodable(payload, error) from error
    return envelope.pack(body, key, headers, kind, field)


async def _handle(
    shared: SharedConsumer,
    config: ConsumerConfig[Any],
    local: LocalEntry,
    sources: Sources,
) -> bool:
    """Run a worker until it has handled the entry; return whether it had no handler."""
    unhandled: list[Message[Any]] = []
    exits: list[BaseException] = []
    run = shared.first.run_options
    limit = anyio.CapacityLimiter(run["concurrency"])
    batch = run.get("batch")
    options = RunOptions(
        shared.handler(limit, lambda message, _: unhandled.append(message), sources),
        run["concurrency"],
        run["ordering"],
        Batch(batch) if isinstance(batch, int) else batch,
    )
    handler_of = namer(options.handler)
    call, kind = build_call(config, options, handler_of)
    context = WorkerContext(
        cast("EntryQueue", _OneEntry(local.entry)),
        local.ledger,
        local.settler(kind),
        local.failures,
        ack=config.policy is AutoCommit.PROCESSED,
        handler_of=handler_of,
    )

    async def work() -> None:
        try:
            await options.work(call, context, lambda: None)
        except EXITS as error:
            # A task group would stop the event loop.
            exits.append(error)

    async with task_group() as tasks:
        # In a task of its own, so that the test does not see what the handler has left
        # in context variables.
        tasks.start_soon(work)
    for error in exits:
        raise error
    await anyio.lowlevel.checkpoint()  # a thread reports through the event loop
    return bool(unhandled)


def _outcome(
    local: LocalEntry, config: ConsumerConfig[Any], *, unhandled: bool
) -> Outcome:
    found, error = local.outcome(), local.failures.error
    attempts = local.entry.deliveries
    if config.retry is None and error is not None:
        return Outcome(Status.FAILED, attempts, error)
    if unhandled:
        return Outcome(Status.UNHANDLED, attempts)
    if config.member is None:
        return Outcome(Status.HANDLED, attempts)
    if config.policy is AutoCommit.DELAYED or found is None:
        return Outcome(Status.ACKNOWLEDGED, attempts)
    return found


class _OneEntry:
    """An entry queue that has one entry, and is closed then."""

    def __init__(self, entry: Entry) -> None:
        self._entries = [entry]

    def poll(self) -> None:
        """Return no entry: workers then wait for one."""

    async def entry(self, *_: object) -> Entry | None:
        """Return the entry, or None."""
        return self._entries.pop() if self._entries else None

    async def batch(self, _size: int, _linger: float, _goal: object) -> list[Entry]:
        """Return a batch of the entry, or an empty one."""
        batch, self._entries = self._entries, []
        return batch
