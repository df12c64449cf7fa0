"""What happens with orders after they were accepted."""

from dataclasses import dataclass

from penstock import MaxLen, Retry, Router

router = Router()


@dataclass
class Order:
    id: int
    item: str


@router.handler(
    "orders",
    group="warehouse",
    retry=Retry(max_attempts=5),
    dead_letter_retention=MaxLen(10_000),
)
async def pack(order: Order) -> None:
    print("packed", order.item, flush=True)
