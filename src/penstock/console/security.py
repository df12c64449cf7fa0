"""Guard: decides which requests to the console are answered, and adds headers."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import URL, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock import _clock

__all__ = ["COOKIE", "Guard", "Logins", "Session", "Sessions", "is_loopback"]

COOKIE: Final = "penstock_console"
_AGE: Final = 12 * 3600.0  # seconds for which a session lasts
_SESSIONS: Final = 1000  # at the same time; a further one ends the oldest
_FAILURES: Final = 5  # failed logins a second, of all clients together
_BODY: Final = 65_536  # bytes of a request's body, at most
# Probes have neither token nor name; these pages show nothing but the state.
_OPEN: Final = frozenset(("/live", "/ready"))
# Pages for programs: they are answered with a status, not with the login page.
_PROGRAMS: Final = ("/api/", "/metrics")
_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'; object-src 'none'"
    ),
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that has logged in.

    Attributes:
        csrf: The token that its forms carry.
        ends: When it ends, by the clock of `Sessions`.
    """

    csrf: str
    ends: float


class Sessions:
    """The sessions of browsers, kept in memory.

    Args:
        clock: Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = _clock.monotonic) -> None:
        self._clock = clock
        # By a digest of the cookie's value, so that looking one up compares no secret.
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def begin(self) -> str:
        """Begin a session, and return the value of its cookie."""
        value = secrets.token_urlsafe(32)
        ends = self._clock() + _AGE
        self._sessions[_digest(value)] = Session(secrets.token_urlsafe(32), ends)
        while len(self._sessions) > _SESSIONS:
            self._sessions.popitem(last=False)
        return value

    def find(self, value: str | None) -> Session | None:
        """Return the session of a cookie; None if there is none, or if it has ended."""
        found = self._sessions.get(_digest(value)) if value else None
        return None if found is None or found.ends < self._clock() else found


class Logins:
    """Compares tokens with the console's, a few failures a second.

    Args:
        token: The console's token.
        clock: Returns the time in seconds.
    """

    def __init__(
        self, token: str, clock: Callable[[], float] = _clock.monotonic
    ) -> None:
        self._token = _digest(token)
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=_FAILURES)

    @property
    def full(self) -> bool:
        """Whether so many logins have failed in the last second that none is tried."""
        failures = self._failures
        return len(failures) == _FAILURES and self._clock() - failures[0] < 1.0

    def accepts(self, token: str) -> bool:
        """Return whether a token is the console's; count it if not."""
        # Digests have one length, so that the time does not even depend on that.
        if not self.full and hmac.compare_digest(_digest(token), self._token):
            return True
        self._failures.append(self._clock())
        return False


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


class Guard:
    """Lets requests through to the application that may be answered.

    A request needs a Host that is allowed, and a session or the token. One that changes
    something also needs to come from a page of the same origin; its form's token is
    compared by the page, which reads the form.

    Args:
        app: The application.
        logins: Compares tokens.
        sessions: The sessions of browsers.
        hosts: The names, without ports, by which the console may be called.
    """

    def __init__(
        self, app: ASGIApp, logins: Logins, sessions: Sessions, hosts: Collection[str]
    ) -> None:
        self._app = app
        self._logins = logins
        self._sessions = sessions
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            return  # lifespan events of the server; there are no web sockets

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("referrer-policy", "no-referrer")
            await send(message)

        request = Request(scope, receive)
        answer = self._refusal(request)
        await (answer or self._app)(scope, receive, with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """Return the response to a request that is not passed on."""
        path = _path(request)
        if path in _OPEN:
            return None
        if not self._is_allowed(request.headers.get("host", "")):
            return _plain(
                400, "this Host is not allowed; start with --allowed-host NAME"
            )
        if request.method == "POST" and (refusal := _refused_post(request)):
            return refusal
        if path == "/login" or path.startswith("/static/"):
            return None
        return self._without_session(request, path)

    def _without_session(self, request: Request, path: str) -> Response | None:
        session = self._sessions.find(request.cookies.get(COOKIE))
        request.scope["session"] = session
        offered = request.query_params.get("token")
        if offered is not None and request.method == "GET":
            return self._by_link(request, offered)
        if session is not None:
            return None
        if path.startswith(_PROGRAMS):
            return self._by_header(request)
        if request.method != "GET":
            return _plain(401, "log in first")
        return RedirectResponse(request.scope.get("root_path", "") + "/login", 303)

    def _by_link(self, request: Request, token: str) -> Response:
        """Log in by the address that was printed, and remove the token from it."""
        if self._logins.full:
            return _too_many()
        if not self._logins.accepts(token):
            return _plain(401, "this token is wrong")
        url = URL(scope=request.scope).remove_query_params("token")
        response = RedirectResponse(
            url.path + (f"?{url.query}" if url.query else ""), 303
        )
        self.give_session(request, response)
        return response

    def _by_header(self, request: Request) -> Response | None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if self._logins.full:
            return _too_many()
        if kind.lower() == "bearer" and self._logins.accepts(token.strip()):
            return None
        response = _plain(401, "send the header Authorization: Bearer TOKEN")
        response.headers["www-authenticate"] = "Bearer"
        return response

    def give_session(self, request: Request, response: Response) -> None:
        """Begin a session, whose cookie a response sets."""
        response.set_cookie(
            COOKIE,
            self._sessions.begin(),
            path=request.scope.get("root_path") or "/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )

    def _is_allowed(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return name is not None and name.lower() in self._hosts


def _refused_post(request: Request) -> Response | None:
    """Return the response to a form that another site may have sent, or that is big."""
    if not _is_same_origin(request):
        return _plain(403, "the request comes from another origin")
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        return _plain(411, "the length of the request is missing")
    return _plain(413, "the request is too large") if int(length) > _BODY else None


def _is_same_origin(request: Request) -> bool:
    """Return whether a page of the console itself has sent a request.

    Browsers that send `Sec-Fetch-Site` know it best: where the referrer is withheld,
    `Origin` is `null`. They send it over HTTPS and to loopback only.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None and site != "same-origin":
        return False
    if origin is None or origin == "null":
        return site == "same-origin"
    return urlsplit(origin).netloc == request.headers.get("host")


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _path(request: Request) -> str:
    root = request.scope.get("root_path", "")
    return request.scope["path"].removeprefix(root) or "/"


def _plain(status: int, text: str) -> Response:
    return PlainTextResponse(text + "\n", status)


def _too_many() -> Response:
    return _plain(429, "too many logins have failed; try again in a second")
