# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""Never run: payload types as a user's module names them, for mypy and pyright.

test_type_checkers.py has pyright check it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal, Optional, TypedDict, Union, assert_type

import msgspec
from pydantic import BaseModel, Field

from penstock import (
    EARLIEST,
    Codec,
    Consumer,
    Fields,
    Message,
    Mode,
    Outlet,
    Prefetch,
    Producer,
    Replay,
    Retry,
    Router,
    json_codec,
    msgpack_codec,
    replay,
)


class Animal(BaseModel):
    name: str


class Cat(Animal):
    kind: Literal["cat"] = "cat"


class Dog(Animal):
    kind: Literal["dog"] = "dog"


class Order(msgspec.Struct):
    id: int


@dataclass
class Basket:
    pets: list[Cat | Dog]


class Options(TypedDict):
    loud: bool


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


def consumers() -> None:
    assert_type(Consumer("a"), Consumer[bytes])
    assert_type(Consumer("a", payload=bytes), Consumer[bytes])
    assert_type(Consumer("a", payload=Fields), Consumer[Fields])
    assert_type(Consumer("a", payload=Order), Consumer[Order])
    assert_type(Consumer("a", payload=Cat), Consumer[Cat])
    assert_type(Consumer("a", payload=Basket), Consumer[Basket])
    assert_type(Consumer("a", payload=Options), Consumer[Options])
    assert_type(Consumer("a", payload=list[Cat]), Consumer[list[Cat]])
    assert_type(Consumer("a", payload=Cat | Dog), Consumer[Cat | Dog])
    assert_type(Consumer("a", payload=Cat | None), Consumer[Cat | None])
    assert_type(Consumer("a", payload=Optional[Cat]), Consumer[Cat | None])
    assert_type(Consumer("a", payload=Union[Cat, Dog]), Consumer[Cat | Dog])
    assert_type(Consumer("a", payload=Pet), Consumer[Cat | Dog])
    assert_type(Consumer("a", payload=Literal["x"]), Consumer[Literal["x"]])
    assert_type(Consumer("a", payload=None), Consumer[None])
    assert_type(Consumer("a", codec=json_codec(Cat | Dog)), Consumer[Cat | Dog])
    assert_type(msgpack_codec(Optional[Cat]), Codec[Cat | None])
    # With the other options, too.
    assert_type(
        Consumer(
            "a",
            "b",
            url="redis://localhost",
            group="g",
            mode=Mode.LOAD_BALANCED,
            start=EARLIEST,
            payload=Optional[Cat],
            retry=Retry(max_attempts=2),
            prefetch=Prefetch(max_messages=5),
            max_message_bytes=1000,
        ),
        Consumer[Cat | None],
    )
    Consumer("a", payload=5)  # type: ignore[call-overload]
    Consumer("a", payload=Optional[Cat], colour="red")  # type: ignore[call-overload]
    Consumer("a", payload=Pet, codec=json_codec(Pet))  # type: ignore[call-overload]


def key_of(pet: Cat | Dog) -> str:
    return pet.name


async def outlets(producer: Producer) -> None:
    assert_type(producer.to("a"), Outlet[Any])
    assert_type(producer.to("a", payload=Cat), Outlet[Cat])
    assert_type(producer.to("a", payload=Cat | Dog), Outlet[Cat | Dog])
    assert_type(producer.to("a", payload=Optional[Cat]), Outlet[Cat | None])
    pets = producer.to(
        "a",
        payload=Pet,
        key=key_of,
        timeout=timedelta(seconds=1),
        retention=None,
        replicas=1,
        durable=True,
    )
    assert_type(pets, Outlet[Cat | Dog])
    await pets.send(Dog(name="x"))
    await pets.send_many([Dog(name="x"), Cat(name="y")])
    await pets.send(Order(1))  # type: ignore[arg-type]
    producer.to("a", payload=Optional[Cat], key=key_of)  # type: ignore[call-overload]


async def replays() -> None:
    assert_type(replay("a"), Replay[bytes])
    assert_type(replay("a", payload=Cat), Replay[Cat])
    assert_type(replay("a", payload=Cat | Dog), Replay[Cat | Dog])
    assert_type(
        replay("a", EARLIEST, "5-1", payload=Pet, url=None, shards=2, reverse=True),
        Replay[Cat | Dog],
    )
    async for message in replay("a", payload=Optional[Cat]):
        assert_type(message, Message[Cat | None])
        assert_type(message.payload, Cat | None)


# -- a handler of the base class fits a consumer of a subclass -------------------------


async def on_animal(message: Message[Animal]) -> None:
    assert_type(message.payload.name, str)


async def on_any(message: Message[object]) -> None: ...
async def on_cat(message: Message[Cat]) -> None: ...
async def on_animals(messages: list[Message[Cat]]) -> None: ...


async def handlers(cats: Consumer[Cat], pets: Consumer[Cat | Dog]) -> None:
    await cats.run(on_cat)
    await cats.run(on_animal)
    await cats.run(on_any)
    await pets.run(on_animal)
    await pets.run(on_cat)  # type: ignore[arg-type]
    await cats.run(on_animals, batch=5)
    handler: Callable[[Message[Cat]], Awaitable[None]] = on_animal
    await handler(await cats.next())


async def covariant(message: Message[Cat]) -> Message[Animal]:
    return message


router = Router()


@router.handler("pets", group="vet")
async def cure(pet: Cat | Dog) -> None:
    assert_type(pet.name, str)


@router.handler("pets", group="names")
async def name(message: Message[Optional[Cat]]) -> None:
    assert_type(message.payload, Cat | None)


@router.handler("pets", group="all", payload=Optional[Cat])
async def anything(message: Message[object]) -> None: ...
