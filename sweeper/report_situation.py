"""The part of a report that is about one situation: answer, table, figures, and what lies behind them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

from markupsafe import Markup

from sweeper.chart import Chart
from sweeper.contest import Contest, Situation
from sweeper.figures import Styles
from sweeper.page import element, join, table
from sweeper.per_class import Confusion, class_scores, typical_trials
from sweeper.report_answer import answer
from sweeper.sensitivity import Profile
from sweeper.spec import TrialResult
from sweeper.summary import untouched
from sweeper.svg import draw, key
from sweeper.table import EXPLAINED, SUMMARY, columns_of, memory_kind, named, score, short

SHADES = 9


def section(
    contest: Contest,
    rows: Sequence[TrialResult],
    charts: Sequence[Chart],
    found: Sequence[Profile],
    styles: Styles,
    store: str,
    back: Markup,
) -> Markup:
    """Return one situation, with everything that its rows tell.

    Args:
        contest: What its settings say.
        rows: All of its rows.
        charts: Its figures.
        found: How much its hyperparameters matter.
        styles: How strategies are drawn.
        store: The option that names the store, for commands that are shown.
        back: A link to where it came from.
    """
    model, task, n_train, steps = contest.situation
    complete = sum(len(line.trials) for line in contest.lines)
    name = anchor(contest.situation)
    return element(
        "section",
        element("h2", f"{model} on {task}, {n_train:,} rows, {steps:,} steps", id=name),
        element(
            "p",
            f"Scored by {contest.metric.replace('_', ' ')}. {len(rows):,} trials; {complete:,} with the rates that "
            "were chosen on valid. ",
            back,
            class_="soft small",
        ),
        answer(contest),
        lines_table(contest),
        legend(contest, styles),
        element("div", *(figure(chart) for chart in charts), class_="figures"),
        _details("Sensitivity to each hyperparameter", _sensitivity(found)),
        _details("Class by class", _by_class(contest)),
        _details("Trials behind the best setting", _trials(contest, store)),
        class_="situation",
        aria_labelledby=name,
    )


def anchor(situation: Situation) -> str:
    """Return the id of a situation's heading."""
    names = [re.sub(r"[^A-Za-z0-9_.]", "_", str(part)) for part in situation]
    is_whole = names == [*map(str, situation)]
    mark = "" if is_whole else f"-{zlib.crc32(repr(situation).encode()):08x}"  # two names may have lost what differs
    return f"at-{'-'.join(names)}{mark}"


def lines_table(contest: Contest) -> Markup:
    """Return every setting with its scores and costs, as `sweeper show --summary` has it."""
    # A page is narrow: a column that says nothing here is left out.
    shown = [name for name in columns_of(contest.lines) if any(SUMMARY[name](line) != "-" for line in contest.lines)]
    rows = []
    for line in contest.lines:
        siblings = [other.hparams for other in contest.lines if other.strategy == line.strategy]
        rows.append(
            [line.strategy, named(line.hparams, siblings), *(SUMMARY[heading](line) for heading in shown)],
        )
    before = untouched(contest.lines)
    notes = [
        "Scores in per cent, mean ± standard deviation over seeds; the rate is chosen on valid.",
        "Ordered by the valid score on the seeds that all share."
        if len({len(line.trials) for line in contest.lines}) > 1
        else "",
        *(
            f"{name}: {text.format(memory_kind=memory_kind(contest.winner))}."
            for name, text in EXPLAINED.items()
            if name in shown
        ),
        f"Before training the source model has {score(before)} on test." if before else "",
        "Where seeds were stopped early, the mean is of the better ones that are left."
        if any(line.pruned for line in contest.lines)
        else "",
    ]
    return join(
        [
            table(["strategy", "settings", *shown], rows, label="Settings, best first", words=2),
            element("p", join(filter(None, notes), " "), class_="soft small"),
        ]
    )


def legend(contest: Contest, styles: Styles) -> Markup:
    """Return which mark is which strategy."""
    marks = [
        element("li", key(styles[strategy]), " ", strategy)
        for strategy in dict.fromkeys(line.strategy for line in contest.lines)
    ]
    text = (
        "Filled: on the Pareto front (dashed), where nothing else is both cheaper and better. Bars: standard deviation."
    )
    return join(
        [element("ul", *marks, class_="legend", aria_label="Marks"), element("p", text, class_="soft small")],
    )


