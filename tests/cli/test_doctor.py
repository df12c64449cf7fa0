"""`penstock doctor`: servers that are misconfigured, found and mended by the remedy.

Each server is a process of the test's own, whose settings and data are compared.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from penstock import _clock
from penstock.cli.app import app
from penstock.monitor.doctor import server_checks
from penstock.monitor.doctor.facts import ServerFacts
from penstock.monitor.doctor.roles import PERMISSIONS, Role
from support.looking import fill, objects, run, table
from support.server import Server, free_port, server, with_login
from support.servers import binaries
from support.terminal import plain
from support.waiting import eventually

GOOD = ("--maxmemory", "1gb")


@pytest.fixture(params=binaries())
async def each(request: Any, tmp_path: Path) -> AsyncIterator[Server]:
    """A server of each kind that is installed, in which nothing is wrong."""
    path = binaries()[request.param]
    async with server(tmp_path, *GOOD, binary=path) as own:
        yield own


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Server]:
    async with server(tmp_path, *GOOD) as one:
        yield one


@pytest.fixture(autouse=True)
def _any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine's round trips count as fast."""
    monkeypatch.setattr(server_checks, "_SLOW", 60.0)


async def findings(
    url: str, *words: object, status: int | None = None
) -> list[dict[str, Any]]:
    """Run `penstock doctor`, whose status has to fit the worst level."""
    if status is not None:
        return await objects("doctor", "--url", url, *words, status=status)
    try:
        found = await objects("doctor", "--url", url, *words)
    except AssertionError:
        found = await objects("doctor", "--url", url, *words, status=3)
        assert "fail" in {each["level"] for each in found}
        return found
    assert "fail" not in {each["level"] for each in found}
    return found


async def of(url: str, check: str, *words: object) -> list[dict[str, Any]]:
    return [one for one in await findings(url, *words) if one["check"] == check]


def worst(found: list[dict[str, Any]]) -> dict[str, Any]:
    order = ["ok", "note", "warn", "fail"]
    return max(found, key=lambda one: order.index(one["level"]))


async def state(redis: Any) -> tuple[object, ...]:
    """Return the settings, users and data of a server."""
    keys = sorted(await redis.keys("*"))
    return (
        await redis.config_get("*"),
        await redis.execute_command("ACL", "LIST"),
        [(key, await redis.dump(key)) for key in keys],
    )


async def follow(redis: Any, remedy: str) -> None:
    """Run the command of a remedy on the server."""
    program, *words = shlex.split(remedy)
    assert program == "redis-cli"
    await redis.execute_command(*words)


SETTINGS = [
    ("persistence", {"appendonly": "no", "save": ""}, "fail"),
    ("persistence", {"appendfsync": "no"}, "warn"),
    ("memory", {"maxmemory-policy": "allkeys-lru"}, "fail"),
    ("memory", {"maxmemory": "1mb"}, "warn"),
    ("timeouts", {"timeout": "30"}, "warn"),
    ("timeouts", {"tcp-keepalive": "0"}, "warn"),
    ("timeouts", {"client-output-buffer-limit": "normal 1000000 0 0"}, "warn"),
]


async def test_each_wrong_setting_is_found_and_its_remedy_mends_it(
    each: Server,
) -> None:
    """On each server; and the examination itself changes nothing."""
    async with each.client() as redis:
        await fill(redis, "orders")
        for check, settings, level in SETTINGS:
            before = {name: (await redis.config_get(name))[name] for name in settings}
            assert worst(await of(each.url, check))["level"] == "ok", check
            for name, value in settings.items():
                await redis.config_set(name, value)
            was = await state(redis)
            found = worst(await of(each.url, check))
            assert await state(redis) == was
            assert found["level"] == level, found
            await follow(redis, found["remedy"])
            mended = worst(await of(each.url, check))
            assert mended["level"] == "ok", mended
            for name, value in before.items():
                await redis.config_set(name, value)


