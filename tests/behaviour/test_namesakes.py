"""Two consumers with one name in a group: nothing is lost, and it is reported."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import LOAD_BALANCED, RESUMABLE, Consumer
from support.events import Events
from support.waiting import eventually, numbers, pending, read, send


@pytest.mark.parametrize("mode", [RESUMABLE, LOAD_BALANCED])
async def test_two_consumers_with_one_name_lose_nothing_and_are_reported(
    url: str, stream: str, redis: Any, mode: Any, events: Events
) -> None:
    """W20: when it opens, each takes the other's pending entries for its own."""
    await send(url, stream, *range(20))
    same: dict[str, Any] = {"url": url, "group": "g", "name": "me", "mode": mode}
    async with Consumer(stream, **same, on_event=events) as one:
        seen = numbers(await read(one, 3))
        assert not events.named("name_in_use")
        async with Consumer(stream, **same, on_event=events) as two:
            await eventually(lambda: reported(events, "name_in_use"))
            for consumer in (one, two):
                while (message := await consumer.next(timeout=0.2)) is not None:
                    seen.append(int(message.payload))
    assert set(seen) == set(range(20))
    # Only messages that the first one held when the second one opened come twice.
    assert len(seen) <= 40
    assert await pending(redis, stream, "g") == 0
    [event] = events.named("name_in_use")
    assert event.facts["consumer"] == "me"


async def reported(events: Events, name: str) -> bool:
    return bool(events.named(name))


async def test_a_restart_with_the_same_name_is_not_reported(
    url: str, stream: str, events: Events
) -> None:
    for _ in range(3):
        async with Consumer(
            stream, url=url, group="g", name="me", on_event=events
        ) as consumer:
            assert await consumer.next(timeout=0.1) is None
    assert not events.named("name_in_use")
