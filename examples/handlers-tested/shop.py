"""Handlers of a shop."""

from dataclasses import dataclass

from penstock import MaxLen, Message, Retry, Router

router = Router(retry=Retry(max_attempts=3, backoff=[1.0, 10.0]))


@dataclass
class Order:
    id: int
    customer: str
    cents: int


@router.handler("orders", group="billing", dead_letter_retention=MaxLen(10_000))
async def bill(message: Message[Order]) -> None:
    """Send a bill, once, however often the order is delivered."""
    order = message.payload
    if order.cents <= 0:
        message.reject("nothing to pay")  # trying again would not help
        return
    if order.customer == "unknown":
        raise LookupError("no such customer")  # perhaps there is one later
    async with message.transaction() as tx:
        tx.send(
            "bills",
            {"order": order.id, "cents": order.cents},
            key=order.customer,
            retention=MaxLen(100_000),
        )
