"""Background tasks end in order or by a cut, and not because others are cancelled."""

from __future__ import annotations

import asyncio

import anyio

from penstock._tasks.task_scopes import StoppableTask


class Worker(StoppableTask):
    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.wake = asyncio.Event()

    async def run(self) -> None:
        with self._until_cut():
            self.begun.set()
            await self.wake.wait()


async def test_a_cancelled_group_leaves_it_running_until_it_ends_by_itself() -> None:
    worker = Worker()
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await worker.begun.wait()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(0.01)
            assert not worker.has_ended
            worker.wake.set()
            await worker.ended()
    assert worker.has_ended


async def test_a_cut_ends_it_now() -> None:
    worker = Worker()
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        await worker.begun.wait()
        worker.cut()
        await worker.ended()


async def test_it_can_run_again_after_it_has_ended() -> None:
    worker = Worker()
    worker.cut()
    await worker.run()
    assert worker.has_ended
    worker.revive()
    assert not worker.has_ended
    worker.wake.set()
    await worker.run()
    assert worker.has_ended
