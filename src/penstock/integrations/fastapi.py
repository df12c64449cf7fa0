"""FastAPI: the producer of the lifespan as a dependency."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fastapi import Depends
from starlette.requests import HTTPConnection

from penstock.errors import ConfigurationError
from penstock.producer import Producer

__all__ = ["ProducerDep"]


def _producer(connection: HTTPConnection) -> Producer:
    """Return the producer that the application's lifespan has opened."""
    producer = getattr(connection.state, "producer", None)
    if not isinstance(producer, Producer):
        raise ConfigurationError(
            "this application has no producer; pass FastAPI("
            "lifespan=penstock.integrations.asgi.lifespan(producer=Producer(url)))"
        )
    return producer


ProducerDep: TypeAlias = Annotated[Producer, Depends(_producer)]
"""The type of a parameter that gets the producer of the lifespan.

Example:
    ```python
    @app.post("/orders", status_code=202)
    async def create(order: Order, producer: ProducerDep) -> None:
        await producer.send("orders", order, key=order.customer)
    ```
"""
