"""Pytest fixtures for tests against a real server.

Name them in your `conftest.py`:

```python
pytest_plugins = ["penstock.testing"]
```

Then `penstock_url` is a server for the whole run: the one that `PENSTOCK_TEST_URL`
names, or else a private Valkey that starts in some 50 ms and is gone with the run
(needs the extra `embedded`). `penstock_stream` is a stream's name that nobody else
has, so tests don't meet.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from penstock import embedded

__all__ = ["penstock_stream", "penstock_url"]


@pytest.fixture(scope="session")
def penstock_url() -> Iterator[str]:
    """URL of a server for tests."""
    named = os.environ.get("PENSTOCK_TEST_URL")
    if named:
        yield named
        return
    server = embedded.acquire()
    try:
        yield server.url
    finally:
        embedded.release(server)


@pytest.fixture
def penstock_stream() -> str:
    """Name of a stream that no other test uses."""
    return f"test-{secrets.token_hex(8)}"
