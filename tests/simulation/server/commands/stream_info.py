"""XINFO."""

from __future__ import annotations

from simulation.server import ids
from simulation.server.groups import Consumer, Group, lag
from simulation.server.resp import Refusal, Reply
from simulation.server.sessions import Caller
from simulation.server.streams import Stream
from simulation.server.table import command, container
from simulation.server.texts import NO_SUCH_KEY, SYNTAX, integer
from simulation.server.versions import Version

__all__: list[str] = []

_KEY = (2, 2, 1)


container("XINFO", "@stream")


def _existing(caller: Caller, key: bytes) -> Stream:
    stream = caller.database.stream(key)
    if stream is None:
        raise Refusal(NO_SUCH_KEY)
    return stream


@command("XINFO|STREAM", -3, "readonly @stream", keys=_KEY)
def xinfo_stream(caller: Caller, words: list[bytes]) -> Reply:
    stream = _existing(caller, words[2])
    version = caller.server.version
    count = _full(words)
    facts: dict[bytes, Reply] = {
        b"length": len(stream),
        b"radix-tree-keys": len(stream.nodes),
        b"radix-tree-nodes": _tree_size(stream),
        b"last-generated-id": ids.text(stream.last_id),
    }
    if version.counts_entries:
        facts[b"max-deleted-entry-id"] = ids.text(stream.max_deleted)
        facts[b"entries-added"] = stream.added
        facts[b"recorded-first-entry-id"] = ids.text(stream.first_id)
    if count is not None:
        facts[b"entries"] = stream.range(0, ids.MAX, count)
        facts[b"groups"] = [
            _full_group(name, stream.groups[name], stream, version, count)
            for name in sorted(stream.groups)
        ]
        return facts
    facts[b"groups"] = len(stream.groups)
    ends = [stream.ids[0], stream.ids[-1]] if stream.ids else []
    first, last = [stream.entries[id_] for id_ in ends] or (None, None)
    facts[b"first-entry"], facts[b"last-entry"] = first, last
    return facts


def _full(words: list[bytes]) -> int | None:
    """Return the number of entries that FULL asks for, -1 for all; None without it."""
    if len(words) == 3:
        return None
    if words[3].upper() != b"FULL" or len(words) not in {4, 6}:
        raise Refusal(SYNTAX)
    if len(words) == 4:
        return 10
    if words[4].upper() != b"COUNT":
        raise Refusal(SYNTAX)
    count = integer(words[5])
    return -1 if count == 0 else 10 if count < 0 else count


def _tree_size(stream: Stream) -> int:
    """Return a number of radix tree nodes; a guess, which no client relies on."""
    return len(stream.nodes) + 1 if stream.nodes else 1


def _full_group(
    name: bytes, group: Group, stream: Stream, version: Version, count: int
) -> Reply:
    facts: dict[bytes, Reply] = {
        b"name": name,
        b"last-delivered-id": ids.text(group.last_id),
    }
    if version.counts_entries:
        facts[b"entries-read"] = group.read
        facts[b"lag"] = lag(group, stream, version)
    facts[b"pel-count"] = len(group.pending)
    listed = list(group.pending)
    facts[b"pending"] = [
        [ids.text(each.id), each.consumer.name, each.time, each.count]
        for each in (listed if count < 0 else listed[:count])
    ]
    facts[b"consumers"] = [
        _full_consumer(group.consumers[each], version, count)
        for each in sorted(group.consumers)
    ]
    return facts


def _full_consumer(consumer: Consumer, version: Version, count: int) -> Reply:
    facts: dict[bytes, Reply] = {b"name": consumer.name, b"seen-time": consumer.seen}
    if version.active_times:
        facts[b"active-time"] = consumer.active
    facts[b"pel-count"] = len(consumer.pending)
    listed = list(consumer.pending)
    facts[b"pending"] = [
        [ids.text(each.id), each.time, each.count]
        for each in (listed if count < 0 else listed[:count])
    ]
    return facts


@command("XINFO|GROUPS", 3, "readonly @stream", keys=_KEY)
def xinfo_groups(caller: Caller, words: list[bytes]) -> Reply:
    stream = _existing(caller, words[2])
    version = caller.server.version
    return [
        _group(name, stream.groups[name], stream, version)
        for name in sorted(stream.groups)
    ]


def _group(name: bytes, group: Group, stream: Stream, version: Version) -> Reply:
    facts: dict[bytes, Reply] = {
        b"name": name,
        b"consumers": len(group.consumers),
        b"pending": len(group.pending),
        b"last-delivered-id": ids.text(group.last_id),
    }
    if version.counts_entries:
        facts[b"entries-read"] = group.read
        facts[b"lag"] = lag(group, stream, version)
    return facts


@command("XINFO|CONSUMERS", 4, "readonly @stream", keys=_KEY)
def xinfo_consumers(caller: Caller, words: list[bytes]) -> Reply:
    stream = _existing(caller, words[2])
    group = stream.groups.get(words[3])
    if group is None:
        raise Refusal(
            b"NOGROUP No such consumer group '%b' for key name '%b'"
            % (words[3], words[2])
        )
    now, version = caller.server.now, caller.server.version
    found = []
    for name in sorted(group.consumers):
        consumer = group.consumers[name]
        facts: dict[bytes, Reply] = {
            b"name": name,
            b"pending": len(consumer.pending),
            b"idle": max(0, now - consumer.seen),
        }
        if version.active_times:
            active = consumer.active
            facts[b"inactive"] = active if active == -1 else max(0, now - active)
        found.append(facts)
    return found
