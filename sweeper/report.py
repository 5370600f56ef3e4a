"""One HTML file that says what a set of trials found: which strategy, by how much, how sure, at what cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from markupsafe import Markup

from sweeper import __version__, report_facts
from sweeper.chart import Chart
from sweeper.contest import Contest, Situation, Standing, contests, situation_of, standings
from sweeper.figures import Styles, all_figures, overview
from sweeper.page import element, join, page
from sweeper.report_overview import over_all
from sweeper.report_situation import anchor, section
from sweeper.sensitivity import profiles
from sweeper.spec import TrialResult
from sweeper.summary import summarise
from sweeper.svg import STYLE as SVG_STYLE

STYLE = (
    """
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(13.5rem, 1fr)); gap: .75rem 1.75rem;
  margin: 0; max-width: none; }
.facts dt { color: var(--soft); font-size: .8125rem; font-weight: 600; letter-spacing: .02em; }
.facts dd { margin: 0; font-size: .875rem; }
.facts dd.big { font-size: 1.3rem; font-weight: 650; line-height: 1.25; margin: .1rem 0 .2rem;
  overflow-wrap: anywhere; }
.answer { border-left: 4px solid var(--accent); }
.answer > p { margin: .75rem 0 0; max-width: none; }
.situation { border-top: 1px solid var(--line); margin-top: 2.5rem; }
.situation > h2 { margin-top: 1.25rem; }
.situation:first-child { border: 0; margin-top: 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1rem 2rem; }
.figures figure { margin: .5rem 0 0; }
figcaption { font-weight: 600; color: var(--ink); margin-bottom: .25rem; }
.legend { list-style: none; padding: 0; margin: 1rem 0 0; display: flex; flex-wrap: wrap; gap: .25rem 1rem;
  max-width: none; font-size: .875rem; }
.pair { display: grid; grid-template-columns: minmax(0, max-content) minmax(18rem, 1fr); gap: 1rem 2.5rem;
  align-items: start; }
.matrix { font-size: .8125rem; }
.matrix td { text-align: right; padding: .2rem .45rem; font-variant-numeric: tabular-nums; min-width: 2.2rem; }
.matrix th { padding: .2rem .45rem; }
nav { max-width: 76rem; margin: 0 auto; padding: 0 1.5rem; font-size: .9375rem; }
nav ul { list-style: none; padding: 0; margin: 0; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem;
  max-width: none; }
.pair tbody th { white-space: nowrap; }
.pair table { font-size: .875rem; }
"""
    + "".join(f".h{k}{{background:color-mix(in srgb,var(--accent) {5 * k}%,var(--paper))}}\n" for k in range(1, 10))
    + """
