"""Merging: the metrics of several workers as one list of families."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from penstock.observe._families import ADDED, Family, Labels, Sample

__all__ = ["WorkerMetrics", "add_up", "counters_of", "merge", "subtract"]

# Families about a process, whose numbers mean nothing when they are added.
_OF_PROCESSES: Final = ("process_", "python_")
_WORKER: Final = "worker"


def merge(
    workers: Mapping[int, Sequence[Family]], ended: Sequence[Family] = ()
) -> list[Family]:
    """Merge the families of several workers.

    Counters, histograms, and the sums and counts of summaries are added up. All other
    samples, and those about a process (`process_...`, `python_...`), stay apart: they
    get a label `worker` with the worker's number. If a sample has such a label already,
    that one is renamed to `exported_worker`. Families that differ in their kind from
    the first one of their name are left out.

    Args:
        workers: The families of each worker, by its number.
        ended: What workers that have ended had counted, see `WorkerMetrics`.
    """
    merging = _Merging()
    merging.add(ended)
    for number, families in workers.items():
        merging.add(families, number)
    return merging.families()


class WorkerMetrics:
    """The latest metrics of workers that come and go.

    The counters of a worker that has ended stay in the sums. So no counter falls when a
    worker is replaced.

    Example:
        ```python
        from penstock.observe.metrics import Family, Sample, WorkerMetrics

        jobs = Family("jobs", "counter", "Jobs.", (Sample("jobs_total", (), 3),))
        metrics = WorkerMetrics()
        metrics.update(1, [jobs])
        metrics.ended(1)
        assert metrics.families() == [jobs]
        ```
    """

    def __init__(self) -> None:
        self._workers: dict[int, Sequence[Family]] = {}
        self._ended: Sequence[Family] = ()

    def update(self, worker: int, families: Sequence[Family]) -> None:
        """Record a worker's families, instead of its former ones."""
        self._workers[worker] = families

    def silent(self, worker: int) -> None:
        """Keep only a worker's counters: it has not answered, and may have changed."""
        if worker in self._workers:
            self._workers[worker] = counters_of(self._workers[worker])

    def ended(self, worker: int) -> None:
        """Record that a worker has ended; its number may be used again."""
        last = self._workers.pop(worker, None)
        if last is not None:
            self._ended = add_up((self._ended, counters_of(last)))

    def families(self) -> list[Family]:
        """Return the families of all workers, merged."""
        return merge(self._workers, self._ended)


class _Merging:
    """Families that are being merged."""

    def __init__(self) -> None:
        self._first: dict[str, Family] = {}
        self._values: dict[str, dict[tuple[str, Labels], float]] = {}

    def add(self, families: Iterable[Family], worker: int | None = None) -> None:
        """Add families.

        Args:
            families: The families.
            worker: The number of the worker whose families these are; None if only what
                can be added is among them.
        """
        for family in families:
            first = self._first.setdefault(family.name, family)
            if family.kind != first.kind:
                continue
            values = self._values.setdefault(family.name, {})
            for sample in family.samples:
                if _is_creation(family, sample):
                    continue
                labels = sample.labels
                if worker is not None and not _isadd_up(family, sample):
                    labels = _with_worker(labels, worker)
                key = sample.name, labels
                values[key] = values.get(key, 0) + sample.value

    def families(self) -> list[Family]:
        """Return the merged families, in the order in which they came."""
        return [
            Family(
                name,
                first.kind,
                first.help,
                tuple(
                    Sample(sample, labels, value)
                    for (sample, labels), value in self._values[name].items()
                ),
            )
            for name, first in self._first.items()
        ]


def add_up(parts: Iterable[Sequence[Family]]) -> list[Family]:
    """Add up families sample by sample."""
    merging = _Merging()
    for part in parts:
        merging.add(part)
    return merging.families()


def subtract(families: Sequence[Family], part: Sequence[Family]) -> list[Family]:
    """Return families without what one part of them has added."""
    negative = [
        Family(
            family.name,
            family.kind,
            family.help,
            tuple(
                Sample(each.name, each.labels, -each.value) for each in family.samples
            ),
        )
        for family in part
    ]
    return add_up([families, negative])


def counters_of(families: Iterable[Family]) -> list[Family]:
    """Return families with only those samples that can be added."""
    return [
        Family(
            family.name,
            family.kind,
            family.help,
            tuple(sample for sample in family.samples if _isadd_up(family, sample)),
        )
        for family in families
    ]


def _isadd_up(family: Family, sample: Sample) -> bool:
    """Return whether a sample is added to those of other workers."""
    return (
        family.kind in ADDED
        and not family.name.startswith(_OF_PROCESSES)
        # The quantiles of a summary.
        and all(name != "quantile" for name, _ in sample.labels)
    )


def _is_creation(family: Family, sample: Sample) -> bool:
    """Return whether a sample says when a series began; a sum of times says nothing."""
    return family.kind in ADDED and sample.name == f"{family.name}_created"


def _with_worker(labels: Labels, worker: int) -> Labels:
    renamed = ((f"exported_{n}" if n == _WORKER else n, value) for n, value in labels)
    return (*renamed, (_WORKER, str(worker)))
