"""Metrics as tests read them."""

from __future__ import annotations

from penstock.observe.metrics import Family, Metrics


def value(metrics: Metrics | list[Family], sample: str, **labels: str) -> float | None:
    """Return the sum of the samples that have these labels; None if there is none."""
    families = metrics.families() if isinstance(metrics, Metrics) else metrics
    found = [
        each.value
        for family in families
        for each in family.samples
        if each.name == sample and labels.items() <= dict(each.labels).items()
    ]
    return sum(found) if found else None


def by(metrics: Metrics, sample: str, *names: str) -> dict[tuple[str, ...], float]:
    """Return the samples that are not 0, by the values of labels."""
    found: dict[tuple[str, ...], float] = {}
    for family in metrics.families():
        for each in family.samples:
            if each.name == sample and each.value:
                labels = dict(each.labels)
                key = tuple(labels[name] for name in names)
                found[key] = found.get(key, 0) + each.value
    return found
