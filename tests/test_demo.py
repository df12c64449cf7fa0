"""`penstock demo` as a user sees it; it leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from rich.console import Console

from penstock import Consumer
from penstock.admin import Admin
from penstock.cli.demo.report import (
    Progress,
    Result,
    Tally,
    progress_grid,
    table,
    tally,
)
from penstock.cli.demo.scenario import (
    DemoSender,
    Run,
    Stalled,
    clicks,
    first_word,
    from_file,
)
from penstock.cli.demo.worker import GROUP
from support.events import Events
from support.waiting import eventually

Process: TypeAlias = "subprocess.Popen[bytes]"

LINES = b"".join(b"user-%d /cart %d\n" % (n % 7, n) for n in range(2000))

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds processes in /proc"
)


class Demo:
    """`penstock demo` in a process, with a marker that its children inherit."""

    def __init__(self, temporary: Path) -> None:
        self.mark = f"PENSTOCK_TEST_MARK={secrets.token_hex(8)}"
        self.temporary = temporary
        name, _, value = self.mark.partition("=")
        self.env = {**os.environ, name: value, "TMPDIR": str(temporary)}
        self.started: list[Process] = []

    def start(self, *arguments: str, stderr: int = subprocess.PIPE) -> Process:
        process = subprocess.Popen(
            [
                *(sys.executable, "-W", "error", "-m", "penstock.cli", "demo"),
                *arguments,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=self.env,
        )
        self.started.append(process)
        return process

    async def run(
        self, *arguments: str, given: bytes = b"", status: int = 0
    ) -> tuple[str, str]:
        """Run it to its end; return its output."""
        process = self.start(*arguments)
        out, err = await ended(process, given)
        assert process.returncode == status, (out, err)
        return out, err

    async def result(self, *arguments: str, **more: Any) -> dict[str, Any]:
        """Run it with --json; return the object."""
        out, _ = await self.run("--json", *arguments, **more)
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found

    def processes(self, program: bytes = b"") -> list[int]:
        """Return the ids of its running processes, or of those of one program."""
        return [
            int(path.name)
            for path in Path("/proc").iterdir()
            if path.name.isdigit()
            and self.mark.encode() in _read(path / "environ")
            and program in _read(path / "cmdline")
        ]

    def workers(self) -> list[int]:
        return self.processes(b"cli.demo.worker")

    async def nothing_is_left(self) -> None:
        """Wait until neither a process nor a file is left."""

        async def gone() -> bool:
            return not self.processes()

        await eventually(gone)
        assert list(self.temporary.iterdir()) == []


async def ended(process: Process, given: bytes | None = None) -> tuple[str, str]:
    """Wait for the end of a process; return its output."""
    out, err = await asyncio.to_thread(process.communicate, given, 30)
    return out.decode(), (err or b"").decode()


def give(process: Process, lines: bytes) -> None:
    """Write to the standard input of a process."""
    assert process.stdin is not None
    process.stdin.write(lines)
    process.stdin.flush()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.fixture
async def demo(tmp_path: Path) -> AsyncIterator[Demo]:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    created = Demo(temporary)
    yield created
    for process in created.started:
        process.kill()
        process.communicate()
    for pid in created.processes():
        os.kill(pid, signal.SIGKILL)


async def running(demo: Demo, url: str) -> Process:
    """Start a demo that waits for more input, with its workers running."""
    process = demo.start("--json", "--input", "-", "--url", url)
    await workers_started(demo)
    give(process, LINES)
    return process


async def workers_started(demo: Demo) -> None:
    """Wait until two workers have started."""

    async def both_have_journals() -> bool:
        assert demo.started[-1].poll() is None
        return len(list(demo.temporary.glob("penstock-demo-*/*.journal"))) == 2

    await eventually(both_have_journals)


async def streams(redis: Any) -> set[bytes]:
    """Return the demos' streams on the server."""
    return {key async for key in redis.scan_iter("penstock-demo-*")}


