"""`penstock relay`: moves the messages of a stream to a list or to another stream."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
import typer

from penstock import ConfigurationError
from penstock._connection.address import EMBEDDED
from penstock._core.messages import shard_keys
from penstock.cli._admin_call import say, say_event
from penstock.cli._errors import plain_errors
from penstock.cli._options import duration_option, stream_option
from penstock.cli._server import Url
from penstock.cli._system import require_posix
from penstock.cli._url import named_server
from penstock.cli.relay.checks import Mode, find_mode, shown_url
from penstock.cli.relay.names import own_name
from penstock.cli.relay.settings import RelaySettings
from penstock.cli.relay.worker import TARGET
from penstock.cli.run.command import run

__all__ = ["relay"]

# What `run` takes and a relay does not: they are about the user's own module.
_OF_MODULES: Final = {"target", "reload", "reload_dir", "factory", "app_dir"}
_LONGEST_CLOSE: Final = 10.0  # seconds


class Format(StrEnum):
    """What is pushed to a list."""

    PAYLOAD = "payload"
    FIELDS = "fields"
    ENVELOPE = "envelope"


class Side(StrEnum):
    """The end of a list."""

    RIGHT = "right"
    LEFT = "left"


def _as_service(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `penstock run` to a command, which gets them as `service`."""

    @functools.wraps(function)
    def command(**given: Any) -> None:
        function(
            **{name: value for name, value in given.items() if name in own},
            service={name: value for name, value in given.items() if name not in own},
        )

    def parameters(of: Callable[..., None]) -> list[inspect.Parameter]:
        found = inspect.signature(of, eval_str=True).parameters.values()
        keyword = inspect.Parameter.KEYWORD_ONLY
        return [parameter.replace(kind=keyword) for parameter in found]

    first = [each for each in parameters(function) if each.name != "service"]
    own = {each.name for each in first}
    rest = [each for each in parameters(run) if each.name not in {*_OF_MODULES, *own}]
    command.__signature__ = inspect.Signature([*first, *rest])  # type: ignore[attr-defined]
    return command


@_as_service
def relay(
    *,
    service: dict[str, Any],
    url: Url = None,
    stream: Annotated[
        str, stream_option("--stream", "The stream.", envvar="PENSTOCK_STREAM")
    ],
    queue: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            envvar="PENSTOCK_QUEUE",
            help="The list to which messages are pushed.",
        ),
    ] = None,
    to_stream: Annotated[
        str | None,
        stream_option(
            "--to-stream",
            "The stream to which messages are copied, instead of a list.",
            envvar="PENSTOCK_TO_STREAM",
        ),
    ] = None,
    to_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="PENSTOCK_TO_URL",
            show_envvar=True,
            help="The server of the list or stream; default: the same one.",
        ),
    ] = None,
    group: Annotated[
        str,
        typer.Option(envvar="PENSTOCK_GROUP", help="The group that reads the stream."),
    ] = "relay",
    format: Annotated[  # noqa: A002 - the option's name
        Format | None,
        typer.Option(
            envvar="PENSTOCK_FORMAT",
            help="What is pushed: the bytes of the payload, or a JSON object of all "
            "fields, or one with id, stream, key, headers and payload.",
            show_default="payload",
        ),
    ] = None,
    push: Annotated[
        Side | None,
        typer.Option(
            envvar="PENSTOCK_PUSH",
            help="The end of the list to which messages are pushed.",
            show_default="right",
        ),
    ] = None,
    max_queue: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            envvar="PENSTOCK_MAX_QUEUE",
            help="Wait while the list has N elements or more.",
        ),
    ] = None,
    max_len: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            envvar="PENSTOCK_MAX_LEN",
            help="With --to-stream: keep about the newest N messages there.",
        ),
    ] = None,
    max_age: Annotated[
        float | None,
        duration_option(
            "--max-age",
            "With --to-stream: delete older messages there.",
            zero=False,
            envvar="PENSTOCK_MAX_AGE",
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=1000,
            envvar="PENSTOCK_BATCH",
            help="The maximum number of messages that are pushed at a time.",
        ),
    ] = 100,
) -> None:
    """Move the messages of a stream to a list, or to another stream.

    On one server each message is moved exactly once. To another server, or where
    scripts are forbidden, it is moved at least once. Runs until SIGTERM, SIGINT or
    SIGHUP, and drains as `penstock run` does.

    Exit status: 0 drained; 1 no connection, refused, or not drained within
    --grace; 2 wrong usage; 128+n killed by a second signal, of number n.
    """
    with plain_errors():
        require_posix("relay", "run it in a container, or on another machine")
        url = service["url"] = named_server(url)
        settings = RelaySettings(
            stream=stream,
            group=group,
            target=_target(queue, to_stream),
            to_stream=to_stream is not None,
            to_url=to_url,
            format=(format or Format.PAYLOAD).value,
            side=(push or Side.RIGHT).value,
            max_queue=max_queue,
            max_len=max_len,
            max_age=max_age,
            batch=batch,
            close_timeout=min(_LONGEST_CLOSE, service["grace"]),
        )
        list_only = {"--format": format, "--push": push, "--max-queue": max_queue}
        _refuse(url, settings, list_only)
        mode = asyncio.run(find_mode(url, settings, say_event))
    say(_first_line(url, settings, mode))
    server = shown_url(url)
    with own_name(server, stream, group, patience=service["grace"]) as own:
        msgspec.structs.replace(
            settings, exact=mode.exact, name=own.name, workers=own.workers
        ).hand_over()
        run(TARGET, **service)


