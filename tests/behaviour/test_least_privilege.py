"""Permissions in docs/how-to/security.md: they are enough, and each of them is needed.

The lines and tables are taken from the page itself.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis.exceptions import ResponseError

from penstock import AccessError, ConfigurationError, PenstockError, SendFailed
from penstock._tasks.leases import dead_consumers
from penstock.monitor.doctor.roles import PERMISSIONS
from support import owner_roles, roles
from support.events import Events
from support.owner_roles import LEASE
from support.roles import Context, Scenario
from support.server import with_login
from support.waiting import calls, eventually, read

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "security.md").read_text()


class Role(NamedTuple):
    """A role of the page: the words of its line, and the rows of its optional words."""

    words: list[str]
    rows: list[list[str]]


def rows(table: str) -> list[list[str]]:
    first = re.findall(r"^\| (`[^|]*(?:\\\|[^|]*)*`) \|", table, re.MULTILINE)
    return [cell.replace("\\|", "|").strip("`").split() for cell in first]


def read_page() -> dict[str, Role]:
    found = {}
    for part in PAGE.split("\n### ")[1:]:
        part = part.partition("\n## ")[0]  # noqa: PLW2901 - the part, and no more
        if "ACL SETUSER" not in part:
            continue
        [(name, words)] = re.findall(
            r"^ACL SETUSER (\w+) on >secret resetkeys resetchannels (.*)$",
            part,
            re.MULTILINE,
        )
        found[name] = Role(words.split(), rows(part))
    return found


ROLES = read_page()

# The scenarios that a role can run with its line alone, and others with all words.
PLAIN: dict[str, list[Scenario]] = {
    "producer": [roles.sends, roles.sends_to_shards],
    "reader": [roles.reads],
    "consumer": [
        roles.reads_in_a_group,
        roles.reads_after_cuts,
        roles.reads_after_a_restart,
        roles.recreates_its_group,
        roles.retries,
        roles.writes_dead_letters,
        roles.claims,
        roles.releases,
    ],
    "owner": [
        owner_roles.owns_shards,
        owner_roles.owns_one_key,
        owner_roles.takes_what_is_pending,
        owner_roles.hands_over,
        owner_roles.owns_after_cuts,
        owner_roles.retries,
        owner_roles.writes_dead_letters,
    ],
    "relay": [roles.relays],
    "operator": [roles.inspects_a_group],
    "looker": [roles.looks],
    "console": [roles.watches_in_the_console],
}
MORE: dict[str, list[Scenario]] = {
    "producer": [
        roles.records_shards,
        roles.sends_once,
        roles.sends_to_replicas,
    ],
    "reader": [
        roles.replays,
        roles.prints_messages,
        roles.finds_shards_without_a_group,
        roles.searches_for_shards,
    ],
    "consumer": [
        roles.reads_shards,
        roles.finds_shards,
        roles.searches_for_shards_in_a_group,
        roles.removes_dead_consumers,
        roles.seeks,
        roles.reports_its_lag,
    ],
    "owner": [
        owner_roles.releases,
        owner_roles.searches_for_shards,
        owner_roles.removes_former_consumers,
        owner_roles.restores_a_record,
        owner_roles.reports_its_lag,
        owner_roles.catches_up,
    ],
    "relay": [roles.relays_to_a_bounded_list, roles.relays_to_the_left],
    "operator": [
        roles.resets,
        roles.changes_a_group,
        roles.deletes,
        roles.inspects_shards,
        roles.inspects_by_search,
        roles.sets_shards,
        roles.shows_owners,
        roles.moves_a_shard,
    ],
    "looker": [roles.looks_at_shards, roles.examines],
    "console": [roles.looks_at_shards, roles.redrives_in_the_console],
}


class Without(NamedTuple):
    """The effect that a missing word of the rules has on a scenario.

    Attributes:
        scenario: The scenario.
        error: The exception that it raises, if any.
        event: The event that is reported, if any.
        named: Whether the exception, or else the event, names the command.
    """

    scenario: Scenario
    error: type[Exception] | None = None
    event: str = ""
    named: bool = True


WAITS = roles.closes_while_it_waits
RESTARTS = roles.reads_after_a_restart
SILENT = Without(WAITS)
OWNS = owner_roles.owns_shards
WATCHES = roles.watches_in_the_console

# By role, the effect of leaving out one word. A word that is not listed here is not
# needed, or not tested.
EFFECTS: dict[str, dict[str, Without]] = {
    "producer": {
        "~orders": Without(roles.sends, SendFailed, "send_failed", named=False),
        "~orders:*": Without(roles.sends_to_shards, SendFailed, named=False),
        "+xadd": Without(roles.sends, SendFailed, "send_failed"),
        "~{orders}.shards": Without(
            roles.sends_to_shards, event="shards_unchecked", named=False
        ),
        "+get": Without(roles.sends_to_shards, event="shards_unchecked"),
        "+set": Without(roles.sends_to_shards, event="shards_unchecked"),
        "~{orders}.sent.*": Without(roles.sends_once, SendFailed, named=False),
        "~{orders:*}.sent.*": Without(
            roles.sends_once_to_shards, SendFailed, named=False
        ),
        "+eval": Without(roles.sends_once, ConfigurationError),
        **dict.fromkeys(
            ("+hmget", "+hset", "+hkeys", "+hdel", "+pexpire"),
            Without(roles.sends_once, SendFailed, "send_failed"),
        ),
        "+wait": Without(roles.sends_to_replicas, ConfigurationError),
        "+waitaof": Without(roles.sends_durably, ConfigurationError),
        "+config|get": Without(roles.sends_durably, event="durability_unverified"),
        "+client|id": Without(roles.sends_to_shards),
        "+info": Without(roles.sends_to_shards),
    },
    "reader": {
        "~orders": Without(roles.reads, AccessError, named=False),
        "~orders:*": Without(
            roles.finds_shards_without_a_group, AccessError, named=False
        ),
        "~{orders}.shards": Without(roles.reads, event="looking_refused", named=False),
        "+get": Without(roles.reads, event="looking_refused"),
        "+xread": Without(roles.reads, AccessError),
        "+xinfo|stream": Without(roles.reads, AccessError),
        "+set": Without(roles.restores_a_record_without_a_group),
        "+exists": Without(roles.finds_shards_without_a_group),
        "+type": Without(roles.searches_for_shards, event="looking_refused"),
        "+eval": Without(roles.reads, named=False),
        "+client|id": Without(roles.waits_for_entries),
        "+client|unblock": Without(roles.waits_for_entries),
        "+xrange": Without(roles.replays, AccessError),
        "+xrevrange": Without(roles.replays, AccessError),
        "+info": Without(roles.waits_for_entries),
    },
    "consumer": {
        "~orders": Without(WAITS, AccessError, named=False),
        "~orders:*": Without(roles.finds_shards, AccessError, named=False),
        "~{orders}.shards": Without(WAITS, event="looking_refused", named=False),
        "+get": Without(WAITS, event="looking_refused"),
        "~orders.dead": Without(
            roles.writes_dead_letters,
            AssertionError,
            "dead_letters_refused",
            named=False,
        ),
        "+xreadgroup": Without(WAITS, AccessError),
        "+xgroup|create": Without(WAITS, AccessError),
        "+xack": Without(RESTARTS, AssertionError, "commit_refused"),
        "+xpending": Without(WAITS, AccessError),
        "+xclaim": Without(RESTARTS, AccessError),
        "+xautoclaim": Without(WAITS, event="claim_refused"),
        "+xrange": Without(RESTARTS, AccessError),
        "+xadd": Without(
            roles.writes_dead_letters, AssertionError, "dead_letters_refused"
        ),
        "+set": Without(roles.restores_a_record),
        "+exists": Without(roles.finds_shards),
        "+type": Without(roles.searches_for_shards_in_a_group, event="looking_refused"),
        "+eval": Without(roles.writes_dead_letters),
        "+subscribe": SILENT,
        "+publish": Without(roles.releases),
        "&penstock:released:orders:*": Without(WAITS, named=False),
        "&penstock:consumer:orders:*": Without(WAITS, named=False),
        "+pubsub|numsub": SILENT,
        "+xinfo|consumers": Without(
            roles.removes_dead_consumers, event="reaping_refused"
        ),
        "+xgroup|delconsumer": Without(
            roles.removes_dead_consumers, event="reaping_refused"
        ),
        "+xinfo|groups": Without(roles.recreates_its_group),
        "+xinfo|stream": Without(roles.seeks, AccessError),
        "+multi": Without(roles.reports_its_lag, AssertionError),
        "+exec": Without(roles.reports_its_lag, AssertionError),
        "+xgroup|setid": Without(roles.seeks, AccessError),
        "+client|id": SILENT,
        "+client|unblock": SILENT,
        "+info": SILENT,
    },
    "owner": {
        "~orders": Without(owner_roles.owns_one_key, AccessError, named=False),
        "~orders:*": Without(OWNS, AccessError, named=False),
        "~{orders}.shards": Without(OWNS, AccessError, named=False),
        "~{orders}.members:*": Without(OWNS, AccessError, named=False),
        "~{orders}.owner:*": Without(
            owner_roles.owns_one_key, AccessError, named=False
        ),
        "~{orders:*}.owner:*": Without(OWNS, AccessError, named=False),
        "~orders.dead": Without(
            owner_roles.writes_dead_letters,
            AssertionError,
            "dead_letters_refused",
            named=False,
        ),
        "+eval": Without(OWNS, ConfigurationError, named=False),
        **dict.fromkeys(
            (
                *("+get", "+time", "+hget", "+hmget", "+hgetall", "+hset", "+hdel"),
                *("+xreadgroup", "+xgroup|create", "+xpending", "+xclaim", "+xack"),
            ),
            Without(OWNS, AccessError),
        ),
        "+xrange": Without(owner_roles.takes_what_is_pending, AccessError),
        "+xadd": Without(
            owner_roles.writes_dead_letters, AssertionError, "dead_letters_refused"
        ),
        "+set": Without(owner_roles.restores_a_record),
        "+exists": Without(OWNS),
        "+type": Without(owner_roles.searches_for_shards, AccessError),
        "+subscribe": Without(owner_roles.hands_over),
        "+publish": Without(owner_roles.hands_over),
        "&penstock:owners:orders:*": Without(owner_roles.hands_over, named=False),
        "+xinfo|consumers": Without(
            owner_roles.removes_former_consumers, AssertionError, "reaping_refused"
        ),
        "+xgroup|delconsumer": Without(
            owner_roles.removes_former_consumers, AssertionError, "reaping_refused"
        ),
        "+xinfo|groups": Without(owner_roles.catches_up, AccessError),
        "+xinfo|stream": Without(owner_roles.reports_its_lag, AssertionError),
        "+multi": Without(owner_roles.reports_its_lag, AssertionError),
        "+exec": Without(owner_roles.reports_its_lag, AssertionError),
        "+client|id": Without(OWNS),
        "+client|unblock": Without(owner_roles.hands_over),
        "+info": Without(OWNS),
    },
    "relay": {
        "~orders": Without(roles.relays, AccessError, named=False),
        "~orders.dead": Without(
            roles.relays, AssertionError, "dead_letters_refused", named=False
        ),
        "~orders.queue": Without(roles.relays, AccessError, named=False),
        "+xreadgroup": Without(roles.relays, AccessError),
        "+xgroup|create": Without(roles.relays, AccessError),
        "+xack": Without(roles.relays, AssertionError, "relay_refused"),
        "+xpending": Without(roles.relays, AccessError),
        "+xclaim": Without(roles.relays, AccessError),
        "+xautoclaim": Without(roles.relays, event="claim_refused"),
        "+xrange": Without(roles.relays, AccessError),
        "+xadd": Without(roles.relays, AssertionError, "dead_letters_refused"),
        "+eval": Without(roles.relays, named=False),
        "+evalsha": Without(roles.relays, AssertionError, "relay_refused"),
        "+rpush": Without(roles.relays, AssertionError, "relay_refused"),
        "+llen": Without(
            roles.relays_to_a_bounded_list, AssertionError, "relay_refused"
        ),
        "+lpush": Without(roles.relays_to_the_left, AssertionError, "relay_refused"),
        "+type": Without(roles.relays),
        "~{orders}.shards": Without(roles.relays, event="looking_refused", named=False),
        "+get": Without(roles.relays, event="looking_refused"),
        **dict.fromkeys(
            (
                *("+subscribe", "+pubsub|numsub", "+xinfo|groups"),
                *("+client|id", "+client|unblock", "+info"),
                *("&penstock:released:orders:*", "&penstock:consumer:orders:*"),
            ),
            Without(roles.relays, named=False),
        ),
    },
    "operator": {
        "~orders": Without(roles.inspects_a_group, AccessError, named=False),
        "~orders:*": Without(roles.inspects_shards, AccessError, named=False),
        "~{orders}.shards": Without(
            roles.inspects_a_group, event="looking_refused", named=False
        ),
        "+get": Without(roles.inspects_a_group, event="looking_refused"),
        "+set": Without(roles.sets_shards, AccessError, named=False),
        "+multi": Without(roles.inspects_a_group, AccessError),
        "+exec": Without(roles.inspects_a_group, PenstockError),
        "+xinfo|stream": Without(roles.inspects_a_group, AccessError),
        "+xinfo|groups": Without(roles.inspects_a_group, AccessError),
        "+xpending": Without(roles.inspects_a_group, AccessError),
        "+exists": Without(roles.inspects_shards),
        "+type": Without(roles.inspects_by_search, event="looking_refused"),
        "+xgroup|create": Without(roles.resets_a_new_shard, AccessError),
        "+xgroup|setid": Without(roles.resets, AccessError),
        "+xack": Without(roles.resets, AccessError),
        **dict.fromkeys(
            (
                *("+xinfo|consumers", "+xclaim", "+xgroup|destroy", "+xdel"),
                *("+xgroup|delconsumer", "+xrange"),
            ),
            Without(roles.changes_a_group, AccessError),
        ),
        "&penstock:released:orders:*": Without(roles.changes_a_group, named=False),
        "+unlink": Without(roles.deletes, AccessError),
        "+scan": Without(roles.lists_streams, AccessError),
        "~{orders}.members:*": Without(roles.shows_owners, AccessError, named=False),
        "~{orders}.owner:*": Without(roles.shows_owners, AccessError, named=False),
        "~{orders:*}.owner:*": Without(roles.shows_owners, AccessError, named=False),
        "+time": Without(roles.shows_owners, AccessError),
        "+hgetall": Without(roles.shows_owners, AccessError),
        "+hmget": Without(roles.shows_owners, AccessError),
        "+hget": Without(roles.moves_a_shard, AccessError),
        "+hset": Without(roles.moves_a_shard, AccessError),
        "+hdel": Without(roles.moves_a_shard, AccessError),
        "+publish": Without(roles.moves_a_shard),
        "&penstock:owners:orders:*": Without(roles.moves_a_shard, named=False),
        "+eval": Without(roles.inspects_a_group, named=False),
        "+client|id": Without(roles.inspects_a_group),
    },
    "looker": {
        "~orders": Without(roles.looks, AssertionError, named=False),
        "~orders:*": Without(roles.looks_at_shards, AssertionError, named=False),
        "~orders.dead": Without(roles.looks, named=False),
        "~{orders}.shards": Without(roles.looks, event="looking_refused", named=False),
        "+get": Without(roles.looks, event="looking_refused"),
        "+exists": Without(roles.looks_at_shards),
        **dict.fromkeys(
            ("+xinfo|stream", "+xinfo|groups", "+xinfo|consumers", "+xpending"),
            Without(roles.looks, AssertionError),
        ),
        **dict.fromkeys(
            (
                *("+xlen", "+time", "+xrange", "+memory|usage", "+info"),
                *("+command|info", "+client|id"),
            ),
            Without(roles.looks),
        ),
        **dict.fromkeys(
            ("+config|get", "+acl|whoami", "+acl|dryrun", "+ping", "+eval"),
            Without(roles.examines),
        ),
        "+scan": Without(roles.looks_for_streams, AccessError),
    },
    "console": {
        **dict.fromkeys(
            ("~orders", "~orders.dead"),
            Without(WATCHES, AssertionError, named=False),
        ),
        "~orders:*": Without(roles.looks_at_shards, AssertionError, named=False),
        "~{orders}.shards": Without(WATCHES, event="looking_refused", named=False),
        "+get": Without(WATCHES, event="looking_refused"),
        "+exists": Without(roles.looks_at_shards),
        "+scan": Without(roles.looks_for_streams, AccessError),
        **dict.fromkeys(
            (
                *("+xinfo|stream", "+xinfo|groups", "+xinfo|consumers", "+xpending"),
                *("+xrange", "+xrevrange"),
            ),
            Without(WATCHES, AssertionError),
        ),
        **dict.fromkeys(
            ("+xlen", "+time", "+command|info", "+memory|usage", "+client|id"),
            Without(WATCHES),
        ),
        **dict.fromkeys(
            ("+xdel", "+xadd"), Without(roles.redrives_in_the_console, AssertionError)
        ),
        "+eval": Without(roles.redrives_in_the_console),
    },
}


def all_words(role: Role) -> list[str]:
    return list(dict.fromkeys([*role.words, *(w for row in role.rows for w in row)]))


@pytest.fixture(autouse=True)
def _quick_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let dead consumers be removed after less than ten seconds."""
    monkeypatch.setattr(dead_consumers, "_LEAST_IDLE", 0.1)