# -- counting ------------------------------------------------------------------------


async def test_lines_are_counted_by_their_first_word(
    demo: Demo, url: str, tmp_path: Path
) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"a 1\nb 1\n  a 2\n\na\t3\nb\n")
    found = await demo.result("--input", str(file), "--url", url)
    assert found["seconds"] > 0
    assert found["messages_per_second"] > 0
    for name in ("seconds", "messages_per_second", "keys_out_of_order", "keys_moved"):
        del found[name]
    assert found == {
        "sent": 6,
        "handled": 6,
        "distinct": 6,
        "lost": 0,
        "duplicates": 0,
        "keys": 3,
        "top": {"a": 3, "b": 2, "": 1},
        "killed": 0,
        "joined": 0,
        "in_hand_when_killed": 0,
        "problems": [],
    }
    await demo.nothing_is_left()


async def test_lines_come_from_standard_input(demo: Demo, url: str) -> None:
    found = await demo.result("--input", "-", "--url", url, given=LINES)
    assert (found["sent"], found["distinct"], found["keys"]) == (2000, 2000, 7)
    assert list(found["top"].values()) == [286] * 5 + [285] * 2


async def test_lines_may_contain_any_bytes(demo: Demo, url: str) -> None:
    long = b"k" * 100_000
    given = b"\xff\xfe x\n\xff\xfe y\r\n\r\n\n" + long + b" " + long + b"\n\x00 z"
    found = await demo.result("--input", "-", "--url", url, given=given)
    assert found["sent"] == found["distinct"] == 6
    assert found["top"] == {"": 2, "\\xff\\xfe": 2, "\x00": 1, long.decode(): 1}


@pytest.mark.parametrize("kill", [[], ["--kill"]])
async def test_an_empty_input_is_not_an_error(
    demo: Demo, url: str, kill: list[str]
) -> None:
    found = await demo.result("--input", "-", "--url", url, *kill)
    assert (found["sent"], found["lost"], found["killed"]) == (0, 0, 0)
    assert found["top"] == {}


async def test_the_demo_starts_a_server_if_none_is_given(demo: Demo) -> None:
    found = await demo.result("--lines", "1000", "--workers", "3")
    assert (found["sent"], found["distinct"], found["lost"]) == (1000, 1000, 0)
    await demo.nothing_is_left()


