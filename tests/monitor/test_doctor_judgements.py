"""What `penstock doctor` says of facts: each rule on both sides of its limit."""

from __future__ import annotations

from typing import Any

import pytest

from penstock._core.protocol.replies import ErrorReply
from penstock.monitor.doctor.facts import ServerFacts, lines
from penstock.monitor.doctor.findings import Finding, Level
from penstock.monitor.doctor.permissions import best, check_permissions
from penstock.monitor.doctor.probes import (
    Answer,
    Probe,
    dryrun_answer,
    probes,
    tried_answer,
)
from penstock.monitor.doctor.roles import PERMISSIONS, Role
from penstock.monitor.doctor.server_checks import check_server

INFO = {"redis_version": "8.0.1", "role": "master", "used_memory": "10"}
SETTINGS = {
    "appendfsync": "everysec",
    "appendonly": "yes",
    "client-output-buffer-limit": "normal 0 0 0 slave 268435456 67108864 60",
    "maxmemory": "1000",
    "maxmemory-policy": "noeviction",
    "min-replicas-to-write": "1",
    "save": "",
    "stop-writes-on-bgsave-error": "yes",
    "tcp-keepalive": "300",
    "timeout": "0",
}


def judged(check: str, **facts: Any) -> list[Finding]:
    settings = {**SETTINGS, **facts.pop("settings", {})}
    info = facts.pop("info", {})
    facts["info"] = None if info is None else {**INFO, **info}
    if facts.pop("no_config", False):
        settings = {}
    all_ = check_server(ServerFacts(settings=settings, clock=0.0, **facts))
    return [finding for finding in all_ if finding.check == check]


def levels(check: str, **facts: Any) -> list[str]:
    return [finding.level.value for finding in judged(check, **facts)]


def one_replica(**values: object) -> dict[str, str]:
    words = {"ip": "10.0.0.2", "port": 6379, "state": "online", "lag": 0, **values}
    return {"slave0": ",".join(f"{name}={value}" for name, value in words.items())}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, ["ok"]),
        ({"local": False}, ["note"]),
        ({"local": False, "tls": True}, ["note"]),
        ({"local": False, "login": True}, ["note"]),
        ({"local": False, "tls": True, "login": True}, ["ok"]),
        ({"round_trips": (0.02,) * 20}, ["ok", "ok"]),
        ({"round_trips": (*(0.001,) * 19, 0.0201)}, ["ok", "warn"]),
    ],
)
def test_the_connection(facts: Any, expected: list[str]) -> None:
    assert levels("connection", **facts) == expected


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"redis_version": "6.0.16"}, ["fail"]),
        ({"redis_version": "6.2.0"}, ["note"]),
        ({"redis_version": "7.0.15"}, ["note"]),
        ({"redis_version": "7.2.0"}, ["ok"]),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.0"}, ["ok"]),
        ({"redis_version": "8.2.1"}, ["ok"]),
        ({"redis_version": "7.4.0", "dragonfly_version": "df-v1.2"}, ["warn"]),
        ({"redis_version": "7.4.0", "server_name": "other"}, ["warn"]),
        ({"redis_mode": "cluster"}, ["ok", "warn"]),
        (None, ["note"]),
    ],
)
def test_the_server(info: Any, expected: list[str]) -> None:
    assert levels("server", info=info) == expected


def test_an_old_server_is_told_which_features_are_off() -> None:
    [old] = judged("server", info={"redis_version": "6.2.14"})
    assert "lag" in old.meaning
    assert "durable=" in old.meaning
    [newer] = judged("server", info={"redis_version": "7.0.15"})
    assert "lag" not in newer.meaning
    assert "WAITAOF" in newer.meaning


FAILED_SAVE = {"rdb_last_bgsave_status": "err"}


@pytest.mark.parametrize(
    ("settings", "info", "expected"),
    [
        ({}, {}, ["ok"]),
        ({"appendfsync": "always"}, {}, ["ok"]),
        ({"appendfsync": "no"}, {}, ["warn"]),
        ({"appendonly": "no", "save": "3600 1 60 100"}, {}, ["note"]),
        ({"appendonly": "no"}, {}, ["fail"]),
        ({}, {"aof_last_write_status": "err"}, ["ok", "fail"]),
        ({}, {"aof_last_bgrewrite_status": "err"}, ["ok", "warn"]),
        ({}, FAILED_SAVE, ["ok", "warn"]),
        ({"save": "60 1"}, FAILED_SAVE, ["ok", "fail"]),
        (
            {"save": "60 1", "stop-writes-on-bgsave-error": "no"},
            FAILED_SAVE,
            ["ok", "warn"],
        ),
    ],
)
def test_persistence(settings: Any, info: Any, expected: list[str]) -> None:
    assert levels("persistence", settings=settings, info=info) == expected


