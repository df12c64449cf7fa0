"""The package: what its metadata promise. `make dist` tries the wheel itself."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from penstock import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_extra_all_has_all_extras() -> None:
    extras = PROJECT["optional-dependencies"]
    [everything] = extras["all"]
    named = re.fullmatch(r"penstock\[([\w,]+)\]", everything)
    assert named is not None
    assert set(named[1].split(",")) == extras.keys() - {"all"}


def test_the_pythons_that_are_claimed_begin_with_the_lowest_allowed() -> None:
    claimed = [
        one.removeprefix("Programming Language :: Python :: ")
        for one in PROJECT["classifiers"]
        if re.search(r"3\.\d+$", one)
    ]
    assert PROJECT["requires-python"] == f">={claimed[0]}"
    page = (ROOT / "docs" / "versioning.md").read_text()
    assert f"| Python | {claimed[0]} to {claimed[-1]} |" in page


def test_the_manifests_run_this_version() -> None:
    base = ROOT / "deploy" / "kubernetes" / "base"
    assert f"newTag: {__version__}" in (base / "kustomization.yaml").read_text()


def test_the_changelog_has_the_version_under_an_empty_or_open_unreleased_section() -> (
    None
):
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert re.fullmatch(
        rf"{re.escape(__version__)} \(\d{{4}}-\d{{2}}-\d{{2}}\)", headings[1]
    )
