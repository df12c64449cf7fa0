"""`python -m benchmarks report`: stored results as a page and its plots."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from benchmarks import table
from benchmarks.processes import ROOT
from benchmarks.report.figures import Figures
from benchmarks.report.sections import all_sections
from benchmarks.report.svg import Plot, draw
from benchmarks.store import Result

PAGE = ROOT / "docs" / "explanation" / "benchmarks.md"

INTRODUCTION = """# Benchmarks

<!-- Written by `python -m benchmarks report`; do not edit. -->

This page shows what Penstock costs, and what other libraries cost for the same work:
how many messages a second one process handles or sends, how long a message takes from
its sender to its handler, how rates grow with processes, and the processor time of a
message. Use it to see whether Penstock is fast enough for you, and to choose the way of
consuming and sending that fits. `benchmarks/README.md` in the repository says how each
figure was measured, and how to measure it on your machine.

## What these figures do not mean

- The server shares the machine with its clients, so absolute figures are of this
  machine only, and lower than with a server of its own. Compare lines of one table.
- Handlers do nothing, but where it says otherwise. With handlers that do, they are what
  takes the time, and all libraries come closer to each other.
- Peers do other things besides: task queues keep results and states, FastStream
  injects dependencies. What is compared is what all do: have each message of a group
  handled, and acknowledged.
- `raw` survives no error, bounds nothing and knows nothing of its messages' state; it
  says how far redis-py's connection goes, not how one should read.
- Slow peers get fewer messages, so that a run takes about two seconds; the rate is what
  counts.
- A figure is the median of its rounds. Two whose lowest and highest overlap are not
  told apart.
- "The server's limit" is what its processor time would allow if it never waited, with
  reads and writes of 500. With clients on the same cores it can't be reached."""


def main(folder: Path, results: Mapping[str, Result], page: Path = PAGE) -> None:
    """Write the page, and its plots beside it.

    Raises:
        SystemExit: There are no results.
    """
    if not results:
        raise SystemExit(
            f"no results in {folder}; `python -m benchmarks all` makes them"
        )
    for path, text in rendered(results, page).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path)


def rendered(results: Mapping[str, Result], page: Path) -> dict[Path, str]:
    """The page and its plots: texts by path."""
    folder = page.with_suffix("")
    files = {}
    parts = [INTRODUCTION, surroundings(results)]
    for section in all_sections(Figures(results)):
        if isinstance(section, Plot):
            name = re.sub(r"\W+", "-", section.title.lower()).strip("-")
            files[folder / f"{name}.svg"] = draw(section)
            parts.append(f"![{section.title}]({folder.name}/{name}.svg)")
        else:
            parts.append(section)
    return {page: "\n\n".join(parts) + "\n", **files}


def surroundings(results: Mapping[str, Result]) -> str:
    """Where, when and with what; what differed between results has several values."""
    told: dict[str, set[str]] = {
        "date": {result.date[:10] for result in results.values()}
    }
    for result in results.values():
        peers = {
            n: v for row in result.rows for n, v in row.get("versions", {}).items()
        }
        for name, value in {**result.machine, **result.versions, **peers}.items():
            told.setdefault(name, set()).add(value)
    cells = [[name, ", ".join(sorted(values))] for name, values in told.items()]
    return f"## Where, when and with what\n\n{table.markdown(('', ''), cells)}"
