"""Results, kept as JSON: a file each, with all that is needed to judge them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import facts
from benchmarks.processes import ROOT

FOLDER = ROOT / ".bench" / "results"


@dataclass
class Result:
    """What one benchmark measured.

    Attributes:
        name: The file's name, without its ending.
        parameters: What it was asked to do.
        rows: What it found; every figure of every round.
        versions: Of what it ran on.
        machine: Where.
        date: When it ended, in UTC.
    """

    name: str
    parameters: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    versions: Mapping[str, str]
    machine: Mapping[str, str] = field(default_factory=facts.machine)
    date: str = field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )


def save(result: Result, folder: Path) -> None:
    """Write it, in the place of an older one."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(result), indent=1)
    (folder / f"{result.name}.json").write_text(text + "\n")


def load(folder: Path) -> dict[str, Result]:
    """Read all results of a folder, by name."""
    results = [Result(**json.loads(p.read_text())) for p in folder.glob("*.json")]
    return {result.name: result for result in sorted(results, key=lambda r: r.name)}
