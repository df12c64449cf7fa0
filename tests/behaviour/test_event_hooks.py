"""Event hooks: `on_event=` is a function that is not async."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from penstock import (
    ConfigurationError,
    Consumer,
    Event,
    Producer,
    Router,
    replay,
)
from penstock.admin import Admin
from penstock.events import guarded


async def async_hook(event: Event) -> None: ...


def generator_hook(event: Event) -> Iterator[Event]:
    yield event


class AsyncHook:
    async def __call__(self, event: Event) -> None: ...


HOOKS: list[Any] = [
    async_hook,
    AsyncHook(),
    functools.partial(async_hook),
    generator_hook,
    "text",
    None,
]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_would_not_run_is_refused_when_it_is_passed(hook: Any) -> None:
    url = "redis://localhost"
    with pytest.raises(ConfigurationError, match="on_event"):
        Consumer("orders", url=url, group="g", on_event=hook)
    with pytest.raises(ConfigurationError, match="on_event"):
        Producer(url, on_event=hook)
    with pytest.raises(ConfigurationError, match="on_event"):
        Admin(url, on_event=hook)
    with pytest.raises(ConfigurationError, match="on_event"):
        Router(url, on_event=hook)
    with pytest.raises(ConfigurationError, match="on_event"):
        replay("orders", url=url, on_event=hook)


def test_a_hook_that_returns_an_awaitable_is_reported_and_events_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    report = guarded(lambda event: async_hook(event))  # type: ignore[arg-type]  # noqa: PLW0108
    with caplog.at_level(logging.INFO, "penstock"):
        for name in ("one", "two"):
            report(Event(name))
    lines = [record.getMessage() for record in caplog.records]
    assert sum("never awaited" in line for line in lines) == 1
    assert {"one", "two"} <= set(lines)
