"""The options of all commands that talk to a server, and how they are carried out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias

import typer

from penstock._connection.address import EMBEDDED
from penstock.cli._errors import plain_errors
from penstock.cli._options import duration_option
from penstock.cli._output import Output
from penstock.cli._url import named_server

__all__ = ["Json", "NoColor", "Server", "Timeout", "Url", "on_server", "with_timeout"]

_CONNECT: Final = 5.0  # seconds, the connection's own default

Url: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The server; default: $PENSTOCK_URL, then $REDIS_URL, or the content of "
        "the file that $PENSTOCK_URL_FILE or $REDIS_URL_FILE names.",
    ),
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print JSON, one object per line.")
]
Timeout: TypeAlias = Annotated[
    float | None,
    duration_option(
        "--timeout",
        "Time that the server may take to answer a command.",
        default="10s",
        zero=False,
        most=86_400.0,
    ),
]
NoColor: TypeAlias = Annotated[
    bool, typer.Option("--no-color", help="Print without colours, as $NO_COLOR does.")
]


@dataclass(frozen=True, slots=True)
class Server:
    """What the options of a command say about the server and the output.

    Attributes:
        url: The server's URL, with the time-out.
        out: Where the results go.
        timeout: The seconds that the server may take to answer a command, if the
            option says so.
    """

    url: str
    out: Output
    timeout: float | None = None


def on_server(function: Callable[..., None]) -> Callable[..., None]:
    """Add the common options to a command, which gets them as `server`."""

    @functools.wraps(function)
    def command(
        *arguments: Any,
        url: str | None,
        json: bool,
        timeout: float | None,
        no_color: bool,
        **options: Any,
    ) -> None:
        with plain_errors():
            found = with_timeout(named_server(url), timeout)
        out = Output(json=json, color=not no_color)
        function(*arguments, server=Server(found, out, timeout), **options)

    signature = inspect.signature(function, eval_str=True)
    own = [each for name, each in signature.parameters.items() if name != "server"]
    parameter = functools.partial(
        inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY
    )
    common = [
        parameter("url", default=None, annotation=Url),
        parameter("json", default=False, annotation=Json),
        parameter("timeout", default=None, annotation=Timeout),
        parameter("no_color", default=False, annotation=NoColor),
    ]
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*own, *common]
    )
    return command


def with_timeout(url: str, seconds: float | None) -> str:
    """Return a URL with the time that the server may take to answer.

    Args:
        url: The URL.
        seconds: The time; None for the URL's own, or else 10 s.
    """
    base, _, query = url.partition("?")
    if seconds is None or base.partition("://")[0] == EMBEDDED:
        return url
    options = [each for each in query.split("&") if each]
    kept = [each for each in options if not each.startswith("socket_timeout=")]
    kept.append(f"socket_timeout={seconds:g}")
    if seconds < _CONNECT and "socket_connect_timeout=" not in query:
        kept.append(f"socket_connect_timeout={seconds:g}")
    return f"{base}?{'&'.join(kept)}"