Enter = Callable[[Sequence[str]], Any]


@pytest.fixture
def enter(url: str, stream: str, redis: Any, events: Events) -> Enter:
    @asynccontextmanager
    async def entered(words: Sequence[str]) -> AsyncIterator[Context]:
        user = f"u-{stream}"
        known = await known_words(redis, words)
        rules = [word.replace("orders", stream) for word in known]
        start = ("on", ">secret", "resetkeys", "resetchannels")
        await redis.execute_command("ACL", "SETUSER", user, *start, *rules)
        login = with_login(url, user, "secret")
        try:
            yield Context(login, stream, redis, user, events)
        finally:
            await redis.acl_deluser(user)

    return entered


async def known_words(redis: Any, words: Sequence[str]) -> list[str]:
    """Return the words that this server knows: Redis 7.0 has no WAITAOF."""
    blocking = {str(name) for name in await redis.acl_cat("blocking")}
    unknown = set() if "b'waitaof'" in blocking else {"+waitaof"}
    try:
        await redis.execute_command("ACL", "DRYRUN", "default", "PING")
    except ResponseError:  # before Redis 7.0
        unknown.add("+acl|dryrun")
    return [word for word in words if word not in unknown]


async def denied(redis: Any, user: str) -> set[str]:
    """Return the commands, keys and channels that a user has been refused."""
    log = await redis.execute_command("ACL", "LOG", 128)
    found = set()
    for line in log:
        facts = line
        if not isinstance(facts, dict):  # RESP2
            facts = dict(zip(line[::2], line[1::2], strict=True))
        if facts[b"username"].decode() == user:
            found.add(facts[b"object"].decode("utf-8", "replace"))
    return found


