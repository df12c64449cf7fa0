"""Help for users' own tests, with and without a server.

The fixtures `penstock_url` and `penstock_stream` are in the pytest plugin, which pytest
finds by itself (`pytest_penstock`). Where plugins are not loaded by themselves, name
this package in `conftest.py`:

```python
pytest_plugins = ["penstock.testing"]
```

docs/how-to/testing-handlers.md describes all of it.
"""

from __future__ import annotations

from typing import Any

from penstock.testing._deliver import deliver
from penstock.testing._messages import RecordedMessage, message
from penstock.testing._outcomes import Outcome, Status
from penstock.testing._producer import RecordingProducer
from penstock.testing._running import running
from penstock.testing._streams import letters, sent
from penstock.testing._transactions import RecordedTransaction, Sent
from penstock.testing._waiting import NotHandled, caught_up, handled

__all__ = [
    "NotHandled",
    "Outcome",
    "RecordedMessage",
    "RecordedTransaction",
    "RecordingProducer",
    "Sent",
    "Status",
    "caught_up",
    "deliver",
    "handled",
    "letters",
    "message",
    "running",
    "sent",
]


def pytest_configure(config: Any) -> None:
    """Register the fixtures, where a `conftest.py` names this package as a plugin."""
    # Under the name of its entry point, by which pytest may have registered it already.
    # It stays out if `-p no:penstock` blocks that name.
    if not config.pluginmanager.has_plugin("penstock"):
        import pytest_penstock  # noqa: PLC0415 - only pytest needs it

        config.pluginmanager.register(pytest_penstock, "penstock")
