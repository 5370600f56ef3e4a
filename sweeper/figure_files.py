"""Charts as files for papers and slides, drawn by matplotlib: an SVG and a PNG each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.chart import Axis, Chart
from sweeper.output import whole
from sweeper.svg import LIGHT

MARKERS = "os^Dv"


def write_figures(charts: Iterable[tuple[str, Chart]], folder: Path) -> int:
    """Write NAME-KIND.svg and .png for each chart, and return how many files that are.

    Raises:
        OSError: the folder takes no files.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    # Equal charts give equal files; text stays text.
    with mpl.rc_context({"svg.hashsalt": "sweeper", "svg.fonttype": "none", "font.size": 9}):
        for name, chart in charts:
            figure = Figure(figsize=(5.6, 3.6), layout="constrained")
            _draw(chart, figure.subplots())
            for kind, metadata in (("svg", {"Date": None}), ("png", {})):
                path = folder / f"{name}-{chart.kind}.{kind}"
                with whole(path) as file:
                    figure.savefig(file, format=kind, dpi=150, metadata=metadata)
                written += 1
    return written


def named_charts(charts: Mapping[str, Sequence[Chart]]) -> list[tuple[str, Chart]]:
    """Return charts with the names of their situations."""
    return [(name, chart) for name, own in charts.items() for chart in own]


def _draw(chart: Chart, axes: Any) -> None:
    for own in chart.series:
        colour = LIGHT[own.style % len(LIGHT)]
        marker = MARKERS[(own.style + own.style // len(LIGHT)) % len(MARKERS)]
        x, y = [mark.x for mark in own.marks], [mark.y for mark in own.marks]
        spreads = [mark.spread for mark in own.marks]
        line = "-" if own.joined else "none"
        axes.errorbar(x, y, yerr=spreads if any(spreads) else None, color=colour, linestyle=line, elinewidth=0.8)
        for strong, fill in ((True, colour), (False, "white")):
            mine = [mark for mark in own.marks if mark.strong is strong]
            axes.plot(
                [mark.x for mark in mine],
                [mark.y for mark in mine],
                linestyle="none",
                marker=marker,
                color=colour,
                markerfacecolor=fill,
            )
        axes.plot([], [], marker=marker, color=colour, linestyle=line, label=own.name)
    if chart.front:
        axes.step(
            *zip(*chart.front, strict=True),
            where="post",
            color="black",
            linewidth=0.9,
            linestyle="--",
            alpha=0.6,
            label="Pareto front",
        )
    if chart.level and chart.has_level:
        axes.axhline(chart.level[0], color="grey", linestyle=":", label=chart.level[1])
    _axis(axes.xaxis, axes.set_xscale, chart.x)
    _axis(axes.yaxis, axes.set_yscale, chart.y)
    axes.set_xlim(chart.x_range())
    axes.set_ylim(chart.y_range())
    axes.set_title(chart.title, fontsize=10, parse_math=False)
    axes.grid(alpha=0.3)
    for text in axes.figure.legend(loc="outside right upper", fontsize=8).get_texts():
        text.set_parse_math(False)  # names come from rows


def _axis(axis: Any, scale: Any, own: Axis) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    if own.log:
        scale("log")
        axis.set_minor_formatter(NullFormatter())
    if own.at:
        axis.set_major_locator(FixedLocator(own.at))
    axis.set_major_formatter(FuncFormatter(lambda value, _: own.form(value)))
    axis.set_label_text(own.label)