def test_persistence_says_how_many_seconds_a_crash_loses() -> None:
    snapshots = {"appendonly": "no", "save": "60 1 3600 100"}
    [found] = judged("persistence", settings=snapshots)
    assert "3,600 seconds" in found.meaning
    [found] = judged("persistence", settings={"appendfsync": "no"})
    assert "30 seconds" in found.meaning
    [found] = judged("persistence")
    assert "last second" in found.meaning


def test_what_config_does_not_tell_comes_from_info_or_is_not_known() -> None:
    [found] = judged("persistence", no_config=True, info={"aof_enabled": "1"})
    assert found.level is Level.NOTE
    assert "appendfsync not known" in found.found
    [found] = judged("persistence", no_config=True, info={"aof_enabled": "0"})
    assert "not known" in found.found
    [found] = judged("persistence", no_config=True, info=None)
    assert "not known" in found.found
    limits = {"maxmemory": "1000", "maxmemory_policy": "allkeys-lru"}
    assert levels("memory", no_config=True, info=limits) == ["fail"]
    for check in ("memory", "replication", "timeouts", "server"):
        [found] = judged(check, no_config=True, info=None)
        assert found.level is Level.NOTE
        assert "not known" in found.found


@pytest.mark.parametrize(
    ("limit", "policy", "used", "expected"),
    [
        (1000, "noeviction", 850, ["ok"]),
        (1000, "noeviction", 851, ["ok", "warn"]),
        (1000, "allkeys-lfu", 10, ["fail"]),
        (1000, "volatile-ttl", 10, ["note"]),
        (0, "noeviction", 10, ["note"]),
        (0, "allkeys-lru", 10, ["note"]),
    ],
)
def test_memory(limit: int, policy: str, used: int, expected: list[str]) -> None:
    settings = {"maxmemory": str(limit), "maxmemory-policy": policy}
    info = {"used_memory": str(used)}
    assert levels("memory", settings=settings, info=info) == expected


@pytest.mark.parametrize(
    ("info", "least", "expected"),
    [
        ({}, "0", ["note"]),
        ({"role": "slave", "master_host": "h", "master_port": "1"}, "0", ["fail"]),
        (one_replica(), "1", ["ok"]),
        (one_replica(), "0", ["warn"]),
        (one_replica(lag=10), "1", ["ok"]),
        (one_replica(lag=11), "1", ["warn", "ok"]),
        (one_replica(state="wait_bgsave"), "1", ["warn", "ok"]),
        (one_replica(), "", ["note"]),
    ],
)
def test_replication(info: Any, least: str, expected: list[str]) -> None:
    settings = {"min-replicas-to-write": least}
    assert levels("replication", settings=settings, info=info) == expected


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("timeout", "0", ["ok"]),
        ("timeout", "1", ["warn"]),
        ("timeout", "60", ["warn"]),
        ("timeout", "61", ["ok"]),
        ("tcp-keepalive", "0", ["warn"]),
        ("client-output-buffer-limit", "normal 1000 0 0 pubsub 1 1 1", ["warn"]),
        ("client-output-buffer-limit", "normal 0 1000 60", ["warn"]),
        ("client-output-buffer-limit", "normal 0 0 60 pubsub 1 1 1", ["ok"]),
        ("client-output-buffer-limit", "pubsub 1 1 1", ["ok"]),
    ],
)
def test_timeouts(setting: str, value: str, expected: list[str]) -> None:
    assert levels("timeouts", settings={setting: value}) == expected


def test_what_is_refused_is_granted_only_where_the_acl_refuses_it() -> None:
    assert levels("scripts") == ["ok"]
    [found] = judged("scripts", scripts="NOPERM no", user="o'x")
    assert found.remedy == "redis-cli ACL SETUSER 'o'\"'\"'x' +eval +evalsha"
    [found] = judged("scripts", scripts="ERR unknown command")
    assert found.remedy is None
    [found] = judged("scripts", client="NOPERM no")
    assert "+client|id" in (found.remedy or "")
    assert levels("scripts", protocol=2) == ["warn"]
    assert levels("scripts", protocol=2, resp2_asked=True) == ["ok"]


@pytest.mark.parametrize(
    ("clock", "level"),
    [(1.0, "ok"), (-1.0, "ok"), (1.1, "warn"), (-1.1, "warn"), (None, "note")],
)
def test_the_clock(clock: float | None, level: str) -> None:
    *_, found = check_server(ServerFacts(clock=clock))
    assert found.check == "clock"
    assert found.level == level


