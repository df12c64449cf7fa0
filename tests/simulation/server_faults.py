"""Server faults: what happens to the server's process, its state and its permissions.

States are kept for a while and taken back on the server that they were set on, which
may have been replaced by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Final

from simulation.excuses import entries_of, excuse, excuse_missing
from simulation.network import Endpoint, Peer
from simulation.run import ADDRESS
from simulation.server.server import Server

if TYPE_CHECKING:
    from simulation.run import Run

__all__ = ["LOSSES", "SERVER"]

_COMMANDS: Final = (
    *("xack", "xadd", "xclaim", "xautoclaim", "xpending", "xreadgroup", "xread"),
    *("eval", "evalsha", "publish", "subscribe", "xinfo", "multi", "info"),
)
"""Commands that a user may lose the permission to use, except for TYPE and EXISTS."""


async def client_kill(run: Run, chance: Random) -> None:
    """CLIENT KILL, several times."""
    for _ in range(chance.randint(1, 5)):
        run.direct.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(chance.choice((0.05, 0.2, 1.0)))


async def client_pause(run: Run, chance: Random) -> None:
    """CLIENT PAUSE."""
    ms = chance.choice((50, 500, 2500))
    run.direct.call("CLIENT", "PAUSE", ms, chance.choice(("ALL", "WRITE")))
    await asyncio.sleep(ms / 1000)


async def freeze_server(run: Run, chance: Random) -> None:
    """Let the server stand still, at times for longer than timeouts and leases."""
    server = run.server
    server.frozen = True
    await asyncio.sleep(chance.choice((0.05, 0.3, 1.0, 3.0, 7.0)))
    server.frozen = False


async def spoil(run: Run, chance: Random) -> None:
    """Spoil a byte of some replies."""
    for _ in range(chance.randint(1, 5)):
        if there := run.network.connections:
            chance.choice(there).down.spoil()
        await asyncio.sleep(chance.choice((0.0, 0.1, 0.5)))


# -- processes of the server -----------------------------------------------------------


@contextmanager
def _unreachable(run: Run) -> Iterator[None]:
    """Refuse connections for a while."""
    listener = run.network.listeners.pop(ADDRESS)
    try:
        yield
    finally:
        # A failover may have set another one.
        run.network.listeners.setdefault(ADDRESS, listener)


async def restart(run: Run, chance: Random) -> None:
    """Restart the server, which has lost nothing but connections and scripts."""
    async with run.replacing:
        run.server.drop_connections()
        with _unreachable(run):
            await asyncio.sleep(chance.choice((0.0, 0.1, 1.0, 3.0)))
            run.server.restart()
        run.server.guards.loading = True
        await asyncio.sleep(chance.choice((0.0, 0.0, 0.3, 2.0)))
        run.server.guards.loading = False


async def restart_older(run: Run, chance: Random) -> None:
    """Restart the server without the writes of its last moments."""
    async with run.replacing:
        since, snapshot = run.world.time(), run.server.snapshot()
        await asyncio.sleep(chance.uniform(0.05, 1))
        before = entries_of(run)
        run.server.drop_connections()
        run.server.restart(snapshot)
        _excuse_older(run, since, before)
        with _unreachable(run):
            await asyncio.sleep(chance.choice((0.0, 0.1, 1.0)))


async def fail_over(run: Run, chance: Random) -> None:
    """Replace the server by a replica that may be behind."""
    async with run.replacing:
        old, lag = run.server, chance.choice((0.0, 0.01, 0.1, 0.5))
        replica = Server(run.world, Random(chance.random()), old.version)
        old.replicate_to(replica, lambda: lag * chance.random())
        since = run.world.time()
        await asyncio.sleep(chance.uniform(0.1, 2))
        before = entries_of(run)
        old.drop_connections()
        replica.promote()
        run.take_over(replica)
        _excuse_older(run, since, before)
        with _unreachable(run):
            await asyncio.sleep(chance.choice((0.0, 0.3, 1.5)))


def _excuse_older(run: Run, since: float, before: dict[int, set[str]]) -> None:
    """Excuse what a server with older data does: lost entries, and acknowledgements."""
    excuse_missing(run, since, before)
    excuse(run, since, "again")


# -- states that refuse ----------------------------------------------------------------


async def _state(run: Run, chance: Random, name: str) -> None:
    guards = run.server.guards
    setattr(guards, name, True)
    await asyncio.sleep(chance.choice((0.05, 0.3, 1.0, 3.0)))
    setattr(guards, name, False)


async def demote(run: Run, chance: Random) -> None:
    """Make the server a replica for a while: READONLY."""
    server = run.server
    server.demote()
    await asyncio.sleep(chance.choice((0.05, 0.5, 2.0)))
    server.promote()


async def no_memory(run: Run, chance: Random) -> None:
    """Let the server refuse commands that need memory: OOM."""
    await _state(run, chance, "out_of_memory")


async def no_disk(run: Run, chance: Random) -> None:
    """Let the server refuse writes because a snapshot failed: MISCONF."""
    await _state(run, chance, "misconf")


async def busy(run: Run, chance: Random) -> None:
    """Let a script of somebody else run for too long: BUSY."""
    await _state(run, chance, "busy")


async def no_replicas(run: Run, chance: Random) -> None:
    """Demand more replicas than there are: NOREPLICAS."""
    server = run.server
    server.config.replicas_to_write = 3
    await asyncio.sleep(chance.choice((0.05, 0.3, 1.0, 3.0)))
    server.config.replicas_to_write = 0


async def no_permission(run: Run, chance: Random) -> None:
    """Take a permission away for a while: NOPERM."""
    direct = run.direct
    rules: tuple[str, ...] = (f"-{chance.choice(_COMMANDS)}",)
    # Who may not look for shards looks for no more of them, so one has to do.
    if chance.random() < 0.2 and not run.plan.shards:
        rules = ("resetkeys", "~other")
    direct.call("ACL", "SETUSER", "default", *rules)
    await asyncio.sleep(chance.choice((0.05, 0.5, 2.0)))
    direct.call("ACL", "SETUSER", "default", "+@all", "~*")


async def no_scripts(run: Run, chance: Random) -> None:
    """Forbid scripts, as many servers do for good."""
    run.direct.call("ACL", "SETUSER", "default", "-eval", "-evalsha")
    await asyncio.sleep(chance.choice((0.5, 3.0, 2 * run.plan.seconds)))
    run.direct.call("ACL", "SETUSER", "default", "+eval", "+evalsha")


class _Full:
    """A server that has as many clients as it takes."""

    def connected(self, peer: Peer) -> Endpoint:
        """Refuse a connection."""
        peer.send(b"-ERR max number of clients reached\r\n")
        peer.close()
        return self

    def received(self, data: bytes) -> None:
        """Ignore what the client has sent."""

    def closed(self) -> None:
        """Do nothing."""


async def no_room(run: Run, chance: Random) -> None:
    """Let the server take no more clients, after it has lost some."""
    async with run.replacing:
        run.network.listeners[ADDRESS] = _Full()
        if chance.random() < 0.7:
            run.direct.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(chance.choice((0.1, 1.0, 3.0)))
        run.network.listeners[ADDRESS] = run.server


async def forget_scripts(run: Run, chance: Random) -> None:
    """SCRIPT FLUSH, several times."""
    for _ in range(chance.randint(1, 5)):
        run.direct.call("SCRIPT", "FLUSH")
        await asyncio.sleep(chance.choice((0.0, 0.1, 0.5)))


async def set_clock(run: Run, chance: Random) -> None:
    """Set all wall clocks forward or back for a while."""
    skew = chance.choice((-10.0, -1.0, -0.05, 0.05, 3.0, 30.0))
    _set_forward(run, skew)
    await asyncio.sleep(chance.uniform(0, 3))
    _set_forward(run, -skew)


def _set_forward(run: Run, seconds: float) -> None:
    """Set all wall clocks; see docs/explanation/reliability.md for what that ends."""
    run.world.skew += seconds
    if seconds > 0:
        excuse(run, run.world.time(), "leases")


async def dead_letters_of_wrong_type(run: Run, chance: Random) -> None:
    """Have something else where the dead letters should be, for a while."""
    key = chance.choice(run.dead)
    if run.direct.call("TYPE", key) in {b"string", "string"}:
        return  # this fault is under way
    run.direct.call("RENAME", key, f"{key}.away")
    run.direct.call("SET", key, "x")
    await asyncio.sleep(chance.choice((0.1, 1.0, 3.0)))
    if run.direct.call("TYPE", key) in {b"string", "string"}:
        run.direct.call("DEL", key)
    run.direct.call("RENAMENX", f"{key}.away", key)


SERVER: Final = (
    client_kill,
    client_pause,
    freeze_server,
    spoil,
    restart,
    demote,
    no_memory,
    no_disk,
    busy,
    no_replicas,
    no_permission,
    no_scripts,
    no_room,
    forget_scripts,
    set_clock,
    dead_letters_of_wrong_type,
)
"""Faults after which nothing may be lost."""

LOSSES: Final = (restart_older, fail_over)
"""Faults that lose what the server had confirmed."""
