"""Scores as dots with intervals: one row a strategy, in a table that a screen reader reads as numbers.

Positions are shares of the width, so that a chart is as wide as the window and its words keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sweeper.page import element, join

STYLE = """
.chart { width: 100%; max-width: 62rem; }
.chart th, .chart td { padding: .2rem .75rem .2rem 0; vertical-align: middle; }
.chart tbody th { white-space: nowrap; font-weight: 600; width: 1%; }
.chart .number { width: 1%; padding-right: 0; padding-left: .75rem; }
.chart svg { display: block; width: 100%; height: 1.6rem; overflow: visible; }
.chart tfoot td { border: 0; }
.chart .rail { stroke: var(--line); stroke-width: 1; }
.chart .whisker { stroke: var(--edge); stroke-width: 2; }
.chart .dot { fill: var(--paper); stroke: var(--edge); stroke-width: 2; }
.chart .kept .whisker { stroke: var(--accent); }
.chart .kept .dot { fill: var(--accent); stroke: var(--accent); }
.chart .mark { stroke: var(--warn); stroke-width: 1.5; stroke-dasharray: 3 3; }
.chart text { fill: var(--soft); font-size: .8rem; }
@media (max-width: 40rem) { .chart thead { position: absolute; clip-path: inset(50%); height: 1px; overflow: hidden; }
  .chart tr { display: grid; grid-template-columns: 1fr auto; padding: .3rem 0; border-bottom: 1px solid var(--line); }
  .chart tbody td, .chart tbody th { border: 0; padding: 0; width: auto; }
  .chart td.plot { grid-column: 1 / -1; grid-row: 2; } .chart tfoot td:not(.plot) { display: none; } }
"""
MARGIN = 0.08
"""Left free at both ends."""


@dataclass(frozen=True)
class Dot:
    """A score.

    Attributes:
        name: Of its row.
        mean: Where the dot is.
        low, high: Ends of the interval; ``None`` where it is not known.
        said: The numbers, in words.
        kept: Whether it stands out.
    """

    name: str
    mean: float
    low: float | None
    high: float | None
    said: str
    kept: bool


def chart(dots: Sequence[Dot], caption: str, heading: str, mark: float | None = None) -> Markup:
    """Return the chart of some scores; ``mark`` is a score that all are compared with, drawn through every row."""
    ends = [value for dot in dots for value in (dot.mean, dot.low, dot.high) if value is not None]
    ends += [mark] if mark is not None else []
    least, most = min(ends), max(ends)
    room = (most - least or 1.0) * MARGIN
    least, most = least - room, most + room

    def at(value: float) -> str:
        return f"{100 * (value - least) / (most - least):.2f}%"

    line = "" if mark is None else element("line", x1=at(mark), x2=at(mark), y1="0", y2="100%", class_="mark")
    rail = element("line", x1="0", x2="100%", y1="50%", y2="50%", class_="rail")
    rows = []
    for dot in dots:
        whisker: Markup | str = ""
        if dot.low is not None and dot.high is not None:
            whisker = element("line", x1=at(dot.low), x2=at(dot.high), y1="50%", y2="50%", class_="whisker")
        point = element("circle", cx=at(dot.mean), cy="50%", r="5", class_="dot")
        drawn = element("svg", rail, line, whisker, point, aria_hidden="true", class_="kept" if dot.kept else None)
        rows.append(
            element(
                "tr",
                element("th", dot.name, scope="row"),
                element("td", drawn, class_="plot"),
                element("td", dot.said, class_="number"),
            )
        )
    labels = [element("text", f"{tick:g}", x=at(tick), y="70%", text_anchor="middle") for tick in ticks(least, most)]
    scale = element("td", element("svg", *labels), class_="plot")
    axis = element("tr", element("td"), scale, element("td"), aria_hidden="true")
    named = (("strategy", None), (heading, None), ("mean", "number"))
    head = element("tr", *(element("th", text, scope="col", class_=kind) for text, kind in named))
    return element(
        "table",
        element("caption", caption),
        element("thead", head),
        element("tbody", join(rows)),
        element("tfoot", axis),
        class_="chart",
    )


def ticks(least: float, most: float) -> list[float]:
    """Return about four round numbers between two."""
    raw = (most - least) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda own: abs(own - raw))
    first = math.ceil(least / step)
    return [round(i * step, 10) for i in range(first, math.floor(most / step) + 1)]
