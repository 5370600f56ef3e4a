"""What the live page shows: progress, time left, the best of each strategy with its learning curve, failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from markupsafe import Markup

from sweeper.page import element, join, page, table
from sweeper.printing import time_in_words
from sweeper.standing import DONE, RUNNING, Standing

STYLE = """
progress { width: 100%; max-width: 48rem; height: 1rem; accent-color: var(--accent); }
.state { font-weight: 600; }
.curve { display: block; }
.curve polyline { fill: none; stroke: var(--accent); stroke-width: 2; }
.curve line { stroke: var(--line); stroke-width: 1; }
"""
# Polls, and says so where nothing answers any more. Without scripts the page loads itself anew.
SCRIPT = """
const place = document.getElementById("news"), lost = document.getElementById("lost");
let last = null;
async function ask() {
  try {
    const answer = await fetch("news", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const text = await answer.text();
    if (text !== last) { place.innerHTML = text; last = text; }
    const state = place.querySelector("[data-title]");
    if (state) document.title = state.dataset.title;
    lost.hidden = true;
  } catch (error) { lost.hidden = false; }
  setTimeout(ask, place.querySelector("[data-state=running]") ? 1500 : 10000);
}
setTimeout(ask, 1500);
"""
WIDTH, HEIGHT = 140, 36


def whole_page(news: str) -> str:
    """Return the page around how all stands."""
    body = join(
        [
            Markup('<noscript><meta http-equiv="refresh" content="5"></noscript>'),
            element(
                "p",
                "Nothing answers any more: the launch, or what served this page, has ended. Below is its last word.",
                id="lost",
                class_="panel warn",
                role="status",
                hidden=True,
            ),
            element("div", Markup(news), id="news"),  # noqa: S704 - what `fragment` built
        ]
    )
    lead = "This page keeps itself up to date."
    return page("Sweeps, live", body, lead=lead, style=STYLE, script=SCRIPT, calls_home=True)


def fragment(found: Sequence[Standing], store: str) -> str:
    """Return how launches into a store stand, the newest first."""
    if not found:
        return element("p", f"No launch into {store} runs or was cut off.", class_="soft")
    return join(_section(one) for one in reversed(found))


def _section(one: Standing) -> Markup:
    tone = {RUNNING: None, DONE: "good"}.get(one.state, "warn")
    by = f" by {one.by}" if one.by else ""
    return element(
        "section",
        element("h2", f"{one.grid}: ", element("span", one.state + by, class_=tone)),
        element("p", one.question, class_="soft"),
        element("progress", max=max(one.total, 1), value=one.done, aria_label=f"{one.done} of {one.total} trials"),
        element("p", _facts(one), class_="state"),
        *(_best(own) for _, own in groupby(one.best, key=lambda best: (best["model"], best["task"], best["n_train"]))),
        _failures(one.failures) if one.failures else "",
        element("p", f"{one.host}, process {one.process}; as of {_clock(one.updated)} UTC", class_="soft small"),
        data_state=one.state,
        data_title=f"{one.done}/{one.total} {one.grid}: {one.state}",
    )


def _facts(one: Standing) -> str:
    began, updated = datetime.fromisoformat(one.started), datetime.fromisoformat(one.updated)
    parts = [f"{one.done} of {one.total} trials", f"{one.running} running", f"{one.left} left", f"{one.failed} failed"]
    parts += [f"{number} {name.replace('_', ' ')}" for name, number in one.statuses.items() if name != "complete"]
    parts.append(f"{time_in_words((updated - began).total_seconds())} so far")
    if one.seconds_left is not None:
        parts.append(f"about {time_in_words(one.seconds_left)} left")
    return " · ".join(parts)


def _best(group: Any) -> Markup:
    """Return the table of one situation."""
    best: list[Mapping[str, Any]] = list(group)
    first = best[0]
    scores = [score for one in best for _, score in one["curve"]]
    low, high = min(scores, default=0.0), max(scores, default=1.0)
    rows = [
        (
            one["strategy"],
            one["settings"] or "-",
            f"{one['lr']:g}",
            f"{100 * one['valid']:.1f}",
            f"{100 * one['test']:.1f}",
            one["seeds"],
            f"{one['trainable_params']:,.0f}",
            _curve(one["curve"], low, high),
        )
        for one in best
    ]
    place = f"{first['model']} on {first['task']}, {first['n_train']} rows"
    caption = f"{place}: best so far, by mean {first['metric']} on valid in per cent"
    headings = ("strategy", "settings", "lr", "valid", "test", "trials", "trainable", "valid by step")
    return table(headings, rows, caption=caption)


def _curve(points: Sequence[Sequence[float]], low: float, high: float) -> Markup | str:
    """Return a learning curve, on the scale of its table."""
    if len(points) < 2:
        return "-"
    first, last = points[0], points[-1]
    wide, tall = (last[0] - first[0]) or 1, (high - low) or 1
    line = " ".join(
        f"{2 + (WIDTH - 4) * (step - first[0]) / wide:.1f},{HEIGHT - 3 - (HEIGHT - 6) * (score - low) / tall:.1f}"
        for step, score in points
    )
    said = f"from {100 * first[1]:.0f} % at step {first[0]:g} to {100 * last[1]:.0f} % at step {last[0]:g}"
    return element(
        "svg",
        element("line", x1=0, y1=HEIGHT - 1, x2=WIDTH, y2=HEIGHT - 1),
        element("polyline", points=line),
        class_="curve",
        role="img",
        aria_label=said,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        width=WIDTH,
        height=HEIGHT,
    )


def _failures(failures: Sequence[Mapping[str, str]]) -> Markup:
    rows = [(one["trial_id"], one["model"], one["strategy"], one["status"], one["reason"]) for one in failures]
    return table(
        ("trial", "model", "strategy", "status", "reason"), rows, caption="Trials that did not end well", words=5
    )


def _clock(moment: str) -> str:
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%H:%M:%S}"
