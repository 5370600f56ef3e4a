"""What was measured, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

PAIRS = (
    "| against | trials | a trial | ours | **ratio** | range | target | training | scores apart | losses | order |",
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
)
FIGURES = ("| scaling | median | range |", "|---|--:|--:|")


def markdown(report: Mapping[str, Any]) -> str:
    """Return the tables of a report, with where and when it was measured."""
    lines = [_where(report)]
    for workload in report["workloads"].values():
        lines += ["", f"**{workload['what']}**: {workload['trials']} trials, {workload['complete']} complete", ""]
        lines += [*PAIRS, *(_pair(workload, pair) for pair in workload["pairs"])]
    if report["scaling"]:
        lines += ["", *FIGURES]
    for figures in report["scaling"].values():
        lines += [_figure(line) for line in figures]
    return "\n".join(lines) + "\n"


def _where(report: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    changed = " and uncommitted changes" if report.get("dirty") else ""
    size = "; the smallest sizes: no figures to go by" if report["quick"] else ""
    return (
        f"{report['cpu']}, {report['cores']} cores; {report['date'][:10]}; commit {report.get('commit', '?')[:12]}"
        f"{changed}; {versions}; repeats: {report['repeats']}{size}"
    )


def _pair(workload: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    target = "" if pair["target"] is None else f"≥ {pair['target']:g}x"
    if "note" in pair:
        return f"| {pair['against']} | | | | | | {target} | {pair['note']} | | | |"
    apart = pair["apart"]
    scores = [apart[name] for name in ("test_score", "valid_score") if apart[name] is not None]
    cells = [
        pair["against"],
        f"{pair['trials']}",
        milliseconds(statistics.median(pair["seconds"]) / pair["trials"]),
        milliseconds(statistics.median(workload["seconds"]) / workload["trials"]),
        f"**{statistics.median(pair['ratios']):.3g}x**",
        f"{min(pair['ratios']):.3g} to {max(pair['ratios']):.3g}",
        target,
        "" if pair["training"] is None else f"{pair['training']:.3g}x",
        f"{max(scores):.2g}" if scores else "not compared",
        "" if apart["valid_loss"] is None else f"{apart['valid_loss']:.1g}",
        f"{pair['swapped']} of {pair['pairs']} swapped" if pair["pairs"] else "",
    ]
    return f"| {' | '.join(cells)} |"


def milliseconds(seconds: float) -> str:
    """Return a time in milliseconds, to three digits."""
    value = 1000 * seconds
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _figure(line: Mapping[str, Any]) -> str:
    values: Sequence[float] = line["values"]
    spread = f"{number(min(values))} to {number(max(values))}" if len(values) > 1 else ""
    return f"| {line['what']} | {number(statistics.median(values))} {line['unit']} | {spread} |"


def number(value: float) -> str:
    """Return a number to three digits, whole ones whole."""
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 100 else f"{value:.3g}"