CASES = [
    pytest.param(
        scenario, words, refused_anyway, id=f"{name}-{scenario.__name__}-{kind}"
    )
    for name, role in ROLES.items()
    for kind, words, refused_anyway, scenarios in (
        ("at least", role.words, None, PLAIN[name]),
        ("in full", all_words(role), {"waitaof"}, PLAIN[name] + MORE[name]),
    )
    for scenario in scenarios
]


@pytest.mark.parametrize(("scenario", "words", "refused_anyway"), CASES)
async def test_a_role_can_run_its_scenarios(
    scenario: Scenario,
    words: list[str],
    refused_anyway: set[str] | None,
    redis: Any,
    enter: Enter,
) -> None:
    """With the line alone; and with all words, when nothing at all is refused."""
    await redis.execute_command("ACL", "LOG", "RESET")
    async with enter(words) as context:
        await scenario(context)
        refused = await denied(redis, context.user)
    assert refused_anyway is None or refused <= refused_anyway


def test_the_page_has_the_permissions_that_penstock_doctor_checks() -> None:
    """Each word of each role, and what it is for.

    A relay checks its own permissions when it starts, and a console shows what it
    may not see.
    """
    assert ROLES.keys() - {"relay", "console"} == {role.value for role in PERMISSIONS}
    for role, (needed, optional) in PERMISSIONS.items():
        words = [word for word in ROLES[role.value].words if word != "-@all"]
        assert needed.split() == words
        assert [each.words.split() for each in optional] == ROLES[role.value].rows
        for each in optional:
            cells = " | ".join(map(as_cell, each[1:])).rstrip()
            assert f"` | {cells} |" in PAGE, each