@media (max-width: 60rem) { .pair { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 40rem) { nav { padding: 0 1rem; } nav ul { flex-wrap: nowrap; overflow-x: auto; gap: 1.1rem;
  white-space: nowrap; padding-bottom: .25rem; } .facts { gap: .6rem; grid-template-columns: 1fr; }
  .facts dd.big { font-size: 1.1rem; margin: 0; } .facts dd { font-size: .8125rem; } }
@media print { .h1, .h2, .h3, .h4, .h5, .h6, .h7, .h8, .h9 {
  print-color-adjust: exact; } }
"""
)

Watch = Callable[[Sequence[Contest]], Iterable[Contest]]


def report_html(
    rows: Sequence[TrialResult],
    question: str = "",
    *,
    results: str = "results",
    command: str = "sweeper report",
    stores: Mapping[str, str] | None = None,
    watch: Watch = iter,
) -> str:
    """Return a page about rows, whole and self-contained.

    Args:
        rows: Of any number of situations, failed ones included.
        question: What was asked; where that is empty, the question of the grid that the rows are of, if it is one.
        results: The store, as the commands that are shown name it.
        command: What makes this page again.
        stores: Trial id -> folder that its row is from.
        watch: Is given the situations to iterate over; for a progress bar.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError(f"no trial to report in {results!r}. `sweeper launch --grid smoke` makes some")
    asked = report_facts.questions(rows)
    if not question and len(asked) == 1:
        question = next(iter(asked.values())) or ""
    found = contests(summarise(rows))
    ranked = standings(found)
    styles = styles_of(ranked)
    by_situation = _by_situation(rows)

    if not found:
        first = _nothing(rows)
    elif len(found) == 1:
        first = Markup("")  # the situation's own answer stands first
    else:
        first = over_all(found, ranked, styles)
    sections = []
    back = element("a", "All situations", href="#situations") if len(found) > 1 else Markup("")
    for contest in watch(found):
        mine = by_situation[contest.situation]
        sensitivity = profiles(mine)
        charts = all_figures(contest, sensitivity, styles)
        sections.append(section(contest, mine, charts, sensitivity, styles, report_facts.store_option(results), back))
    parts: list[tuple[str, str, Markup]] = [
        ("failures", "Failures", report_facts.failures(rows)),
        ("diagnoses", "Diagnoses", report_facts.diagnoses(rows)),
        ("provenance", "Provenance", report_facts.provenance(rows, stores or {})),
        ("reproduce", "How to reproduce", report_facts.reproduce(rows, command, results)),
        ("reading", "How to read this", _reading(asked)),
    ]
    links = [("#answer", "Answer"), ("#situations", "Situations")] if len(found) > 1 else []
    links += [(f"#{name}", title) for name, title, _ in parts]
    body = join(
        [
            element("div", first, id="answer") if first else "",
            *sections,
            *(
                element("section", element("h2", title, id=name), content, aria_labelledby=name)
                for name, title, content in parts
            ),
        ],
        "\n",
    )
    return page(
        question or "Which fine-tuning strategy, with which settings?",
        body,
        lead=_counts(rows, found),
        brand="sweeper report",
        nav=element(
            "nav",
            element("ul", *(element("li", element("a", title, href=to)) for to, title in links)),
            aria_label="Parts",
        ),
        footer=f"Written by sweeper {__version__}. Nothing in this file loads anything from elsewhere.",
        style=SVG_STYLE + STYLE,
    )


def charts_of(rows: Sequence[TrialResult]) -> dict[str, list[Chart]]:
    """Return the figures of a report by the name of their situation, which is fit for a file's name."""
    found = contests(summarise(rows))
    ranked = standings(found)
    styles = styles_of(ranked)
    by_situation = _by_situation(rows)
    made = {
        anchor(contest.situation).removeprefix("at-"): all_figures(
            contest, profiles(by_situation[contest.situation]), styles
        )
        for contest in found
    }
    return {"overview": [overview(ranked, styles)], **made} if len(found) > 1 else made


def _by_situation(rows: Sequence[TrialResult]) -> dict[Situation, list[TrialResult]]:
    grouped: dict[Situation, list[TrialResult]] = {}
    for row in rows:
        grouped.setdefault(situation_of(row), []).append(row)
    return grouped


def styles_of(ranked: Sequence[Standing]) -> Styles:
    """Return a colour and shape for each strategy, those tried most often having the plainest."""
    often = sorted(ranked, key=lambda own: (-len(own.lines), own.strategy))
    return {own.strategy: number for number, own in enumerate(often)}


def _counts(rows: Sequence[TrialResult], found: Sequence[Contest]) -> str:
    trials = f"{len(rows):,} trial{'s' if len(rows) != 1 else ''}"
    if not found:
        return trials
    strategies = {line.strategy for contest in found for line in contest.lines}
    many = len(found) > 1
    return f"{trials}, {len(strategies)} strateg{'ies' if len(strategies) > 1 else 'y'}" + (
        f", {len(found)} situations (model, task, rows, steps)" if many else ""
    )


def _nothing(rows: Sequence[TrialResult]) -> Markup:
    text = f"No answer yet: none of {len(rows):,} trials has completed. What ended them stands under Failures."
    return element("div", element("p", element("strong", text)), class_="panel answer")


def _reading(asked: Mapping[str, str | None]) -> Markup:
    texts = [
        "Rates and settings are chosen on validation rows and reported on test rows; the row that wins on valid may be "
        "behind on test, and then it says so.",
        "Differences are paired by seed: equal seeds mean equal rows and equal source models. Intervals are Student's "
        "t over these pairs; a lead is called settled where its 95 % interval leaves 0 out. Of many leads that are "
        "nothing but chance, 1 in 20 would be called settled.",
        "A point is a hundredth of the task's own score (accuracy, F1, R2, inverse perplexity, ...). Time is a trial's "
        "share of the pack that it trained in, memory the whole pack's peak.",
    ]
    parts = [element("p", text) for text in texts]
    told = [element("li", element("code", name), f": {question}") for name, question in asked.items() if question]
    if told:
        parts += [element("p", "The grids, and what they ask:"), element("ul", *told)]
    return join(parts)
