"""The application of the console: its routes, behind the guard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from penstock.cli.exporter.exporter import Exporter
from penstock.cli.run.http_server import Page
from penstock.console.changes import Changes
from penstock.console.dead_letters import DeadLetterPages
from penstock.console.pages import Pages
from penstock.console.security import Guard, Logins, Sessions
from penstock.console.state import Observed
from penstock.events import OnEvent

__all__ = ["ConsoleOptions", "make_app"]

_STREAM: Final = "/streams/{stream}"
_GROUP: Final = "/streams/{stream}/groups/{group}"


@dataclass(frozen=True, slots=True)
class ConsoleOptions:
    """How the console is served.

    Attributes:
        url: The server.
        token: What opens the console.
        hosts: The names, without ports, by which it may be called.
        interval: The seconds between two polls.
        allow_writes: Whether dead letters can be redriven and purged.
        show_payloads: Whether payloads and headers can be shown.
        on_event: Called with what was done, and what happens in the background.
    """

    url: str
    token: str
    hosts: Collection[str]
    interval: float
    on_event: OnEvent
    allow_writes: bool = False
    show_payloads: bool = False


def make_app(options: ConsoleOptions, observed: Observed, exporter: Exporter) -> Guard:
    """Return the application.

    Args:
        options: How it is served.
        observed: The last poll.
        exporter: Polls, and has the pages for scrapers and probes.
    """
    logins, sessions = Logins(options.token), Sessions()
    pages = Pages(
        observed,
        options.interval,
        allow_writes=options.allow_writes,
        show_payloads=options.show_payloads,
    )
    letters = DeadLetterPages(
        pages, options.url, options.on_event, show_payloads=options.show_payloads
    )
    routes = _reading(pages, letters)
    if options.allow_writes:
        changes = Changes(pages, options.url, options.on_event)
        routes += [
            Route(f"{_STREAM}/dead/{{verb}}", changes.confirm, methods=["GET"]),
            Route(f"{_STREAM}/dead/{{verb}}", changes.apply, methods=["POST"]),
        ]
    for path, page in exporter.pages().items():
        routes.append(Route(path, _probe(page)))

    async def login(request: Request) -> Response:
        return await _login(request, pages, logins, guard)

    async def failed(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        detail = error.detail if isinstance(error, HTTPException) else "it failed"
        if request.url.path.startswith(f"{request.scope.get('root_path', '')}/api/"):
            return JSONResponse({"error": detail}, status)
        return pages.show(request, "error.html", status=status, detail=detail)

    routes.append(Route("/login", login, methods=["GET", "POST"]))
    routes.append(
        Mount("/static", StaticFiles(packages=[("penstock.console", "static")]))
    )
    app = Starlette(routes=routes, exception_handlers={HTTPException: failed})
    guard = Guard(app, logins, sessions, options.hosts)
    return guard


def _reading(pages: Pages, letters: DeadLetterPages) -> list[BaseRoute]:
    return [
        Route("/", pages.overview),
        Route(_STREAM, pages.stream),
        Route(_GROUP, pages.group),
        Route(f"{_STREAM}/dead", letters.overview),
        Route(f"{_STREAM}/dead/letters/{{id}}", letters.letter),
        Route("/doctor", pages.doctor),
        Route("/api/doctor", pages.api_doctor),
        Route("/api/streams", pages.api_streams),
        Route("/api/groups", pages.api_groups),
        Route(f"/api{_STREAM}", pages.api_stream),
        Route(f"/api{_GROUP}/consumers", pages.api_consumers),
        Route(f"/api{_GROUP}/pending", pages.api_pending),
        Route(f"/api{_STREAM}/dead", letters.api_list),
        Route(f"/api{_STREAM}/dead/summary", letters.api_summary),
    ]


def _probe(
    page: Callable[[], Awaitable[Page]],
) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint that shows a page of the exporter's."""

    async def endpoint(_: Request) -> Response:
        made = await page()
        return Response(made.body, made.status, media_type=made.kind)

    return endpoint


async def _login(
    request: Request, pages: Pages, logins: Logins, guard: Guard
) -> Response:
    """Show the form for the token, and take what it sends."""
    status, why = 200, ""
    if request.method == "POST":
        form = await request.form(max_fields=5)
        if logins.full:
            status, why = 429, "Too many logins have failed; try again in a second."
        elif logins.accepts(str(form.get("token", "")).strip()):
            response: Response = RedirectResponse(
                request.scope.get("root_path", "") + "/", 303
            )
            guard.give_session(request, response)
            return response
        else:
            status, why = 401, "This token is wrong."
    shown = pages.show(request, "login.html", status=status, why=why)
    # Else the form's Origin would be null, which no plain HTTP can tell from a foreign.
    shown.headers["referrer-policy"] = "same-origin"
    return shown
