"""Charts as SVG in a page: a few kilobytes each, in the page's own colours, light and dark.

matplotlib's SVG is 20 times larger (text as outlines, a style for every element), takes a third of a second a
figure and has one set of colours; a report has hundreds of figures. For files it is the better tool, and
`sweeper.figure_files` uses it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from markupsafe import Markup

from sweeper.chart import Axis, Chart, Mark, Series, ticks
from sweeper.page import element

_Scale = Callable[[float], float]

WIDTH, HEIGHT = 380, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 40
LETTER = 6.6  # about how wide one is

# Okabe and Ito's colours, darkened or lightened until each stands 3 to 1 against its paper (WCAG 1.4.11).
LIGHT = ("#0072b2", "#c44e00", "#007a59", "#a3467f", "#8a6500", "#5a51c8", "#b3261e", "#5b6570")
DARK = ("#56b4e9", "#ff9b57", "#3fcf9f", "#f08fc0", "#e8c547", "#aaa4ff", "#ff8a80", "#b8c0ca")
SHAPES = (
    "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "m-3.5-3.5h7v7h-7z",
    "m0-4.7l4.4 7.7h-8.8z",
    "m0-4.9l4.5 4.9-4.5 4.9-4.5-4.9z",
    "m0 4.7l4.4-7.7h-8.8z",
)

STYLE = (
    ":root{"
    + "".join(f"--c{k}:{colour};" for k, colour in enumerate(LIGHT))
    + "}@media(prefers-color-scheme:dark){:root{"
    + "".join(f"--c{k}:{colour};" for k, colour in enumerate(DARK))
    + "}}@media print{:root{"
    + "".join(f"--c{k}:{colour};" for k, colour in enumerate(LIGHT))
    + "}}"
    + "".join(f".c{k}{{color:var(--c{k})}}" for k in range(len(LIGHT)))
    + """
.chart { display: block; width: 100%; overflow: visible; font-size: 11px; }
.chart text { fill: var(--soft); }
.chart .grid { stroke: var(--line); fill: none; }
.chart .front { stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 5 3; fill: none; opacity: .7; }
.chart .level { stroke: var(--soft); stroke-dasharray: 2 3; fill: none; }
.chart .m, .key .m { fill: var(--paper); stroke: currentColor; stroke-width: 1.5; }
.chart .s, .key .s { fill: currentColor; }
.chart .b { stroke: currentColor; fill: none; opacity: .55; }
.chart .j { stroke: currentColor; fill: none; stroke-width: 1.7; stroke-linejoin: round; }
.key { width: 14px; height: 14px; vertical-align: -2px; }
"""
)


def draw(chart: Chart) -> Markup:
    """Return a chart as an ``<svg>`` that screen readers take for a picture with a description."""
    x0, x1 = chart.x_range()
    y0, y1 = chart.y_range()

    def across(value: float) -> float:
        return LEFT + _share(value, x0, x1, chart.x.log) * (WIDTH - LEFT - RIGHT)

    def down(value: float) -> float:
        return HEIGHT - BOTTOM - _share(value, y0, y1, chart.y.log) * (HEIGHT - TOP - BOTTOM)

    parts: list[Markup] = []
    foot = HEIGHT - BOTTOM
    x_ticks, y_ticks = chart.x.at or ticks(x0, x1, chart.x.log), ticks(y0, y1, chart.y.log)
    lines = [f"M{LEFT} {down(value):.1f}H{WIDTH - RIGHT}" for value in y_ticks]
    lines += [f"M{across(value):.1f} {TOP}V{foot}" for value in x_ticks]
    parts.append(element("path", class_="grid", d="".join(lines)))
    parts += [_text(LEFT - 5, down(value) + 4, "end", chart.y.form(value)) for value in y_ticks]
    parts += _labels([(across(value), chart.x.form(value)) for value in x_ticks], foot + 15)
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "middle", _named(chart.x, chart.better)))
    if chart.level and chart.has_level:
        height = down(chart.level[0])
        parts.append(element("path", class_="level", d=f"M{LEFT} {height:.1f}H{WIDTH - RIGHT}"))
        parts.append(_text(WIDTH - RIGHT - 2, height - 4, "end", chart.level[1]))
    if chart.front:
        parts.append(element("path", class_="front", d=_steps([(across(x), down(y)) for x, y in chart.front])))
    for own in chart.series:
        parts.append(_series(own, across, down))
    return element(
        "svg",
        *parts,
        class_="chart",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{chart.title}. {chart.says}",
    )


def key(style: int) -> Markup:
    """Return the mark of a series, for a legend."""
    shape = element("path", class_="m s", d=f"M7 7{_shape(style)}")
    return element("svg", shape, class_=f"key {_colour(style)}", viewBox="0 0 14 14", aria_hidden="true")


def _series(own: Series, across: _Scale, down: _Scale) -> Markup:
    parts = []
    bars = "".join(
        f"M{across(mark.x):.1f} {down(mark.y - mark.spread):.1f}V{down(mark.y + mark.spread):.1f}"
        for mark in own.marks
        if mark.spread
    )
    if bars:
        parts.append(element("path", class_="b", d=bars))
    if own.joined and len(own.marks) > 1:
        way = "L".join(f"{across(mark.x):.1f} {down(mark.y):.1f}" for mark in own.marks)
        parts.append(element("path", class_="j", d=f"M{way}"))
    parts += [_mark(mark, own.style, across, down) for mark in own.marks]
    return element("g", *parts, class_=_colour(own.style))


def _mark(mark: Mark, style: int, across: _Scale, down: _Scale) -> Markup:
    place = f"M{across(mark.x):.1f} {down(mark.y):.1f}{_shape(style)}"
    return element("path", element("title", mark.says), class_="m s" if mark.strong else "m", d=place)


def _shape(style: int) -> str:
    return SHAPES[(style + style // len(LIGHT)) % len(SHAPES)]


def _colour(style: int) -> str:
    return f"c{style % len(LIGHT)}"


def _share(value: float, low: float, high: float, log: bool) -> float:
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _steps(points: Iterable[tuple[float, float]]) -> str:
    (x, y), *rest = points
    return f"M{x:.1f} {y:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest)


def _named(axis: Axis, better: str | None) -> str:
    arrow = {"left": "← ", "right": "→ "}.get(better or "", "")
    return f"{arrow}{axis.label}"


def _labels(wanted: Iterable[tuple[float, str]], y: float) -> list[Markup]:
    """Return the labels of a horizontal axis, those left out that would run into the one before."""
    found, free = [], 0.0
    for x, text in wanted:
        half = LETTER * len(text) / 2
        x = min(x, WIDTH - half)
        if x - half >= free:
            found.append(_text(x, y, "middle", text))
            free = x + half + LETTER
    return found


def _text(x: float, y: float, anchor: str, text: str) -> Markup:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)