async def test_a_server_that_the_environment_names_is_not_used(
    demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.env["REDIS_URL"] = "redis://127.0.0.1:1"
    assert (await demo.result("--lines", "10"))["sent"] == 10


async def test_the_same_seed_generates_the_same_clicks(demo: Demo, url: str) -> None:
    one, same, other = [
        (await demo.result("--lines", "500", "--seed", seed, "--url", url))["top"]
        for seed in ("1", "1", "2")
    ]
    assert one == same != other


# -- output --------------------------------------------------------------------------


async def test_the_result_is_printed_as_a_table(demo: Demo, url: str) -> None:
    out, err = await demo.run("--input", "-", "--url", url, given=LINES)
    assert err == ""
    cells = [line.strip("│").replace("│", " ").split() for line in out.splitlines()]
    assert ["sent", "2,000"] in cells
    assert ["lost", "0"] in cells
    assert ["user-0", "286"] in cells


async def test_a_terminal_shows_the_progress(demo: Demo, url: str) -> None:
    ours, theirs = pty.openpty()
    try:
        process = demo.start("--json", "--lines", "500", "--url", url, stderr=theirs)
        out, _ = await ended(process)
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert json.loads(out)["lost"] == 0  # on its own, with nothing else in between
    for word in ("sent", "rate", "lag", "pending"):
        assert word in shown


def text(renderable: Any) -> str:
    """Return a renderable of rich as text."""
    console = Console(width=100)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_the_progress_shows_the_messages_in_flight_of_each_worker() -> None:
    seen = Progress(9000, 10, 300, 1200, {"worker-2": 700, "worker-1": 500})
    lines = [line.split() for line in text(progress_grid(seen, 4321.5)).splitlines()]
    assert lines == [
        ["sent", "9,000"],
        ["handled", "7,500"],
        ["rate", "4,322/s"],
        ["lag", "300"],
        ["pending", "1,200"],
        ["in", "flight,", "worker-1", "500"],
        ["in", "flight,", "worker-2", "700"],
    ]


def test_keys_can_not_control_the_terminal() -> None:
    counted = Tally(sent=1, handled=1, distinct=1)
    counted.keys.update([b"[red]\x1b[2J\xff\xc3\xa9" + b"x" * 500])
    shown = text(table(Result(counted, 1.0, 0, 0)))
    assert "\x1b" not in shown
    assert "[red]\\x1b[2J\\xffé" + "x" in shown
    assert "x" * 61 not in shown


# -- a worker is killed --------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7, 20_000])
async def test_a_worker_is_killed_and_nothing_is_lost(
    demo: Demo, url: str, redis: Any, count: int
) -> None:
    before = await streams(redis)
    found = await demo.result("--lines", str(count), "--kill", "--url", url)
    assert (found["killed"], found["lost"]) == (1, 0)
    assert found["sent"] == found["distinct"] == sum(found["top"].values()) or count > 7
    assert 0 < found["in_hand_when_killed"] <= -(-count // 2)
    assert 0 <= found["duplicates"] <= found["in_hand_when_killed"]
    await demo.nothing_is_left()
    assert await streams(redis) == before


@pytest.mark.parametrize("way", ["file", "pipe"])
async def test_the_only_worker_is_killed_half_way_through_given_lines(
    demo: Demo, url: str, tmp_path: Path, way: str
) -> None:
    file = tmp_path / "lines"
    file.write_bytes(LINES)
    path, given = (str(file), b"") if way == "file" else ("-", LINES)
    found = await demo.result(
        *("--input", path, "--kill", "--workers", "1", "--url", url), given=given
    )
    assert (found["sent"], found["distinct"], found["killed"]) == (2000, 2000, 1)
    assert list(found["top"].values()) == [286] * 5 + [285] * 2


async def test_workers_that_own_shards_keep_the_order_of_each_key_though_one_is_killed(
    demo: Demo, url: str, redis: Any
) -> None:
    """Two others join after that, so that most shards have another owner."""
    before = await streams(redis)
    found = await demo.result("--owned", "--kill", "--lines", "8000", "--url", url)
    assert (found["sent"], found["distinct"]) == (8000, 8000)
    assert (found["killed"], found["joined"]) == (1, 2)
    assert found["keys_moved"] > 0
    assert (found["keys_out_of_order"], found["problems"]) == (0, [])
    await demo.nothing_is_left()
    assert await streams(redis) == before


async def test_workers_that_share_a_stream_keep_no_order(demo: Demo, url: str) -> None:
    found = await demo.result("--lines", "8000", "--url", url)
    assert found["keys_moved"] > 0
    assert found["keys_out_of_order"] > 0
    assert found["problems"] == []


# -- failures ------------------------------------------------------------------------


async def test_if_lines_are_lost_the_status_is_1(
    demo: Demo, url: str, redis: Any
) -> None:
    """Another consumer of the group reads some lines, and acknowledges them."""
    before = await streams(redis)
    process = await running(demo, url)
    [stream] = await streams(redis) - before
    [group] = await redis.xinfo_groups(stream)
    for pid in demo.workers():
        os.kill(pid, signal.SIGSTOP)
    give(process, LINES)

    async def taken() -> int:
        """Take entries that are not yet in flight to a worker."""
        reply = await redis.xreadgroup(group["name"], "thief", {stream: ">"}, 100)
        ids = [id_ for _, entries in reply for id_, _ in entries]
        return int(await redis.xack(stream, group["name"], *ids)) if ids else 0

    await eventually(taken)
    for pid in demo.workers():
        os.kill(pid, signal.SIGCONT)
    out, err = await ended(process)
    found = json.loads(out)
    assert process.returncode == 1
    assert found["sent"] == 4000
    assert 0 < found["lost"] == 4000 - found["distinct"]
    assert err == f"penstock: {found['lost']} of 4000 lines were lost\n"


async def test_a_worker_that_dies_ends_the_run(demo: Demo, url: str) -> None:
    process = await running(demo, url)
    os.kill(demo.workers()[0], signal.SIGKILL)
    _, err = await ended(process, b"")
    assert process.returncode == 1
    assert "ended with status -9" in err
    await demo.nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_leaves_nothing_behind(
    demo: Demo, url: str, redis: Any, number: signal.Signals
) -> None:
    before = await streams(redis)
    process = await running(demo, url)
    assert len(await streams(redis) - before) == 1
    process.send_signal(number)
    out, err = await ended(process)
    assert process.returncode == 128 + number
    assert (out, err) == ("", f"penstock: ended by {number.name}\n")
    await demo.nothing_is_left()
    assert await streams(redis) == before


async def test_a_signal_ends_the_embedded_server_too(demo: Demo) -> None:
    process = demo.start("--lines", "10000000")
    await workers_started(demo)
    process.send_signal(signal.SIGINT)
    await ended(process)
    assert process.returncode == 130
    await demo.nothing_is_left()


async def test_workers_end_with_their_parent(demo: Demo, url: str, redis: Any) -> None:
    before = await streams(redis)
    process = await running(demo, url)
    process.kill()

    async def gone() -> bool:
        return not demo.processes()

    await eventually(gone)
    await redis.delete(*(await streams(redis) - before))


async def test_a_run_without_progress_ends_with_an_error(
    url: str, stream: str, tmp_path: Path, events: Events
) -> None:
    """The group has no consumer that would handle messages."""
    async with Consumer(stream, url=url, group=GROUP):
        pass
    sender = DemoSender(url, stream)
    async with Admin(url) as admin:
        created = Run(admin, sender, tmp_path, lambda _: None, patience=0.2)
        await sender.run(clicks(3, seed=0).source)
        with pytest.raises(Stalled, match=r"3 lines sent, 0 without .*, 3 unread, 0 "):
            await created.until_handled()


# -- parts of the demo ---------------------------------------------------------------


def journal(folder: Path, number: int, content: bytes) -> Path:
    path = folder / f"{number}.journal"
    path.write_bytes(content)
    return path


def test_a_key_is_out_of_order_if_a_later_line_was_handled_first(
    tmp_path: Path,
) -> None:
    """Also by another worker; what is handled again does not count."""
    journals = [
        journal(tmp_path, 1, b"10 0/1-0 a\n20 0/2-0 b\n50 0/4-0 c\n"),
        journal(tmp_path, 2, b"30 0/3-0 a\n40 0/1-0 a\n60 1/1-0 b\n45 0/5-0 c\n"),
    ]
    sent = [b"0/1-0", b"0/2-0", b"0/3-0", b"0/4-0", b"0/5-0", b"1/1-0"]
    found = tally(sent, journals)
    assert (found.disordered, found.moved, found.duplicates) == (1, 3, 1)
    assert Result(found, 1.0, 0, 0).complaints == []
    assert Result(found, 1.0, 0, 0, in_order=True).complaints == [
        "1 keys were handled out of order"
    ]


def test_a_line_handled_twice_is_a_duplicate_and_counts_once(tmp_path: Path) -> None:
    found = tally(
        [b"1-0", b"2-0", b"3-0"],
        [
            journal(tmp_path, 1, b"1 1-0 a\n2 2-0 b\n"),
            journal(tmp_path, 2, b"3 2-0 b\n4 3-0 \n5 2-0 b\n"),
        ],
    )
    assert (found.sent, found.handled, found.distinct) == (3, 5, 3)
    assert (found.lost, found.duplicates) == (0, 2)
    assert found.keys == {b"a": 1, b"b": 1, b"": 1}
    assert Result(found, 2.0, 0, 0).complaints == []


def test_a_line_that_was_not_handled_is_lost(tmp_path: Path) -> None:
    found = tally([b"1-0", b"2-0"], [journal(tmp_path, 1, b"1 1-0 a\n2 1-0 a\n")])
    assert (found.lost, found.duplicates) == (1, 1)
    assert Result(found, 1.0, 0, 0).complaints == ["1 of 2 lines were lost"]


def test_a_handled_line_that_was_not_sent_is_reported(tmp_path: Path) -> None:
    found = tally([b"1-0"], [journal(tmp_path, 1, b"1 1-0 a\n2 9-9 a\n3 9-9 a\n")])
    assert (found.lost, found.duplicates, found.unknown) == (0, 0, 2)
    assert found.keys == {b"a": 1}
    assert Result(found, 1.0, 0, 0).complaints == [
        "2 messages were handled that have no receipt"
    ]


@pytest.mark.parametrize("incomplete", [b"2", b"2 2-0", b"2 2-0 ", b"2 2-0 ke"])
def test_an_incomplete_last_line_of_a_journal_does_not_count(
    tmp_path: Path, incomplete: bytes
) -> None:
    found = tally([b"1-0", b"2-0"], [journal(tmp_path, 1, b"1 1-0 a\n" + incomplete)])
    assert (found.handled, found.lost, found.unknown) == (1, 1, 0)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (b"a b", "a"),
        (b"  a", "a"),
        (b"\ta\r", "a"),
        (b"", ""),
        (b" \r", ""),
        ("né x".encode(), "né"),
        (b"\xff x", "\\xff"),
    ],
)
def test_a_key_is_the_first_word(line: bytes, key: str) -> None:
    assert first_word(line) == key


