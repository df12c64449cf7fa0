"""The check of the prose finds what it is for, and does not look at code."""

from __future__ import annotations

import pytest

from support import prose


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("A group is made anew at once.", "Write 'recreated' instead of 'made anew'."),
        (
            "All of it, but for the last.",
            "Write 'except for' instead of 'but for the'.",
        ),
        ("It will run for ever.", "'for ever' is archaic."),
    ],
)
def test_a_sentence_that_readers_stumble_over_is_found(text: str, says: str) -> None:
    page = f"# A page\n\nThis is good.\n\n{text}\n"
    assert [*prose.findings("page.md", page)] == [prose.Finding("page.md", 5, says)]


@pytest.mark.parametrize(
    "text", ["Write `made anew` here.", "```\nmade anew\n```", "[text](made-anew.md)"]
)
def test_code_and_addresses_are_not_looked_at(text: str) -> None:
    assert [*prose.findings("page.md", f"# A page\n\n{text}\n")] == []
