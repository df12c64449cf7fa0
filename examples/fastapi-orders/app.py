"""The web service: it accepts orders, and others handle them."""

from fastapi import FastAPI, HTTPException
from handlers import Order

from penstock import MaxLen, Producer, SendFailed
from penstock.integrations.asgi import lifespan
from penstock.integrations.fastapi import ProducerDep


def create_app(producer: Producer) -> FastAPI:
    """Return the application, which opens the producer when it starts."""
    app = FastAPI(lifespan=lifespan(producer=producer))

    @app.post("/orders/{number}", status_code=202)
    async def order(number: int, item: str, producer: ProducerDep) -> dict[str, str]:
        try:
            receipt = await producer.send("orders", Order(number, item))
        except SendFailed:  # certainly not stored, so the client may try again
            raise HTTPException(503, "try again") from None
        return {"id": str(receipt.id)}

    return app


def app() -> FastAPI:
    """Return the application for uvicorn; the server is that of REDIS_URL."""
    return create_app(Producer(retention=MaxLen(100_000), idempotent=True))
