"""What the handlers of simulated consumers record."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from faults.history import End, History, Start
from simulation.handling import Handler
from simulation.journal import Journal
from simulation.world import World


def _message(number: int, task: str) -> Any:
    return SimpleNamespace(
        epoch=0,
        payload=f"m{number} {task}\n".encode(),
        shard=0,
        id=f"{number}-0",
        attempt=1,
        key="k",
        lost=False,
    )


async def test_all_messages_of_an_interrupted_batch_were_started_in_order() -> None:
    history: History = []
    journal = Journal(World(1), history, "c")
    handler = Handler(
        journal,
        "g",
        lambda: None,
        settles=False,
        mortal=False,
        leaves=False,
        exits=False,
    )
    batch = [_message(1, "hang 9"), _message(2, "ok"), _message(3, "ok")]
    handling = asyncio.create_task(handler.handle_list(batch))
    await asyncio.sleep(0)
    handling.cancel()
    await asyncio.wait([handling])
    assert handling.cancelled()
    starts = [each.message for each in history if isinstance(each, Start)]
    assert starts == ["m1", "m2", "m3"]
    assert [each.ok for each in history if isinstance(each, End)] == [False] * 3
