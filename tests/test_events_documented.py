"""docs/events.md names all events there are, and the facts of each."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "penstock"
# What gets an event's name, as a literal, and at which position.
REPORTERS = {"Event": 0, "_report": 0, "_refused": 0, "report_sends": 1}
ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", re.MULTILINE)
# Added to any event that is reported less often than it happens.
ANYWHERE = {"times"}


def reported(tree: ast.AST) -> Iterator[str]:
    """The names of events that a module reports."""
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
    """What a module may call a fact: its texts, and names of arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg


def modules() -> dict[str, set[str]]:
    """By event: the words of the modules that report it."""
    found: dict[str, set[str]] = {}
    shared = set(words(ast.parse((SOURCE / "_tasks/reporting.py").read_text())))
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for name in reported(tree):
            found.setdefault(name, set(shared)).update(words(tree))
    return found


def documented() -> dict[str, set[str]]:
    """By event: its facts."""
    text = (ROOT / "docs" / "events.md").read_text()
    rows = [(name, re.split(r", | or ", facts)) for name, _, facts in ROW.findall(text)]
    assert len(rows) == len({name for name, _ in rows}), "an event is there twice"
    return {name: set(facts) for name, facts in rows}


def test_the_page_names_exactly_the_events_there_are() -> None:
    # `read_refused` of a group and `undecodable` come from several places.
    assert set(documented()) == set(modules())


def test_no_event_is_said_to_tell_what_its_module_does_not_know() -> None:
    known = modules()
    unknown = {
        name: facts - known[name] - ANYWHERE for name, facts in documented().items()
    }
    assert not {name: facts for name, facts in unknown.items() if facts}


def test_every_level_is_one_of_loggings() -> None:
    text = (ROOT / "docs" / "events.md").read_text()
    levels = {level.split(";")[0].strip() for _, level, _ in ROW.findall(text)}
    assert levels <= {"event", "info", "warning", "error"}
