"""Messages for handlers that tests call directly."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from penstock._core.handling.settlement import Settler
from penstock._core.messages import envelope
from penstock.consumer import Consumer
from penstock.message import EntryId, Message
from penstock.testing._local import LocalEntry, new_id
from penstock.testing._outcomes import Outcome
from penstock.testing._transactions import RecordedTransaction

__all__ = ["RecordedMessage", "message"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class RecordedMessage(Message[T_co]):
    """A message of a test; see `message`."""

    @property
    def outcome(self) -> Outcome | None:
        """What the handler has recorded; None if it has recorded nothing.

        A handler that returns without recording an outcome leaves None: in a consumer,
        the message is acknowledged then.
        """
        return self._local.outcome()

    @property
    def transactions(self) -> list[RecordedTransaction]:
        """The transactions that the handler has begun, in order."""
        return self._local.transactions.begun

    @property
    def _local(self) -> LocalEntry:
        settler: Any = self._settler
        local: LocalEntry = settler.local
        return local


class _LocalSettler(Settler[Any]):
    """A settler that knows the one entry that it serves."""

    __slots__ = ("local",)

    local: LocalEntry


def message(
    payload: T,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    id: EntryId | str | None = None,  # noqa: A002 - as `Message.id`
    stream: str = "test",
    shard: int = 0,
    attempt: int = 1,
    time: datetime | None = None,
) -> RecordedMessage[T]:
    """Create a message, to call a handler with it and without a server.

    `ack`, `nack`, `reject` and `transaction` work as in a consumer with the default
    options, and raise the same errors. Their effect is recorded in `outcome` and
    `transactions`, and nowhere else.

    Args:
        payload: The payload, as the handler is to receive it; it is not encoded.
        key: Its key; default: none.
        headers: Its headers; default: none. (A message that was sent as JSON has the
            header `content-type` too.)
        id: Its id; default: a unique one.
        stream: The name of its stream; default `"test"`.
        shard: The number of its shard; default 0.
        attempt: The number of the attempt, from 1; default 1. By default, a message
            that fails at its fifth attempt goes to the dead letters.
        time: The time in its id; default: now. Not together with `id`.

    Raises:
        ConfigurationError: An argument is invalid.

    Example:
        ```python
        from penstock.testing import message

        async def refuse(message: Message[Order]) -> None:
            message.reject("no such customer")

        order = message(Order(7), key="customer-7")
        await refuse(order)
        assert order.outcome.reason == "no such customer"
        ```
    """
    fields = envelope.pack(b"", key, headers)
    # A name, since finding a unique one takes milliseconds.
    consumer = Consumer(stream, group="test", name="test", on_event=lambda _: None)
    local = LocalEntry(
        consumer._config,  # noqa: SLF001 - not for users
        fields,
        stream=stream,
        shard=shard,
        id=new_id(id, time),
        attempt=attempt,
    )
    settler: Any = local.settler(_LocalSettler)
    settler.local = local
    return RecordedMessage(local.entry, settler, fields, payload)
