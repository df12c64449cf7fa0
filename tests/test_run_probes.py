"""The probes of `penstock run`, its ready file, and `router.health()`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path

import anyio
import msgspec
import pytest

from penstock import Message, Router
from penstock._tasks import consumer_set
from penstock.cli.run.http_server import JSON, Page, serve
from penstock.cli.run.readiness import Readiness
from penstock.cli.run.status_pipe import Frame, Frames, StatusPipe
from penstock.health import Health, WorkerHealth, WorkerState
from support.run_process import Run, get, probe, send_words
from support.server import free_port, server
from support.waiting import eventually, send

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds processes in /proc"
)


async def test_probes_and_the_ready_file_show_whether_all_workers_are_ready(
    run: Run, url: str, stream: str, tmp_path: Path
) -> None:
    port, gate = free_port(), tmp_path / "gate"
    run.env["TEST_GATE"] = str(gate)
    run.ready_file.write_text("left by another run")
    run.start("--workers", "2", "--port", str(port))
    await run.prints(f"probes are answered on 127.0.0.1:{port}")
    assert not run.ready_file.exists()
    assert await probe(port, "/live") == (200, "live\n")
    assert await probe(port, "/ready") == (503, "0 of 2 workers are ready\n")
    gate.touch()
    await eventually(run.is_ready, within=20)
    assert run.ready_file.read_text() == f"{run.process.pid}\n"
    assert await probe(port, "/ready?full=1") == (200, "2 of 2 workers are ready\n")
    # One worker is down, and can't be ready again.
    gate.unlink()
    os.kill(run.workers()[0], signal.SIGKILL)
    await eventually(run.is_not_ready)
    assert await probe(port, "/ready") == (503, "1 of 2 workers are ready\n")
    gate.touch()
    await eventually(run.is_ready, within=20)
    # One worker drains.
    await send_words(url, stream, "hang")
    await run.has_handled(1)
    run.signal(signal.SIGTERM)
    await eventually(run.is_not_ready)
    assert await probe(port, "/ready") == (503, "draining\n")
    assert await probe(port, "/live") == (200, "live\n")
    run.signal(signal.SIGINT)
    await run.ends(128 + signal.SIGINT)


async def test_a_handler_that_blocks_its_worker_does_not_block_the_probes(
    run: Run, url: str, stream: str
) -> None:
    port = free_port()
    await run.ready("--port", str(port))
    await send_words(url, stream, "block")
    await run.has_handled(1)
    assert await probe(port, "/live") == (200, "live\n")
    # Nor do clients that send too much or nothing, or that disconnect.
    assert await get(port, b"GET /" + b"x" * 20_000) == b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert (await probe(port, "/ready"))[0] == 200
    writer.transport.abort()
    reader.feed_eof()
    run.signal(signal.SIGTERM)
    await run.prints("draining")
    run.signal(signal.SIGINT)
    await run.ends(130)


async def test_silent_connections_do_not_keep_probes_from_being_answered(
    run: Run,
) -> None:
    port = free_port()
    await run.ready("--port", str(port))
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    for each in silent[::2]:
        each.send(b"GET /ready HTTP/1.1\r\n")
    assert (await probe(port, "/ready"))[0] == 200
    assert (await probe(port, "/live"))[0] == 200
    for each in silent:
        each.close()
    run.signal(signal.SIGTERM)
    await run.ends(0)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_an_outage_makes_workers_not_ready_and_a_blocked_loop_too(
    run: Run, stream: str, tmp_path: Path
) -> None:
    """`/live` stays, and no worker is restarted, since a restart can't help."""
    port = free_port()
    async with server(tmp_path) as own:
        run.env["REDIS_URL"] = own.url
        await run.ready("--port", str(port))
        workers = run.workers()

        async def ready_is(expected: int) -> bool:
            assert (await probe(port, "/live"))[0] == 200
            code, _ = await probe(port, "/ready")
            return code == expected

        own.send_signal(signal.SIGSTOP)
        took = await eventually(lambda: ready_is(503), within=20)
        assert took > 10
        _, reason = await probe(port, "/ready")
        assert reason.startswith("worker 1: no answer from the server for ")
        assert not run.ready_file.exists()
        own.send_signal(signal.SIGCONT)
        await eventually(lambda: ready_is(200), within=5)
        assert run.ready_file.exists()
        assert run.workers() == workers

        await send_words(own.url, stream, "block")
        await run.has_handled(1)
        await eventually(lambda: ready_is(503), within=20)
        _, reason = await probe(port, "/ready")
        assert reason.startswith("worker 1: the event loop has not turned for ")
        health = msgspec.json.decode((await probe(port, "/health"))[1], type=Health)
        assert health.workers[0].loop_delay_seconds > 10
        assert health.workers[0].state is WorkerState.RUNNING
        run.signal(signal.SIGTERM)
        await run.prints("draining")
        run.signal(signal.SIGINT)
        await run.ends(130)
    assert run.output().count("is not ready: no answer from the server") == 1
    assert "is ready again" in run.output()
    assert "starting another" not in run.output()


