"""Faults: each is done to a run, lasts a while, and is over when it returns.

What it does is decided by its own `Random`, so that a plan brings it again. Whatever a
fault does to the messages that no client could prevent is recorded as an excuse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING, Final, TypeAlias

from simulation import foreign, server_faults
from simulation.network import Connection
from simulation.plan import ProducerPlan

if TYPE_CHECKING:
    from simulation.run import ReplaceableProcess, Run

__all__ = ["FAMILIES", "KINDS", "Fault"]

Fault: TypeAlias = Callable[["Run", Random], Awaitable[None]]


# -- the network -----------------------------------------------------------------------


def _connections(run: Run, chance: Random) -> list[Connection]:
    """Choose one connection, all those of a process, or all."""
    there = run.network.connections
    if not there:
        return []
    one = chance.choice(there)
    which = chance.random()
    if which < 0.6:
        return [one]
    return run.network.of(one.loop.name) if which < 0.9 else list(there)


async def reset(run: Run, chance: Random) -> None:
    """Break connections at once."""
    for connection in _connections(run, chance):
        connection.reset()


async def cut_off(run: Run, chance: Random) -> None:
    """Break connections without telling the server, which keeps blocked reads."""
    for connection in _connections(run, chance):
        connection.cut_off()


async def break_reply(run: Run, chance: Random) -> None:
    """Break connections after some more bytes have reached the client.

    So the server has executed commands whose replies are lost, in part or altogether.
    """
    for connection in _connections(run, chance):
        connection.down.break_after(chance.choice((0, 0, 1, 10, 100, 1000)))
    await asyncio.sleep(chance.uniform(0, 3))


async def break_request(run: Run, chance: Random) -> None:
    """Break connections after some more bytes have reached the server."""
    for connection in _connections(run, chance):
        connection.up.break_after(chance.choice((0, 1, 10, 100, 1000)))
    await asyncio.sleep(chance.uniform(0, 3))


async def silence(run: Run, chance: Random) -> None:
    """Let nothing arrive in one direction or both, for a while."""
    seconds = chance.choice((0.1, 0.5, 1.0, 3.0, 8.0))
    ways = chance.choice(("up", "down", "both"))
    for connection in _connections(run, chance):
        if ways != "down":
            connection.up.silence(seconds)
        if ways != "up":
            connection.down.silence(seconds)
    await asyncio.sleep(seconds)


async def hold_requests(run: Run, chance: Random) -> None:
    """Let the requests of consumers arrive late, though no connection ends.

    Those of one connection overtake them: of the first one, on which shards are freed.
    """
    seconds = chance.choice((0.3, 0.6, 1.0))
    for replaceable in run.consumers:
        if replaceable.alive and replaceable.process is not None:
            for connection in run.network.of(replaceable.process.name)[1:]:
                connection.up.silence(seconds)
    await asyncio.sleep(seconds)


async def silence_and_reset(run: Run, chance: Random) -> None:
    """Let nothing arrive for a while, and break the connections then."""
    chosen = _connections(run, chance)
    seconds = chance.choice((0.05, 0.5, 2.0, 4.0))
    for connection in chosen:
        if chance.random() < 0.7:
            connection.down.silence(seconds + 1)
        if chance.random() < 0.4:
            connection.up.silence(seconds + 1)
    await asyncio.sleep(seconds)
    for connection in chosen:
        connection.reset()


async def refuse(run: Run, chance: Random) -> None:
    """Break all connections of a process, and refuse new ones for a while."""
    replaceable = _living(run, chance)
    if replaceable is None or replaceable.process is None:
        return
    seconds = chance.choice((0.0, 0.3, 1.5, 5.0))
    conditions = run.network.conditions(replaceable.process.name)
    conditions.refused_until = run.world.time() + seconds
    for connection in list(run.network.of(replaceable.process.name)):
        connection.reset()
    await asyncio.sleep(seconds)


async def unreachable(run: Run, chance: Random) -> None:
    """Let a process reach nothing for a while: silence, and no answer to a SYN."""
    replaceable = _living(run, chance)
    if replaceable is None or replaceable.process is None:
        return
    seconds = chance.choice((0.3, 1.5, 4.0, 8.0))
    conditions = run.network.conditions(replaceable.process.name)
    conditions.silent_until = run.world.time() + seconds
    for connection in run.network.of(replaceable.process.name):
        connection.up.silence(seconds)
        connection.down.silence(seconds)
    await asyncio.sleep(seconds)


async def slow(run: Run, chance: Random) -> None:
    """Make the network of a process slow for a while."""
    replaceable = _living(run, chance)
    if replaceable is None or replaceable.process is None:
        return
    conditions, usual = (
        run.network.conditions(replaceable.process.name),
        run.conditions(),
    )
    conditions.delay, conditions.jitter = chance.choice(
        ((0.05, 0.05), (0.3, 0.3), (0.001, 0.5))
    )
    conditions.pieces = chance.choice((0.1, 1.0))
    conditions.slowed += 1
    await asyncio.sleep(chance.uniform(0.5, 4))
    conditions.slowed -= 1
    # The network may have become slow once more in the meantime.
    if not conditions.slowed:
        conditions.delay, conditions.jitter = usual.delay, usual.jitter
        conditions.pieces = usual.pieces


# -- processes -------------------------------------------------------------------------


def _living(run: Run, chance: Random) -> ReplaceableProcess | None:
    there = [
        replaceable
        for replaceable in (*run.consumers, *run.producers)
        if replaceable.alive
    ]
    return chance.choice(there) if there else None


def _replaceable(run: Run, chance: Random) -> ReplaceableProcess | None:
    """Choose a process that may be ended: REALTIME would lose messages."""
    there = [
        replaceable
        for replaceable in (*run.consumers, *run.producers)
        if replaceable.alive and not replaceable.realtime
    ]
    return chance.choice(there) if there else None


async def kill(run: Run, chance: Random) -> None:
    """SIGKILL a process, and start it again at some time."""
    replaceable = _replaceable(run, chance)
    if replaceable is None or replaceable.process is None:
        return
    machine = chance.random() < 0.2
    replaceable.kill(machine=machine)
    wait = chance.choice((0.0, 0.1, 1.0, 5.0))
    # The server holds the last read of a vanished machine for two seconds, and gives it
    # the next message (docs/explanation/ordering.md).
    await asyncio.sleep(max(wait, 2.5) if machine else wait)
    _restart(replaceable, chance)


async def terminate(run: Run, chance: Random) -> None:
    """SIGTERM a consumer's process, and start it again when it has ended."""
    replaceable = _replaceable(run, chance)
    if (
        replaceable is None
        or replaceable.process is None
        or isinstance(replaceable.plan, ProducerPlan)
    ):
        return
    process = replaceable.process
    process.terminate()
    patience = run.world.time() + 60
    while process.alive and run.world.time() < patience:
        await asyncio.sleep(0.1)
    if process.alive:
        run.fail("hangs", f"{process.name} does not end")
    if process is replaceable.process:
        await asyncio.sleep(chance.choice((0.0, 1.0)))
        _restart(replaceable, chance)


