"""The callbacks of owned shards: what has happened when they are called, and when."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from penstock import Message, Owned, Shard
from support.owned_group import Handler, OwnedGroup, open_group
from support.waiting import eventually, pending


class Recorder:
    """Callbacks that record their calls, and check that they are called one by one.

    Args:
        log: Where to record what has happened.
        label: The member's name in it.
    """

    def __init__(self, log: list[tuple[str, str, int]], label: str) -> None:
        self._log = log
        self._label = label
        self._running = 0
        self.most_running = 0

    def options(self) -> dict[str, Any]:
        """Return the options of a consumer."""
        names = ("assigned", "revoked", "lost")
        return {f"on_{name}": self._callback(name) for name in names}

    def _callback(self, name: str) -> Any:
        async def called(shards: tuple[Shard, ...]) -> None:
            self._running += 1
            self.most_running = max(self.most_running, self._running)
            await asyncio.sleep(0.01)
            for shard in shards:
                self._log.append((name, self._label, shard.number))
            self._running -= 1

        return called


async def test_a_shard_is_assigned_before_its_first_message_and_revoked_after_its_last(
    url: str, stream: str, redis: Any
) -> None:
    """Another member has it after that, and the callbacks never run two at a time."""
    log: list[tuple[str, str, int]] = []

    def handler_of(label: str) -> Handler:
        async def handle(message: Message[bytes]) -> None:
            await asyncio.sleep(0.002)
            log.append(("handled", label, message.shard))

        return handle

    async with open_group(url, stream, redis, 8) as group:
        recorders = {label: Recorder(log, label) for label in "abc"}
        for label, recorder in recorders.items():
            await group.send(60)
            await group.join(label, handler_of(label), **recorder.options())
        await group.settle()
        await group.leave(group.members[0])
        await group.send(60)
        await group.finish()
        await group.settle()
    assert max(recorder.most_running for recorder in recorders.values()) == 1
    for shard in range(8):
        assert_ownerships([(what, who) for what, who, where in log if where == shard])


def assert_ownerships(log: list[tuple[str, str]]) -> None:
    """Check that each ownership begins and ends, and nothing happens between two."""
    owner = None
    for what, who in log:
        if what == "assigned":
            assert owner is None
            owner = who
        else:
            assert owner == who
            assert what in {"handled", "revoked"}
            owner = None if what == "revoked" else who
    assert owner is None


async def test_outcomes_are_on_the_server_when_a_shard_is_revoked(
    url: str, stream: str, redis: Any
) -> None:
    ended_and_pending: list[tuple[int, int]] = []
    owners: list[dict[int, str]] = []

    async def revoked(shards: tuple[Shard, ...]) -> None:
        owners.append(await group.owners())
        left = [await pending(redis, shard.key.decode(), "g") for shard in shards]
        ended_and_pending.append((len(group.ended), sum(left)))

    async def handle(_: Message[bytes]) -> None:
        started.set()
        await asyncio.sleep(0.1)

    started = asyncio.Event()
    async with open_group(url, stream, redis, 1, handle, concurrency=4) as group:
        await group.send(4)
        member = await group.join("m", on_revoked=revoked)
        await started.wait()
        await group.leave(member)
        [(ended, left)] = ended_and_pending
        assert ended == len(group.starts)
        assert ended + left <= group.sent
        assert left == await pending(redis, f"{stream}:0", "g")
        assert owners == [{0: member.consumer.name}]
        assert await group.owners() == {}


async def test_an_on_assigned_that_raises_gives_its_shards_back_for_a_lease(
    url: str, stream: str, redis: Any
) -> None:
    """Then it is called again, and no message is handled before that."""
    calls: list[tuple[float, tuple[Shard, ...]]] = []
    ended: list[Shard] = []

    async def refuse(shards: tuple[Shard, ...]) -> None:
        calls.append((time.monotonic(), shards))
        assert await group.owners() != {}
        if sum(len(each) for _, each in calls) <= 2:
            raise LookupError("no state for these shards")

    async def end(shards: tuple[Shard, ...]) -> None:
        ended.extend(shards)

    async with open_group(url, stream, redis, 2) as group:
        member = await group.join(
            "m", ownership=Owned(lease=1), on_assigned=refuse, on_revoked=end
        )
        await group.finish()
        await group.settle()
        failed = member.events.named("callback_failed")
        assert {event.facts["callback"] for event in failed} == {"on_assigned"}
        assert {event.facts["error"] for event in failed} == {"LookupError"}
        assert sum(len(shards) for _, shards in calls) == 4
        assert calls[-1][0] - calls[0][0] >= 1
        assert ended == []


async def test_a_failing_on_revoked_is_reported_and_the_shard_is_handed_over(
    url: str, stream: str, redis: Any
) -> None:
    async def fail(_: tuple[Shard, ...]) -> None:
        raise LookupError

    async with open_group(url, stream, redis, 4) as group:
        first = await group.join("first", on_revoked=fail)
        await group.settle()
        await group.join("second")
        await group.settle()
        assert first.events.named("callback_failed")


@pytest.mark.parametrize("settle", [0, 2])
async def test_twenty_members_that_start_together_are_assigned_few_shards_in_vain(
    url: str, stream: str, redis: Any, settle: float
) -> None:
    """`on_assigned` takes a while, as if it loaded the state of a shard."""
    assigned: list[Shard] = []

    async def load(shards: tuple[Shard, ...]) -> None:
        assigned.extend(shards)
        await asyncio.sleep(0.2)

    async with open_group(url, stream, redis, 64) as group:
        options: dict[str, Any]
        options = {"ownership": Owned(settle=settle), "on_assigned": load}
        joining = [group.join(f"m{n}", **options) for n in range(20)]
        await asyncio.gather(*joining)
        await group.settle()
        await group.finish()
        assert len(assigned) <= 64 * (1.1 if settle else 2.0)


async def test_an_assignment_in_progress_delays_the_handing_over_until_it_is_over(
    url: str, stream: str, redis: Any
) -> None:
    """So no shard is revoked whose assignment has not returned."""
    release = asyncio.Event()
    log: list[str] = []

    async def load(_: tuple[Shard, ...]) -> None:
        log.append("assigning")
        await release.wait()
        log.append("assigned")

    async def revoked(_: tuple[Shard, ...]) -> None:
        log.append("revoked")

    async with open_group(url, stream, redis, 1) as group:
        slow = await group.join("slow", on_assigned=load, on_revoked=revoked)

        async def assigning() -> bool:
            return log == ["assigning"]

        await eventually(assigning)
        leaving = asyncio.create_task(group.leave(slow))
        await group.join("next")
        assert set((await group.owners()).values()) == {slow.consumer.name}
        release.set()
        await leaving
        await group.settle()
        await group.finish()
        assert log == ["assigning", "assigned", "revoked"]
        assert_all_by(group, "next")


def assert_all_by(group: OwnedGroup, label: str) -> None:
    assert {start.member for start in group.starts} == {label}
