"""Two groups of one stream: one works, the other has a defect until it is repaired."""

import os

from penstock import KEEP_ALL, Retry, Router

router = Router()


@router.handler("orders", group="warehouse", dead_letter_retention=KEEP_ALL)
async def pack(order: dict[str, int]) -> None:
    pass


@router.handler(
    "orders",
    group="billing",
    retry=Retry(max_attempts=2, backoff=[0.1]),
    dead_letter_retention=KEEP_ALL,
)
async def bill(order: dict[str, int]) -> None:
    if order["id"] == 3 and "REPAIRED" not in os.environ:
        raise ZeroDivisionError("the price of order 3")
