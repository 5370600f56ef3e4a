"""One HTML file that says what a set of trials found: which strategy, by how much, how sure, at what cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from markupsafe import Markup

from sweeper import report_facts
from sweeper.chart import Chart
from sweeper.contest import BASELINE, Contest, Situation, Standing, contests, situation_of, standings
from sweeper.figures import Styles, all_figures, overview
from sweeper.page import element, join, page, table
from sweeper.report_situation import anchor, facts, figure, how_sure, points, section, sentence, setting, share
from sweeper.sensitivity import profiles
from sweeper.spec import TrialResult
from sweeper.summary import Line, summarise
from sweeper.svg import STYLE as SVG_STYLE
from sweeper.svg import key
from sweeper.table import score

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
.situation h3 { margin-top: 1.25rem; font-size: 1.2rem; }
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
@media (max-width: 40rem) { nav { padding: 0 1rem; } .facts { gap: .6rem; grid-template-columns: 1fr; }
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
    by_situation: dict[Situation, list[TrialResult]] = {}
    for row in rows:
        by_situation.setdefault(situation_of(row), []).append(row)

    if not found:
        first = _nothing(rows)
    elif len(found) == 1:
        first = Markup("")  # the situation's own answer stands first
    else:
        first = _overview(found, ranked, styles)
    sections = []
    for contest in watch(found):
        mine = by_situation[contest.situation]
        sensitivity = profiles(mine)
        sections.append(section(contest, mine, all_figures(contest, sensitivity, styles), sensitivity, styles))
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
        style=SVG_STYLE + STYLE,
    )


def charts_of(rows: Sequence[TrialResult]) -> dict[str, list[Chart]]:
    """Return the figures of a report by the name of their situation, which is fit for a file's name."""
    found = contests(summarise(rows))
    ranked = standings(found)
    styles = styles_of(ranked)
    by_situation: dict[Situation, list[TrialResult]] = {}
    for row in rows:
        by_situation.setdefault(situation_of(row), []).append(row)
    made = {
        anchor(contest.situation).removeprefix("at-"): all_figures(
            contest, profiles(by_situation[contest.situation]), styles
        )
        for contest in found
    }
    return {"overview": [overview(ranked, styles)], **made} if len(found) > 1 else made


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


def _overview(found: Sequence[Contest], ranked: Sequence[Standing], styles: Styles) -> Markup:
    rows = [
        [
            join([key(styles[own.strategy]), " ", own.strategy]),
            str(len(own.lines)),
            str(own.best_in),
            f"{100 * own.mean_lost:.1f}",
            f"{100 * own.worst:.1f}",
            f"{100 * own.median(_share):.2g} %".replace("1e+02", "100"),
            _times(own.ratio("train_seconds")),
            _times(own.ratio("peak_memory_bytes")),
            "-" if (forgets := own.forgets()) is None else f"{100 * forgets:.1f}",
        ]
        for own in ranked
    ]
    headings = ["strategy", "tried in", "best in", "lost, mean", "lost, most", "trains", "time", "memory", "forgets"]
    text = (
        "Each strategy's best setting in each situation, chosen on valid and scored on test. Lost: points below the "
        "best strategy of the situation, each task counting the same. Trains: median share of the parameters. Time, memory: "
        "median multiple of full fine-tuning's. Strategies tried in fewer than half of the situations stand last: they "
        "had other rivals."
    )
    return join(
        [
            _overall_answer(found, ranked),
            element("h2", "Over all situations"),
            element(
                "div",
                element(
                    "div",
                    table(headings, rows, label="Strategies over all situations"),
                    element("p", text, class_="soft small"),
                ),
                figure(overview(ranked, styles)),
                class_="pair",
            ),
            element("h2", "Situations", id="situations"),
            _index(found),
        ]
    )


def _overall_answer(found: Sequence[Contest], ranked: Sequence[Standing]) -> Markup:
    first, second = ranked[0], ranked[1] if len(ranked) > 1 else None
    gap = first.over(second) if second else None
    settled = sum(bool(contest.over_runner_up and contest.over_runner_up.is_settled) for contest in found)
    if second and gap:
        much = (
            f"{points(gap.mean)} points",
            (
                f"on test over {second.strategy} on average, each task counting the same. To the best of each situation "
                f"it loses {100 * first.mean_lost:.1f}, {second.strategy} {100 * second.mean_lost:.1f}."
            ),
        )
    else:
        much = "no rival", f"It loses {100 * first.mean_lost:.1f} points to the best of each situation."
    sure, why = how_sure(gap, "task")
    forgets = first.forgets()
    time, memory = first.ratio("train_seconds"), first.ratio("peak_memory_bytes")
    costs = [f"forgets {100 * forgets:.1f} points"] if forgets is not None else []
    if time and memory and first.strategy != BASELINE:
        costs.append(f"{_times(time)} the time and {_times(memory)} the memory of full fine-tuning")
    cheap = _cheaper(first, ranked)
    return element(
        "div",
        facts(
            (
                "Which?",
                first.strategy,
                f"Best in {first.best_in} of the {len(first.lines)} situations that it was tried in, and loses least "
                "on average.",
            ),
            ("By how much?", *much),
            ("How sure?", sure, f"{why} In {settled} of {len(found)} situations the winner's lead is settled."),
            (
                "At what cost?",
                f"trains {100 * first.median(_share):.2g} %".replace("1e+02", "100"),
                sentence("of the parameters, which is also what to keep on disk a task", *costs, *cheap),
            ),
        ),
        class_="panel answer",
    )


def _cheaper(first: Standing, ranked: Sequence[Standing]) -> list[str]:
    """Return what another strategy would save, and lose: the one among the widely tried that trains least."""
    widely = [own for own in ranked[1:] if len(own.lines) >= len(first.lines) / 2 and own.median(_share) < 0.1]
    if not widely:
        return []
    own = widely[0]
    time, memory = own.ratio("train_seconds"), own.ratio("peak_memory_bytes")
    saved = f" in {_times(time)} the time and {_times(memory)} the memory of full" if time and memory else ""
    return [f"{own.strategy} trains {100 * own.median(_share):.2g} %{saved}, losing {100 * own.mean_lost:.1f}"]


def _index(found: Sequence[Contest]) -> Markup:
    rows = []
    for contest in found:
        model, task, n_train, steps = contest.situation
        gap = contest.over_runner_up
        rows.append(
            [
                element("a", f"{model} on {task}", href=f"#{anchor(contest.situation)}"),
                f"{n_train:,}",
                f"{steps:,}",
                setting(contest.winner, contest),
                score(contest.winner.spread("test_score")),
                points(gap.mean) if gap else "-",
                f"{points(gap.low)} to {points(gap.high)}"
                if gap and gap.low is not None and gap.high is not None
                else "-",
                "settled" if gap and gap.is_settled else "",
                share(contest.winner),
            ]
        )
    headings = ["model and task", "rows", "steps", "best on valid", "test", "ahead by", "95 %", "", "trains"]
    return table(headings, rows, label="Situations")


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


def _share(line: Line) -> float:
    return line.mean("trainable_params") / line.mean("total_params")


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}\N{MULTIPLICATION SIGN}"
