"""Samples by name, and what is said of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Samples:
    """Seconds by the name of what took them."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add_all(self, took: Mapping[str, float]) -> None:
        """One sample of each."""
        for name, seconds in took.items():
            self.seconds.setdefault(name, []).append(seconds)


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that at least `percent` of them do not exceed."""
    ordered: Sequence[float] = sorted(values)
    return ordered[max(math.ceil(len(ordered) * percent / 100) - 1, 0)]


def p50(values: Iterable[float]) -> float:
    """The median (of an even number, the lower of the two in the middle)."""
    return percentile(values, 50)


def p99(values: Iterable[float]) -> float:
    """What ninety-nine in a hundred do not exceed."""
    return percentile(values, 99)


def p90(values: Iterable[float]) -> float:
    """What nine in ten do not exceed."""
    return percentile(values, 90)
