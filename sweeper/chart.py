"""What a figure shows, apart from how it is drawn: `sweeper.svg` draws into pages, `sweeper.figure_files` to files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Axis:
    """What an axis counts, how a value of it is written, and where it is marked if not at round values."""

    label: str
    form: Callable[[float], str]
    log: bool = False
    at: tuple[float, ...] = ()


@dataclass(frozen=True)
class Mark:
    """One point: where it is, how far its value spreads to either side of ``y``, and what is said of it.

    ``strong`` marks stand out; the others are hollow.
    """

    x: float
    y: float
    says: str
    spread: float = 0.0
    strong: bool = True


@dataclass(frozen=True)
class Series:
    """Marks of one colour; ``joined`` by a line or not."""

    name: str
    style: int
    marks: tuple[Mark, ...]
    joined: bool = False


@dataclass(frozen=True)
class Chart:
    """A figure.

    Attributes:
        kind: One word, part of the file's name.
        says: What it shows, in words, for who does not see it.
        front: Points of a Pareto front, from left to right; drawn as steps.
        level: A value of ``y`` to compare with, and its name; not drawn where it would dwarf what is shown.
        better: Where the better values of ``x`` are; ``None`` where there is no better.
    """

    kind: str
    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    says: str
    front: tuple[tuple[float, float], ...] = ()
    level: tuple[float, str] | None = None
    better: Literal["left", "right"] | None = None

    def x_range(self) -> tuple[float, float]:
        """Return the ends of the horizontal axis, a margin included."""
        return _range([mark.x for own in self.series for mark in own.marks], self.x.log)

    def y_range(self) -> tuple[float, float]:
        """Return the ends of the vertical axis, a margin included."""
        return _range(self._heights() + ([self.level[0]] if self.level and self.has_level else []), self.y.log)

    @property
    def has_level(self) -> bool:
        """Whether the level is there, and no farther from the marks than these are apart."""
        if self.level is None:
            return False
        low, high = min(self._heights()), max(self._heights())
        return low - (high - low) <= self.level[0] <= high + (high - low)

    def _heights(self) -> list[float]:
        marks = [mark for own in self.series for mark in own.marks]
        return [mark.y + side * mark.spread for mark in marks for side in (-1, 1)]


def _range(values: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        margin = max((high / low) ** 0.07, 1.15)
        return low / margin, high * margin
    margin = 0.07 * (high - low) or 0.07 * abs(high) or 1.0
    return low - margin, high + margin


def ticks(low: float, high: float, log: bool, most: int = 5) -> list[float]:
    """Return round values within a range: powers of ten on a wide logarithmic axis, else 1, 2, 5 times one."""
    if log and high / low >= 30:
        powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        return [10.0**power for power in powers[:: -(-len(powers) // most)]]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (factor * step) <= most)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
