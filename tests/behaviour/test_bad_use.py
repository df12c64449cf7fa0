"""Bad use: it is refused at once, with an error that says what to do."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from penstock import (
    LOAD_BALANCED,
    REALTIME,
    Claim,
    ClosedError,
    Commit,
    ConfigurationError,
    Consumer,
    Prefetch,
    Producer,
    UsageError,
)


@pytest.mark.parametrize(
    ("streams", "options", "words"),
    [
        ((), {}, "at least one stream"),
        (("a", "a"), {}, "each one once"),
        (("",), {}, "not empty"),
        ((b"bytes",), {}, "not empty"),
        (("a",), {"mode": LOAD_BALANCED}, "name one"),
        (("a",), {"mode": REALTIME, "group": "g"}, "leave group= and name= out"),
        (("a",), {"name": "n"}, "leave group= and name= out"),
        (("a",), {"group": ""}, "name one"),
        (("a",), {"group": "g", "name": ""}, "leave it out"),
        (("a",), {"mode": "sometimes"}, "'realtime', 'resumable', 'load_balanced'"),
        (("a",), {"group": "g", "auto_commit": "maybe"}, "'processed', 'rolling', 'd"),
        (("a",), {"auto_commit": "rolling"}, "REALTIME has nothing"),
        (("a",), {"start": "yesterday"}, "entry id"),
        (("a",), {"start": "1-2-3"}, "entry id"),
        (("a",), {"start": -5}, "EARLIEST, LATEST"),
        (("a",), {"start": datetime(2026, 1, 1)}, "time zone"),  # noqa: DTZ001
        (("a",), {"close_timeout": -1}, "close_timeout"),
        (("a",), {"open_timeout": timedelta(seconds=-1)}, "open_timeout"),
        (("a",), {"payload": lambda: 0}, "codec of your own"),
        (("a",), {"codec": 5}, "encode\\(\\) and decode\\(\\)"),
        (("a",), {"max_message_bytes": 0}, "max_message_bytes"),
        (("a",), {"max_message_bytes": 1.5}, "max_message_bytes"),
    ],
)
def test_a_consumer_with_invalid_arguments_can_t_be_created(
    streams: tuple[Any, ...], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Consumer(*streams, url="redis://localhost", **options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Prefetch, {"max_messages": 0}),
        (Prefetch, {"max_messages": 1.5}),
        (Prefetch, {"max_bytes": -1}),
        (Prefetch, {"max_wait": 0}),
        (Prefetch, {"max_wait": timedelta(seconds=-1)}),
        (Commit, {"interval": -0.1}),
        (Commit, {"interval": float("inf")}),
        (Commit, {"interval": "1s"}),
        (Commit, {"interval": True}),
        (Commit, {"max_pending": 0}),
        (Claim, {"idle": 0}),
        (Claim, {"idle": timedelta(seconds=-5)}),
    ],
)
def test_options_are_checked_when_they_are_created(
    kind: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        kind(**options)


async def test_without_a_url_the_error_names_three_solutions() -> None:
    for opened in (Consumer("a"), Producer()):
        with pytest.raises(ConfigurationError) as caught:
            async with opened:
                pytest.fail("must not open")
        for solution in ("url=", "REDIS_URL", "embedded://"):
            assert solution in str(caught.value)


async def test_redis_url_is_the_default(
    url: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    async with Producer() as producer, Consumer(stream) as consumer:
        await producer.send(stream, b"x")
        assert (await consumer.next()).payload == b"x"


async def test_an_open_consumer_or_producer_can_t_be_opened_again(
    url: str, stream: str
) -> None:
    consumer, producer = Consumer(stream, url=url), Producer(url)
    async with consumer, producer:
        with pytest.raises(UsageError, match="already open"):
            async with consumer:
                pytest.fail("must not open")
        with pytest.raises(UsageError, match="already open"):
            async with producer:
                pytest.fail("must not open")
        # Both still work after the refusal.
        await producer.send(stream, b"x")
        assert (await consumer.next()).payload == b"x"


async def test_run_checks_its_arguments_before_it_starts(url: str, stream: str) -> None:
    async def handle(_: object) -> None: ...

    consumer = Consumer(stream, url=url, group="g")
    with pytest.raises(ClosedError):
        await consumer.run(handle)
    async with consumer:
        for options in ({"concurrency": 0}, {"ordering": "alphabetic"}):
            with pytest.raises(ConfigurationError, match=next(iter(options))):
                await consumer.run(handle, **options)


def test_a_repr_shows_state_and_no_secret(stream: str) -> None:
    url = "redis://user:canary@localhost"
    consumer = Consumer(stream, url=url, group="g", name="n")
    assert repr(consumer) == f"<Consumer '{stream}' group='g' name='n' closed>"
    assert "canary" not in repr(Producer(url))


@pytest.mark.parametrize("option", ["prefetch", "commit", "claim", "retry"])
def test_a_number_in_place_of_an_option_object_is_refused(option: str) -> None:
    wrong: Any = {option: 5}
    with pytest.raises(ConfigurationError, match=f"{option}=5 is invalid; pass a "):
        Consumer("s", url="redis://localhost", group="g", **wrong)