def as_cell(text: str) -> str:
    return text.replace("|", "\\|")


def test_the_page_lists_exactly_the_permissions_that_are_tested_here() -> None:
    assert ROLES.keys() == PLAIN.keys() == MORE.keys() == EFFECTS.keys()
    for name, role in ROLES.items():
        assert {*all_words(role)} - {"-@all"} == {*EFFECTS[name]}


@pytest.mark.parametrize(
    ("name", "word"),
    [(name, word) for name, effects in EFFECTS.items() for word in effects],
)
async def test_leaving_out_any_permission_has_its_expected_effect(
    name: str, word: str, redis: Any, tmp_path: Path, enter: Enter
) -> None:
    if word in {"+waitaof", "+config|get"}:
        pytest.skip(
            "test_durable_sends.py tests it, on a server that has an append-only file"
        )
    if word not in await known_words(redis, [word]):
        pytest.skip("this server has no such word")
    effect = EFFECTS[name][word]
    left = [other for other in all_words(ROLES[name]) if other != word]
    await redis.execute_command("ACL", "LOG", "RESET")
    error: BaseException | None = None
    async with enter(left) as context:
        try:
            await effect.scenario(context)
        except Exception as raised:  # noqa: BLE001 - checked below
            error = raised
        refused = await denied(redis, context.user)
        reported = [str(e) for e in context.events if e.name == effect.event]
    # Whatever the effect is, this word is the cause.
    assert refused
    command = word.removeprefix("+")
    if word.startswith("+"):
        assert refused & {command, command.partition("|")[0]}
    assert isinstance(error, effect.error or type(None)), error
    assert reported or not effect.event
    if effect.named and isinstance(error, PenstockError):
        assert_named(command, str(error))
    elif effect.named and effect.event:
        assert_named(command, reported[0])