def test_the_lines_of_info_are_read_by_name() -> None:
    assert lines(b"# Server\r\na:1\r\nb:x:y\r\n\r\n") == {"a": "1", "b": "x:y"}


# -- permissions -----------------------------------------------------------------------

COMMAND = Probe("+hkeys", (b"HKEYS", b"k"), trying=True)
KEY = Probe("~orders", (b"XADD", b"orders"), trying=True)


@pytest.mark.parametrize(
    ("text", "command", "key"),
    [
        ("run the 'hkeys' command", Answer.REFUSED, Answer.UNKNOWN),
        ("run the 'xadd' command or its subcommand", Answer.REFUSED, Answer.UNKNOWN),
        ("access the 'orders' key", Answer.ALLOWED, Answer.REFUSED),
        ("access one of the keys used as arguments", Answer.ALLOWED, Answer.REFUSED),
        ("access the 'a' channel", Answer.ALLOWED, Answer.REFUSED),
    ],
)
def test_a_refusal_says_whether_the_command_or_the_key_is_missing(
    text: str, command: Answer, key: Answer
) -> None:
    reply = f"User u has no permissions to {text}"
    refused = ErrorReply(f"NOPERM this user has no permissions to {text}")
    for probe, expected in ((COMMAND, command), (KEY, key)):
        assert dryrun_answer(probe, reply.encode()) is expected
        assert tried_answer(probe, refused) is expected


def test_other_replies_mean_that_it_is_allowed_or_not_there() -> None:
    assert dryrun_answer(COMMAND, b"OK") is Answer.ALLOWED
    absent = ErrorReply("ERR Command 'waitaof' not found")
    assert dryrun_answer(COMMAND, absent) is Answer.ABSENT
    assert dryrun_answer(COMMAND, ErrorReply("ERR wrong")) is Answer.UNKNOWN
    assert tried_answer(COMMAND, 1) is Answer.ALLOWED
    assert tried_answer(COMMAND, ErrorReply("WRONGTYPE")) is Answer.ALLOWED
    unknown = ErrorReply("ERR unknown command `WAITAOF`, with args")
    assert tried_answer(COMMAND, unknown) is Answer.ABSENT


@pytest.mark.parametrize("role", Role)
def test_each_word_of_a_role_is_asked_for(role: Role) -> None:
    needed, optional = PERMISSIONS[role]
    words = {*needed.split(), *(w for row in optional for w in row.words.split())}
    assert {probe.word for probe in probes(role, "orders", b"absent")} == words
    commands = {probe.word for probe in probes(role, None, b"absent")}
    assert commands == {word for word in words if word.startswith("+")}


def test_one_way_in_which_a_word_is_allowed_is_enough() -> None:
    answers = [("a", Answer.REFUSED), ("a", Answer.ALLOWED), ("b", Answer.UNKNOWN)]
    assert best(answers) == {"a": Answer.ALLOWED, "b": Answer.UNKNOWN}


def test_a_missing_word_fails_and_one_to_do_without_is_a_note() -> None:
    answers = {"+xadd": Answer.REFUSED, "~orders": Answer.ALLOWED}
    answers |= {"+eval": Answer.REFUSED, "+info": Answer.REFUSED}
    needed, once, line = check_permissions(Role.PRODUCER, answers, "a b", "u")
    assert needed.level is Level.FAIL
    assert needed.remedy == "redis-cli ACL SETUSER u +xadd"
    assert once.level is line.level is Level.NOTE
    assert "idempotent=True" in once.meaning
    assert "ACL LOG" in line.meaning
    answers = {"~orders:*": Answer.REFUSED}
    [found] = check_permissions(Role.PRODUCER, answers, "a b", None)
    assert found.remedy == "redis-cli ACL SETUSER USER '~a b:*'"
    answers = {"+subscribe": Answer.UNKNOWN}
    [found] = check_permissions(Role.CONSUMER, answers, "a", None)
    assert "not known" in found.found


def test_a_user_who_has_all_words_is_well_and_keys_need_a_stream() -> None:
    [found] = check_permissions(Role.OWNER, {"+get": Answer.ALLOWED}, "orders", "u")
    assert (found.level, found.found) == ("ok", "user u has what an owner needs")
    keys, _ = check_permissions(Role.OWNER, {"+get": Answer.ALLOWED}, None, "u")
    assert keys.level is Level.NOTE
    assert keys.remedy == "penstock doctor --role owner --stream STREAM"