async def test_health_says_of_each_worker_and_consumer_how_it_is(
    run: Run, url: str, stream: str
) -> None:
    port = free_port()
    await run.ready("--port", str(port), "--workers", "2")
    await send_words(url, stream, "hang")
    await run.has_handled(1)

    async def busy() -> Health | None:
        code, body = await probe(port, "/health")
        assert code == 200
        found = msgspec.json.decode(body, type=Health, strict=True)
        consumers = [one for worker in found.workers for one in worker.consumers]
        handling = sum(one.running for one in consumers) == 1
        for one in consumers:
            oldest = one.oldest_running_seconds
            assert oldest is not None
            handling = handling and (oldest > 0) == (one.running > 0)
        return found if handling and len(consumers) == 2 else None

    await eventually(busy)
    health = await busy()
    assert health is not None
    assert (health.ready, health.live, health.why) == (True, True, None)
    assert {worker.pid for worker in health.workers} == set(run.workers())
    assert [worker.number for worker in health.workers] == [1, 2]
    for worker in health.workers:
        assert worker.state is WorkerState.RUNNING
        assert 0 < worker.uptime_seconds < 60
        assert worker.unanswered_seconds < 10
        [consumer] = worker.consumers
        assert (consumer.streams, consumer.group) == ((stream,), "g")
        assert consumer.connected
    os.kill(run.workers()[0], signal.SIGKILL)
    await eventually(run.is_not_ready)
    health = msgspec.json.decode((await probe(port, "/health"))[1], type=Health)
    assert (health.ready, health.why) == (False, "1 of 2 workers are ready")
    run.signal(signal.SIGTERM)
    await run.prints("draining")
    run.signal(signal.SIGINT)
    await run.ends(130)


async def test_a_router_tells_the_same_as_a_value(url: str, stream: str) -> None:
    router = Router(url, close_timeout=0)
    busy, other = asyncio.Event(), f"{stream}-other"

    @router.handler(stream, group="g")
    async def _(message: Message[bytes]) -> None:
        busy.set()
        await asyncio.sleep(60)

    @router.handler(other)
    async def _(message: Message[bytes]) -> None: ...

    idle = router.health()
    assert (idle.ready, idle.live, idle.why) == (
        *(False, False),
        "the router is not running",
    )
    assert idle.workers[0].state is WorkerState.DOWN
    await send(url, stream, *range(3))

    async def all_are_read() -> bool:
        first = router.health().workers[0].consumers[0]
        return (first.running, first.queued) == (1, 2)

    async with router.running():
        await busy.wait()
        await eventually(all_are_read)
        health = router.health()
        assert (health.ready, health.live, health.why) == (True, True, None)
        [worker] = health.workers
        assert (worker.pid, worker.state) == (os.getpid(), WorkerState.RUNNING)
        first, second = worker.consumers
        assert (first.streams, first.group) == ((stream,), "g")
        assert first.oldest_running_seconds is None  # without metrics
        assert (second.streams, second.group, second.running) == ((other,), None, 0)
        router.stop()
        assert router.health().why == "draining"
        assert router.health().workers[0].state is WorkerState.DRAINING
    assert not router.health().live


