"""The package: what its metadata promise. `make dist` tries the wheel itself."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

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