def _restart(replaceable: ReplaceableProcess, chance: Random) -> None:
    # Another fault may have restarted it in the meantime.
    if not replaceable.alive and not replaceable.finished:
        replaceable.start(renamed=chance.random() < 0.5)


async def freeze(run: Run, chance: Random) -> None:
    """Let a process stand still, at times for longer than its lease."""
    replaceable = _living(run, chance)
    if replaceable is None or replaceable.process is None:
        return
    seconds = chance.choice((0.05, 0.3, 1.0, 3.0, 7.0))
    replaceable.process.freeze(seconds)
    await asyncio.sleep(seconds)


async def freeze_all(run: Run, chance: Random) -> None:
    """Let all consumers stand still."""
    seconds = chance.choice((0.3, 3.0, 7.0))
    for replaceable in run.consumers:
        if replaceable.alive and replaceable.process is not None:
            replaceable.process.freeze(seconds + chance.random())
    await asyncio.sleep(seconds + 1)


_FAMILIES: Final[dict[str, tuple[Fault, ...]]] = {
    "network": (
        reset,
        cut_off,
        break_reply,
        break_request,
        silence,
        silence_and_reset,
        refuse,
        unreachable,
        slow,
    ),
    "processes": (kill, terminate, freeze, freeze_all),
    "server": server_faults.SERVER,
    "groups": foreign.GROUPS,
    "losses": (*server_faults.LOSSES, *foreign.LOSSES),
}

FAMILIES: Final = {
    family: [fault.__name__ for fault in faults] for family, faults in _FAMILIES.items()
}
"""The names of faults by family; only the last one may lose messages."""

# Faults that only plans with owned shards have.
_OWNED: Final[tuple[Fault, ...]] = (hold_requests, foreign.grow)

KINDS: Final = {
    fault.__name__: fault
    for faults in (*_FAMILIES.values(), _OWNED)
    for fault in faults
}
"""All faults by name."""
