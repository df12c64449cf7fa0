"""The console's guard: token, session, Host, origin, and the headers of each page."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from penstock.cli.app import app
from penstock.console.security import Logins, Sessions, is_loopback
from support.console import TOKEN, console


async def test_nothing_is_shown_without_a_token(url: str, stream: str) -> None:
    async with console(url) as browser:
        browser.cookies.clear()
        for path in ("/", f"/streams/{stream}", "/streams/x/dead"):
            answer = await browser.get(path)
            assert answer.status_code == 303
            assert answer.headers["location"] == "/login"
        for path in ("/api/groups", "/metrics", f"/api/streams/{stream}"):
            answer = await browser.get(path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert (await browser.get("/live")).status_code == 200


async def test_a_token_in_the_address_becomes_a_cookie_and_leaves_it(url: str) -> None:
    async with console(url) as browser:
        browser.cookies.clear()
        answer = await browser.get(f"/?q=a&token={TOKEN}")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/?q=a"
        cookie = answer.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict"} < set(cookie.split("; "))
        assert TOKEN not in cookie
        assert (await browser.get("/?q=a")).status_code == 200


async def test_a_token_in_the_form_or_in_a_header_is_accepted(url: str) -> None:
    async with console(url) as browser:
        browser.cookies.clear()
        wrong = await browser.submit("/login", {"token": "no"})
        assert wrong.status_code == 401
        assert "This token is wrong" in wrong.text
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert (await browser.get("/api/groups", headers=bearer)).status_code == 200
        assert (await browser.get("/metrics", headers=bearer)).status_code == 200
        # For programs only: a page needs a session.
        assert (await browser.get("/", headers=bearer)).status_code == 303
        right = await browser.submit("/login", {"token": TOKEN})
        assert (right.status_code, right.headers["location"]) == (303, "/")
        assert (await browser.get("/")).status_code == 200


async def test_after_five_failed_logins_none_is_tried_for_a_second(url: str) -> None:
    async with console(url) as browser:
        session = dict(browser.cookies)
        browser.cookies.clear()
        answers = [(await browser.get("/?token=no")).status_code for _ in range(9)]
        assert answers[0] == 401
        assert 429 in answers
        browser.cookies.update(session)
        assert (await browser.get("/")).status_code == 200


def test_failures_are_counted_for_a_second_and_successes_are_not() -> None:
    now = 0.0
    logins = Logins(TOKEN, lambda: now)
    for _ in range(20):
        assert logins.accepts(TOKEN)
    for _ in range(5):
        assert not logins.full
        assert not logins.accepts("no")
    assert logins.full
    assert not logins.accepts(TOKEN)
    now = 1.5
    assert not logins.full
    assert logins.accepts(TOKEN)


def test_a_session_ends_after_twelve_hours_and_there_are_at_most_a_thousand() -> None:
    now = 0.0
    sessions = Sessions(lambda: now)
    first = sessions.begin()
    assert sessions.find(first) is not None
    assert sessions.find("other") is None
    now = 12 * 3600 + 1
    assert sessions.find(first) is None
    second = sessions.begin()
    for _ in range(1000):
        sessions.begin()
    assert sessions.find(second) is None


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1"])
async def test_another_host_is_refused_even_with_a_session(url: str, host: str) -> None:
    async with console(url) as browser:
        answer = await browser.get("/", headers={"host": host})
        assert answer.status_code == 400
        assert "--allowed-host" in answer.text


async def test_a_host_that_is_allowed_may_have_a_port(url: str) -> None:
    async with console(url, hosts=["ops.example", "::1"]) as browser:
        for host in ("ops.example:8090", "OPS.example", "[::1]:8090"):
            answer = await browser.get("/login", headers={"host": host})
            assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {},
        {"origin": "http://127.0.0.1", "sec-fetch-site": "cross-site"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "http://evil.example", "sec-fetch-site": "same-origin"},
    ],
    ids=str,
)
async def test_a_form_of_another_origin_is_refused(
    url: str, headers: dict[str, str]
) -> None:
    async with console(url, allow_writes=True) as browser:
        for path in ("/login", "/streams/s/dead/purge"):
            answer = await browser.post(path, data={"token": TOKEN}, headers=headers)
            assert answer.status_code == 403
            assert "another origin" in answer.text


async def test_a_form_that_is_too_large_is_refused(url: str) -> None:
    async with console(url) as browser:
        answer = await browser.submit("/login", {"token": "x" * 70_000})
        assert answer.status_code == 413


@pytest.mark.parametrize(
    "path", ["/", "/login", "/static/console.css", "/api/groups", "/streams/no", "/no"]
)
async def test_every_response_forbids_storing_framing_and_foreign_content(
    url: str, path: str
) -> None:
    async with console(url) as browser:
        headers = (await browser.get(path)).headers
    assert headers["cache-control"] == "no-store"
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    expected = "same-origin" if path == "/login" else "no-referrer"
    assert headers["referrer-policy"] == expected


async def test_it_is_not_bound_to_other_addresses_without_a_token() -> None:
    words = ["console", "--url", "redis://127.0.0.1:1", "--host", "::"]
    result = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert result.exit_code == 2
    assert "--token-file" in result.stderr


@pytest.mark.parametrize("content", ["", "short"])
async def test_a_token_that_is_too_short_is_refused(
    tmp_path: Any, content: str
) -> None:
    (tmp_path / "token").write_text(content)
    words = ["console", "--url", "redis://127.0.0.1:1"]
    words += ["--token-file", str(tmp_path / "token")]
    result = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert result.exit_code == 2
    assert "16 characters" in result.stderr


def test_only_addresses_of_this_machine_are_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("::", "10.0.0.1", "ops.example", "")))


async def test_a_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "penstock.console.serving", raising=False)
    monkeypatch.delattr("penstock.console.serving", raising=False)
    words = ["console", "--url", "redis://127.0.0.1:1"]
    result = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert result.exit_code == 2
    assert result.stderr == (
        "penstock: the console needs uvicorn, which is not installed; install it with: "
        "pip install 'penstock[console]'\n"
    )


async def test_behind_a_proxy_links_and_the_cookie_have_its_path(url: str) -> None:
    async with console(url, root_path="/ops") as browser:
        answer = await browser.get(f"/ops/?q=a&token={TOKEN}")
        assert answer.headers["location"] == "/ops/?q=a"
        assert "Path=/ops;" in answer.headers["set-cookie"]
        page = await browser.page("/ops/?q=a")
        assert 'href="/ops/static/console.css"' in page
        assert 'data-refresh="/ops/?q=a&fragment=live"' in page
        assert (await browser.get("/ops/static/console.css")).status_code == 200
        browser.cookies.clear()
        answer = await browser.get("/ops/streams/s")
        assert answer.headers["location"] == "/ops/login"
        assert (await browser.get("/ops/api/groups")).status_code == 401


async def test_the_token_is_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PENSTOCK_CONSOLE_TOKEN", "short")
    words = ["console", "--url", "redis://127.0.0.1:1", "--host", "::"]
    result = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert result.exit_code == 2
    assert "16 characters" in result.stderr
    assert "short" not in result.stderr
