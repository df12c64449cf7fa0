"""`penstock relay` as a command: its options, its first line and its exit status."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.relay import command as relay_command
from penstock.cli.relay.checks import Mode, find_mode, is_same_server, shown_url
from penstock.cli.relay.command import _OF_MODULES
from penstock.cli.relay.command import relay as command
from penstock.cli.relay.names import own_name
from penstock.cli.relay.settings import RelaySettings
from penstock.cli.relay.worker import TARGET
from penstock.cli.run.command import run
from support.looking import run as invoke
from support.relay_process import Relay, elements, fill
from support.server import Server, free_port, server, with_login
from support.waiting import eventually, pending

HERE = "redis://127.0.0.1:1"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "exactly one of --queue and --to-stream"),
        (["--queue", "q", "--to-stream", "t"], "exactly one of --queue"),
        (["--to-stream", "t", "--max-queue", "5"], "--max-queue is for --queue"),
        (["--to-stream", "t", "--format", "fields"], "--format is for --queue"),
        (["--to-stream", "t", "--push", "left"], "--push is for --queue"),
        (["--to-stream", "t", "--max-len", "5", "--max-age", "1h"], "leave out one"),
        (["--queue", "q", "--max-len", "5"], "are for --to-stream"),
        (["--queue", "q", "--max-age", "5h"], "are for --to-stream"),
        (["--to-stream", "orders"], "is the stream itself"),
        (["--queue", "q", "--to-url", "embedded://"], "private to its process"),
        (["--queue", "q", "--to-url", "http://:secret@x"], "has scheme 'http'"),
        (["--queue", "q", "--grace", "5"], "--grace 5 has no unit"),
        (["--queue", "q", "--batch", "1001"], "1000"),
        (["--queue", "q", "--batch", "0"], "--batch"),
    ],
)
async def test_options_that_do_not_fit_are_wrong_usage(
    options: list[str], why: str
) -> None:
    words = ("relay", "--url", HERE, "--stream", "orders", *options)
    result = await invoke(*words, status=2)
    assert why in " ".join(result.stderr.replace("│", " ").split())
    assert "secret" not in result.output


async def test_without_a_server_the_status_is_1() -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}"
    words = ("relay", "--url", url, "--stream", "orders", "--queue", "q")
    result = await invoke(*words, status=1)
    assert "can't connect to 127.0.0.1" in result.stderr
    assert "secret" not in result.output


async def test_a_target_of_another_type_is_refused_at_the_start(
    url: str, stream: str, redis: Any
) -> None:
    await redis.set(f"{stream}.q", "no list")
    words = ("relay", "--url", url, "--stream", stream)
    result = await invoke(*words, "--queue", f"{stream}.q", status=1)
    assert f"'{stream}.q' is a string and not a list" in result.stderr
    result = await invoke(*words, "--to-stream", f"{stream}.q", status=1)
    assert "is a string and not a stream" in result.stderr


async def test_a_key_that_the_user_may_not_touch_is_refused_at_the_start(
    url: str, stream: str, redis: Any
) -> None:
    user = f"{stream}-user"
    rules = ("on", ">secret", f"~{stream}", "+@all")
    await redis.execute_command("ACL", "SETUSER", user, *rules)
    try:
        login = with_login(url, user, "secret")
        words = ("relay", "--url", login, "--stream", stream, "--queue", "elsewhere")
        result = await invoke(*words, status=1)
    finally:
        await redis.execute_command("ACL", "DELUSER", user)
    assert "NOPERM" in result.stderr
    assert "secret" not in result.output


def test_a_url_is_shown_without_its_secrets() -> None:
    for url, shown in {
        "redis://me:s%40cret@cache:6379/2": "redis://cache:6379/2",
        "redis://:secret@cache?db=4": "redis://cache:6379/4",
        "rediss://cache:1?password=secret": "rediss://cache:1/0",
        "redis://:secret@[::1]:7": "redis://[::1]:7/0",
        "unix:///run/r.sock?password=secret": "unix:///run/r.sock, database 0",
        "redis+sentinel://:secret@a:1,b:2/main/0?password=secret": (
            "redis+sentinel://a:1,b:2/main/0"
        ),
    }.items():
        assert shown_url(url) == shown


def test_one_database_of_one_server_and_one_user_are_the_same_server() -> None:
    one = "redis://u:p@cache:6379/0"
    assert is_same_server(one, "redis://u:p@cache?socket_timeout=3")
    for other in ("redis://u:p@cache/1", "redis://v:p@cache", "redis://u:p@cache:1"):
        assert not is_same_server(one, other)


def test_two_relays_of_one_host_have_different_names_and_each_keeps_its_own() -> None:
    what = ("redis://a/0", f"names-{os.getpid()}", "relay")
    with own_name(*what) as first:
        with own_name(*what) as second, own_name(*what, "other") as other:
            assert len({first.name, second.name}) == 2
            assert other.name == first.name
        with own_name(*what) as again:
            assert again == second
    with own_name(*what) as later:
        assert later == first


async def test_a_relay_waits_for_the_workers_of_a_parent_that_was_killed() -> None:
    """What they read last would come behind what it reads."""
    what = ("redis://a/0", f"workers-{os.getpid()}", "relay")
    with own_name(*what) as former:
        pass
    code = "from penstock.cli.relay.names import hold; import sys\n"
    code += "hold(sys.argv[1]); print(flush=True); sys.stdin.read()"
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, former.workers),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert worker.stdout is not None
    assert worker.stdin is not None
    await worker.stdout.readline()

    def start() -> str:
        with own_name(*what, patience=60) as own:
            return own.name

    starting = asyncio.create_task(asyncio.to_thread(start))
    await asyncio.sleep(0.2)
    assert not starting.done()
    worker.stdin.close()
    await worker.wait()
    assert await starting == former.name


def test_it_has_the_options_of_run_but_those_about_the_users_module() -> None:
    own, runs = (set(inspect.signature(each).parameters) for each in (command, run))
    assert runs - own <= _OF_MODULES
    assert {"workers", "port", "grace", "log_format"} <= own


PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "relay.md").read_text()
EXAMPLES = re.findall(
    r"^```text\n\$ penstock (relay [^`]*?)\n(penstock: .*)\n```$", PAGE, re.MULTILINE
)


@pytest.mark.parametrize(("words", "line"), EXAMPLES)
async def test_the_examples_of_the_page_say_what_the_page_says(
    words: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find(_url: str, settings: RelaySettings, _on_event: object) -> Mode:
        return Mode(exact=settings.to_url is None)

    def start(target: str, **_: object) -> None:
        assert target == TARGET

    monkeypatch.setattr(relay_command, "find_mode", find)
    monkeypatch.setattr(relay_command, "run", start)
    monkeypatch.setenv("PENSTOCK_RELAY_SETTINGS", "")
    words = words.replace("\\\n", " ")
    result = await invoke(*shlex.split(words), REDIS_URL="redis://:secret@cache:6379")
    assert result.stderr.splitlines() == [line]


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) == 3


@pytest.fixture
async def relay(url: str, stream: str, tmp_path: Path) -> Any:
    made = Relay(url, stream, tmp_path)
    yield made
    for pid in made.running():
        os.kill(pid, signal.SIGKILL)
    for process in made.processes:
        process.wait()


@pytest.mark.slow
async def test_it_says_what_it_does_and_drains_with_0(
    relay: Relay, url: str, stream: str, redis: Any
) -> None:
    """With two workers, and two of the options of `run`."""
    await fill(url, stream, 200)
    await relay.ready("--workers", "2", "--log-format", "json")
    first = f"penstock: relay {stream} -> list {stream}.queue on {shown_url(url)}"
    assert f"{first}, exactly once\n" in relay.output()

    async def done() -> bool:
        return int(await redis.llen(f"{stream}.queue")) == 200

    await eventually(done)
    relay.signal(signal.SIGTERM)
    await relay.ends(0)
    assert sorted(await elements(redis, f"{stream}.queue")) == list(range(200))
    assert await pending(redis, stream, "relay") == 0


@pytest.mark.slow
async def test_where_scripts_are_forbidden_it_says_so_and_relays_at_least_once(
    relay: Relay, url: str, stream: str, redis: Any
) -> None:
    user = f"{stream}-user"
    rules = ("on", ">secret", "~*", "&*", "+@all", "-eval", "-evalsha")
    await redis.execute_command("ACL", "SETUSER", user, *rules)
    try:
        await fill(url, stream, 100)
        relay.env["REDIS_URL"] = with_login(url, user, "secret")
        await relay.ready()
        assert "at least once (scripts are refused)" in relay.output()

        async def done() -> bool:
            return int(await redis.llen(f"{stream}.queue")) == 100

        await eventually(done)
        relay.signal(signal.SIGTERM)
        await relay.ends(0)
    finally:
        await redis.execute_command("ACL", "DELUSER", user)
    assert "secret" not in relay.output()


@pytest.mark.slow
async def test_a_second_signal_kills_it_while_the_other_server_is_away(
    relay: Relay, url: str, stream: str, tmp_path: Path
) -> None:
    other = Server(tmp_path)
    await other.start()
    try:
        await relay.ready("--to-url", other.url)
        assert f"on {shown_url(other.url)}, at least once" in relay.output()
        other.kill()
        await fill(url, stream, 10)
        await relay.prints("connection_lost")
        relay.signal(signal.SIGTERM)
        await relay.prints("SIGTERM: draining")
        # The same signal again, sent at once, is the same one.
        await asyncio.sleep(0.5)
        relay.signal(signal.SIGINT)
        await relay.ends(128 + signal.SIGINT)
    finally:
        other.kill()


async def test_in_cluster_mode_the_target_has_to_be_in_the_slot_of_the_stream(
    tmp_path: Path,
) -> None:
    bus = ("--cluster-port", str(free_port()))
    async with server(tmp_path, "--cluster-enabled", "yes", *bus) as own:
        async with own.client() as redis:
            await redis.execute_command("CLUSTER", "ADDSLOTS", *range(16384))

            async def is_up() -> bool:
                info = await redis.execute_command("CLUSTER", "INFO")
                return b"cluster_state:ok" in info

            await eventually(is_up)

            async def mode(target: str) -> Mode:
                settings = RelaySettings(stream="{o}rders", group="g", target=target)
                return await find_mode(own.url, settings, lambda _: None)

            assert await mode("{o}.queue") == Mode(exact=True)
            found = await mode("{x}.queue")
            assert not found.exact
            assert "different slots" in found.why_not
