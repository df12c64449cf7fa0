"""docs/how-to/deploying.md: what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from support.command_lines import assert_command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "deploying.md").read_text()
ALERTS = (ROOT / "docs" / "how-to" / "alerts.md").read_text()


@pytest.mark.parametrize("page", [PAGE, ALERTS], ids=["deploying", "alerts"])
def test_files_and_sections_that_it_links_to_exist(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", page)
    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        target = (ROOT / "docs" / "how-to" / name) if name else None
        assert target is None or target.exists(), link
        if anchor:
            text = target.read_text() if target else page
            headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            assert anchor in {_anchor(heading) for heading in headings}, link


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_query_and_the_files_are_those_of_the_manifests() -> None:
    folder = ROOT / "deploy" / "kubernetes"
    scaled = yaml.safe_load((folder / "operators" / "scaledobject.yaml").read_text())
    assert scaled["spec"]["triggers"][0]["metadata"]["query"] in PAGE
    named = set(
        re.findall(r"^\| `((?:base|operators)/\w+\.yaml)` \|", PAGE, re.MULTILINE)
    )
    assert named == {
        str(path.relative_to(folder))
        for path in folder.rglob("*.yaml")
        if path.name != "kustomization.yaml"
    }
    builds = re.search(r"^docker build .*-f (\S+)", PAGE, re.MULTILINE)
    assert builds is not None
    assert (ROOT / builds[1]).exists()


def test_the_command_of_an_image_on_top_is_one_that_penstock_takes() -> None:
    found = re.search(r"^CMD (\[.*\])$", PAGE, re.MULTILINE)
    assert found is not None
    words = yaml.safe_load(found[1])
    assert_command(["penstock", *words])