async def collect(lines: AsyncIterator[bytes]) -> list[bytes]:
    return [line async for line in lines]


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"a", b"a\n", b"a\n\nb", b"x" * 300_000 + b"\n" + b"y" * 600_000],
)
async def test_lines_are_separated_by_newlines(
    tmp_path: Path,
    content: bytes,
    *,
    counted: bool,
) -> None:
    path = tmp_path / "lines"
    path.write_bytes(content)
    with path.open("rb") as file:
        async with from_file(file.fileno(), counted=counted) as lines:
            found = await collect(lines.source)
    whole = content.removesuffix(b"\n").split(b"\n") if content else []
    assert found == whole
    assert lines.total == (len(whole) if counted else None)


async def test_lines_of_a_pipe_are_read_as_they_are_written() -> None:
    ours, theirs = os.pipe()
    try:
        async with from_file(ours, counted=False) as lines:
            os.write(theirs, b"one\ntw")
            assert await anext(lines.source) == b"one"
            asyncio.get_running_loop().call_soon(os.write, theirs, b"o\n")
            assert await anext(lines.source) == b"two"
            os.close(theirs)
            assert await collect(lines.source) == []
    finally:
        os.close(ours)


async def test_generated_clicks_look_like_clicks() -> None:
    lines = await collect(clicks(1000, seed=7).source)
    assert len(lines) == 1000
    assert lines == await collect(clicks(1000, seed=7).source)
    assert {len(line.split()) for line in lines} == {3}
    assert all(line.startswith(b"user-") for line in lines)


async def test_a_sender_pauses_and_resumes(url: str, stream: str, redis: Any) -> None:
    sender = DemoSender(url, stream, limit=3)
    sending = asyncio.create_task(sender.run(clicks(10, seed=0).source))

    async def paused() -> bool:
        sender.settle()
        return sender.paused and not sender.unsettled

    for total in (3, 5):
        await eventually(paused)
        assert await redis.xlen(stream) == len(sender.receipts) == total
        assert sender.count_up_to(sender.receipts[1].id) == 2
        sender.raise_limit(2 if total == 3 else 100)
    await sending
    assert sender.finished
    assert len(sender.receipts) == 10