def assert_named(command: str, text: str) -> None:
    """Check the server's text, or Penstock's where an old server names no command.

    Of a command in a script, Redis 7.0 tells nothing but the script.
    """
    assert "NOPERM" in text
    unnamed = "executing the script can't run this command" in text
    assert unnamed or command.partition("|")[0] in text.lower()


# -- other statements of the page ------------------------------------------------------


async def test_a_selector_prevents_a_consumer_from_sending_to_its_stream(
    redis: Any, enter: Enter
) -> None:
    major = (await redis.info("server"))["redis_version"].partition(".")[0]
    if int(major) < 7:
        pytest.skip("selectors came with Redis 7")
    words = [word for word in ROLES["consumer"].words if word != "+xadd"]
    assert "(+xadd ~orders.dead)" in PAGE
    for scripts in ([], ["+eval"]):
        async with enter([*words, *scripts, "(+xadd ~orders.dead)"]) as context:
            await roles.writes_dead_letters(context)
            with pytest.raises(SendFailed, match="NOPERM"):
                await roles.sends(context)
            await redis.delete(context.stream, f"{context.stream}.dead")


async def test_a_producer_can_send_if_it_may_only_write_to_its_keys(
    redis: Any, enter: Enter
) -> None:
    major = (await redis.info("server"))["redis_version"].partition(".")[0]
    if int(major) < 7:
        pytest.skip("%W came with Redis 7")
    words = [w.replace("~", "%W~") for w in ROLES["producer"].words]
    assert " ".join(w for w in words if w.startswith("%")) in PAGE
    async with enter(words) as context:
        await roles.sends(context)
        await roles.sends_to_shards(context)


