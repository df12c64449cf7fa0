"""Seams: the places where the client asks for time, chance and threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from penstock import _chance, _clock
from simulation import threads
from simulation.world import World

__all__ = ["installed"]


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
        with threads.simulated():
            yield
    finally:
        _clock.monotonic, _clock.boottime, _clock.wall = clock
        _chance.fraction, _chance.below, _chance.token = chance
