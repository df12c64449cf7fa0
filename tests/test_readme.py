"""README.md, as somebody reads it on PyPI who has nothing but Python."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCS = ROOT / "docs"
SITE = "https://penstock.example/docs/"


def test_the_program_prints_what_the_readme_shows(tmp_path: Path) -> None:
    program = README.partition("```python\n")[2].partition("```")[0]
    shown = README.partition("It prints:\n\n```\n")[2].partition("```")[0]
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", "program.py"],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if "REDIS" not in k},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == shown != ""


def test_no_link_is_relative() -> None:
    for link in re.findall(r"\]\(([^)]*)\)", README):
        assert link.startswith("https://"), link
    assert not re.findall(r"(?:src|href)=\"(?!https://)", README)


def test_each_link_into_the_site_leads_to_a_page_and_a_heading() -> None:
    links = re.findall(rf"{re.escape(SITE)}([^)#\s]*)(?:#([\w-]+))?", README)
    assert links
    for path, anchor in links:
        places = DOCS / f"{path.rstrip('/')}.md", DOCS / path / "index.md"
        page = next((place for place in places if place.exists()), None)
        assert page is not None, path
        if anchor:
            assert anchor in anchors(page), f"{path}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, as MkDocs and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


def test_each_figure_is_one_that_was_measured() -> None:
    goals = dict(
        re.findall(
            r"^\| (.+?) \| ([≥<] [^|]+?) \| [^|]+ \| reached \|$",
            (DOCS / "explanation" / "benchmarks.md").read_text(),
            re.MULTILINE,
        )
    )
    assert "at least 1.5 times as many messages a second as redis-py" in prose()
    assert goals["`async for` beside redis-py, XACK a batch"] == "≥ 1.5 x"
    assert "at least 4 times as many as FastStream in batches" in prose()
    assert goals["`async for` beside faststream batch"] == "≥ 4 x"
    assert "sent at 1,000 a second reach their handler within 5 ms" in prose()
    due = "p99 from when a message is due to its handler's start, at 1,000 a second"
    assert goals[due] == "< 5 ms"
    page = (DOCS / "explanation" / "benchmarks.md").read_text()
    row = r"two processes .+ compute for (\d+) µs \|[^|]+\| ([\d.]+) x"
    measured = {time: round(float(ratio), 1) for time, ratio in re.findall(row, page)}
    assert f"Two processes handle {measured['0']} times as many messages" in prose()
    assert f"{measured['20']} times as many if each computes for 20 µs" in prose()


def prose() -> str:
    """Return the README without its line breaks."""
    return " ".join(README.split())


def test_all_extras_are_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    section = README.partition("## Requirements\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", section))
    assert named == set(project["optional-dependencies"])