async def test_a_transaction_works_with_scripts_and_the_permissions_of_its_commands(
    enter: Enter,
) -> None:
    words = [*ROLES["consumer"].words, "+hincrby", "+hget"]
    words += ["~orders.totals", "~orders.counted"]
    async with enter([*words, "+eval", "+evalsha", "+type"]) as context:
        await roles.transacts(context)
        assert not context.reported("transaction_broken")


async def test_without_permission_to_acknowledge_a_dead_letter_is_written_once(
    redis: Any, enter: Enter
) -> None:
    """The script's copy stays, and is not repeated when the script is retried."""
    words = [word for word in all_words(ROLES["consumer"]) if word != "+xack"]
    async with enter(words) as context:
        before = await calls(redis, "xack")

        async def again() -> bool:
            return await calls(redis, "xack") > before + 2

        async with context.consumer() as consumer:
            await context.add(0)
            (await consumer.next()).reject("no")
            assert await consumer.next(timeout=0.01) is None
            await eventually(again)
            assert await redis.xlen(f"{context.stream}.dead") == 1
            await redis.execute_command("ACL", "SETUSER", context.user, "+xack")
            await eventually(lambda: roles.none_pending(context))
        assert await redis.xlen(f"{context.stream}.dead") == 1


@pytest.mark.parametrize("missing", ["+hkeys", "+hdel"])
async def test_messages_whose_send_failed_are_not_stored(
    missing: str, redis: Any, enter: Enter
) -> None:
    """Also if only the deletion of old notes is refused."""
    words = [word for word in all_words(ROLES["producer"]) if word != missing]
    async with enter(words) as context, context.producer(idempotent=True) as producer:
        stored = 0
        for _ in range(3):
            outcomes = await producer.send_many(context.stream, [b"x"] * 5)
            stored += sum(not isinstance(one, SendFailed) for one in outcomes)
        assert await redis.xlen(context.stream) == stored < 15