async def test_a_snapshot_that_failed_is_found_and_one_that_succeeds_mends_it(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    protected = ("--enable-protected-configs", "yes")
    async with server(tmp_path, *GOOD, *protected) as own, own.client() as redis:
        await redis.config_set("appendonly", "no")
        await redis.config_set("save", "3600 1")
        await redis.config_set("dir", str(folder))
        shutil.rmtree(folder)
        await redis.execute_command("BGSAVE")

        async def status() -> object:
            return (await redis.info("persistence"))["rdb_last_bgsave_status"]

        async def failed() -> bool:
            return await status() == "err"

        async def succeeded() -> bool:
            return await status() == "ok"

        await eventually(failed)
        found = worst(await of(own.url, "persistence"))
        assert found["level"] == "fail"
        assert "MISCONF" in found["meaning"]
        await redis.config_set("dir", str(tmp_path))
        await follow(redis, found["remedy"])
        await eventually(succeeded)
        assert worst(await of(own.url, "persistence"))["level"] == "note"


async def test_a_replica_and_a_primary_that_confirms_alone_are_found(
    own: Server, tmp_path: Path
) -> None:
    other = tmp_path / "replica"
    other.mkdir()
    settings = ("--replicaof", "127.0.0.1", str(own.port))
    async with (
        server(other, *settings) as replica,
        own.client() as redis,
    ):

        async def follows() -> bool:
            facts = await redis.info("replication")
            return bool(facts.get("slave0", {}).get("state") == "online")

        await eventually(follows, 30)
        [found] = await of(replica.url, "replication")
        assert found["level"] == "fail"
        assert "READONLY" in found["meaning"]
        assert found["remedy"].endswith(f"--url redis://127.0.0.1:{own.port}")
        [found] = await of(own.url, "replication")
        assert found["level"] == "warn"
        assert "replicas=" in found["meaning"]
        await follow(redis, found["remedy"])
        [found] = await of(own.url, "replication")
        assert found["level"] == "ok"


async def test_a_server_without_scripts_and_client_is_said_to_work_worse(
    tmp_path: Path,
) -> None:
    renamed = ("EVAL", "HELLO", "CLIENT")
    words = [word for name in renamed for word in ("--rename-command", name, "")]
    async with server(tmp_path, *GOOD, *words) as own:
        found = await of(own.url, "scripts")
        assert [one["level"] for one in found] == ["warn"] * 3
        texts = " ".join(one["found"] for one in found)
        assert all(name in texts or "scripts" in texts for name in renamed)


async def test_a_slow_server_and_a_wrong_clock_are_found(
    own: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_checks, "_SLOW", 0.0)
    assert worst(await of(own.url, "connection"))["level"] == "warn"
    wall = _clock.wall
    monkeypatch.setattr(_clock, "wall", lambda: wall() + 5)
    [found] = await of(own.url, "clock")
    assert found["level"] == "warn"
    assert "-5." in found["found"] or "-4." in found["found"]
    monkeypatch.setattr(_clock, "wall", lambda: wall() - 60)
    [found] = await of(own.url, "clock")
    assert "+60." in found["found"] or "+59." in found["found"]


async def test_what_ails_streams_is_found_with_the_command_to_use(own: Server) -> None:
    async with own.client() as redis:
        await fill(redis, "orders", hostile="")
        await redis.xadd("numbers", {"msg": "x"}, id="1-0")
        pipe = redis.pipeline()
        for _ in range(10_000):
            pipe.xadd("long", {"msg": "x"})
        await pipe.execute()
        remedies = {one["remedy"] for one in await of(own.url, "streams")}
        assert remedies == {
            "penstock delete group orders fresh",
            "penstock dead summary orders",
            "penstock info numbers",
            "penstock trim long --acked",
        }
        [found] = await of(own.url, "streams", "--stream", "numbers")
        assert "no times" in found["found"]


# -- permissions -----------------------------------------------------------------------


async def give(redis: Any, *rules: str) -> None:
    start = ("reset", "on", ">secret", "-@all")
    await redis.execute_command("ACL", "SETUSER", "u", *start, *rules)


@pytest.mark.parametrize("role", Role)
async def test_a_missing_word_of_each_role_is_found_and_granted(
    role: Role, each: Server
) -> None:
    """By ACL DRYRUN, and where it is not there by trying; nothing is changed."""
    needed = PERMISSIONS[role].needed.split()
    async with each.client() as redis:
        await fill(redis, "orders")
        await redis.xadd("orders:0", {"msg": "x"})
        for helped in (["+acl"], ["+acl|whoami"]):
            login = with_login(each.url, "u", "secret")
            words = ("--role", role, "--stream", "orders")
            for missing in (needed[0], needed[-1]):
                rules = [word for word in needed if word != missing]
                await give(redis, *rules, *helped)
                was = await state(redis)
                found = worst(await of(login, "permissions", *words))
                assert await state(redis) == was
                assert found["level"] == "fail", (missing, found)
                assert missing in found["found"].split()
                await follow(redis, found["remedy"])
                found = worst(await of(login, "permissions", *words))
                assert found["level"] != "fail", found


async def test_without_dryrun_a_missing_multi_or_exec_is_found_by_trying(
    own: Server,
) -> None:
    needed = PERMISSIONS[Role.OPERATOR].needed.split()
    async with own.client() as redis:
        await fill(redis, "orders")
        for missing in ("+multi", "+exec"):
            await give(redis, *(word for word in needed if word != missing))
            words = ("--role", "operator", "--stream", "orders")
            found = await of(with_login(own.url, "u", "secret"), "permissions", *words)
            assert missing in worst(found)["found"].split()
            assert worst(found)["level"] == "fail"


async def test_a_user_who_may_ask_nothing_gets_an_honest_not_known(
    own: Server,
) -> None:
    async with own.client() as redis:
        await redis.xadd("orders", {"msg": "x"})
        await give(redis)
        login = with_login(own.url, "u", "secret")
        found = await findings(login)
        by_check = {one["check"]: one for one in found}
        for check in ("server", "persistence", "memory", "replication", "timeouts"):
            assert by_check[check]["level"] == "note", check
            assert "not known" in by_check[check]["found"]
        assert "not known" in by_check["clock"]["found"]
        assert "not known" in by_check["streams"]["found"]
        await give(redis, "+info")
        by_check = {one["check"]: one for one in await findings(login)}
        assert by_check["server"]["level"] == "ok"
        assert "appendfsync not known" in by_check["persistence"]["found"]
        assert by_check["memory"]["level"] == "ok"
        found = await of(login, "permissions", "--role", "producer")
        assert worst(found)["level"] == "fail"


# -- the command -----------------------------------------------------------------------


async def test_a_server_that_is_down_or_asks_for_a_password_is_status_1(
    own: Server,
) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    result = await run("doctor", "--url", url, status=1)
    assert not result.stdout
    assert "penstock: " in result.stderr
    async with own.client() as redis:
        await redis.config_set("requirepass", "pass-word")
    result = await run("doctor", "--url", own.url, status=1)
    assert "pass" in result.stderr.lower()
    wrong = own.url.replace("//", "//:wr0ng-one@")
    result = await run("doctor", "--url", wrong, status=1)
    assert "wr0ng-one" not in result.output
    right = own.url.replace("//", "//:pass-word@")
    [found, _] = await of(right, "connection")
    assert "a login" in found["found"]
    assert "pass-word" not in str(found)


async def test_a_stream_that_is_not_there_is_status_1_and_wrong_usage_2(
    own: Server,
) -> None:
    async with own.client() as redis:
        await redis.xadd("orders", {"msg": "x"})
    result = await run("doctor", "--url", own.url, "--stream", "ordrs", status=1)
    assert "there are: orders" in result.stderr
    await run("doctor", "--url", own.url, "--stream", "ord*", status=2)
    await run("doctor", "--url", own.url, "--role", "butler", status=2)


@pytest.mark.parametrize("columns", [30, 60, 80, 200])
async def test_lines_fit_the_terminal_and_commands_are_whole(
    columns: int, own: Server
) -> None:
    async with own.client() as redis:
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        await fill(redis, "orders")
    size = {"FORCE_COLOR": "1", "COLUMNS": str(columns), "TERM": "xterm-256color"}
    result = await run_colored("doctor", "--url", own.url, **size)
    lines = plain(result).splitlines()
    assert "      $ redis-cli CONFIG SET maxmemory-policy noeviction" in lines
    for line in lines:
        assert (
            len(line) <= columns or line.startswith("      $ ") or " " not in (line[6:])
        ), line


PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "doctor.md").read_text()


