"""`penstock console`: serves the web console."""

from __future__ import annotations

import secrets
import socket
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Final

import typer

from penstock import ConfigurationError
from penstock.cli._admin_call import perform, say, say_event
from penstock.cli._errors import plain_errors
from penstock.cli._options import duration_option, streams_argument
from penstock.cli._server import Server, on_server
from penstock.cli._url import server_url
from penstock.cli.looking.shared import Lease, collector
from penstock.cli.run.readiness import Readiness

if TYPE_CHECKING:
    from penstock.console.serving import Console

__all__ = ["console"]

_TOKEN: Final = "PENSTOCK_CONSOLE_TOKEN"  # noqa: S105 - a variable's name
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_SHORTEST: Final = 16  # characters of a token


@on_server
def console(
    patterns: Annotated[
        list[str] | None,
        streams_argument("Names or shell patterns; default: all streams."),
    ] = None,
    *,
    server: Server,
    host: Annotated[
        str,
        typer.Option(
            envvar="PENSTOCK_HOST",
            help="The address to listen on; other than loopback only with a token.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            envvar="PENSTOCK_PORT",
            min=0,
            max=65535,
            help="The port to listen on; 0: any port.",
        ),
    ] = 8090,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="The file that has the token; default: $PENSTOCK_CONSOLE_TOKEN, then "
            "the file that $PENSTOCK_CONSOLE_TOKEN_FILE names, else one is generated "
            "and printed.",
        ),
    ] = None,
    allow_writes: Annotated[
        bool,
        typer.Option(
            "--allow-writes",
            envvar="PENSTOCK_ALLOW_WRITES",
            help="Let users redrive and purge dead letters.",
        ),
    ] = False,
    show_payloads: Annotated[
        bool,
        typer.Option(
            "--show-payloads",
            envvar="PENSTOCK_SHOW_PAYLOADS",
            help="Let users see payloads and headers of dead letters, one at a time.",
        ),
    ] = False,
    root_path: Annotated[
        str,
        typer.Option(
            envvar="PENSTOCK_ROOT_PATH",
            help="The path under which a proxy serves it, and which it strips.",
        ),
    ] = "",
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            envvar="PENSTOCK_ALLOWED_HOST",
            help="A further name by which browsers may call it; may be repeated.",
        ),
    ] = None,
    interval: Annotated[
        float,
        duration_option(
            "--interval",
            "The time from one poll to the next.",
            default="2s",
            zero=False,
            most=86_400.0,
            envvar="PENSTOCK_INTERVAL",
        ),
    ] = 2.0,
    ready_file: Annotated[
        Path | None,
        typer.Option(
            envvar="PENSTOCK_READY_FILE",
            help="A file that exists while there is a result to show.",
        ),
    ] = None,
    lease: Lease = 60.0,
) -> None:
    """Serve a web console: states of groups, lag, consumers, and dead letters.

    It needs a token: log in by the address that is printed, or with the token that it
    was started with. It changes nothing unless --allow-writes is given.

    Exit status: 0 ended by SIGINT or SIGTERM; 1 the port is taken; 2 wrong usage.
    """
    parts = _parts()
    readiness = Readiness(1, ready_file)
    with plain_errors():
        token = _configured(token_file)
        made_up = token is None
        if made_up and not parts.is_loopback(host):
            raise ConfigurationError(
                f"--host {host:.80} can be reached by others, which needs a token; "
                f"pass --token-file, or set {_TOKEN} or {_TOKEN}_FILE"
            )
        readiness.prepare()
        make = partial(collector, server, patterns or (), per_shard=True, lease=lease)
        make()  # refuses names that are invalid
        root = _root(root_path)
        token = token or secrets.token_urlsafe(24)
    options = parts.ConsoleOptions(
        url=server.url,
        token=token,
        hosts=[*_LOOPBACK, host, *(allowed_host or ())],
        interval=interval,
        allow_writes=allow_writes,
        show_payloads=show_payloads,
        on_event=say_event,
    )
    made = parts.Console(make, options, readiness, root)

    async def work() -> int:
        try:
            return await _run(
                made, host, port, f"{root}/?token={token}" if made_up else f"{root}/"
            )
        finally:
            readiness.drain()

    perform(work, lambda: 0)


def _parts() -> ModuleType:
    """Return the module that needs the extra `console`.

    Raises:
        Exit: With status 2: it is not installed. All other commands work without.
    """
    try:
        from penstock.console import serving as parts  # noqa: PLC0415
    except ModuleNotFoundError as error:
        say(
            f"the console needs {error.name}, which is not installed; install it with: "
            f"pip install 'penstock[console]'"
        )
        raise typer.Exit(2) from None
    return parts


def _configured(file: Path | None) -> str | None:
    """Return the token that is configured; None if none is.

    Raises:
        ConfigurationError: It can't be read, or is too short.
    """
    if file is None:
        token = server_url(None, (_TOKEN,))
    else:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise ConfigurationError(
                f"the file {str(file)!a:.120} of --token-file can't be read: {reason}"
            ) from None
    if token is not None and len(token) < _SHORTEST:
        raise ConfigurationError(
            f"the console's token has fewer than {_SHORTEST} characters; make one "
            f"with: openssl rand -base64 24"
        )
    return token


def _root(path: str) -> str:
    """Return a path without a slash at its end.

    Raises:
        ConfigurationError: It does not begin with a slash.
    """
    if path and not path.startswith("/"):
        raise ConfigurationError(f"--root-path {path!a:.80} has no / at its beginning")
    return path.rstrip("/")


async def _run(console: Console, host: str, port: int, path: str) -> int:
    """Serve until a signal comes."""
    try:
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        say(f"{host}:{port} can't be listened on: {error.strerror}")
        return 1
    with listener:
        at = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        say(f"serving http://{shown}:{at}{path}")
        await console.run(listener)
    return 0
