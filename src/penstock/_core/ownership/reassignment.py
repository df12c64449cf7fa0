"""Reassignment: a target in which an operator has given a shard to a certain member.

Members bring any target into balance that is not, see `plan`. So a shard that was only
given to another member could be given back by the next beat, or any other shard of that
member's taken from it. The targets here are balanced, and stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from penstock._core.ownership.target import Target, plan

__all__ = ["reassign"]


def reassign(
    target: Target,
    members: Mapping[str, int],
    shard: int,
    to: str,
    pending: Mapping[int, int],
) -> Target:
    """Return a balanced target in which a shard is a certain member's.

    One shard more changes its member where one move would leave the target out of
    balance. It is one of the receiving member's, with the fewest pending entries, since
    it is drained and recovered by its new owner. If that member has no other (which is
    possible only where weights differ), it is another member's.

    Args:
        target: The target so far. If it does not suit the members, the result also has
            the moves that any of them would make.
        members: The weight of each member.
        shard: A shard of the target.
        to: The member that gets it.
        pending: The number of pending entries of the shards.
    """
    balanced = plan(target, members, target)
    if balanced[shard] == to:
        return balanced
    former = balanced[shard]
    moved = {**balanced, shard: to}
    others = sorted(
        (number for number, name in balanced.items() if name != former),
        key=lambda other: (balanced[other] != to, pending.get(other, 0), -other),
    )
    possible = chain([moved], ({**moved, other: former} for other in others))
    # There always is one that stays: see the tests.
    return next(each for each in possible if plan(each, members, each) == each)