async def test_the_example_of_the_page_prints_what_it_says(own: Server) -> None:
    """But for the version, the times and the port."""
    [block] = re.findall(
        r"^```\n\$ penstock (.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
    )
    command, _, expected = block.partition("\n")
    async with own.client() as redis:
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        await fill(redis, "orders", hostile="")
    size = {"FORCE_COLOR": "1", "COLUMNS": "96", "PENSTOCK_URL": own.url}
    printed = plain(await run_colored(*shlex.split(command), **size))
    assert normal(printed) == normal(expected)


def normal(text: str) -> str:
    text = re.sub(r"[+-]?\d+\.\d+ (ms|s)\b", r"N \1", text)
    text = re.sub(r"127.0.0.1:\d+|cache:6379", "ADDRESS", text)
    return re.sub(r"(Valkey|Redis) [0-9.]+", "SERVER", text).strip()


def test_the_page_lists_each_check() -> None:
    named = re.findall(r"^\| `([a-z]+)` \|", PAGE, re.MULTILINE)
    facts = ServerFacts(round_trips=(0.1,))
    checks = dict.fromkeys(one.check for one in server_checks.check_server(facts))
    assert named == [*checks, "permissions", "streams"]


async def run_colored(*words: str, **variables: str) -> str:
    result = await asyncio.to_thread(CliRunner().invoke, app, words, env=variables)
    assert result.exit_code == 3
    return result.stdout


async def test_a_pipe_gets_columns(own: Server) -> None:
    rows = table(await run("doctor", "--url", own.url))
    assert {row["LEVEL"] for row in rows} == {"ok", "note"}
    assert list(rows[0]) == ["LEVEL", "CHECK", "FOUND", "MEANING", "REMEDY"]
