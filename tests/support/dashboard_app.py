"""A module whose handlers do all that the dashboard shows, for `penstock run`."""

from __future__ import annotations

import os

from penstock import KEEP_ALL, Message, Producer, Retry, Router
from penstock.observe.prometheus import register

router = Router(
    retry=Retry(max_attempts=2, backoff=[0.05]),
    dead_letter_retention=KEEP_ALL,
)
producer = Producer(os.environ["REDIS_URL"], retention=KEEP_ALL)
register(producer)


@router.on_start
async def start() -> None:
    """Open the producer."""
    await producer.start()


@router.on_stop
async def stop() -> None:
    """Close the producer."""
    await producer.aclose()


@router.handler(os.environ["TEST_STREAM"], group="billing")
async def charge(message: Message[bytes]) -> None:
    """Send a message, or do what the payload says."""
    match message.payload:
        case b"fail":
            raise ValueError("as it is meant to")
        case b"crash" if message.attempt == 1:
            os._exit(1)
    await producer.send(os.environ["TEST_STREAM"] + ".charged", message.payload)
