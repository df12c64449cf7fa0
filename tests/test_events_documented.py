"""docs/reference/events.md: it lists all events, and the facts of each."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "penstock"
# The callables that get an event's name as a literal, and at which position.
REPORTERS = {"Event": 0, "report": 0, "_report": 0, "_refused": 0, "report_sends": 1}
ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", re.MULTILINE)
# Added to any event that is reported less often than it happens.
ANYWHERE = {"times"}


def reported(tree: ast.AST) -> Iterator[str]:
    """Yield the names of events that a module reports."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else None
        name = called.id if isinstance(called, ast.Name) else name
        at = REPORTERS.get(name or "")
        if at is None or len(node.args) <= at:
            continue
        given = node.args[at]
        if isinstance(given, ast.Constant) and isinstance(given.value, str):
            yield given.value


def words(tree: ast.AST) -> Iterator[str]:
    """Yield the possible names of facts in a module: its texts and argument names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg


def modules() -> dict[str, set[str]]:
    """Return by event the words of the modules that report it."""
    found: dict[str, set[str]] = {}
    # These describe shards, consumers and servers for events of other modules.
    describing = (
        "_tasks/reporting.py",
        "_tasks/consumer_config.py",
        "_connection/connection_events.py",
    )
    shared = {
        word
        for path in describing
        for word in words(ast.parse((SOURCE / path).read_text()))
    }
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for name in reported(tree):
            found.setdefault(name, set(shared)).update(words(tree))
    return found


def documented() -> dict[str, set[str]]:
    """Return the facts by event."""
    text = (ROOT / "docs" / "reference" / "events.md").read_text()
    rows = [(name, re.split(r", | or ", facts)) for name, _, facts in ROW.findall(text)]
    assert len(rows) == len({name for name, _ in rows}), "an event is listed twice"
    return {name: set(facts) for name, facts in rows}


def test_the_page_lists_exactly_the_events_that_are_reported() -> None:
    # `read_refused` of a group and `undecodable` come from several places.
    assert set(documented()) == set(modules())


def test_the_page_lists_only_facts_that_occur_in_the_event_s_modules() -> None:
    known = modules()
    unknown = {
        name: facts - known[name] - ANYWHERE for name, facts in documented().items()
    }
    assert not {name: facts for name, facts in unknown.items() if facts}


def test_every_level_is_a_level_of_logging() -> None:
    text = (ROOT / "docs" / "reference" / "events.md").read_text()
    levels = {level.split(";")[0].strip() for _, level, _ in ROW.findall(text)}
    assert levels <= {"event", "info", "warning", "error"}
