"""Dead letters as a consumer writes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from penstock import EntryId, Shard
from penstock._core.messages import dead_letter, envelope
from penstock._core.messages.dead_letter import Origin


def shard(stream: str, number: int | None = None) -> Shard:
    """Return a shard of a stream; None for a stream that is one key."""
    if number is None:
        return Shard(stream, 0, stream.encode())
    return Shard(stream, number, f"{stream}:{number}".encode())


def origin(stream: str, number: int | None = None, **changes: Any) -> Origin:
    """Return the origin of a dead letter."""
    made = Origin(
        shard=shard(stream, number),
        id="5-1",
        group="billing",
        consumer="host:1:ab",
        attempts=5,
        reason="ValueError: 5 attempts failed",
        error="ValueError",
        traceback='Traceback (most recent call last):\n  File "a.py"\nValueError: no',
        time="2026-03-01T12:00:00.250+00:00",
    )
    return replace(made, **changes)


async def write_dead_letter(
    redis: Any,
    stream: str,
    body: bytes = b"x",
    number: int | None = None,
    *,
    fields: Any = None,
    into: str | None = None,
    **changes: Any,
) -> EntryId:
    """Write a dead letter; return its id."""
    own = envelope.pack(body, "k", {"h": "1"}) if fields is None else fields
    written = dead_letter.write(own, origin(stream, number, **changes))
    key = into or dead_letter.default_stream(stream)
    return EntryId.parse(await redis.execute_command("XADD", key, "*", *written))


async def bodies(redis: Any, key: str) -> list[bytes]:
    """Return the payloads of a stream in order."""
    return [fields[b"msg"] for _, fields in await redis.xrange(key)]


async def origins(redis: Any, stream: str) -> dict[int, dead_letter.Origin]:
    """Return the origins of a stream's dead letters by their messages' numbers."""
    found = {}
    raw = await redis.xrange(f"{stream}.dead")
    for _, fields in raw:
        flat = [word for pair in fields.items() for word in pair]
        decoded = dead_letter.read(flat)
        assert decoded is not None
        found[int(fields[b"msg"].split()[0])] = decoded[1]
    assert len(found) == len(raw), "a message has two dead letters"
    return found