def figure(chart: Chart) -> Markup:
    """Return a chart with its title."""
    return element("figure", element("figcaption", chart.title), draw(chart))


def _details(title: str, content: Markup | None) -> Markup:
    return element("details", element("summary", title), content) if content else Markup("")


def _sensitivity(found: Sequence[Profile]) -> Markup | None:
    if not found:
        return None
    rows = [
        [
            own.strategy,
            own.name,
            f"{100 * own.range:.1f}",
            short(own.best),
            ", ".join(f"{short(value)}: {score(spread)}" for value, spread in own.points),
        ]
        for own in sorted(found, key=lambda own: -own.range)
    ]
    text = (
        "Valid score over the values of one hyperparameter, everything else chosen anew for each; "
        "range: from the worst value to the best."
    )
    headings = ["strategy", "hyperparameter", "range, points", "best", "valid score at each value"]
    return join([element("p", text, class_="soft small"), table(headings, rows, label="Sensitivity", words=5)])


def _by_class(contest: Contest) -> Markup | None:
    typical = [
        trial
        for trial in typical_trials(contest.lines)
        if trial.metrics.get("confusion") and len(trial.metrics["confusion"]) > 1
    ]
    if not typical:
        return None
    order = [*contest.best_of()]
    typical.sort(key=lambda trial: order.index(trial.spec.strategy))
    first = typical[0]
    confusion: Confusion = first.metrics["confusion"]
    labels = first.context.get("labels") or ()
    names = [str(name) for name in (labels if len(labels) == len(confusion) else range(len(confusion)))]
    own = class_scores(confusion)
    f1 = [class_scores(trial.metrics["confusion"]) for trial in typical]
    rows = [
        [
            names[k],
            str(own[k].rows),
            f"{100 * own[k].precision:.1f}",
            f"{100 * own[k].recall:.1f}",
            *(f"{100 * scores[k].f1:.1f}" for scores in f1 if k < len(scores)),
        ]
        for k in range(len(confusion))
    ]
    strategy = first.spec.strategy
    headings = ["class", "rows", f"precision, {strategy}", f"recall, {strategy}"]
    headings += [f"F1, {trial.spec.strategy}" for trial in typical]
    text = "Test rows. Of each strategy's best setting it is the seed with the median valid score, in per cent."
    return join(
        [
            element("p", text, class_="soft small"),
            table(headings, rows, label="Class by class"),
            _matrix(confusion, names, f"Confusion matrix of {strategy}: rows are true classes, columns what was said"),
        ]
    )


def _matrix(confusion: Confusion, names: Sequence[str], caption: str) -> Markup:
    head = element("tr", element("th", "true", scope="col"), *(element("th", name, scope="col") for name in names))
    body = []
    for name, row in zip(names, confusion, strict=True):
        most = sum(row) or 1
        cells = (element("td", rows or "·", class_=f"h{round(SHADES * rows / most)}" if rows else None) for rows in row)
        body.append(element("tr", element("th", name, scope="row"), *cells))
    drawn = element("table", element("thead", head), element("tbody", *body), class_="matrix")
    return join(
        [
            element("p", f"{caption}.", class_="soft small"),
            element("div", drawn, class_="scroll", tabindex=0, role="group", aria_label=caption),
        ]
    )


def _trials(contest: Contest, store: str) -> Markup:
    rows = [
        [
            trial.trial_id,
            str(trial.spec.seed),
            f"{trial.metrics['valid_score']:.4f}",
            f"{trial.metrics['test_score']:.4f}",
            f"{trial.metrics['train_seconds']:.3g}",
        ]
        for trial in contest.winner.trials
    ]
    text = join(["Every hyperparameter of a trial: ", element("code", f"sweeper show {rows[0][0]}{store}"), "."])
    return join(
        [
            table(["trial", "seed", "valid", "test", "seconds"], rows, label="Trials behind the best setting"),
            element("p", text, class_="small"),
        ]
    )
