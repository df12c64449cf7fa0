"""An example: sends orders until it is stopped, and serves metrics at port 8080."""

import asyncio
import os
import signal
from pathlib import Path

from prometheus_client import start_http_server

from penstock import MaxLen, Producer
from penstock.observe.prometheus import register
from shop import Order


async def main() -> None:
    """Send ten orders a second."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    ready = Path(os.environ["PENSTOCK_READY_FILE"])
    producer = Producer(os.environ["PENSTOCK_URL"], retention=MaxLen(100_000))
    register(producer)
    start_http_server(8080)
    async with producer:
        number = 0
        while not stopped.is_set():
            number += 1
            await producer.send("orders", Order(number, number % 14))
            ready.touch()  # the container's health check looks for it
            try:
                await asyncio.wait_for(stopped.wait(), 0.1)
            except TimeoutError:
                continue


asyncio.run(main())
