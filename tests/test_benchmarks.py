"""The benchmarks: how they count, store and report, whatever they measure."""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks import recovery, store, table, versus
from benchmarks.job import Job, Run
from benchmarks.peers import CONSUMING, Candidate
from benchmarks.processes import ROOT, Child, Stuck
from benchmarks.report import page
from benchmarks.report.figures import CONSUMED, Figures
from benchmarks.report.goals import goals
from benchmarks.report.svg import Plot, draw
from benchmarks.running import Row
from benchmarks.server import connect, own_server
from benchmarks.spread import Spread, in_milliseconds, percentile

PASSAGE = {"round_trip_ms": 0.1, "reads": 1, "adds": 1}
SVG = "{http://www.w3.org/2000/svg}"


def result(**rates: float) -> store.Result:
    """Return a result of consuming, with a row for each rate."""
    rows = [
        Row(name.replace("_", " "), {}, [Run(1000, 1000 / rate, 0.001, 0.002)]).stored()
        for name, rate in rates.items()
    ]
    parameters: dict[str, Any] = {"rounds": 1, "passage": PASSAGE}
    return store.Result(CONSUMED, parameters, rows, {"python": "3"})


def reached(**rates: float) -> dict[str, bool | None]:
    figures = Figures({CONSUMED: result(**rates)})
    return {goal.text: goal.reached for goal in goals(figures)}


def test_a_percentile_is_one_of_the_measured_figures() -> None:
    ordered = list(range(1, 1001))
    assert percentile(ordered, 50) == 500
    assert percentile(ordered, 99.9) == 999
    assert percentile([7], 50) == 7
    assert in_milliseconds([3_000_000, 1_000_000, 2_000_000])["50"] == 2.0


def test_a_spread_has_the_median_and_both_ends() -> None:
    assert Spread.of([3, 1, 2]) == Spread(2, 1, 3)


def test_a_slow_peer_gets_fewer_messages_and_even_fewer_with_a_delay() -> None:
    slow = Candidate("", "", "", rate=1000, trips=1)
    assert slow.messages(100_000, 0) == 2000
    assert slow.messages(100_000, 0.001) == 1000
    assert slow.messages(100_000, 1) == 500
    assert slow.messages(100, 0) == 100


def test_a_row_has_figures_per_message() -> None:
    run = Run(1000, 0.5, 0.002, 0.004, {"xack": 10, "xreadgroup": 10}, {"xack": 500})
    row = Row("it", {}, [run])
    assert row.rate.median == 2000
    assert (row.client_cpu, row.server_cpu) == (2, 4)
    assert (row.commands, row.executing) == (0.02, 0.5)


def test_tables_align_figures_to_the_right() -> None:
    head, rows = ("", "rate"), [["a", "10"], ["longer", "9"]]
    assert table.plain(head, rows) == "        rate\na         10\nlonger     9"
    assert table.markdown(head, rows).splitlines()[1] == "| --- | ---: |"


def test_goals_are_reached_or_not_or_not_measured() -> None:
    found = reached(penstock_async_for=100, raw=100, faststream_batch=30)
    assert found["`async for` beside raw"] is True
    assert found["`async for` beside faststream batch"] is False
    assert found["`async for` beside faststream"] is None
    assert found["64 idle shards"] is None


def test_a_plot_has_a_shape_for_each_figure_and_escapes_names() -> None:
    lines = {"a < b": {"one": Spread(2, 1, 3), "two": Spread(20, 10, 40)}, "c": {}}
    root = ET.fromstring(draw(Plot("Title", "ms", ("one", "two"), lines)))  # noqa: S314 - drawn here
    assert len(root.findall(f"{SVG}circle")) == 2  # one of them is the legend's
    assert len(root.findall(f"{SVG}rect")) == 2
    assert "a < b" in [text.text for text in root.findall(f"{SVG}text")]


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = result(raw=10)
    store.save(written, tmp_path)
    assert store.load(tmp_path) == {CONSUMED: written}


def test_a_child_process_that_fails_is_reported() -> None:
    with (
        pytest.raises(RuntimeError, match=r"benchmarks\.none ended"),
        Child("benchmarks.none") as child,
    ):
        child.hear()


def test_a_peer_that_hangs_is_reported_and_the_others_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def perform(candidate: Candidate, job: Job) -> tuple[Run, dict[str, str]]:
        if not candidate.ours and not hanging:
            hanging.append(candidate.name)
            raise Stuck("it said nothing")
        return Run(job.messages, 1.0, 0.1, 0.1), {}

    hanging: list[str] = []
    monkeypatch.setattr(versus, "perform", perform)
    monkeypatch.setattr(versus, "check_settled", lambda _: None)
    parser = argparse.ArgumentParser()
    versus.add_arguments(parser)
    words = ["--rounds", "2", "--only", "raw", "taskiq-redis"]
    versus.main(parser.parse_args(words), tmp_path)
    results = store.load(tmp_path)
    rows = Figures(results).rows(CONSUMED)
    assert hanging == ["taskiq-redis"]
    assert [len(rows[name].runs) for name in ("raw", "taskiq-redis")] == [2, 1]
    text = page.rendered(results, tmp_path / "x.md")[tmp_path / "x.md"]
    assert "taskiq-redis stood still in 1 of 2 runs, which do not count." in text


def test_a_run_is_measured_stored_and_reported(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    versus.add_arguments(parser)
    words = ["--messages", "200", "--rounds", "1", "--only"]
    versus.main(parser.parse_args([*words, "penstock async"]), tmp_path)
    results = store.load(tmp_path)
    [row] = Figures(results).rows(CONSUMED).values()
    assert row.runs[0].calls["xack"] > 0
    files = page.rendered(results, tmp_path / "benchmarks.md")
    assert "| penstock async for | " in files[tmp_path / "benchmarks.md"]
    assert len(files) == 2


def test_only_refuses_names_that_match_no_candidate() -> None:
    with pytest.raises(SystemExit, match="'penstock async for'"):
        versus.chosen(CONSUMING, ["nobody"])


@pytest.mark.skipif(
    not (page.PAGE.exists() and (ROOT / "benchmarks" / "results").exists()),
    reason="no results are kept, as in a source distribution",
)
def test_the_page_matches_the_stored_results() -> None:
    results = store.load(ROOT / "benchmarks" / "results")
    for path, text in page.rendered(results, page.PAGE).items():
        assert path.read_text() == text


def test_recovery_reports_the_median_the_worst_and_whether_the_goal_was_reached(
    tmp_path: Path,
) -> None:
    rows = [
        {"name": "cut", "goal": 0.2, "seconds": [0.1, 0.05, 0.3]},
        {"name": "killed", "goal": 1.0, "seconds": [0.5, 0.4]},
    ]
    written = store.Result("recovery", {"rounds": 3}, rows, {"python": "3"})
    files = page.rendered({"recovery": written}, tmp_path / "benchmarks.md")
    text = files[tmp_path / "benchmarks.md"]
    assert "| cut | 0.200 s | 0.100 s | 0.300 s |" in text
    assert "| the worst of: cut | < 0.2 s | 0.3 s | **not reached** |" in text
    assert "| the worst of: killed | < 1 s | 0.5 s | reached |" in text


def test_the_recovery_from_a_cut_is_measured() -> None:
    with own_server() as url, connect(url) as redis:
        assert 0 < recovery.cut(redis, url) < 5
