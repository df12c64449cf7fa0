"""Seams: the places where the client asks for time, chance, threads and its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from penstock import _chance, _clock
from penstock._tasks import consumer_config
from simulation import threads
from simulation.world import World

__all__ = ["installed"]


def _consumer_name() -> str:
    """Return a unique name, which does not depend on the machine and the process."""
    return f"host:1:{_chance.token(4)}"


@contextmanager
def installed(world: World) -> Iterator[None]:
    """Let the client ask a world for time, chance and threads."""
    clock = (_clock.monotonic, _clock.boottime, _clock.wall)
    chance = (_chance.fraction, _chance.below, _chance.token)
    _clock.monotonic = _clock.boottime = world.monotonic
    _clock.wall = world.wall
    _chance.fraction = world.chance.random
    _chance.below = world.chance.randrange
    _chance.token = lambda size: world.chance.randbytes(size).hex()
    try:
        with (
            threads.simulated(),
            patch.object(consumer_config, "consumer_name", _consumer_name),
        ):
            yield
    finally:
        _clock.monotonic, _clock.boottime, _clock.wall = clock
        _chance.fraction, _chance.below, _chance.token = chance
