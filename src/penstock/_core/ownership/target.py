"""The target: which member of a group should have which shard.

Any member may compute it, from the same facts, and all get the same. So it needs no
leader: the first to store its result wins, and the others find it there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

import msgspec

__all__ = ["Target", "decode", "encode", "plan"]

Target: TypeAlias = Mapping[int, str]
"""The member of each shard, by the shard's number."""


def plan(old: Target, members: Mapping[str, int], shards: Iterable[int]) -> Target:
    """Return a balanced target with the fewest moves.

    A member gets its share by weight, rounded down or up. With equal weights the loads
    differ by one at most. A target that is balanced already stays as it is.

    Args:
        old: The target so far.
        members: The weight of each member, from 1.
        shards: The shards to be had.
    """
    wanted = sorted(set(shards))
    had: dict[str, list[int]] = {name: [] for name in sorted(members)}
    for shard in wanted:
        if (owner := old.get(shard)) in had:
            had[owner].append(shard)
    loads = _loads({name: len(own) for name, own in had.items()}, members, len(wanted))
    target = {shard: name for name, own in had.items() for shard in own[: loads[name]]}
    room = {name: loads[name] - min(loads[name], len(own)) for name, own in had.items()}
    for shard in wanted:
        if shard not in target and room:
            name = max(room, key=room.__getitem__)
            target[shard] = name
            room[name] -= 1
    return dict(sorted(target.items()))


def _loads(
    had: Mapping[str, int], weights: Mapping[str, int], total: int
) -> dict[str, int]:
    """Return the number of shards for each member.

    Where a share is not whole, those that have more than its lower number keep one
    more: each of them saves a move. Then come the largest remainders, then the names.
    """
    whole = sum(weights.values())
    loads = {name: total * weights[name] // whole for name in had}
    rest = {name: total * weights[name] % whole for name in had}
    more = sorted(
        (name for name in had if rest[name]),
        key=lambda name: (had[name] <= loads[name], -rest[name], name),
    )
    for name in more[: total - sum(loads.values())]:
        loads[name] += 1
    return loads


# Each member with its shards: the first one's number, then how much higher each next
# one is. Most numbers take a byte.
_Packed: TypeAlias = dict[str, list[int]]
_decoder: Final = msgspec.msgpack.Decoder(_Packed)


def encode(target: Target) -> bytes:
    """Pack a target for the group's hash; about a byte per shard."""
    packed: _Packed = {}
    last: dict[str, int] = {}
    for shard, name in sorted(target.items()):
        packed.setdefault(name, []).append(shard - last.get(name, 0))
        last[name] = shard
    return msgspec.msgpack.encode(packed, order="sorted")


def decode(raw: bytes) -> Target | None:
    """Unpack a target; None if it is not one, so that it is computed anew."""
    try:
        packed = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    target: dict[int, str] = {}
    for name, gaps in packed.items():
        shard = 0
        for gap in gaps:
            shard += gap
            if gap < 0 or shard in target:
                return None
            target[shard] = name
    return dict(sorted(target.items()))