async def test_permissions_that_are_revoked_for_a_while_lose_nothing(
    redis: Any, enter: Enter
) -> None:
    words = all_words(ROLES["consumer"])
    taken = ("-xadd", "-xack", "-xclaim", "-xautoclaim", "-xpending", "-xrange")
    async with enter(words) as context, context.consumer() as consumer:
        async with context.producer() as producer:
            await redis.execute_command("ACL", "SETUSER", context.user, *taken)
            with pytest.raises(SendFailed, match="NOPERM"):
                await producer.send(context.stream, b"0")
            await context.add(1)
            assert (await consumer.next()).payload == b"1"
            assert await consumer.next(timeout=0.2) is None
            back = [word.replace("-", "+") for word in taken]
            await redis.execute_command("ACL", "SETUSER", context.user, *back)
            await producer.send(context.stream, b"2")
            assert (await consumer.next()).payload == b"2"
            assert await consumer.next(timeout=0.01) is None
            await consumer.commit()
            assert await roles.none_pending(context)
            await redis.execute_command("ACL", "SETUSER", context.user, "-xreadgroup")
            await context.add(3)  # the read under way was allowed
            with pytest.raises(AccessError, match="xreadgroup"):
                while True:
                    await consumer.next()


async def test_a_password_can_be_rotated_without_an_interruption(
    url: str, redis: Any, enter: Enter
) -> None:
    async with (
        enter(all_words(ROLES["consumer"])) as context,
        context.consumer() as old,
    ):
        change = ("ACL", "SETUSER", context.user)
        await redis.execute_command(*change, ">new")
        again = Context(
            with_login(url, context.user, "new"), context.stream, redis, context.user
        )
        async with again.consumer() as new:
            await redis.execute_command(*change, "<secret")
            await context.add(0)
            # Open connections stay open.
            assert await old.next(timeout=0.2) or await new.next(timeout=1)
            await context.cut()
            await eventually(lambda: _is_reported(context, "access_refused"))
            await context.add(1)
            assert await new.next(timeout=5)
            # A password that is valid again is enough.
            await redis.execute_command(*change, ">secret")
            await eventually(lambda: _is_reported(context, "reconnected"))


