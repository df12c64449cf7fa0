"""Choices: what the options are chosen from that most consumers have."""

from __future__ import annotations

from random import Random
from typing import Any, Final

from simulation import swarm

__all__ = ["CLAIMS", "common"]

CLAIMS: Final = (
    {"idle": 2.0, "interval": 0.5},
    {"idle": 2.0, "interval": 1.0},
    {"idle": 5.0, "interval": 1.0},
    {"idle": 0.8, "interval": 0.2},
)
_COMMITS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {},
    {"interval": 0},
    {"interval": 1.0},
    {"max_pending": 3},
)
_PREFETCH: Final[tuple[dict[str, Any], ...]] = (
    {},
    {},
    {},
    {"max_messages": 5},
    {"max_bytes": 4000},
    {"max_messages": 1},
)
_RETRIES: Final = (
    {"max_attempts": 3, "backoff": [0.05, 0.2]},
    {"max_attempts": 2, "backoff": [0.5]},
    {"max_attempts": 5, "backoff": [0.0]},
    {"max_attempts": 1},
)
_CLOSING: Final[tuple[dict[str, Any], ...]] = (
    {},
    {},
    {"close_timeout": 0.0},
    {"close_timeout": 1.0},
)


def common(chance: Random) -> dict[str, Any]:
    """Return options that all consumers of a group have in common."""
    return {
        "claim": chance.choice(CLAIMS),
        "commit": chance.choice(_COMMITS),
        "prefetch": chance.choice(_PREFETCH),
        "retry": {**chance.choice(_RETRIES), **swarm.retry(chance)},
        **swarm.dead_letters(chance),
        **chance.choice(_CLOSING),
    }