async def test_a_router_whose_event_loop_stands_still_is_not_ready(
    url: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread sees it, while it lasts."""
    monkeypatch.setattr(consumer_set, "LONGEST_SILENCE", 0.2)
    router = Router(url, close_timeout=0)
    seen: list[Health] = []

    @router.handler(stream, group="g")
    async def _(message: Message[bytes]) -> None: ...

    def look() -> None:
        while not seen:
            health = router.health()
            if (health.why or "").startswith("the event loop has not turned for "):
                seen.append(health)

    async with router.running():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join(20)  # blocks the event loop
        assert seen[0].workers[0].loop_delay_seconds >= 0.2
        assert not seen[0].ready

        async def turned() -> bool:
            return router.health().workers[0].loop_delay_seconds < 0.2

        await eventually(turned)


@pytest.fixture
async def pages_port() -> AsyncIterator[int]:
    """Serve two pages on a port."""

    async def page() -> Page:
        return Page(HTTPStatus.OK, b"well")

    async def ill() -> Page:
        return Page(HTTPStatus.SERVICE_UNAVAILABLE, b"{}", JSON)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - no query
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(serve(listener, {"/page": page, "/ill": ill}))
        yield port
        task.cancel()


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /page HTTP/1.1", 200),
        (b"GET /page?full=1 HTTP/1.0", 200),
        (b"HEAD /page HTTP/1.1", 200),
        (b"GET /ill HTTP/1.1", 503),
        (b"GET /other HTTP/1.1", 404),
        (b"GET /\xff HTTP/1.1", 400),
        (b"POST /page HTTP/1.1", 405),
        (b"GET /page HTTP/2", 400),
        (b"GET /page", 400),
        (b"\x16\x03\x01", 400),
    ],
)
async def test_only_valid_requests_get_a_page(
    pages_port: int, request_line: bytes, status: int
) -> None:
    reply = await get(pages_port, request_line + b"\r\nHost: x\r\n\r\n")
    head, _, body = reply.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0].split()[1] == str(status)
    assert "Connection: close" in lines
    assert ("Allow: GET, HEAD" in lines) == (status == 405)
    if request_line.startswith(b"HEAD"):
        assert body == b""
        assert "Content-Length: 4" in lines
    else:
        assert f"Content-Length: {len(body)}" in lines
    if status == 404:
        assert body == b"there are /page, /ill\n"


async def test_a_request_that_comes_in_pieces_is_answered_and_a_large_one_is_not(
    pages_port: int,
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", pages_port)
    for piece in (b"GET /pa", b"ge HTTP/1.1\r\nHost: x\r\n", b"\r\n"):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.01)  # so that it is received by itself
    assert (await reader.read()).endswith(b"\r\n\r\nwell")
    writer.close()
    assert await get(pages_port, b"GET /page HTTP/1.1\r\nX: " + b"x" * 8192) == b""


def test_readiness_is_known_without_a_ready_file() -> None:
    readiness = Readiness(2)
    readiness.prepare()
    readiness.up(1)
    assert (readiness.ready, str(readiness)) == (False, "1 of 2 workers are ready")
    readiness.up(2)
    assert readiness.ready
    readiness.drain()
    assert (readiness.ready, str(readiness)) == (False, "draining")


def test_the_ready_file_is_not_written_through_links(tmp_path: Path) -> None:
    """In /tmp anybody can put a link at a name that is known beforehand."""
    victim, file = tmp_path / "victim", tmp_path / "ready"
    victim.write_text("mine")
    for name in (f".ready.{os.getpid()}", "ready"):
        (tmp_path / name).symlink_to(victim)
    readiness = Readiness(1, file)
    readiness.prepare()
    file.symlink_to(victim)
    readiness.up(1)
    assert victim.read_text() == "mine"
    assert not file.is_symlink()
    assert file.read_text() == f"{os.getpid()}\n"
    assert file.stat().st_mode & 0o777 == 0o644
    readiness.down(1)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"victim", f".ready.{os.getpid()}"}


def told(number: int, why: str | None) -> WorkerHealth:
    return WorkerHealth(number=number, pid=1, state=WorkerState.RUNNING, why=why)


def test_a_worker_in_trouble_is_not_ready_and_says_why(tmp_path: Path) -> None:
    readiness = Readiness(2, tmp_path / "ready")
    readiness.started(1, 7)
    [first, _] = readiness.health.workers
    assert first.state is WorkerState.STARTING
    assert readiness.told(1, told(1, "not open")) == (None, None)
    readiness.up(1)
    readiness.up(2)
    assert readiness.told(2, told(2, "no answer")) == (None, "no answer")
    assert (readiness.ready, str(readiness)) == (False, "worker 2: no answer")
    assert not (tmp_path / "ready").exists()
    assert readiness.told(2, told(2, None)) == ("no answer", None)
    assert readiness.ready
    assert (tmp_path / "ready").exists()
    readiness.told(1, told(1, "no answer"))
    readiness.down(1)
    [first, _] = readiness.health.workers
    assert first.state is WorkerState.DOWN
    readiness.up(1)
    assert readiness.ready


def test_a_ready_file_that_can_t_be_written_is_only_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    readiness = Readiness(1, folder / "ready")
    readiness.prepare()
    folder.rmdir()
    readiness.up(1)
    assert readiness.ready
    assert "the ready file: " in caplog.text


def test_writing_to_a_closed_status_pipe_is_no_error() -> None:
    ours, theirs = socket.socketpair()
    pipe = StatusPipe(theirs.detach())
    ours.close()
    pipe.ready()
    pipe.refuse("why")
    pipe._socket.close()


def test_frames_are_cut_wherever_their_bytes_are_split() -> None:
    ours, theirs = socket.socketpair()
    pipe = StatusPipe(theirs.detach())
    pipe.ready()
    pipe.refuse("why\n")
    sent = ours.recv(1000)
    for size in range(1, len(sent) + 1):
        frames = Frames()
        pieces = [sent[at : at + size] for at in range(0, len(sent), size)]
        found = [frame for piece in pieces for frame in frames.add(piece)]
        assert found == [(Frame.READY, b""), (Frame.REFUSED, b"why\n")]
    pipe._socket.close()
    ours.close()


def test_a_question_that_can_t_be_answered_is_logged_and_others_are_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours, theirs = socket.socketpair()
    pipe = StatusPipe(theirs.detach())

    def fail() -> bytes:
        raise ValueError

    answers = {b"a": (Frame.HEALTH, fail), b"b": (Frame.HEALTH, lambda: b"{}")}
    for asked in (b"a", b"?", b"b"):
        if asked in answers:
            pipe._answer(*answers[asked])
    assert list(Frames().add(ours.recv(1000))) == [(Frame.HEALTH, b"{}")]
    assert "the parent's question HEALTH was not answered" in caplog.text
    pipe._socket.close()
    ours.close()
