"""Pytest plugin: a server and stream names for tests, as fixtures.

It is a module of its own, since an entry point inside of `penstock` would make every
pytest run of the environment import Penstock. So nothing of Penstock is imported until
a fixture is used. docs/how-to/testing-handlers.md describes the fixtures.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from penstock.testing._database import Database

__all__ = ["penstock_stream", "penstock_url"]

_OPTION: Final = "penstock_isolation"
_EACH_TEST: Final = "test"
_NONE: Final = "none"
_FIXTURE: Final = "penstock_url"
_NAMED: Final = "PENSTOCK_TEST_URL"
_KEY: Final[pytest.StashKey[Database]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the ini option."""
    parser.addini(
        _OPTION,
        f"{_EACH_TEST!r} (default): the server of penstock_url is emptied before each "
        f"test; {_NONE!r}: never",
        default=_EACH_TEST,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Check the ini option."""
    value = config.getini(_OPTION)
    if value not in {_EACH_TEST, _NONE}:
        raise pytest.UsageError(
            f"{_OPTION} = {value!r:.60} is unknown; write {_EACH_TEST!r} or {_NONE!r}"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Check, before the first test, that the named database may be emptied."""
    named, config = os.environ.get(_NAMED), session.config
    if not named or not _isolates(config) or config.option.collectonly:
        return
    # A worker of pytest-xdist can't refuse the run: there, the fixture fails the tests.
    if not _is_worker(config) and any(
        _FIXTURE in getattr(item, "fixturenames", ()) for item in session.items
    ):
        from penstock.testing._database import DatabaseRefused, check_named

        try:
            check_named(named)
        except DatabaseRefused as error:
            raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Empty the server, if it was started."""
    # Before every test, since a test may also get the fixture by `getfixturevalue`.
    database = item.config.stash.get(_KEY, None)
    if database is not None:
        database.empty()


@pytest.fixture(scope="session")
def penstock_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """URL of a server that is empty when a test begins.

    The server is private to this pytest process, and ends with it; or it is the
    database that the environment's PENSTOCK_TEST_URL names, which has to be empty when
    the session begins.
    """
    from penstock.testing._database import DatabaseRefused, open_database

    isolates = _isolates(pytestconfig)
    try:
        database = open_database(os.environ.get(_NAMED), isolates=isolates)
    except DatabaseRefused as error:
        if _is_worker(pytestconfig):
            pytest.fail(str(error), pytrace=False)
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
    if isolates:
        pytestconfig.stash[_KEY] = database
    try:
        yield database.url
    finally:
        if isolates:
            del pytestconfig.stash[_KEY]
        database.close()


@pytest.fixture
def penstock_stream() -> str:
    """Name of a stream that no other test uses."""
    import secrets

    return f"test-{secrets.token_hex(8)}"


def _isolates(config: pytest.Config) -> bool:
    return bool(config.getini(_OPTION) == _EACH_TEST)


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")