async def _is_reported(context: Context, name: str) -> bool:
    return context.reported(name)


async def test_the_permissions_of_all_three_pages_are_enough_for_an_operator(
    url: str, stream: str, redis: Any
) -> None:
    """The permissions for dead letters and for trimming are on other pages."""
    docs = Path(__file__).parents[2] / "docs" / "how-to"
    rules = list(all_words(ROLES["operator"]))
    for page in ("dead-letters.md", "retention.md"):
        block = re.search(
            r"^ACL SETUSER operator .*?^```",
            (docs / page).read_text(),
            re.MULTILINE | re.DOTALL,
        )
        assert block
        rules += re.findall(r"(?<!\S)[~+]\S+", re.sub(r"\(.*\)", "", block[0]))
    user = f"u-{stream}"
    rules = [rule.replace("orders", stream) for rule in rules]
    await redis.execute_command("ACL", "SETUSER", user, "on", ">secret", *rules)
    try:
        context = Context(with_login(url, user, "secret"), stream, redis, user)
        await roles.manages_dead_letters(context)
        await redis.delete(stream)
        await roles.trims(context)
    finally:
        await redis.acl_deluser(user)


OWNER_TAKEN = ("hget", "hset", "hmget", "xpending", "xclaim", "xack", "eval")


@pytest.mark.parametrize("word", OWNER_TAKEN)
async def test_a_permission_that_an_owner_loses_for_a_while_loses_nothing(
    word: str, redis: Any, enter: Enter
) -> None:
    """It is reported, not asked for in a hot loop, and given back is enough."""
    async with enter(all_words(ROLES["owner"])) as context:
        await owner_roles.adds(context, 0, 1)
        change = ("ACL", "SETUSER", context.user)
        async with owner_roles.owner(context) as consumer:
            assert len(await read(consumer, 2)) == 2
            await redis.execute_command(*change, f"-{word}")
            await owner_roles.adds(context, 2, 3)
            before = await commands_of_all(redis)
            got = [await consumer.next(timeout=LEASE * 0.8) for _ in range(2)]
            if word not in {"hmget", "xclaim"}:  # a TAKE needs them
                await eventually(lambda: _is_refused(context))
            # A hot loop sends thousands. The clients of other tests count, too.
            assert await commands_of_all(redis) - before < 1000
            await redis.execute_command(*change, f"+{word}")
            await owner_roles.adds(context, 4, 5)
            handled = {int(message.payload) for message in got if message}
            while not handled >= {2, 3, 4, 5}:
                message = await consumer.next(timeout=10)
                assert message is not None, handled
                handled.add(int(message.payload))
        assert await owner_roles.none_pending(context)


async def _is_refused(context: Context) -> bool:
    names = {event.name for event in context.events}
    return bool(names & {"ownership_refused", "commit_refused", "read_refused"})


async def commands_of_all(redis: Any) -> int:
    return int((await redis.info("stats"))["total_commands_processed"])