def _target(queue: str | None, to_stream: str | None) -> str:
    found = [name for name in (queue, to_stream) if name is not None]
    if len(found) != 1:
        raise ConfigurationError(
            "choose where messages go by exactly one of --queue and --to-stream"
        )
    # A list's name has to be encoded too.
    return shard_keys.single(found[0]).stream


def _refuse(url: str, settings: RelaySettings, list_only: dict[str, Any]) -> None:
    """Refuse options that do not go together.

    Raises:
        ConfigurationError: Some do not.
    """
    for name in (url, settings.to_url or ""):
        if name.partition("://")[0] == EMBEDDED:
            raise ConfigurationError(
                "an embedded server is private to its process, so that nobody else "
                "could read the target; pass the URL of a shared server"
            )
    if settings.max_len is not None and settings.max_age is not None:
        raise ConfigurationError("leave out one of --max-len and --max-age")
    if not settings.to_stream:
        if settings.max_len is not None or settings.max_age is not None:
            raise ConfigurationError(
                "--max-len and --max-age are for --to-stream; what bounds a list is "
                "--max-queue"
            )
    elif given := [name for name, value in list_only.items() if value is not None]:
        raise ConfigurationError(
            f"{given[0]} is for --queue: a stream gets each message as it is; leave "
            f"it out"
        )
    shown = shown_url(url)
    same = settings.to_url is None or shown_url(settings.to_url) == shown
    if same and settings.target == settings.stream:
        raise ConfigurationError(
            "the target is the stream itself; name another one, or another server "
            "with --to-url"
        )
    _ = settings.retention


def _first_line(url: str, settings: RelaySettings, mode: Mode) -> str:
    """Return what is moved where, and what is promised."""
    kind = "stream" if settings.to_stream else "list"
    where = shown_url(settings.to_url or url)
    promise = "exactly once" if mode.exact else "at least once"
    why = f" ({mode.why_not})" if mode.why_not else ""
    return (
        f"relay {_plain(settings.stream)} -> {kind} {_plain(settings.target)} on "
        f"{where}, {promise}{why}"
    )


def _plain(name: str) -> str:
    return f"{name!a:.200}"[1:-1]
