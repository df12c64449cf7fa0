"""Judgements of a server: from what it says about itself to findings.

What the settings do is from the comments of redis.conf of Redis 6.2, 7.0 and 8 and of
valkey.conf, and from https://redis.io/docs/latest/operate/oss_and_stack/management/
(persistence, replication) and https://redis.io/docs/latest/develop/reference/
(clients, eviction). They mean the same in all of these versions.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Final

from penstock.events import printable
from penstock.monitor.doctor.facts import ServerFacts
from penstock.monitor.doctor.findings import Finding, config_set, fail, note, ok, warn
from penstock.monitor.doctor.persistence import check_persistence

__all__ = ["check_server"]

_SLOW: Final = 0.020  # seconds of a round trip
_FULL: Final = 0.85  # the part of the memory that is used
_LAGGING: Final = 10  # seconds since a replica was heard of, which is each second
_LONG_IDLE: Final = 60  # seconds after which it does no harm to cut an idle client
_CLOCK: Final = 1.0  # seconds by which clocks may differ
_RESP2: Final = 2
_OLDEST: Final = (6, 2)
_COUNTS_LAG: Final = (7, 0)
_SYNCS: Final = (7, 2)


def check_server(facts: ServerFacts) -> Iterator[Finding]:
    """Yield the findings about a server: at least one for each check."""
    yield from _connection(facts)
    yield from _server(facts)
    yield from check_persistence(facts)
    yield from _memory(facts)
    yield from _replication(facts)
    yield from _timeouts(facts)
    yield from _features(facts)
    yield from _clock(facts)


def _connection(facts: ServerFacts) -> Iterator[Finding]:
    encrypted = "TLS" if facts.tls else "no TLS"
    login = "a login" if facts.login else "no login"
    found = f"{facts.address}, database {facts.database}, {encrypted}, {login}"
    if facts.local or (facts.tls and facts.login):
        yield ok("connection", found, "messages pass where nobody else reads them")
    else:
        yield note(
            "connection",
            found,
            "whoever is between here and the server reads messages and passwords"
            if not facts.tls
            else "whoever reaches the server reads and deletes messages",
            None,
        )
    if not facts.round_trips:
        return
    ordered = sorted(facts.round_trips)
    middle = ordered[len(ordered) // 2]
    # Of a hundred replies or fewer, the nearest rank of p99 is the slowest one.
    slowest = ordered[max(0, -(-99 * len(ordered) // 100) - 1)]
    found = (
        f"{len(ordered)} round trips: {1000 * middle:.1f} ms in the middle, "
        f"{1000 * slowest:.1f} ms at p99"
    )
    if slowest > _SLOW:
        yield warn(
            "connection",
            found,
            "each send and each read waits for at least that long; the server is far, "
            "busy, or stopped by slow commands",
            "redis-cli SLOWLOG GET 10",
        )
    else:
        yield ok("connection", found, "sends and reads wait no longer than that")


def _server(facts: ServerFacts) -> Iterator[Finding]:
    fork, version = facts.fork, facts.version
    if fork is None:
        yield note(
            "server",
            "the version is not known: this user may not use INFO",
            "what the server can do is found out by trying",
        )
        return
    found = f"{fork} {facts.version_text or 'of unknown version'}"
    if fork not in {"Redis", "Valkey"}:
        yield warn(
            "server",
            found,
            "Penstock is tested with Redis and Valkey; other servers may keep groups "
            "and pending messages in another way",
        )
    elif version is not None and version < _OLDEST:
        yield fail(
            "server",
            found,
            "commands that groups need came with Redis 6.2: upgrade the server",
        )
    elif version is not None and version < _COUNTS_LAG:
        yield note(
            "server",
            found,
            "the server does not count the lag of groups (7.0), so it may only be "
            "known as a bound; there is no durable= either (7.2)",
        )
    elif version is not None and version < _SYNCS:
        yield note("server", found, "there is no WAITAOF (7.2), and so no durable=")
    else:
        yield ok("server", found, "it has all that Penstock uses")
    if facts.line("redis_mode") == "cluster":
        yield warn(
            "server",
            "a node of a cluster",
            "it has a part of the keys only; streams of other nodes are refused",
        )


def _memory(facts: ServerFacts) -> Iterator[Finding]:
    limit, policy = facts.size("maxmemory"), facts.setting("maxmemory-policy")
    if limit is None or policy is None:
        yield note(
            "memory",
            "not known: this user may use neither CONFIG GET nor INFO",
            "with a limit and an allkeys-* policy, streams may be evicted",
        )
        return
    shown = printable(policy, 40)
    if not limit:
        yield note(
            "memory",
            f"no limit (maxmemory 0), policy {shown}",
            "streams may grow until the system kills the server for its memory",
            # A limit comes first only where it evicts nothing.
            config_set("maxmemory-policy", "noeviction")
            if policy.startswith("allkeys-")
            else config_set("maxmemory", _suggested(facts)),
        )
        return
    found = f"maxmemory {limit:,}, policy {shown}"
    if policy.startswith("allkeys-"):
        yield fail(
            "memory",
            found,
            "when the memory is full, streams are evicted with all their messages and "
            "groups",
            config_set("maxmemory-policy", "noeviction"),
        )
    elif policy.startswith("volatile-"):
        yield note(
            "memory",
            found,
            "streams have no TTL and stay; what idempotent=True keeps has one, and "
            "without it a message may be stored twice",
            config_set("maxmemory-policy", "noeviction"),
        )
    else:
        yield ok("memory", found, "nothing is evicted")
    used = facts.number("used_memory")
    if used is not None and used > _FULL * limit:
        yield warn(
            "memory",
            f"{used / limit:.0%} of maxmemory is used",
            "when it is full, sends are refused (OOM); trim streams, or raise the "
            "limit",
            config_set("maxmemory", str(2 * limit)),
        )


def _suggested(facts: ServerFacts) -> str:
    """Return three quarters of the machine's memory, if the server knows it."""
    total = facts.number("total_system_memory")
    used = facts.number("used_memory") or 0
    return str(max(3 * total // 4, 2 * used)) if total else "1gb"


def _replication(facts: ServerFacts) -> Iterator[Finding]:
    role = facts.line("role")
    if role is None:
        yield note(
            "replication",
            "not known: this user may not use INFO",
            "a failover loses what was confirmed and not passed on",
        )
        return
    if role != "master":
        host = printable(facts.line("master_host") or "?", 100)
        port = printable(facts.line("master_port") or "?", 10)
        yield fail(
            "replication",
            f"this server is a replica of {host}:{port}",
            "it refuses sends, reads in a group and acknowledgements (READONLY); "
            "name the primary in the URL, or sentinels that know it",
            f"penstock doctor --url redis://{host}:{port}",
        )
        return
    replicas = facts.replicas
    if not replicas:
        yield note(
            "replication",
            "no replica",
            "if this machine is lost, so is all that it stores; replicas= can't be "
            "used",
        )
        return
    for replica in replicas:
        if not replica.online or (replica.lag or 0) > _LAGGING:
            behind = (
                "does not follow yet"
                if not replica.online
                else (f"was heard of {replica.lag:,} s ago")
            )
            yield warn(
                "replication",
                f"replica {replica.address} {behind}",
                "a failover to it loses what was confirmed since",
                "redis-cli INFO replication",
            )
    yield _least_replicas(facts, len(replicas))


def _least_replicas(facts: ServerFacts, number: int) -> Finding:
    least = facts.size("min-replicas-to-write")
    found = f"{number} {'replica' if number == 1 else 'replicas'}"
    if least is None:
        return note(
            "replication",
            f"{found}; min-replicas-to-write is not known",
            "a failover loses what was confirmed and not passed on, but for sends "
            "with replicas= and durable=",
        )
    found = f"{found}, min-replicas-to-write {least}"
    if not least:
        return warn(
            "replication",
            found,
            "a primary that is cut off goes on confirming what a failover loses; "
            "send with replicas=, and with durable= if disks count",
            config_set("min-replicas-to-write", "1"),
        )
    return ok(
        "replication",
        found,
        "a failover loses what was confirmed in the last seconds, but for sends with "
        "replicas=",
    )


def _timeouts(facts: ServerFacts) -> Iterator[Finding]:
    found: list[Finding] = []
    idle, keepalive = facts.size("timeout"), facts.size("tcp-keepalive")
    buffers = facts.setting("client-output-buffer-limit")
    if idle is not None and 0 < idle <= _LONG_IDLE:
        found.append(
            warn(
                "timeouts",
                f"timeout {idle}",
                f"connections that are idle for {idle} s are cut, and the next send "
                f"has to connect again",
                config_set("timeout", "0"),
            )
        )
    if keepalive == 0:
        found.append(
            warn(
                "timeouts",
                "tcp-keepalive 0",
                "connections of clients that have vanished stay, and their blocked "
                "reads take messages, which others handle only after the lease",
                config_set("tcp-keepalive", "300"),
            )
        )
    if buffers is not None and not _is_unlimited(buffers):
        found.append(
            warn(
                "timeouts",
                f"client-output-buffer-limit {printable(buffers, 100)}",
                "a read whose reply is larger is cut off, again and again, and the "
                "messages in it are late",
                config_set("client-output-buffer-limit", "'normal 0 0 0'"),
            )
        )
    yield from found
    unknown = [
        name
        for name, value in (
            ("timeout", idle),
            ("tcp-keepalive", keepalive),
            ("client-output-buffer-limit", buffers),
        )
        if value is None
    ]
    if unknown:
        yield note(
            "timeouts",
            f"not known: {', '.join(unknown)}; this user may not use CONFIG GET",
            "the server may cut idle connections, or reads with large replies",
        )
    elif not found:
        yield ok("timeouts", f"timeout {idle}", "the server cuts no connection in use")


def _is_unlimited(buffers: str) -> bool:
    """Return whether ordinary clients have no limit, `normal 0 0 0`."""
    words = buffers.split()
    for place, word in enumerate(words):
        if word == "normal":
            return all(value == "0" for value in words[place + 1 : place + 3])
    return True


def _grant(facts: ServerFacts, refusal: str, words: str) -> str | None:
    """Return what gives the user words; None if it is not the ACL that refuses."""
    if not refusal.startswith("NOPERM"):
        return None
    return f"redis-cli ACL SETUSER {shlex.quote(facts.user or 'USER')} {words}"


def _features(facts: ServerFacts) -> Iterator[Finding]:
    found: list[Finding] = []
    if facts.scripts:
        found.append(
            warn(
                "scripts",
                f"scripts are refused: {facts.scripts}",
                "no idempotent=True and no transactions; a dead letter may be written "
                "twice, and looking at a stream transfers entries",
                _grant(facts, facts.scripts, "+eval +evalsha"),
            )
        )
    if facts.protocol == _RESP2 and not facts.resp2_asked:
        found.append(
            warn(
                "scripts",
                "HELLO is refused",
                "connections speak RESP2, each takes one more round trip, and what a "
                "consumer gives back is noticed after a second",
            )
        )
    if facts.client:
        found.append(
            warn(
                "scripts",
                f"CLIENT is refused: {facts.client}",
                "a blocked read can't be ended: closing takes up to a second, seeking "
                "up to two",
                _grant(facts, facts.client, "'+client|id' '+client|unblock'"),
            )
        )
    if not found:
        found.append(
            ok("scripts", "EVAL, HELLO and CLIENT are allowed", "all of it works")
        )
    yield from found


def _clock(facts: ServerFacts) -> Iterator[Finding]:
    if facts.clock is None:
        yield note(
            "clock",
            "not known: this user may not use TIME",
            "ages and MaxAge are off by as much as the clocks differ",
        )
        return
    found = f"the server's clock is {facts.clock:+.1f} s from this machine's"
    if abs(facts.clock) > _CLOCK:
        yield warn(
            "clock",
            found,
            "ages of messages and MaxAge are off by that",
            "timedatectl set-ntp true",
        )
    else:
        yield ok("clock", found, "ages and MaxAge are right")
