"""An example: handlers of a stream of orders, for `penstock run shop:router`."""

import asyncio

import msgspec

from penstock import MaxLen, Retry, Router

router = Router(
    retry=Retry(max_attempts=3),
    dead_letter_retention=MaxLen(10_000),
)


class Order(msgspec.Struct):
    """An order, as it is in the stream in JSON."""

    id: int
    pounds: int


@router.handler("orders", group="billing", concurrency=8)
async def charge(order: Order) -> None:
    """Charge an order; those of no pounds fail, so that there is something to see."""
    await asyncio.sleep(0.02)
    if order.pounds == 0:
        raise ValueError("an order of nothing")
