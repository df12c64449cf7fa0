"""Judgement of persistence: what a crash of the server loses.

What the settings do is from the comments of redis.conf and valkey.conf, and from
https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/.
"""

from __future__ import annotations

from collections.abc import Iterator

from penstock.events import printable
from penstock.monitor.doctor.facts import ServerFacts
from penstock.monitor.doctor.findings import Finding, config_set, fail, note, ok, warn

__all__ = ["check_persistence"]


def check_persistence(facts: ServerFacts) -> Iterator[Finding]:
    """Yield the findings about append-only files and snapshots: at least one."""
    appends, saves = facts.setting("appendonly"), facts.setting("save")
    if appends == "yes":
        yield _append_only(facts.setting("appendfsync"))
    elif appends is None:
        yield note(
            "persistence",
            "not known: this user may use neither CONFIG GET nor INFO",
            "a crash of the server may lose messages that were confirmed",
        )
    elif saves is None:
        yield note(
            "persistence",
            "no append-only file; whether there are snapshots is not known",
            "a crash loses at least what was sent since the last snapshot",
            config_set("appendonly", "yes"),
        )
    elif not saves:
        yield fail(
            "persistence",
            "neither an append-only file nor snapshots",
            "a restart or crash of the server loses all messages and groups",
            config_set("appendonly", "yes"),
        )
    else:
        yield note(
            "persistence",
            f"snapshots only: save {printable(saves, 60)}",
            f"a crash loses what was sent and acknowledged since the last snapshot, "
            f"up to {_longest(saves)}",
            config_set("appendonly", "yes"),
        )
    yield from _failed_writes(facts)


def _append_only(syncs: str | None) -> Finding:
    found = f"an append-only file, appendfsync {printable(syncs or 'not known', 20)}"
    if syncs == "always":
        return ok("persistence", found, "a crash loses nothing that was confirmed")
    if syncs == "everysec":
        return ok(
            "persistence",
            found,
            "a crash of the machine loses about the last second of confirmed "
            "messages, and two at worst",
        )
    if syncs == "no":
        return warn(
            "persistence",
            found,
            "a crash of the machine loses what its kernel has not written, about 30 "
            "seconds of confirmed messages on Linux",
            config_set("appendfsync", "everysec"),
        )
    return note(
        "persistence",
        found,
        "a crash of the machine loses a second of confirmed messages by default",
    )


def _longest(saves: str) -> str:
    seconds = [int(word) for word in saves.split()[::2] if word.isdecimal()]
    return f"{max(seconds):,} seconds" if seconds else "an unknown time"


def _failed_writes(facts: ServerFacts) -> Iterator[Finding]:
    if facts.line("aof_last_write_status") not in {None, "ok"}:
        yield fail(
            "persistence",
            "the last write to the append-only file failed",
            "the server refuses sends and acknowledgements (MISCONF) until the disk "
            "has space and can be written again",
            "df -h",
        )
    if facts.line("aof_last_bgrewrite_status") not in {None, "ok"}:
        yield warn(
            "persistence",
            "the last rewrite of the append-only file failed",
            "the file grows until the disk is full; see the server's log",
            "redis-cli BGREWRITEAOF",
        )
    if facts.line("rdb_last_bgsave_status") in {None, "ok"}:
        return
    if facts.setting("save") and (
        facts.setting("stop-writes-on-bgsave-error") == "yes"
    ):
        yield fail(
            "persistence",
            "the last snapshot failed",
            "the server refuses sends and acknowledgements (MISCONF) until one "
            "succeeds; see its log",
            "redis-cli BGSAVE",
        )
    else:
        yield warn(
            "persistence",
            "the last snapshot failed",
            "what was sent since the one before is in no snapshot, and replicas that "
            "need one get none; see the server's log",
            "redis-cli BGSAVE",
        )
