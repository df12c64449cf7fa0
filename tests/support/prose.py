"""Prose: pages and docstrings in plain English, checked by proselint.

Its checks find clichés, archaisms, redundancy and more; `_NOT_FOR_US` are those that do
not fit technical texts. The vocabulary below has the words that this project's texts
once had and that readers stumbled over, each with what to write.

`cd tests && python -m support.prose` prints what it finds, and fails if that is
anything. Code is not looked at.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from proselint.checks import __register__ as own_checks
from proselint.config import DEFAULT, Config
from proselint.registry import CheckRegistry
from proselint.registry.checks import Check, types
from proselint.tools import LintFile

__all__ = ["Finding", "findings", "in_docstrings", "in_pages"]

ROOT: Final = Path(__file__).parents[2]

_VOCABULARY: Final = {
    r"told of": "reported",
    r"(?:is|are) told (?:by|from|once|there)": "reported",
    r"made anew": "recreated",
    r"(?:have|has|had) in hand": "hold",
    r"but for (?:the|this|these|those|that|what|its|all|two)": "except for",
    r"so it is with": "the same holds for",
    r"stands? in (?:a|the|this|its)": "is in",
    r"befalls?": "happens to",
    r"as it likes": "say what it does",
    r"takes no room": "is not counted",
    r"no harm is done": "say what happens",
}
# proselint's checks that are not for technical texts.
_NOT_FOR_US: Final = (
    # Quotes and ellipses are those of the code; "very" is no weasel word here.
    *("typography", "weasel_words", "annotations"),
    # Field names and units: "kill", "master", "%", 10k.
    *("social_awareness", "misc", "terms", "dates_times"),
    # "best", "full": of numbers and buffers, which do compare.
    *("uncomparables", "restricted", "lexical_illusions"),
    # NO_COLOR is a name, and this is British English.
    *("spelling", "needless_variants"),
)
_CODE: Final = re.compile(
    r"--[a-z-]+|^```.*?^```|^~~~.*?^~~~|``[^`]+``|`[^`\n]*`|\]\([^)]*\)|<[^>\n]*>",
    re.MULTILINE | re.DOTALL,
)


class Finding(NamedTuple):
    """A place, and what to write there."""

    place: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.place}:{self.line}: {self.text}"


def _prepare() -> Config:
    """Register all checks; return the configuration that chooses ours."""
    registry = CheckRegistry()
    if not registry.checks:
        registry.register_many(own_checks)
        registry.register(
            Check(
                check_type=types.PreferredForms(items=_VOCABULARY),
                path="vocabulary",
                message="Write '{}' instead of '{}'.",
            )
        )
    chosen = {name: name not in _NOT_FOR_US for name in DEFAULT["checks"]}
    return {"max_errors": 10_000, "checks": {**chosen, "vocabulary": True}}


_CONFIG: Final = _prepare()


def findings(place: str, text: str, line: int = 1) -> Iterator[Finding]:
    """Yield what is found in a text that begins at a line of a file."""
    # Code becomes blanks, so that lines and columns stay.
    prose = _CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), text)
    if not prose.strip():
        return
    for result, (found, _) in LintFile(place, prose).lint(_CONFIG):
        message = " ".join(result.message.split())
        yield Finding(place, line + found - 1, message)


def in_pages() -> Iterator[Finding]:
    """Yield what is found in the pages of the documentation, and beside them."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("examples/**/*.md")]
    for path in sorted([*pages, *(ROOT / "docs").rglob("*.md")]):
        yield from findings(str(path.relative_to(ROOT)), path.read_text())


def in_docstrings() -> Iterator[Finding]:
    """Yield what is found in the docstrings of the package."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            if isinstance(node, kinds) and (
                text := ast.get_docstring(node, clean=False)
            ):
                line = node.body[0].lineno
                yield from findings(str(path.relative_to(ROOT)), text, line)


if __name__ == "__main__":
    found = [*in_pages(), *in_docstrings()]
    print(*found, sep="\n")
    sys.exit(bool(found))
